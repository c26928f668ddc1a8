"""What an operator observes by OpenTelemetry, and what is never sent there."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote_plus

import pytest
from calls import PASSWORD, SECRET_KEY, create, insert_user, sign_in
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from servers import ROOT, ApiServer, connect
from sqlalchemy import text

Attributes = dict[str, str | int]
Received = dict[str, list[bytes]]


@contextmanager
def run_collector() -> Iterator[tuple[str, Received]]:
    """Give the URL of a collector, and the bodies that it receives for each path."""
    received: Received = {"/v1/traces": [], "/v1/metrics": [], "/v1/logs": []}

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received[self.path].append(body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()


def to_dict(attributes: Iterable[KeyValue]) -> Attributes:
    return {each.key: each.value.string_value or each.value.int_value for each in attributes}


def spans(bodies: list[bytes]) -> list[Span]:
    requests = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    resources = [resource for request in requests for resource in request.resource_spans]
    return [span for each in resources for scope in each.scope_spans for span in scope.spans]


def metrics(bodies: list[bytes]) -> list[Metric]:
    requests = [ExportMetricsServiceRequest.FromString(body) for body in bodies]
    resources = [resource for request in requests for resource in request.resource_metrics]
    return [
        metric for each in resources for scope in each.scope_metrics for metric in scope.metrics
    ]


def logs(bodies: list[bytes]) -> list[LogRecord]:
    requests = [ExportLogsServiceRequest.FromString(body) for body in bodies]
    resources = [resource for request in requests for resource in request.resource_logs]
    return [log for each in resources for scope in each.scope_logs for log in scope.log_records]


# Makes the database refuse what the API stores, by errors that are bugs. Those of PostgreSQL have
# the values of the row.
REFUSE = {
    "sqlite": "CREATE TRIGGER no_{0} BEFORE INSERT ON {0} BEGIN SELECT RAISE(ABORT, 'no'); END",
    "postgresql": "ALTER TABLE {0} ADD CHECK (id < 0) NOT VALID",
}


def use_api(server: ApiServer) -> str:
    """Make calls of every kind, and return the token."""
    engine = connect(server.database_url)
    insert_user(engine, "my_name", is_admin=True)
    with sign_in(server, "my_name") as client:
        # Since uvicorn ends the connection after an error that nothing handles.
        client.headers |= {"Connection": "close"}
        client.headers |= {"X-Forwarded-For": "203.0.113.7", "User-Agent": "my browser"}
        task = {"title": "my title", "description": "my description"}
        user = {"username": "my_name", "email": "my_name@example.com", "password": PASSWORD}
        form = {"username": "my_name", "password": "my guess"}
        for _ in range(2):
            create(client, **task)
        page = client.get("/tasks", params={"q": "my title", "sort": "title", "limit": 1})
        next_page = page.links["next"]["url"]
        assert "after=my+title" in next_page
        json = {"Content-Type": "application/json"}
        answers = [
            client.get(next_page),
            client.get("/tasks/1"),
            client.get("/tasks/9"),
            client.get("/nowhere", params={"q": "my query"}),
            client.get("/tasks", params={"after": "my input"}),
            client.post("/tasks", json={"title": ["my input"]}),
            client.post("/tasks", content=b'{"my input"', headers=json),
            client.post("/tasks", json=task, headers={"Idempotency-Key": "my key"}),
            client.post("/users", json=user),
            client.post("/token", data=form),
        ]
        statuses = [answer.status_code for answer in answers]
        assert statuses == [200, 200, 404, 404, 422, 422, 422, 201, 409, 401]

        with engine.begin() as connection:
            for table in ("task", "idempotency_key"):
                connection.execute(text(REFUSE[engine.dialect.name].format(table)))
        bugs = [
            client.post("/tasks", json=task),
            client.post("/tasks", json=task, headers={"Idempotency-Key": "my other key"}),
        ]
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE task RENAME COLUMN folded_title TO name"))
            connection.execute(text("INSERT INTO alembic_version VALUES ('0001')"))
        bugs += [client.get("/tasks/stats", params={"q": "my query"}), client.get("/ready")]
        assert [answer.status_code for answer in bugs] == [500, 500, 500, 500]
        return client.headers["Authorization"].removeprefix("Bearer ")


def kinds(attributes: Iterable[Attributes]) -> set[tuple[str | int | None, ...]]:
    names = ("http.request.method", "http.route", "http.response.status_code")
    return {tuple(each.get(name) for name in names) for each in attributes}


@pytest.mark.slow
def test_traces_metrics_and_logs_arrive_and_have_nothing_of_what_clients_send(
    empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs/telemetry.md").read_text()
    with run_collector() as (url, received):
        for name, value in re.findall(r"(\w*OTEL\w*)=(\S+)", page):
            monkeypatch.setenv(name, value.replace("http://localhost:4318", url))
        with ApiServer(
            tmp_path, empty_database, "--no-access-log", SECRET_KEY=SECRET_KEY
        ) as server:
            token = use_api(server)

    bodies = b"".join(body for bodies in received.values() for body in bodies)
    sent = unquote_plus(bodies.decode(errors="replace")) + server.log.read_text()
    texts = ["title", "description", "query", "input", "key", "other key", "guess", "browser"]
    secrets = [f"my {text}" for text in texts]
    secrets += ["my_name", PASSWORD, "$argon2", token, SECRET_KEY, "203.0.113.7"]
    assert [secret for secret in secrets if secret in sent] == []

    attributes = [to_dict(span.attributes) for span in spans(received["/v1/traces"])]
    requests = [each for each in attributes if "http.request.method" in each]
    measured = {metric.name: metric for metric in metrics(received["/v1/metrics"])}
    points = measured["http.server.request.duration"].histogram.data_points
    assert kinds(requests) == kinds(to_dict(point.attributes) for point in points)
    assert kinds(requests) == {
        ("GET", "/docs", 200),
        ("POST", "/token", 200),
        ("POST", "/token", 401),
        ("POST", "/users", 409),
        ("POST", "/tasks", 201),
        ("POST", "/tasks", 422),
        ("POST", "/tasks", 500),
        ("GET", "/tasks", 200),
        ("GET", "/tasks", 422),
        ("GET", "/tasks/{task_id}", 200),
        ("GET", "/tasks/{task_id}", 404),
        ("GET", "/tasks/stats", 500),
        ("GET", "/ready", 500),
        ("GET", None, 404),
    }
    assert "http.server.active_requests" in measured
    assert {each["url.query"] for each in requests if "url.query" in each} == {"REDACTED"}
    records = [(log.event_name, to_dict(log.attributes)) for log in logs(received["/v1/logs"])]
    assert {(name, each["http.route"]) for name, each in records} == {
        ("fastapi.validation.failed", "/tasks"),
        ("http.server.request.exception", "/ready"),
    }
