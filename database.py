"""The database: its engines, the session of a request, and the schema."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
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
from anyio import CapacityLimiter, Semaphore, WouldBlock, move_on_after, to_thread
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Connection, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel import Session, SQLModel, create_engine
from sqlmodel.sql.expression import SelectOfScalar

from config import settings

url = make_url(settings.database_url.get_secret_value())
is_sqlite = url.get_backend_name() == "sqlite"


class PostgresqlConnection(psycopg2.extensions.connection):
    """A connection that can switch to AUTOCOMMIT and back without a statement.

    The two engines below share their connections, and SQLAlchemy switches them for each read.
    psycopg2's own method sends a statement for that: a second round trip.
    """

    def set_isolation_level(self, level: int | str | None) -> None:
        """Switch AUTOCOMMIT on or off; this program needs no other level than the server's own."""
        self.autocommit = level == psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT


SQLITE_OPTIONS = {"timeout": settings.database_pool_timeout}
# The options of the URL come after the limits, so that they can replace them.
SERVER_OPTIONS = (
    f"-c statement_timeout={settings.database_statement_timeout}s",
    f"-c idle_in_transaction_session_timeout={settings.database_idle_transaction_timeout}s",
    str(url.query.get("options", "")),
    # Datetimes come back in this zone, as they are sent to clients; and in another zone psycopg2
    # cannot read the first and the last day of the calendar.
    "-c timezone=UTC",
)
POSTGRESQL_OPTIONS = {
    "connection_factory": PostgresqlConnection,
    "client_encoding": "UTF8",
    "connect_timeout": settings.database_connect_timeout,
    # The same time, here in milliseconds, for a host that no longer confirms what it receives.
    "tcp_user_timeout": settings.database_connect_timeout * 1000,
    "options": " ".join(SERVER_OPTIONS),
}

# A bulk UPDATE of a thousand rows is one round trip.
BULK_UPDATE = {"executemany_mode": "values_plus_batch", "executemany_batch_page_size": 1000}

BOTH_ENGINES: dict[str, Any] = {
    "hide_parameters": True,  # an error in the log must not show what clients sent
    # How many compiled statements it keeps, of 0.2 MiB each: each combination of filters is one.
    "query_cache_size": 100,
}

# The engine for writes: all that a session does until it commits is one transaction.
engine = create_engine(
    url,
    connect_args=SQLITE_OPTIONS if is_sqlite else POSTGRESQL_OPTIONS,
    **BOTH_ENGINES,
    pool_size=settings.database_pool_size,
    max_overflow=settings.database_max_overflow,
    pool_timeout=settings.database_pool_timeout,
    pool_recycle=settings.database_pool_recycle,
    **({} if is_sqlite else BULK_UPDATE),
)
# The engine for reads, with the same connections: each statement is its own transaction.
reading_engine = create_engine(
    url, pool=engine.pool, execution_options={"isolation_level": "AUTOCOMMIT"}, **BOTH_ENGINES
)


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


if is_sqlite:
    event.listen(engine, "connect", prepare_sqlite)
    event.listen(engine, "begin", begin_sqlite)
    for each in (engine, reading_engine):
        event.listen(each, "before_cursor_execute", set_deadline)
else:
    event.listen(engine, "connect", require_utf8)
    event.listen(engine, "checkout", replace_lost)
    event.listen(engine, "handle_error", replace_read_only)


# It has as many slots as there are connections. Requests wait for one here, before they take a
# thread: if they waited in threads, none could be left for those that have a connection.
connection_slots = Semaphore(settings.database_pool_size + settings.database_max_overflow)
to_read = (connection_slots,)
# SQLite has one writer at a time. The others wait here in a queue. In SQLite itself they would
# sleep and try again: with 8 clients, the p99 of a create was 300 to 800 ms instead of 15 to 30.
to_write = (Semaphore(1), connection_slots) if is_sqlite else to_read


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

    `GET` only reads (RFC 9110, 9.2.1). Objects keep their values after a commit, so that a response
    needs no further statement.
    """
    reads = request.method == "GET"
    async with hold(to_read if reads else to_write):
        session = Session(reading_engine if reads else engine, expire_on_commit=False)
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


def upgrade_schema() -> None:
    """Upgrade the schema to the newest version; raise ConnectionError without a database.

    Of several processes one does it, and the others wait for the lock in `migrations/env.py`.
    """
    try:
        command.upgrade(alembic_config, "head")
    except CommandError:  # Alembic does not know the version of the schema, which may be newer
        if not schema_is_current():
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


def schema_is_current() -> bool:
    """Return whether the schema has the newest version that this code knows, or an unknown one.

    An unknown one is newer: another host upgraded the schema, or this code was rolled back.
    """
    with reading_engine.connect() as connection:
        version = MigrationContext.configure(connection).get_current_revision()
    return version is not None and version not in older_versions()
