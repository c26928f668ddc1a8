"""The database: its engines, and the session of a request."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine
from sqlmodel import Session

from api.engines import ReadingSession, limits, open_engine, open_reading_engine
from config import settings

engine = open_engine(settings.database_url)
reading_engine = open_reading_engine(engine)
# Where `GET` requests read: a replica, if there is one.
replica_engine = reading_engine
if settings.database_replica_url:
    replica_engine = open_reading_engine(open_engine(settings.database_replica_url))


async def get_session(request: Request) -> AsyncIterator[Session]:
    """Yield the session of a request, and roll back what the request did not commit.

    `GET` only reads (RFC 9110, 9.2.1), from the replica if there is one. Objects keep their values
    after a commit, so that a response needs no further statement.
    """
    if request.method == "GET":
        async with limits[replica_engine]:
            with ReadingSession(replica_engine) as reading_session:
                yield reading_session
        return
    async with limits[engine]:
        session = Session(engine, expire_on_commit=False)
        try:
            yield session
        finally:
            # In a thread of its own: the usual ones may all wait for the locks that this frees.
            if session.in_transaction():
                await to_thread.run_sync(session.close, limiter=CapacityLimiter(1))


# With this scope, a session ends before the response is sent: a slow client holds no connection.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]

Result = TypeVar("Result")


async def read_apart(engine: Engine, read: Callable[[Session], Result]) -> Result:
    """Return what the function reads in a session of its own, which ends at once.

    So no connection is held while what follows takes long.
    """

    def read_in_session() -> Result:
        with ReadingSession(engine) as session:
            return read(session)

    async with limits[engine]:
        return await run_in_threadpool(read_in_session)
