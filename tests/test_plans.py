"""What an operator may rely on as the tasks grow in number: every page is read by an index."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

from fastapi import Request, Response
from servers import alembic, connect
from sqlalchemy import Connection, Engine, event, insert, text
from sqlmodel import Session

from main import read_stats, read_task_page
from models import Task, TaskFilter, TaskQuery, TaskSort

WITH_DUE_DATE, WITHOUT_DUE_DATE = 4_999, 5_000
Parameters = tuple[Any, ...] | dict[str, Any]


def fill(engine: Engine) -> None:
    """Add twenty thousand tasks in no order, of which every tenth has no due date."""
    rows = []
    for number in range(1, 20_001):
        moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number * 7919 % 20_000)
        row = {"title": f"task {number}", "priority": number % 6, "due_at": moment}
        row |= {"created_at": moment, "updated_at": moment}
        rows.append(row if number % 10 else row | {"due_at": None})
    with engine.begin() as connection:
        connection.execute(insert(Task), rows)
        connection.execute(text("ANALYZE task"))


def explain_with(plans: list[str]) -> Callable[..., None]:
    """Return what asks the database for its plan of each statement before it is executed."""

    def explain(
        connection: Connection, _cursor: object, statement: str, parameters: Parameters, *_: object
    ) -> None:
        if not statement.startswith("EXPLAIN"):
            query_plan = "" if connection.dialect.name == "postgresql" else "QUERY PLAN"
            lines = connection.exec_driver_sql(f"EXPLAIN {query_plan} {statement}", parameters)
            plans.append(str(lines.all()))

    return explain


def test_every_page_in_every_order_is_a_range_of_an_index(empty_database: str) -> None:
    alembic(empty_database, "upgrade", "head")
    engine = connect(empty_database)
    fill(engine)
    plans: list[str] = []
    event.listen(engine, "before_cursor_execute", explain_with(plans))
    request = Request({"type": "http", "path": "/tasks", "query_string": b"", "headers": []})

    for sort in get_args(TaskSort):
        for after in (None, WITH_DUE_DATE, WITHOUT_DUE_DATE):
            with Session(engine) as session:
                query = TaskQuery.model_validate({"sort": sort, "after": after})
                assert read_task_page(session, request, Response(), query)
            *_, plan = plans
            # A page of several parts is sorted once, after each part was limited to a page.
            united = sort.endswith("due_at") or (after is not None and not sort.endswith("id"))
            sorted_rows = re.findall(r"Sort  \(cost=\S+ rows=(\d+)", plan)
            assert len(sorted_rows) + plan.count("TEMP B-TREE") <= united
            assert sum(map(int, sorted_rows)) <= 3 * 101
            # Only SQLite's first page is the begin of a scan: of an index, or by the id.
            assert "Seq Scan" not in plan
            assert after is None or "SCAN task" not in plan


def test_the_statistics_are_one_statement(empty_database: str) -> None:
    alembic(empty_database, "upgrade", "head")
    engine = connect(empty_database)
    plans: list[str] = []
    event.listen(engine, "before_cursor_execute", explain_with(plans))

    with Session(engine) as session:
        read_stats(TaskFilter(priority_min=1, overdue=False), session)

    assert len(plans) == 1
