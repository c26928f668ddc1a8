"""What a client may rely on in the OpenAPI document, from which clients are generated."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from calls import PASSWORD, SECRET_KEY, create_many, create_user, insert_user, sign_in
from servers import ROOT, ApiServer, connect

from api.passwords import hasher
from api.sorts import TaskSort

# Two checks that do not fit: a deleted task may be restored; and for the id of the user who is
# signed in, the hook sends 0, which no user has.
UNFIT = "use_after_free,ensure_resource_availability"
# Random values of a wrong type may become right ones in a URL: `[true]` is sent as `true`.
PHASES = {"examples,coverage": UNFIT, "fuzzing,stateful": f"{UNFIT},negative_data_rejection"}


def assert_generated_requests_find_no_failure(
    server: ApiServer, folder: Path, *options: str, **environment: str
) -> None:
    """Schemathesis makes requests of all kinds from the document, and checks every answer by it."""
    tests = ROOT / "tests"
    for phases, unfit in PHASES.items():
        run = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli"),
                *("--config-file", str(tests / "schemathesis.toml")),
                *("run", f"{server.url}/openapi.json", "--phases", phases),
                *("--checks", "all", "--exclude-checks", unfit),
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
        ("get", "/health", {"200", "422", "503"}),
        ("get", "/ready", {"200", "422", "503"}),
        ("post", "/token", {"200", "400", "401", "404", "413", "415", "422", "429", "503"}),
        ("post", "/users", {"201", "400", "403", "409", "413", "415", "422", "503"}),
        ("get", "/users", {"200", "422", "503"}),
        ("get", "/users/me", {"200", "404", "422", "503"}),
        ("get", "/users/{user_id}", {"200", "404", "422", "503"}),
        (
            "patch",
            "/users/{user_id}",
            {"200", "400", "403", "404", "409", "413", "415", "422", "429", "503"},
        ),
        ("delete", "/users/{user_id}", {"200", "403", "404", "409", "422", "503"}),
        ("get", "/users/{user_id}/tasks", {"200", "404", "422", "503"}),
        ("post", "/tasks", {"201", "400", "409", "413", "415", "422", "503"}),
        ("post", "/tasks/bulk", {"201", "400", "409", "413", "415", "422", "503"}),
        ("patch", "/tasks/bulk", {"200", "400", "404", "412", "413", "415", "422", "503"}),
        ("get", "/tasks", {"200", "422", "503"}),
        ("get", "/tasks/by-status/{status}", {"200", "422", "503"}),
        ("get", "/tasks/recent", {"200", "422", "503"}),
        ("get", "/tasks/stats", {"200", "422", "503"}),
        ("get", "/tasks/{task_id}", {"200", "304", "400", "404", "422", "503"}),
        ("patch", "/tasks/{task_id}", {"200", "400", "404", "412", "413", "415", "422", "503"}),
        ("put", "/tasks/{task_id}", {"200", "400", "404", "412", "413", "415", "422", "503"}),
        ("delete", "/tasks/{task_id}", {"200", "400", "404", "412", "422", "503"}),
        ("post", "/tasks/{task_id}/restore", {"200", "400", "404", "412", "422", "503"}),
        (
            "post",
            "/tasks/{task_id}/transfer",
            {"200", "400", "404", "409", "412", "413", "415", "422", "503"},
        ),
        ("get", "/tasks/{task_id}/transfers", {"200", "404", "422", "503"}),
        ("get", "/tags", {"200", "422", "503"}),
        ("delete", "/tags", {"200", "403", "422", "503"}),
        ("get", "/tags/{tag_id}", {"200", "404", "422", "503"}),
        ("patch", "/tags/{tag_id}", {"200", "400", "404", "409", "413", "415", "422", "503"}),
        ("delete", "/tags/{tag_id}", {"200", "404", "422", "503"}),
    ],
)
def test_all_that_a_call_may_answer_is_documented_with_its_model(
    client: httpx2.Client, method: str, path: str, answers: set[str]
) -> None:
    documented = client.get("/openapi.json").json()["paths"][path][method]["responses"]

    assert documented.keys() == answers
    documented.pop("304", None)  # has no content
    assert all(answer["content"]["application/json"]["schema"] for answer in documented.values())


def test_head_is_answered_as_get_without_the_body(client: httpx2.Client) -> None:
    create_many(client, [{"title": "a", "tags": ["b"]}] * 2)
    user = create_user(client, "ada")
    task, tag = client.get("/tasks").json()[0], client.get("/tags").json()[0]
    ids = {"task_id": task["id"], "user_id": user["id"], "tag_id": tag["id"], "status": "pending"}
    documented = client.get("/openapi.json").json()["paths"]
    paths = [path.format(**ids) for path, methods in documented.items() if "get" in methods]
    paths += ["/tasks?limit=1&count=true", "/tasks?limit=0", "/tasks/0", "/nothing", "/tasks/"]
    paths += ["/", "/docs", "/openapi.json", "/swagger/swagger-ui.css", "/swagger/nothing"]

    for path in paths:
        of_head, of_get = (client.request(method, path) for method in ("HEAD", "GET"))
        assert (of_head.status_code, of_head.content) == (of_get.status_code, b""), path
        ignored = ("date", "transfer-encoding")
        assert [each for each in of_head.headers.multi_items() if each[0] not in ignored] == [
            each for each in of_get.headers.multi_items() if each[0] not in ignored
        ]
    headers = {"If-None-Match": f'"{task["version"]}"'}
    assert client.head(f"/tasks/{task['id']}", headers=headers).status_code == 304
    assert not any("head" in methods for methods in documented.values())
    of_other = client.head("/tasks/bulk")
    assert (of_other.status_code, of_other.headers["Allow"]) == (405, "PATCH, POST")


@pytest.mark.parametrize(
    ("method", "path", "status", "headers"),
    [
        ("post", "/tasks", "201", {"Location", "ETag"}),
        ("post", "/users", "201", {"Location"}),
        ("get", "/users", "200", {"Link", "X-Total-Count"}),
        ("get", "/tasks/{task_id}", "200", {"ETag"}),
        ("get", "/tasks/{task_id}", "304", {"ETag"}),
        ("patch", "/tasks/{task_id}", "412", {"ETag"}),
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


@pytest.mark.parametrize("name", ["TaskPublic", "UserPublic", "TransferPublic", "Token"])
def test_no_field_that_clients_see_is_optional(client: httpx2.Client, name: str) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"][name]

    assert schema["required"] == list(schema["properties"])


def test_the_first_page_leads_to_the_documentation(client: httpx2.Client) -> None:
    answer = client.get("/", follow_redirects=True)

    assert answer.status_code == 200
    assert answer.url.path == "/docs"
    assert "swagger-ui" in answer.text


def test_the_documentation_loads_nothing_from_elsewhere(client: httpx2.Client) -> None:
    page = client.get("/docs")

    assert "://" not in page.text
    for file in re.findall(r'(?:href|src)="(.*?)"', page.text):
        assert client.get(f"/{file}").status_code == 200
    policy = re.sub("sha256-.{44}", "sha256-…", page.headers["Content-Security-Policy"])
    assert policy == (
        "default-src 'none'; script-src 'self' 'sha256-…'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def test_the_version_is_the_newest_of_the_changelog(client: httpx2.Client) -> None:
    changelog = (ROOT / "docs/changelog.md").read_text()

    version = client.get("/openapi.json").json()["info"]["version"]

    assert re.findall(r"^## (.*?) - ", changelog, re.MULTILINE)[0] == version


def test_each_call_has_a_short_name_of_its_own(client: httpx2.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"].values()
    names = [operation["operationId"] for methods in paths for operation in methods.values()]

    assert len(names) == len(set(names))
    assert {"create_task", "put_task", "update_task", "read_member", "health"} < set(names)
    assert [name for name in names if not re.fullmatch("[a-z]+(_[a-z]+){0,3}", name)] == []


def test_the_sort_of_every_list_is_one_enum_with_names(client: httpx2.Client) -> None:
    document = client.get("/openapi.json").json()

    sorts = {
        parameter["schema"]["$ref"]
        for methods in document["paths"].values()
        for operation in methods.values()
        for parameter in operation.get("parameters", ())
        if parameter["name"] == "sort"
    }
    assert sorts == {"#/components/schemas/TaskSort"}
    enum = document["components"]["schemas"]["TaskSort"]
    assert dict(zip(enum["x-enum-varnames"], enum["enum"], strict=True)) == {
        sort.name: sort.value for sort in TaskSort
    }


def example(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:  # noqa: ANN401
    """Return the example that a schema has, or is made of."""
    if name := schema.get("$ref"):
        schema = schemas[name.rpartition("/")[2]]
    if "examples" in schema:
        return schema["examples"][0]
    if schema["type"] == "array":
        return [example(schema["items"], schemas)]
    if schema["type"] == "string":
        return schema.get("const", "report")
    return {name: example(field, schemas) for name, field in schema["properties"].items()}


def send_examples(client: httpx2.Client) -> None:
    """Send the example of each call that has a body, first those that create something."""
    document = client.get("/openapi.json").json()
    bodies = {
        (method, path): operation["requestBody"]["content"]["application/json"]
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "requestBody" in operation and path != "/token"
    }
    assert len(bodies) == 9
    creating = [("post", "/tasks"), ("post", "/tasks/bulk"), ("post", "/users")]
    for method, path in [*creating, *(call for call in bodies if call not in creating)]:
        examples = bodies[method, path].get("examples", {}).values()
        body = next((each["value"] for each in examples), None)
        body = body or example(bodies[method, path]["schema"], document["components"]["schemas"])
        answer = client.request(method, path.format(task_id=1, user_id=1, tag_id=1), json=body)
        assert answer.is_success, (method, path, body, answer.text)


@pytest.mark.slow
def test_the_examples_may_be_sent(empty_database: str, tmp_path: Path) -> None:
    with ApiServer(tmp_path, empty_database) as server, server.client() as client:
        send_examples(client)


@pytest.mark.slow
def test_the_examples_may_be_sent_by_an_administrator(empty_database: str, tmp_path: Path) -> None:
    with ApiServer(tmp_path, empty_database, SECRET_KEY=SECRET_KEY) as server:
        password_hash = hasher.hash(PASSWORD)
        insert_user(connect(empty_database), "ada", is_admin=True, password_hash=password_hash)
        with sign_in(server, "ada") as client:
            send_examples(client)


# Values of other types than the documented one, in JSON and where all values are text.
OTHER_TYPES: dict[str, list[Any]] = {
    "string": [1, ["a"]],
    "integer": ["3", True, 1.5, []],
    "boolean": ["yes", 1],
    "array": ["a", {}],
    "object": ["a", [], 1],
}
OTHER_TEXTS: dict[str, list[Any]] = {
    "integer": ["1_0", "1.0", "+1", " 1", "1e1", "\u0661", "a", ""],
    "boolean": ["a", ""],
}
OTHER_FORMATS = {
    "date-time": ["2026-06-01", "2026-06-01Z", "2026-06-01T17:00:00", "2026-02-30T17:00:00Z", "a"],
    "email": ["ada", "ada@localhost", "a b@example.com", "Ada <ada@example.com>"],
}
ODD_TEXTS = ["nul \0", "two\nlines", "a,b", "a b", "9999-12-31T23:59:59-01:00"]


def wrong_values(
    schema: dict[str, Any], schemas: dict[str, Any], others: dict[str, list[Any]]
) -> Iterator[Any]:
    """Yield values each of which breaks one constraint of a schema."""
    if "anyOf" in schema:
        [schema] = [each for each in schema["anyOf"] if each != {"type": "null"}]
    elif others is OTHER_TYPES:
        yield None
    if name := schema.get("$ref"):
        schema = schemas[name.rpartition("/")[2]]
    yield from others.get(schema["type"], ())
    yield from OTHER_FORMATS.get(schema.get("format", ""), ())
    if "pattern" in schema:
        unmatched = [text for text in ODD_TEXTS if not re.search(schema["pattern"], text)]
        assert unmatched, schema["pattern"]
        yield from unmatched
    for constraint in BREAKERS.keys() & schema.keys():
        yield BREAKERS[constraint](schema[constraint], schema, schemas)
    if schema["type"] == "array":
        yield from ([value] for value in wrong_values(schema["items"], schemas, others))
    if schema["type"] == "object":
        right = example(schema, schemas)
        for field, of_field in schema["properties"].items():
            yield from (right | {field: each} for each in wrong_values(of_field, schemas, others))
        for required in schema.get("required", ()):
            yield {field: value for field, value in right.items() if field != required}


# A value that breaks a constraint, of which the first argument is the limit.
BREAKERS: dict[str, Callable[[Any, dict[str, Any], dict[str, Any]], Any]] = {
    "enum": lambda *_: "a",
    "const": lambda *_: "a",
    "minLength": lambda limit, *_: "a" * (limit - 1),
    "maxLength": lambda limit, *_: "a" * (limit + 1),
    "minimum": lambda limit, *_: limit - 1,
    "maximum": lambda limit, *_: limit + 1,
    "minItems": lambda limit, *schemas: example(*schemas) * (limit - 1),
    "maxItems": lambda limit, *schemas: example(*schemas) * (limit + 1),
}


def assert_refused_in_words(answer: httpx2.Response, sent: object) -> None:
    assert answer.status_code == 422, (sent, answer.text)
    [problem] = answer.json()["detail"]
    assert re.search(r"\b(should|required)\b", problem["msg"]), (sent, problem)
    assert not re.search(r"[\\^$]", problem["msg"]), (sent, problem)  # a regular expression


def test_a_body_that_breaks_a_constraint_is_refused_in_words(client: httpx2.Client) -> None:
    document = client.get("/openapi.json").json()
    number = 0

    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                form = media_type != "application/json"
                others, argument = (OTHER_TEXTS, "data") if form else (OTHER_TYPES, "json")
                url = path.format(task_id=1, user_id=1, tag_id=1)
                schemas = document["components"]["schemas"]
                for body in wrong_values(content["schema"], schemas, others):
                    answer = client.request(method, url, **{argument: body})
                    assert_refused_in_words(answer, (method, path, body))
                    number += 1

    assert number > 300


def test_a_query_that_breaks_a_constraint_is_refused_in_words(client: httpx2.Client) -> None:
    document = client.get("/openapi.json").json()
    # Each parameter once, though many lists have it.
    parameters = {
        (json.dumps(parameter)): (method, path, parameter)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query"
    }

    for method, path, parameter in parameters.values():
        url = path.format(task_id=1, user_id=1, tag_id=1, status="pending")
        name, schemas = parameter["name"], document["components"]["schemas"]
        for value in wrong_values(parameter["schema"], schemas, OTHER_TEXTS):
            answer = client.request(method, url, params={name: value})
            assert_refused_in_words(answer, (method, path, name, value))
            assert answer.json()["detail"][0]["loc"][:2] == ["query", name]

    assert len(parameters) > 15
