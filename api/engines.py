"""How engines are opened, for writes and for reads, and how many requests use one at a time."""

from anyio import CapacityLimiter, Semaphore, WouldBlock, move_on_after, to_thread
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
    "json_deserializer": from_json,  # with the one of `json`, a list of 100 tasks takes longer
    # How many compiled statements it keeps, of 0.2 MiB each: each combination of filters is one.
    "query_cache_size": 100,
}


class ConnectionLimit:
    """How many requests use the connections of an engine at a time. The others wait in a queue.

    They wait before they take a thread: if they waited in threads, none could be left for those
    that have a connection. `Depends(max_concurrency=)` of FastAPI has no limit of the wait.
    """

    def __init__(self, number: int) -> None:
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


limits: dict[Engine, ConnectionLimit] = {}


def wait_for_connection(engine: Engine) -> ConnectionLimit:
    """Return what `async with` waits for: that the engine has a connection for one more request."""
    if engine not in limits:
        number = settings.database_pool_size + settings.database_max_overflow
        limits[engine] = ConnectionLimit(number)
    return limits[engine]


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
    # SQLAlchemy expects drivers to begin transactions by themselves; ours do it when they are told.
    # By an event, each statement would take a longer way through SQLAlchemy.
    engine.dialect.do_begin = begin  # type: ignore[method-assign]
    if is_sqlite:
        # SQLite has one writer at a time. If the others waited in SQLite itself, they would sleep
        # and try again: with 8 clients, the p99 of a create was 300 to 800 ms instead of 15 to 30.
        limits[engine] = ConnectionLimit(1)
    return engine


def begin(dbapi_connection: PoolProxiedConnection) -> None:
    """Begin a transaction: see `SqliteConnection` and `PostgresqlConnection`."""
    dbapi_connection.begin()


def open_reading_engine(engine: Engine) -> Engine:
    """Return an engine for reads, with the same connections: each statement is a transaction."""
    reading_engine = create_engine(engine.url, pool=engine.pool, **OPTIONS)
    if engine.dialect.name == "postgresql":  # on SQLite, who reads does not wait for who writes
        limits[reading_engine] = wait_for_connection(engine)
    return reading_engine


async def roll_back(session: Session) -> None:
    """End a session of the engine for writes, and what it did not commit.

    In a thread of its own: the usual ones may all wait for the locks that this frees.
    """
    if session.in_transaction():
        await to_thread.run_sync(session.close, limiter=CapacityLimiter(1))


class ReadingSession(Session):
    """A session of a reading engine, which refuses to write, since it could not roll that back."""


@event.listens_for(ReadingSession, "before_flush")
def refuse_to_flush(*_: object) -> None:
    """Raise RuntimeError for objects that are new, changed or deleted."""
    raise RuntimeError("A GET request only reads: its session has no transaction")


@event.listens_for(ReadingSession, "do_orm_execute")
def refuse_to_write(state: ORMExecuteState) -> None:
    """Raise RuntimeError for INSERT, UPDATE and DELETE."""
    if state.is_insert or state.is_update or state.is_delete:
        refuse_to_flush()
