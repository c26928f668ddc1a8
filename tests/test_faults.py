"""What an operator may rely on when something fails: a bug looks like a bug, an outage like one."""

import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from calls import create
from servers import ApiServer, connect
from sqlalchemy import text
from sqlmodel import SQLModel

import models  # noqa: F401  # defines the tables

NewDatabase = Callable[..., str]


def assert_unavailable(answer: httpx2.Response) -> None:
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json() == {"detail": "The database is not available"}


def test_a_wrong_statement_is_a_bug_and_its_traceback_is_in_the_log(
    empty_database: str, tmp_path: Path
) -> None:
    with ApiServer(tmp_path, empty_database) as server, server.client() as client:
        with connect(empty_database).begin() as connection:
            connection.execute(text("ALTER TABLE task RENAME COLUMN title TO name"))

        answers = [
            client.get("/tasks"),
            client.get("/tasks/1"),
            client.post("/tasks", json={"title": "my secret"}),
        ]

    for answer in answers:
        assert (answer.status_code, answer.json()) == (500, {"detail": "Internal Server Error"})
    log = server.log.read_text()
    for words in ("SELECT task.title", "INSERT INTO task", "in create_task"):
        assert words in log
    assert "my secret" not in log


def test_a_read_only_server_is_an_outage_that_ends_with_it(
    new_postgresql_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_postgresql_database()
    with (
        ApiServer(tmp_path, url) as server,
        server.client() as client,
        connect(url).execution_options(isolation_level="AUTOCOMMIT").connect() as connection,
    ):
        task = create(client)
        name = connection.execute(text("SELECT current_database()")).scalar()
        end = text(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
        connection.execute(end)
        for _ in range(3):
            refused = client.post("/tasks", json={"title": "Read the report"})
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert client.get("/tasks").json() == [task]

        # The connections from before stay open, and read-only.
        connection.execute(text(f"ALTER DATABASE {name} RESET default_transaction_read_only"))
        client.post("/tasks", json={"title": "Read the report"})
        for _ in range(3):
            create(client)


# Refuses to change tasks as PostgreSQL does when two transactions meet, so often.
CONFLICT = """
    CREATE SEQUENCE tries;
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF nextval('tries') <= {times} THEN
            RAISE 'two transactions met' USING ERRCODE = '{code}', DETAIL = NEW.title;
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON task FOR EACH ROW EXECUTE FUNCTION refuse()"""
CODES = ["40P01", "40001"]  # a deadlock, and a serialization failure


@pytest.mark.slow
@pytest.mark.parametrize("code", CODES)
def test_a_request_that_meets_another_is_tried_again_by_itself(
    new_postgresql_database: NewDatabase, tmp_path: Path, code: str
) -> None:
    url = new_postgresql_database()
    with ApiServer(tmp_path, url) as server, server.client() as client:
        with connect(url).begin() as connection:
            connection.execute(text(CONFLICT.format(times=1, code=code)))

        body = {"title": "a", "tags": ["x"]}
        first = client.post("/tasks", json=body, headers={"Idempotency-Key": "a key"})
        again = client.post("/tasks", json=body, headers={"Idempotency-Key": "a key"})

        assert (first.status_code, again.json()) == (201, first.json())
        assert client.get("/tasks").json() == [first.json()]
        assert [tag["task_count"] for tag in client.get("/tags").json()] == [1]
    assert "two transactions met" not in server.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("code", CODES)
def test_a_request_that_meets_others_twice_is_to_be_sent_again(
    new_postgresql_database: NewDatabase, tmp_path: Path, code: str
) -> None:
    url = new_postgresql_database()
    with ApiServer(tmp_path, url) as server, server.client() as client:
        with connect(url).begin() as connection:
            connection.execute(text(CONFLICT.format(times=2, code=code)))

        refused = client.post("/tasks", json={"title": "my secret", "tags": ["x"]})

        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        detail = "Other requests changed the same at this moment: send it again"
        assert refused.json() == {"detail": detail}
        assert (client.get("/tasks").json(), client.get("/tags").json()) == ([], [])
        create(client, title="my secret")
    log = server.log.read_text()
    assert log.count("A request met a conflict: two transactions met") == 1
    for words in ("not available", "Traceback", "my secret"):
        assert words not in log


@pytest.mark.slow
def test_a_request_that_a_deadlock_stops_succeeds_when_the_other_ends(
    new_postgresql_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_postgresql_database()
    waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    lock = text("SELECT id FROM task WHERE id = :id FOR UPDATE")
    with (
        ApiServer(tmp_path, url) as server,
        server.client() as client,
        ThreadPoolExecutor() as threads,
        connect(url).connect() as connection,
        connect(url).connect() as other,
    ):
        ids = [create(client)["id"] for _ in range(2)]
        body = [{"id": task_id, "priority": 1} for task_id in ids]
        # So PostgreSQL stops the request, which waits since before.
        connection.execute(text("SET deadlock_timeout = '60s'"))
        connection.execute(lock, {"id": ids[1]})
        asked = threads.submit(client.patch, "/tasks/bulk", json=body)
        while not other.execute(waits).scalar():
            time.sleep(0.01)
        connection.execute(lock, {"id": ids[0]})  # waits until the request is stopped
        connection.rollback()

        assert asked.result().status_code == 200
        assert [task["version"] for task in client.get("/tasks").json()] == [2, 2]
    assert "deadlock detected" not in server.log.read_text()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite:////nowhere/tasks.db", "unable to open database file"),
        ("postgresql://user:secret@127.0.0.1:1/tasks", "connection to server at"),
    ],
)
def test_a_start_without_a_database_ends_with_one_sentence(
    tmp_path: Path, url: str, reason: str
) -> None:
    server = ApiServer(tmp_path, url)

    assert server.process.wait(timeout=30) == 3
    output = server.log.read_text()
    assert output.count(reason) == 1
    assert "Traceback" not in output
    assert "secret" not in output


@pytest.mark.slow
def test_a_start_that_fails_by_a_bug_shows_where(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db"
    with connect(url).begin() as connection:
        connection.execute(text("CREATE TABLE task (id INTEGER)"))

    server = ApiServer(tmp_path, url)

    assert server.process.wait(timeout=30) == 3
    assert "Traceback" in server.log.read_text()


WITH_ENCODING = "ENCODING '{}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"


@pytest.mark.parametrize("encoding", ["SQL_ASCII", pytest.param("LATIN1", marks=pytest.mark.slow)])
def test_a_start_on_a_database_that_cannot_store_every_text_ends_with_one_sentence(
    new_postgresql_database: NewDatabase, tmp_path: Path, encoding: str
) -> None:
    server = ApiServer(tmp_path, new_postgresql_database(WITH_ENCODING.format(encoding)))

    assert server.process.wait(timeout=30) == 3
    output = server.log.read_text()
    sentence = f"The database cannot be used: its encoding is {encoding}, but must be UTF8"
    assert output.count(sentence) == output.count("ncoding") == 1
    assert "Traceback" not in output


@pytest.mark.slow
def test_requests_to_a_database_that_cannot_store_every_text_are_refused(
    new_postgresql_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_postgresql_database(WITH_ENCODING.format("SQL_ASCII"))
    with ApiServer(tmp_path, url, MIGRATE_AT_START="false") as server, server.client() as client:
        for path in ("/ready", "/tasks"):
            assert_unavailable(client.get(path))
        assert_unavailable(client.post("/tasks", json={"title": "my secret"}))
    log = server.log.read_text()
    assert log.count("its encoding is SQL_ASCII, but must be UTF8") == 3
    assert "Traceback" not in log
    assert "my secret" not in log


@pytest.mark.slow
def test_every_text_is_stored_whatever_encoding_the_server_speaks_with_other_clients(
    new_postgresql_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_postgresql_database()
    with connect(url).begin() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar()
        connection.execute(text(f"ALTER DATABASE {name} SET client_encoding = 'LATIN1'"))
    with ApiServer(tmp_path, url) as server, server.client() as client:
        task = create(client, title="€é🐛")

        assert task["title"] == "€é🐛"
        assert client.get("/tasks?q=é🐛").json() == [task]
    # LATIN1 has no €, so this sees what is stored and not only what is sent back.
    with connect(url).connect() as connection:
        length = "SELECT length(title), octet_length(convert_to(title, 'UTF8')) FROM task"
        assert connection.execute(text(length)).one() == (3, 9)


def test_a_sqlite_file_that_is_overwritten_is_an_outage(tmp_path: Path) -> None:
    file = tmp_path / "tasks.db"
    with ApiServer(tmp_path, f"sqlite:///{file}") as server, server.client() as client:
        create(client, title="my stored secret")
        with closing(sqlite3.connect(file)) as connection:
            # Else the server would still read the newest changes from beside the file.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

        file.write_bytes(os.urandom(file.stat().st_size))

        for _ in range(2):
            for path in ("/ready", "/tasks", "/tasks/1", "/users"):
                assert_unavailable(client.get(path))
            assert_unavailable(client.post("/tasks", json={"title": "my sent secret"}))
        assert client.get("/health").status_code == 200
    log = server.log.read_text()
    assert "The database is not available: file is not a database" in log
    assert "Traceback" not in log
    assert "secret" not in log


def test_a_stored_text_that_is_damaged_is_an_outage_and_not_in_the_log(tmp_path: Path) -> None:
    file = tmp_path / "tasks.db"
    with ApiServer(tmp_path, f"sqlite:///{file}") as server, server.client() as client:
        create(client, title="my secret")
        whole = create(client, title="Read the report")
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute(
                "UPDATE task SET title = CAST(? AS TEXT) WHERE id = 1", (b"my secret \xff",)
            )

        for path in ("/tasks", "/tasks?q=secret", "/tasks/1"):
            assert_unavailable(client.get(path))
        assert_unavailable(client.patch("/tasks/1", json={"priority": 3}))

        assert client.get("/tasks/2").json() == whole
        assert client.get("/ready").status_code == 200
    log = server.log.read_text()
    assert "The database is not available: Could not decode to UTF-8" in log
    assert "Traceback" not in log
    assert "my secret" not in log


@pytest.mark.slow
def test_a_schema_that_is_newer_than_the_code_is_used_as_it_is(
    empty_database: str, tmp_path: Path
) -> None:
    engine = connect(empty_database)
    SQLModel.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('9999')"))

    with ApiServer(tmp_path, empty_database) as server, server.client() as client:
        assert client.get("/ready").json() == {"status": "ready"}
        task = create(client)
        assert client.get("/tasks").json() == [task]
    with engine.connect() as connection:
        assert (
            connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"
        )


def fill_with_long_tasks(file: Path, number: int) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(
            """
            WITH RECURSIVE numbers(i) AS (
                SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < :number
            )
            INSERT INTO task
                (title, folded_title, description, folded_description, status, priority, tags,
                    created_at, updated_at, version)
            SELECT 'Write the report', 'write the report', :description, :description, 'pending', 0,
                '[]', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, 1
            FROM numbers""",
            {"description": "a" * 10_000, "number": number},
        )


# What each of the long tasks nearly has, everywhere.
LONG_SEARCH = {"q": "a" * 199 + "b"}


@pytest.mark.slow
def test_a_statement_on_sqlite_is_ended_after_the_timeout(tmp_path: Path) -> None:
    file = tmp_path / "tasks.db"
    url = f"sqlite:///{file}"
    with (
        ApiServer(tmp_path, url, DATABASE_STATEMENT_TIMEOUT="1") as server,
        server.client() as client,
    ):
        fill_with_long_tasks(file, 4000)

        begin = time.monotonic()
        assert_unavailable(client.get("/tasks", params=LONG_SEARCH))
        assert 1 < time.monotonic() - begin < 3

        assert len(client.get("/tasks").json()) == 100
        assert create(client)["id"] == 4001


@pytest.mark.slow
def test_no_statement_on_sqlite_is_ended_without_a_timeout(tmp_path: Path) -> None:
    file = tmp_path / "tasks.db"
    url = f"sqlite:///{file}"
    with (
        ApiServer(tmp_path, url, DATABASE_STATEMENT_TIMEOUT="0") as server,
        server.client() as client,
    ):
        fill_with_long_tasks(file, 200)

        assert client.get("/tasks", params=LONG_SEARCH).json() == []


SLOW_MIGRATION = """
from alembic import op

revision = "9999"
down_revision = "{newest}"


def upgrade() -> None:
    op.execute({statement!r})
"""
# Each takes more than a second.
SLOW_STATEMENT = {
    "sqlite": "WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers"
    " WHERE i < 15000000) SELECT count(*) FROM numbers",
    "postgresql": "SELECT pg_sleep(2)",
}


@pytest.mark.slow
def test_a_migration_may_take_longer_than_a_statement_of_a_request(
    empty_database: str, tmp_path: Path, copy: Path
) -> None:
    versions = copy / "migrations" / "versions"
    newest = max(file.name[:4] for file in versions.glob("*.py"))
    statement = SLOW_STATEMENT[connect(empty_database).dialect.name]
    slow = SLOW_MIGRATION.format(newest=newest, statement=statement)
    (versions / "9999_wait.py").write_text(slow)
    begin = time.monotonic()

    with (
        ApiServer(tmp_path, empty_database, app_dir=copy, DATABASE_STATEMENT_TIMEOUT="1") as server,
        server.client() as client,
    ):
        assert time.monotonic() - begin > 2
        assert client.get("/ready").json() == {"status": "ready"}
