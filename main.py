"""The task API: the app and the routes of tasks."""

import gc
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Header, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from pydantic_core import to_json
from sqlalchemy import Row, inspect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm.attributes import flag_modified
from sqlmodel import Session, col, delete, func, select

import docs_page
import sign_in
import tags
import users
from config import settings
from database import (
    SessionDep,
    engine,
    replica_engine,
    run_in_slot,
    schema_is_current,
    upgrade_schema,
)
from engines import watch_connections
from middleware import MIDDLEWARE
from models import (
    IdempotencyKey,
    Problems,
    State,
    Task,
    TaskBulkUpdate,
    TaskCreate,
    TaskDeleted,
    TaskPublic,
    TaskStats,
    TaskStatus,
    TaskUpdate,
    Transfer,
    TransferCreate,
    TransferPublic,
    User,
    now,
)
from queries import (
    INSERT_TASKS,
    SELECT_TASK,
    ExportQuery,
    PageQuery,
    RecentQuery,
    TaskFilter,
    TaskQuery,
    overdue,
)
from responses import (
    ALWAYS,
    BAD_BODY,
    ETAG_HEADER,
    EXCEPTION_HANDLERS,
    EXPORTED,
    LOCATION_HEADER,
    NOT_FOUND,
    OK_WITH_ETAG,
    OK_WITH_LINK,
    RETRY_AFTER,
    ExportResponse,
    IfMatch,
    IfNoneMatch,
    PublicResponse,
    Responses,
    check_parameters,
    document_error,
    etag,
    export,
    has_etag,
    list_public,
    read_page,
    to_public,
)
from sign_in import CurrentUserDep

MAX_BULK = 1000  # tasks

logger = logging.getLogger("uvicorn.error")


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Upgrade the schema before the first request; close the connections after the last."""
    if settings.secret_key is None:
        logger.warning("SECRET_KEY is not set: the API is open to everyone who can reach it")
    if settings.migrate_at_start:
        upgrade_schema()
    # Keep the garbage collector out of what is loaded by now: the p99 of a read is 14, not 68 ms.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)  # run it less often: a create takes 5 % less CPU
    async with watch_connections():
        yield
    for each in (engine, replica_engine):
        each.dispose()


DESCRIPTION = """\
Press **Authorize** first, if it is there, to sign in; only name and password are needed.
Then start with `POST /tasks`: open it and press **Execute**. `GET /tasks` lists the task.

- **Filters:** `GET /tasks?status=pending&q=report&sort=-priority`. A task has to match all of them.
- **Tags:** create a task with `"tags": ["report"]`, and find it by `GET /tasks?tag=report`.
  `GET /tags` lists all tags, and `PATCH /tags/{tag_id}` renames one.
- **Pages:** a list has at most 100 tasks. If more follow, the header `Link` has the next URL.
- **Exports:** `GET /tasks/export` has all tasks at once, also for a spreadsheet.
- **Changes:** `PATCH` changes only what is sent. `DELETE` moves a task to the trash.
- **Versions:** each change of a task adds one to its `version`. With the header `If-Match: "3"`, it
  is changed only if its version is 3, so if nobody else has changed it.
- **Retries:** with an `Idempotency-Key`, a request may be sent again and creates nothing twice.
- **Errors:** `detail` says what is wrong. After 429 and 503, wait as `Retry-After` says.
"""
OPENAPI_TAGS = [
    {"name": "tasks", "description": "Create, find, change and delete tasks, also many at once"},
    {"name": "tags", "description": "List, rename and delete the tags that tasks have"},
    {"name": "users", "description": "Sign in, and manage the users"},
    {"name": "service", "description": "For monitors: whether the API works"},
]

app = FastAPI(
    title="Task API",
    version="1.2.0",
    description=DESCRIPTION,
    openapi_tags=OPENAPI_TAGS,
    servers=[{"url": "."}],  # where the document is, so that a path prefix needs no setting
    root_path_in_servers=False,
    license_info={"name": "MIT", "identifier": "MIT"},
    docs_url=None,  # see `docs_page.py`
    redoc_url=None,
    generate_unique_id_function=attrgetter("name"),
    lifespan=lifespan,
    middleware=MIDDLEWARE,
    exception_handlers=EXCEPTION_HANDLERS,
    dependencies=[Depends(check_parameters)],
    responses=ALWAYS,
)


async def redirect_to_docs(_request: Request) -> RedirectResponse:
    """Redirect a browser to the documentation."""
    return RedirectResponse("docs")


app.add_route("/", redirect_to_docs, include_in_schema=False)
app.add_route("/docs", docs_page.read_docs, include_in_schema=False)
app.mount("/swagger", docs_page.FILES)


@app.head("/health", include_in_schema=False)
@app.get("/health", tags=["service"], openapi_extra=sign_in.NEEDS_NO_TOKEN)
async def health() -> State:
    """Return that the process serves. The database is not asked."""
    return State(status="ok")


@app.head("/ready", include_in_schema=False)
@app.get("/ready", tags=["service"], openapi_extra=sign_in.NEEDS_NO_TOKEN)
async def ready() -> State:
    """Return that the database answers and its schema is current. If not, `detail` says why."""
    if not await run_in_slot(schema_is_current):
        detail = "The schema of the database is not the newest: run `python manage.py migrate`"
        raise HTTPException(503, detail, RETRY_AFTER)
    return State(status="ready")


app.include_router(sign_in.router)
if settings.secret_key:
    # Routes above this line are open to everyone, routes below it are for those who are signed in.
    # `FastAPI(dependencies=...)` would guard all of them. The first dependency, so that others get
    # 401 for a wrong query parameter too.
    app.router.dependencies.insert(0, Depends(sign_in.get_current_user))
    app.router.responses = ALWAYS | sign_in.UNAUTHORIZED


# In a path, `:id` is the `IdConvertor` of `responses.py`.
TaskId = Annotated[int, Path(description="The id of the task")]
KeyHeader = Annotated[
    str | None,
    Header(min_length=1, max_length=200, description="Any text, another one for each new request"),
]
CREATED: Responses = {201: {"headers": LOCATION_HEADER | ETAG_HEADER}}
IS_DELETED = "A task that was created with this key has been deleted for good"
DELETED = document_error(409, IS_DELETED)
NOT_MODIFIED: Responses = {
    304: {"description": "The task still has this version", "headers": ETAG_HEADER}
}
OTHER_VERSION = document_error(412, "The task has another version")
OTHER_VERSION[412]["headers"] = ETAG_HEADER


@app.post("/tasks", tags=["tasks"], status_code=201, responses=CREATED | DELETED | BAD_BODY)
def create_task(
    task_create: TaskCreate,
    request: Request,
    current_user: CurrentUserDep,
    session: SessionDep,
    idempotency_key: KeyHeader = None,
) -> PublicResponse[TaskPublic]:
    """Create a task. Only the title is required. Other fields are ignored.

    With an `Idempotency-Key`, the request may be sent again for seven days. It then creates
    nothing, and returns the task that the first request created, as it is now.
    """
    # Errors name where in the request the task is, as those of FastAPI do: its `loc`.
    [task] = insert_once(session, {("body",): task_create}, current_user, idempotency_key)
    session.commit()
    return task_response(task, 201, Location=f"{request.scope['path']}/{task.id}")


@app.get("/tasks/{task_id:id}", tags=["tasks"], responses=OK_WITH_ETAG | NOT_MODIFIED | NOT_FOUND)
def read_task(
    task_id: TaskId, session: SessionDep, if_none_match: IfNoneMatch = None
) -> PublicResponse[TaskPublic]:
    """Return one task. Its version is its `ETag`."""
    task = session.connection().execute(SELECT_TASK, {"task_id": task_id}).first()
    if task is None:
        raise HTTPException(404, "Task not found")
    # A proxy that compresses marks entity tags with `W/` (RFC 9110, 8.8.3).
    if if_none_match and has_etag([etags.replace("W/", "") for etags in if_none_match], task):
        raise HTTPException(304, headers={"ETag": etag(task)})  # FastAPI sends it without a body
    return task_response(task)


UPDATED = OK_WITH_ETAG | NOT_FOUND | OTHER_VERSION | BAD_BODY


@app.patch("/tasks/{task_id:id}", tags=["tasks"], responses=UPDATED)
@app.put("/tasks/{task_id:id}", tags=["tasks"], responses=UPDATED, name="put_task")
def update_task(
    task_id: TaskId, task_update: TaskUpdate, session: SessionDep, if_match: IfMatch = None
) -> PublicResponse[TaskPublic]:
    """Change only the fields that are sent, with `PUT` too. Null clears `description` and `due_at`.

    `tags` replaces all tags of the task; tags that do not exist are created. Other fields are
    ignored, so that a task may be sent back as it was received.
    """
    [values] = values_of_tasks(session, [task_update])
    task = find_task(session, task_id, if_match=if_match, for_update=True)
    change_tasks(session, [(task, values)])
    session.commit()
    return task_response(task)


@app.delete("/tasks/{task_id:id}", tags=["tasks"], responses=NOT_FOUND | OTHER_VERSION)
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
    deleted = None if permanent else False
    task = find_task(session, task_id, deleted=deleted, if_match=if_match, for_update=True)
    if permanent:
        session.delete(task)
    else:
        task.change(deleted_at=now())
    session.commit()
    message = "Task deleted" if permanent else "Task moved to the trash"
    return TaskDeleted(message=message, task_id=task_id)


@app.post("/tasks/{task_id:id}/restore", tags=["tasks"], responses=OK_WITH_ETAG | NOT_FOUND)
def restore_task(task_id: TaskId, session: SessionDep) -> PublicResponse[TaskPublic]:
    """Bring a task back from the trash."""
    task = find_task(session, task_id, deleted=True, for_update=True)
    task.change(deleted_at=None)
    session.commit()
    return task_response(task)


@app.get("/tasks", tags=["tasks"], responses=OK_WITH_LINK)
def read_tasks(
    query: Annotated[TaskQuery, Query()], request: Request, session: SessionDep
) -> PublicResponse[list[TaskPublic]]:
    """List the tasks that match all filters, a page at a time.

    If there is a next page, the header `Link` has its URL
    ([RFC 8288](https://www.rfc-editor.org/rfc/rfc8288)).
    """
    return read_page(session, request, query, Task, TaskPublic)


@app.get("/tasks/by-status/{status}", tags=["tasks"], responses=OK_WITH_LINK)
def read_tasks_by_status(
    status: Annotated[TaskStatus, Path(description="The status of the tasks")],
    query: Annotated[TaskQuery, Query()],
    request: Request,
    session: SessionDep,
) -> PublicResponse[list[TaskPublic]]:
    """List the tasks of one status, with the filters, orders and pages of all tasks."""
    return read_page(session, request, query, Task, TaskPublic, status=status)


@app.get("/tasks/recent", tags=["tasks"], responses=OK_WITH_LINK)
def read_recent_tasks(
    query: Annotated[RecentQuery, Query()], request: Request, session: SessionDep
) -> PublicResponse[list[TaskPublic]]:
    """List the tasks created in the last days, with the filters, orders and pages of all tasks."""
    return read_page(session, request, query, Task, TaskPublic)


@app.get("/tasks/stats", tags=["tasks"])
def read_stats(query: Annotated[TaskFilter, Query()], session: SessionDep) -> TaskStats:
    """Count the tasks that match all filters. If there is none, the average is null."""
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


@app.get("/tasks/export", tags=["tasks"], response_class=ExportResponse, responses=EXPORTED)
def export_tasks(query: Annotated[ExportQuery, Query()], session: SessionDep) -> ExportResponse:
    """Download all tasks that match all filters, any number of them, in the order of their ids.

    With `format=jsonl`, each line is a task as JSON. With `format=csv`, the first line has the
    names of the fields, and tags have commas between them. A cell that begins with `=`, `+`, `-`
    or `@`, also behind white space, has a `'` in front: a spreadsheet would take it for a formula.

    A task that matches from the beginning to the end is in it once, whatever is changed meanwhile.
    If the database goes away or is too busy, the transfer is cut, and a client of HTTP notices it.
    """
    return export(session, query)


@app.post("/tasks/bulk", tags=["tasks"], status_code=201, responses=DELETED | BAD_BODY)
def create_tasks(
    task_creates: Annotated[list[TaskCreate], Body(min_length=1, max_length=MAX_BULK)],
    current_user: CurrentUserDep,
    session: SessionDep,
    idempotency_key: KeyHeader = None,
) -> PublicResponse[list[TaskPublic]]:
    """Create many tasks, all or none, and return them in the same order.

    If any is wrong, the second item of each `loc` is its position in the list, from 0. With an
    `Idempotency-Key`, the request may be sent again, as for one task.
    """
    by_loc: dict[Loc, TaskCreate] = {
        ("body", position): task_create for position, task_create in enumerate(task_creates)
    }
    tasks = insert_once(session, by_loc, current_user, idempotency_key)
    session.commit()
    return PublicResponse(list_public(TaskPublic, tasks), 201)


NOT_ALL_FOUND = document_error(404, "Some of the tasks were not found", Problems)


@app.patch("/tasks/bulk", tags=["tasks"], responses=NOT_ALL_FOUND | BAD_BODY)
def update_tasks(
    task_updates: Annotated[list[TaskBulkUpdate], Body(min_length=1, max_length=MAX_BULK)],
    session: SessionDep,
) -> PublicResponse[list[TaskPublic]]:
    """Change many tasks, all or none, and return them in the same order. No task may be sent twice.

    If any is wrong or not found, the second item of each `loc` is its position in the list, from 0.
    """
    ids = [task_update.id for task_update in task_updates]
    require_distinct(ids)
    new_values = values_of_tasks(session, task_updates)
    # Locked in the order of the ids, so that no two such requests wait for each other.
    statement = select(Task).where(col(Task.id).in_(ids), col(Task.deleted_at).is_(None))
    found = session.exec(statement.order_by(col(Task.id)).with_for_update()).all()
    tasks = {task.id: task for task in found}
    problems = [
        {"type": "task_not_found", "loc": ("body", position, "id"), "msg": "Task not found"}
        for position, task_update in enumerate(task_updates)
        if task_update.id not in tasks
    ]
    if problems:
        raise HTTPException(404, problems)
    in_order = [tasks[task_id] for task_id in ids]
    change_tasks(session, [*zip(in_order, new_values, strict=True)])
    session.commit()
    return PublicResponse(list_public(TaskPublic, in_order))


IS_NOT_THEIRS = "The task does not belong to `from_user_id`"
NOT_THEIRS = document_error(409, IS_NOT_THEIRS)
# With sign-in, who creates a task owns it, so the example of the model does not fit a new one.
FROM_CREATOR = Body(
    openapi_examples={"from user 1 to user 2": {"value": {"from_user_id": 1, "to_user_id": 2}}}
    if settings.secret_key
    else None
)


@app.post(
    "/tasks/{task_id:id}/transfer",
    tags=["tasks"],
    responses=OK_WITH_ETAG | NOT_FOUND | NOT_THEIRS | BAD_BODY,
)
def transfer_task(
    task_id: TaskId,
    transfer_create: Annotated[TransferCreate, FROM_CREATOR],
    current_user: CurrentUserDep,
    session: SessionDep,
) -> PublicResponse[TaskPublic]:
    """Give a task that is owned by one user to another, where null is nobody, and record it.

    The user who gets it has to exist.
    """
    require_users(session, {("body", "to_user_id"): transfer_create.to_user_id})
    task = find_task(session, task_id, for_update=True)
    if task.owner_id != transfer_create.from_user_id:
        raise HTTPException(409, IS_NOT_THEIRS)
    task.change(owner_id=transfer_create.to_user_id)
    record = {"task_id": task_id, "by_user_id": current_user and current_user.id}
    session.add(Transfer.model_validate(transfer_create, update=record))
    session.commit()
    return task_response(task)


@app.get("/tasks/{task_id:id}/transfers", tags=["tasks"], responses=OK_WITH_LINK | NOT_FOUND)
def read_transfers(
    task_id: TaskId,
    query: Annotated[PageQuery, Query()],
    request: Request,
    session: SessionDep,
) -> PublicResponse[list[TransferPublic]]:
    """List the transfers of a task, the first one first, a page at a time."""
    find_task(session, task_id)
    return read_page(session, request, query, Transfer, TransferPublic, task_id=task_id)


app.include_router(tags.router)
app.include_router(users.router)


def task_response(
    task: Task | Row[Any], status_code: int = 200, **headers: str
) -> PublicResponse[TaskPublic]:
    """Return the response with the task, and with its version as its entity tag."""
    headers["ETag"] = etag(task)
    return PublicResponse(to_public(TaskPublic, task), status_code, headers)


def find_task(
    session: Session,
    task_id: int,
    *,
    deleted: bool | None = False,
    if_match: list[str] | None = None,
    for_update: bool = False,
) -> Task:
    """Return the task. With `for_update`, its row is locked until the transaction ends.

    If `deleted`, it must be in the trash; if not, it must not be; None allows both. Raise 404 if it
    is not there. Raise 412 if its entity tag is not in `if_match` (RFC 9110, 13.1.1).
    """
    task = session.get(Task, task_id, with_for_update=for_update)
    if task is None or (deleted is not None and deleted != (task.deleted_at is not None)):
        raise HTTPException(404, "Task not found")
    if if_match and not has_etag(if_match, task):
        raise HTTPException(412, "The task has another version", {"ETag": etag(task)})
    return task


def new_task(task_create: TaskCreate, current_user: User | None, created_at: datetime) -> Task:
    """Return the task to create. Its owner is who is signed in, unless the client sent another."""
    # An owner that was not sent is MISSING, so not in the dump.
    owner = {"owner_id": current_user.id} if current_user else {}
    datetimes = {"created_at": created_at, "updated_at": created_at}
    task = Task.model_validate(owner | task_create.model_dump() | datetimes)
    task.set_completed_at()
    return task


def require_distinct(ids: Sequence[int]) -> None:
    """Raise 422 with a problem for each id that a bulk call repeats."""
    problems = [
        {"type": "task_repeated", "loc": ("body", position, "id"), "msg": "Task was sent before"}
        for position, task_id in enumerate(ids)
        if ids.index(task_id) != position
    ]
    if problems:
        raise RequestValidationError(problems)


# The `loc` of FastAPI's errors: where in a request a value is, as in `("body", 3, "owner_id")`.
Loc = tuple[str | int, ...]


def require_users(session: Session, user_ids: Mapping[Loc, int | None]) -> None:
    """Raise 422 if one of the users does not exist; until the transaction ends, none is deleted."""
    wanted = {user_id for user_id in user_ids.values() if user_id is not None}
    if not wanted:
        return
    statement = select(User.id).where(col(User.id).in_(wanted))
    # FOR KEY SHARE on PostgreSQL: meanwhile the users cannot be deleted.
    found = session.exec(statement.with_for_update(read=True, key_share=True)).all()
    unknown = wanted.difference(found)
    problems = [
        {"type": "user_not_found", "loc": loc, "msg": "There is no such user"}
        for loc, user_id in user_ids.items()
        if user_id in unknown
    ]
    if problems:
        raise RequestValidationError(problems)


def insert_once(
    session: Session,
    task_creates: Mapping[Loc, TaskCreate],
    current_user: User | None,
    key: str | None,
) -> list[Task]:
    """Insert new tasks; or, if the user has used the key before, return the tasks of that request.

    The mapping has each task by its `loc`, so one task and a list of one have different hashes.
    Raise 422 if an owner does not exist, and 422 and 409 as `find_created` does.
    """
    if key is None:
        return insert_tasks(session, task_creates, current_user)
    delete_expired_keys(session)
    # Without the defaults, so that a field which is added later changes no hash.
    sent = [
        (loc, task_create.model_dump(exclude_defaults=True))
        for loc, task_create in task_creates.items()
    ]
    user_id = (current_user and current_user.id) or 0
    row = IdempotencyKey(user_id=user_id, key=key, request_hash=sha256(to_json(sent)).hexdigest())
    session.add(row)
    try:
        session.flush()  # which waits if another request is inserting this key
    except IntegrityError as error:
        session.rollback()  # `row` keeps its values, since it was not stored
        return find_created(session, row, error)
    tasks = insert_tasks(session, task_creates, current_user)
    row.task_ids = [task.id for task in tasks]
    return tasks


KEY_LIFETIME = timedelta(days=7)


def delete_expired_keys(session: Session) -> None:
    """Delete the oldest expired keys. There may be a million, too many to delete at once."""
    created_at = col(IdempotencyKey.created_at)
    expired = select(IdempotencyKey.id).where(created_at < now() - KEY_LIFETIME)
    # Those that another request deletes at the same time are skipped.
    oldest = expired.order_by(created_at).limit(100).with_for_update(skip_locked=True)
    session.exec(delete(IdempotencyKey).where(col(IdempotencyKey.id).in_(oldest)))


def find_created(session: Session, repeated: IdempotencyKey, error: IntegrityError) -> list[Task]:
    """Return the tasks that an earlier request with this key has created.

    Raise 422 if that had another body, and 409 if a task of it was deleted for good. If there was
    none, raise the error again.
    """
    same_key = (
        col(IdempotencyKey.user_id) == repeated.user_id,
        col(IdempotencyKey.key) == repeated.key,
    )
    earlier = session.exec(select(IdempotencyKey).where(*same_key)).one_or_none()
    if earlier is None:
        raise error  # another error would bring its values into the log
    if earlier.request_hash not in (None, repeated.request_hash):
        problem = {
            "type": "idempotency_key_reused",
            "loc": ("header", "Idempotency-Key"),
            "msg": "Was used with another body",
        }
        raise RequestValidationError([problem])
    # The ids are in the order of the request.
    statement = select(Task).where(col(Task.id).in_(earlier.task_ids)).order_by(col(Task.id))
    # Locked, so that no other request changes them before their tags are read.
    tasks = session.exec(statement.with_for_update(read=True)).all()
    if len(tasks) < len(earlier.task_ids):
        raise HTTPException(409, IS_DELETED)
    return [*tasks]


def insert_tasks(
    session: Session, task_creates: Mapping[Loc, TaskCreate], current_user: User | None
) -> list[Task]:
    """Insert new tasks by one statement, and return them. Raise 422 if an owner does not exist.

    For one task, `add_all` and `flush` of the session took 610 µs; this takes 420.
    """
    created_at = now()
    tasks = {
        # Each a microsecond later: `created_at` tells SQLAlchemy which task got which id, and a
        # list sorted by it keeps this order.
        loc: new_task(task_create, current_user, created_at + timedelta(microseconds=position))
        for position, (loc, task_create) in enumerate(task_creates.items())
    }
    require_users(session, {(*loc, "owner_id"): task.owner_id for loc, task in tasks.items()})
    names = chain.from_iterable(task_create.tags for task_create in task_creates.values())
    found = tags.find_or_create_tags(session, names)
    values = [task.model_dump(exclude={"id"}) for task in tasks.values()]
    ids = session.connection().execute(INSERT_TASKS, values).scalars()
    for task, task_create, task_id in zip(tasks.values(), task_creates.values(), ids, strict=True):
        task.id = task_id
        task.tag_objects = tags.tags_named(found, task_create.tags)
    tags.insert_links(session, tasks.values())
    return [*tasks.values()]


def values_of_tasks(session: Session, task_updates: Sequence[TaskUpdate]) -> list[dict[str, Any]]:
    """Return the new values of each task, with its tags as objects; create those that are missing.

    Call it before the tasks are locked: a comment in `tags.py` says why.
    """
    # What was not sent is MISSING, so not in the dump.
    new_values = [task_update.model_dump(exclude={"id"}) for task_update in task_updates]
    names = chain.from_iterable(values.get("tags", []) for values in new_values)
    found = tags.find_or_create_tags(session, names)
    for values in new_values:
        if "tags" in values:
            values["tag_objects"] = tags.tags_named(found, values.pop("tags"))
    return new_values


def change_tasks(session: Session, changes: Sequence[tuple[Task, dict[str, Any]]]) -> None:
    """Give each task its new values, to be written together by the commit."""
    for task, values in changes:
        task.change(**values)
    changed = [task for task, _ in changes if session.is_modified(task)]
    # UPDATEs of the same columns are sent in one round trip. So each task writes, unchanged, the
    # columns too that only other tasks change. `committed_state` has the changed attributes only.
    attributes = {name for task in changed for name in inspect(task).committed_state}
    for task in changed:
        for column in attributes & Task.model_fields.keys():
            flag_modified(task, column)
