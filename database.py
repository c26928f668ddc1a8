"""The database: its engines, the session of a request, and the schema."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, TypeVar

import psycopg2
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from anyio import CapacityLimiter, Semaphore, WouldBlock, move_on_after, to_thread
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import Session, SQLModel
from sqlmodel.sql.expression import SelectOfScalar

from config import settings
from engines import open_engine, open_reading_engine


def make_slots() -> Semaphore:
    """Return as many slots as an engine has connections.

    Requests wait for one here, before they take a thread: if they waited in threads, none could be
    left for those that have a connection.
    """
    return Semaphore(settings.database_pool_size + settings.database_max_overflow)


engine = open_engine(settings.database_url)
reading_engine = open_reading_engine(engine)
is_sqlite = engine.dialect.name == "sqlite"
slots = make_slots()
to_read = (slots,)
# SQLite has one writer at a time. The others wait here in a queue. In SQLite itself they would
# sleep and try again: with 8 clients, the p99 of a create was 300 to 800 ms instead of 15 to 30.
to_write = (Semaphore(1), slots) if is_sqlite else to_read

# Where `GET` requests read: a replica, if there is one.
replica_engine, to_read_replica = reading_engine, to_read
if settings.database_replica_url:
    replica_engine = open_reading_engine(open_engine(settings.database_replica_url))
    to_read_replica = (make_slots(),)


@asynccontextmanager
async def hold(semaphores: tuple[Semaphore, ...]) -> AsyncIterator[None]:
    """Take one slot of each semaphore, and give them back at the end.

    Raise PoolTimeoutError if that takes too long.
    """
    held: list[Semaphore] = []
    try:
        try:
            for semaphore in semaphores:
                semaphore.acquire_nowait()
                held.append(semaphore)
        except WouldBlock:  # a time limit takes 20 µs, so only those who wait have one
            with move_on_after(settings.database_pool_timeout) as waiting:
                for semaphore in semaphores[len(held) :]:
                    await semaphore.acquire()
                    held.append(semaphore)
            if waiting.cancelled_caught:
                raise PoolTimeoutError("the wait for a connection was too long") from None
        yield
    finally:
        for semaphore in held:
            semaphore.release()


async def get_session(request: Request) -> AsyncIterator[Session]:
    """Yield the session of a request, and roll back what the request did not commit.

    `GET` only reads (RFC 9110, 9.2.1), from the replica if there is one. Objects keep their values
    after a commit, so that a response needs no further statement.
    """
    reads = request.method == "GET"
    async with hold(to_read_replica if reads else to_write):
        session = Session(replica_engine if reads else engine, expire_on_commit=False)
        try:
            yield session
        finally:
            if reads or not session.in_transaction():
                session.close()  # without a rollback, so it does not need a thread
            else:
                # In a thread of its own: the usual ones may all wait for the locks that this frees.
                await to_thread.run_sync(session.close, limiter=CapacityLimiter(1))


# With this scope, a session ends before the response is sent: a slow client holds no connection.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]


Model = TypeVar("Model", bound=SQLModel)
Result = TypeVar("Result")


async def run_in_slot(
    function: Callable[[], Result], slots: tuple[Semaphore, ...] = to_read
) -> Result:
    """Return what the function returns, which runs in a thread and may use one connection."""
    async with hold(slots):
        return await run_in_threadpool(function)


async def read_one(statement: SelectOfScalar[Model]) -> Model | None:
    """Return the only object of a statement, read apart from the session of the request.

    Its connection is free again afterwards, so that what follows may take long.
    """

    def read() -> Model | None:
        with Session(reading_engine) as session:
            return session.exec(statement).one_or_none()

    return await run_in_slot(read)


async def read_apart(session: Session, read: Callable[[Session], Result]) -> Result:
    """Return what the function reads in a new session, from the database of a session for reads.

    Its connection is free again afterwards, so that what follows may take long.
    """

    def read_in_new_session() -> Result:
        with Session(session.get_bind()) as new_session:
            return read(new_session)

    return await run_in_slot(read_in_new_session, to_read_replica)


def first_line(error: DBAPIError) -> str:
    """Return what the database says is wrong, without what is stored or was sent.

    More lines of PostgreSQL have what clients sent, and Python quotes a text that is not UTF-8.
    """
    return str(error.orig).partition("\n")[0].partition(" with text ")[0]


def is_outage(error: DBAPIError) -> bool:
    """Return whether the database is lost, locked, read-only, damaged or too slow.

    These are the operational errors of the drivers (PEP 249) and what SQLite says of a damaged
    file, except two that are bugs: SQLite's SQLITE_ERROR
    (https://www.sqlite.org/rescode.html#error) and PostgreSQL's class 54
    (https://www.postgresql.org/docs/current/errcodes-appendix.html).
    """
    original = error.orig
    # Not their subclasses: an IntegrityError, for one, is a bug.
    if type(original) in (sqlite3.OperationalError, sqlite3.DatabaseError):
        # Without a code, it is Python's own error for a text that is not UTF-8: a damaged file.
        # By such a text `lower` of `prepare_sqlite` fails too, and then the code is SQLITE_ERROR.
        return (
            getattr(original, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR
            or str(original) == "user-defined function raised exception"
        )
    if isinstance(original, psycopg2.OperationalError):
        return not str(original.pgcode).startswith("54")
    return error.connection_invalidated  # by the pool, or by `replace_read_only`


alembic_config = Config(toml_file=Path(__file__).with_name("pyproject.toml"))


def upgrade_schema(engine: Engine = engine) -> None:
    """Upgrade the schema to the newest version; raise ConnectionError without a database.

    Of several processes one does it, and the others wait for the lock in `migrations/env.py`.
    """
    alembic_config.attributes["engine"] = engine
    try:
        command.upgrade(alembic_config, "head")
    except CommandError:  # Alembic does not know the version of the schema, which may be newer
        if not schema_is_current(engine):
            raise
    except DBAPIError as error:
        if not is_outage(error):
            raise
        raise ConnectionError(f"The database cannot be used: {first_line(error)}") from None


@lru_cache
def older_versions() -> set[str]:
    """Return the versions of the schema that this code knows, except the newest."""
    scripts = ScriptDirectory.from_config(alembic_config)
    return {script.revision for script in scripts.walk_revisions()} - {scripts.get_current_head()}


def schema_is_current(engine: Engine = reading_engine) -> bool:
    """Return whether the schema has the newest version that this code knows, or an unknown one.

    An unknown one is newer: another host upgraded the schema, or this code was rolled back.
    """
    with engine.connect() as connection:
        version = MigrationContext.configure(connection).get_current_revision()
    return version is not None and version not in older_versions()


async def schema_may_be_old() -> bool:
    """Return whether the schema of the primary is too old, or that of the replica still is."""
    for each, slots_of_each in {reading_engine: to_read, replica_engine: to_read_replica}.items():
        # A CommandError says that it has several versions.
        with suppress(CommandError, DBAPIError, PoolTimeoutError):
            if not await run_in_slot(partial(schema_is_current, each), slots_of_each):
                return True
    return False
