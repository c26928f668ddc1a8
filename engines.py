"""The engines: how they connect to SQLite or PostgreSQL, and how they notice that it is lost."""

import logging
import os
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from math import inf
from time import monotonic
from typing import Any

import psycopg2
from anyio import create_task_group, sleep
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel import create_engine

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
    options = parameters.get("options", "")  # of the URL, which may have shorter limits
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


# The connections to PostgreSQL that are in use, and when each last began to wait for an answer.
waits: dict[Any, float] = {}


def begin_wait(connection: Connection, *_: object) -> None:
    """Remember that PostgreSQL is asked now."""
    waits[connection.connection.dbapi_connection] = monotonic()


def end_wait(connection: psycopg2.extensions.connection | None, *_: object) -> None:
    """Forget a connection that is no longer in use."""
    waits.pop(connection, None)


def end_long_waits(max_wait: float) -> None:
    """End the connections that wait longer for an answer, in seconds, as if PostgreSQL closed them.

    libpq waits without a limit for a server that is frozen, or that waits for a replica.
    """
    for connection, begin in waits.copy().items():
        if monotonic() - begin > max_wait:
            # Its thread may have closed it by now.
            with (
                suppress(OSError, psycopg2.Error),
                socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as same,
            ):
                same.shutdown(socket.SHUT_RDWR)


@asynccontextmanager
async def watch_connections() -> AsyncIterator[None]:
    """End the connections that wait too long; and at the end all, so that the process can stop."""

    async def watch() -> None:
        while True:
            await sleep(0.5)
            end_long_waits(MAX_WAIT)

    async with create_task_group() as tasks:
        tasks.start_soon(watch)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
            end_long_waits(0)


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
