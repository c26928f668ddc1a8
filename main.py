"""The task API: the app, its routes, and what it answers when something is wrong."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from sqlalchemy import ColumnElement
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import Session, col, delete, func, select
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from database import SessionDep, engine, schema_is_current, settings, upgrade_schema
from models import (
    MAX_INTEGER,
    ErrorMessage,
    RecentQuery,
    State,
    Task,
    TaskCreate,
    TaskDeleted,
    TaskFilter,
    TaskPublic,
    TaskQuery,
    TaskStats,
    TaskStatus,
    TaskUpdate,
    overdue,
)

MAX_BODY_SIZE = 1024 * 1024  # bytes
RETRY_AFTER = {"Retry-After": "5"}  # seconds

logger = logging.getLogger("uvicorn.error")


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Upgrade the schema before the first request; close the connections after the last."""
    if settings.migrate_at_start:
        upgrade_schema()
    yield
    engine.dispose()


app = FastAPI(title="Task API", lifespan=lifespan)


# What the routes may answer besides success, for the OpenAPI document.
Answers = dict[int | str, dict[str, Any]]
UNAVAILABLE: Answers = {
    503: {
        "model": ErrorMessage,
        "description": "The database is away or too busy",
        "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "In seconds"}},
    }
}
UNREADABLE: Answers = {
    400: {"model": ErrorMessage, "description": "The body cannot be decoded, or nests too deep"},
    413: {"model": ErrorMessage, "description": f"The body is over {MAX_BODY_SIZE} bytes"},
}
NOT_FOUND: Answers = {404: {"model": ErrorMessage, "description": "There is no such task"}}
CREATED: Answers = {
    201: {"headers": {"Location": {"schema": {"type": "string"}, "description": "Its path"}}}
}
PAGE: Answers = {
    200: {
        "headers": {
            "Link": {
                "schema": {"type": "string"},
                "description": 'The URL of the next page, if there is one, with `rel="next"`',
            },
            "X-Total-Count": {
                "schema": {"type": "integer"},
                "description": "With `count=true`, the number of tasks on all pages",
            },
        }
    }
}


class IdConvertor(IntegerConvertor):
    """The digits of an id in a path, however many."""

    def convert(self, value: str) -> int:
        """Return the id; instead of one that no database could hold, the largest that it could."""
        return min(int(value), MAX_INTEGER) if len(value) <= len(str(MAX_INTEGER)) else MAX_INTEGER


register_url_convertor("id", IdConvertor())
TaskId = Annotated[int, Path(description="The id of the task")]


def find_task(session: Session, task_id: int, *, for_update: bool = False) -> Task:
    """Return the task, for an update locked until the transaction ends; answer 404 without it."""
    task = session.get(Task, task_id, with_for_update=for_update)
    if task is None:
        raise HTTPException(404, "Task not found")
    return task


def read_page(
    session: Session,
    request: Request,
    response: Response,
    query: TaskQuery,
    *conditions: ColumnElement[bool],
) -> list[Task]:
    """Return the page of tasks that the query and the conditions ask for, and set its headers."""
    passing = [*query.conditions(), *conditions]
    if query.count:
        counting = select(func.count()).select_from(Task).where(*passing)
        response.headers["X-Total-Count"] = str(session.exec(counting).one())
    last = None
    if query.after is not None and query.sort_field != "id":
        last = find_task(session, query.after)
    wanted = query.limit + 1  # one more tells whether there is a next page
    tasks = [*session.exec(query.statement(passing, last, wanted))]
    if len(tasks) == wanted:
        tasks.pop()
        url = request.url.remove_query_params("offset").include_query_params(after=tasks[-1].id)
        response.headers["Link"] = f'<{url}>; rel="next"'
    return tasks


@app.post(
    "/tasks",
    tags=["tasks"],
    status_code=201,
    response_model=TaskPublic,
    responses=CREATED | UNREADABLE | UNAVAILABLE,
)
def create_task(
    task_create: TaskCreate, request: Request, response: Response, session: SessionDep
) -> Task:
    """Create a task. Only its title is required; fields that a client does not set are ignored."""
    task = Task.model_validate(task_create)
    session.add(task)
    session.commit()
    response.headers["Location"] = request.url_for("read_task", task_id=task.id).path
    return task


@app.get(
    "/tasks",
    tags=["tasks"],
    response_model=list[TaskPublic],
    responses=PAGE | NOT_FOUND | UNAVAILABLE,
)
def read_tasks(
    query: Annotated[TaskQuery, Query()],
    request: Request,
    response: Response,
    session: SessionDep,
) -> list[Task]:
    """List the tasks that pass all the filters, a page at a time.

    While there is more, the header `Link` has the URL of the next page
    ([RFC 8288](https://www.rfc-editor.org/rfc/rfc8288)).
    """
    return read_page(session, request, response, query)


@app.get(
    "/tasks/by-status/{status}",
    tags=["tasks"],
    response_model=list[TaskPublic],
    responses=PAGE | NOT_FOUND | UNAVAILABLE,
)
def read_tasks_by_status(
    status: TaskStatus,
    query: Annotated[TaskQuery, Query()],
    request: Request,
    response: Response,
    session: SessionDep,
) -> list[Task]:
    """List the tasks of one status, with the filters, orders and pages of all tasks."""
    return read_page(session, request, response, query, col(Task.status) == status)


@app.get(
    "/tasks/recent",
    tags=["tasks"],
    response_model=list[TaskPublic],
    responses=PAGE | NOT_FOUND | UNAVAILABLE,
)
def read_recent_tasks(
    query: Annotated[RecentQuery, Query()],
    request: Request,
    response: Response,
    session: SessionDep,
) -> list[Task]:
    """List the tasks created in the last days, with the filters, orders and pages of all tasks."""
    return read_page(session, request, response, query)


@app.get("/tasks/stats", tags=["tasks"], responses=UNAVAILABLE)
def read_stats(query: Annotated[TaskFilter, Query()], session: SessionDep) -> TaskStats:
    """Count the tasks that pass all the filters. Where there is none, the average is null."""
    average_priority = func.avg(Task.priority)
    by_status = [func.count().filter(col(Task.status) == status) for status in TaskStatus]
    statement = select(func.count(), func.count().filter(overdue()), average_priority, *by_status)
    row = session.exec(statement.select_from(Task).where(*query.conditions())).one()
    return TaskStats(
        total=row[0],
        overdue=row[1],
        average_priority=row[2],
        by_status=dict(zip(TaskStatus, row[3:], strict=True)),
    )


@app.get(
    "/tasks/{task_id:id}",
    tags=["tasks"],
    response_model=TaskPublic,
    responses=NOT_FOUND | UNAVAILABLE,
)
def read_task(task_id: TaskId, session: SessionDep) -> Task:
    """Return one task."""
    return find_task(session, task_id)


@app.patch(
    "/tasks/{task_id:id}",
    tags=["tasks"],
    response_model=TaskPublic,
    responses=NOT_FOUND | UNREADABLE | UNAVAILABLE,
)
@app.put(
    "/tasks/{task_id:id}",
    tags=["tasks"],
    response_model=TaskPublic,
    responses=NOT_FOUND | UNREADABLE | UNAVAILABLE,
)
def update_task(task_id: TaskId, task_update: TaskUpdate, session: SessionDep) -> Task:
    """Change the fields that are sent, and only those. Null clears `description` and `due_at`.

    Other fields are ignored, so that a task may be sent back as it was received.
    """
    task = find_task(session, task_id, for_update=True)
    task.sqlmodel_update(task_update.model_dump())
    session.commit()
    return task


@app.delete("/tasks/{task_id:id}", tags=["tasks"], responses=NOT_FOUND | UNAVAILABLE)
def delete_task(task_id: TaskId, session: SessionDep) -> TaskDeleted:
    """Delete a task for good."""
    if session.exec(delete(Task).where(col(Task.id) == task_id)).rowcount == 0:
        raise HTTPException(404, "Task not found")
    session.commit()
    return TaskDeleted(message="Task deleted", task_id=task_id)


@app.get("/", include_in_schema=False)
async def redirect_to_docs() -> RedirectResponse:
    """Send a browser to the documentation."""
    return RedirectResponse("docs")


@app.get("/health", tags=["service"])
async def health() -> State:
    """Tell that the process serves. The database is not asked."""
    return State(status="ok")


@app.get("/ready", tags=["service"], responses=UNAVAILABLE)
def ready() -> State:
    """Tell that the database answers and its schema is the newest. If not, `detail` says why."""
    if not schema_is_current():
        detail = "The schema of the database is not the newest: run `alembic upgrade head`"
        raise HTTPException(503, detail, RETRY_AFTER)
    return State(status="ready")


def limit_body(app: ASGIApp) -> ASGIApp:
    """Wrap the app to answer 413, in JSON as FastAPI's own `max_body_size` does not always."""

    async def limited_app(scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def limited_receive() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY_SIZE:
                raise HTTPException(413, f"The body is over {MAX_BODY_SIZE} bytes")
            return message

        await app(scope, limited_receive, send)

    return limited_app


app.add_middleware(limit_body)


@app.exception_handler(RequestValidationError)
async def answer_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    """Answer 422 without the input: that may be secret, or something that JSON cannot say."""
    detail = [{key: problem[key] for key in ("type", "loc", "msg")} for problem in error.errors()]
    return JSONResponse({"detail": detail}, status_code=422)


@app.exception_handler(405)
async def answer_wrong_method(request: Request, _error: HTTPException) -> Response:
    """Answer 405 and name all methods of the path (RFC 9110, 15.5.6), not those of one route."""
    routes = [route for route in app.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    methods = sorted({method for route in matching for method in route.methods or ()})
    return await http_exception_handler(
        request, HTTPException(405, headers={"Allow": ", ".join(methods)})
    )


@app.exception_handler(DBAPIError)
@app.exception_handler(PoolTimeoutError)
async def answer_unavailable(_request: Request, error: Exception) -> JSONResponse:
    """Answer 503 while the database is away, too busy or of an old schema; else 500."""
    if isinstance(error, DBAPIError):
        passing = isinstance(error, OperationalError | InterfaceError | ProgrammingError)
        if not (passing or error.connection_invalidated):
            raise error
    logger.error("The database is not available: %s", getattr(error, "orig", error))
    return JSONResponse({"detail": "The database is not available"}, 503, RETRY_AFTER)
