"""How errors are answered that no route expects: wrong values and methods, outages, and bugs."""

import logging
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import suppress
from traceback import format_tb
from typing import Any

import psycopg2
from alembic.util import CommandError
from fastapi import HTTPException, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.routing import Match

from api.errors import Unavailable
from api.schema import schema_is_current
from database import read_apart, reading_engine, replica_engine

logger = logging.getLogger("uvicorn.error")


async def respond_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    """Respond with 422, without the input, which may be secret or not representable in JSON."""
    detail = [{key: problem[key] for key in ("type", "loc", "msg")} for problem in error.errors()]
    return JSONResponse({"detail": detail}, 422)


async def respond_wrong_method(request: Request, _error: HTTPException) -> Response:
    """Respond with 405 and all methods of the path (RFC 9110, 15.5.6), not those of one route."""
    # An included router is one entry of `app.routes`; this yields the routes in it.
    matching = [
        route
        for route in iter_route_contexts(request.app.routes)
        if route.matches(request.scope)[0] is not Match.NONE
    ]
    methods = {method for route in matching for method in route.methods or ()}
    allow = ", ".join(sorted(methods)) or "GET, HEAD"  # files are no route with methods
    return await http_exception_handler(request, HTTPException(405, headers={"Allow": allow}))


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
        # By such a text `lower` of `sqlite.py` fails too, and then the code is SQLITE_ERROR.
        return (
            getattr(original, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR
            or str(original) == "user-defined function raised exception"
        )
    if isinstance(original, psycopg2.OperationalError):
        return not str(original.pgcode).startswith("54")
    return error.connection_invalidated  # by the pool, or by `replace_read_only`


def log_outage(error: Exception) -> None:
    """Log in one line why the database is not available."""
    reason = first_line(error) if isinstance(error, DBAPIError) else error
    logger.error("The database is not available: %s", reason)


async def respond_unavailable(request: Request, error: Exception) -> Response:
    """Respond with 503, and log why."""
    log_outage(error)
    return await http_exception_handler(request, Unavailable("The database is not available"))


async def respond_database_error(request: Request, error: DBAPIError) -> Response:
    """Respond with 503 to an outage or a schema that is too old, and with 500 to a bug; log it."""
    if await is_unavailable(error):
        return await respond_unavailable(request, error)
    log_bug(error)
    return JSONResponse({"detail": "Internal Server Error"}, 500)


async def is_unavailable(error: DBAPIError) -> bool:
    """Return whether the error is an outage, or may be that of a schema that is too old."""
    may_be_the_schema = isinstance(error, OperationalError | ProgrammingError)
    return is_outage(error) or (may_be_the_schema and await schema_may_be_old())


async def schema_may_be_old() -> bool:
    """Return whether the schema of the primary is too old, or that of the replica still is."""
    for engine in {reading_engine, replica_engine}:
        # A CommandError says that it has several versions.
        with suppress(CommandError, DBAPIError, PoolTimeoutError):
            if not await read_apart(
                engine, lambda session: schema_is_current(session.connection())
            ):
                return True
    return False


def log_bug(error: DBAPIError) -> None:
    """Log the error with its traceback, but without what clients sent."""
    traceback = "".join(format_tb(error.__traceback__))
    logger.error("%s in %s\n%s", first_line(error), error.statement, traceback)


EXCEPTION_HANDLERS: dict[
    int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]
] = {
    405: respond_wrong_method,
    RequestValidationError: respond_invalid,
    DBAPIError: respond_database_error,
    PoolTimeoutError: respond_unavailable,
}
