"""The routes by which many tasks are created or changed at once, all or none."""

from typing import Annotated

from fastapi import APIRouter, Body
from sqlmodel import Session, col

from api.errors import ApiError, Problems
from api.filters import NOT_IN_TRASH
from api.locks import lock
from api.problems import places_of_items, problem, raise_problems
from api.public import PublicResponse, list_public
from api.retries import OnceDep
from api.sign_in import ApiRoute
from api.versions import SomeOtherVersions, require_versions
from api.writing import change_tasks, find_or_create_tags
from database import SessionDep
from models import Task, TaskBulkUpdate, TaskCreate, TaskPublic

MANY = Body(min_length=1, max_length=1000)


class SomeNotFound(ApiError, status=404, model=Problems):
    """Some of the tasks were not found."""


router = APIRouter(prefix="/tasks/bulk", tags=["tasks"], route_class=ApiRoute)


@router.post("", status_code=201, response_model=list[TaskPublic])
def create_tasks(task_creates: Annotated[list[TaskCreate], MANY], once: OnceDep) -> PublicResponse:
    """Create many tasks, all or none, and return them in the same order.

    At most 1,000 of their tags may be new. If any task is wrong, the second item of each `loc` is
    its position in the list, from 0. With an `Idempotency-Key`, the request may be sent again, as
    for one task.
    """
    tasks = once.insert_many(task_creates)
    once.session.commit()
    return PublicResponse(list_public(TaskPublic, tasks), 201)


@router.patch("", response_model=list[TaskPublic])
def update_tasks(
    task_updates: Annotated[list[TaskBulkUpdate], MANY, SomeNotFound, SomeOtherVersions],
    session: SessionDep,
) -> PublicResponse:
    """Change many tasks, all or none, and return them in the same order. No task may be sent twice.

    If any is wrong or not found, the second item of each `loc` is its position in the list, from 0.
    """
    ids = [task_update.id for task_update in task_updates]
    require_distinct(ids)
    tags = find_or_create_tags(session, task_updates)
    tasks = lock_all(session, ids)
    require_versions(tasks, (task_update.version for task_update in task_updates))
    change_tasks(session, tasks, task_updates, places_of_items(task_updates), tags)
    session.commit()
    return PublicResponse(list_public(TaskPublic, tasks))


def require_distinct(ids: list[int]) -> None:
    """Raise 422 with a problem for each task that is sent again."""
    raise_problems(
        problem("task_repeated", ("body", position, "id"), "Input should be sent only once")
        for position, task_id in enumerate(ids)
        if ids.index(task_id) != position
    )


def lock_all(session: Session, ids: list[int]) -> list[Task]:
    """Return the tasks, locked, in the order of the request; raise 404 if some are not there."""
    tasks = {task.id: task for task in lock(session, Task, col(Task.id).in_(ids), NOT_IN_TRASH)}
    problems = [
        problem("task_not_found", ("body", position, "id"), "Task not found")
        for position, task_id in enumerate(ids)
        if task_id not in tasks
    ]
    if problems:
        raise SomeNotFound(problems)
    return [tasks[task_id] for task_id in ids]
