"""What an operator may rely on: the databases, their faults, and the settings."""

import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from calls import PASSWORD, create
from pydantic import SecretStr, ValidationError
from servers import (
    ROOT,
    ApiServer,
    alembic,
    connect,
    environment,
    listen_to_postgresql,
    run_postgresql,
)
from sqlalchemy import Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import IntegrityError

from config import Settings

NewDatabase = Callable[[], str]


def assert_unavailable(answer: httpx2.Response) -> None:
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    ("column", "value"),
    [("status", "done"), ("priority", 6), ("priority", -1), ("title", ""), ("title", "  ")],
)
def test_the_database_itself_refuses_what_no_task_may_be(
    client: httpx2.Client, engine: Engine, column: str, value: str | int
) -> None:
    task = create(client)
    statement = text(f"UPDATE task SET {column} = :value")  # noqa: S608

    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(statement, {"value": value})

    assert client.get("/tasks").json() == [task]


@pytest.mark.slow
def test_a_task_survives_a_killed_server(empty_database: str, tmp_path: Path) -> None:
    with ApiServer(tmp_path, empty_database) as server, server.client() as client:
        task = create(client)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()

    with connect(empty_database).connect() as connection:
        assert connection.execute(text("SELECT id FROM task")).scalars().all() == [task["id"]]


def ask(folder: Path, question: str, database_url: str, **settings: str) -> list[str]:
    """Return what Python prints for an expression about the engine and a connection of it."""
    program = f"from database import engine\nwith engine.connect() as connection: print({question})"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(database_url, PYTHONPATH=str(ROOT), **settings),
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.split()


def test_sqlite_waits_for_the_disk_and_checks_references(tmp_path: Path) -> None:
    pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    question = f"*[connection.exec_driver_sql(f'PRAGMA {{name}}').scalar() for name in {pragmas}]"

    full = "2"
    assert ask(tmp_path, question, "sqlite:///tasks.db") == ["wal", full, "1", "30000"]


@pytest.mark.slow
def test_the_settings_of_the_pool_reach_it(empty_database: str, tmp_path: Path) -> None:
    pool = (
        "engine.pool.size(), engine.pool._max_overflow, engine.pool._timeout, engine.pool._recycle"
    )
    settings = {
        "DATABASE_POOL_SIZE": "1",
        "DATABASE_MAX_OVERFLOW": "2",
        "DATABASE_POOL_TIMEOUT": "3",
        "DATABASE_POOL_RECYCLE": "4",
    }

    size = "2" if empty_database.startswith("sqlite") else "1"  # one more, for the writer
    assert ask(tmp_path, pool, empty_database, **settings) == [size, "2", "3", "4"]


@pytest.mark.slow
def test_the_options_of_a_postgresql_url_are_kept(
    new_postgresql_database: NewDatabase, tmp_path: Path
) -> None:
    url = f"{new_postgresql_database()}&options=-c%20work_mem%3D1234kB"
    question = "connection.exec_driver_sql('SHOW work_mem').scalar()"

    assert ask(tmp_path, question, url) == ["1234kB"]


@pytest.mark.slow
def test_the_time_zone_of_a_postgresql_server_changes_nothing(
    new_postgresql_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_postgresql_database()
    with connect(url).begin() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar()
        connection.execute(text(f"ALTER DATABASE {name} SET timezone = 'Pacific/Kiritimati'"))

    with ApiServer(tmp_path, url) as server, server.client() as client:
        task = create(client, due_at="9999-12-31T23:59:59Z")
        assert client.get("/tasks").json() == [task]


def server_with_one_connection(folder: Path, database_url: str, timeout: str) -> ApiServer:
    return ApiServer(
        folder,
        database_url,
        DATABASE_POOL_SIZE="1",
        DATABASE_MAX_OVERFLOW="0",
        DATABASE_POOL_TIMEOUT=timeout,
    )


@pytest.mark.slow
def test_more_requests_than_connections_are_all_answered(
    empty_database: str, tmp_path: Path
) -> None:
    with (
        server_with_one_connection(tmp_path, empty_database, "3") as server,
        server.client() as client,
        ThreadPoolExecutor(80) as threads,
    ):

        def read(_: int) -> int:
            return client.get("/tasks").status_code

        assert set(threads.map(read, range(160))) == {200}


@pytest.mark.slow
def test_nobody_waits_longer_for_a_busy_connection_than_the_timeout_of_the_pool(
    new_postgresql_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_postgresql_database()
    with (
        server_with_one_connection(tmp_path, url, "1") as server,
        server.client() as client,
        ThreadPoolExecutor(60) as threads,
    ):
        with connect(url).begin() as connection:
            connection.execute(text("LOCK TABLE task"))
            blocked = threads.submit(client.get, "/tasks")
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            while connection.execute(waiting).scalar() == 0:
                time.sleep(0.05)

            others = [threads.submit(client.get, "/tasks") for _ in range(50)]
            assert_unavailable(client.get("/ready"))
            assert client.get("/health").status_code == 200
            for other in others:
                assert_unavailable(other.result())
        assert blocked.result().status_code == 200
        assert client.get("/ready").status_code == 200


def test_a_failure_does_not_show_in_the_log_what_was_sent(
    empty_database: str, tmp_path: Path
) -> None:
    fail = {
        "sqlite": [
            "CREATE TRIGGER no_task BEFORE INSERT ON task BEGIN SELECT RAISE(ABORT, 'no'); END",
            "CREATE TRIGGER no_user BEFORE INSERT ON user BEGIN SELECT RAISE(ABORT, 'no'); END",
        ],
        "postgresql": [
            """CREATE TRIGGER no_task BEFORE INSERT ON task FOR EACH ROW
            EXECUTE FUNCTION suppress_redundant_updates_trigger()""",
            'ALTER TABLE "user" ADD CHECK (id < 0)',
        ],
    }
    user = {"username": "ada", "email": "ada@example.com", "password": PASSWORD}
    with ApiServer(tmp_path, empty_database) as server, server.client() as client:
        with connect(empty_database).begin() as connection:
            for statement in fail[connection.dialect.name]:
                connection.execute(text(statement))

        for path, body in (("/tasks", {"title": "my secret"}), ("/users", user)):
            answer = client.post(path, json=body)
            assert answer.status_code == 500
            assert answer.json() == {"detail": "Internal Server Error"}
    log = server.log.read_text()
    assert re.search('INSERT INTO "?task', log)
    assert re.search('INSERT INTO "?user', log)
    secrets = ("my secret", "ada@example.com", PASSWORD, "argon2")
    assert [secret for secret in secrets if secret in log] == []


@pytest.mark.slow
def test_a_stopped_server_leaves_its_sqlite_database_in_one_file(tmp_path: Path) -> None:
    folder = tmp_path / "database"
    folder.mkdir()
    url = f"sqlite:///{folder}/tasks.db"
    with ApiServer(tmp_path, url) as server, server.client() as client:
        create(client)

    assert [file.name for file in folder.iterdir()] == ["tasks.db"]


@pytest.mark.slow
def test_two_workers_write_at_once(server: ApiServer, client: httpx2.Client) -> None:
    def write(number: int) -> list[int]:
        with server.client() as writer:  # whose connection either worker may accept
            path = f"/tasks/{create(writer, title=f'task {number}')['id']}"
            return [
                writer.patch(path, json={"priority": 3}).status_code,
                writer.delete(path).status_code if number % 2 else 200,
            ]

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(write, range(200)))

    tasks = client.get("/tasks?sort=title").json()
    assert answers == [[200, 200]] * 200
    assert [task["title"] for task in tasks] == sorted(f"task {n}" for n in range(0, 200, 2))
    assert {task["priority"] for task in tasks} == {3}


@pytest.mark.slow
def test_an_absent_postgresql_is_answered_with_503_until_it_is_back(tmp_path: Path) -> None:
    with run_postgresql() as postgresql, ApiServer(tmp_path, postgresql.get_uri()) as server:
        with server.client() as client:
            task = create(client)
            path = f"/tasks/{task['id']}"

            postgresql.stop()
            for _ in range(2):
                assert_unavailable(client.get("/tasks"))
                assert_unavailable(client.post("/tasks", json={"title": "my secret"}))
                assert_unavailable(client.patch(path, json={"title": "my secret"}))
                assert_unavailable(client.delete(path))
                assert_unavailable(client.get("/ready"))
                assert client.get("/ready").json() == {"detail": "The database is not available"}
                assert client.get("/health").status_code == 200

            postgresql.start()
            assert client.get("/tasks").json() == [task]
            assert client.get("/ready").status_code == 200
        assert "my secret" not in server.log.read_text()


@pytest.mark.slow
def test_lost_connections_are_noticed_before_they_are_used(
    new_postgresql_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_postgresql_database()
    with (
        ApiServer(tmp_path, url) as server,
        server.client() as client,
        ThreadPoolExecutor(20) as threads,
    ):

        def read(_: int) -> int:
            return client.get("/tasks").status_code

        assert set(threads.map(read, range(40))) == {200}
        with connect(url).connect() as connection:
            killed = connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            ).all()
        assert len(killed) > 1

        assert set(threads.map(read, range(40))) == {200}


def test_a_call_asks_postgresql_as_seldom_as_it_can(
    new_postgresql_database: NewDatabase, tmp_path: Path
) -> None:
    with (
        listen_to_postgresql(new_postgresql_database()) as (url, asked),
        ApiServer(tmp_path, url) as server,
        server.client() as client,
    ):
        create(client)  # opens the connection
        asked.clear()
        client.get("/tasks").raise_for_status()
        client.get("/tasks/1").raise_for_status()
        assert len(asked) == 2

        asked.clear()
        create(client)
        assert [statement[5:11] for statement in asked] == [b"BEGIN\0", b"INSERT", b"COMMIT"]

        create(client, tags=["a", "b"])
        asked.clear()
        create(client, tags=["b", "a"])
        asked_for = [statement[5:11] for statement in asked]
        assert asked_for == [b"BEGIN\0", b"SELECT", b"INSERT", b"INSERT", b"COMMIT"]
        asked.clear()
        client.get("/tasks?tag=a&tag=b").raise_for_status()
        assert len(asked) == 1


@pytest.mark.slow
def test_the_settings_of_a_migration_end_with_it(
    new_postgresql_database: NewDatabase, tmp_path: Path
) -> None:
    with (
        listen_to_postgresql(new_postgresql_database()) as (url, asked),
        ApiServer(tmp_path, url),
    ):
        at_start = [statement[5:].rstrip(b"\0") for statement in asked]

    # A proxy may give the same connection to others afterwards, with all that is set on it.
    settings = [statement for statement in at_start if statement.upper().startswith(b"SET ")]
    assert settings == [b"SET LOCAL statement_timeout = 0", b"SET LOCAL lock_timeout = '2s'"]
    functions = re.findall(rb"set_config|pg_\w*advisory\w*", b"".join(at_start))
    assert functions == [b"pg_advisory_xact_lock"]


@pytest.mark.slow
def test_a_postgresql_that_does_not_answer_is_given_up_after_five_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"postgresql://user:secret@127.0.0.1:{mute.getsockname()[1]}/tasks"
        with (
            ApiServer(tmp_path, url, MIGRATE_AT_START="false") as server,
            server.client() as client,
        ):
            started = time.monotonic()
            answer = client.get("/tasks")
            waited = time.monotonic() - started

            assert_unavailable(answer)
            assert waited < 6
            assert "secret" not in server.log.read_text() + answer.text


@pytest.mark.slow
def test_a_locked_sqlite_is_read_but_not_written_until_it_is_free(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db"
    with (
        ApiServer(tmp_path, url, DATABASE_POOL_TIMEOUT="1") as server,
        server.client() as client,
    ):
        other = sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        assert_unavailable(client.post("/tasks", json={"title": "Write the report"}))
        assert client.get("/tasks").json() == []

        other.close()
        assert create(client)


def test_a_server_is_ready_while_the_schema_is_current(empty_database: str, tmp_path: Path) -> None:
    with (
        ApiServer(tmp_path, empty_database, MIGRATE_AT_START="false") as server,
        server.client() as client,
    ):
        assert_unavailable(client.get("/tasks"))
        assert_unavailable(client.post("/tasks", json={"title": "Write the report"}))
        answer = client.get("/ready")
        assert_unavailable(answer)
        assert "python manage.py migrate" in answer.json()["detail"]
        assert client.get("/health").json() == {"status": "ok"}
        assert client.head("/ready").status_code == 503
        assert client.head("/health").status_code == 200

        alembic(empty_database, "upgrade", "head")
        assert client.get("/ready").json() == {"status": "ready"}
        assert client.head("/ready").status_code == 200

        with connect(empty_database).begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        assert_unavailable(client.get("/ready"))


def test_a_server_is_ready_once_it_has_brought_the_schema_to_the_newest_version(
    client: httpx2.Client,
) -> None:
    assert client.get("/ready").json() == {"status": "ready"}


@pytest.mark.slow
def test_workers_that_start_together_share_the_migration(
    empty_database: str, tmp_path: Path
) -> None:
    servers = [ApiServer(tmp_path, empty_database) for _ in range(6)]
    for server in servers:
        with server, server.client() as client:
            assert client.get("/ready").status_code == 200


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_a_postgresql_url_is_accepted_as_providers_write_it(
    postgresql_url: str, scheme: str
) -> None:
    url = f"{scheme}://{postgresql_url.split('://')[1]}"

    accepted = Settings(_env_file=None, database_url=SecretStr(url)).database_url

    engine = create_engine(accepted.get_secret_value(), poolclass=NullPool)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 42")).scalar() == 42


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
@pytest.mark.parametrize(
    ("hosts", "ports"), [("a:5432,b:5433", "5432,5433"), ("a,b:5433", ",5433"), ("a,b", ",")]
)
def test_a_postgresql_url_may_name_several_hosts(scheme: str, hosts: str, ports: str) -> None:
    url = f"{scheme}://user:pass%2Fword@{hosts}/tasks?target_session_attrs=read-write"

    accepted = Settings(_env_file=None, database_url=SecretStr(url)).database_url

    parsed = make_url(accepted.get_secret_value())
    _, parameters = parsed.get_dialect()().create_connect_args(parsed)
    assert parameters == {
        "host": "a,b",
        "port": ports,
        "user": "user",
        "password": "pass/word",
        "dbname": "tasks",
        "target_session_attrs": "read-write",
    }


def assert_refused(name: str, value: str, sentence: str) -> None:
    """Check that the setting is refused by the sentence, and that this does not repeat a secret."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(name, value)
        with pytest.raises(ValidationError) as refusal:
            Settings(_env_file=None)
    [problem] = refusal.value.errors()
    assert problem["loc"] == (name.lower(),)
    message = problem["msg"].removeprefix("Value error, ")
    assert f"{name} {message}" == sentence
    assert "secret" not in message


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("secret", "DATABASE_URL is not the URL of a database"),
        ("postgresql://user:secret@host:port/tasks", "DATABASE_URL is not the URL of a database"),
        (
            "mysql://user:secret@host/tasks",
            "DATABASE_URL must begin with sqlite:///, postgres:// or postgresql://",
        ),
        (
            "postgresql+asyncpg://user:secret@host/tasks",
            "DATABASE_URL must begin with sqlite:///, postgres:// or postgresql://",
        ),
        (
            "postgresql://user:pass@secret@host/tasks",
            "DATABASE_URL must have %40 for @, and %2F for /, in the user's name or password",
        ),
        (
            "postgresql://user:1,secret/x@host/tasks",
            "DATABASE_URL must have %40 for @, and %2F for /, in the user's name or password",
        ),
        (
            "postgresql://user:secret@a:x,b:5432/tasks",
            "DATABASE_URL has hosts and ports that do not match",
        ),
        (
            "postgresql://user:secret@host/tasks?pgbouncer=true",
            "DATABASE_URL has an option that PostgreSQL does not know",
        ),
        (
            "postgresql://user:secret@/tasks?host=a,b&port=1,2,3",
            "DATABASE_URL has hosts and ports that do not match",
        ),
        ("sqlite://", "DATABASE_URL must name a file, as in sqlite:///tasks.db"),
        ("sqlite://tasks.db", "DATABASE_URL must name a file, as in sqlite:///tasks.db"),
        ("sqlite:///:memory:", "DATABASE_URL must name a file, as in sqlite:///tasks.db"),
    ],
)
def test_a_wrong_database_url_is_refused_by_a_sentence(url: str, sentence: str) -> None:
    assert_refused("DATABASE_URL", url, sentence)


@pytest.mark.parametrize(
    ("database_url", "replica_url"),
    [
        ("sqlite:///tasks.db", "postgresql://user:secret@host/tasks"),
        ("postgresql://user:secret@host/tasks", "sqlite:///secret.db"),
    ],
)
def test_a_replica_is_one_of_postgresql(
    monkeypatch: pytest.MonkeyPatch, database_url: str, replica_url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)

    sentence = "must be a PostgreSQL replica of a PostgreSQL DATABASE_URL"
    assert_refused("DATABASE_REPLICA_URL", replica_url, f"DATABASE_REPLICA_URL {sentence}")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("DATABASE_POOL_SIZE", "0", "Input should be greater than 0"),
        ("DATABASE_MAX_OVERFLOW", "-1", "Input should be greater than or equal to 0"),
        (
            "DATABASE_POOL_TIMEOUT",
            "soon",
            "Input should be a valid integer, unable to parse string as an integer",
        ),
        ("DATABASE_CONNECT_TIMEOUT", "6", "Input should be less than or equal to 5"),
        (
            "MIGRATE_AT_START",
            "perhaps",
            "Input should be a valid boolean, unable to interpret input",
        ),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_name(name: str, value: str, problem: str) -> None:
    assert_refused(name, value, f"{name} {problem}")


@pytest.mark.parametrize("secret", ["", "x" * 31])
def test_a_short_secret_is_refused_by_a_sentence(secret: str) -> None:
    assert_refused("SECRET_KEY", secret, "SECRET_KEY must have 32 characters or more")


def test_a_secret_of_32_characters_is_enough() -> None:
    assert Settings(_env_file=None, secret_key=SecretStr("x" * 32)).secret_key


@pytest.mark.parametrize(
    "origin",
    [
        *("*", "null", "app.example", "https://app.example/", "https://app.example/page"),
        *("https://App.example", "https://app.example:443", "https://user@app.example"),
        *(
            "https://app.example https://other.example",
            "ftp://app.example",
            "https://ümlaut.example",
        ),
        *("https://*.example", "https://*", "https://.app.example", "https://app..example"),
        *("https://app.example:*", "https://app,example", "https://a$b.example", "https://"),
        *("http://[::1", "http://127.1", "http://[::1%25eth0]", "file://", "https://?"),
    ],
)
def test_what_no_browser_sends_as_an_origin_is_refused_by_a_sentence(origin: str) -> None:
    sentence = "must be like https://example.com, without a path, and with commas between"
    assert_refused("CORS_ORIGINS", origin, f"CORS_ORIGINS {sentence}")
    assert_refused("CORS_ORIGINS", f"https://good.example,{origin}", f"CORS_ORIGINS {sentence}")


def test_several_origins_have_commas_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", "https://app.example, http://localhost:5173,http://[::1]")

    origins = "https://app.example,http://localhost:5173,http://[::1]"
    assert Settings(_env_file=None).cors_origins == origins


@pytest.mark.parametrize(
    "host",
    [
        *("*", "*.app.example", ".app.example", "app..example", "app.example.", "app.example:443"),
        *("https://app.example", "app.example/", "[::1]", "user@app.example", "ümlaut.example"),
        *("app.example other.example", "app.example;other.example", " ", ","),
    ],
)
def test_what_no_browser_sends_as_the_name_of_a_host_is_refused_by_a_sentence(host: str) -> None:
    sentence = "must be like tasks.example.com, without a port, and with commas between"
    assert_refused("ALLOWED_HOSTS", host, f"ALLOWED_HOSTS {sentence}")
    assert_refused("ALLOWED_HOSTS", f"good.example,{host}", f"ALLOWED_HOSTS {sentence}")


def test_names_of_hosts_are_kept_as_browsers_send_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_HOSTS", "Tasks.Example.com, task_api,xn--mlaut-jva.example")

    names = "tasks.example.com,task_api,xn--mlaut-jva.example"
    assert Settings(_env_file=None).allowed_hosts == names


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_wrong_settings_end_the_start_with_a_sentence_for_each(
    tmp_path: Path, workers: str
) -> None:
    url = "mysql://user:secret@host/tasks"
    options = ("--workers", workers, "--timeout-worker-healthcheck", "1")
    server = ApiServer(tmp_path, url, *options, DATABASE_POOL_SIZE="0", SECRET_KEY="x" * 31)

    status = server.process.wait(timeout=30)

    output = server.log.read_text()
    of_uvicorn = ("INFO:", "ERROR:")
    sentences = [line for line in output.splitlines() if not line.startswith(of_uvicorn)]
    assert set(sentences) == {
        "DATABASE_URL must begin with sqlite:///, postgres:// or postgresql://",
        "DATABASE_POOL_SIZE Input should be greater than 0",
        "SECRET_KEY must have 32 characters or more",
    }
    assert "secret" not in output
    assert "x" * 31 not in output
    assert "Traceback" not in output
    assert (status == 0) is (workers == "2")


def test_without_settings_the_defaults_are_those_of_the_example() -> None:
    defaults = Settings(_env_file=None)

    assert defaults == Settings(_env_file=ROOT / ".env.example")
    assert defaults.database_url.get_secret_value() == "sqlite:///tasks.db"
    assert (defaults.database_pool_size, defaults.database_max_overflow) == (20, 0)
    assert (defaults.cors_origins, defaults.allowed_hosts) == ("", "")


@pytest.mark.slow
def test_the_settings_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"DATABASE_URL=sqlite:///{tmp_path}/from-file.db\n")
    with ApiServer(tmp_path) as server, server.client() as client:
        assert client.get("/ready").status_code == 200
    assert (tmp_path / "from-file.db").exists()


def test_secrets_of_a_container_are_files_and_the_environment_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret_key").write_text("x" * 64 + "\n")
    (tmp_path / "token_lifetime").write_text("30")
    monkeypatch.setenv("TOKEN_LIFETIME", "20")

    settings = Settings(_env_file=None, _secrets_dir=tmp_path)

    assert settings.secret_key is not None
    assert settings.secret_key.get_secret_value() == "x" * 64
    assert settings.token_lifetime == 20
