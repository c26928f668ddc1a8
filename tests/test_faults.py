"""What an operator may rely on when something fails: a bug looks like a bug, an outage like one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from calls import create
from servers import ApiServer, connect
from sqlalchemy import text

NewDatabase = Callable[[], str]


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


def test_a_start_that_fails_by_a_bug_shows_where(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db"
    with connect(url).begin() as connection:
        connection.execute(text("CREATE TABLE task (id INTEGER)"))

    server = ApiServer(tmp_path, url)

    assert server.process.wait(timeout=30) == 3
    assert "Traceback" in server.log.read_text()
