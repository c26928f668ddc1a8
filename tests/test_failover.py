"""What an operator may rely on when the primary fails: nothing acknowledged is lost, nobody hangs.

They print what they measure with `-s`.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from calls import at_once, create
from clusters import Cluster, run_primary_and_standby, url_of, wait_until
from servers import ApiServer
from test_load import Load, assert_nothing_is_lost, report

pytestmark = pytest.mark.slow

SYNCHRONOUS = {"synchronous_standby_names": "*", "synchronous_commit": "remote_apply"}
# What no server has, so that each commit waits for ever.
NOBODY = {"synchronous_standby_names": "nobody"}
LIMITS = {"DATABASE_STATEMENT_TIMEOUT": "1", "DATABASE_CONNECT_TIMEOUT": "1"}


def assert_unavailable(answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.json() == {"detail": "The database is not available"}


def test_after_a_failover_the_same_processes_go_on_and_nothing_acknowledged_is_lost(
    tmp_path: Path,
) -> None:
    with run_primary_and_standby() as (primary, standby):
        url = url_of(primary, standby, target_session_attrs="read-write")
        with ApiServer(
            tmp_path, url.replace("postgresql", "postgres", 1), "--workers", "2"
        ) as server:
            with server.client() as client:
                create(client, title="first")
            for name, value in SYNCHRONOUS.items():
                primary.set(name, value)
            standby.set("synchronous_standby_names", "")  # it will be alone
            load = Load(server)
            away: Counter[int] = Counter()

            async def fail_over() -> None:
                await asyncio.sleep(2)
                await asyncio.to_thread(primary.kill)
                await asyncio.sleep(0.5)
                load.statuses.clear()
                await asyncio.sleep(1)
                away.update(load.statuses)
                await asyncio.to_thread(standby.promote)
                promoted = time.monotonic()
                while not load.statuses[201] or set(load.statuses) - {200, 201}:
                    load.statuses.clear()
                    await asyncio.sleep(0.5)
                seconds = time.monotonic() - promoted - 0.5
                print(f"serves again after {seconds:.1f} s")
                assert seconds < 5
                await asyncio.sleep(1)

            asyncio.run(load.run(20, fail_over))

        report(load)
        writes = len(load.tasks) + len(load.bulks)
        print(f"{writes} acknowledged writes, the longest answer took {max(load.seconds):.1f} s")
        assert set(away) == {503}
        assert load.retry_after == {"5"}
        assert set(load.statuses) == {200, 201}
        assert max(load.seconds) < 5
        assert_nothing_is_lost(load, standby.url)
