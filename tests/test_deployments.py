"""What an operator may rely on when a new version is deployed: it takes over, or the old one stays.

They run by `-m slow`, and print what they measure with `-s`.
"""

import os
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
from servers import ROOT, ApiServer, alembic, connect, run_postgresql
from sqlalchemy import text

from api.passwords import hasher

pytestmark = pytest.mark.slow

# Two processes, as `docs/operations.md` starts them: a busy machine needs more than the usual 5 s
# to start a worker.
WORKERS = ("--workers", "2", "--timeout-worker-healthcheck", "60")
CLIENTS = 4
[VERSION] = re.findall(r'version="(.*)"', (ROOT / "main.py").read_text())


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
        ThreadPoolExecutor(CLIENTS) as threads,
    ):
        writers = Writers(server)
        writing = [threads.submit(writers.write, number) for number in range(CLIENTS)]
        replace(copy / "main.py", VERSION, "9.0.0")

        begin = time.monotonic()
        deploy(server)
        seconds = time.monotonic() - begin
        writers.stopped = True
        for one in writing:
            one.result()

        print(f"{dict(writers.statuses)} in {seconds:.1f} s")
        assert {version(server) for _ in range(20)} == {"9.0.0"}
    assert set(writers.statuses) <= {0, 201}
    assert writers.statuses[0] <= 2 * CLIENTS  # each once for each worker, at most
    with connect(empty_database).connect() as connection:
        stored = connection.execute(text("SELECT title FROM task")).scalars()
        assert sorted(stored) == sorted(writers.titles)


def refuse(server: ApiServer) -> None:
    """Let the parent process try to replace its workers, and wait until it has given up."""
    given_up = "aborting the restart"
    before = server.log.read_text().count(given_up)
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: server.log.read_text().count(given_up) == before + 1, server)


FAILING_MIGRATION = """
from alembic import op

revision = "9999"
down_revision = "{newest}"


def upgrade() -> None:
    op.execute("UPDATE task SET title = 'lost'")
    op.execute("DROP TABLE nowhere")
"""


def newest_migration(copy: Path) -> str:
    return max(file.name[:4] for file in (copy / "migrations" / "versions").glob("*.py"))


def test_a_broken_version_keeps_the_old_one_until_it_is_mended(copy: Path) -> None:
    (copy / ".env").write_text("DATABASE_URL=sqlite:///tasks.db\n")
    migration = copy / "migrations" / "versions" / "9999_fail.py"
    failing = FAILING_MIGRATION.format(newest=newest_migration(copy))
    broken = {
        copy / "main.py": "def",
        copy / "api/filters.py": "import nowhere",
        copy / ".env": "DATABASE_URL=mysql://host/tasks",
        migration: failing,
    }
    with ApiServer(copy, "", *WORKERS, app_dir=copy) as server, server.client() as client:
        tasks = [create(client)]
        replace(copy / "main.py", VERSION, "9.0.0")

        for file, content in broken.items():
            whole = file.read_text() if file.exists() else ""
            file.write_text(content)
            refuse(server)
            assert version(server) == VERSION
            assert client.get("/ready").status_code == 200
            tasks.append(create(client))
            assert client.get("/tasks").json() == tasks
            file.write_text(whole)

        migration.unlink()
        deploy(server)
        assert version(server) == "9.0.0"
        with server.client() as later:
            assert later.get("/tasks").json() == tasks


EXPANDING_MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{newest}"


def upgrade() -> None:
    with op.batch_alter_table("task") as task:
        task.add_column(sa.Column("location", sa.String()))
        task.add_column(sa.Column("effort", sa.Integer(), nullable=False, server_default="1"))
    with op.batch_alter_table("user") as user:
        user.add_column(sa.Column("team", sa.String()))
    op.create_table("label", sa.Column("id", sa.Integer(), primary_key=True))
"""


def expand(copy: Path) -> None:
    """Make the copy a later version, which only adds to the schema."""
    migration = EXPANDING_MIGRATION.format(newest=newest_migration(copy))
    (copy / "migrations" / "versions" / "9999_expand.py").write_text(migration)
    due_at = "    due_at: UtcDatetime | None = None\n"
    added = "    location: ShortText | None = None\n    effort: int = 1\n"
    replace(copy / "models.py", due_at, due_at + added)
    is_admin = "    is_admin: StrictBool = False\n"
    replace(copy / "models.py", is_admin, f"{is_admin}    team: ShortText | None = None\n")


def assert_everything_works(server: ApiServer, name: str) -> None:
    """Check each kind of call that reads or writes."""
    with sign_in(server, "ada") as ada:
        assert ada.get("/ready").status_code == 200
        user = create_user(ada, name)
        with sign_in(server, name) as member:
            assert member.get("/users/me").json() == user
        task = create(ada, title=name)
        path = f"/tasks/{task['id']}"
        assert ada.get("/tasks?sort=-id").json()[0] == ada.get(path).json() == task
        many = create_many(ada, [{"title": name}, {"title": name}])
        changes = [{"id": one["id"], "priority": 3} for one in many]
        for answer in (
            ada.patch(path, json={"priority": 5}),
            ada.patch("/tasks/bulk", json=changes),
            ada.post(f"{path}/transfer", json={"from_user_id": 1, "to_user_id": user["id"]}),
            ada.delete(path),
            ada.post(f"{path}/restore"),
            ada.delete(f"{path}?permanent=true"),
            ada.get("/tasks/stats"),
            ada.patch(f"/users/{user['id']}", json={"full_name": "Bob Brown"}),
            ada.delete(f"/users/{user['id']}"),
        ):
            assert answer.status_code == 200, answer.text


def test_the_version_before_a_migration_serves_beside_the_one_after_it(
    empty_database: str, tmp_path: Path, copy: Path
) -> None:
    expand(copy)
    with ApiServer(tmp_path, empty_database, SECRET_KEY=SECRET_KEY) as old:
        insert_user(
            connect(empty_database), "ada", is_admin=True, password_hash=hasher.hash(PASSWORD)
        )
        assert_everything_works(old, "before")

        with ApiServer(copy, empty_database, app_dir=copy, SECRET_KEY=SECRET_KEY) as new:
            assert_everything_works(new, "new")
            assert_everything_works(old, "old")
            with (
                sign_in(new, "ada") as client,
                old.client(Authorization=client.headers["Authorization"]) as old_client,
            ):
                task = create(client, title="here", location="Room 1", effort=5)
                path = f"/tasks/{task['id']}"
                assert "location" not in old_client.patch(path, json={"priority": 5}).json()
                changed = client.get(path).json()
                assert changed.items() >= {"location": "Room 1", "effort": 5, "priority": 5}.items()
                of_both = [one.get("/tasks").json() for one in (client, old_client)]
                assert [len(tasks) for tasks in of_both] == [7, 7]

    # The code is rolled back, the schema is not.
    with ApiServer(tmp_path, empty_database, SECRET_KEY=SECRET_KEY) as rolled_back:
        assert_everything_works(rolled_back, "rolled-back")


def test_requests_do_not_wait_long_for_a_migration_that_waits_for_a_table(
    new_postgresql_database: Callable[..., str], tmp_path: Path, copy: Path
) -> None:
    url = new_postgresql_database()
    with ApiServer(tmp_path, url) as old, old.client() as client:
        expand(copy)
        with connect(url).begin() as connection:
            connection.execute(text("SELECT * FROM task"))
            new = ApiServer(copy, url, app_dir=copy)
            begin = time.monotonic()
            longest = 0.0
            while new.process.poll() is None:
                create(client)
                longest = max(longest, time.monotonic() - begin)
                begin = time.monotonic()

        assert new.process.returncode == 3
        assert "canceling statement due to lock timeout" in new.log.read_text()
        assert 1 < longest < 6  # it did wait, for the two seconds that a migration may wait
        with ApiServer(copy, url, app_dir=copy):
            create(client)


AWAY = "postgresql://user:secret@127.0.0.1:1/tasks"


def test_several_workers_without_a_database_end_with_one_sentence_each(tmp_path: Path) -> None:
    server = ApiServer(tmp_path, AWAY, "--workers", "2")

    # uvicorn's own exit code, so that a supervisor has to restart always, not only on failure.
    assert server.process.wait(timeout=60) == 0
    output = server.log.read_text()
    assert 1 <= output.count("The database cannot be used: connection to server at") <= 2
    assert "Traceback" not in output
    assert "secret" not in output


def test_a_worker_that_dies_without_a_database_is_replaced_if_the_start_does_not_migrate(
    tmp_path: Path,
) -> None:
    with run_postgresql() as postgresql:
        url = postgresql.get_uri()
        alembic(url, "upgrade", "head")
        with ApiServer(tmp_path, url, "--workers", "2", MIGRATE_AT_START="false") as server:
            started = r"Started server process \[(\d+)\]"
            wait_for(lambda: len(re.findall(started, server.log.read_text())) == 2, server)
            postgresql.stop()

            # Where the start migrates, the new worker could not start, and the process would end.
            os.kill(int(re.findall(started, server.log.read_text())[0]), signal.SIGKILL)

            complete = "Application startup complete"
            wait_for(lambda: server.log.read_text().count(complete) == 3, server)
            postgresql.start()
            with server.client() as client:
                create(client)
