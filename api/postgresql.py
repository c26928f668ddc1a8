"""How to connect to PostgreSQL, and how to notice that it is lost, read-only or frozen."""

import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from math import inf
from time import monotonic
from typing import Any

import psycopg2
from anyio import create_task_group, sleep
from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError

from config import settings

logger = logging.getLogger("uvicorn.error")

# Datetimes come back in this zone, as they are sent to clients; and in another zone psycopg2 cannot
# read the first and the last day of the calendar. libpq sends it when it connects.
os.environ["PGTZ"] = "UTC"

# The connections in use, and when each last began to wait: `end_long_waits` reads it.
waits: dict["PostgresqlConnection", float] = {}


class PostgresqlConnection(psycopg2.extensions.connection):
    """A connection on which each statement is a transaction of its own, until `begin`."""

    def cursor(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  # as psycopg2's own
        """Return a cursor for a statement, which is sent now."""
        waits[self] = monotonic()
        return super().cursor(*args, **options)

    def begin(self) -> None:
        """Begin a transaction: with this, psycopg2 sends BEGIN before the next statement."""
        self.autocommit = False

    def commit(self) -> None:
        """Commit the transaction, if there is one."""
        waits[self] = monotonic()
        super().commit()
        self.autocommit = True

    def rollback(self) -> None:
        """Roll back the transaction, if there is one."""
        super().rollback()
        self.autocommit = True


ENGINE_OPTIONS: dict[str, Any] = {
    "connect_args": {
        "connection_factory": PostgresqlConnection,
        "client_encoding": "UTF8",
        "connect_timeout": settings.database_connect_timeout,
        # The same time, in milliseconds, for a host that no longer confirms what it receives.
        "tcp_user_timeout": settings.database_connect_timeout * 1000,
    },
    "pool_size": settings.database_pool_size,
    # A bulk UPDATE of a thousand rows is one round trip.
    "executemany_mode": "values_plus_batch",
    "executemany_batch_page_size": 1000,
}
LIMITS = (
    f"-c statement_timeout={settings.database_statement_timeout}s"
    f" -c idle_in_transaction_session_timeout={settings.database_idle_transaction_timeout}s"
)
# Seconds to wait for an answer of PostgreSQL, which ends a statement itself if it still can.
MAX_WAIT = (settings.database_statement_timeout or inf) + settings.database_connect_timeout
# How PgBouncer, and those that follow it, and the proxy of Amazon RDS refuse the limits.
REFUSALS = ("unsupported startup parameter", "doesn't support command-line options")


@cache  # once is enough
def warn_of_pooler() -> None:
    """Log that the limits have to be set elsewhere."""
    logger.warning(
        "A connection pooler refuses the time limits of statements and transactions:"
        " set them in PostgreSQL, as in ALTER ROLE ... SET statement_timeout = '30s'"
    )


def connect_with_limits(
    _dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]
) -> object:
    """Return a connection with the time limits; or without them if it is one of a pooler.

    PgBouncer refuses them, since its clients share their connections to PostgreSQL. SQLAlchemy
    calls this to connect, with more than it needs.
    """
    options = parameters.get("options", "")  # of the URL, which may have shorter limits
    try:
        return psycopg2.connect(**parameters | {"options": f"{LIMITS} {options}"})
    except psycopg2.OperationalError as error:
        if not any(words in str(error) for words in REFUSALS):
            raise
    warn_of_pooler()
    return psycopg2.connect(**parameters)


def prepare(connection: PostgresqlConnection, _record: object) -> None:
    """Prepare a new connection; refuse a database that cannot store every text."""
    connection.autocommit = True  # each statement is a transaction of its own
    encoding = connection.get_parameter_status("server_encoding")
    if encoding != "UTF8":
        raise psycopg2.OperationalError(f"its encoding is {encoding}, but must be UTF8")


def replace_lost(connection: PostgresqlConnection, *_: object) -> None:
    """Let the pool replace a connection that PostgreSQL has closed.

    This reads what was received; `pool_pre_ping` would send a statement and wait.
    """
    try:
        # Neither waits.
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


def end_wait(connection: PostgresqlConnection, *_: object) -> None:
    """Forget a connection that is no longer in use."""
    waits.pop(connection, None)


def listen(engine: Engine) -> None:
    """Let an engine notice what happens to its connections."""
    event.listen(engine, "do_connect", connect_with_limits)
    event.listen(engine, "connect", prepare)
    event.listen(engine, "checkout", replace_lost)
    event.listen(engine, "handle_error", replace_read_only)
    for name in ("checkin", "close", "close_detached"):  # however the pool lets go of it
        event.listen(engine, name, end_wait)


def end_long_waits(max_wait: float) -> None:
    """End the connections that wait longer for an answer, in seconds, as if PostgreSQL closed them.

    libpq waits without a limit for a server that is frozen, or that waits for a replica. Its wait
    fails when the TCP connection below is closed.
    """
    for connection, begin in waits.copy().items():
        if monotonic() - begin > max_wait:
            # psycopg2 cannot end a wait of another thread, which may have closed it by now.
            with (
                suppress(OSError, psycopg2.Error),
                socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as same,
            ):
                same.shutdown(socket.SHUT_RDWR)


@asynccontextmanager
async def watch_connections() -> AsyncIterator[None]:
    """End the connections that wait too long, beside the requests; and at the end all that wait."""

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
