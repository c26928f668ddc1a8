"""The export: all tasks that match, as JSON Lines or as CSV, read a page at a time."""

import csv
import re
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Callable, Iterable
from enum import StrEnum
from functools import partial
from io import StringIO
from typing import Annotated, Any

from anyio import TemporaryFile
from fastapi import APIRouter, Query
from fastapi.concurrency import iterate_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic_core import to_json, to_jsonable_python
from sqlalchemy import Engine, Row, Select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import Field, Session, String, bindparam, cast, col, func, select
from starlette.types import Receive, Scope, Send

from api.errors import document_header
from api.filters import TaskFilter
from api.outages import log_failure
from api.pages import select_matching
from api.public import list_public, select_public
from api.sign_in import ApiRoute
from database import SessionDep, read_apart
from models import Task, TaskPublic

# The limits of a page, which stays in memory while a client does not read: how many tasks it has,
# and how many characters. A character has at most 4 bytes, so a page has about 256 KiB.
PAGE_TASKS = 200
PAGE_LENGTH = 64 * 1024
PIECE_SIZE = 32 * 1024  # bytes, which uvicorn copies before it waits for the client


class ExportFormat(StrEnum):
    """How an export writes the tasks."""

    JSONL = "jsonl"
    CSV = "csv"


class ExportQuery(TaskFilter):
    """Which tasks a client exports, and how they are written."""

    format: ExportFormat = Field(
        default=ExportFormat.JSONL,
        description="`jsonl` for programs: each line is a task as JSON. `csv` for spreadsheets",
    )


def write_jsonl(rows: Iterable[Row[Any]]) -> bytes:
    """Return tasks as JSON Lines (https://jsonlines.org)."""
    lines = b"".join(to_json(task) + b"\n" for task in list_public(TaskPublic, rows))
    # Many clients would end a line at these characters of Unicode too, as `str.splitlines` does.
    return lines.replace("\u2028".encode(), rb"\u2028").replace("\u2029".encode(), rb"\u2029")


def write_csv(rows: Iterable[Iterable[object]]) -> bytes:
    """Return rows as CSV (RFC 4180), where no cell is a formula of a spreadsheet."""
    text = StringIO()
    values = to_jsonable_python([tuple(row) for row in rows])
    csv.writer(text).writerows(map(to_cell, row) for row in values)
    return text.getvalue().encode()


def to_cell(value: object) -> str:
    """Return a value as the text of a cell, with `'` in front of what would be a formula."""
    if value is None:
        return ""
    text = ",".join(value) if isinstance(value, list) else str(value)
    return f"'{text}" if FORMULA.match(text) else text


# As spreadsheets know formulas, also with white space in front, and in the wide characters of
# Japanese keyboards (https://owasp.org/www-community/attacks/CSV_Injection).
FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")

# Generated clients read `application/jsonl` as one JSON value, and fail.
MEDIA_TYPES = {ExportFormat.JSONL: "application/x-ndjson", ExportFormat.CSV: "text/csv"}
WRITERS = {ExportFormat.JSONL: write_jsonl, ExportFormat.CSV: write_csv}
# By the BOM, a spreadsheet knows the encoding.
HEADS = {ExportFormat.JSONL: b"", ExportFormat.CSV: BOM_UTF8 + write_csv([TaskPublic.model_fields])}


class ExportResponse(StreamingResponse):
    """A response that is cut when the database fails, so that no client takes it for complete."""

    body_iterator: AsyncIterator[bytes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it in chunks; to HTTP/1.0, which has none, from a file, whose length is known.

        By the length, such a client notices that a response is cut (RFC 9112, 8).
        """
        if scope["http_version"] != "1.0":
            await super().__call__(scope, receive, send)
            return
        async with TemporaryFile() as file:
            async for piece in self.body_iterator:
                await file.write(piece)
            self.headers["Content-Length"] = str(await file.tell())
            await file.seek(0)
            pieces = iter(partial(file.wrapped.read, PIECE_SIZE), b"")
            self.body_iterator = iterate_in_threadpool(pieces)
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """Send all chunks; if the database fails, not the last one, so that clients see the cut."""
        try:
            await super().stream_response(send)
        except (DBAPIError, PoolTimeoutError) as error:
            await log_failure(error)


EXPORTED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            # Any value: for a string, FastMCP would refuse what the API sends.
            MEDIA_TYPES[ExportFormat.JSONL]: {"schema": {}},
            MEDIA_TYPES[ExportFormat.CSV]: {"schema": {"type": "string"}},
        },
        "headers": document_header("Content-Disposition", "The name of the file"),
    }
}

router = APIRouter(tags=["tasks"], route_class=ApiRoute)


@router.get("/tasks/export", response_class=ExportResponse, responses=EXPORTED)
def export_tasks(query: Annotated[ExportQuery, Query()], session: SessionDep) -> ExportResponse:
    """Download all tasks that match all filters, any number of them, in the order of their ids.

    With `format=jsonl`, each line is a task as JSON. With `format=csv`, the first line has the
    names of the fields, and tags have commas between them. A cell that begins with `=`, `+`, `-`
    or `@`, also behind white space, has a `'` in front: a spreadsheet would take it for a formula.

    A task that matches from the beginning to the end is in it once, whatever is changed meanwhile.
    If the database goes away or is too busy, the transfer is cut, and a client of HTTP notices it.
    """
    # FastAPI could stream what an endpoint yields, but the response would begin before the first
    # read, so an outage could not be answered by 503.
    read = partial(read_export, statement=select_export(query), write=WRITERS[query.format])
    page, last_id = read(session, after=0)
    engine: Any = session.get_bind()
    return ExportResponse(
        stream(engine, read, HEADS[query.format] + page, last_id),
        media_type=MEDIA_TYPES[query.format],
        headers={"Content-Disposition": f'attachment; filename="tasks.{query.format}"'},
    )


def select_export(query: ExportQuery) -> Select[Any]:
    """Return the SELECT of the page after the id `after`: of up to 200 tasks, those that fit.

    SELECT ... FROM task WHERE id IN (
        SELECT id FROM (
            SELECT id, sum(length) OVER (ORDER BY id ROWS ... AND 1 PRECEDING) AS before FROM (
                SELECT id, length(...) AS length FROM task WHERE ... AND id > :after
                ORDER BY id LIMIT 200
            )
        ) WHERE coalesce(before, 0) < 65536
    ) ORDER BY id
    """
    text = col(Task.title) + func.coalesce(Task.description, "") + cast(Task.tags, String)
    next_tasks = (
        select_matching(Task, TaskPublic, query)
        .with_only_columns(col(Task.id), func.length(text).label("length"))
        .where(col(Task.id) > bindparam("after"))
        .order_by(col(Task.id))
        .limit(PAGE_TASKS)
        .subquery()
    ).c
    before = func.sum(next_tasks.length).over(order_by=next_tasks.id, rows=(None, -1))
    measured = select(next_tasks.id, before.label("before")).subquery().c
    ids = select(measured.id).where(func.coalesce(measured.before, 0) < PAGE_LENGTH)
    return select_public(Task, TaskPublic).where(col(Task.id).in_(ids)).order_by(col(Task.id))


def read_export(
    session: Session,
    statement: Select[Any],
    write: Callable[[Iterable[Row[Any]]], bytes],
    after: int,
) -> tuple[bytes, int | None]:
    """Return the page after an id as it is sent, and its last id, or None if it has no task."""
    rows = session.connection().execute(statement, {"after": after}).all()
    return write(rows), rows[-1].id if rows else None


async def stream(
    engine: Engine, read: Callable[..., tuple[bytes, int | None]], page: bytes, last_id: int | None
) -> AsyncIterator[bytes]:
    """Yield the first page, and all others, in pieces. Meanwhile, no connection is held."""
    while page:
        for begin in range(0, len(page), PIECE_SIZE):
            yield page[begin : begin + PIECE_SIZE]
        if last_id is None:
            return
        page, last_id = await read_apart(engine, partial(read, after=last_id))
