"""What an operator may rely on behind a pooler: the API works there without a further setting."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from calls import at_once, create, create_many
from clusters import PGBOUNCER, PgBouncer
from servers import ApiServer, connect
from sqlalchemy import text

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed"),
]

FIRST, LAST = "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"
HINT = "ALTER ROLE"


@pytest.fixture(scope="module", params=["session", "transaction"])
def pooler(
    request: pytest.FixtureRequest, postgresql_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PgBouncer]:
    """PgBouncer; where clients share connections, they have only two."""
    options = {
        "pool_mode": request.param,
        "default_pool_size": {"session": 40, "transaction": 2}[request.param],
    }
    with PgBouncer(tmp_path_factory.mktemp("pgbouncer"), postgresql_url, **options) as pooler:
        yield pooler


@pytest.fixture(scope="module")
def direct_url(new_postgresql_database: Callable[[], str], pooler: PgBouncer) -> str:  # noqa: ARG001
    """The URL of a database whose clients are in New York, not by way of the pooler."""
    url = new_postgresql_database()
    with connect(url).begin() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar()
        connection.execute(text(f"ALTER DATABASE {name} SET timezone = 'America/New_York'"))
    return url


@pytest.fixture(scope="module")
def pooled(
    pooler: PgBouncer, direct_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiServer]:
    folder = tmp_path_factory.mktemp("server")
    with ApiServer(folder, pooler.url(direct_url), "--workers", "2") as server:
        yield server


@pytest.fixture
def client(pooled: ApiServer, direct_url: str) -> Iterator[httpx2.Client]:
    with connect(direct_url).begin() as connection:
        connection.execute(text("TRUNCATE task RESTART IDENTITY CASCADE"))
    with pooled.client() as client:
        yield client


def test_the_api_works_behind_a_pooler_without_a_further_setting(client: httpx2.Client) -> None:
    tasks = create_many(client, [{"title": f"task {number}"} for number in range(200)])
    updates = [{"id": task["id"], "priority": 3} for task in tasks]
    updated = client.patch("/tasks/bulk", json=updates).json()

    assert client.get("/ready").json() == {"status": "ready"}
    assert [task["priority"] for task in updated] == [3] * 200
    assert client.get("/tasks?sort=-id&limit=1").json() == updated[-1:]
    assert client.delete("/tasks/1?permanent=true").status_code == 200
    assert client.get("/tasks/stats").json()["total"] == 199


def test_datetimes_are_right_behind_a_pooler_to_a_server_in_new_york(
    client: httpx2.Client, direct_url: str
) -> None:
    tasks = [create(client, due_at=due_at) for due_at in (FIRST, LAST)]

    assert [task["due_at"] for task in tasks] == [FIRST, LAST]
    assert all(task["created_at"].endswith("Z") for task in tasks)
    assert client.get("/tasks?sort=due_at").json() == tasks
    assert [client.get(f"/tasks/{task['id']}").json() for task in tasks] == tasks
    assert client.get(f"/tasks?due_before={FIRST}").json() == []
    with connect(direct_url).connect() as connection:
        stored = connection.execute(text("SELECT (due_at AT TIME ZONE 'UTC')::text FROM task"))
        assert set(stored.scalars()) == {"0001-01-01 00:00:00", "9999-12-31 23:59:59.999999"}


def test_the_zone_of_another_client_of_the_pooler_changes_no_datetime(
    client: httpx2.Client, pooler: PgBouncer, direct_url: str
) -> None:
    other = connect(pooler.url(direct_url)).execution_options(isolation_level="AUTOCOMMIT")
    with other.connect() as connection:
        connection.execute(text("SET TIME ZONE 'Asia/Tokyo'"))
        for _ in range(20):
            assert connection.execute(text("SHOW TIME ZONE")).scalar() == "Asia/Tokyo"
            task = create(client, due_at=FIRST)
            assert client.get(f"/tasks/{task['id']}").json()["due_at"] == FIRST


def test_more_clients_than_the_pooler_has_connections_are_all_answered(
    client: httpx2.Client,
) -> None:
    def ask(number: int) -> httpx2.Response:
        if number % 2:
            return client.post("/tasks", json={"title": f"task {number}"})
        return client.post("/tasks/bulk", json=[{"title": f"task {number}"}] * 100)

    for _ in range(5):
        answers = at_once(20, ask)
        assert {answer.status_code for answer in answers} == {201}
    assert client.get("/tasks/stats").json()["total"] == 5 * (10 + 1000)


def test_the_log_says_once_for_each_worker_how_to_set_the_limits_that_a_pooler_refuses(
    pooled: ApiServer, client: httpx2.Client
) -> None:
    at_once(10, lambda _: client.get("/tasks"))

    assert pooled.log.read_text().count(HINT) == 2


def test_a_limit_of_the_role_ends_a_statement_behind_a_pooler(
    pooler: PgBouncer, new_postgresql_database: Callable[[], str], tmp_path: Path
) -> None:
    direct_url = new_postgresql_database()
    with connect(direct_url).begin() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar()
        limit = f"ALTER ROLE CURRENT_USER IN DATABASE {name} SET statement_timeout = '1s'"
        connection.execute(text(limit))
    with (
        ApiServer(tmp_path, pooler.url(direct_url)) as server,
        server.client() as client,
        connect(direct_url).connect() as connection,
    ):
        connection.execute(text("LOCK TABLE task"))

        begin = time.monotonic()
        for answer in at_once(2, lambda _: client.post("/tasks", json={"title": "waiting"})):
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert 1 < time.monotonic() - begin < 3

        connection.rollback()
        create(client)


def test_a_pooler_that_is_restarted_is_an_outage_that_ends_with_it(
    client: httpx2.Client, pooler: PgBouncer
) -> None:
    task = create(client)

    pooler.stop()
    for _ in range(2):
        answer = client.get("/tasks")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")

    pooler.start()
    for _ in range(5):
        assert client.get("/tasks/1").json() == task
        create(client)


def test_without_a_pooler_the_log_says_nothing_about_limits(
    new_postgresql_database: Callable[[], str], tmp_path: Path
) -> None:
    with ApiServer(tmp_path, new_postgresql_database()) as server:
        pass

    assert HINT not in server.log.read_text()
