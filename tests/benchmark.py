"""How fast the API is: against a textbook's way to write it, and as the tasks grow in number.

On Linux, it prints the tables of `docs/performance.md` and draws its chart in a quarter of an hour.
Each process is held on one core: the API on the first; wrk and PostgreSQL on the second. Where the
API has two workers, they may use both cores.

`--beside DIR` compares it with another checkout of the project instead, in some three minutes.
`--instructions` counts the instructions of a request instead, which no other load on the machine
changes, in some five minutes.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from statistics import median
from tempfile import TemporaryDirectory

import httpx2
import instructions
import psutil
from servers import (
    ROOT,
    ApiServer,
    alembic,
    connect,
    environment,
    fill,
    listen_to_postgresql,
    run_postgresql,
)
from sqlalchemy import make_url, text

SIZES = (1_000, 100_000, 1_000_000)
ROUNDS = 5
API = ROOT / "main.py"
TEXTBOOK = Path(__file__).with_name("textbook.py")
TASK = {"title": "Write the report", "priority": 3, "due_at": "2026-12-31T17:00:00Z"}
# What is asked for, and the body that is sent with it.
CALLS: dict[str, tuple[str, object]] = {
    "read one": ("/tasks/500", None),
    "list 100": ("/tasks?limit=100", None),
    "create": ("/tasks", TASK),
}
PAGES = {
    "first page": "/tasks",
    "page behind nine tenths": "/tasks?after={}",
    "page inside a status": "/tasks?sort=status&after=pending,{}",
    "status and priority, newest first": "/tasks?status=pending&priority_min=3&sort=-created_at",
    "by owner": "/tasks?owner_id=1",
    "by tag": "/tasks?tag=tag%201",
    "by tag, newest first": "/tasks?tag=tag%201&sort=-created_at",
    "by two tags": "/tasks?tag=tag%201&tag=tag%202",
    "tags": "/tags?limit=10",
    "trash": "/tasks?deleted=true",
}
LUA = """
wrk.method = "%s"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[%s]==]
done = function(summary, latency)
    io.write(string.format("%%d %%d %%d %%d %%d", summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99), summary.errors.status))
end
"""


@dataclass
class Result:
    """What was measured of one call; times are in microseconds."""

    per_second: float
    p50: float
    p99: float
    cpu: float


def cpu_time(server: ApiServer) -> float:
    """Return the seconds of CPU that a server and its workers have used."""
    process = psutil.Process(server.process.pid)
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children()))


def measure(
    server: ApiServer, path: str, body: object = None, clients: int = 8, seconds: int = 2
) -> Result:
    """Ask a server for some seconds; fail if any answer is an error."""
    script = server.log.with_suffix(".lua")
    script.write_text(LUA % (("POST", json.dumps(body)) if body else ("GET", "")))
    before = cpu_time(server)
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "-s", str(script), server.url + path]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    cpu = cpu_time(server) - before
    requests, duration, p50, p99, errors = map(int, run.stdout.splitlines()[-1].split())
    if errors or not requests:
        raise RuntimeError(run.stdout)
    return Result(requests / duration * 1e6, p50, p99, cpu / requests * 1e6)


def medians(rounds: Iterable[Result]) -> Result:
    """Return the median of each figure."""
    return Result(*map(median, zip(*map(astuple, rounds), strict=True)))


@contextmanager
def serve(
    folder: Path, database_url: str, file: Path = API, workers: int = 1
) -> Iterator[ApiServer]:
    """Run the app of a file: one worker on the first core, or several on both."""
    os.sched_setaffinity(0, {0} if workers == 1 else {0, 1})  # what starts now inherits it
    options = ("--no-access-log", "--workers", str(workers))
    app = f"{file.stem}:app"
    server = ApiServer(folder, database_url, *options, app=app, app_dir=file.parent)
    os.sched_setaffinity(0, {1})
    with server:
        while server.log.read_text().count("startup complete") < workers:
            time.sleep(0.05)
        yield server


def count_round_trips(folder: Path, database_url: str, file: Path) -> list[str]:
    """Return how often each of the calls asks the database for something."""
    if database_url.startswith("sqlite"):
        return ["-"] * len(CALLS)
    counts = []
    with (
        listen_to_postgresql(database_url) as (way, asked),
        serve(folder, way, file) as server,
        httpx2.Client(base_url=server.url) as client,
    ):
        for path, body in CALLS.values():
            for _ in range(2):  # the first request opens the connection
                asked.clear()
                client.request("POST" if body else "GET", path, json=body).raise_for_status()
                time.sleep(0.2)  # the textbook's session ends behind the answer
            counts.append(str(len(asked)))
    return counts


def compare(
    ours: ApiServer, other: ApiServer, clients: int = 8
) -> Iterator[tuple[str, Result, Result]]:
    """Yield each of the calls with the medians of both servers, which take turns."""
    for call, (path, body) in CALLS.items():
        rounds = [
            (measure(other, path, body, clients), measure(ours, path, body, clients))
            for _ in range(ROUNDS)
        ]
        others, own = zip(*rounds, strict=True)
        yield call, medians(own), medians(others)


def both(ours: float, other: float, decimals: int = 0) -> str:
    """Return our figure, and the other in brackets."""
    return f"{ours:,.{decimals}f} ({other:,.{decimals}f})"


def both_and_ratio(ours: float, other: float) -> list[str]:
    """Return the same, and our figure divided by the other."""
    return [both(ours, other), f"{ours / other:.2f}"]


def compare_with_textbook(folder: Path, database_url: str) -> Iterator[list[str]]:
    """Yield a line about each of the calls, with the textbook's figures in brackets."""
    trips = count_round_trips(folder, database_url, API)
    textbook_trips = count_round_trips(folder, database_url, TEXTBOOK)
    with (
        serve(folder, database_url) as api,
        serve(folder, database_url, TEXTBOOK) as textbook,
    ):
        for position, (call, ours, other) in enumerate(compare(api, textbook)):
            yield [
                call,
                *both_and_ratio(ours.per_second, other.per_second),
                both(ours.p50 / 1000, other.p50 / 1000, 1),
                both(ours.p99 / 1000, other.p99 / 1000, 1),
                both(ours.cpu, other.cpu),
                f"{trips[position]} ({textbook_trips[position]})",
            ]


def compare_workers(folder: Path, database_url: str) -> Iterator[list[str]]:
    """Yield a line about each of the calls at 16 clients, with one worker and with two."""
    for workers in (1, 2):
        with (
            serve(folder, database_url, workers=workers) as api,
            serve(folder, database_url, TEXTBOOK, workers) as textbook,
        ):
            for call, ours, other in compare(api, textbook, clients=16):
                yield [str(workers), call, *both_and_ratio(ours.per_second, other.per_second)]


def read_pages(folder: Path, database_url: str, size: int) -> dict[str, float]:
    """Return the p50 of each page and call at this number of tasks, in milliseconds."""
    requests = CALLS | {name: (path.format(size * 9 // 10), None) for name, path in PAGES.items()}
    with serve(folder, database_url) as server:
        return {
            name: medians(
                [measure(server, *request, clients=1, seconds=1) for _ in range(ROUNDS)]
            ).p50
            / 1000
            for name, request in requests.items()
        }


def export(server: ApiServer) -> tuple[float, float]:
    """Return how many tasks a second an export has, and how many bytes of memory it adds."""
    process = psutil.Process(server.process.pid)
    httpx2.get(f"{server.url}/tasks").raise_for_status()
    memory, begin = process.memory_info().rss, time.perf_counter()
    with httpx2.stream("GET", f"{server.url}/tasks/export") as response:
        tasks = sum(chunk.count(b"\n") for chunk in response.iter_bytes())
    seconds = time.perf_counter() - begin
    return tasks / seconds, process.memory_info().rss - memory


def measure_rest(folder: Path, database_url: str) -> list[str]:
    """Return the speed of bulk calls and exports, the time of a start, and the memory."""
    begin = time.perf_counter()
    with serve(folder, database_url) as server:
        start = time.perf_counter() - begin
        bulk = [measure(server, "/tasks/bulk", [TASK] * 1000, clients=1) for _ in range(ROUNDS)]
    with serve(folder, database_url) as server:
        exported, export_memory = export(server)
    with serve(folder, database_url) as server:
        process = psutil.Process(server.process.pid)
        memory: list[int] = []
        asked = 0
        for limit in (1_000, 100_000):
            while asked < limit:
                for path, body in CALLS.values():
                    result = measure(server, path, body)
                    asked += round(result.per_second * 2)
            memory.append(process.memory_info().rss)
    return [
        f"{medians(bulk).per_second * 1000:,.0f}",
        f"{exported:,.0f}",
        f"{export_memory / 2**20:+.1f}",
        f"{start:.2f}",
        f"{memory[0] / 2**20:.1f}",
        f"{(memory[1] - memory[0]) / 2**20:+.1f}",
    ]


def draw(pages: dict[str, list[dict[str, float]]]) -> str:
    """Return the chart, as SVG: a panel for each database, a line for each page and call."""
    colours = (
        "#4477aa",
        "#ee6677",
        "#228833",
        "#ccbb44",
        "#66ccee",
        "#aa3377",
        "#bbbbbb",
        "#000",
        "#f80",
        "#808",
        "#840",
        "#08f",
        "#0a8",
    )
    top = max(max(size.values()) for sizes in pages.values() for size in sizes) * 1.1
    svg = []
    for panel, (database, sizes) in enumerate(pages.items()):
        left = 50 + panel * 300
        svg += [
            f'<text x="{left}" y="20" font-weight="bold">{database}, p50 in ms</text>',
            f'<path d="M{left} 30V250H{left + 240}" fill="none" stroke="#888"/>',
        ]
        xs = [left + 10 + 110 * position for position in range(len(SIZES))]
        svg += [
            f'<text x="{x}" y="268" text-anchor="middle">{size:,}</text>'
            for x, size in zip(xs, SIZES, strict=True)
        ]
        for tick in range(int(top) + 1):
            y = 250 - tick / top * 215
            svg.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{tick}</text>')
        for name, colour in zip(sizes[0], colours, strict=True):
            ys = [250 - size[name] / top * 215 for size in sizes]
            points = " ".join(f"{x},{y:.1f}" for x, y in zip(xs, ys, strict=True))
            svg.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
    for position, (name, colour) in enumerate(zip(sizes[0], colours, strict=True)):
        x, y = 50 + position % 3 * 200, 292 + position // 3 * 18
        svg.append(f'<text x="{x}" y="{y}" fill="{colour}">■ {name}</text>')
    svg.append('<text x="610" y="268">tasks</text>')
    style = 'font-family="sans-serif" font-size="12" stroke-width="2"'
    size = 'width="640" height="376"'
    return "\n".join(
        [f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>', *svg, "</svg>", ""]
    )


def databases(
    folder: Path, server_url: str, wanted: list[tuple[Path, int]]
) -> Iterator[tuple[str, list[str]]]:
    """Yield each kind of database with URLs: one for each project, filled with its tasks."""
    engine = connect(server_url).execution_options(isolation_level="AUTOCOMMIT")
    names = [f"tasks_{position}" for position in range(len(wanted))]
    with engine.connect() as connection:
        for name in names:
            connection.execute(text(f"CREATE DATABASE {name}"))
    url = make_url(server_url).set(drivername="postgresql+psycopg2")
    for kind, urls in (
        ("PostgreSQL", [url.set(database=name) for name in names]),
        ("SQLite", [make_url(f"sqlite:///{folder}/{name}.db") for name in names]),
    ):
        filled = [url.render_as_string(hide_password=False) for url in urls]
        for (project, size), database_url in zip(wanted, filled, strict=True):
            alembic(database_url, "upgrade", "head", project=project)
            fill(connect(database_url), size)
        yield kind, filled


def print_table(head: str, lines: list[list[str]]) -> None:
    """Print the table as Markdown."""
    columns = head.split(" | ")
    for line in (columns, ["---"] * len(columns), *lines):
        print("|", " | ".join(line), "|")
    print()


def compare_checkouts(folder: Path, server_url: str, other: Path) -> None:
    """Print how fast the API is, and in brackets that of another checkout of the project."""
    lines = []
    wanted = [(ROOT, 100_000), (other, 100_000)]
    for database, (our_url, other_url) in databases(folder, server_url, wanted):
        with (
            serve(folder, our_url) as api,
            serve(folder, other_url, other / "main.py") as other_api,
        ):
            lines += [
                [
                    database,
                    call,
                    *both_and_ratio(ours.per_second, others.per_second),
                    *both_and_ratio(ours.cpu, others.cpu),
                ]
                for call, ours, others in compare(api, other_api, clients=16)
            ]
    print_table("database | call | requests/s | ratio | CPU, µs | ratio", lines)


def count_instructions(
    folder: Path, database_url: str, file: Path, calls: list[instructions.Call]
) -> list[float]:
    """Return how many thousands of instructions the app of a file needs for each of the calls."""
    counts = folder / f"{file.stem}.counts"
    valgrind = ["valgrind", "--quiet", "--tool=callgrind", "--dump-before=getpgrp"]
    script = [sys.executable, instructions.__file__, str(file), json.dumps(calls)]
    subprocess.run(
        [*valgrind, f"--callgrind-out-file={counts}", *script],
        cwd=folder,
        env=environment(database_url, PYTHONHASHSEED="0"),
        check=True,
    )
    texts = [Path(f"{counts}.{2 * number}").read_text() for number in range(1, len(calls) + 1)]
    totals = [int(text.rpartition("totals: ")[2]) for text in texts]
    return [total / instructions.COUNTED / 1000 for total in totals]


def compare_instructions(folder: Path, server_url: str) -> None:
    """Print how many instructions a request needs, and in brackets those of the textbook."""
    calls: list[instructions.Call] = [
        ("POST" if body else "GET", path, [json.dumps(body) if body else ""])
        for path, body in CALLS.values()
    ]
    # Each request changes the task.
    change: instructions.Call = ("PATCH", "/tasks/500", ['{"priority": 1}', '{"priority": 2}'])
    lines = []
    for database, [database_url] in databases(folder, server_url, [(ROOT, SIZES[0])]):
        *ours, ours_of_change = count_instructions(folder, database_url, API, [*calls, change])
        others = count_instructions(folder, database_url, TEXTBOOK, calls)
        lines += [
            [database, call, *both_and_ratio(own, other)]
            for call, own, other in zip(CALLS, ours, others, strict=True)
        ]
        lines.append([database, "change", f"{ours_of_change:,.0f}", "-"])
    print_table("database | call | instructions, thousands | ratio", lines)


def measure_everything(folder: Path, server_url: str) -> None:
    """Print the tables, and draw the chart."""
    packages = ("fastapi", "sqlmodel", "sqlalchemy", "pydantic", "uvicorn", "psycopg2-binary")
    print(f"{datetime.now(UTC):%Y-%m-%d}, {psutil.cpu_count()} cores, Python {python_version()},")
    print(", ".join(f"{package} {version(package)}" for package in packages))
    pages: dict[str, list[dict[str, float]]] = {}
    calls: list[list[str]] = []
    workers: list[list[str]] = []
    growth: list[list[str]] = []
    rest: list[list[str]] = []
    for database, urls in databases(folder, server_url, [(ROOT, size) for size in SIZES]):
        pages[database] = [
            read_pages(folder, url, size) for url, size in zip(urls, SIZES, strict=True)
        ]
        for page in pages[database][0]:
            p50 = [size[page] for size in pages[database]]
            figures = [f"{figure:.2f}" for figure in (*p50, p50[-1] / p50[0])]
            growth.append([database, page, *figures])
        calls += [[database, *line] for line in compare_with_textbook(folder, urls[-1])]
        if database == "PostgreSQL":
            workers += compare_workers(folder, urls[-1])
        rest.append([database, *measure_rest(folder, urls[-1])])
    print_table(
        "database | call | requests/s | ratio | p50, ms | p99, ms | CPU, µs | round trips", calls
    )
    print_table("workers | call | requests/s | ratio", workers)
    print_table("database | call | 1,000 | 100,000 | 1,000,000 | ratio", growth)
    print_table(
        "database | tasks/s in bulk | tasks/s exported | its memory, MiB | start, s |"
        " memory, MiB | later, MiB",
        rest,
    )
    (ROOT / "docs/performance.svg").write_text(draw(pages))


def main() -> None:
    """Measure what the command line asks for."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--beside", type=Path, metavar="DIR", help="another checkout to compare with"
    )
    parser.add_argument("--instructions", action="store_true", help="count those of a request")
    options = parser.parse_args()
    tool = "valgrind" if options.instructions else "wrk"
    if not shutil.which(tool):
        sys.exit(f"{tool} is missing: install it by `apt install {tool}`")
    os.sched_setaffinity(0, {1})  # what starts from here inherits it
    with TemporaryDirectory() as folder, run_postgresql() as postgresql:
        if options.instructions:
            compare_instructions(Path(folder), postgresql.get_uri())
        elif options.beside:
            compare_checkouts(Path(folder), postgresql.get_uri(), options.beside.resolve())
        else:
            measure_everything(Path(folder), postgresql.get_uri())


if __name__ == "__main__":
    main()
