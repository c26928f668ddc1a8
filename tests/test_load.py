"""What an operator may rely on under load and faults: everyone is answered, and nothing is lost.

They run by `-m slow`, and print what they measure with `-s`.
"""

import asyncio
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx2
import psutil
import pytest
from calls import create
from servers import ROOT, ApiServer, connect, environment, fill, run_postgresql
from sqlalchemy import make_url, text

pytestmark = pytest.mark.slow
BULK = 20
# What lets nobody else write.
LOCK = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "LOCK TABLE task"}


class Load:
    """Clients that ask one thing after the other, each on a connection of its own."""

    def __init__(self, server: ApiServer) -> None:
        self.port = make_url(server.url).port
        self.stopped = False
        self.statuses: Counter[int] = Counter()  # 0 where there was no answer
        self.seconds: list[float] = []
        # The titles of what was acknowledged.
        self.tasks: set[str] = set()
        self.bulks: set[str] = set()
        self.retry_after: set[str] = set()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask_once(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> int:
        begin = time.monotonic()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length
        await reader.readexactly(int(length[1]))
        self.seconds.append(time.monotonic() - begin)
        self.retry_after.update(re.findall(r"retry-after: (\d+)", head.decode()))
        return int(head.split()[1])

    async def ask(self, number: int) -> None:
        """Be one client, who sends what was not acknowledged again with the same key."""
        turn = 0
        connection = None
        while not self.stopped:
            title = f"{number}-{turn}"
            request = [read_tasks, read_task, create_task, create_tasks][turn % 4](title)
            try:
                connection = connection or await self.connect()
                status = await self.ask_once(*connection, request)
            except (OSError, asyncio.IncompleteReadError):
                if connection:
                    connection[1].close()
                connection, status = None, 0
            self.statuses[status] += 1
            if status in (0, 503):
                await asyncio.sleep(0.1)
            if status == 201:
                (self.tasks if turn % 4 == 2 else self.bulks).add(title)
            if status not in (0, 503) or turn % 4 != 2:
                turn += 1
        if connection:
            connection[1].close()

    async def run(self, clients: int, events: Callable[[], Awaitable[None]]) -> None:
        """Let the clients ask while the events happen."""
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(self.ask(number))
            try:
                await events()
            finally:
                self.stopped = True


def request(method: str, path: str, body: object = None, *headers: str) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    usual = ["Host: localhost", "Content-Type: application/json", f"Content-Length: {len(content)}"]
    lines = [f"{method} {path} HTTP/1.1", *usual, *headers, "", ""]
    return "\r\n".join(lines).encode() + content


def read_tasks(_title: str) -> bytes:
    return request("GET", "/tasks?limit=20&sort=-created_at")


def read_task(_title: str) -> bytes:
    return request("GET", "/tasks/1")


def create_task(title: str) -> bytes:
    return request("POST", "/tasks", {"title": title}, f"Idempotency-Key: {title}")


def create_tasks(title: str) -> bytes:
    return request("POST", "/tasks/bulk", [{"title": title}] * BULK)


def assert_nothing_is_lost(load: Load, database_url: str) -> None:
    with connect(database_url).connect() as connection:
        if connection.dialect.name == "sqlite":
            assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
        counts = Counter(connection.execute(text("SELECT title FROM task")).scalars())
    del counts["first"]
    assert load.tasks
    assert load.bulks
    assert {title: counts[title] for title in load.tasks} == dict.fromkeys(load.tasks, 1)
    assert {title: counts[title] for title in load.bulks} == dict.fromkeys(load.bulks, BULK)
    # What was not acknowledged may be there too, but only as a whole.
    assert set(counts.values()) == {1, BULK}


def report(load: Load) -> None:
    p99 = quantiles(load.seconds, n=100)[-1]
    print(f"p50 {median(load.seconds):.3f} s, p99 {p99:.3f} s,", end=" ")
    print(f"{load.statuses[503]} times 503 among {dict(load.statuses)}")


def first_task(server: ApiServer) -> None:
    with server.client() as client:
        create(client, title="first")


def test_five_hundred_clients_are_all_answered(empty_database: str, tmp_path: Path) -> None:
    with ApiServer(tmp_path, empty_database, "--workers", "2") as server:
        first_task(server)
        load = Load(server)
        asyncio.run(load.run(500, lambda: asyncio.sleep(20)))

    report(load)
    assert set(load.statuses) <= {200, 201, 503}
    assert_nothing_is_lost(load, empty_database)


async def read_slowly(port: int) -> None:
    """Ask for much, and read it a byte at a time from a small buffer."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.connect(("127.0.0.1", port))
        client.setblocking(False)  # noqa: FBT003
        await loop.sock_sendall(client, request("GET", "/tasks"))
        while await loop.sock_recv(client, 1):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def send_slowly(port: int) -> None:
    """Send a task a byte at a time."""
    loop = asyncio.get_running_loop()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setblocking(False)  # noqa: FBT003
        for byte in create_task("a" * 10_000):
            await loop.sock_sendall(client, bytes([byte]))
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("slow", [read_slowly, send_slowly])
def test_slow_clients_do_not_slow_the_others(
    empty_database: str, tmp_path: Path, slow: Callable[[int], Awaitable[None]]
) -> None:
    with ApiServer(tmp_path, empty_database, DATABASE_POOL_TIMEOUT="1") as server:
        with server.client() as client:
            for _ in range(100):
                create(client, title="first", description="x" * 10_000)
        before, during = Load(server), Load(server)

        async def watch() -> None:
            await before.run(5, lambda: asyncio.sleep(2))
            assert before.port
            slow_ones = [asyncio.ensure_future(slow(before.port)) for _ in range(200)]
            await asyncio.sleep(3)  # until the server has begun to answer all of them
            await during.run(5, lambda: asyncio.sleep(2))
            assert not any(one.done() for one in slow_ones)
            for one in slow_ones:
                one.cancel()

        asyncio.run(watch())

    report(before)
    report(during)
    assert set(during.statuses) == {200, 201}
    assert median(during.seconds) < 3 * median(before.seconds) + 0.05


def test_while_all_connections_are_blocked_the_process_still_answers(
    empty_database: str, tmp_path: Path
) -> None:
    with (
        ApiServer(
            tmp_path,
            empty_database,
            DATABASE_POOL_SIZE="2",
            DATABASE_MAX_OVERFLOW="1",
            DATABASE_POOL_TIMEOUT="2",
            DATABASE_STATEMENT_TIMEOUT="3",
        ) as server,
        ThreadPoolExecutor(20) as threads,
        connect(empty_database).connect() as connection,
        server.client() as client,
    ):

        def write(number: int) -> httpx2.Response:
            body = {"title": f"task {number}"}
            return client.post("/tasks", json=body)

        connection.exec_driver_sql(LOCK[connection.dialect.name])
        blocked = [threads.submit(write, number) for number in range(20)]
        time.sleep(0.5)
        waits = []
        for _ in range(20):
            begin = time.monotonic()
            assert client.get("/health").status_code == 200
            waits.append(time.monotonic() - begin)
        begin = time.monotonic()
        answers = [future.result() for future in blocked]
        waited = time.monotonic() - begin
        connection.rollback()

        print(
            f"/health {median(waits):.4f} s, at most {max(waits):.4f} s; 503 after {waited:.1f} s"
        )
        assert median(waits) < 0.1
        assert {answer.status_code for answer in answers} == {503}
        assert all(answer.headers["Retry-After"] for answer in answers)
        assert waited < 6
        assert client.get("/tasks").json() == []
        assert create(client)


def test_more_refused_writes_than_threads_are_all_answered(
    empty_database: str, tmp_path: Path
) -> None:
    """Each holds the lock that the others wait for until it is undone."""
    with (
        ApiServer(
            tmp_path,
            empty_database,
            DATABASE_POOL_SIZE="60",
            DATABASE_MAX_OVERFLOW="0",
            DATABASE_POOL_TIMEOUT="5",
            DATABASE_STATEMENT_TIMEOUT="5",
        ) as server,
        ThreadPoolExecutor(60) as threads,
        server.client() as client,
    ):
        first_task(server)

        def change(number: int) -> int:
            headers, body = {"If-Match": '"0"'}, {"title": f"task {number}"}
            return client.patch("/tasks/1", json=body, headers=headers).status_code

        assert set(threads.map(change, range(120))) == {412}


def test_postgresql_ends_a_forgotten_transaction(
    new_postgresql_database: Callable[[], str], tmp_path: Path
) -> None:
    program = """
import time
from database import engine
with engine.connect() as connection:
    connection.exec_driver_sql("SELECT 1")
    time.sleep(2)
    connection.exec_driver_sql("SELECT 1")
"""
    settings = {"DATABASE_IDLE_TRANSACTION_TIMEOUT": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(new_postgresql_database(), **settings),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "server closed the connection" in run.stderr


def kill_postgresql(pid: int) -> None:
    postmaster = psutil.Process(pid)
    processes = [postmaster, *postmaster.children()]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes)


def test_a_killed_postgresql_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with (
        run_postgresql() as postgresql,
        ApiServer(tmp_path, postgresql.get_uri(), "--workers", "2") as server,
    ):
        first_task(server)
        load = Load(server)
        away: Counter[int] = Counter()

        async def kill_and_start() -> None:
            await asyncio.sleep(2)
            pid = postgresql.get_pid()
            assert pid
            await asyncio.to_thread(kill_postgresql, pid)
            await asyncio.sleep(1)
            load.statuses.clear()
            await asyncio.sleep(1)
            away.update(load.statuses)
            await asyncio.to_thread(postgresql.start)
            await asyncio.sleep(5)
            load.statuses.clear()
            await asyncio.sleep(2)

        asyncio.run(load.run(50, kill_and_start))

        report(load)
        assert set(away) == {503}
        assert load.retry_after == {"5"}
        assert set(load.statuses) == {200, 201}
        assert_nothing_is_lost(load, postgresql.get_uri())


def test_a_killed_worker_loses_and_halves_nothing(empty_database: str, tmp_path: Path) -> None:
    with ApiServer(tmp_path, empty_database, "--workers", "2") as server:
        first_task(server)
        load = Load(server)

        async def kill() -> None:
            for _ in range(3):
                await asyncio.sleep(2)
                children = psutil.Process(server.process.pid).children()
                # The one that was killed before may not be reaped yet.
                workers = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
                # The other child keeps track of what they share.
                min(workers, key=lambda worker: "resource_tracker" in str(worker.cmdline())).kill()
            await asyncio.sleep(3)
            load.statuses.clear()
            await asyncio.sleep(2)

        asyncio.run(load.run(50, kill))

        report(load)
        assert set(load.statuses) == {200, 201}
        assert_nothing_is_lost(load, empty_database)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_finishes_what_is_under_way(
    empty_database: str, tmp_path: Path, workers: str
) -> None:
    with ApiServer(tmp_path, empty_database, "--workers", workers) as server:
        first_task(server)
        load = Load(server)

        async def stop() -> None:
            await asyncio.sleep(2)
            begin = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            status = await asyncio.to_thread(server.process.wait, 10)
            print(f"exit code {status} after {time.monotonic() - begin:.1f} s")
            # A process that finished by the signal says so; the parent of several ends with 0.
            assert status == (0 if workers == "2" else -signal.SIGTERM)

        asyncio.run(load.run(50, stop))

    report(load)
    assert set(load.statuses) <= {0, 200, 201}
    assert_nothing_is_lost(load, empty_database)
    with server.client() as client, pytest.raises(httpx2.ConnectError):
        client.get("/")


def test_a_stop_does_not_wait_longer_than_it_is_told_to(
    empty_database: str, tmp_path: Path
) -> None:
    server = ApiServer(tmp_path, empty_database, "--timeout-graceful-shutdown", "1")
    with server, connect(empty_database).connect() as connection:
        connection.exec_driver_sql(LOCK[connection.dialect.name])
        port = make_url(server.url).port
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(create_task("waiting"))
            time.sleep(0.5)

            server.process.terminate()

            assert server.process.wait(timeout=5)


def test_a_client_that_goes_away_leaves_nothing_behind(
    new_postgresql_database: Callable[[], str], tmp_path: Path
) -> None:
    url = new_postgresql_database()
    with (
        ApiServer(tmp_path, url, DATABASE_POOL_SIZE="2", DATABASE_MAX_OVERFLOW="1") as server,
        connect(url).connect() as connection,
    ):
        first_task(server)
        port = make_url(server.url).port
        for number in range(300):
            whole = [create_task, create_tasks, read_tasks][number % 3](f"task {number}")
            with socket.create_connection(("127.0.0.1", port)) as client:
                # Some go in the middle of their request, some without the answer.
                client.sendall(whole[: len(whole) * (number % 7) // 6])
        with server.client() as client, ThreadPoolExecutor(3) as threads:
            states: list[str] = []
            for _ in range(100):
                states = list(
                    connection.execute(
                        text(
                            "SELECT state FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                            " AND datname = current_database()"
                        )
                    ).scalars()
                )
                connection.rollback()  # else it would see the same states again
                if set(states) <= {"idle"}:
                    break
                time.sleep(0.05)
            print(states)
            assert set(states) == {"idle"}
            assert len(states) <= 3
            # All places are free again.
            connection.exec_driver_sql("LOCK TABLE task")
            readers = [threads.submit(client.get, "/tasks") for _ in range(3)]
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            for _ in range(100):
                blocked = connection.execute(waiting).scalar()
                if blocked == 3:
                    break
                time.sleep(0.05)
            connection.rollback()
            assert blocked == 3
            assert {reader.result().status_code for reader in readers} == {200}


MAX_GROWTH = 60  # MiB


def random_filters(chance: random.Random) -> dict[str, Any]:
    """Return a query of a list, with each parameter there or not."""
    possible: dict[str, Any] = {
        "status": chance.sample(["pending", "in_progress", "completed"], chance.randint(1, 3)),
        "priority_min": chance.randint(0, 5),
        "priority_max": chance.randint(0, 5),
        "q": "".join(chance.choices("abcd %_", k=chance.randint(1, 20))),
        "created_after": f"2026-01-{chance.randint(1, 31):02}T00:00:00Z",
        "created_before": f"2026-12-{chance.randint(1, 31):02}T00:00:00Z",
        "due_after": f"2026-02-{chance.randint(1, 28):02}T00:00:00Z",
        "due_before": f"2026-11-{chance.randint(1, 30):02}T00:00:00Z",
        "overdue": chance.random() < 0.5,
        "owner_id": chance.randint(1, 5),
        "unowned": chance.random() < 0.5,
        "deleted": chance.random() < 0.5,
        "sort": chance.choice(["", "-"])
        + chance.choice(["id", "title", "status", "priority", "due_at", "created_at"]),
        "limit": chance.randint(1, 100),
        "count": chance.random() < 0.5,
    }
    return {name: value for name, value in possible.items() if chance.random() < 0.5}


def test_many_different_filters_do_not_add_up_in_memory(
    empty_database: str, tmp_path: Path
) -> None:
    chance = random.Random(1)  # noqa: S311  # the same at each run
    with ApiServer(tmp_path, empty_database) as server, server.client() as client:
        fill(connect(empty_database), 200)
        process = psutil.Process(server.process.pid)

        def ask(number: int) -> float:
            for _ in range(number):
                client.get("/tasks", params=random_filters(chance)).raise_for_status()
            return process.memory_info().rss / 1024**2

        before = ask(200)
        growth = ask(10_000) - before

    print(f"10,000 different filters add {growth:.1f} MiB to {before:.1f} MiB")
    assert growth < MAX_GROWTH


def stop_reading(port: int, path: str) -> socket.socket:
    """Ask for much, and read nothing of it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    client.connect(("127.0.0.1", port))
    client.sendall(request("GET", path))
    return client


# 2,000 tasks of 40 KB in all; and 4 MiB for each list, which is in memory once.
@pytest.mark.parametrize(
    ("path", "limit"),
    [("/tasks/export", 150), ("/tasks/export?format=csv", 150), ("/tasks?limit=100", 800)],
)
def test_clients_that_stop_reading_do_not_fill_the_memory(
    empty_database: str, tmp_path: Path, path: str, limit: int
) -> None:
    with ApiServer(tmp_path, empty_database) as server, server.client() as client:
        engine = connect(empty_database)
        fill(engine, 2000)
        with engine.begin() as connection:
            values = {"text": "🐛" * 10_000}
            connection.execute(text("UPDATE task SET description = :text"), values)
        client.get("/tasks?limit=1").raise_for_status()
        process = psutil.Process(server.process.pid)
        port = make_url(server.url).port
        assert port

        def memory_at_rest() -> float:
            used = -1.0
            while used != (used := process.cpu_times().user):
                time.sleep(1)
            return process.memory_info().rss / 2**20

        memory = [memory_at_rest()]
        for _ in range(3):
            readers = [stop_reading(port, path) for _ in range(100)]
            memory.append(memory_at_rest())
            for reader in readers:
                reader.close()
            memory.append(memory_at_rest())

    print(f"{path}: {', '.join(f'{each:.0f}' for each in memory)} MiB")
    before, first, _, _, _, last, after = memory
    assert last - before < limit
    # SQLite and the C library keep some of what is free again, and use it for the next requests.
    assert last - first < 0.5 * limit
    assert after - before < limit
