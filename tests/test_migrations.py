"""What an operator may rely on in the schema and its versions."""

from collections.abc import Callable
from pathlib import Path

import pytest
from calls import create
from servers import ApiServer, alembic, connect
from sqlalchemy import inspect, text
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


def test_the_migrations_make_what_the_models_describe(
    server: ApiServer, empty_database: str
) -> None:
    migrated = server.database_url
    SQLModel.metadata.create_all(connect(empty_database))

    assert schema(migrated) == schema(empty_database) != {}
    assert "No new upgrade operations" in alembic(migrated, "check")


@pytest.mark.slow
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


@pytest.mark.slow
def test_every_migration_can_be_undone_and_done_again(empty_database: str) -> None:
    empty = schema(empty_database)
    alembic(empty_database, "upgrade", "head")
    newest = schema(empty_database)

    alembic(empty_database, "downgrade", "base")
    assert schema(empty_database) == empty
    alembic(empty_database, "upgrade", "head")
    assert schema(empty_database) == newest


def test_the_tasks_of_the_first_version_are_unchanged(empty_database: str, tmp_path: Path) -> None:
    alembic(empty_database, "upgrade", "0001")
    timestamp = "2026-01-0{} 12:00:00.123456" + "+00:00" * empty_database.startswith("postgresql")
    rows = [
        {
            "title": f"task {number} 🐛 <b>",
            "description": None if number % 2 else "line\nline\t'; DROP TABLE task; --",
            "status": ("pending", "in_progress", "completed")[number % 3],
            "priority": number % 6,
            "due_at": None if number % 4 else timestamp.format(9),
            "created_at": timestamp.format(1),
            "updated_at": timestamp.format(2),
            "completed_at": timestamp.format(3) if number % 3 == 2 else None,
        }
        for number in range(500)
    ]
    names = ", ".join(rows[0])
    values = ", ".join(f":{name}" for name in rows[0])
    engine = connect(empty_database)
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO task ({names}) VALUES ({values})"), rows)  # noqa: S608
        connection.execute(text("DELETE FROM task WHERE id = 1"))
    stored = text(f"SELECT id, {names} FROM task ORDER BY id")  # noqa: S608
    with engine.connect() as connection:
        before = connection.execute(stored).all()
    assert len(before) == 499

    # At its start the server upgrades the schema.
    with ApiServer(tmp_path, empty_database) as server, server.client() as client:
        with engine.connect() as connection:
            assert connection.execute(stored).all() == before
        expected = {
            "title": "task 2 🐛 <b>",
            "description": "line\nline\t'; DROP TABLE task; --",
            "status": "completed",
            "priority": 2,
            "due_at": None,
            "id": 3,
            "owner_id": None,
            "created_at": "2026-01-01T12:00:00.123456Z",
            "updated_at": "2026-01-02T12:00:00.123456Z",
            "completed_at": "2026-01-03T12:00:00.123456Z",
            "deleted_at": None,
            "version": 1,
        }
        assert client.get("/tasks/3").json().items() >= expected.items()
        assert client.get("/tasks", params={"count": True}).headers["X-Total-Count"] == "499"
        assert client.patch("/tasks/3", json={"priority": 5}).json()["version"] == 2
        assert create(client)["id"] == 501
