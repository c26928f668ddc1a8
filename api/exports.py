"""The export: all tasks that match, as JSON Lines or as CSV, read a page at a time."""

import csv
import re
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Iterable
from enum import StrEnum
from functools import partial
from io import StringIO
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic_core import to_json, to_jsonable_python
from sqlalchemy import Engine, Row
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import Field, Session, col
from starlette.types import Send

from api.errors import document_header
from api.filters import TaskFilter
from api.outages import is_unavailable, log_bug, log_outage
from api.pages import select_matching
from api.public import list_public
from api.sign_in import ApiRoute
from database import SessionDep, read_apart
from models import Task, TaskPublic

PAGE_SIZE = 200  # tasks, so that long descriptions of all of them take some megabytes


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

MEDIA_TYPES = {ExportFormat.JSONL: "application/jsonl", ExportFormat.CSV: "text/csv"}
WRITERS = {ExportFormat.JSONL: write_jsonl, ExportFormat.CSV: write_csv}
# By the BOM, a spreadsheet knows the encoding.
HEADS = {ExportFormat.JSONL: b"", ExportFormat.CSV: BOM_UTF8 + write_csv([TaskPublic.model_fields])}


class ExportResponse(StreamingResponse):
    """A response that is cut when the database fails, so that no client takes it for complete."""

    async def stream_response(self, send: Send) -> None:
        """Send all chunks; if the database fails, not the last one, so that clients see the cut."""
        try:
            await super().stream_response(send)
        except PoolTimeoutError as error:
            log_outage(error)
        except DBAPIError as error:
            log = log_outage if await is_unavailable(error) else log_bug
            log(error)


EXPORTED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            media_type: {"schema": {"type": "string"}} for media_type in MEDIA_TYPES.values()
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
    page, last_id = read_export(session, query, after=0)
    engine: Any = session.get_bind()
    return ExportResponse(
        stream(engine, query, page, last_id),
        media_type=MEDIA_TYPES[query.format],
        headers={"Content-Disposition": f'attachment; filename="tasks.{query.format}"'},
    )


def read_export(session: Session, query: ExportQuery, after: int) -> tuple[bytes, int | None]:
    """Return the page after an id as it is sent, and its last id if others may follow."""
    matching = select_matching(Task, TaskPublic, query).where(col(Task.id) > after)
    rows = session.connection().execute(matching.order_by(col(Task.id)).limit(PAGE_SIZE)).all()
    return WRITERS[query.format](rows), rows[-1].id if len(rows) == PAGE_SIZE else None


async def stream(
    engine: Engine, query: ExportQuery, page: bytes, last_id: int | None
) -> AsyncIterator[bytes]:
    """Yield the first page, and all others. While they are sent, no connection is held."""
    yield HEADS[query.format] + page
    while last_id is not None:
        read = partial(read_export, query=query, after=last_id)
        page, last_id = await read_apart(engine, read)
        yield page
