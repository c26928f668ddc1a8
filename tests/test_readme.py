"""The README and docs hold: their commands do what they say, and print what they show."""

import ast
import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from calls import create
from servers import ROOT, ApiServer, alembic, connect, environment
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

README = (ROOT / "README.md").read_text()
EXTENDING = (ROOT / "docs/extending.md").read_text()

# Stands in for curl on a machine without it: the options that the README uses.
CURL = f"""#!{sys.executable}
import argparse, httpx2
parser = argparse.ArgumentParser(add_help=False)
parser.add_argument("-s", action="store_true")
parser.add_argument("-i", action="store_true")
parser.add_argument("-X")
parser.add_argument("-H", action="append", default=[])
parser.add_argument("-d")
parser.add_argument("url")
call = parser.parse_args()
form = {{"Content-Type": "application/x-www-form-urlencoded"}} if call.d else {{}}
answer = httpx2.request(
    call.X or ("POST" if call.d else "GET"),
    call.url if "://" in call.url else "http://" + call.url,
    headers=form | dict(header.split(": ", 1) for header in call.H),
    content=call.d,
)
if call.i:
    print(answer.http_version, answer.status_code, answer.reason_phrase)
    print(*(f"{{name}}: {{value}}" for name, value in answer.headers.items()), "", sep="\\n")
print(answer.text, end="")
"""


def blocks(language: str, section: str, page: str = README) -> list[str]:
    """Return the code of one language below a heading."""
    [text] = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def session(server: ApiServer, blocks: list[str], folder: Path) -> str:
    """Run the commands of a console, and return the console as it then looks."""
    stand_in = folder / "curl"
    stand_in.write_text(CURL)
    stand_in.chmod(0o755)
    host = server.url.removeprefix("http://")
    commands = re.findall(r"^\$ (.*)", "".join(blocks), re.MULTILINE)
    # In one shell, so that a variable is there for the commands that follow.
    script = "\n".join(f"echo '$ '{shlex.quote(command)}\n{command}\necho" for command in commands)
    run = subprocess.run(
        ["sh", "-ec", script.replace("localhost:8000", host)],  # noqa: S607
        env=os.environ | {"PATH": f"{os.environ['PATH']}:{folder}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return re.sub(r"\n+(?=\$ |\Z)", "\n", run.stdout).replace(host, "localhost:8000")


def without_datetimes(console: str) -> str:
    """Leave out what differs from run to run."""
    pattern = r"20[2-9]\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
    return re.sub(r"^date: .*", "date: …", re.sub(pattern, "…", console), flags=re.MULTILINE)


def test_the_tour_shows_what_its_commands_print(empty_database: str, tmp_path: Path) -> None:
    tour = blocks("console", "Two minutes with curl")

    with ApiServer(tmp_path, empty_database) as server:
        console = session(server, tour, tmp_path)

    assert without_datetimes(console) == without_datetimes("".join(tour))


@pytest.mark.slow
def test_the_tour_of_a_team_shows_what_its_commands_print(
    empty_database: str, tmp_path: Path
) -> None:
    [commands] = blocks("sh", "Five minutes as a team")
    tour = blocks("console", "Five minutes as a team")
    *settings, create, _start = commands.splitlines()
    run = partial(subprocess.run, cwd=tmp_path, check=True)
    run(["sh", "-ec", "\n".join(settings)])
    _python, *command = [*shlex.split(create), "--password-stdin"]
    run(
        [sys.executable, str(ROOT / command[0]), *command[1:]],
        env=environment(empty_database),
        input=b"engine-of-1843",
    )

    with ApiServer(tmp_path, empty_database) as server:
        console = session(server, tour, tmp_path)

    assert without_datetimes(console) == without_datetimes("".join(tour))


def edit(copy: Path, diff: str) -> None:
    """Add the lines with a plus, each behind the line that stands above it."""
    first, _, lines = diff.partition("\n")
    file = copy / first.removeprefix("--- ")
    code, position = file.read_text(), 0
    for line in filter(None, lines.splitlines(keepends=True)):
        if line.startswith("+"):
            code = code[:position] + line[1:] + code[position:]
        elif line.strip():
            position = code.index(line[1:], position)
        position += len(line[1:])
    file.write_text(code)


@pytest.mark.slow
def test_the_api_is_extended_as_described(empty_database: str, copy: Path) -> None:
    with ApiServer(copy, empty_database) as server, server.client() as client:
        session(server, blocks("console", "Two minutes with curl"), copy)
        before = client.get("/tasks").json()

    [diff], [commands], field = (
        blocks(language, "Add a field", EXTENDING) for language in ("diff", "sh", "console")
    )
    edit(copy, diff)
    alembic(empty_database, *shlex.split(commands.splitlines()[0])[1:], project=copy)
    [diff], filtered = (
        blocks(language, "Filter by it", EXTENDING) for language in ("diff", "console")
    )
    edit(copy, diff)
    [diff], [command], [functions] = (
        blocks(language, "Add a status", EXTENDING) for language in ("diff", "sh", "python")
    )
    edit(copy, diff)
    alembic(empty_database, *shlex.split(command)[1:], project=copy)
    [migration] = (copy / "migrations/versions").glob("*_add_the_status_blocked.py")
    header, _ = migration.read_text().split("def upgrade")
    migration.write_text(header + functions)

    with ApiServer(copy, empty_database, app_dir=copy) as server, server.client() as client:
        assert client.get("/tasks").json() == [task | {"location": None} for task in before]
        shown = session(server, [*field, *filtered], copy)
        assert without_datetimes(shown) == without_datetimes("".join([*field, *filtered]))
        assert client.patch("/tasks/1", json={"location": "Room 2"}).json()["location"] == "Room 2"
        blocked = create(client, status="blocked")
        assert client.get("/tasks/by-status/blocked").json() == [blocked]
        assert client.get("/tasks/stats").json()["by_status"]["blocked"] == 1
        client.delete(f"/tasks/{blocked['id']}", params={"permanent": True})
        assert create(client)["id"] > blocked["id"]
    assert "No new upgrade operations" in alembic(empty_database, "check", project=copy)
    check = [sys.executable, "-m", "mypy"]
    assert subprocess.run(check, cwd=copy, check=False, stdout=sys.stderr).returncode == 0

    alembic(empty_database, "downgrade", "-1", project=copy)
    with pytest.raises(IntegrityError), connect(empty_database).begin() as connection:
        connection.execute(text("UPDATE task SET status = 'blocked'"))
    alembic(empty_database, "downgrade", "-1", project=copy)
    with ApiServer(copy, empty_database) as server, server.client() as client:
        assert client.get("/tasks/2").json() == before[1]


def test_the_feature_is_shown_as_it_is_in_the_code() -> None:
    for diff in blocks("diff", "Add a feature", EXTENDING):
        first, *lines = filter(None, diff.splitlines())
        code, position = (ROOT / first.removeprefix("--- ")).read_text(), 0
        for line in lines:
            position = code.index(f"\n{line[1:]}", position) + len(line)


def test_the_table_of_files_says_of_each_module_what_its_docstring_says() -> None:
    modules = {*ROOT.glob("*.py"), *ROOT.glob("api/*.py")} - {ROOT / "api/__init__.py"}
    docstrings = {file: str(ast.get_docstring(ast.parse(file.read_text()))) for file in modules}

    rows = re.findall(r"^\| `(\S+\.py)` \| (.*) \|$", README, re.MULTILINE)
    assert {ROOT / name: f"{about}." for name, about in rows} == {
        file: docstring.partition("\n")[0] for file, docstring in docstrings.items()
    }
