"""The routes by which a task goes from one owner to another."""

from typing import Annotated

from fastapi import APIRouter, Body, Query, Request
from sqlalchemy.orm import with_parent
from sqlmodel import Session, col, insert, literal, null, select, update

from api.clock import now
from api.errors import ApiError
from api.filters import NOT_IN_TRASH
from api.locks import find_and_lock, lock_ids, lock_owners
from api.pages import Page, PageQuery, read_page
from api.public import TaskId, find_task
from api.sign_in import ApiRoute, CurrentUserDep
from api.versions import IfMatch, IfNoneMatch, TaskResponse, require_version
from config import settings
from database import SessionDep
from models import Task, TaskPublic, Transfer, TransferCreate, TransferPublic, User


class NotTheirs(ApiError, status=409):
    """The task does not belong to `from_user_id`."""


# With sign-in, a new task has an owner, unlike in the example of the model.
EXAMPLE = Body(
    openapi_examples={"from user 1 to user 2": {"value": {"from_user_id": 1, "to_user_id": 2}}}
    if settings.secret_key
    else None
)

router = APIRouter(prefix="/tasks/{task_id:id}", tags=["tasks"], route_class=ApiRoute)


@router.post("/transfer", response_model=TaskPublic)
def transfer_task(
    task_id: TaskId,
    transfer_create: Annotated[TransferCreate, EXAMPLE, NotTheirs],
    current_user: CurrentUserDep,
    session: SessionDep,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> TaskResponse:
    """Give a task that is owned by one user to another, where null is nobody, and record it.

    The user who gets it has to exist.
    """
    lock_owners(session, {("body", "to_user_id"): transfer_create.to_user_id})
    task = find_and_lock(session, Task, task_id, NOT_IN_TRASH)
    require_version(task, if_match, if_none_match)
    if task.owner_id != transfer_create.from_user_id:
        raise NotTheirs
    task.change({"owner_id": transfer_create.to_user_id})
    record = {"task_id": task_id, "by_user_id": current_user and current_user.id}
    session.add(Transfer.model_validate(transfer_create, update=record))
    session.commit()
    return TaskResponse(task)


@router.get("/transfers", response_model=list[TransferPublic])
def read_transfers(
    task_id: TaskId, query: Annotated[PageQuery, Query()], request: Request, session: SessionDep
) -> Page:
    """List the transfers of a task, the first one first, a page at a time."""
    find_task(session, task_id)
    return read_page(session, request, query, Transfer, TransferPublic, task_id=task_id)


def transfer_to_nobody(session: Session, user: User, by_user: User | None) -> None:
    """Transfer all tasks of a user to nobody, however many they are."""
    of_user = with_parent(user, User.tasks)  # type: ignore[arg-type]  # `user.tasks`, as a condition
    lock_ids(session, Task, of_user)  # or another request could transfer one meanwhile
    transfer = {
        "task_id": col(Task.id),
        "from_user_id": col(Task.owner_id),
        "to_user_id": null(),
        "by_user_id": literal(by_user and by_user.id),
        "created_at": literal(now()),
    }
    # INSERT INTO transfer (...) SELECT id, owner_id, NULL, ... FROM task WHERE ...
    transfers = select(*transfer.values()).where(of_user)
    session.exec(insert(Transfer).from_select([*transfer], transfers))
    # As `Task.change` does, for all at once.
    changes = {"owner_id": None, "updated_at": now(), "version": Task.version + 1}
    session.exec(update(Task).where(of_user).values(changes))
