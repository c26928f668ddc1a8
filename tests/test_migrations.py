"""What an operator may rely on in the schema and its versions."""

from collections.abc import Callable
from pathlib import Path

from servers import alembic, connect
from sqlalchemy import inspect
from sqlmodel import SQLModel

import models  # noqa: F401  # defines the tables

NewDatabase = Callable[[], str]


def schema(database_url: str) -> dict[str, object]:
    """Return all that a database tells of its tables, but for the version."""
    engine = connect(database_url)
    inspector = inspect(engine)
    described: dict[str, object] = {}
    for table in set(inspector.get_table_names()) - {"alembic_version"}:
        columns = [
            column | {"type": repr(column["type"])} for column in inspector.get_columns(table)
        ]
        indexes = [
            index | {"dialect_options": {k: str(v) for k, v in index["dialect_options"].items()}}
            for index in inspector.get_indexes(table)
        ]
        parts = [
            *columns,
            *indexes,
            *inspector.get_check_constraints(table),
            *inspector.get_foreign_keys(table),
            *inspector.get_unique_constraints(table),
            inspector.get_pk_constraint(table),
        ]
        described[table] = sorted(map(str, parts))
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            tables = "SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'"
            described["autoincrement"] = sorted(connection.exec_driver_sql(tables).scalars())
    return described


def test_the_migrations_make_what_the_models_describe(new_database: NewDatabase) -> None:
    migrated, described = new_database(), new_database()
    alembic(migrated, "upgrade", "head")
    SQLModel.metadata.create_all(connect(described))

    assert schema(migrated) == schema(described) != {}
    assert "No new upgrade operations" in alembic(migrated, "check")


def test_a_new_constraint_of_the_models_is_noticed(new_database: NewDatabase, copy: Path) -> None:
    database = new_database()
    alembic(database, "upgrade", "head", project=copy)
    file = copy / "models.py"
    old = '        CheckConstraint("priority'
    new = '        CheckConstraint("priority <> 4", name="no_four"),\n'
    file.write_text(file.read_text().replace(old, new + old))

    before = schema(database)
    alembic(database, "revision", "--autogenerate", "--message", "No four", project=copy)
    alembic(database, "upgrade", "head", project=copy)

    assert "ck_task_no_four" in str(schema(database))
    alembic(database, "downgrade", "-1", project=copy)
    assert schema(database) == before


def test_every_migration_can_be_undone_and_done_again(empty_database: str) -> None:
    empty = schema(empty_database)
    alembic(empty_database, "upgrade", "head")
    newest = schema(empty_database)

    alembic(empty_database, "downgrade", "-1")
    alembic(empty_database, "upgrade", "head")
    assert schema(empty_database) == newest != empty

    alembic(empty_database, "downgrade", "base")
    assert schema(empty_database) == empty
    alembic(empty_database, "upgrade", "head")
    assert schema(empty_database) == newest
