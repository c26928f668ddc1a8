"""Outages: which errors of the database are one, and how they and bugs are answered and logged."""

import logging
import sqlite3
from contextlib import suppress
from traceback import format_tb

import psycopg2
from alembic.util import CommandError
from fastapi import Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import JSONResponse
from psycopg2.errors import DeadlockDetected, SerializationFailure
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from api.errors import Unavailable
from api.schema import schema_is_current
from database import read_apart, reading_engine, replica_engine

logger = logging.getLogger("uvicorn.error")


def first_line(error: DBAPIError) -> str:
    """Return what the database says is wrong, without what is stored or was sent.

    Further lines of PostgreSQL repeat what was sent; behind ` with text `, Python repeats what is
    stored.
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
        # Python's own error for a text that is not UTF-8, so for a damaged file, has no code.
        return getattr(original, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR
    if isinstance(original, psycopg2.OperationalError):
        return not str(original.pgcode).startswith("54")
    return error.connection_invalidated  # the connection is lost, or now read-only


def is_conflict(error: DBAPIError) -> bool:
    """Return whether PostgreSQL rolled back the transaction because of others at the same time.

    Sent again, it may succeed (https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html).
    """
    return isinstance(error.orig, DeadlockDetected | SerializationFailure)


async def is_unavailable(error: DBAPIError) -> bool:
    """Return whether it is an outage, or may be that a schema too old lacks a table or a column."""
    may_be_the_schema = isinstance(error, OperationalError | ProgrammingError)
    return is_outage(error) or (may_be_the_schema and await schema_may_be_old())


async def schema_may_be_old() -> bool:
    """Return whether the schema of the primary is too old, or that of the replica still is."""
    for engine in {reading_engine, replica_engine}:
        # A CommandError says that it has several versions.
        with suppress(CommandError, DBAPIError, PoolTimeoutError):
            if not await read_apart(engine, schema_is_current):
                return True
    return False


def log_outage(error: Exception) -> None:
    """Log in one line why the database is not available."""
    reason = first_line(error) if isinstance(error, DBAPIError) else error
    logger.error("The database is not available: %s", reason)


def log_bug(error: DBAPIError) -> None:
    """Log the error with its traceback, but without what clients sent."""
    traceback = "".join(format_tb(error.__traceback__))
    logger.error("%s in %s\n%s", first_line(error), error.statement, traceback)


async def log_failure(error: DBAPIError | PoolTimeoutError) -> Unavailable | None:
    """Log why the database failed, and return what to respond with; None for a bug."""
    if isinstance(error, DBAPIError) and is_conflict(error):
        logger.warning("A request met a conflict: %s", first_line(error))
        return Unavailable("Other requests changed the same at this moment: send it again")
    if isinstance(error, PoolTimeoutError) or await is_unavailable(error):
        log_outage(error)
        return Unavailable("The database is not available")
    log_bug(error)
    return None


async def respond_database_error(
    request: Request, error: DBAPIError | PoolTimeoutError
) -> Response:
    """Respond with 503 to an outage, a conflict or an old schema, and with 500 to a bug; log it."""
    if unavailable := await log_failure(error):
        return await http_exception_handler(request, unavailable)
    return JSONResponse({"detail": "Internal Server Error"}, 500)
