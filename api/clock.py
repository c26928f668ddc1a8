"""The current datetime, also in a statement that is built once and executed often."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta

from sqlalchemy import BindParameter
from sqlmodel import UTCDateTime, bindparam

is_stopped = ContextVar("is_stopped", default=False)


def now() -> datetime:
    """Return the current datetime, in UTC; raise RuntimeError while a kept statement is built."""
    if is_stopped.get():
        raise RuntimeError(
            "This statement is kept for later requests, which would get the datetime of this one:"
            " use days_ago(), as in days_ago(0), instead of now()"
        )
    return datetime.now(UTC)


def days_ago(days: int) -> BindParameter[datetime]:
    """Return the datetime that many days ago, which each execution of a statement computes anew."""
    # A parameter whose value SQLAlchemy asks for when it executes the statement.
    return bindparam(None, callable_=lambda: now() - timedelta(days=days), type_=UTCDateTime())


@contextmanager
def stopped_clock() -> Iterator[None]:
    """Refuse `now()` while a statement is built that later requests execute too."""
    token = is_stopped.set(True)
    try:
        yield
    finally:
        is_stopped.reset(token)
