"""The task API: the app, and the routes of one task and of lists of tasks."""

from typing import Annotated

from fastapi import Depends, FastAPI, Path, Query, Request

from api import (
    bulk,
    documentation,
    exports,
    lists,
    service,
    sign_in,
    tags,
    transfers,
    users,
)
from api.clock import now
from api.errors import NotFound
from api.filters import IN_TRASH, NOT_IN_TRASH
from api.handlers import EXCEPTION_HANDLERS
from api.locks import lock_row
from api.middleware import MIDDLEWARE
from api.pages import Page, TaskQuery, read_page
from api.problems import check_parameters
from api.public import find_task
from api.retries import OnceDep
from api.routes import ApiRoute
from api.versions import (
    CreatedTask,
    IfMatch,
    IfNoneMatch,
    TaskResponse,
    require_modified,
    require_version,
)
from api.writing import change_tasks, find_or_create_tags
from database import SessionDep
from models import Task, TaskCreate, TaskDeleted, TaskPublic, TaskUpdate

app = FastAPI(
    title="Task API",
    version="1.3.0",
    lifespan=service.lifespan,
    middleware=MIDDLEWARE,
    exception_handlers=EXCEPTION_HANDLERS,
    dependencies=[*sign_in.GUARD, Depends(check_parameters)],
    **documentation.DOCUMENTATION,
)
app.router.route_class = ApiRoute  # documents the errors that the types of arguments name

# In a path, `:id` is a number: see `routes.py`.
TaskId = Annotated[int, Path(description="The id of the task"), NotFound]


@app.post("/tasks", tags=["tasks"], status_code=201)
def create_task(
    task_create: TaskCreate, once: OnceDep, request: Request
) -> CreatedTask[TaskPublic]:
    """Create a task. Only the title is required. Other fields are ignored.

    With an `Idempotency-Key`, the request may be sent again for seven days. It then creates
    nothing, and returns the task that the first request created, as it is now.
    """
    [task] = once.insert(task_create)
    return CreatedTask(request, task)


@app.get("/tasks", tags=["tasks"])
def read_tasks(
    query: Annotated[TaskQuery, Query()], request: Request, session: SessionDep
) -> Page[TaskPublic]:
    """List the tasks that match all filters, a page at a time.

    If there is a next page, the header `Link` has its URL
    ([RFC 8288](https://www.rfc-editor.org/rfc/rfc8288)).
    """
    return read_page(session, request, query, Task, TaskPublic)


@app.get("/tasks/{task_id:id}", tags=["tasks"])
def read_task(
    task_id: TaskId, session: SessionDep, if_none_match: IfNoneMatch = None
) -> TaskResponse[TaskPublic]:
    """Return one task. Its version is its `ETag`."""
    task = find_task(session, task_id)
    require_modified(task, if_none_match)
    return TaskResponse(task)


@app.patch("/tasks/{task_id:id}", tags=["tasks"])
def update_task(
    task_id: TaskId, task_update: TaskUpdate, session: SessionDep, if_match: IfMatch = None
) -> TaskResponse[TaskPublic]:
    """Change only the fields that are sent, with `PUT` too. Null clears `description` and `due_at`.

    `tags` replaces all tags of the task; tags that do not exist are created. Other fields are
    ignored, so that a task may be sent back as it was received.
    """
    found_tags = find_or_create_tags(session, [task_update])
    task = lock_row(session, Task, task_id, NOT_IN_TRASH)
    require_version(task, if_match)
    change_tasks(session, [(task, task_update)], found_tags)
    session.commit()
    return TaskResponse(task)


@app.put("/tasks/{task_id:id}", tags=["tasks"])
def put_task(
    task_id: TaskId, task_update: TaskUpdate, session: SessionDep, if_match: IfMatch = None
) -> TaskResponse[TaskPublic]:
    """Change only the fields that are sent, as `PATCH` does: no field goes back to its default."""
    return update_task(task_id, task_update, session, if_match)


@app.delete("/tasks/{task_id:id}", tags=["tasks"])
def delete_task(
    task_id: TaskId,
    session: SessionDep,
    *,
    permanent: Annotated[
        bool, Query(description="Delete it for good, also from the trash")
    ] = False,
    if_match: IfMatch = None,
) -> TaskDeleted:
    """Move a task to the trash, which `GET /tasks?deleted=true` lists; or delete it for good."""
    task = lock_row(session, Task, task_id, permanent or NOT_IN_TRASH)
    require_version(task, if_match)
    if permanent:
        session.delete(task)
    else:
        task.change({"deleted_at": now()})
    session.commit()
    message = "Task deleted" if permanent else "Task moved to the trash"
    return TaskDeleted(message=message, task_id=task_id)


@app.post("/tasks/{task_id:id}/restore", tags=["tasks"])
def restore_task(task_id: TaskId, session: SessionDep) -> TaskResponse[TaskPublic]:
    """Bring a task back from the trash."""
    task = lock_row(session, Task, task_id, IN_TRASH)
    task.change({"deleted_at": None})
    session.commit()
    return TaskResponse(task)


for each in (bulk, exports, lists, transfers, tags, users):
    app.include_router(each.router)

# Open to everyone, since they are not added by the app itself, which lets the guard in front. They
# come last: a request tries the routes in their order.
app.routes.extend([*documentation.routes, *service.router.routes, *sign_in.router.routes])
