"""What an operator may rely on in the schema and its versions."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unicodedata import normalize

import httpx2
import pytest
from calls import (
    PASSWORD_HASH,
    SECRET_KEY,
    Task,
    assert_tags_agree_with_links,
    create,
    create_user,
    sign_in,
)
from servers import ROOT, ApiServer, alembic, connect, environment
from sqlalchemy import Engine, inspect, text
from sqlmodel import SQLModel

import models  # noqa: F401  # defines the tables
from api.folding import fold

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
    else:
        described["sequences"] = select(engine, "sequencename, data_type", "pg_sequences")
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
# The same in the order of their folded names, since version 0008. Two have become one.
FOLDED_TAGS = [
    "\uff41",
    "A b",
    "a-c",
    "A_d",
    "aa",
    "B",
    "E\u0301cole",
    "Straße",
    "Über",
    "z",
    "🐛",
]
LIGATURE = "\ufdfa"  # 18 characters when it is folded
# Tasks of version 0006 by their titles, each with its tags before and after version 0008. Only
# `é`, `zoo` and `Über` have another order; only `fix` and `ﬁx` are in the trash alone.
OLD_TASKS = {
    "Write the report": (TAGS, FOLDED_TAGS),
    "with two": (["aa", "z"], ["aa", "z"]),
    "without": ([], []),
    "É": (["zoo", "é", "Über"], ["é", "Über", "zoo"]),
    "e\u0301cole": (["STRASSE"], ["Straße"]),
    "Straße": (["Straße"], ["Straße"]),
    "ΟΔΟΣΑΣ": (["aa", "STRASSE", "Straße", "\u017ftraße"], ["aa", "Straße"]),
    LIGATURE * 200: (["🐛"], ["🐛"]),
    LIGATURE * 199 + "!": (["B", "z"], ["B", "z"]),
    "in the trash": (["Über", "🐛"], ["Über", "🐛"]),
    "in the trash, merged": (["fix", "\ufb01x"], ["fix"]),
    "in the trash, renamed": (["\ufb01x"], ["fix"]),
}
UNUSED = ["unused", "\uff55\uff4eused"]
MERGED = {"STRASSE": "Straße", "\u017ftraße": "Straße", "\ufb01x": "fix", UNUSED[1]: UNUSED[0]}
OLD_DESCRIPTIONS = {"É": None, "Straße": "ΤΗΣ ΟΔΟΥ", "with two": "cafe\u0301", "in the trash": "É"}
# What version 1.2.0 was sent with a key, and what it noted of it.
OLD_REQUEST = {"title": "Write the report", "tags": ["report"], "due_at": "2027-01-29T17:00:00Z"}
OLD_HASH = "718ddc3490c469c168751a0f3e65003375dc86d452c0a8e7c5d00aef27b8101e"


def old_key(name: str) -> str:
    """Return what the names of one tag shared before version 0008."""
    return normalize("NFC", name.lower())


@pytest.fixture
def with_old_tags(empty_database: str) -> str:
    """A database of version 0006 with tags, a trash, transfers and a key."""
    alembic(empty_database, "upgrade", "0006")
    engine = connect(empty_database)
    insert(engine, '"user"', old_user("ada", is_admin=False))
    names = [*reversed(TAGS), "é", "zoo", "\u017ftraße", "fix", "\ufb01x", *UNUSED]
    insert(engine, "tag", *({"name": name, "key": old_key(name)} for name in names))
    for task_id, (title, (tags, _)) in enumerate(OLD_TASKS.items(), 1):
        fields = {
            "owner_id": 1 if task_id == 1 else None,
            "deleted_at": TIMESTAMP if "trash" in title else None,
            "description": OLD_DESCRIPTIONS.get(title, "old"),
        }
        insert(engine, "task", old_task(title, **fields))
        for name in reversed(tags):
            insert(engine, "task_tag", {"task_id": task_id, "tag_name": name})
    transfer = {"task_id": 1, "from_user_id": None, "to_user_id": 1, "created_at": TIMESTAMP}
    insert(engine, "transfer", transfer)
    key = {"user_id": 0, "key": "a key", "request_hash": OLD_HASH, "task_ids": "[1]"}
    insert(engine, "idempotency_key", key | {"created_at": str(datetime.now(UTC))})
    return empty_database


def contents(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    tables = inspect(engine).get_table_names()
    return {table: sorted(select(engine, "*", f'"{table}"'), key=str) for table in tables}


@pytest.mark.slow
def test_tasks_get_the_names_of_their_tags_and_lose_them_when_that_is_undone(
    with_old_tags: str,
) -> None:
    engine = connect(with_old_tags)
    before, schema_before = contents(engine), schema(with_old_tags)

    alembic(with_old_tags, "upgrade", "0007")

    tags = [json.loads(tags) for _, tags in select(engine, "id, CAST(tags AS TEXT)", "task")]
    assert tags == [old for old, _ in OLD_TASKS.values()]
    links = select(engine, "task_id, tag.name", "task_tag JOIN tag ON tag.id = task_tag.tag_id")
    names = enumerate(tags, 1)
    assert sorted(links) == sorted(
        (task_id, name) for task_id, of_task in names for name in of_task
    )

    alembic(with_old_tags, "downgrade", "0006")
    assert contents(engine) == before
    assert schema(with_old_tags) == schema_before


def read_all(client: httpx2.Client) -> list[Task]:
    """Return all tasks by their ids, those in the trash too."""
    tasks: list[Task] = client.get("/tasks").json() + client.get("/tasks?deleted=true").json()
    return sorted(tasks, key=lambda task: int(task["id"]))


@pytest.mark.slow
def test_old_tags_that_are_equal_when_folded_become_one(with_old_tags: str, tmp_path: Path) -> None:
    with ApiServer(tmp_path, with_old_tags) as server, server.client() as client:
        tasks = read_all(client)
        assert [task["tags"] for task in tasks] == [new for _, new in OLD_TASKS.values()]
        for task, (old, new) in zip(tasks, OLD_TASKS.values(), strict=True):
            assert task["version"] == (7 if new == old else 8)
            is_old = task["updated_at"] == "2026-01-02T12:00:00.123456Z"
            assert is_old == (new == old)

        names = [*reversed(TAGS), "é", "zoo", "\u017ftraße", "fix", "\ufb01x", *UNUSED]
        tags = client.get("/tags").json()
        assert [tag["name"] for tag in tags] == [name for name in names if name not in MERGED]
        counts = Counter(name for task in tasks if not task["deleted_at"] for name in task["tags"])
        assert [tag["task_count"] for tag in tags] == [counts[tag["name"]] for tag in tags]
        for name in ("STRASSE", "\u017fTRASSE", "straße"):
            found = client.get("/tasks", params={"tag": name}).json()
            assert [task["id"] for task in found] == [1, 5, 6, 7]
        assert len(client.get("/tasks/1/transfers").json()) == 1
        assert create(client, tags=["FIX", "ÜBER", "new"])["tags"] == ["fix", "new", "Über"]
    assert_tags_agree_with_links(connect(with_old_tags))
    log = server.log.read_text()
    lines = [line for line in log.splitlines() if " is now one with " in line]
    assert sorted(lines) == sorted(
        f"INFO:     The tag `{merged}` is now one with `{first}`"
        for merged, first in MERGED.items()
    )


@pytest.mark.slow
def test_an_old_key_returns_its_task_with_its_tags_in_any_order(
    with_old_tags: str, tmp_path: Path
) -> None:
    with ApiServer(tmp_path, with_old_tags) as server, server.client() as client:
        before = client.get("/tasks").json()
        for tags in (["report"], ["REPORT", "b"], ["b", "report"]):
            headers = {"Idempotency-Key": "a key"}
            answer = client.post("/tasks", json=OLD_REQUEST | {"tags": tags}, headers=headers)
            assert answer.json() == before[0]
        assert client.get("/tasks").json() == before


def place_by_title(task: Task) -> tuple[str, int]:
    """Return what a sort by title compares."""
    return fold(task["title"])[:600], task["id"]


@pytest.mark.slow
def test_old_texts_are_found_and_sorted_as_new_ones_are(with_old_tags: str, tmp_path: Path) -> None:
    searches = {
        "É": {"É", "e\u0301cole", "with two"},
        "E\u0301COLE": {"e\u0301cole"},
        "strasse": {"Straße"},
        "ΟΔΟΣ": {"ΟΔΟΣΑΣ"},
        "οδοσας": {"ΟΔΟΣΑΣ"},
        "της οδου": {"Straße"},
        "CAFÉ": {"with two"},
        LIGATURE * 20: {LIGATURE * 200, LIGATURE * 199 + "!"},
        "null": set(),
    }
    with ApiServer(tmp_path, with_old_tags) as server, server.client() as client:
        for q, titles in searches.items():
            found = client.get("/tasks", params={"q": q}).json()
            assert {task["title"] for task in found} == titles, q
        trash = client.get("/tasks", params={"deleted": True, "q": "e\u0301"}).json()
        assert [task["title"] for task in trash] == ["in the trash"]

        in_order = sorted(client.get("/tasks").json(), key=place_by_title)
        for sort, expected in (("title", in_order), ("-title", in_order[::-1])):
            assert client.get("/tasks", params={"sort": sort}).json() == expected
            url, pages = f"/tasks?sort={sort}&limit=1", []
            for _ in expected:
                page = client.get(url)
                pages += page.json()
                url = page.links.get("next", {"url": url})["url"]
            assert pages == expected
            assert "next" not in page.links

    for title, folded_title, description, folded_description in select(
        connect(with_old_tags), "title, folded_title, description, folded_description", "task"
    ):
        assert folded_title == fold(title)[:600]
        assert folded_description == (None if description is None else fold(description))


@pytest.mark.slow
def test_folding_can_be_undone_and_done_again(with_old_tags: str, tmp_path: Path) -> None:
    alembic(with_old_tags, "upgrade", "0007")
    schema_before = schema(with_old_tags)
    with ApiServer(tmp_path, with_old_tags) as server, server.client() as client:
        create(client, title="Ǆ", description="ẞ", tags=["ẞ", "İ"])
        client.delete("/tasks/2").raise_for_status()
        before = read_all(client)
    engine = connect(with_old_tags)
    contents_before = contents(engine)

    alembic(with_old_tags, "downgrade", "0007")
    assert schema(with_old_tags) == schema_before
    keys = dict(select(engine, "name, key", "tag"))
    assert keys == {name: old_key(name) for name in keys}
    assert set(MERGED).isdisjoint(keys)

    with ApiServer(tmp_path, with_old_tags) as server, server.client() as client:
        assert read_all(client) == before
    assert contents(engine) == contents_before
    assert_tags_agree_with_links(engine)


@pytest.mark.slow
def test_an_index_of_the_operator_stays_after_an_upgrade(
    new_postgresql_database: NewDatabase,
) -> None:
    database = new_postgresql_database()
    alembic(database, "upgrade", "0007")
    engine = connect(database)
    statement = (
        'CREATE UNIQUE INDEX "of the operator" ON {}task USING btree'
        " (lower((title)::text) DESC, id) INCLUDE (version)"
        " WHERE ((priority > 3) AND ((title)::text !~~ '% :b'::text))"
    )
    with engine.begin() as connection:
        connection.exec_driver_sql(statement.format("").replace("%", "%%"))
        connection.exec_driver_sql("ALTER TABLE task ADD CONSTRAINT own UNIQUE (created_at, id)")

    alembic(database, "upgrade", "head")

    indexes = dict(select(engine, "indexname, indexdef", "pg_indexes WHERE tablename = 'task'"))
    assert indexes.pop("of the operator") == statement.format("public.")
    assert indexes.pop("own")
    assert "own" in [found["name"] for found in inspect(engine).get_unique_constraints("task")]
    assert set(indexes) == {
        "pk_task",
        *(str(index.name) for index in SQLModel.metadata.tables["task"].indexes),
    }


@pytest.mark.slow
def test_ids_may_be_greater_than_32_bits(empty_database: str, tmp_path: Path) -> None:
    last = 2**31
    with ApiServer(tmp_path, empty_database) as server, server.client() as client:
        create(client, tags=["first"])
        create_user(client, "ada")
        client.post(
            "/tasks/1/transfer", json={"from_user_id": None, "to_user_id": 1}
        ).raise_for_status()
        engine = connect(empty_database)
        with engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("UPDATE sqlite_sequence SET seq = ?", (last,))
            else:
                sequences = "SELECT setval(c.oid, %s) FROM pg_class AS c WHERE relkind = 'S'"
                connection.exec_driver_sql(sequences, (last,))

        user = create_user(client, "bob")
        task = post(client, "of many", "a key")
        assert (user["id"], task["id"]) == (last + 1, last + 1)
        path = f"/tasks/{task['id']}"
        changed = client.patch(path, json={"tags": ["new", "first"]}).json()
        transfer = {"from_user_id": None, "to_user_id": user["id"]}
        given = client.post(f"{path}/transfer", json=transfer).json()
        assert given == changed | {
            "owner_id": user["id"],
            "version": 3,
            "updated_at": given["updated_at"],
        }
        assert client.get(path).json() == given == post(client, "of many", "a key")
        [transfer] = client.get(f"{path}/transfers").json()
        assert (transfer["id"] > last, transfer["to_user_id"]) == (True, user["id"])
        for params in ({"tag": "new"}, {"owner_id": user["id"]}, {"after": last}):
            assert client.get("/tasks", params=params).json() == [given]
        [tag] = client.get("/tags", params={"name": "new"}).json()
        assert (tag["id"], tag["task_count"]) == (last + 1, 1)
        client.patch(f"/tags/{tag['id']}", json={"name": "renamed"}).raise_for_status()
        assert client.get(path).json()["tags"] == ["first", "renamed"]
        client.delete(f"/users/{user['id']}").raise_for_status()
        client.delete(f"{path}?permanent=true").raise_for_status()


@pytest.mark.slow
def test_the_log_of_a_start_names_each_migration_and_its_seconds(server: ApiServer) -> None:
    log = server.log.read_text()
    ran = re.findall(r"^INFO: +Ran the migration (\d+) in \d+\.\d s$", log, re.MULTILINE)
    files = (ROOT / "migrations/versions").glob("*.py")
    assert ran == sorted(file.name[:4] for file in files)


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
