"""The page about clients holds: they are generated from the document, and do what it says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from calls import PASSWORD, SECRET_KEY, create
from servers import ROOT, ApiServer
from test_readme import blocks

PAGE = (ROOT / "docs/clients.md").read_text()
FILES = ROOT / "tests/clients"
# So that npm and the linters ask and print only what the tests are about.
QUIET = {
    "npm_config_audit": "false",
    "npm_config_fund": "false",
    "npm_config_ignore_scripts": "true",
    "npm_config_loglevel": "error",
    "npm_config_package_lock": "false",
    "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
    "REDOCLY_TELEMETRY": "off",
}

pytestmark = pytest.mark.slow


def start(folder: Path, command: str, *programs: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder, where the shell finds these programs first."""
    path = os.pathsep.join([*map(str, programs), os.environ["PATH"]])
    return subprocess.run(
        ["sh", "-ec", command],  # noqa: S607
        cwd=folder,
        env=os.environ | QUIET | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def run(folder: Path, command: str, *programs: Path) -> str:
    """Run a command, which has to succeed, and return all that it prints."""
    done = start(folder, command, *programs)
    assert done.returncode == 0, done.stdout
    return done.stdout


def commands(language: str) -> list[str]:
    """Return what the page has to install a generator, to run it, and to use its client."""
    [block] = blocks("sh", language, PAGE)
    return block.split("\n\n")


def for_server(text: str, server: ApiServer) -> str:
    """Return commands or code of the page for this server and its user."""
    return text.replace("http://localhost:8000", server.url).replace("engine-of-1843", PASSWORD)


@pytest.fixture(scope="session")
def python_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generator for Python, in an environment of its own."""
    folder = tmp_path_factory.mktemp("python")
    install, *_ = commands("Python")
    run(folder, install, Path(sys.executable).parent)
    shutil.copy(FILES / "round_trip.py", folder)
    return folder


@pytest.fixture(scope="session")
def tools_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what makes the tools of an agent, in an environment of its own."""
    folder = tmp_path_factory.mktemp("tools")
    [install] = commands("AI agents")
    run(folder, install, Path(sys.executable).parent)
    shutil.copy(FILES / "use_tools.py", folder)
    return folder


@pytest.fixture(scope="session")
def npm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generators for TypeScript and with the linters."""
    if shutil.which("npm") is None:
        pytest.skip(
            "npm is not there, which installs the generators for TypeScript and the linters"
        )
    folder = tmp_path_factory.mktemp("npm")
    for name in ("round_trip.ts", "exports.ts"):
        shutil.copy(FILES / name, folder)
    install, *_ = commands("TypeScript")
    run(folder, install)
    packages = json.loads((FILES / "package.json").read_text())["devDependencies"].items()
    run(folder, "npm install " + " ".join(f"{name}@{version}" for name, version in packages))
    return folder


def generate_python(folder: Path, server: ApiServer) -> None:
    """Generate the client without a warning, and check the types of it and of its use."""
    _, generate = commands("Python")
    [use] = blocks("python", "Python", PAGE)
    (folder / "use.py").write_text(for_server(use, server))
    programs = folder / ".venv-client/bin"

    printed = run(folder, for_server(generate, server), programs)

    assert printed == "Generating task_api\n"
    mypy = f"{sys.executable} -m mypy --strict --python-executable {programs}/python"
    run(folder, f"{mypy} task_api round_trip.py use.py")


def generate_typescript(folder: Path, server: ApiServer) -> str:
    """Do the same for TypeScript, and return the page's command that compiles and runs a client."""
    _, generate, start = commands("TypeScript")
    [use] = blocks("ts", "TypeScript", PAGE)
    (folder / "client.ts").write_text(for_server(use, server))

    printed = run(folder, for_server(generate, server))

    assert [line[0] for line in printed.splitlines()] == ["✨", "🚀"], printed
    return start


def start_round_trip(command: str, arguments: str) -> str:
    """Return the command for the round trip, which is checked more strictly too."""
    command = command.replace("tsc", "tsc --noUncheckedIndexedAccess", 1)
    return command.replace("client.", "round_trip.").strip() + f" {arguments}"


@pytest.mark.usefixtures("client")
def test_a_python_client_makes_a_round_trip(python_folder: Path, server: ApiServer) -> None:
    generate_python(python_folder, server)

    run(python_folder, f".venv-client/bin/python round_trip.py {server.url}")


def test_a_python_client_signs_in(python_folder: Path, team: ApiServer) -> None:
    generate_python(python_folder, team)

    run(python_folder, f".venv-client/bin/python round_trip.py {team.url} ada '{PASSWORD}'")
    printed = run(python_folder, ".venv-client/bin/python use.py")

    assert printed.splitlines() == ["Write the report", "Task 4", "Task 3", "Write the report"]


@pytest.mark.usefixtures("client")
def test_a_typescript_client_makes_a_round_trip(npm_folder: Path, server: ApiServer) -> None:
    command = generate_typescript(npm_folder, server)

    run(npm_folder, start_round_trip(command, server.url))


def test_a_typescript_client_signs_in(npm_folder: Path, team: ApiServer) -> None:
    command = generate_typescript(npm_folder, team)

    run(npm_folder, start_round_trip(command, f"{team.url} ada '{PASSWORD}'"))
    printed = run(npm_folder, command)

    assert printed.splitlines() == ["Write the report", "Task 4", "Task 3", "Write the report"]


def use_tools(folder: Path, server: ApiServer, *, with_token: bool) -> None:
    """Use the tools of the page, with the lines about the token or without them."""
    [tools] = blocks("python", "AI agents", PAGE)
    lines = for_server(tools, server).splitlines()
    kept = [line for line in lines if with_token or "token" not in line]
    (folder / "task_tools.py").write_text("\n".join(kept))

    run(folder, ".venv-tools/bin/python use_tools.py")


@pytest.mark.usefixtures("client")
def test_an_agent_uses_the_tools_of_an_open_api(tools_folder: Path, server: ApiServer) -> None:
    use_tools(tools_folder, server, with_token=False)


def test_an_agent_uses_the_tools_of_a_team(tools_folder: Path, team: ApiServer) -> None:
    use_tools(tools_folder, team, with_token=True)


# The document is the same on both databases, so these use one.


def test_other_typescript_clients_export(npm_folder: Path, tmp_path: Path) -> None:
    with ApiServer(tmp_path, f"sqlite:///{tmp_path}/tasks.db") as server:
        output = {"target": "orval.ts", "client": "fetch", "baseUrl": server.url}
        config = {"api": {"input": f"{server.url}/openapi.json", "output": output}}
        (npm_folder / "orval.config.mjs").write_text(f"export default {json.dumps(config)}")
        # From it, Hey API knows that imports name the files with their extension.
        (npm_folder / "tsconfig.json").write_text('{"compilerOptions": {"module": "nodenext"}}')
        with server.client() as client:
            for title in ("a", "b"):
                create(client, title=title)

        run(npm_folder, f"npx openapi-ts --input {server.url}/openapi.json --output hey --silent")
        run(npm_folder, "npx orval")
        run(npm_folder, "npx tsc --strict --target es2022 --module nodenext exports.ts")
        run(npm_folder, f"node exports.js {server.url}")


def lint(folder: Path, server: ApiServer) -> tuple[set[str], set[str]]:
    """Return the rules by which Spectral finds anything, and Redocly an error."""
    (folder / "spectral.json").write_text('{"extends": ["spectral:oas"]}')
    document = f"{server.url}/openapi.json"
    spectral = start(folder, f"npx spectral lint {document} -r spectral.json --format json --quiet")
    redocly = start(folder, f"npx redocly lint {document} --format json 2>/dev/null")
    problems = json.loads(redocly.stdout)["problems"]
    return (
        {result["code"] for result in json.loads(spectral.stdout)},
        {problem["ruleId"] for problem in problems if problem["severity"] == "error"},
    )


def test_linters_find_only_that_the_open_api_names_no_security(
    npm_folder: Path, tmp_path: Path
) -> None:
    with ApiServer(tmp_path, f"sqlite:///{tmp_path}/tasks.db") as server:
        assert lint(npm_folder, server) == ({"info-contact"}, {"security-defined"})


def test_linters_find_no_error_in_the_document_of_a_team(npm_folder: Path, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/tasks.db"
    with ApiServer(tmp_path, database, SECRET_KEY=SECRET_KEY) as server:
        assert lint(npm_folder, server) == ({"info-contact"}, set())
