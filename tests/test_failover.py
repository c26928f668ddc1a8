"""What an operator may rely on when the primary fails: nobody hangs, nothing acknowledged is lost.

They print what they measure with `-s`.
"""

import asyncio
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from calls import at_once, create
from clusters import Cluster, run_primary_and_standby, url_of, wait_until
from servers import ApiServer
from sqlalchemy import make_url
from test_load import Load, assert_nothing_is_lost, create_task, report

pytestmark = pytest.mark.slow

# What no standby is called, so each commit waits for ever.
NOBODY = {"synchronous_standby_names": "nobody"}


async def count_statuses(load: Load, seconds: float) -> Counter[int]:
    before = load.statuses.copy()
    await asyncio.sleep(seconds)
    return load.statuses - before


def test_after_a_failover_the_same_processes_go_on_and_nothing_acknowledged_is_lost(
    tmp_path: Path,
) -> None:
    with run_primary_and_standby() as (primary, standby):
        url = url_of(standby, primary, target_session_attrs="read-write")
        with ApiServer(tmp_path, url, "--workers", "2") as server:
            with server.client() as client:
                create(client, title="first")
            primary.set("synchronous_commit", "remote_apply")
            primary.set("synchronous_standby_names", "*")
            load = Load(server)

            async def fail_over() -> None:
                await asyncio.sleep(2)
                await asyncio.to_thread(primary.kill)
                await asyncio.sleep(0.5)
                assert set(await count_statuses(load, 0.5)) == {503}
                begin = time.monotonic()
                await asyncio.to_thread(standby.promote)
                while set(await count_statuses(load, 0.5)) != {200, 201}:
                    assert time.monotonic() - begin < 5
                print(f"serves again at most {time.monotonic() - begin:.1f} s after the promotion")
                assert set(await count_statuses(load, 1)) == {200, 201}

            asyncio.run(load.run(20, fail_over))

        report(load)
        print(f"{len(load.tasks) + len(load.bulks)} writes were acknowledged")
        assert set(load.statuses) == {200, 201, 503}
        assert load.retry_after == {"5"}
        assert max(load.seconds) < 5
        assert_nothing_is_lost(load, standby.url)


def assert_unavailable_in_time(answers: list[httpx2.Response], begin: float) -> None:
    seconds = time.monotonic() - begin
    print(f"503 after {seconds:.1f} s")
    assert seconds < 1 + 1 + 2  # the two limits, and what a busy machine takes
    for answer in answers:
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


@pytest.fixture(scope="module")
def client(
    pair: tuple[Cluster, Cluster], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx2.Client]:
    """A client of a server with short limits."""
    folder, primary = tmp_path_factory.mktemp("server"), pair[0]
    with (
        ApiServer(
            folder, primary.url, DATABASE_STATEMENT_TIMEOUT="1", DATABASE_CONNECT_TIMEOUT="1"
        ) as server,
        server.client() as client,
    ):
        yield client


def test_requests_on_a_frozen_primary_end_after_their_limits(
    client: httpx2.Client, primary: Cluster
) -> None:
    def ask(number: int) -> httpx2.Response:
        if number % 2:
            return client.get("/tasks")
        return client.post("/tasks", json={"title": f"task {number}"})

    at_once(10, ask)
    with primary.frozen():
        for _ in range(2):  # the second time on new connections
            begin = time.monotonic()
            assert_unavailable_in_time(at_once(20, ask), begin)
        assert client.get("/health").status_code == 200

    wait_until(lambda: client.get("/ready").status_code == 200)
    assert {answer.status_code for answer in at_once(20, ask)} == {200, 201}


def test_a_commit_that_hangs_ends_after_the_limits(client: httpx2.Client, primary: Cluster) -> None:
    task = create(client)

    with primary.having(**NOBODY):
        begin = time.monotonic()
        answers = at_once(5, lambda _: client.post("/tasks", json={"title": "waiting"}))
        assert_unavailable_in_time(answers, begin)
        assert client.get(f"/tasks/{task['id']}").json() == task

    create(client)


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, "1"), (signal.SIGINT, "1"), (signal.SIGTERM, "2")]
)
def test_a_stop_ends_in_time_while_a_commit_hangs(
    primary: Cluster, tmp_path: Path, number: signal.Signals, workers: str
) -> None:
    options = ("--workers", workers, "--timeout-graceful-shutdown", "1")
    with ApiServer(tmp_path, primary.url, *options) as server, primary.having(**NOBODY):
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        with socket.create_connection(("127.0.0.1", make_url(server.url).port or 0)) as client:
            client.sendall(create_task(f"{number}-{workers}"))
            wait_until(lambda: primary.execute(waiting))

            begin = time.monotonic()
            server.process.send_signal(number)
            server.process.wait(timeout=20)

        seconds = time.monotonic() - begin
        print(f"ended after {seconds:.1f} s")
        assert seconds < 1 + 3
