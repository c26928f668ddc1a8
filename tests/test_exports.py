"""What a client may rely on for exports: they have every task that matches, once."""

import csv
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from calls import Task, create, create_many
from clusters import wait_until
from servers import ApiServer, alembic, connect, fill, listen_to_postgresql
from sqlalchemy import Engine, text


def export(client: httpx2.Client, **query: Any) -> list[Task]:  # noqa: ANN401
    answer = client.get("/tasks/export", params=query)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def export_csv(client: httpx2.Client, **query: Any) -> list[dict[str, str]]:  # noqa: ANN401
    answer = client.get("/tasks/export", params=query | {"format": "csv"})
    assert answer.status_code == 200, answer.text
    return [*csv.DictReader(StringIO(answer.content.decode("utf-8-sig"), newline=""))]


def test_an_export_has_all_tasks_as_lists_show_them_in_the_order_of_their_ids(
    client: httpx2.Client,
) -> None:
    tasks = create_many(client, [{"title": str(n), "tags": ["a"]} for n in range(1000)])
    tasks += create_many(client, [{"title": "🐛", "description": "line\nline\u2028\u2029"}] * 2)

    answer = client.get("/tasks/export")

    assert [json.loads(line) for line in answer.text.splitlines()] == tasks
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="tasks.jsonl"'


def test_an_export_has_what_matches_all_filters(client: httpx2.Client) -> None:
    first = create(client, title="a", priority=3, tags=["x"])
    create(client, title="b", priority=3)
    create(client, title="c", priority=2, tags=["x"])
    trash = create(client, title="d")
    client.delete(f"/tasks/{trash['id']}")

    assert export(client, tag="X", priority_min=3) == [first]
    assert [task["id"] for task in export(client, deleted="true")] == [trash["id"]]
    assert [row["title"] for row in export_csv(client, tag="x")] == ["a", "c"]
    assert export(client, q="nothing has this") == []


@pytest.mark.parametrize("query", ["sort=title", "limit=1", "after=1", "format=xml", "tagg=a"])
def test_an_export_refuses_what_it_does_not_know(client: httpx2.Client, query: str) -> None:
    assert client.get(f"/tasks/export?{query}").status_code == 422


def test_a_csv_file_has_the_fields_as_columns(client: httpx2.Client) -> None:
    title, description = 'A "quoted" title, with a comma; and more', "one\r\ntwo\nÜ 🐛"
    task = create(client, title=title, description=description, tags=["b", "A"])

    answer = client.get("/tasks/export?format=csv")

    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="tasks.csv"'
    assert answer.content.startswith(b"\xef\xbb\xbftitle,description,")
    [row] = export_csv(client)
    shown = {name: "" if value is None else str(value) for name, value in task.items()}
    assert row == shown | {"tags": "A,b"}


def test_a_csv_file_of_no_task_has_only_the_names_of_the_columns(client: httpx2.Client) -> None:
    lines = client.get("/tasks/export?format=csv").text.split("\r\n")

    assert (len(lines), lines[1]) == (2, "")


@pytest.mark.parametrize(
    "formula", ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://a.example")', "\uff1d1", "- a"]
)
def test_no_cell_of_a_csv_file_is_a_formula(client: httpx2.Client, formula: str) -> None:
    create(client, title=formula, description=f"\t\n {formula}", tags=[formula])

    [row] = export_csv(client)

    assert (row["title"], row["tags"]) == (f"'{formula}", f"'{formula}")
    assert row["description"] == f"'\t\n {formula}"


def test_a_formula_in_the_middle_of_a_cell_stays_as_it_is(client: httpx2.Client) -> None:
    create(client, title="1 = 1", tags=["a", "a-b"])

    [row] = export_csv(client)

    assert (row["title"], row["tags"], row["due_at"]) == ("1 = 1", "a,a-b", "")


@pytest.mark.parametrize("query", ["", "?format=csv", "?q=nothing has this"])
def test_a_client_of_http_1_0_gets_the_same_without_chunks(
    client: httpx2.Client, query: str
) -> None:
    create_many(client, [{"title": "🐛", "description": "x" * 1000}] * 300)
    expected = client.get(f"/tasks/export{query}")

    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        path = expected.url.raw_path.decode()
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        with connection.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200")
    assert b"transfer-encoding" not in head
    assert f"content-length: {len(expected.content)}".encode() in head.split(b"\r\n")
    assert body == expected.content


# What takes the most bytes: as it is, as JSON in the database, and as JSON that is sent.
@pytest.mark.parametrize("character", ["🐛", "\u2028"])
def test_an_export_of_long_tasks_between_short_ones_has_each_once(
    client: httpx2.Client, character: str
) -> None:
    tags = [f"{n:02}" + character * 48 for n in range(20)]
    long = {"description": character * 10_000, "tags": tags}
    tasks: list[Task] = []
    for number in (1, 20, 300):
        tasks += create_many(client, [{"title": "a"}] * number)
        for _ in range(15):
            tasks.append(create(client, **long))
    tasks += create_many(client, [{"title": "a", "tags": tags}] * 150)

    assert export(client) == tasks
    assert [int(row["id"]) for row in export_csv(client)] == [task["id"] for task in tasks]


@pytest.fixture
def large_tasks(client: httpx2.Client, engine: Engine) -> list[Task]:
    """Tasks of 30 MB in all, more than lie between a server and a client who does not read."""
    tasks = create_many(client, [{"title": "a", "priority": 1}] * 1000)
    tasks += [task for _ in range(2) for task in create_many(client, [{"title": "a"}] * 1000)]
    with engine.begin() as connection:
        connection.execute(text("UPDATE task SET description = :text"), {"text": "x" * 10_000})
    return tasks


def lines(response: httpx2.Response) -> Iterator[Task]:
    """Yield the tasks of an export that is still being sent."""
    return map(json.loads, response.iter_lines())


@pytest.mark.slow
def test_what_is_changed_meanwhile_is_in_an_export_once(
    client: httpx2.Client, large_tasks: list[Task]
) -> None:
    ids = [task["id"] for task in large_tasks]
    with client.stream("GET", "/tasks/export?priority_max=4") as response:
        sent = lines(response)
        exported = [next(sent)["id"]]
        changes = [{"id": n, "title": "b", "due_at": None, "tags": ["b"]} for n in ids]
        for begin in range(0, 3000, 1000):
            client.patch("/tasks/bulk", json=changes[begin : begin + 1000]).raise_for_status()
        client.patch(f"/tasks/{ids[-1]}", json={"priority": 5}).raise_for_status()
        client.delete(f"/tasks/{ids[-2]}?permanent=true").raise_for_status()
        client.delete(f"/tasks/{ids[-3]}").raise_for_status()
        new = create(client)
        exported += [task["id"] for task in sent]

    assert exported[: len(ids) - 3] == ids[:-3]
    assert set(exported[len(ids) - 3 :]) <= {new["id"]}
    assert max(Counter(exported).values()) == 1


def states(engine: Engine) -> set[str]:
    """Return what the other connections to the database do."""
    statement = (
        "SELECT state FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with engine.connect() as connection:
        return {*connection.execute(text(statement)).scalars()}


@pytest.mark.slow
def test_a_slow_client_holds_no_connection_and_no_transaction(
    empty_database: str, tmp_path: Path
) -> None:
    alembic(empty_database, "upgrade", "head")
    engine = connect(empty_database)
    fill(engine, 50_000)
    with (
        ApiServer(tmp_path, empty_database, DATABASE_POOL_SIZE="1") as server,
        server.client() as slow,
        server.client() as other,
        slow.stream("GET", "/tasks/export") as response,
    ):
        sent = lines(response)
        first = next(sent)
        for _ in range(10):
            assert other.get("/tasks").elapsed.total_seconds() < 1
            assert other.post("/tasks", json={"title": "a"}).elapsed.total_seconds() < 1
        if engine.dialect.name == "postgresql":
            wait_until(lambda: states(engine) == {"idle"})  # when nothing more can be sent
        number = 1 + sum(1 for _ in sent)
        live = other.get("/tasks?count=true&limit=1").headers["X-Total-Count"]

    assert first["id"] == 2  # an eighth, the first among them, is in the trash
    assert number == int(live)


@pytest.mark.slow
def test_a_large_export_takes_little_memory(empty_database: str, tmp_path: Path) -> None:
    alembic(empty_database, "upgrade", "head")
    fill(connect(empty_database), 100_000)
    with ApiServer(tmp_path, empty_database) as server, server.client() as client:
        client.get("/tasks").raise_for_status()
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        with client.stream("GET", "/tasks/export") as response:
            size = sum(len(chunk) for chunk in response.iter_bytes())
        growth = process.memory_info().rss - before

    print(f"{size / 2**20:.0f} MiB sent, {growth / 2**20:.1f} MiB more memory")
    assert growth < 20 * 2**20 < size


@pytest.mark.slow
def test_head_of_a_large_export_reads_only_its_first_page(
    empty_database: str, tmp_path: Path
) -> None:
    alembic(empty_database, "upgrade", "head")
    fill(connect(empty_database), 50_000)
    with ApiServer(tmp_path, empty_database) as server, server.client() as client:
        process = psutil.Process(server.process.pid)

        def busy_seconds(method: str) -> float:
            """Return for how many seconds a request keeps the process busy, also afterwards."""
            before = process.cpu_times().user
            client.request(method, "/tasks/export").raise_for_status()
            while process.cpu_percent(0.2) > 50:
                pass
            return process.cpu_times().user - before

        busy_seconds("HEAD")  # the first request takes longer
        of_head, of_get = busy_seconds("HEAD"), busy_seconds("GET")

    print(f"HEAD {of_head:.2f} s, GET {of_get:.2f} s")
    assert of_head < of_get / 10
    log = server.log.read_text()
    assert '"HEAD /tasks/export HTTP/1.1" 200' in log
    assert "Traceback" not in log


KILL_OTHERS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""


@pytest.mark.slow
def test_an_export_is_cut_when_the_database_goes_away(
    new_postgresql_database: Callable[[], str], tmp_path: Path
) -> None:
    url = new_postgresql_database()
    alembic(url, "upgrade", "head")
    fill(connect(url), 50_000)

    def read_while_it_goes(client: httpx2.Client) -> None:
        with client.stream("GET", "/tasks/export") as response:
            for number, _ in enumerate(lines(response)):
                if number == 0:
                    with connect(url).connect() as connection:
                        connection.execute(text(KILL_OTHERS))

    with (
        listen_to_postgresql(url) as (way, _),
        ApiServer(tmp_path, way) as server,
        server.client() as client,
    ):
        with pytest.raises(httpx2.RemoteProtocolError):
            read_while_it_goes(client)
        assert len(export(client, priority_min=5)) > 0

    log = server.log.read_text()
    assert "The database is not available: " in log
    assert "Traceback" not in log
