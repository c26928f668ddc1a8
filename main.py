"""The task API: the app, and the routes of one task and of the list of tasks."""

from typing import Annotated

from fastapi import FastAPI, Query, Request

from api import bulk, documentation, exports, lists, service, sign_in, tags, transfers, users
from api.clock import now
from api.filters import IN_TRASH, NOT_IN_TRASH
from api.locks import find_and_lock
from api.middleware import EXCEPTION_HANDLERS, MIDDLEWARE
from api.pages import Page, TaskQuery, read_page
from api.public import TaskId, find_task
from api.retries import OnceDep
from api.versions import (
    CreatedTask,
    IfMatch,
    IfNoneMatch,
    NotModified,
    TaskResponse,
    raise_if_not_modified,
    require_version,
)
from api.writing import change_tasks, find_or_create_tags
from database import SessionDep
from models import Task, TaskCreate, TaskDeleted, TaskPublic, TaskUpdate

app = FastAPI(
    title="Task API",
    version="2.0.0",
    lifespan=service.lifespan,
    middleware=MIDDLEWARE,
    exception_handlers=EXCEPTION_HANDLERS,
    dependencies=sign_in.GUARD,  # none, where sign-in is off
    **documentation.DOCUMENTATION,
)
# Documents the errors that the types of arguments name, as `TaskId` does `NotFound`.
app.router.route_class = sign_in.ApiRoute


@app.post("/tasks", tags=["tasks"], status_code=201, response_model=TaskPublic)
def create_task(task_create: TaskCreate, once: OnceDep, request: Request) -> CreatedTask:
    """Create a task. Only the title is required.

    With an `Idempotency-Key`, the request may be sent again for seven days. It then creates
    nothing, and returns the task that the first request created, as it is now.
    """
    task = once.insert_one(task_create)
    once.session.commit()
    return CreatedTask(request, task)  # a response, which FastAPI need not validate


@app.get("/tasks", tags=["tasks"], response_model=list[TaskPublic])
def read_tasks(query: Annotated[TaskQuery, Query()], request: Request, session: SessionDep) -> Page:
    """List the tasks that match all filters, a page at a time.

    If there is a next page, the header `Link` has its URL
    ([RFC 8288](https://www.rfc-editor.org/rfc/rfc8288)). Without headers: as long as a page is
    full, ask again with the id of its last task as `after`.
    """
    return read_page(session, request, query)


# `:id` is only digits, so that `/tasks/recent` is no task.
@app.get("/tasks/{task_id:id}", tags=["tasks"], response_model=TaskPublic)
def read_task(
    task_id: TaskId,
    session: SessionDep,
    if_none_match: Annotated[IfNoneMatch, NotModified] = None,
) -> TaskResponse:
    """Return one task. Its version is its `ETag`."""
    task = find_task(session, task_id)
    raise_if_not_modified(task, if_none_match)
    return TaskResponse(task)


@app.patch("/tasks/{task_id:id}", tags=["tasks"], response_model=TaskPublic)
def update_task(
    task_id: TaskId,
    task_update: TaskUpdate,
    session: SessionDep,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> TaskResponse:
    """Change only the fields that are sent, with `PUT` too. Null clears `description` and `due_at`.

    `tags` replaces all tags of the task; tags that do not exist are created. A task may be sent
    back as it was received: if its `version` is sent, it is changed only if it still has that one.
    """
    # It locks the tags. Tasks are locked after them, or two requests could wait for each other.
    found_tags = find_or_create_tags(session, [task_update])
    task = find_and_lock(session, Task, task_id, NOT_IN_TRASH)
    require_version(task, if_match, if_none_match, task_update.version)
    change_tasks(session, [task], [task_update], [("body",)], found_tags)
    session.commit()
    return TaskResponse(task)


@app.put("/tasks/{task_id:id}", tags=["tasks"], response_model=TaskPublic)
def put_task(
    task_id: TaskId,
    task_update: TaskUpdate,
    session: SessionDep,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> TaskResponse:
    """Change only the fields that are sent, as `PATCH` does: no field goes back to its default."""
    return update_task(task_id, task_update, session, if_match, if_none_match)


@app.delete("/tasks/{task_id:id}", tags=["tasks"])
def delete_task(
    task_id: TaskId,
    session: SessionDep,
    *,
    permanent: Annotated[
        bool, Query(description="Delete it for good, also from the trash")
    ] = False,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> TaskDeleted:
    """Move a task to the trash, which `GET /tasks?deleted=true` lists; or delete it for good."""
    conditions = [] if permanent else [NOT_IN_TRASH]
    task = find_and_lock(session, Task, task_id, *conditions)
    require_version(task, if_match, if_none_match)
    if permanent:
        session.delete(task)
    else:
        task.change({"deleted_at": now()})
    session.commit()
    message = "Task deleted" if permanent else "Task moved to the trash"
    return TaskDeleted(message=message, task_id=task_id)


@app.post("/tasks/{task_id:id}/restore", tags=["tasks"], response_model=TaskPublic)
def restore_task(
    task_id: TaskId,
    session: SessionDep,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> TaskResponse:
    """Bring a task back from the trash."""
    task = find_and_lock(session, Task, task_id, IN_TRASH)
    require_version(task, if_match, if_none_match)
    task.change({"deleted_at": None})
    session.commit()
    return TaskResponse(task)


for module in (bulk, exports, lists, tags, transfers, users):
    app.include_router(module.router)

# Appended and not included, so that the dependencies of the app do not reach them: they are open to
# everyone. They come last, since routes are tried in their order: a read of a task is 5 % faster.
app.routes.extend([*documentation.routes, *service.router.routes, *sign_in.router.routes])
