"""How to connect to SQLite: as strict, as durable and as concurrent as PostgreSQL."""

import sqlite3
from math import inf
from time import monotonic
from typing import Any
from weakref import proxy

from sqlalchemy import Engine, event

from config import settings


class SqliteConnection(sqlite3.Connection):
    """A connection whose statements end at a deadline, in seconds of `monotonic`."""

    deadline = inf

    def cursor(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  # as SQLite's own
        """Return a cursor for a statement, which begins now."""
        self.deadline = monotonic() + (settings.database_statement_timeout or inf)
        return super().cursor(*args, **options)

    def begin(self) -> None:
        """Begin a transaction when other writers have ended theirs.

        A transaction that reads first and then writes could not wait: its read may be out of date,
        so SQLite would refuse the write at once
        (https://www.sqlite.org/rescode.html#busy_snapshot).
        """
        cursor = self.cursor()
        self.deadline = inf  # the option `timeout` below is the limit of this wait
        cursor.execute("BEGIN IMMEDIATE")


ENGINE_OPTIONS: dict[str, Any] = {
    "connect_args": {
        "factory": SqliteConnection,
        "isolation_level": None,  # each statement is a transaction of its own, until `begin`
        "timeout": settings.database_pool_timeout,
    },
    "pool_size": settings.database_pool_size + 1,  # one more, for the writer
}


def listen(engine: Engine) -> None:
    """Prepare each new connection of an engine."""
    event.listen(engine, "connect", prepare)


def prepare(connection: SqliteConnection, _record: object) -> None:
    """Prepare a new connection."""
    connection.execute("PRAGMA journal_mode = WAL")  # readers do not wait for the writer
    connection.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
    connection.execute("PRAGMA foreign_keys = ON")
    if settings.database_statement_timeout:
        same = proxy(connection)  # the function below must not keep the connection alive
        # Every 100 steps SQLite asks whether to end the statement. Only 100: to search one long
        # text is one step.
        connection.set_progress_handler(lambda: monotonic() > same.deadline, 100)
