"""What an operator may rely on as the tasks grow in number: every page is read by an index."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi import Request
from servers import alembic, connect, fill
from sqlalchemy import Connection, Engine, event, text
from sqlmodel import Session

from main import read_stats, read_task_page
from models import TaskFilter, TaskQuery, TaskSort

WITH_DUE_DATE, WITHOUT_DUE_DATE = 899_999, 900_000
Parameters = tuple[Any, ...] | dict[str, Any]


@pytest.fixture(scope="module")
def million(new_database: Callable[[], str]) -> Iterator[Engine]:
    """A database with a million tasks."""
    url = new_database()
    alembic(url, "upgrade", "head")
    engine = connect(url)
    fill(engine, 1_000_000)
    yield engine
    if engine.dialect.name == "sqlite":
        Path(str(engine.url.database)).unlink()  # pytest would keep it, and it is large


@pytest.fixture
def plans(million: Engine) -> Iterator[list[str]]:
    """The database's plans of the statements that are executed from now on."""
    plans: list[str] = []

    def explain(
        connection: Connection, _cursor: object, statement: str, parameters: Parameters, *_: object
    ) -> None:
        if statement.startswith("SELECT"):
            query_plan = "" if connection.dialect.name == "postgresql" else "QUERY PLAN"
            lines = connection.exec_driver_sql(f"EXPLAIN {query_plan} {statement}", parameters)
            plans.append("\n".join(str(line) for line in lines))

    event.listen(million, "before_cursor_execute", explain)
    yield plans
    event.remove(million, "before_cursor_execute", explain)


def read(engine: Engine, **query: object) -> None:
    request = Request({"type": "http", "path": "/tasks", "query_string": b"", "headers": []})
    with Session(engine) as session:
        page = read_task_page(session, request, TaskQuery.model_validate(query))
    assert bytes(page.body).count(b'"title"') == 100
    assert page.headers["Link"]


@pytest.mark.parametrize("after", [None, WITH_DUE_DATE, WITHOUT_DUE_DATE])
@pytest.mark.parametrize("sort", get_args(TaskSort))
def test_every_page_in_every_order_is_a_range_of_an_index(
    million: Engine, plans: list[str], sort: str, after: int | None
) -> None:
    read(million, sort=sort, after=after)

    *_, plan = plans
    # A page of several parts is sorted once, after each part was limited to a page.
    united = sort.endswith("due_at") or (after is not None and not sort.endswith("id"))
    sorted_rows = re.findall(r"Sort  \(cost=\S+ rows=(\d+)", plan)
    assert len(sorted_rows) + plan.count("TEMP B-TREE") <= united
    assert sum(map(int, sorted_rows)) <= 3 * 101
    assert "Seq Scan" not in plan
    # Only SQLite's first page is the begin of a scan of an index.
    assert not re.search(r"SCAN task(?! USING INDEX)", plan)
    assert after is None or "SCAN task" not in plan


@pytest.mark.parametrize(
    "query",
    [
        {"status": ["pending"], "priority_min": 3, "sort": "-created_at"},
        {"status": ["completed"]},
        {"priority_max": 2, "sort": "due_at"},
        {"owner_id": 3},
        {"owner_id": 3, "after": 900_000},
        {"deleted": True},
        {"deleted": True, "after": 900_000},
    ],
    ids=str,
)
def test_a_page_of_the_tasks_that_pass_a_filter_is_read_by_an_index(
    million: Engine, plans: list[str], query: dict[str, Any]
) -> None:
    with million.connect() as connection:
        first_user = connection.execute(text('SELECT min(id) FROM "user"')).scalar_one()

    read(million, **query | ({"owner_id": first_user} if "owner_id" in query else {}))

    *_, plan = plans
    assert "Seq Scan" not in plan
    assert not re.search(r"SCAN task(?! USING INDEX)", plan)
    assert ("Sort" in plan) + plan.count("TEMP B-TREE") <= (query.get("sort") == "due_at")


def test_the_statistics_are_one_statement(million: Engine, plans: list[str]) -> None:
    with Session(million) as session:
        read_stats(TaskFilter(priority_min=1, overdue=False), session)

    assert len(plans) == 1
