"""The database: its engines, the session of a request, and the schema."""

import logging
import os
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache, lru_cache
from math import inf
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, TypeVar

import psycopg2
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from anyio import (
    CapacityLimiter,
    Semaphore,
    WouldBlock,
    create_task_group,
    move_on_after,
    sleep,
    to_thread,
)
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel import Session, SQLModel, create_engine
from sqlmodel.sql.expression import SelectOfScalar

from config import settings

logger = logging.getLogger("uvicorn.error")

# Datetimes come back in this zone, as they are sent to clients; and in another zone psycopg2 cannot
# read the first and the last day of the calendar. libpq sends it when it connects.
os.environ["PGTZ"] = "UTC"


class PostgresqlConnection(psycopg2.extensions.connection):
    """A connection that can switch to AUTOCOMMIT and back without a statement.

    Two engines share their connections, and SQLAlchemy switches them for each read. psycopg2's own
    method sends a statement for that: a second round trip.
    """

    def set_isolation_level(self, level: int | str | None) -> None:
        """Switch AUTOCOMMIT on or off; this program needs no other level than the server's own."""
        self.autocommit = level == psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT


SQLITE_OPTIONS = {"timeout": settings.database_pool_timeout}
POSTGRESQL_OPTIONS = {
    "connection_factory": PostgresqlConnection,
    "client_encoding": "UTF8",
    "connect_timeout": settings.database_connect_timeout,
    # The same time, here in milliseconds, for a host that no longer confirms what it receives.
    "tcp_user_timeout": settings.database_connect_timeout * 1000,
}
LIMITS = (
    f"-c statement_timeout={settings.database_statement_timeout}s"
    f" -c idle_in_transaction_session_timeout={settings.database_idle_transaction_timeout}s"
)
# Seconds to wait for an answer of PostgreSQL, which ends a statement itself if it still can.
MAX_WAIT = (settings.database_statement_timeout or inf) + settings.database_connect_timeout

# A bulk UPDATE of a thousand rows is one round trip.
BULK_UPDATE = {"executemany_mode": "values_plus_batch", "executemany_batch_page_size": 1000}

ALL_ENGINES: dict[str, Any] = {
    "hide_parameters": True,  # an error in the log must not show what clients sent
    # How many compiled statements it keeps, of 0.2 MiB each: each combination of filters is one.
    "query_cache_size": 100,
}


def prepare_sqlite(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
    """Make a connection to SQLite as strict, as durable and as concurrent as one to PostgreSQL."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    # Its own lower(), by which text is compared ignoring case, knows only the letters A to Z.
    connection.create_function("lower", 1, lambda text: text and text.lower(), deterministic=True)
    record.info["deadline"] = inf  # this is `connection.info` below
    if settings.database_statement_timeout:
        # Every 100 steps SQLite asks whether to end the statement. Only 100: to search one long
        # text is one step.
        connection.set_progress_handler(lambda: monotonic() > record.info["deadline"], 100)


def set_deadline(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
    """Set when SQLite ends the statement that begins now."""
    waits = statement == "BEGIN IMMEDIATE"  # for other writers, which has a limit of its own
    connection.info["deadline"] = (
        inf if waits else monotonic() + settings.database_statement_timeout
    )


def begin_sqlite(connection: Connection) -> None:
    """Wait for other writers at the start of a transaction.

    A transaction that reads first and then writes could not wait: its read may be out of date, so
    SQLite would refuse the write at once (https://www.sqlite.org/rescode.html#busy_snapshot).
    """
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@cache  # once is enough
def warn_of_pooler() -> None:
    """Log that the limits have to be set elsewhere."""
    logger.warning(
        "A connection pooler refuses the time limits of statements and transactions:"
        " set them in PostgreSQL, as in ALTER ROLE ... SET statement_timeout = '30s'"
    )


# PgBouncer and those that follow it; the proxy of Amazon RDS.
REFUSALS = ("unsupported startup parameter", "doesn't support command-line options")


def connect_with_limits(
    _dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]
) -> object:
    """Return a connection with the time limits; or without them if it is one of a pooler.

    PgBouncer refuses them, since its clients share their connections to PostgreSQL.
    """
    options = parameters.get("options", "")  # of the URL, which may replace the limits
    try:
        return psycopg2.connect(**parameters | {"options": f"{LIMITS} {options}"})
    except psycopg2.OperationalError as error:
        if not any(words in str(error) for words in REFUSALS):
            raise
    warn_of_pooler()
    return psycopg2.connect(**parameters)


def require_utf8(connection: psycopg2.extensions.connection, _record: object) -> None:
    """Refuse a database that cannot store every text."""
    encoding = connection.get_parameter_status("server_encoding")
    if encoding != "UTF8":
        raise psycopg2.OperationalError(f"its encoding is {encoding}, but must be UTF8")


def replace_lost(connection: psycopg2.extensions.connection, *_: object) -> None:
    """Let the pool replace a connection that PostgreSQL has closed.

    This reads what was received; `pool_pre_ping` would send a statement and wait.
    """
    try:
        connection.poll()  # reads the last message of the server
        connection.poll()  # reads that nothing follows
    except (psycopg2.OperationalError, psycopg2.InterfaceError):
        raise DisconnectionError from None


def replace_read_only(context: ExceptionContext) -> None:
    """Let the pool replace all its connections when the server has become read-only.

    After a failover, the new connections lead to the server that accepts writes.
    """
    if isinstance(context.original_exception, psycopg2.errors.ReadOnlySqlTransaction):
        context.is_disconnect = True


# The connections to PostgreSQL that are in use, and when each was last asked for something.
asked: dict[Any, float] = {}


def begin_wait(connection: Connection, *_: object) -> None:
    """Remember that PostgreSQL is asked now."""
    asked[connection.connection.dbapi_connection] = monotonic()


def end_wait(connection: psycopg2.extensions.connection | None, *_: object) -> None:
    """Forget a connection that is no longer in use."""
    asked.pop(connection, None)


def end_long_waits(max_wait: float) -> None:
    """End the connections that wait longer for an answer, in seconds, as if PostgreSQL closed them.

    libpq waits without a limit for a server that is frozen, or that waits for a replica.
    """
    for connection, since in list(asked.items()):
        if monotonic() - since > max_wait:
            # It may be closed meanwhile.
            with (
                suppress(OSError, psycopg2.InterfaceError),
                socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as end,
            ):
                end.shutdown(socket.SHUT_RDWR)


@asynccontextmanager
async def watch_connections() -> AsyncIterator[None]:
    """End the connections that wait too long; and at the end, so that the process can stop, all."""

    async def watch() -> None:
        while True:
            await sleep(0.5)
            end_long_waits(MAX_WAIT)

    async with create_task_group() as tasks:
        tasks.start_soon(watch)
        yield
        tasks.cancel_scope.cancel()
    end_long_waits(0)
    for each in (engine, replica_engine):
        each.dispose()


def open_engine(database_url: SecretStr) -> Engine:
    """Return an engine for writes: all that a session does until it commits is one transaction."""
    url = make_url(database_url.get_secret_value())
    is_sqlite = url.get_backend_name() == "sqlite"
    engine = create_engine(
        url,
        connect_args=SQLITE_OPTIONS if is_sqlite else POSTGRESQL_OPTIONS,
        **ALL_ENGINES,
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_max_overflow,
        pool_timeout=settings.database_pool_timeout,
        pool_recycle=settings.database_pool_recycle,
        **({} if is_sqlite else BULK_UPDATE),
    )
    if is_sqlite:
        event.listen(engine, "connect", prepare_sqlite)
        event.listen(engine, "begin", begin_sqlite)
        event.listen(engine, "before_cursor_execute", set_deadline)
    else:
        event.listen(engine, "do_connect", connect_with_limits)
        event.listen(engine, "connect", require_utf8)
        event.listen(engine, "checkout", replace_lost)
        event.listen(engine, "handle_error", replace_read_only)
        for name in ("before_cursor_execute", "commit"):
            event.listen(engine, name, begin_wait)
        for name in ("checkin", "close", "close_detached"):
            event.listen(engine, name, end_wait)
    return engine


def open_reading_engine(engine: Engine) -> Engine:
    """Return an engine for reads, with the same connections: each statement is a transaction."""
    reading_engine = create_engine(
        engine.url,
        pool=engine.pool,
        execution_options={"isolation_level": "AUTOCOMMIT"},
        **ALL_ENGINES,
    )
    is_sqlite = engine.dialect.name == "sqlite"
    event.listen(reading_engine, "before_cursor_execute", set_deadline if is_sqlite else begin_wait)
    return reading_engine


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


async def run_in_slot(function: Callable[[], Result]) -> Result:
    """Return what the function returns, which runs in a thread and may use one connection."""
    async with hold(to_read):
        return await run_in_threadpool(function)


async def read_one(statement: SelectOfScalar[Model]) -> Model | None:
    """Return the only object of a statement, read apart from the session of the request.

    Its connection is free again afterwards, so that what follows may take long.
    """

    def read() -> Model | None:
        with Session(reading_engine) as session:
            return session.exec(statement).one_or_none()

    return await run_in_slot(read)


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
