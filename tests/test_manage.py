"""What an operator may rely on in the commands of `manage.py`."""

import os
import pty
import re
import select
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event

import httpx2
import pytest
from calls import PASSWORD, SECRET_KEY, create, insert_user, sign_in
from servers import ROOT, ApiServer, alembic, connect, environment, fill
from sqlalchemy import Engine, inspect, text

NewDatabase = Callable[..., str]

COMMAND = (sys.executable, str(ROOT / "manage.py"))
NEW_PASSWORD = "battery staple"
# A valid URL, but no server listens there.
ABSENT = "postgresql://user:secret@127.0.0.1:1/tasks"


def manage(
    folder: Path, database_url: str, *arguments: str, typed: str = "", **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a command, with something for its standard input."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,  # without a .env that could change the settings
        env=environment(database_url, **settings),
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )


def assert_refused(run: subprocess.CompletedProcess[str], *sentences: str) -> None:
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.splitlines() == [*sentences]


def assert_done(run: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{sentence}\n", "")


@pytest.mark.slow
def test_the_first_administrator_is_created_on_an_empty_database(
    empty_database: str, tmp_path: Path
) -> None:
    arguments = ("create-user", "ada", "ada@example.com", "--admin", "--password-stdin")

    assert_done(manage(tmp_path, empty_database, *arguments, typed=PASSWORD), "Created ada")

    with (
        ApiServer(tmp_path, empty_database, SECRET_KEY=SECRET_KEY) as server,
        sign_in(server, "ada") as ada,
    ):
        assert ada.get("/users/me").json()["is_admin"] is True


def test_a_user_who_is_created_while_the_api_runs_signs_in(team: ApiServer, tmp_path: Path) -> None:
    arguments = ("create-user", "Eve", "Eve@Example.com", "--password-stdin")

    run = manage(tmp_path, team.database_url, *arguments, typed=f"{PASSWORD}\n")

    assert_done(run, "Created eve")
    with sign_in(team, "eve") as eve:
        me = eve.get("/users/me").json()
        expected = {"username": "eve", "email": "eve@example.com", "is_admin": False}
        assert me | expected == me
        assert create(eve)["owner_id"] == me["id"]


SHORT_NAME = "username: Input should have 3 or more characters"
WRONG_NAME = (
    "username: Input should have only letters from A to Z, digits, `_`, `.` and `-`, as in ada_42"
)
NAMED_ADDRESS = "email: Input should be an email address alone, as in ada@example.com"
SHORT_PASSWORD = "password: Input should have 8 or more characters"


@pytest.mark.parametrize(
    ("name", "address", "password", "sentences"),
    [
        ("a/b", "Ada <ada@example.com>", "S3same", (WRONG_NAME, NAMED_ADDRESS, SHORT_PASSWORD)),
        pytest.param("ad", "a@example.com", PASSWORD, (SHORT_NAME,), marks=pytest.mark.slow),
        pytest.param("ada", "a@example.com", "S3same", (SHORT_PASSWORD,), marks=pytest.mark.slow),
        pytest.param("ada", "a@example.com", "", (SHORT_PASSWORD,), marks=pytest.mark.slow),
    ],
)
def test_a_new_user_follows_the_rules_of_the_api(
    tmp_path: Path, name: str, address: str, password: str, sentences: tuple[str, ...]
) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db"
    arguments = ("create-user", name, address, "--password-stdin")

    assert_refused(manage(tmp_path, url, *arguments, typed=password), *sentences)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "address", "sentence"),
    [
        ("ADA", "eve@example.com", "The username is already taken"),
        ("eve", "ADA@example.com", "The email is already taken"),
    ],
)
def test_a_taken_name_or_address_is_refused(
    team: ApiServer, ada: httpx2.Client, tmp_path: Path, name: str, address: str, sentence: str
) -> None:
    before = ada.get("/users").json()
    arguments = ("create-user", name, address, "--password-stdin")

    assert_refused(manage(tmp_path, team.database_url, *arguments, typed=PASSWORD), sentence)

    assert ada.get("/users").json() == before


@pytest.mark.slow
def test_a_new_password_lets_a_deactivated_user_in_and_ends_what_was_before(
    team: ApiServer, team_engine: Engine, stranger: httpx2.Client, tmp_path: Path
) -> None:
    insert_user(team_engine, "eve")
    with sign_in(team, "eve") as before:
        with team_engine.begin() as connection:
            connection.execute(
                text("""UPDATE "user" SET is_active = false WHERE username = 'eve'""")
            )

        arguments = ("set-password", "EVE", "--password-stdin")
        run = manage(tmp_path, team.database_url, *arguments, typed=NEW_PASSWORD)

        assert_done(run, "eve can sign in with the new password")
        assert before.get("/tasks").status_code == 401
    form = {"username": "eve", "password": PASSWORD}
    assert stranger.post("/token", data=form).status_code == 401
    with sign_in(team, "eve", NEW_PASSWORD) as eve:
        assert eve.get("/tasks").status_code == 200


@pytest.mark.slow
def test_the_password_of_another_user_stays(
    team: ApiServer, team_engine: Engine, ada: httpx2.Client, tmp_path: Path
) -> None:
    insert_user(team_engine, "eve")
    arguments = ("set-password", "eve", "--password-stdin")

    assert manage(tmp_path, team.database_url, *arguments, typed=NEW_PASSWORD).returncode == 0

    assert ada.get("/tasks").status_code == 200
    sign_in(team, "bob").close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "password", "sentence"),
    [
        ("nobody", NEW_PASSWORD, "User not found"),
        ("ada", "S3same", SHORT_PASSWORD),
    ],
)
def test_a_password_is_set_for_a_known_user_and_by_the_rules_of_the_api(
    team: ApiServer, tmp_path: Path, name: str, password: str, sentence: str
) -> None:
    arguments = ("set-password", name, "--password-stdin")

    assert_refused(manage(tmp_path, team.database_url, *arguments, typed=password), sentence)

    sign_in(team, "ada").close()


def read_until(terminal: int, prompt: bytes) -> bytes:
    """Return what a terminal shows up to a prompt."""
    screen = b""
    while not screen.endswith(prompt):
        assert select.select([terminal], [], [], 30)[0], screen
        screen += os.read(terminal, 1024)
    return screen


@pytest.mark.slow
def test_a_password_is_asked_for_without_showing_it_until_both_are_the_same(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db"
    terminal, end = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "create-user", "ada", "ada@example.com"],
        cwd=tmp_path,
        env=environment(url),
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,  # without the terminal of who runs the tests
    ) as process:
        screen = b""
        for prompt, password in (
            (b"Password: ", PASSWORD),
            (b"Repeat for confirmation: ", NEW_PASSWORD),
            (b"Password: ", PASSWORD),
            (b"Repeat for confirmation: ", PASSWORD),
        ):
            screen += read_until(terminal, prompt)
            os.write(terminal, f"{password}\n".encode())
        screen += read_until(terminal, b"Created ada\r\n")
    os.close(end)
    os.close(terminal)

    assert process.returncode == 0
    assert [file.name for file in tmp_path.iterdir()] == ["tasks.db"]
    assert b"Error: The two entered values do not match" in screen
    assert PASSWORD.encode() not in screen
    assert NEW_PASSWORD.encode() not in screen


@pytest.mark.slow
def test_the_users_are_listed_with_what_they_are(
    team: ApiServer, team_engine: Engine, tmp_path: Path
) -> None:
    eve = insert_user(team_engine, "eve", is_active=False)
    mel = insert_user(team_engine, "mel", is_admin=True, is_active=False)

    run = manage(tmp_path, team.database_url, "list-users")

    assert (run.returncode, run.stderr) == (0, "")
    assert [line.split("\t") for line in run.stdout.splitlines()] == [
        ["1", "ada", "ada@example.com", "administrator"],
        ["2", "bob", "bob@example.com", ""],
        [str(eve), "eve", "eve@example.com", "inactive"],
        [str(mel), "mel", "mel@example.com", "administrator, inactive"],
    ]


@pytest.mark.slow
def test_a_backup_under_load_has_all_that_was_answered_before(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db"
    file = tmp_path / "backup.db"
    created: list[int] = []
    enough, ended = Event(), Event()

    with (
        ApiServer(tmp_path, url) as server,
        server.client() as client,
        ThreadPoolExecutor(4) as threads,
    ):

        def create_tasks(_: int) -> None:
            while not ended.is_set():
                created.append(create(client)["id"])
                if len(created) > 200:
                    enough.set()

        load = threads.map(create_tasks, range(4))
        try:
            assert enough.wait(timeout=30)
            before = set(created)
            run = manage(tmp_path, url, "backup", str(file))
            after = set(created)
        finally:
            ended.set()
        list(load)

    assert (run.returncode, run.stderr) == (0, "")
    with closing(sqlite3.connect(file)) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        copied = {task_id for (task_id,) in copy.execute("SELECT id FROM task")}
    assert before <= copied
    assert len(before) < len(after)  # there was load meanwhile
    with ApiServer(tmp_path, f"sqlite:///{file}") as server, server.client() as client:
        for task_id in sorted(before)[-20:]:
            assert client.get(f"/tasks/{task_id}").status_code == 200
        total = client.get("/tasks", params={"count": True}).headers["X-Total-Count"]
        assert int(total) == len(copied)


def test_a_backup_has_the_newest_changes_which_are_beside_the_file(tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE task (title TEXT)")
        connection.execute("INSERT INTO task VALUES ('Write the report')")
        connection.commit()

        run = manage(tmp_path, f"sqlite:///{tmp_path}/tasks.db", "backup", str(file))

    assert (run.returncode, run.stderr) == (0, "")
    with closing(sqlite3.connect(file)) as copy:
        assert copy.execute("SELECT title FROM task").fetchall() == [("Write the report",)]


def test_a_backup_replaces_no_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db"
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as connection:
        connection.execute("CREATE TABLE task (id INTEGER)")
    file = tmp_path / "backup.db"
    file.write_text("the backup of yesterday")

    assert_refused(
        manage(tmp_path, url, "backup", str(file)), f"{file} cannot be created: File exists"
    )

    assert file.read_text() == "the backup of yesterday"


@pytest.mark.slow
def test_a_backup_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    url, file = f"sqlite:///{tmp_path}/tasks.db", tmp_path / "nowhere" / "backup.db"

    run = manage(tmp_path, url, "backup", str(file))

    assert_refused(run, f"{file} cannot be created: No such file or directory")


@pytest.mark.slow
def test_a_database_that_is_not_there_is_not_backed_up_and_not_created(tmp_path: Path) -> None:
    missing, file = tmp_path / "tasks.db", tmp_path / "backup.db"

    run = manage(tmp_path, f"sqlite:///{missing}", "backup", str(file))

    assert_refused(run, f"{missing} cannot be copied to {file}: unable to open database file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_postgresql_is_backed_up_by_its_own_program(tmp_path: Path) -> None:
    run = manage(tmp_path, ABSENT, "backup", "backup.db")

    assert_refused(run, "This is for SQLite. Back up PostgreSQL with pg_dump")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("create-user", "ada", "ada@example.com", "--password-stdin"),
        pytest.param(("set-password", "ada", "--password-stdin"), marks=pytest.mark.slow),
        pytest.param(("list-users",), marks=pytest.mark.slow),
        pytest.param(("migrate",), marks=pytest.mark.slow),
    ],
)
def test_a_command_without_a_database_ends_with_one_sentence(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    run = manage(tmp_path, ABSENT, *arguments, typed=PASSWORD)

    assert (run.returncode, run.stdout) == (1, "")
    [sentence] = run.stderr.splitlines()
    assert sentence.startswith("The database cannot be used: connection to server at")
    assert PASSWORD not in sentence
    assert "secret" not in sentence


@pytest.mark.slow
def test_a_command_with_wrong_settings_ends_with_a_sentence_for_each(tmp_path: Path) -> None:
    url = "mysql://user:secret@host/tasks"

    run = manage(tmp_path, url, "list-users", DATABASE_POOL_SIZE="0")

    assert (run.returncode, run.stdout) == (3, "")
    assert run.stderr.splitlines() == [
        "DATABASE_URL must begin with sqlite:///, postgres:// or postgresql://",
        "DATABASE_POOL_SIZE Input should be greater than 0",
    ]


@pytest.mark.slow
def test_a_command_leaves_the_schema_to_the_pipeline_if_that_migrates(
    empty_database: str, tmp_path: Path
) -> None:
    alembic(empty_database, "upgrade", "0001")
    arguments = ("create-user", "ada", "ada@example.com", "--password-stdin")

    run = manage(tmp_path, empty_database, *arguments, typed=PASSWORD, MIGRATE_AT_START="false")

    assert (run.returncode, run.stdout) == (1, "")
    [sentence] = run.stderr.splitlines()
    assert sentence.startswith("The database cannot be used: ")
    assert PASSWORD not in sentence
    assert set(inspect(connect(empty_database)).get_table_names()) == {"alembic_version", "task"}


@pytest.mark.slow
def test_the_schema_is_upgraded_and_a_newer_one_stays(empty_database: str, tmp_path: Path) -> None:
    sentence = "The schema is the newest, or newer than this code knows"

    run = manage(tmp_path, empty_database, "migrate")

    assert (run.returncode, run.stdout) == (0, f"{sentence}\n")
    # As at a start.
    first, *_, last = run.stderr.splitlines()
    assert re.fullmatch(r"INFO: +Ran the migration 0001 in \d+\.\d s", first)
    assert re.fullmatch(r"INFO: +Ran the migration \d+ in \d+\.\d s", last)
    with (
        ApiServer(tmp_path, empty_database, MIGRATE_AT_START="false") as server,
        server.client() as client,
    ):
        assert client.get("/ready").status_code == 200
        with connect(empty_database).begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        assert_done(manage(tmp_path, empty_database, "migrate"), sentence)
        assert client.get("/ready").status_code == 200


LISTS = ("/tasks", "/tasks?deleted=true", "/users", "/tags", "/tasks/1/transfers")
EVERYTHING = (*LISTS, "/tasks/stats")


@pytest.mark.slow
def test_a_copy_on_postgresql_has_everything_and_goes_on_with_new_ids(
    new_postgresql_database: NewDatabase, tmp_path: Path
) -> None:
    url, new_url = f"sqlite:///{tmp_path}/team.db", new_postgresql_database()
    key = {"Idempotency-Key": "f3b0c442"}
    insert = ("create-user", "ada", "ada@example.com", "--admin", "--password-stdin")
    assert_done(manage(tmp_path, url, *insert, typed=PASSWORD), "Created ada")
    with ApiServer(tmp_path, url, SECRET_KEY=SECRET_KEY) as server, sign_in(server, "ada") as ada:
        tags = ["Über", "report"]
        kept = create(ada, title="Ünïcode 🐛", due_at="0001-01-01T00:00:00Z", tags=tags)
        ada.post("/tasks/1/transfer", json={"from_user_id": 1, "to_user_id": None})
        repeated = ada.post("/tasks", json={"title": "Print the report"}, headers=key).json()
        trash = create(ada)
        ada.delete(f"/tasks/{trash['id']}")
        ada.delete(f"/tasks/{create(ada)['id']}?permanent=true")
        before = [ada.get(path).json() for path in EVERYTHING]
    assert before[0][0]["id"] == kept["id"]

    run = manage(tmp_path, "", "copy", url, new_url)

    assert (run.returncode, run.stderr) == (0, "")
    assert set(run.stdout.splitlines()) == {
        "Copied 1 rows of user",
        "Copied 3 rows of task",
        "Copied 2 rows of tag",
        "Copied 2 rows of task_tag",
        "Copied 1 rows of transfer",
        "Copied 1 rows of idempotency_key",
    }
    assert not [*tmp_path.glob("team.db-*")]
    with (
        ApiServer(tmp_path, new_url, SECRET_KEY=SECRET_KEY) as server,
        sign_in(server, "ada") as ada,
    ):
        assert [ada.get(path).json() for path in EVERYTHING] == before
        again = ada.post("/tasks", json={"title": "Print the report"}, headers=key).json()
        assert again == repeated
        other = {"Idempotency-Key": "0b1cde75"}
        assert ada.post("/tasks", json={"title": "new"}, headers=other).status_code == 201
        assert create(ada, tags=["new"])["id"] == 6
        assert [tag["id"] for tag in ada.get("/tags").json()] == [1, 2, 3]


@pytest.mark.slow
def test_a_copy_may_take_longer_than_a_statement_of_a_request(
    new_postgresql_database: NewDatabase, tmp_path: Path
) -> None:
    url, new_url = f"sqlite:///{tmp_path}/team.db", new_postgresql_database()
    alembic(url, "upgrade", "head")
    fill(connect(url), 30_000)

    run = manage(tmp_path, "", "copy", url, new_url, DATABASE_STATEMENT_TIMEOUT="1")

    assert (run.returncode, run.stderr) == (0, "")
    with connect(new_url).connect() as connection:
        assert connection.execute(text("SELECT count(*), max(id) FROM task")).one() == (30_000,) * 2


@pytest.mark.slow
def test_a_copy_adds_nothing_to_a_database_that_is_in_use(
    new_postgresql_database: NewDatabase, tmp_path: Path
) -> None:
    url, new_url = f"sqlite:///{tmp_path}/team.db", new_postgresql_database()
    alembic(url, "upgrade", "head")
    alembic(new_url, "upgrade", "0001")
    fill(connect(url), 3)
    with connect(new_url).begin() as connection:
        values = "'Read', 'pending', 0, now(), now()"
        fields = "title, status, priority, created_at, updated_at"
        connection.execute(text(f"INSERT INTO task ({fields}) VALUES ({values})"))  # noqa: S608

    assert_refused(manage(tmp_path, "", "copy", url, new_url), "TO is not empty")

    with connect(new_url).connect() as connection:
        assert connection.execute(text("SELECT title FROM task")).scalars().all() == ["Read"]
        version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        assert version == "0001"


WRONG_SCHEME = "must begin with sqlite:///, postgres:// or postgresql://"
OLD_SCHEMA = "The schema of FROM is not the newest: run `manage.py migrate` with it before"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "target", "sentence"),
    [
        ("secret", ABSENT, "FROM is not the URL of a database"),
        ("sqlite:///new.db", "mysql://secret", "TO " + WRONG_SCHEME),
        (ABSENT, "sqlite:///new.db", "FROM must be SQLite, and TO PostgreSQL"),
        ("sqlite:///absent.db", ABSENT, "FROM does not exist"),
        ("sqlite:///old.db", ABSENT, OLD_SCHEMA),
    ],
)
def test_a_copy_that_cannot_work_is_refused(
    tmp_path: Path, source: str, target: str, sentence: str
) -> None:
    sqlite3.connect(tmp_path / "old.db").close()

    assert_refused(manage(tmp_path, "", "copy", source, target), sentence)

    assert [file.name for file in tmp_path.iterdir()] == ["old.db"]
