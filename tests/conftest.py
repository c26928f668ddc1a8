"""A server on each of the two databases, and empty databases for the tests that need their own."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from calls import PASSWORD, SECRET_KEY, insert_user, sign_in
from clusters import Cluster, run_primary_and_standby
from servers import ROOT, ApiServer, connect, run_postgresql
from sqlalchemy import Engine, insert, inspect, make_url, select, text

from api.passwords import hasher
from config import settings
from models import User

# The app in this process is open, also where `.env` is that of a team.
settings.secret_key = None


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes test at once; but what the slow tests measure, they measure alone."""
    return 2 if config.option.markexpr == "not slow" else 0


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """The server that TEST_DATABASE_URL names, or one that is brought along."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
    else:
        with run_postgresql() as server:
            yield server.get_uri()


@pytest.fixture(scope="session")
def new_postgresql_database(postgresql_url: str) -> Iterator[Callable[..., str]]:
    """A function that returns the URL of a new and empty database, created with these options."""
    names: list[str] = []
    engine = connect(postgresql_url).execution_options(isolation_level="AUTOCOMMIT")

    def create(options: str = "") -> str:
        names.append(f"test_{uuid4().hex}")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {names[-1]} {options}"))
        url = make_url(postgresql_url).set(database=names[-1])
        return url.render_as_string(hide_password=False)

    yield create
    if "TEST_DATABASE_URL" in os.environ:  # else the server goes, and all its databases with it
        with engine.connect() as connection:
            for name in names:
                connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def new_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], str]:
    """A function that returns the URL of a new and empty database, on each of the two in turn."""
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/tasks.db"
    create: Callable[[], str] = request.getfixturevalue("new_postgresql_database")
    return create


@pytest.fixture(scope="session")
def pair() -> Iterator[tuple[Cluster, Cluster]]:
    """A primary and its standby, which the tests leave as they were."""
    with run_primary_and_standby() as pair:
        yield pair


@pytest.fixture
def primary(pair: tuple[Cluster, Cluster]) -> Cluster:
    return pair[0]


@pytest.fixture
def standby(pair: tuple[Cluster, Cluster]) -> Cluster:
    return pair[1]


@pytest.fixture
def empty_database(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture(scope="session")
def server(
    new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiServer]:
    folder = tmp_path_factory.mktemp("server")
    with ApiServer(folder, new_database(), "--workers", "2") as server:
        yield server


@pytest.fixture(scope="session")
def engine(server: ApiServer) -> Engine:
    """The server's database, to prepare what no client can and to see what no client sees."""
    return connect(server.database_url)


@pytest.fixture
def client(server: ApiServer, engine: Engine) -> Iterator[httpx2.Client]:
    """A client of a server without tasks and users."""
    with engine.begin() as connection:
        for table in ("idempotency_key", "transfer", "task_tag", "task", "tag", '"user"'):
            connection.execute(text(f"DELETE FROM {table}"))  # noqa: S608
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def team_server(
    new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiServer]:
    """A server where one must sign in, and where Ada, who is an administrator, and Bob may.

    Of one process, since each counts wrong passwords for itself.
    """
    folder = tmp_path_factory.mktemp("team")
    with ApiServer(folder, new_database(), SECRET_KEY=SECRET_KEY) as server:
        engine = connect(server.database_url)
        insert_user(engine, "ada", is_admin=True, password_hash=hasher.hash(PASSWORD))
        insert_user(engine, "bob")
        yield server


@pytest.fixture(scope="session")
def team_engine(team_server: ApiServer) -> Engine:
    return connect(team_server.database_url)


@pytest.fixture(scope="session")
def members(team_engine: Engine) -> list[dict[str, Any]]:
    """Ada and Bob as they are in the database before any test changes them."""
    with team_engine.connect() as connection:
        return [
            dict(row) for row in connection.execute(select(inspect(User).local_table)).mappings()
        ]


@pytest.fixture
def team(team_server: ApiServer, team_engine: Engine, members: list[dict[str, Any]]) -> ApiServer:
    """The same without tasks, with no other user, and with these two as they were."""
    with team_engine.begin() as connection:
        for table in ("idempotency_key", "transfer", "task_tag", "task", "tag", '"user"'):
            connection.execute(text(f"DELETE FROM {table}"))  # noqa: S608
        connection.execute(insert(User), members)
    return team_server


@pytest.fixture
def stranger(team: ApiServer) -> Iterator[httpx2.Client]:
    """A client who is not signed in."""
    with team.client() as client:
        yield client


@pytest.fixture(scope="session")
def tokens(team_server: ApiServer) -> dict[str, str]:
    """What Ada and Bob send as `Authorization`, since to sign in for each test would take long."""

    def token(username: str) -> str:
        with sign_in(team_server, username) as client:
            return client.headers["Authorization"]

    return {username: token(username) for username in ("ada", "bob")}


@pytest.fixture
def ada(team: ApiServer, tokens: dict[str, str]) -> Iterator[httpx2.Client]:
    with team.client(Authorization=tokens["ada"]) as client:
        yield client


@pytest.fixture
def bob(team: ApiServer, tokens: dict[str, str]) -> Iterator[httpx2.Client]:
    with team.client(Authorization=tokens["bob"]) as client:
        yield client


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project in a folder of its own, to be changed as the README says: what an image has."""
    copied = re.findall(
        r"^COPY (.+) (.+)$", (ROOT / "deploy/Containerfile").read_text(), re.MULTILINE
    )
    for names, target in copied:
        for source in chain.from_iterable(map(ROOT.glob, names.split())):
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, tmp_path / target, ignore=ignore)
            else:
                shutil.copy(source, tmp_path / target)
    return tmp_path
