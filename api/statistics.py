"""The route of the statistics of tasks."""

from typing import Annotated

from fastapi import APIRouter, Query
from sqlmodel import col, func, select

from api.filters import TaskFilter, is_overdue
from api.routes import ApiRoute
from database import SessionDep
from models import Task, TaskStats, TaskStatus

router = APIRouter(tags=["tasks"], route_class=ApiRoute)


@router.get("/tasks/stats")
def read_stats(query: Annotated[TaskFilter, Query()], session: SessionDep) -> TaskStats:
    """Count the tasks that match all filters. If there is none, the average is null."""
    average_priority = func.avg(Task.priority)
    by_status = [func.count().filter(col(Task.status) == status) for status in TaskStatus]
    statement = select(
        func.count(), func.count().filter(is_overdue()), average_priority, *by_status
    )
    row = session.exec(statement.select_from(Task).where(*query.conditions())).one()
    return TaskStats(
        total=row[0],
        overdue=row[1],
        average_priority=row[2],
        by_status=dict(zip(TaskStatus, row[3:], strict=True)),
    )
