"""The task API: the app, its routes, and what it answers when something is wrong."""

import gc
import logging
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from secrets import token_urlsafe
from traceback import format_tb
from typing import Annotated, Any

import jwt
from anyio import CapacityLimiter, to_thread
from fastapi import (
    APIRouter,
    Body,
    Depends,
    FastAPI,
    Form,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
)
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.security import OAuth2PasswordBearer
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from pydantic import MISSING
from pydantic_core import to_json
from sqlalchemy import ColumnElement, bindparam
from sqlalchemy import Row as DatabaseRow
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import Session, SQLModel, col, func, insert, literal, null, select, update
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from database import (
    PLACES,
    SessionDep,
    engine,
    lock_table,
    places,
    read_one,
    run_in_place,
    schema_is_current,
    settings,
    update_together,
    upgrade_schema,
)
from models import (
    MAX_INTEGER,
    ErrorMessage,
    PageQuery,
    Problems,
    RecentQuery,
    Row,
    SignIn,
    State,
    Task,
    TaskBulkUpdate,
    TaskCreate,
    TaskDeleted,
    TaskFilter,
    TaskPublic,
    TaskQuery,
    TaskStats,
    TaskStatus,
    TaskUpdate,
    Token,
    Transfer,
    TransferCreate,
    TransferPublic,
    User,
    UserCreate,
    UserDeleted,
    UserPublic,
    UserUpdate,
    now,
    overdue,
    select_shown,
)

MAX_BODY_SIZE = 1024 * 1024  # bytes
MAX_BULK = 1000  # tasks
RETRY_AFTER = {"Retry-After": "5"}  # seconds

logger = logging.getLogger("uvicorn.error")


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Upgrade the schema before the first request; close the connections after the last."""
    if settings.secret_key is None:
        logger.warning("SECRET_KEY is not set: the API is open to everyone who can reach it")
    if settings.migrate_at_start:
        upgrade_schema()
    # What is loaded by now stays: to search it for garbage stopped all requests for 50 ms. To
    # search the rest less often is worth 6 % more requests.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    yield
    engine.dispose()
    if sys.platform != "win32" and places.value == PLACES:
        # All is done, but uvicorn would end the process by the signal, as if it had failed.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


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
UNAUTHORIZED: Answers = {
    401: {
        "model": ErrorMessage,
        "description": "Nobody is signed in",
        "headers": {"WWW-Authenticate": {"schema": {"type": "string"}, "description": "`Bearer`"}},
    }
}
FORBIDDEN: Answers = {403: {"model": ErrorMessage, "description": "Not the own account"}}
SIGN_IN_IS_OFF: Answers = {404: {"model": ErrorMessage, "description": "`SECRET_KEY` is not set"}}
NOT_FOUND: Answers = {404: {"model": ErrorMessage, "description": "There is no such thing"}}
TAKEN: Answers = {409: {"model": ErrorMessage, "description": "The name or address is taken"}}
NOT_ALL_FOUND: Answers = {
    404: {"model": Problems, "description": "Some of the tasks are not there"}
}
NOT_THEIRS: Answers = {409: {"model": ErrorMessage, "description": "It belongs to another user"}}
NOT_CHANGED: Answers = {304: {"description": "It still has this version"}}
CHANGED: Answers = {412: {"model": ErrorMessage, "description": "It has another version"}}
LOCATION = {"Location": {"schema": {"type": "string"}, "description": "Its path"}}
ETAG = {"ETag": {"schema": {"type": "string"}, "description": "Its version, in quotes"}}
CREATED: Answers = {201: {"headers": LOCATION}}
CREATED_TAGGED: Answers = {201: {"headers": LOCATION | ETAG}}
TAGGED: Answers = {200: {"headers": ETAG}}
PAGE: Answers = {
    200: {
        "headers": {
            "Link": {
                "schema": {"type": "string"},
                "description": 'The URL of the next page, if there is one, with `rel="next"`',
            },
            "X-Total-Count": {
                "schema": {"type": "integer"},
                "description": "With `count=true`, the number on all pages",
            },
        }
    }
}


class IdConvertor(IntegerConvertor):
    """The digits of an id in a path, however many."""

    def convert(self, value: str) -> int:
        """Return the id; instead of one beyond the largest that a task may have, the largest."""
        return min(int(value), MAX_INTEGER) if len(value) <= len(str(MAX_INTEGER)) else MAX_INTEGER


register_url_convertor("id", IdConvertor())
TaskId = Annotated[int, Path(description="The id of the task")]
UserId = Annotated[int, Path(description="The id of the user")]
# Entity tags, as RFC 9110, 13.1 has them.
IfMatch = Annotated[str | None, Header(description="Change it only if its `ETag` is one of these")]
IfNoneMatch = Annotated[
    str | None, Header(description="Send it only if its `ETag` is none of these")
]
IdempotencyKey = Annotated[
    str | None, Header(min_length=1, max_length=200, description="Any text, for this task only")
]


# What comes before the app is open to everyone; what is added to the app is for members.
open_routes = APIRouter()


@open_routes.get("/", include_in_schema=False)
async def redirect_to_docs() -> RedirectResponse:
    """Send a browser to the documentation."""
    return RedirectResponse("docs")


@open_routes.get("/health", tags=["service"])
async def health() -> State:
    """Tell that the process serves. The database is not asked."""
    return State(status="ok")


@open_routes.get("/ready", tags=["service"], responses=UNAVAILABLE)
async def ready() -> State:
    """Tell that the database answers and its schema is the newest. If not, `detail` says why."""
    if not await run_in_place(schema_is_current):
        detail = "The schema of the database is not the newest: run `alembic upgrade head`"
        raise HTTPException(503, detail, RETRY_AFTER)
    return State(status="ready")


# One lane for each hash: with the usual four, two at once leave the requests even less of the CPU.
hasher = PasswordHash([Argon2Hasher(parallelism=1)])
two_at_once = CapacityLimiter(2)
# What the password of an unknown name is compared with, so that the answer takes as long.
no_password_hash = hasher.hash(token_urlsafe()) if settings.secret_key else ""


async def hash_password(password: str) -> str:
    """Return the hash to be stored for the password."""
    return await to_thread.run_sync(hasher.hash, password, limiter=two_at_once)


async def is_password(password: str, password_hash: str) -> bool:
    """Return whether the hash is that of the password."""
    return await to_thread.run_sync(hasher.verify, password, password_hash, limiter=two_at_once)


def get_secret() -> str:
    """Return what signs the tokens; answer 404 where sign-in is off."""
    if settings.secret_key is None:
        raise HTTPException(404, "Sign-in is off")
    return settings.secret_key.get_secret_value()


def unauthorized(detail: str) -> HTTPException:
    """Return the answer to those who must sign in (RFC 6750, 3)."""
    return HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})


@open_routes.post(
    "/token", tags=["users"], responses=UNAUTHORIZED | SIGN_IN_IS_OFF | UNREADABLE | UNAVAILABLE
)
async def create_token(sign_in: Annotated[SignIn, Form()], response: Response) -> Token:
    """Sign in, and get a token to be sent as `Authorization: Bearer …` with every call.

    It ends after `expires_in` seconds, or when the user changes the password.
    """
    secret = get_secret()
    user = await read_one(
        select(User).where(col(User.username) == sign_in.username, col(User.is_active))
    )
    password_hash = user.password_hash if user else no_password_hash
    is_right = await is_password(sign_in.password.get_secret_value(), password_hash)
    if user is None or not is_right:
        raise unauthorized("The username or the password is wrong")
    lifetime = timedelta(minutes=settings.token_lifetime)
    claims = {"sub": str(user.id), "version": user.token_version, "exp": now() + lifetime}
    response.headers["Cache-Control"] = "no-store"
    return Token(
        access_token=jwt.encode(claims, secret, "HS256"),
        expires_in=int(lifetime.total_seconds()),
    )


async def let_everyone_pass() -> None:
    """Return no user, since sign-in is off."""


async def require_member(
    request: Request,
    token: Annotated[str | None, Depends(OAuth2PasswordBearer("token", auto_error=False))],
) -> User | None:
    """Return who signed in; answer 401 to anyone else, but let the first user be created."""
    first_user = token is None and request.scope["endpoint"] is create_user
    if first_user and await read_one(select(User).limit(1)) is None:
        return None
    try:
        claims = jwt.decode(
            token or "",
            get_secret(),
            ["HS256"],
            {"require": ["sub", "version", "exp"]},
        )
        user_id = int(claims["sub"])
    except (jwt.InvalidTokenError, ValueError):
        raise unauthorized("Not signed in") from None
    user = await read_one(
        select(User).where(
            col(User.id) == user_id,
            col(User.token_version) == claims["version"],
            col(User.is_active),
        )
    )
    if user is None:
        raise unauthorized("Not signed in")
    return user


guard = require_member if settings.secret_key else let_everyone_pass
MemberDep = Annotated[User | None, Depends(guard)]

app = FastAPI(
    title="Task API",
    lifespan=lifespan,
    routes=open_routes.routes,
    # For all routes that follow, and for those that will.
    dependencies=[Depends(guard)] if settings.secret_key else [],
    responses=UNAUTHORIZED if settings.secret_key else {},
)


def show(public: type[SQLModel], row: SQLModel | DatabaseRow[Any]) -> dict[str, Any]:
    """Return what the public variant shows of an object or of a row."""
    return {field: getattr(row, field) for field in public.model_fields}


def show_all(public: type[SQLModel], rows: Sequence[DatabaseRow[Any]]) -> list[dict[str, Any]]:
    """Return the same of rows with only these columns in this order, in a fifth of the time."""
    fields = tuple(public.model_fields)
    return [dict(zip(fields, row, strict=True)) for row in rows]


def answer(
    content: object, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the answer with what is shown, as JSON.

    FastAPI would check it once more by the response model, in another thread: that took a third
    of the time of a list.
    """
    return Response(to_json(content), status_code, headers, "application/json")


def count_rows(
    session: Session, query: PageQuery, table: type[Row], passing: Iterable[ColumnElement[bool]]
) -> dict[str, str]:
    """Return the header with the number of rows that pass, if the query asks for it."""
    if not query.count:
        return {}
    counting = select(func.count()).select_from(table).where(*passing)
    return {"X-Total-Count": str(session.exec(counting).one())}


def answer_page(
    request: Request,
    query: PageQuery,
    public: type[SQLModel],
    rows: Sequence[Any],
    headers: dict[str, str],
) -> Response:
    """Return the answer with the rows of the page; if there is one more, with the next's URL."""
    if len(rows) > query.limit:
        rows = rows[: query.limit]
        url = request.url.remove_query_params("offset").include_query_params(after=rows[-1].id)
        headers = headers | {"Link": f'<{url}>; rel="next"'}
    return answer(show_all(public, rows), headers=headers)


def read_page(
    session: Session,
    request: Request,
    query: PageQuery,
    table: type[Row],
    public: type[SQLModel],
    *passing: ColumnElement[bool],
) -> Response:
    """Return the answer with the page of the rows that pass, by id."""
    headers = count_rows(session, query, table, passing)
    rows = session.connection().execute(query.by_id(table, public, *passing)).all()
    return answer_page(request, query, public, rows, headers)


def find_task(
    session: Session,
    task_id: int,
    *,
    deleted: bool | None = False,
    for_update: bool = False,
    if_match: str | None = None,
) -> Task:
    """Return the task, for an update locked until the transaction ends.

    Answer 404 without it, or if it is in the trash and `deleted` is false, or the other way round
    (None is either); answer 412 if its entity tag is not in `if_match` (RFC 9110, 13.1.1).
    """
    task = session.get(Task, task_id, with_for_update=for_update)
    if task is None or deleted not in (None, task.deleted_at is not None):
        raise HTTPException(404, "Task not found")
    if if_match is not None and not has_tag(if_match, task):
        raise HTTPException(412, "The task has another version", {"ETag": etag(task)})
    return task


def etag(task: Task | DatabaseRow[Any]) -> str:
    """Return the entity tag of this version of the task (RFC 9110, 8.8.3)."""
    return f'"{task.version}"'


def has_tag(tags: str, task: Task | DatabaseRow[Any]) -> bool:
    """Return whether the tag of the task is in a list of tags as `If-Match` has it."""
    return not {"*", etag(task)}.isdisjoint(tag.strip() for tag in tags.split(","))


def answer_task(task: Task | DatabaseRow[Any], status_code: int = 200, **headers: str) -> Response:
    """Return the answer with the task, and with its version as its entity tag."""
    return answer(show(TaskPublic, task), status_code, {"ETag": etag(task), **headers})


def require_users(session: Session, user_ids: Mapping[Any, int | None]) -> None:
    """Answer 422 that names the places in the request, the keys, whose user does not exist.

    The others are locked, so that they still exist when the transaction ends.
    """
    wanted = {user_id for user_id in user_ids.values() if user_id is not None}
    if wanted:
        statement = select(User.id).where(col(User.id).in_(wanted))
        found = session.exec(statement.with_for_update(read=True, key_share=True)).all()
        unknown = wanted.difference(found)
        problem = {"type": "user_not_found", "msg": "There is no such user"}
        problems = [
            problem | {"loc": loc} for loc, user_id in user_ids.items() if user_id in unknown
        ]
        if problems:
            raise RequestValidationError(problems)


def new_task(task_create: TaskCreate, member: User | None, created_at: datetime) -> Task:
    """Return the task to be created, which belongs to the member if it is not said to whom."""
    owner = {"owner_id": member.id} if member else {}
    moments = {"created_at": created_at, "updated_at": created_at}
    task = Task.model_validate(owner | task_create.model_dump() | moments)
    task.keep_completed_at()
    return task


def read_task_page(
    session: Session, request: Request, query: TaskQuery, **equal: object
) -> Response:
    """Return the answer with the page of tasks that the query asks for, equal in these fields."""
    headers = count_rows(session, query, Task, query.conditions(**equal))
    last_value = None
    if query.after is not None and query.sort_field != "id":
        last = find_task(session, query.after, deleted=None)
        last_value = getattr(last, query.sort_field)
    rows = session.connection().execute(query.statement(last_value, **equal)).all()
    return answer_page(request, query, TaskPublic, rows, headers)


# Built once: that took 180 of the 730 µs for a read.
SELECT_TASK = select_shown(Task, TaskPublic).where(
    col(Task.id) == bindparam("task_id"), col(Task.deleted_at).is_(None)
)
INSERT_TASKS = insert(Task).returning(
    *select_shown(Task, TaskPublic).selected_columns, sort_by_parameter_order=True
)


def save_tasks(session: Session, tasks: Iterable[Task]) -> Sequence[DatabaseRow[Any]]:
    """Save new tasks, and return their rows in the same order.

    The session's own way, `add_all` and `commit`, took 610 µs for one of them, this takes 420.
    """
    values = [task.model_dump(exclude={"id"}) for task in tasks]
    rows = session.connection().execute(INSERT_TASKS, values).all()
    session.commit()
    return rows


def save_once(session: Session, task: Task) -> Task | DatabaseRow[Any]:
    """Save the new task, or return the one that was saved with the same idempotency key.

    Answer 422 if that was asked for by another request, or if its owner does not exist.
    """
    try:
        require_users(session, {("body", "owner_id"): task.owner_id})
        return save_tasks(session, [task])[0]
    except (IntegrityError, RequestValidationError):
        session.rollback()
        key = task.idempotency_key or ""
        first = session.exec(select(Task).where(col(Task.idempotency_key) == key)).first()
        if first is None:
            raise
        if first.request_hash != task.request_hash:
            problem = {"type": "idempotency_key_reused", "msg": "Was used with another body"}
            raise RequestValidationError(
                [problem | {"loc": ("header", "Idempotency-Key")}]
            ) from None
        return first


@app.post(
    "/tasks",
    tags=["tasks"],
    status_code=201,
    response_model=TaskPublic,
    responses=CREATED_TAGGED | UNREADABLE | UNAVAILABLE,
)
def create_task(
    task_create: TaskCreate,
    request: Request,
    member: MemberDep,
    session: SessionDep,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Create a task. Only its title is required; fields that a client does not set are ignored.

    A request with an `Idempotency-Key` may be sent again: the repeated one creates nothing, and is
    answered with the task of the first. The key is used for one task only, until that is deleted
    for good.
    """
    task = new_task(task_create, member, now())
    if idempotency_key is not None:
        task.idempotency_key, task.request_hash = idempotency_key, task.hash_request()
    saved = save_once(session, task)
    return answer_task(saved, 201, Location=f"{request.scope['path']}/{saved.id}")


@app.get(
    "/tasks",
    tags=["tasks"],
    response_model=list[TaskPublic],
    responses=PAGE | NOT_FOUND | UNAVAILABLE,
)
def read_tasks(
    query: Annotated[TaskQuery, Query()], request: Request, session: SessionDep
) -> Response:
    """List the tasks that pass all the filters, a page at a time.

    While there is more, the header `Link` has the URL of the next page
    ([RFC 8288](https://www.rfc-editor.org/rfc/rfc8288)).
    """
    return read_task_page(session, request, query)


@app.get(
    "/tasks/{task_id:id}",
    tags=["tasks"],
    response_model=TaskPublic,
    responses=TAGGED | NOT_CHANGED | NOT_FOUND | UNAVAILABLE,
)
def read_task(task_id: TaskId, session: SessionDep, if_none_match: IfNoneMatch = None) -> Response:
    """Return one task. Its version is its `ETag`."""
    task = session.connection().execute(SELECT_TASK, {"task_id": task_id}).first()
    if task is None:
        raise HTTPException(404, "Task not found")
    if if_none_match is not None and has_tag(if_none_match.replace("W/", ""), task):
        return Response(status_code=304, headers={"ETag": etag(task)})
    return answer_task(task)


@app.patch(
    "/tasks/{task_id:id}",
    tags=["tasks"],
    response_model=TaskPublic,
    responses=TAGGED | NOT_FOUND | CHANGED | UNREADABLE | UNAVAILABLE,
)
@app.put(
    "/tasks/{task_id:id}",
    tags=["tasks"],
    response_model=TaskPublic,
    responses=TAGGED | NOT_FOUND | CHANGED | UNREADABLE | UNAVAILABLE,
)
def update_task(
    task_id: TaskId,
    task_update: TaskUpdate,
    session: SessionDep,
    if_match: IfMatch = None,
) -> Response:
    """Change the fields that are sent, and only those. Null clears `description` and `due_at`.

    Other fields are ignored, so that a task may be sent back as it was received.
    """
    task = find_task(session, task_id, for_update=True, if_match=if_match)
    task.change(**task_update.model_dump())
    session.commit()
    return answer_task(task)


@app.delete(
    "/tasks/{task_id:id}",
    tags=["tasks"],
    responses=NOT_FOUND | CHANGED | UNAVAILABLE,
)
def delete_task(
    task_id: TaskId,
    session: SessionDep,
    *,
    permanent: Annotated[bool, Query(description="Whether for good, also from the trash")] = False,
    if_match: IfMatch = None,
) -> TaskDeleted:
    """Move a task to the trash, which `GET /tasks?deleted=true` lists; or delete it for good."""
    deleted = None if permanent else False
    task = find_task(session, task_id, deleted=deleted, for_update=True, if_match=if_match)
    if permanent:
        session.delete(task)
    else:
        task.change(deleted_at=now())
    session.commit()
    message = "Task deleted" if permanent else "Task moved to the trash"
    return TaskDeleted(message=message, task_id=task_id)


@app.post(
    "/tasks/{task_id:id}/restore",
    tags=["tasks"],
    response_model=TaskPublic,
    responses=TAGGED | NOT_FOUND | UNAVAILABLE,
)
def restore_task(task_id: TaskId, session: SessionDep) -> Response:
    """Bring a task back from the trash."""
    task = find_task(session, task_id, deleted=True, for_update=True)
    task.change(deleted_at=None)
    session.commit()
    return answer_task(task)


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
    session: SessionDep,
) -> Response:
    """List the tasks of one status, with the filters, orders and pages of all tasks."""
    return read_task_page(session, request, query, status=status)


@app.get(
    "/tasks/recent",
    tags=["tasks"],
    response_model=list[TaskPublic],
    responses=PAGE | NOT_FOUND | UNAVAILABLE,
)
def read_recent_tasks(
    query: Annotated[RecentQuery, Query()], request: Request, session: SessionDep
) -> Response:
    """List the tasks created in the last days, with the filters, orders and pages of all tasks."""
    return read_task_page(session, request, query)


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


@app.post(
    "/tasks/bulk",
    tags=["tasks"],
    status_code=201,
    response_model=list[TaskPublic],
    responses=UNREADABLE | UNAVAILABLE,
)
def create_tasks(
    task_creates: Annotated[list[TaskCreate], Body(min_length=1, max_length=MAX_BULK)],
    member: MemberDep,
    session: SessionDep,
) -> Response:
    """Create many tasks, all or none, and return them in the same order.

    If any is wrong, the second part of each `loc` is its place in the list, from 0.
    """
    begin = now()
    tasks = [
        # No two at the same moment, so that in an order by it they stay as they were sent.
        new_task(task_create, member, begin + timedelta(microseconds=place))
        for place, task_create in enumerate(task_creates)
    ]
    owners = {("body", place, "owner_id"): task.owner_id for place, task in enumerate(tasks)}
    require_users(session, owners)
    return answer(show_all(TaskPublic, save_tasks(session, tasks)), 201)


@app.patch(
    "/tasks/bulk",
    tags=["tasks"],
    response_model=list[TaskPublic],
    responses=NOT_ALL_FOUND | UNREADABLE | UNAVAILABLE,
)
def update_tasks(
    task_updates: Annotated[list[TaskBulkUpdate], Body(min_length=1, max_length=MAX_BULK)],
    session: SessionDep,
) -> Response:
    """Change many tasks, all or none, and return them in the same order.

    If any is wrong or not found, the second part of each `loc` is its place in the list, from 0. Of
    several changes to one task, the later ones win.
    """
    ids = {task_update.id for task_update in task_updates}
    # Locked in the order of the ids, so that no two such requests wait for each other.
    statement = select(Task).where(col(Task.id).in_(ids), col(Task.deleted_at).is_(None))
    found = session.exec(statement.order_by(col(Task.id)).with_for_update()).all()
    tasks = {task.id: task for task in found}
    problem = {"type": "task_not_found", "msg": "Task not found"}
    problems = [
        problem | {"loc": ("body", place, "id")}
        for place, task_update in enumerate(task_updates)
        if task_update.id not in tasks
    ]
    if problems:
        raise HTTPException(404, problems)
    for task_update in task_updates:
        tasks[task_update.id].change(**task_update.model_dump(exclude={"id"}))
    update_together(session, found)
    session.commit()
    return answer([show(TaskPublic, tasks[task_update.id]) for task_update in task_updates])


@app.post(
    "/tasks/{task_id:id}/transfer",
    tags=["tasks"],
    response_model=TaskPublic,
    responses=TAGGED | NOT_FOUND | NOT_THEIRS | UNREADABLE | UNAVAILABLE,
)
def transfer_task(
    task_id: TaskId,
    transfer_create: TransferCreate,
    member: MemberDep,
    session: SessionDep,
) -> Response:
    """Give a task that belongs to one user to another, where null is nobody, and record it."""
    require_users(session, {("body", "to_user_id"): transfer_create.to_user_id})
    task = find_task(session, task_id, for_update=True)
    if task.owner_id != transfer_create.from_user_id:
        raise HTTPException(409, "The task does not belong to `from_user_id`")
    task.change(owner_id=transfer_create.to_user_id)
    record = {"task_id": task_id, "by_user_id": member and member.id}
    session.add(Transfer.model_validate(transfer_create, update=record))
    session.commit()
    return answer_task(task)


@app.get(
    "/tasks/{task_id:id}/transfers",
    tags=["tasks"],
    response_model=list[TransferPublic],
    responses=PAGE | NOT_FOUND | UNAVAILABLE,
)
def read_transfers(
    task_id: TaskId,
    query: Annotated[PageQuery, Query()],
    request: Request,
    session: SessionDep,
) -> Response:
    """List the transfers of a task, the first one first, a page at a time."""
    find_task(session, task_id)
    of_task = col(Transfer.task_id) == task_id
    return read_page(session, request, query, Transfer, TransferPublic, of_task)


def find_user(session: Session, user_id: int, *, for_update: bool = False) -> User:
    """Return the user, for an update locked until the transaction ends; answer 404 without it."""
    user = session.get(User, user_id, with_for_update=for_update)
    if user is None:
        raise HTTPException(404, "User not found")
    return user


def commit_user(session: Session) -> None:
    """Commit; answer 409 if another user has the name or the address."""
    try:
        session.commit()
    except IntegrityError as error:
        # `… failed: user.email` or `… constraint "uq_user_email"`; other lines repeat the values.
        taken = re.search(r"user[._](username|email)", first_line(error))
        if taken is None:
            raise
        raise HTTPException(409, f"The {taken[1]} is already taken") from None


async def user_to_create(user_create: UserCreate) -> User:
    """Return the new user; the password is hashed before a session holds a connection."""
    password_hash = await hash_password(user_create.password.get_secret_value())
    return User.model_validate(user_create, update={"password_hash": password_hash})


@app.post(
    "/users",
    tags=["users"],
    status_code=201,
    response_model=UserPublic,
    responses=CREATED | TAKEN | UNREADABLE | UNAVAILABLE,
)
def create_user(
    user: Annotated[User, Depends(user_to_create)],
    request: Request,
    member: MemberDep,
    session: SessionDep,
) -> Response:
    """Create a user. While there is none, anyone may; from then on, those who are signed in."""
    if settings.secret_key and member is None:
        lock_table(session, "user")
        if session.exec(select(User).limit(1)).first():
            raise unauthorized("Not signed in")
    session.add(user)
    commit_user(session)
    location = f"{request.scope['path']}/{user.id}"
    return answer(show(UserPublic, user), 201, {"Location": location})


@app.get("/users", tags=["users"], response_model=list[UserPublic], responses=PAGE | UNAVAILABLE)
def read_users(
    query: Annotated[PageQuery, Query()], request: Request, session: SessionDep
) -> Response:
    """List the users, a page at a time, as tasks are."""
    return read_page(session, request, query, User, UserPublic)


@app.get(
    "/users/me",
    tags=["users"],
    response_model=UserPublic,
    responses=SIGN_IN_IS_OFF | UNAVAILABLE,
)
async def read_member(member: MemberDep) -> Response:
    """Return who is signed in."""
    if member is None:
        raise HTTPException(404, "Sign-in is off")
    return answer(show(UserPublic, member))


@app.get(
    "/users/{user_id:id}",
    tags=["users"],
    response_model=UserPublic,
    responses=NOT_FOUND | UNAVAILABLE,
)
def read_user(user_id: UserId, session: SessionDep) -> Response:
    """Return one user."""
    return answer(show(UserPublic, find_user(session, user_id)))


@app.get(
    "/users/{user_id:id}/tasks",
    tags=["users"],
    response_model=list[TaskPublic],
    responses=PAGE | NOT_FOUND | UNAVAILABLE,
)
def read_tasks_of_user(
    user_id: UserId,
    query: Annotated[TaskQuery, Query()],
    request: Request,
    session: SessionDep,
) -> Response:
    """List the tasks of one user, with the filters, orders and pages of all tasks."""
    find_user(session, user_id)
    return read_task_page(session, request, query, owner_id=user_id)


async def require_own_account(user_id: UserId, member: MemberDep) -> None:
    """Answer 403 to a member who would change the account of another."""
    if member is not None and member.id != user_id:
        raise HTTPException(403, "This is not your account")


def wrong_password() -> HTTPException:
    """Return the answer to those who do not know the password that they would change."""
    return HTTPException(403, "`current_password` is not the current password")


async def changes_of_user(
    user_id: UserId, user_update: UserUpdate
) -> tuple[dict[str, Any], str | None]:
    """Return what to change, and the hash of the current password if that had to be checked.

    The passwords are hashed before a session holds a connection.
    """
    changes = user_update.model_dump(exclude={"password", "current_password"})
    password, current_password = user_update.password, user_update.current_password
    if password is MISSING:
        return changes, None
    user = await read_one(select(User).where(col(User.id) == user_id))
    if user is None:
        raise HTTPException(404, "User not found")
    if current_password is MISSING or not await is_password(
        current_password.get_secret_value(), user.password_hash
    ):
        raise wrong_password()
    changes["password_hash"] = await hash_password(password.get_secret_value())
    return changes, user.password_hash


@app.patch(
    "/users/{user_id:id}",
    tags=["users"],
    dependencies=[Depends(require_own_account)],
    response_model=UserPublic,
    responses=FORBIDDEN | NOT_FOUND | TAKEN | UNREADABLE | UNAVAILABLE,
)
def update_user(
    user_id: UserId,
    changes_and_checked_hash: Annotated[
        tuple[dict[str, Any], str | None], Depends(changes_of_user)
    ],
    session: SessionDep,
) -> Response:
    """Change the fields that are sent, and only those. Null clears `full_name`.

    Members change their own account only. A new `password` needs `current_password` and ends all
    tokens of the user, and so does `"is_active": false`, after which the user cannot sign in.
    """
    changes, checked_hash = changes_and_checked_hash
    user = find_user(session, user_id, for_update=True)
    if checked_hash not in (None, user.password_hash):
        raise wrong_password()  # by now, since another request has changed it
    user.sqlmodel_update(changes)
    if checked_hash or not user.is_active:
        user.token_version += 1
    commit_user(session)
    return answer(show(UserPublic, user))


@app.delete(
    "/users/{user_id:id}",
    tags=["users"],
    dependencies=[Depends(require_own_account)],
    responses=FORBIDDEN | NOT_FOUND | UNAVAILABLE,
)
def delete_user(user_id: UserId, member: MemberDep, session: SessionDep) -> UserDeleted:
    """Remove a user for good. The tasks of the user stay and belong to nobody.

    Members remove their own account only.
    """
    user = find_user(session, user_id, for_update=True)
    is_theirs = col(Task.owner_id) == user_id
    # So that none is transferred between the two statements; by id, as `update_tasks` does.
    session.exec(select(Task.id).where(is_theirs).order_by(col(Task.id)).with_for_update())
    record = {
        "task_id": col(Task.id),
        "from_user_id": col(Task.owner_id),
        "to_user_id": null(),
        "by_user_id": literal(member and member.id),
        "created_at": literal(now()),
    }
    session.exec(insert(Transfer).from_select([*record], select(*record.values()).where(is_theirs)))
    changes = {"owner_id": None, "updated_at": now(), "version": Task.version + 1}
    session.exec(update(Task).where(is_theirs).values(changes))
    session.delete(user)
    session.commit()
    return UserDeleted(message="User removed", user_id=user_id)


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


def first_line(error: DBAPIError) -> str:
    """Return what the database says is wrong; further lines of PostgreSQL repeat the values."""
    return str(error.orig).partition("\n")[0]


@app.exception_handler(DBAPIError)
async def answer_database_error(request: Request, error: DBAPIError) -> JSONResponse:
    """Answer 503 while the database is away, too busy or of an old schema; else 500."""
    passing = isinstance(error, OperationalError | InterfaceError | ProgrammingError)
    if passing or error.connection_invalidated:
        return await answer_unavailable(request, error)
    lines = "".join(format_tb(error.__traceback__))
    logger.error("%s in %s\n%s", first_line(error), error.statement, lines)
    return JSONResponse({"detail": "Internal Server Error"}, 500)


@app.exception_handler(PoolTimeoutError)
async def answer_unavailable(_request: Request, error: Exception) -> JSONResponse:
    """Answer 503."""
    reason = first_line(error) if isinstance(error, DBAPIError) else error
    logger.error("The database is not available: %s", reason)
    return JSONResponse({"detail": "The database is not available"}, 503, RETRY_AFTER)
