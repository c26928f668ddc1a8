"""What an operator may rely on when a new version is deployed: it takes over, or the old one stays.

They run by `-m slow`, and print what they measure with `-s`.
"""

import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from calls import PASSWORD, SECRET_KEY, create, create_many, create_user, insert_user, sign_in
from servers import ApiServer, connect
from sqlalchemy import text

from sign_in import hasher

pytestmark = pytest.mark.slow

# Two processes, as `docs/operations.md` starts them: a busy machine needs more than the usual 5 s
# to start a worker.
WORKERS = ("--workers", "2", "--timeout-worker-healthcheck", "60")


def wait_for(condition: Callable[[], bool], server: ApiServer) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError(server.log.read_text())


def replace(file: Path, old: str, new: str) -> None:
    code = file.read_text()
    assert old in code
    file.write_text(code.replace(old, new, 1))


def version(server: ApiServer) -> str:
    """Return the version that a new client meets."""
    with server.client() as client:
        return str(client.get("/openapi.json").json()["info"]["version"])


def deploy(server: ApiServer) -> None:
    """Let the parent process replace its workers, and wait until it has."""
    ended = r"Finished server process"
    before = len(re.findall(ended, server.log.read_text()))
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(re.findall(ended, server.log.read_text())) == before + 2, server)


class Writers:
    """Clients that create a task each time on a new connection, as many proxies do.

    What gets no answer is sent again with its key: uvicorn closes, unread, what it has accepted as
    it stops (https://github.com/Kludex/uvicorn/issues/2757).
    """

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.stopped = False
        self.statuses: Counter[int] = Counter()  # 0 where there was no answer
        self.titles: list[str] = []

    def write(self, number: int) -> None:
        with self.server.client(Connection="close") as client:
            while not self.stopped:
                title = f"{number}-{len(self.titles)}-{time.monotonic_ns()}"
                self.titles.append(title)
                while self.ask(client, title) == 0:
                    pass

    def ask(self, client: httpx2.Client, title: str) -> int:
        try:
            headers = {"Idempotency-Key": title}
            status = client.post("/tasks", json={"title": title}, headers=headers).status_code
        except httpx2.TransportError:
            status = 0
        self.statuses[status] += 1
        return status


def test_a_new_version_takes_over_while_every_write_is_answered(
    empty_database: str, copy: Path
) -> None:
    with (
        ApiServer(copy, empty_database, *WORKERS, app_dir=copy) as server,
        ThreadPoolExecutor(4) as threads,
    ):
        writers = Writers(server)
        writing = [threads.submit(writers.write, number) for number in range(4)]
        replace(copy / "main.py", 'version="1.0.0"', 'version="9.0.0"')

        begin = time.monotonic()
        deploy(server)
        seconds = time.monotonic() - begin
        writers.stopped = True
        for one in writing:
            one.result()

        print(f"{dict(writers.statuses)} in {seconds:.1f} s")
        assert {version(server) for _ in range(20)} == {"9.0.0"}
    assert set(writers.statuses) <= {0, 201}
    assert writers.statuses[0] <= 2
    with connect(empty_database).connect() as connection:
        stored = connection.execute(text("SELECT title FROM task")).scalars()
        assert sorted(stored) == sorted(writers.titles)
