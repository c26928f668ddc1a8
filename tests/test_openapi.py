"""What a client may rely on in the OpenAPI document, from which clients are generated."""

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from servers import ROOT, ApiServer


def assert_generated_requests_find_no_failure(
    server: ApiServer, folder: Path, *options: str, **environment: str
) -> None:
    """Schemathesis makes requests of all kinds from the document, and checks every answer by it."""
    tests = ROOT / "tests"
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", str(tests / "schemathesis.toml")),
            *("run", f"{server.url}/openapi.json"),
            *("--checks", "all", "--phases", "examples,coverage,fuzzing,stateful"),
            *("--max-examples", "20", *options),
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(ROOT)])} | environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout
    assert "No issues found" in run.stdout or " passed" in run.stdout
    assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("client")
def test_generated_requests_find_no_failure(server: ApiServer, tmp_path: Path) -> None:
    assert_generated_requests_find_no_failure(server, tmp_path)


@pytest.mark.slow
def test_generated_requests_of_a_member_find_no_failure(
    team: ApiServer, ada: httpx2.Client, tmp_path: Path
) -> None:
    authorization = f"Authorization: {ada.headers['Authorization']}"
    own = str(ada.get("/users/me").json()["id"])

    assert_generated_requests_find_no_failure(team, tmp_path, "-H", authorization, OWN_USER_ID=own)

    assert ada.get("/users/me").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "answers"),
    [
        ("get", "/health", {"200", "503"}),
        ("get", "/ready", {"200", "503"}),
        ("post", "/token", {"200", "400", "401", "404", "413", "415", "422", "429", "503"}),
        ("post", "/users", {"201", "400", "403", "409", "413", "422", "503"}),
        ("get", "/users", {"200", "422", "503"}),
        ("get", "/users/me", {"200", "404", "503"}),
        ("get", "/users/{user_id}", {"200", "404", "422", "503"}),
        (
            "patch",
            "/users/{user_id}",
            {"200", "400", "403", "404", "409", "413", "422", "429", "503"},
        ),
        ("delete", "/users/{user_id}", {"200", "403", "404", "409", "422", "503"}),
        ("get", "/users/{user_id}/tasks", {"200", "404", "422", "503"}),
        ("post", "/tasks", {"201", "400", "409", "413", "422", "503"}),
        ("post", "/tasks/bulk", {"201", "400", "409", "413", "422", "503"}),
        ("patch", "/tasks/bulk", {"200", "400", "404", "413", "422", "503"}),
        ("get", "/tasks", {"200", "422", "503"}),
        ("get", "/tasks/by-status/{status}", {"200", "422", "503"}),
        ("get", "/tasks/recent", {"200", "422", "503"}),
        ("get", "/tasks/stats", {"200", "422", "503"}),
        ("get", "/tasks/{task_id}", {"200", "304", "404", "422", "503"}),
        ("patch", "/tasks/{task_id}", {"200", "400", "404", "412", "413", "422", "503"}),
        ("put", "/tasks/{task_id}", {"200", "400", "404", "412", "413", "422", "503"}),
        ("delete", "/tasks/{task_id}", {"200", "404", "412", "422", "503"}),
        ("post", "/tasks/{task_id}/restore", {"200", "404", "422", "503"}),
        ("post", "/tasks/{task_id}/transfer", {"200", "400", "404", "409", "413", "422", "503"}),
        ("get", "/tasks/{task_id}/transfers", {"200", "404", "422", "503"}),
    ],
)
def test_all_that_a_call_may_answer_is_documented_with_its_model(
    client: httpx2.Client, method: str, path: str, answers: set[str]
) -> None:
    documented = client.get("/openapi.json").json()["paths"][path][method]["responses"]

    assert documented.keys() == answers
    documented.pop("304", None)  # has no content
    assert all(answer["content"]["application/json"]["schema"] for answer in documented.values())


@pytest.mark.parametrize(
    ("method", "path", "status", "headers"),
    [
        ("post", "/tasks", "201", {"Location", "ETag"}),
        ("post", "/users", "201", {"Location"}),
        ("get", "/users", "200", {"Link", "X-Total-Count"}),
        ("get", "/tasks/{task_id}", "200", {"ETag"}),
        ("patch", "/tasks/{task_id}", "200", {"ETag"}),
        ("post", "/token", "401", {"WWW-Authenticate"}),
        ("post", "/token", "429", {"Retry-After"}),
        ("post", "/tasks", "503", {"Retry-After"}),
        ("get", "/tasks", "200", {"Link", "X-Total-Count"}),
    ],
)
def test_the_headers_of_an_answer_are_documented(
    client: httpx2.Client, method: str, path: str, status: str, headers: set[str]
) -> None:
    operation = client.get("/openapi.json").json()["paths"][path][method]

    assert operation["responses"][status]["headers"].keys() == headers


@pytest.mark.parametrize("name", ["TaskPublic", "UserPublic", "TransferPublic"])
def test_no_field_that_clients_see_is_optional(client: httpx2.Client, name: str) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"][name]

    assert schema["required"] == list(schema["properties"])


def test_the_first_page_leads_to_the_documentation(client: httpx2.Client) -> None:
    answer = client.get("/", follow_redirects=True)

    assert answer.status_code == 200
    assert answer.url.path == "/docs"
    assert "swagger-ui" in answer.text
