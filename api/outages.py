"""What errors of the database are outages, and what of them may be in the log."""

import logging
import sqlite3

import psycopg2
from sqlalchemy.exc import DBAPIError

logger = logging.getLogger("uvicorn.error")


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
