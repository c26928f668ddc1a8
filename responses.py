"""What all routes answer with: public variants as JSON, pages, exports, entity tags and errors."""

import csv
import logging
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from functools import partial
from io import StringIO
from traceback import format_tb
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin

from fastapi import Header, HTTPException, Request, Response
from fastapi.dependencies.utils import get_flat_params
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.params import ParamTypes
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import GetCoreSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, to_json, to_jsonable_python
from sqlalchemy import Row
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import Session, SQLModel, func
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.routing import Match
from starlette.types import Send

from database import first_line, is_outage, read_apart, schema_may_be_old
from middleware import MAX_BODY_SIZE
from models import MAX_INTEGER, ErrorMessage, Problems, Task, TaskPublic
from queries import (
    EXPORT_PAGE,
    ExportFormat,
    ExportQuery,
    PageQuery,
    Table,
    TaskQuery,
    select_export,
    select_matching,
    select_page,
    write_cursor,
)

RETRY_AFTER = {"Retry-After": "5"}  # seconds

logger = logging.getLogger("uvicorn.error")

Public = TypeVar("Public")


class PublicResponse(Response, Generic[Public]):
    """A response with a public variant, or with a list of them, as JSON.

    Routes that return tasks, tags, users or transfers use it; others return their model as usual.
    If a route returned the variant itself, FastAPI would validate it in another thread, and then
    convert it to JSON: that took a third of the time of a list.
    """

    media_type = "application/json"

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Tell Pydantic, and so FastAPI, to document the response by the schema of the variant."""
        return handler(get_args(source)[0])

    def render(self, content: object) -> bytes:
        """Return the content as JSON."""
        return to_json(content)


def list_public(
    public: type[SQLModel], sources: Iterable[SQLModel | Row[Any]]
) -> list[dict[str, Any]]:
    """Return the fields of a public variant from objects, or from rows of `select_public`."""
    fields = tuple(public.model_fields)
    # A row has these values in this order; to get each by its name takes five times as long.
    return [
        dict(
            zip(
                fields,
                source if isinstance(source, Row) else [getattr(source, field) for field in fields],
                strict=True,
            )
        )
        for source in sources
    ]


def to_public(public: type[SQLModel], source: SQLModel | Row[Any]) -> dict[str, Any]:
    """Return the fields of a public variant from one object or row."""
    return list_public(public, [source])[0]


def read_page(
    session: Session,
    request: Request,
    query: PageQuery | TaskQuery,
    table: Table,
    public: type[SQLModel],
    **column_values: object,
) -> PublicResponse[Any]:
    """Return the page that the query asks for, of the rows with these values in these columns.

    If there is a next page, the header `Link` has its URL (RFC 8288).
    """
    headers = {}
    connection = session.connection()
    if query.count:
        matching = select_matching(table, public, query, **column_values)
        counting = matching.with_only_columns(func.count(), maintain_column_froms=True)
        headers["X-Total-Count"] = str(connection.execute(counting).scalar_one())
    rows = connection.execute(select_page(table, public, query, **column_values)).all()
    if len(rows) > query.limit:
        rows = rows[: query.limit]
        after = write_cursor(query.sort, rows[-1])
        url = request.url.remove_query_params("offset").include_query_params(after=after)
        readable_url = str(url).replace("%2C", ",")
        headers["Link"] = f'<{readable_url}>; rel="next"'
    return PublicResponse(list_public(public, rows), headers=headers)


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
        """Send all chunks; if the database fails, all but the last, which is empty."""
        try:
            await super().stream_response(send)
        except PoolTimeoutError as error:
            log_outage(error)
        except DBAPIError as error:
            await log_database_error(error)


def export(session: Session, query: ExportQuery) -> ExportResponse:
    """Return the response that sends all tasks that match the query, a page after the other.

    The first is read before it begins, so that an outage is still answered by 503. While the others
    are sent, no connection is held and no transaction is open.
    """
    statement = select_export(query)

    def read(session: Session, after: int) -> tuple[bytes, int | None]:
        """Return a page as it is sent, and its last id if others may follow."""
        rows = session.connection().execute(statement, {"after": after}).all()
        return WRITERS[query.format](rows), rows[-1].id if len(rows) == EXPORT_PAGE else None

    async def stream(page: bytes, last: int | None) -> AsyncIterator[bytes]:
        yield HEADS[query.format] + page
        while last is not None:
            page, last = await read_apart(session, partial(read, after=last))
            yield page

    return ExportResponse(
        stream(*read(session, after=0)),
        media_type=MEDIA_TYPES[query.format],
        headers={"Content-Disposition": f'attachment; filename="tasks.{query.format}"'},
    )


def etag(task: Task | Row[Any]) -> str:
    """Return the entity tag of this version of a task (RFC 9110, 8.8.3)."""
    return f'"{task.version}"'


def has_etag(headers: list[str], task: Task | Row[Any]) -> bool:
    """Return whether the entity tag of a task is in a list as `If-Match` has it (RFC 9110, 13.1).

    The list may have come in several headers, each with some of it (RFC 9110, 5.3).
    """
    return any(tag.strip() in ("*", etag(task)) for header in headers for tag in header.split(","))


# Documented as a string, since clients send the list in one header.
Etags = Annotated[list[str], WithJsonSchema({"type": "string"})]
IfMatch = Annotated[
    Etags | None, Header(description='Do it only if the `ETag` of the task is in this, as in `"3"`')
]
IfNoneMatch = Annotated[
    Etags | None, Header(description="Send the task only if its `ETag` is not in this")
]


async def check_parameters(request: Request) -> None:
    """Raise 422 for query parameters that the route does not have, such as misspelt ones.

    Raise it too for a parameter that is sent twice but is no list: FastAPI would take the last.
    """
    route = request.scope.get("route")
    if not request.query_params or not isinstance(route, APIRoute):  # as for a frontend
        return
    lists = {
        field.alias: get_origin(field.field_info.annotation) in (list, tuple)
        for field in get_flat_params(route.dependant)
        # A field of a query model has no `in_`.
        if getattr(field.field_info, "in_", ParamTypes.query) is ParamTypes.query
    }
    problems = []
    for name, number in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in lists:
            problems.append(("extra_forbidden", name, "Extra inputs are not permitted"))
        elif number > 1 and not lists[name]:
            problems.append(("parameter_repeated", name, "Was sent more than once"))
    if problems:
        raise RequestValidationError(
            [{"type": kind, "loc": ("query", name), "msg": msg} for kind, name, msg in problems]
        )


class IdConvertor(IntegerConvertor):
    """An id in a path: only digits, so `/tasks/stats` does not match `/tasks/{task_id:id}`."""

    def convert(self, value: str) -> int:
        """Return the id; instead of one above MAX_INTEGER, which no row has, MAX_INTEGER."""
        # `int` raises an error for a text of thousands of digits.
        return min(int(value), MAX_INTEGER) if len(value) <= len(str(MAX_INTEGER)) else MAX_INTEGER


register_url_convertor("id", IdConvertor())


# These, up to `ALWAYS`, only document responses and headers; nothing of it is sent.
Responses = dict[int | str, dict[str, Any]]


def document_header(description: str, kind: str = "string") -> dict[str, object]:
    """Return the documentation of a header, as OpenAPI has it."""
    return {"schema": {"type": kind}, "description": description}


def document_error(
    status_code: int, description: str, model: type[SQLModel] = ErrorMessage
) -> Responses:
    """Return the documentation of an error, as the `responses` of FastAPI have it."""
    return {status_code: {"model": model, "description": description}}


LOCATION_HEADER = {"Location": document_header("The path of what was created")}
ETAG_HEADER = {"ETag": document_header("The version of the task, in quotes")}
OK_WITH_ETAG: Responses = {200: {"headers": ETAG_HEADER}}
OK_WITH_LINK: Responses = {
    200: {
        "headers": {
            "Link": document_header('The URL of the next page, if there is one, with `rel="next"`'),
            "X-Total-Count": document_header(
                "With `count=true`, the number on all pages", "integer"
            ),
        }
    }
}
EXPORTED: Responses = {
    200: {
        "content": {
            media_type: {"schema": {"type": "string"}} for media_type in MEDIA_TYPES.values()
        },
        "headers": {"Content-Disposition": document_header("The name of the file")},
    }
}
NOT_FOUND = document_error(404, "There is no such task, user or tag")
BAD_BODY = document_error(400, "The body cannot be decoded, or nests too deep")
BAD_BODY |= document_error(413, f"The body is over {MAX_BODY_SIZE} bytes")
UNAVAILABLE = document_error(503, "The database is not available, or too many requests wait")
UNAVAILABLE[503]["headers"] = {"Retry-After": document_header("In seconds", "integer")}
# What every route may answer, also one without parameters: see `check_parameters`.
ALWAYS = UNAVAILABLE | document_error(422, "Values in the request are wrong", Problems)


async def respond_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    """Respond with 422, without the input, which may be secret or not representable in JSON."""
    detail = [{key: problem[key] for key in ("type", "loc", "msg")} for problem in error.errors()]
    return JSONResponse({"detail": detail}, 422)


async def respond_wrong_method(request: Request, _error: HTTPException) -> Response:
    """Respond with 405 and all methods of the path (RFC 9110, 15.5.6), not those of one route."""
    # An included router is one entry of `app.routes`; this yields the routes in it.
    matching = [
        route
        for route in iter_route_contexts(request.app.routes)
        if route.matches(request.scope)[0] is not Match.NONE
    ]
    methods = {method for route in matching for method in route.methods or ()}
    allow = ", ".join(sorted(methods)) or "GET, HEAD"  # files are no route with methods
    return await http_exception_handler(request, HTTPException(405, headers={"Allow": allow}))


async def respond_database_error(_request: Request, error: DBAPIError) -> JSONResponse:
    """Respond with 503 to an outage or a schema that is too old, and with 500 to a bug; log it."""
    if await log_database_error(error):
        return unavailable()
    return JSONResponse({"detail": "Internal Server Error"}, 500)


async def respond_unavailable(_request: Request, error: Exception) -> JSONResponse:
    """Respond with 503, and log why."""
    log_outage(error)
    return unavailable()


def unavailable() -> JSONResponse:
    """Return the response to a request while the database is away."""
    return JSONResponse({"detail": "The database is not available"}, 503, RETRY_AFTER)


async def log_database_error(error: DBAPIError) -> bool:
    """Log the error, a bug with its traceback; return whether it is an outage or an old schema."""
    may_be_the_schema = isinstance(error, OperationalError | ProgrammingError)
    if is_outage(error) or (may_be_the_schema and await schema_may_be_old()):
        log_outage(error)
        return True
    traceback = "".join(format_tb(error.__traceback__))
    logger.error("%s in %s\n%s", first_line(error), error.statement, traceback)
    return False


def log_outage(error: Exception) -> None:
    """Log in one line why the database is not available."""
    reason = first_line(error) if isinstance(error, DBAPIError) else error
    logger.error("The database is not available: %s", reason)


EXCEPTION_HANDLERS: dict[
    int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]
] = {
    405: respond_wrong_method,
    RequestValidationError: respond_invalid,
    DBAPIError: respond_database_error,
    PoolTimeoutError: respond_unavailable,
}
