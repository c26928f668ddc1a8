"""The database: its engines, and the session of a request."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine
from sqlmodel import Session

from api.engines import (
    ReadingSession,
    open_engine,
    open_reading_engine,
    roll_back,
    wait_for_connection,
)
from config import settings

engine = open_engine(settings.database_url)
# The same database, without transactions: a read is one round trip, without BEGIN and COMMIT.
reading_engine = open_reading_engine(engine)
# Where `GET` requests read: a replica, if there is one.
replica_url = settings.database_replica_url
replica_engine = open_reading_engine(open_engine(replica_url)) if replica_url else reading_engine


async def get_session(request: Request) -> AsyncIterator[Session]:
    """Yield the session of a request, and roll back what the request did not commit.

    A `GET` request only reads (RFC 9110, 9.2.1). The others keep the values of their objects after
    a commit, so that a response needs no further statement.
    """
    if request.method == "GET":
        async with wait_for_connection(replica_engine):
            with ReadingSession(replica_engine) as reading_session:
                yield reading_session
    else:
        async with wait_for_connection(engine):
            session = Session(engine, expire_on_commit=False)
            try:  # not `with`, whose rollback would stop all other requests meanwhile
                yield session
            finally:
                await roll_back(session)


# With this scope, a session ends before the response is sent: a slow client holds no connection.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]

Result = TypeVar("Result")


async def read_apart(engine: Engine, read: Callable[[Session], Result]) -> Result:
    """Return what the function reads in a session of its own.

    So requests that go on for long hold no connection meanwhile: they hash a password, or send an
    export.
    """

    def read_in_session() -> Result:
        with ReadingSession(engine) as session:
            return read(session)

    async with wait_for_connection(engine):
        return await run_in_threadpool(read_in_session)
