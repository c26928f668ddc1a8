"""What a client may rely on in the OpenAPI document, from which clients are generated."""

import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from servers import ApiServer


def test_generated_requests_find_no_failure(server: ApiServer, tmp_path: Path) -> None:
    """Schemathesis makes requests of all kinds from the document, and checks every answer by it."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
            *("--checks", "all", "--phases", "examples,coverage,fuzzing,stateful"),
            *("--max-examples", "50"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout
    assert "No issues found" in run.stdout


@pytest.mark.parametrize(
    ("method", "path", "answers"),
    [
        ("get", "/health", {"200"}),
        ("get", "/ready", {"200", "503"}),
        ("post", "/tasks", {"201", "400", "413", "422", "503"}),
        ("get", "/tasks", {"200", "404", "422", "503"}),
        ("get", "/tasks/by-status/{status}", {"200", "404", "422", "503"}),
        ("get", "/tasks/recent", {"200", "404", "422", "503"}),
        ("get", "/tasks/stats", {"200", "422", "503"}),
        ("get", "/tasks/{task_id}", {"200", "404", "422", "503"}),
        ("patch", "/tasks/{task_id}", {"200", "400", "404", "413", "422", "503"}),
        ("put", "/tasks/{task_id}", {"200", "400", "404", "413", "422", "503"}),
        ("delete", "/tasks/{task_id}", {"200", "404", "422", "503"}),
    ],
)
def test_all_that_a_call_may_answer_is_documented_with_its_model(
    client: httpx2.Client, method: str, path: str, answers: set[str]
) -> None:
    documented = client.get("/openapi.json").json()["paths"][path][method]["responses"]

    assert documented.keys() == answers
    assert all(answer["content"]["application/json"]["schema"] for answer in documented.values())


@pytest.mark.parametrize(
    ("method", "path", "status", "headers"),
    [
        ("post", "/tasks", "201", {"Location"}),
        ("post", "/tasks", "503", {"Retry-After"}),
        ("get", "/tasks", "200", {"Link", "X-Total-Count"}),
    ],
)
def test_the_headers_of_an_answer_are_documented(
    client: httpx2.Client, method: str, path: str, status: str, headers: set[str]
) -> None:
    operation = client.get("/openapi.json").json()["paths"][path][method]

    assert operation["responses"][status]["headers"].keys() == headers


def test_no_field_of_a_task_that_clients_see_is_optional(client: httpx2.Client) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"]["TaskPublic"]

    assert schema["required"] == list(schema["properties"])


def test_the_first_page_leads_to_the_documentation(client: httpx2.Client) -> None:
    answer = client.get("/", follow_redirects=True)

    assert answer.status_code == 200
    assert answer.url.path == "/docs"
    assert "swagger-ui" in answer.text
