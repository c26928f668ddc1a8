"""What an operator may rely on in the schema and its versions."""

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unicodedata import normalize

import httpx2
import pytest
from calls import PASSWORD_HASH, SECRET_KEY, Task, assert_tags_agree_with_links, create, sign_in
from servers import ROOT, ApiServer, alembic, connect, environment
from sqlalchemy import Engine, inspect, text
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


@pytest.mark.slow
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


def insert(engine: Engine, table: str, *rows: dict[str, Any]) -> None:
    """Put rows into a table of a version that the models do not know."""
    names = ", ".join(rows[0])
    values = ", ".join(f":{name}" for name in rows[0])
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"), rows)  # noqa: S608


def select(engine: Engine, columns: str, table: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        rows = connection.execute(text(f"SELECT {columns} FROM {table} ORDER BY 1"))  # noqa: S608
        return [tuple(row) for row in rows]


TIMESTAMP = "2026-01-02 12:00:00.123456+00:00"
TIMESTAMPS = {"created_at": TIMESTAMP, "updated_at": TIMESTAMP}


def old_user(name: str, **fields: object) -> dict[str, Any]:
    user = {
        "username": name,
        "email": f"{name}@example.com",
        "is_active": True,
        "password_hash": PASSWORD_HASH,
        "token_version": 1,
    }
    return user | TIMESTAMPS | fields


def old_task(title: str, **fields: object) -> Task:
    task = {"title": title, "description": "old", "status": "pending", "priority": 4, "version": 7}
    return task | TIMESTAMPS | fields


@pytest.mark.slow
@pytest.mark.parametrize(
    ("active", "administrators"),
    [([False, True, True], [(2,)]), ([], [])],
)
def test_the_oldest_active_user_becomes_an_administrator(
    empty_database: str, active: list[bool], administrators: list[tuple[int]]
) -> None:
    alembic(empty_database, "upgrade", "0003")
    engine = connect(empty_database)
    for number, is_active in enumerate(active):
        insert(engine, '"user"', old_user(f"user-{number}", is_active=is_active))

    alembic(empty_database, "upgrade", "head")

    assert select(engine, "id", '"user" WHERE is_admin') == administrators
    assert len(select(engine, "id", '"user"')) == len(active)


# The tasks that have a key before version 0005, by whose they are.
OF_NOBODY, OF_BOB, ONCE_OF_BOB, TWICE_GIVEN, ONCE_OF_NOBODY = range(1, 6)


@pytest.fixture
def with_old_keys(empty_database: str) -> str:
    """A database of version 0004 with Ada, Bob and tasks, each created with a key."""
    alembic(empty_database, "upgrade", "0004")
    engine = connect(empty_database)
    ada, bob = (old_user(name, is_admin=name == "ada") for name in ("ada", "bob"))
    insert(engine, '"user"', ada, bob)
    owners = {OF_NOBODY: None, OF_BOB: 2, ONCE_OF_BOB: 1, TWICE_GIVEN: None, ONCE_OF_NOBODY: 2}
    for task_id, owner_id in owners.items():
        key = {"idempotency_key": f"key {task_id}", "request_hash": "of another kind"}
        insert(engine, "task", old_task(f"old {task_id}", owner_id=owner_id, **key))
    insert(engine, "task", old_task("without a key", owner_id=2))
    for task_id, from_user_id, to_user_id in (
        (ONCE_OF_BOB, 2, 1),
        (TWICE_GIVEN, 2, 1),
        (TWICE_GIVEN, 1, None),
        (ONCE_OF_NOBODY, None, 2),
    ):
        transfer = {"task_id": task_id, "from_user_id": from_user_id, "to_user_id": to_user_id}
        insert(engine, "transfer", transfer | {"created_at": TIMESTAMP})
    return empty_database


def post(client: httpx2.Client, title: str, key: str) -> Task:
    answer = client.post("/tasks", json={"title": title}, headers={"Idempotency-Key": key})
    assert answer.status_code == 201
    task: Task = answer.json()
    return task


def repeat(client: httpx2.Client, task_id: int) -> object:
    """Send the request for one of the old tasks again, and return the id that is answered."""
    return post(client, f"old {task_id}", f"key {task_id}")["id"]


@pytest.mark.slow
def test_old_keys_still_return_their_tasks(with_old_keys: str, tmp_path: Path) -> None:
    with ApiServer(tmp_path, with_old_keys) as server, server.client() as client:
        before = client.get("/tasks").json()

        for task_id in (OF_NOBODY, OF_BOB, ONCE_OF_BOB, TWICE_GIVEN, ONCE_OF_NOBODY):
            assert repeat(client, task_id) == task_id

        assert client.get("/tasks").json() == before
        assert len(before) == 6


@pytest.mark.slow
def test_old_keys_return_their_tasks_to_who_owned_them_first(
    with_old_keys: str, tmp_path: Path
) -> None:
    with ApiServer(tmp_path, with_old_keys, SECRET_KEY=SECRET_KEY) as server:
        with sign_in(server, "bob") as bob:
            for task_id in (OF_BOB, ONCE_OF_BOB, TWICE_GIVEN):
                assert repeat(bob, task_id) == task_id
            assert len(bob.get("/tasks").json()) == 6
            assert repeat(bob, ONCE_OF_NOBODY) == 7
        with sign_in(server, "ada") as ada:
            assert [repeat(ada, task_id) for task_id in (OF_BOB, ONCE_OF_BOB)] == [8, 9]


KEPT = (
    "id, title, description, status, priority, due_at, owner_id, created_at, updated_at,"
    " completed_at, deleted_at, version"
)


@pytest.mark.slow
def test_an_undone_migration_gives_its_key_back_to_each_task_that_one_user_created_alone(
    with_old_keys: str, tmp_path: Path
) -> None:
    title = "Write the report"
    with (
        ApiServer(tmp_path, with_old_keys, SECRET_KEY=SECRET_KEY) as server,
        sign_in(server, "ada") as ada,
        sign_in(server, "bob") as bob,
    ):
        alone = post(ada, title, "of Ada alone")["id"]
        for client in (ada, bob):
            post(client, title, "of both")
        two = [{"title": title}, {"title": title}]
        headers = {"Idempotency-Key": "of two tasks"}
        ada.post("/tasks/bulk", json=two, headers=headers).raise_for_status()
        deleted = post(ada, title, "of a deleted task")["id"]
        ada.delete(f"/tasks/{deleted}?permanent=true").raise_for_status()
        ada.delete(f"/tasks/{OF_BOB}").raise_for_status()
    engine = connect(with_old_keys)
    before = select(engine, KEPT, "task")
    transfers = select(engine, "*", "transfer")

    alembic(with_old_keys, "downgrade", "0004")

    assert select(engine, KEPT, "task") == before
    assert select(engine, "*", "transfer") == transfers
    keys = select(engine, "id, idempotency_key", "task WHERE idempotency_key IS NOT NULL")
    assert keys == [
        *((task_id, f"key {task_id}") for task_id in range(1, 6)),
        (alone, "of Ada alone"),
    ]

    # Up again, at the start.
    with ApiServer(tmp_path, with_old_keys, SECRET_KEY=SECRET_KEY) as server:
        assert select(engine, KEPT, "task") == before
        with sign_in(server, "ada") as ada, sign_in(server, "bob") as bob:
            assert post(ada, title, "of Ada alone")["id"] == alone
            assert repeat(bob, ONCE_OF_BOB) == ONCE_OF_BOB
    assert select(engine, KEPT, "task") == before


# In the order of the code points of their keys, which is neither that of people nor of UTF-16. The
# É of the school has two characters, as some systems write it, but only one in its key.
TAGS = [
    "A b",
    "a-c",
    "A_d",
    "aa",
    "B",
    "STRASSE",
    "Straße",
    "z",
    "E\u0301cole",
    "Über",
    "\uff41",
    "🐛",
]
# What version 1.2.0 was sent with a key, and what it noted of it.
OLD_REQUEST = {"title": "Write the report", "tags": ["report"], "due_at": "2027-01-29T17:00:00Z"}
OLD_HASH = "718ddc3490c469c168751a0f3e65003375dc86d452c0a8e7c5d00aef27b8101e"


@pytest.fixture
def with_old_tags(empty_database: str) -> str:
    """A database of version 0006 with tags, a trash, transfers and a key."""
    alembic(empty_database, "upgrade", "0006")
    engine = connect(empty_database)
    insert(engine, '"user"', old_user("ada", is_admin=False))
    names = [*reversed(TAGS), "unused"]
    keys = [normalize("NFC", name.lower()) for name in names]
    insert(
        engine, "tag", *({"name": name, "key": key} for name, key in zip(names, keys, strict=True))
    )
    insert(
        engine,
        "task",
        old_task("Write the report", owner_id=1, deleted_at=None),
        old_task("with two", owner_id=None, deleted_at=None),
        old_task("without", owner_id=None, deleted_at=None),
        old_task("in the trash", owner_id=None, deleted_at=TIMESTAMP),
    )
    links = [(1, name) for name in TAGS[::-1]] + [(2, "z"), (2, "aa"), (4, "🐛"), (4, "Über")]
    insert(engine, "task_tag", *({"task_id": task_id, "tag_name": name} for task_id, name in links))
    transfer = {"task_id": 1, "from_user_id": None, "to_user_id": 1, "created_at": TIMESTAMP}
    insert(engine, "transfer", transfer)
    key = {"user_id": 0, "key": "a key", "request_hash": OLD_HASH, "task_ids": "[1]"}
    insert(engine, "idempotency_key", key | {"created_at": str(datetime.now(UTC))})
    return empty_database


@pytest.mark.slow
def test_tags_stay_when_tasks_get_their_names_and_when_that_is_undone(
    with_old_tags: str, tmp_path: Path
) -> None:
    engine = connect(with_old_tags)
    before, schema_before = contents(engine), schema(with_old_tags)

    with ApiServer(tmp_path, with_old_tags) as server, server.client() as client:
        tasks = client.get("/tasks").json() + client.get("/tasks?deleted=true").json()
        assert [task["tags"] for task in tasks] == [TAGS, ["aa", "z"], [], ["Über", "🐛"]]
        assert {(task["version"], task["updated_at"]) for task in tasks} == {
            (7, "2026-01-02T12:00:00.123456Z")
        }
        tags = client.get("/tags").json()
        assert [tag["name"] for tag in tags] == [*reversed(TAGS), "unused"]
        counts = {"aa": 2, "z": 2, "unused": 0}
        assert [tag["task_count"] for tag in tags] == [counts.get(tag["name"], 1) for tag in tags]
        for name in ("\u00c9COLE", "e\u0301cole"):
            assert client.get("/tasks", params={"tag": name}).json() == tasks[:1]
        headers = {"Idempotency-Key": "a key"}
        assert client.post("/tasks", json=OLD_REQUEST, headers=headers).json() == tasks[0]
        assert len(client.get("/tasks/1/transfers").json()) == 1
    assert_tags_agree_with_links(engine)

    alembic(with_old_tags, "downgrade", "0006")
    assert contents(engine) == before
    assert schema(with_old_tags) == schema_before

    with ApiServer(tmp_path, with_old_tags) as server, server.client() as client:
        assert client.get("/tasks").json() == tasks[:3]
        assert client.get("/tags").json() == tags
        assert create(client, tags=["ÜBER", "new"])["tags"] == ["new", "Über"]


def contents(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    tables = inspect(engine).get_table_names()
    return {table: sorted(select(engine, "*", f'"{table}"'), key=str) for table in tables}


@pytest.mark.slow
def test_the_first_version_is_refused_to_a_database_with_a_trash(
    empty_database: str, tmp_path: Path
) -> None:
    with ApiServer(tmp_path, empty_database) as server, server.client() as client:
        create(client, title="deleted", due_at="2026-12-31T17:00:00Z")
        create(client)
        client.delete("/tasks/1").raise_for_status()
    engine = connect(empty_database)
    before, schema_before = contents(engine), schema(empty_database)

    run = subprocess.run(
        [sys.executable, "-m", "alembic", "downgrade", "0001"],
        cwd=ROOT,
        env=environment(empty_database),
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode != 0
    for words in ("POST /tasks/{task_id}/restore", "DELETE /tasks/{task_id}?permanent=true"):
        assert words in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert contents(engine) == before
    assert schema(empty_database) == schema_before

    # As the message says.
    with ApiServer(tmp_path, empty_database) as server, server.client() as client:
        client.post("/tasks/1/restore").raise_for_status()
    tasks = select(engine, "id, title, due_at, created_at", "task")
    alembic(empty_database, "downgrade", "0001")
    assert select(engine, "id, title, due_at, created_at", "task") == tasks
    assert [title for _, title, *_ in tasks] == ["deleted", "Write the report"]
    assert select(engine, "version_num", "alembic_version") == [("0001",)]
