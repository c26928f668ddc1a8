"""What an operator may rely on with a replica: `GET` reads there, all else is on the primary."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from calls import SECRET_KEY, create, insert_user, sign_in
from clusters import Cluster, url_of, wait_until
from servers import ApiServer, connect

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(
    pair: tuple[Cluster, Cluster], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiServer]:
    """A server where one must sign in, and that reads from the standby."""
    primary, standby = pair
    with ApiServer(
        tmp_path_factory.mktemp("server"),
        primary.url,
        DATABASE_REPLICA_URL=standby.url,
        DATABASE_STATEMENT_TIMEOUT="1",
        DATABASE_CONNECT_TIMEOUT="1",
        SECRET_KEY=SECRET_KEY,
    ) as server:
        yield server


@pytest.fixture
def client(server: ApiServer, primary: Cluster, standby: Cluster) -> Iterator[httpx2.Client]:
    """A client who is signed in, where there are no tasks."""
    primary.execute('TRUNCATE "user", task RESTART IDENTITY CASCADE')
    insert_user(connect(primary.url), "ada")
    wait_until(lambda: standby.execute("SELECT count(*) FROM task") == 0)
    with sign_in(server, "ada") as client:
        yield client


def count_uses(cluster: Cluster) -> int:
    """Return how often tasks were looked for or created there."""
    # A connection adds what it did when it ends, or when it has been idle for ten seconds.
    cluster.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    uses = cluster.execute(
        "SELECT seq_scan + idx_scan + n_tup_ins FROM pg_stat_user_tables WHERE relname = 'task'"
    )
    return int(str(uses))


def assert_unavailable(answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


def test_reads_go_to_the_replica_and_not_to_the_primary(
    client: httpx2.Client, primary: Cluster, standby: Cluster
) -> None:
    task = create(client)
    wait_until(lambda: client.get("/tasks").json() == [task])
    on_primary, on_standby = count_uses(primary), count_uses(standby)

    for _ in range(20):
        for path in ("/tasks", "/tasks/1", "/tasks/stats", "/ready"):
            client.get(path).raise_for_status()

    assert count_uses(primary) == on_primary
    assert count_uses(standby) >= on_standby + 60
    create(client)
    assert count_uses(primary) == on_primary + 1


def test_sign_in_does_not_wait_for_the_replica(
    client: httpx2.Client, server: ApiServer, primary: Cluster, standby: Cluster
) -> None:
    with standby.paused():
        insert_user(connect(primary.url), "bob")

        with sign_in(server, "bob") as bob:
            assert bob.get("/tasks").status_code == 200

        primary.execute("UPDATE \"user\" SET is_active = false WHERE username = 'ada'")
        assert client.get("/tasks").status_code == 401


def test_a_client_reads_what_it_wrote_if_commits_wait_for_the_replica(
    client: httpx2.Client, primary: Cluster
) -> None:
    with primary.having(synchronous_standby_names="*", synchronous_commit="remote_apply"):
        for _ in range(300):
            task = create(client)
            assert client.get(f"/tasks/{task['id']}").json() == task


def test_otherwise_a_client_may_read_what_was_before(
    client: httpx2.Client, standby: Cluster
) -> None:
    with standby.paused():
        create(client)
        assert client.get("/tasks").json() == []
        assert client.get("/tasks/1").status_code == 404

    wait_until(lambda: client.get("/tasks/1").status_code == 200)


def test_without_the_replica_reads_are_refused_and_writes_go_on(
    client: httpx2.Client, standby: Cluster
) -> None:
    task = create(client)
    wait_until(lambda: client.get("/tasks").json() == [task])

    standby.kill()
    try:
        for _ in range(2):
            assert_unavailable(client.get("/tasks"))
            create(client)
            assert client.get("/ready").status_code == 200
    finally:
        standby.start()

    wait_until(lambda: client.get("/tasks").status_code == 200)
    wait_until(lambda: len(client.get("/tasks").json()) == 3)


def test_a_frozen_replica_ends_reads_after_their_limits_and_slows_no_write(
    client: httpx2.Client, standby: Cluster
) -> None:
    client.get("/tasks").raise_for_status()
    with ThreadPoolExecutor(20) as threads:
        with standby.frozen():
            begin = time.monotonic()
            reads = [threads.submit(client.get, "/tasks") for _ in range(20)]
            for _ in range(10):
                create(client)
            assert client.get("/ready").status_code == 200
            assert not any(read.done() for read in reads)
            for read in reads:
                assert_unavailable(read.result())
            assert time.monotonic() - begin < 1 + 1 + 2

        wait_until(lambda: client.get("/tasks").status_code == 200)


def test_reads_fall_back_on_the_primary_and_go_back_to_the_replica(
    primary: Cluster, standby: Cluster, tmp_path: Path
) -> None:
    with (
        ApiServer(
            tmp_path,
            url_of(primary, standby, target_session_attrs="read-write"),
            DATABASE_REPLICA_URL=url_of(standby, primary, target_session_attrs="prefer-standby"),
            DATABASE_POOL_RECYCLE="1",
        ) as server,
        server.client() as client,
    ):
        client.get("/tasks").raise_for_status()
        standby.kill()
        try:
            statuses = [client.get("/tasks").status_code for _ in range(20)]
        finally:
            standby.start()
        assert statuses.count(503) <= 1
        assert set(statuses) <= {200, 503}

        others = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )

        def reads_there() -> bool:
            client.get("/tasks").raise_for_status()
            return bool(standby.execute(others))

        wait_until(reads_there)


def test_reads_are_refused_until_the_replica_has_the_new_schema(
    primary: Cluster, standby: Cluster, tmp_path: Path
) -> None:
    primary.execute("CREATE DATABASE upgraded")
    wait_until(lambda: standby.execute("SELECT 1 FROM pg_database WHERE datname = 'upgraded'"))
    urls = [f"{cluster.url.removesuffix('postgres')}upgraded" for cluster in (primary, standby)]
    with standby.paused():
        server = ApiServer(tmp_path, urls[0], DATABASE_REPLICA_URL=urls[1])
        with server, server.client() as client:
            for path in ("/tasks", "/tasks/1", "/users"):
                assert_unavailable(client.get(path))
            task = create(client)
            assert client.get("/ready").status_code == 200

            standby.execute("SELECT pg_wal_replay_resume()")
            wait_until(lambda: client.get("/tasks").status_code == 200)
            wait_until(lambda: client.get("/tasks").json() == [task])
    assert "Traceback" not in server.log.read_text()
