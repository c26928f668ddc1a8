"""What Alembic runs for each of its commands: it connects the migrations to the database."""

import logging
from time import monotonic
from typing import Any

from alembic import context
from sqlalchemy import Table, event
from sqlmodel import SQLModel

import database
import models  # noqa: F401  # its tables are what `--autogenerate` compares with

# The same number for all processes that migrate this database; any would do.
LOCK = 0x7461736B  # "task" in ASCII


@event.listens_for(Table, "column_reflect")
def keep_autoincrement(_inspector: object, table: Table, _column: object) -> None:
    """Keep what SQLAlchemy does not see in a table that SQLite must copy to alter it."""
    table.kwargs["sqlite_autoincrement"] = True


logger = logging.getLogger("uvicorn.error")
times: list[float] = []  # when the first migration began, and when each ended


def log_migration(*_: object, **about: Any) -> None:  # noqa: ANN401  # as Alembic calls it
    """Log which migration was run, and how long it took."""
    times.append(monotonic())
    step = about["step"]
    ran = "Ran" if step.is_upgrade else "Undid"
    seconds = times[-1] - times[-2]
    logger.info("%s the migration %s in %.1f s", ran, step.up_revision_id, seconds)


# `upgrade_schema` gives one, the command `alembic` does not.
engine = context.config.attributes.get("engine", database.engine)
is_sqlite = engine.dialect.name == "sqlite"

with engine.connect() as connection:
    connection.detach()  # its settings below are not for the requests
    if is_sqlite:
        sqlite: Any = connection.connection.dbapi_connection
        # A migration may replace a table, which must not touch those that refer to it.
        sqlite.execute("PRAGMA foreign_keys = OFF")
        # To fill a table or an index may take long, so the deadline of statements goes.
        sqlite.set_progress_handler(None, 0)
    with connection.begin():
        if not is_sqlite:
            # For the same reason, and since the wait for another process may take as long. LOCAL:
            # a pooler may keep the connection.
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
            # Requests would wait behind a migration that waits for a table.
            connection.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
        context.configure(
            connection=connection,
            target_metadata=SQLModel.metadata,
            render_as_batch=True,
            on_version_apply=log_migration,
            autogenerate_plugins=["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
        )
        times.append(monotonic())
        with context.begin_transaction():
            context.run_migrations()
