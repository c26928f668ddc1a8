"""What an operator may rely on as the tasks grow in number: every page is read by an index."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request
from servers import alembic, connect, fill
from sqlalchemy import Connection, Engine, event, text
from sqlmodel import Session

from api.filters import TaskFilter
from api.lists import read_stats
from api.pages import TaskQuery
from api.public import SELECT_TASK
from api.sorts import TaskSort, write_cursor
from main import read_tasks

# The tasks behind a late one: enough that to sort them takes longer than to use an index.
REST = 15_000
Parameters = tuple[Any, ...] | dict[str, Any]


@pytest.fixture(scope="module", params=[50_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def number(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def filled(new_database: Callable[[], str], number: int) -> Iterator[Engine]:
    """A database with this number of tasks."""
    url = new_database()
    alembic(url, "upgrade", "head")
    engine = connect(url)
    fill(engine, number)
    yield engine
    if engine.dialect.name == "sqlite":
        Path(str(engine.url.database)).unlink()  # pytest would keep it, and it is large


@pytest.fixture
def plans(filled: Engine) -> Iterator[list[str]]:
    """The database's plans of the statements that are executed from now on."""
    plans: list[str] = []

    def explain(
        connection: Connection, _cursor: object, statement: str, parameters: Parameters, *_: object
    ) -> None:
        if statement.startswith("SELECT"):
            query_plan = "" if connection.dialect.name == "postgresql" else "QUERY PLAN"
            lines = connection.exec_driver_sql(f"EXPLAIN {query_plan} {statement}", parameters)
            plans.append("\n".join(str(line) for line in lines))

    event.listen(filled, "before_cursor_execute", explain)
    yield plans
    event.remove(filled, "before_cursor_execute", explain)


def cursor(engine: Engine, sort: str, task_id: int) -> str:
    """Return the cursor of the page after a task."""
    with engine.connect() as connection:
        return write_cursor(sort, connection.execute(SELECT_TASK, {"task_id": task_id}).one())


def read(engine: Engine, **query: object) -> None:
    request = Request({"type": "http", "path": "/tasks", "query_string": b"", "headers": []})
    with Session(engine) as session:
        page = read_tasks(TaskQuery.model_validate(query), request, session)
    assert bytes(page.body).count(b'"title"') == 100
    assert page.headers["Link"]


@pytest.mark.parametrize("behind", ["nothing", "a task with a due date", "a task without one"])
@pytest.mark.parametrize("sort", TaskSort)
def test_every_page_in_every_order_is_a_range_of_an_index(
    filled: Engine, number: int, plans: list[str], sort: str, behind: str
) -> None:
    late = number - REST
    task_id = {"a task with a due date": late - 1, "a task without one": late}.get(behind)
    after = None if task_id is None else cursor(filled, sort, task_id)

    read(filled, sort=sort, after=after)

    *_, plan = plans
    # A page by due date unites two ranges, each limited to a page, and is sorted once.
    united = sort.endswith("due_at") and behind != "a task without one"
    sorted_rows = re.findall(r"Sort  \(cost=\S+ rows=(\d+)", plan)
    assert len(sorted_rows) + plan.count("TEMP B-TREE") <= united
    assert sum(map(int, sorted_rows)) <= 2 * 101
    assert "Seq Scan on task" not in plan
    # Only SQLite's first page is the begin of a scan of an index.
    assert not re.search(r"SCAN task(?! USING INDEX)", plan)
    assert after is None or "SCAN task" not in plan


@pytest.mark.parametrize(
    "query",
    [
        {"status": ["pending"], "priority_min": 3, "sort": "-created_at"},
        {"status": ["completed"]},
        {"priority_max": 2, "sort": "due_at"},
        {"owner_id": "the first"},
        {"owner_id": "the first", "after": "a late task"},
        {"tag": ["tag 1"]},
        {"deleted": True},
        {"deleted": True, "after": "a late task"},
    ],
    ids=str,
)
def test_a_page_of_the_tasks_that_pass_a_filter_is_read_by_an_index(
    filled: Engine, number: int, plans: list[str], query: dict[str, Any]
) -> None:
    with filled.connect() as connection:
        first_user = connection.execute(text('SELECT min(id) FROM "user"')).scalar_one()
    ids = {"owner_id": first_user, "after": str(number - REST)}

    read(filled, **query | {name: ids[name] for name in ids if name in query})

    *_, plan = plans
    assert "Seq Scan on task" not in plan
    assert not re.search(r"SCAN task(?! USING INDEX)", plan)
    assert ("Sort" in plan) + plan.count("TEMP B-TREE") <= (query.get("sort") == "due_at")


def test_the_statistics_are_one_statement(filled: Engine, plans: list[str]) -> None:
    with Session(filled) as session:
        read_stats(TaskFilter(priority_min=1, overdue=False), session)

    assert len(plans) == 1
