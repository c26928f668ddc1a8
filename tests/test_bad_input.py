"""What a client may rely on when it sends nonsense: a clear answer in JSON, and no change."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from calls import PASSWORD, create

JSON = {"Content-Type": "application/json"}
LIMIT = 1024 * 1024


def assert_invalid(answer: httpx2.Response, *loc: str | int) -> None:
    assert answer.status_code == 422, answer.text
    [problem] = answer.json()["detail"]
    assert tuple(problem["loc"]) == loc
    assert problem["type"]
    assert problem["msg"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", '""'),
        ("title", '" \\n\\t\\u2003 "'),
        ("title", f'"{"x" * 201}"'),
        ("title", "null"),
        ("title", '" \u0085\ufeff"'),
        ("title", "1"),
        ("title", '["a"]'),
        ("title", r'"nul \u0000"'),
        ("title", r'"tab\ttab"'),
        ("title", r'"escape \u001b[2J"'),
        ("title", r'"delete \u007f"'),
        ("title", r'"control \u009b"'),
        ("title", r'"lone surrogate \ud800"'),
        ("description", f'"{"x" * 10_001}"'),
        ("description", r'"\u0000"'),
        ("description", r'"bell \u0007"'),
        ("description", r'"\u001b[2J"'),
        ("description", r'"\u0085"'),
        ("description", r'"\udfff"'),
        ("description", "false"),
        ("status", '"done"'),
        ("status", '"PENDING"'),
        ("status", "null"),
        ("status", "0"),
        ("priority", "-1"),
        ("priority", "6"),
        ("priority", "1.5"),
        ("priority", '"3"'),
        ("priority", "true"),
        ("priority", "null"),
        ("priority", "NaN"),
        ("priority", "Infinity"),
        ("priority", "-Infinity"),
        ("priority", "1e400"),
        ("priority", str(2**63)),
        ("priority", "9" * 4_000),
        ("due_at", '"2026-06-01T00:00:00"'),
        ("due_at", '"2026-06-01"'),
        ("due_at", '"2026-02-30T00:00:00Z"'),
        ("due_at", '"tomorrow"'),
        ("due_at", '"1780272000"'),
        ("due_at", "1780272000"),
        ("due_at", "NaN"),
        ("due_at", "true"),
        ("due_at", '"0001-01-01T00:00:00+14:00"'),
        ("due_at", '"9999-12-31T23:59:59-00:01"'),
        ("due_at", '"10000-01-01T00:00:00Z"'),
    ],
)
def test_a_wrong_value_is_refused_and_changes_nothing(
    client: httpx2.Client, field: str, value: str
) -> None:
    task = create(client)
    body = f'{{"title": "Changed", "{field}": {value}}}'

    assert_invalid(client.post("/tasks", content=body, headers=JSON), "body", field)
    for method in ("PATCH", "PUT"):
        answer = client.request(method, f"/tasks/{task['id']}", content=body, headers=JSON)
        assert_invalid(answer, "body", field)

    assert client.get("/tasks").json() == [task]


ONE_LINE = "Input should be one line, not blank, and without control characters"
NO_COMMA = "Input should be one line, not blank, and without commas and control characters"
NOT_BLANK = "Input should have 1 or more characters"
STRING = "Input should be a string, in quotation marks"
INTEGER = "Input should be an integer, as in 3"
NUMBER = "Input should be an integer without quotation marks, as in 3"
DATETIME = "Input should be a date and time with an offset, as in 2026-12-31T17:00:00Z"
ADDRESS = "Input should be an email address alone, as in ada@example.com"


@pytest.mark.parametrize(
    ("path", "field", "value", "message"),
    [
        ("/tasks", "title", "two\nlines", ONE_LINE),
        ("/tasks", "title", "  ", NOT_BLANK),
        ("/tasks", "title", None, STRING),
        (
            "/tasks",
            "title",
            "\ufdfa" * 34,
            "Input should have 600 or fewer characters with ligatures, such as \ufdfa, written out",
        ),
        ("/tasks", "tags", "a", "Input should be a list, between [ and ]"),
        ("/tasks", "tags", None, "Input should be a list, between [ and ]"),
        ("/tasks", "tags", ["a"] * 21, "Input should have 20 or fewer items"),
        ("/tasks", "priority", "3", NUMBER),
        ("/tasks", "priority", True, NUMBER),
        ("/tasks", "priority", 1.5, INTEGER),
        ("/tasks", "priority", None, INTEGER),
        (
            "/tasks",
            "due_at",
            "9999-12-31T23:59:59-01:00",
            "Input should lie in the years 1 to 9999 in UTC",
        ),
        (
            "/users",
            "username",
            "Ada Lovelace",
            "Input should have only letters from A to Z, digits, `_`, `.` and `-`, as in ada_42",
        ),
        ("/users", "email", "ada", f"{ADDRESS}: An email address must have an @-sign."),
        ("/users", "is_admin", "yes", "Input should be true or false"),
    ],
)
def test_a_refusal_says_what_would_be_right(
    client: httpx2.Client, path: str, field: str, value: object, message: str
) -> None:
    bodies: dict[str, dict[str, object]] = {
        "/tasks": {"title": "Write the report"},
        "/users": {"username": "ada", "email": "ada@example.com", "password": PASSWORD},
    }

    answer = client.post(path, json=bodies[path] | {field: value})

    assert_invalid(answer, "body", field)
    assert answer.json()["detail"][0]["msg"] == message


WRONG_DATETIMES: tuple[object, ...] = (
    *("2026-06-01", "2026-06-01Z", "2026-06-01T17", "2026-06-01T17:00:00", "20260601", "2026-", ""),
    *("2026-06-01T25:00:00Z", "2026-02-30T17:00:00Z", "2026-06-01T17:00:00+25:00", "1/6/2026"),
    *("2026-06-01T17:00:00 01:00", "2026-06-01T17:00:00 UTC", "tomorrow", 1780272000, True, {}),
)


def test_every_wrong_datetime_is_refused_with_the_same_words(client: httpx2.Client) -> None:
    for value in WRONG_DATETIMES:
        answer = client.post("/tasks", json={"title": "Write the report", "due_at": value})
        assert_invalid(answer, "body", "due_at")
        assert answer.json()["detail"][0]["msg"] == DATETIME


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "Input should be an object, between { and }"),
        (b'"text"', "Input should be an object, between { and }"),
        (b"{title: 1}", "Input should be JSON: Expecting property name enclosed in double quotes"),
        (
            b'{"tags": ["a,b"], "title": "a"}',
            NO_COMMA,
        ),
        (
            b'{"title": "\\ud800"}',
            "Input should be a string without lone surrogates (U+D800 to U+DFFF)",
        ),
    ],
)
def test_a_refusal_of_a_body_says_what_would_be_right(
    client: httpx2.Client, body: bytes, message: str
) -> None:
    answer = client.post("/tasks", content=body, headers=JSON)

    assert answer.status_code == 422
    assert [problem["msg"] for problem in answer.json()["detail"]] == [message]


def test_a_description_may_have_tabs_and_line_breaks(client: httpx2.Client) -> None:
    description = "one\ttwo\r\nthree\n"

    assert create(client, description=description)["description"] == description


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"null", 422),
        (b"[]", 422),
        (b'"text"', 422),
        (b"{}", 422),
        (b"\x80", 400),
        (b'{"title": "\xe9"}', 400),
        (b'{"title": "x", "priority": ' + b"9" * 5_000 + b"}", 400),
        (b"[" * 100_000, 400),
        (b'{"title":' * 100_000, 400),
    ],
)
def test_a_body_that_is_no_task_is_refused(client: httpx2.Client, body: bytes, status: int) -> None:
    answer = client.post("/tasks", content=body, headers=JSON)

    assert answer.status_code == status
    assert answer.json()["detail"]
    assert client.get("/tasks").json() == []


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    "content_type",
    [
        *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"),
        *("application", "application/jsonl", "application/json/x", "application/x/y+json"),
        *("text/json", "text/plain; application/json", "*/*", "", None),
    ],
)
def test_a_body_of_another_type_is_refused(
    client: httpx2.Client, content_type: str | None, *, chunked: bool
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    body = b'{"title": "x"}'

    answer = client.post("/tasks", content=iter([body]) if chunked else body, headers=headers)

    assert answer.status_code == 415
    assert answer.json() == {"detail": "Send the header `Content-Type: application/json`"}
    assert client.get("/tasks").json() == []


@pytest.mark.parametrize(
    "content_type",
    ["Application/JSON", "application/json; charset=utf-8", "application/merge-patch+json"],
)
def test_json_may_have_other_names(client: httpx2.Client, content_type: str) -> None:
    headers = {"Content-Type": content_type, "Content-Encoding": "Identity"}

    assert client.post("/tasks", content=b'{"title": "x"}', headers=headers).status_code == 201


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "x", "gzip, identity"])
def test_a_compressed_body_is_refused(client: httpx2.Client, encoding: str) -> None:
    body = gzip.compress(b'{"title": "x"}')

    answer = client.post("/tasks", content=body, headers={**JSON, "Content-Encoding": encoding})

    assert answer.status_code == 415
    assert answer.headers["Accept-Encoding"] == "identity"
    assert answer.json() == {
        "detail": "Send the body uncompressed, without the header `Content-Encoding`"
    }
    assert client.get("/tasks").json() == []


def test_a_body_that_is_not_sent_is_missing(client: httpx2.Client) -> None:
    assert_invalid(client.post("/tasks"), "body")
    assert client.post("/token").status_code == 422


def test_a_body_of_the_largest_size_is_read(client: httpx2.Client) -> None:
    body = json.dumps({"title": "x"}).ljust(LIMIT)

    answer = client.post("/tasks", content=body, headers=JSON)

    assert answer.status_code == 201


@pytest.mark.parametrize("chunked", [False, True])
def test_a_larger_body_is_refused(client: httpx2.Client, *, chunked: bool) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [b"x" * 1024] * 1024
        yield b"x"

    body = chunks() if chunked else b"x" * (LIMIT + 1)
    answer = client.post("/tasks", content=body, headers=JSON)

    assert answer.status_code == 413
    assert answer.json() == {"detail": "The body is over 1048576 bytes"}


@pytest.mark.parametrize("number", ["0", "2147483648", str(2**63), "9" * 30, "9" * 5_000])
def test_an_id_that_is_not_there_is_not_found_however_large(
    client: httpx2.Client, number: str
) -> None:
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        answer = client.request(method, f"/tasks/{number}", json={})
        assert answer.status_code == 404
        assert answer.json() == {"detail": "Task not found"}


@pytest.mark.parametrize("path", ["/nothing", "/tasks/x", "/tasks/-1", "/tasks/1.0", "/tasks/1/x"])
def test_a_path_that_is_not_there_is_not_found(client: httpx2.Client, path: str) -> None:
    answer = client.get(path)

    assert answer.status_code == 404
    assert answer.json()["detail"]


@pytest.mark.parametrize("end", ["%0a", "%0D%0A", "%00", "%7f", "%C2%85", "%0a/"])
def test_a_path_with_a_control_character_is_not_found_and_changes_nothing(
    client: httpx2.Client, end: str
) -> None:
    task = create(client)
    calls = [
        ("POST", "/tasks"),
        ("POST", "/users"),
        ("GET", "/tasks/by-status/pending"),
        ("DELETE", f"/tasks/{task['id']}"),
        *(("GET", path) for path in ("/docs", "/openapi.json", "/health", "/nothing")),
        ("GET", "/swagger/swagger-ui.css"),
    ]

    for method, path in calls:
        answer = client.request(method, f"{path}{end}", json={"title": "Read it"})
        assert answer.status_code == 404, (method, path)
        assert answer.json() == {"detail": "Not Found"}
    assert client.get("/tasks").json() == [task]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/tasks/recent", "GET, HEAD"),
        ("DELETE", "/tasks/stats", "GET, HEAD"),
        ("PATCH", "/tasks/by-status/pending", "GET, HEAD"),
        ("DELETE", "/tasks", "GET, HEAD, POST"),
        ("POST", "/tasks/1", "DELETE, GET, HEAD, PATCH, PUT"),
        ("POST", "/health", "GET, HEAD"),
        ("PUT", "/users", "GET, HEAD, POST"),
        ("POST", "/users/1", "DELETE, GET, HEAD, PATCH"),
        ("TRACE", "/ready", "GET, HEAD"),
        ("POST", "/docs", "GET, HEAD"),
        ("POST", "/swagger/swagger-ui.css", "GET, HEAD"),
    ],
)
def test_a_method_that_a_path_does_not_have_is_refused(
    client: httpx2.Client, method: str, path: str, allowed: str
) -> None:
    answer = client.request(method, path)

    assert answer.status_code == 405
    assert answer.headers["Allow"] == allowed
    assert answer.json() == {"detail": "Method Not Allowed"}


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("priority_min", "6"),
        ("priority_max", "-1"),
        ("priority_min", "NaN"),
        ("priority_max", "9" * 5_000),
        ("q", "\0"),
        ("q", "x" * 201),
        ("created_after", "2026-06-01T00:00:00"),
        ("created_before", "0001-01-01T00:00:00+14:00"),
        ("due_after", "9999-12-31T23:59:59-14:00"),
        ("due_before", "1780272000"),
        ("overdue", "perhaps"),
        ("sort", "description"),
        ("sort", "--id"),
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "Infinity"),
        ("offset", "-1"),
        ("offset", str(2**63)),
        ("offset", "9" * 5_000),
        ("after", "-1"),
        ("after", str(2**63)),
        ("count", "2"),
    ],
)
def test_a_wrong_query_parameter_is_refused(
    client: httpx2.Client, parameter: str, value: str
) -> None:
    assert_invalid(client.get("/tasks", params={parameter: value}), "query", parameter)


def test_an_unknown_query_parameter_is_refused_by_every_operation(client: httpx2.Client) -> None:
    task = create(client)
    paths = client.get("/openapi.json").json()["paths"]
    operations = [(method, path) for path, methods in paths.items() for method in methods]
    ids = {"task_id": task["id"], "user_id": 1, "tag_id": 1, "status": "pending"}
    bodies: dict[str, Any] = {"/tasks": {"title": "Read it"}, "/tasks/bulk": [{"title": "Read it"}]}

    for method, path in operations:
        body = bodies.get(path, {})
        form = {"username": "ada", "password": "x"} if path == "/token" else None
        query = {"permenant": "true", "task_id": "1"}
        answer = client.request(
            method, path.format(**ids), params=query, json=None if form else body, data=form
        )
        assert answer.status_code == 422, (method, path)
        assert answer.json()["detail"] == [
            {
                "type": "extra_forbidden",
                "loc": ["query", name],
                "msg": "Input should be left out: no field or parameter has this name",
            }
            for name in query
        ]
    assert len(operations) > 20
    assert client.get("/tasks").json() == [task]


@pytest.mark.parametrize(
    "value", ["1_0", "1.0", "1e1", "+1", " 1", "1 ", "\u0661", "\uff11", "0x1", ""]
)
def test_an_integer_in_a_query_has_only_digits(client: httpx2.Client, value: str) -> None:
    for path, parameter in (
        *(("/tasks", name) for name in ("limit", "offset", "owner_id")),
        *(("/tasks/stats", name) for name in ("priority_min", "priority_max")),
        ("/tasks/recent", "days"),
        ("/users", "after"),
    ):
        answer = client.get(path, params={parameter: value})
        assert_invalid(answer, "query", parameter)
        assert answer.json()["detail"][0]["msg"] == INTEGER

    for sort, after in (("id", value), ("priority", f"{value},1"), ("priority", f"1,{value}")):
        assert_invalid(
            client.get("/tasks", params={"sort": sort, "after": after}), "query", "after"
        )
    assert client.get("/tasks?limit=010&offset=0&owner_id=0").json() == []


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("due_after", "2026-12-31T17:00:00+01:00"),
        ("created_before", "2026-12-31 17:00:00.5+0100"),
        ("after", "2026-12-31T17:00:00+01:00,1"),
    ],
)
def test_a_plus_that_became_a_blank_is_refused_and_named(
    client: httpx2.Client, parameter: str, value: str
) -> None:
    unescaped = client.get(f"/tasks?sort=due_at&{parameter}={value.replace(' ', '%20')}")
    escaped = client.get("/tasks", params={"sort": "due_at", parameter: value})

    assert_invalid(unescaped, "query", parameter)
    assert unescaped.json()["detail"][0]["msg"].endswith(". In a URL, write + as %2B")
    assert escaped.status_code == 200


@pytest.mark.parametrize(
    ("sort", "after", "message"),
    [
        ("id", "a", "Input should be an id, as in 17, or a value, a comma and an id, as in 3,17"),
        ("-id", "3,17", "Input should be an id, to fit `sort`"),
        (
            "priority",
            "17",
            "Input should be a value of `priority`, a comma and an id, to fit `sort`",
        ),
        (
            "-due_at",
            "3,17",
            "Input should be a value of `due_at`, a comma and an id, to fit `sort`",
        ),
    ],
)
def test_the_refusal_of_a_cursor_says_what_would_fit(
    client: httpx2.Client, sort: str, after: str, message: str
) -> None:
    answer = client.get("/tasks", params={"sort": sort, "after": after})

    assert_invalid(answer, "query", "after")
    assert answer.json()["detail"][0]["msg"] == message


@pytest.mark.parametrize("after", [10**12, 2**53 - 1])
@pytest.mark.parametrize(("sort", "value"), [("id", ""), ("-id", ""), ("title", "a,")])
def test_the_largest_ids_are_no_error_in_a_query(
    client: httpx2.Client, after: int, sort: str, value: str
) -> None:
    answer = client.get("/tasks", params={"after": f"{value}{after}", "sort": sort})

    assert answer.status_code == 200


def test_a_status_that_is_not_there_is_refused(client: httpx2.Client) -> None:
    assert_invalid(client.get("/tasks?status=pending&status=done"), "query", "status", 1)
    assert_invalid(client.get("/tasks/by-status/done"), "path", "status")


def test_a_refusal_does_not_repeat_what_was_sent(client: httpx2.Client) -> None:
    answer = client.post("/tasks", json={"title": ["my secret"], "status": "my secret"})

    assert answer.status_code == 422
    assert "my secret" not in answer.text


def test_a_parameter_that_is_no_list_may_be_sent_only_once(client: httpx2.Client) -> None:
    task = create(client)

    for method, path, query in (
        ("GET", "/tasks", "priority_min=1&priority_min=2"),
        ("GET", "/tasks/by-status/pending", "status=pending&overdue=x&overdue=true"),
        ("GET", "/tasks/stats", "q=a&q=a"),
        ("GET", "/users", "limit=1&limit=2"),
        ("DELETE", f"/tasks/{task['id']}", "permanent=false&permanent=true"),
    ):
        answer = client.request(method, f"{path}?{query}")
        name = query.rpartition("&")[2].partition("=")[0]
        assert answer.status_code == 422
        assert answer.json()["detail"] == [
            {
                "type": "parameter_repeated",
                "loc": ["query", name],
                "msg": "Input should be sent only once",
            }
        ]
    assert client.get("/tasks?status=pending&status=completed").json() == [task]
