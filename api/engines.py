"""How engines are opened, for writes and for reads, and how many requests use one at a time."""

from collections import defaultdict

from anyio import Semaphore, WouldBlock, move_on_after
from pydantic import SecretStr
from pydantic_core import from_json
from sqlalchemy import Engine, PoolProxiedConnection, event, make_url
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import ORMExecuteState
from sqlmodel import Session, create_engine

from api import postgresql, sqlite
from config import settings

OPTIONS = {
    "hide_parameters": True,  # an error in the log must not show what clients sent
    "json_deserializer": from_json,  # a list of 100 tasks takes a tenth less time than with `json`
    # How many compiled statements it keeps, of 0.2 MiB each: each combination of filters is one.
    "query_cache_size": 100,
}


class ConnectionLimit:
    """How many requests use the connections of an engine at a time. The others wait in a queue.

    They wait before they take a thread: if they waited in threads, none could be left for those
    that have a connection.
    """

    def __init__(self, number: int) -> None:
        """Set the number of connections."""
        self.semaphore = Semaphore(number)

    async def __aenter__(self) -> None:
        """Wait for a connection; raise PoolTimeoutError if that takes too long."""
        try:
            self.semaphore.acquire_nowait()
        except WouldBlock:  # a time limit takes 20 µs, so only those who wait have one
            with move_on_after(settings.database_pool_timeout) as waiting:
                await self.semaphore.acquire()
            if waiting.cancelled_caught:
                raise PoolTimeoutError("the wait for a connection was too long") from None

    async def __aexit__(self, *_: object) -> None:
        """Let the next request have the connection."""
        self.semaphore.release()


def limit_of_pool() -> ConnectionLimit:
    """Return a limit of as many connections as the settings allow."""
    return ConnectionLimit(settings.database_pool_size + settings.database_max_overflow)


limits: dict[Engine, ConnectionLimit] = defaultdict(limit_of_pool)


def begin(dbapi_connection: PoolProxiedConnection) -> None:
    """Begin a transaction: see the connection classes of both databases."""
    dbapi_connection.begin()


def open_engine(database_url: SecretStr) -> Engine:
    """Return an engine for writes: all that a session does until it commits is one transaction."""
    url = make_url(database_url.get_secret_value())
    is_sqlite = url.get_backend_name() == "sqlite"
    database = sqlite if is_sqlite else postgresql
    engine = create_engine(
        url,
        max_overflow=settings.database_max_overflow,
        pool_timeout=settings.database_pool_timeout,
        pool_recycle=settings.database_pool_recycle,
        **OPTIONS,
        **database.ENGINE_OPTIONS,
    )
    database.listen(engine)
    # SQLAlchemy leaves this to the drivers. With an event instead, each statement of a transaction
    # would take a longer way through SQLAlchemy.
    engine.dialect.do_begin = begin  # type: ignore[method-assign]
    if is_sqlite:
        # SQLite has one writer at a time. If the others waited in SQLite itself, they would sleep
        # and try again: with 8 clients, the p99 of a create was 300 to 800 ms instead of 15 to 30.
        limits[engine] = ConnectionLimit(1)
    return engine


def open_reading_engine(engine: Engine) -> Engine:
    """Return an engine for reads, with the same connections: each statement is a transaction."""
    reading_engine = create_engine(engine.url, pool=engine.pool, **OPTIONS)
    if engine not in limits:
        limits[reading_engine] = limits[engine]
    return reading_engine


class ReadingSession(Session):
    """A session of a reading engine, which refuses to write, since it has no transaction."""


IS_A_READ = "A GET request only reads: its session has no transaction that could be rolled back"


@event.listens_for(ReadingSession, "before_flush")
def refuse_to_flush(*_: object) -> None:
    """Raise RuntimeError for objects that are new, changed or deleted."""
    raise RuntimeError(IS_A_READ)


@event.listens_for(ReadingSession, "do_orm_execute")
def refuse_to_write(state: ORMExecuteState) -> None:
    """Raise RuntimeError for INSERT, UPDATE and DELETE."""
    if state.is_insert or state.is_update or state.is_delete:
        raise RuntimeError(IS_A_READ)
