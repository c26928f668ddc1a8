"""The routes of other lists of tasks: of one status, of the last days, and their statistics."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from sqlmodel import col, func, select

from api.filters import TaskFilter, is_overdue
from api.pages import Page, RecentQuery, TaskQuery, read_page
from api.sign_in import ApiRoute
from database import SessionDep
from models import Task, TaskPublic, TaskStats, TaskStatus

router = APIRouter(prefix="/tasks", tags=["tasks"], route_class=ApiRoute)


@router.get("/by-status/{status}", response_model=list[TaskPublic])
def read_tasks_by_status(
    status: Annotated[TaskStatus, Path(description="The status of the tasks")],
    query: Annotated[TaskQuery, Query()],
    request: Request,
    session: SessionDep,
) -> Page:
    """List the tasks of one status, with the filters, orders and pages of all tasks."""
    return read_page(session, request, query, status=status)


@router.get("/recent", response_model=list[TaskPublic])
def read_recent_tasks(
    query: Annotated[RecentQuery, Query()], request: Request, session: SessionDep
) -> Page:
    """List the tasks created in the last days, with the filters, orders and pages of all tasks."""
    return read_page(session, request, query)


@router.get("/stats")
def read_stats(query: Annotated[TaskFilter, Query()], session: SessionDep) -> TaskStats:
    """Count the tasks that match all filters. If there is none, the average is null."""
    # count(*) FILTER (WHERE status = ...)
    by_status = [func.count().filter(col(Task.status) == status) for status in TaskStatus]
    overdue = func.count().filter(is_overdue())
    statement = select(func.count(), overdue, func.avg(Task.priority), *by_status)
    row = session.exec(statement.select_from(Task).where(*query.conditions())).one()
    return TaskStats(
        total=row[0],
        overdue=row[1],
        average_priority=row[2],
        by_status=dict(zip(TaskStatus, row[3:], strict=True)),
    )
