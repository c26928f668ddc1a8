"""The database: its engines, the session of a request, and the schema."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import psycopg2
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from anyio import CapacityLimiter, Semaphore, WouldBlock, move_on_after, to_thread
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import ColumnClause, Connection, column, event, inspect, make_url, values
from sqlalchemy.exc import DisconnectionError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import Session, SQLModel, cast, create_engine, null, update
from sqlmodel.sql.expression import SelectOfScalar

from config import get_settings

settings = get_settings()
url = make_url(settings.database_url.get_secret_value())
is_sqlite = url.get_backend_name() == "sqlite"


class PostgresqlConnection(psycopg2.extensions.connection):
    """A connection that leaves AUTOCOMMIT without a statement: psycopg2's took 100 of 600 µs."""

    def set_isolation_level(self, level: int | str | None) -> None:
        """Be in AUTOCOMMIT or not; this program needs no other level than the server's own."""
        self.autocommit = level == psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT


SQLITE_OPTIONS = {"timeout": settings.database_pool_timeout}
# The URL's own options come behind the limits, so that they may be others.
SERVER_OPTIONS = (
    f"-c statement_timeout={settings.database_statement_timeout}s",
    f"-c idle_in_transaction_session_timeout={settings.database_idle_transaction_timeout}s",
    str(url.query.get("options", "")),
    # Moments are shown in the zone in which they are read; and in another than this, psycopg2
    # cannot read the first and the last day of the calendar.
    "-c timezone=UTC",
)
POSTGRESQL_OPTIONS = {
    "connection_factory": PostgresqlConnection,
    "connect_timeout": settings.database_connect_timeout,
    # The same patience, here in milliseconds, with a host that no longer confirms what it gets.
    "tcp_user_timeout": settings.database_connect_timeout * 1000,
    "options": " ".join(SERVER_OPTIONS),
}

# The engine for writes: what a session does until it commits is one transaction.
engine = create_engine(
    url,
    connect_args=SQLITE_OPTIONS if is_sqlite else POSTGRESQL_OPTIONS,
    hide_parameters=True,  # an error in the log must not show what clients sent
    pool_size=settings.database_pool_size,
    max_overflow=settings.database_max_overflow,
    pool_timeout=settings.database_pool_timeout,
    pool_recycle=settings.database_pool_recycle,
)
# The engine for reads, on the same connections: each statement stands alone.
reading_engine = create_engine(
    url, pool=engine.pool, hide_parameters=True, execution_options={"isolation_level": "AUTOCOMMIT"}
)


def prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    """Make a new connection to SQLite as strict, as durable and as concurrent as PostgreSQL's."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    # Its own lower(), by which texts are compared in any case, knows only the letters A to Z.
    connection.create_function("lower", 1, lambda text: text and text.lower(), deterministic=True)


def begin_sqlite(connection: Connection) -> None:
    """Wait for the other writers at the begin of a transaction.

    One that first read and then writes could not wait: its read may be out of date by then, so
    SQLite would refuse the write at once (https://www.sqlite.org/rescode.html#busy_snapshot).
    """
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def replace_lost(connection: psycopg2.extensions.connection, *_: object) -> None:
    """Let the pool replace a connection that PostgreSQL has closed.

    This looks at what was received; `pool_pre_ping` would send a statement and wait.
    """
    try:
        connection.poll()  # reads the last words of the server,
        connection.poll()  # and this its end
    except (psycopg2.OperationalError, psycopg2.InterfaceError):
        raise DisconnectionError from None


if is_sqlite:
    event.listen(engine, "connect", prepare_sqlite)
    event.listen(engine, "begin", begin_sqlite)
else:
    event.listen(engine, "checkout", replace_lost)


# As many as there are connections.
PLACES = settings.database_pool_size + settings.database_max_overflow
places = Semaphore(PLACES)


async def take_place() -> None:
    """Take the place of a session; raise PoolTimeoutError when none becomes free in time.

    Requests that waited for a connection in a thread could leave no thread to those that have
    one and would free it. `Depends(max_concurrency=…)` waits so too, but without a limit.
    """
    try:
        places.acquire_nowait()
    except WouldBlock:
        with move_on_after(settings.database_pool_timeout) as waiting:
            await places.acquire()
        if waiting.cancelled_caught:
            raise PoolTimeoutError("no connection became free in time") from None


async def get_session(request: Request) -> AsyncIterator[Session]:
    """Yield the session of a request; in the end, what it did not commit is undone.

    `GET` only reads (RFC 9110, 9.2.1). Objects stay as they are after a commit, so that the
    answer needs no further look at the database.
    """
    reads = request.method == "GET"
    await take_place()
    session = Session(reading_engine if reads else engine, expire_on_commit=False)
    try:
        yield session
    finally:
        try:
            # Without a transaction there is nothing to undo, and so no need for a thread. It is
            # not one of the usual threads: all of them may wait for the locks that this frees.
            if session.in_transaction() and not reads:
                await to_thread.run_sync(session.close, limiter=CapacityLimiter(1))
            else:
                session.close()
        finally:
            places.release()


# A session ends before the answer is sent, so that a slow client holds no connection.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]


Row = TypeVar("Row", bound=SQLModel)
Result = TypeVar("Result")


async def run_in_place(function: Callable[[], Result]) -> Result:
    """Return what the function returns; it runs in a thread and may use a connection."""
    await take_place()
    try:
        return await run_in_threadpool(function)
    finally:
        places.release()


async def read_one(statement: SelectOfScalar[Row]) -> Row | None:
    """Return the only row of a statement, read before the session of the request begins.

    Its connection is free again when it returns, so that what follows may take long.
    """

    def read() -> Row | None:
        with Session(reading_engine) as session:
            return session.exec(statement).one_or_none()

    return await run_in_place(read)


def lock_table(session: Session, name: str) -> None:
    """Let nobody else write to a table until the transaction ends; on SQLite, nobody can anyhow."""
    if not is_sqlite:
        session.connection().exec_driver_sql(f'LOCK TABLE "{name}" IN SHARE ROW EXCLUSIVE MODE')


def update_together(session: Session, rows: Sequence[SQLModel]) -> None:
    """Write the changed rows of one table by one statement; a commit would send one for each.

    They leave the session, as they are.
    """

    def typed(value: object, to: ColumnClause[Any]) -> object:
        # PostgreSQL would take a column of nothing but NULL for text.
        return cast(null(), to.type) if value is None else value

    changed = [row for row in rows if session.is_modified(row)]
    if not changed:
        return
    table = inspect(type(changed[0])).local_table
    names = {"id"}.union(*(set(table.c.keys()) - inspect(row).unmodified for row in changed))
    columns = [column(name, table.c[name].type) for name in sorted(names)]
    lines = [tuple(typed(getattr(row, to.name), to) for to in columns) for row in changed]
    new = values(*columns, name="new").data(lines).cte()
    for row in changed:
        session.expunge(row)
    statement = update(table).where(table.c.id == new.c.id)
    session.exec(statement.values({name: new.c[name] for name in names - {"id"}}))


alembic_config = Config(toml_file=Path(__file__).with_name("pyproject.toml"))


def upgrade_schema() -> None:
    """Bring the schema to the newest version.

    Of several processes one does it, and the others wait for the lock in `migrations/env.py`.
    """
    try:
        command.upgrade(alembic_config, "head")
    except OperationalError as error:
        raise ConnectionError(f"The schema cannot be upgraded: {error.orig}") from None


@lru_cache
def newest_version() -> str | None:
    """Return the newest version of the schema, the one that this code is for."""
    return ScriptDirectory.from_config(alembic_config).get_current_head()


def schema_is_current() -> bool:
    """Return whether the schema of the database has the newest version."""
    with reading_engine.connect() as connection:
        version = MigrationContext.configure(connection).get_current_revision()
    return version == newest_version()
