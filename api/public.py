"""Public variants: the SELECT of their fields, and the JSON of objects or rows."""

from collections.abc import Iterable
from functools import cache
from typing import Annotated, Any, ClassVar
from urllib.parse import quote

from fastapi import Path, Request, Response
from pydantic_core import to_json
from sqlalchemy import Row, Select
from sqlalchemy.types import TypeEngine
from sqlmodel import (
    DateTime,
    Enum,
    Session,
    SQLModel,
    String,
    UTCDateTime,
    bindparam,
    col,
    inspect,
    type_coerce,
)

from api.errors import Headers, NotFound, document_header
from api.filters import NOT_IN_TRASH
from models import Task, TaskPublic, User

# For values that become JSON as the database returns them; to convert them first took a quarter of
# the time of a list.
RAW_TYPES: dict[type, TypeEngine[Any]] = {
    Enum: String(),  # text, no `TaskStatus`
    # SQLModel's type of every `datetime`. PostgreSQL returns it in UTC, SQLite without a zone.
    UTCDateTime: UTCDateTime().with_variant(DateTime(timezone=True), "postgresql"),
}


@cache  # all statements share these columns: 10,000 different filters take 34 MiB instead of 69
def select_public(table: type[SQLModel], public: type[SQLModel]) -> Select[Any]:
    """Return the SELECT of the fields of a public variant, in their order, from a table.

    A field that the table does not have, as the number of tasks of a tag, is left out.
    """
    columns = inspect(table).columns
    return Select(  # `select` of SQLModel is typed for four columns at most
        *(
            type_coerce(
                getattr(table, field), RAW_TYPES.get(type(columns[field].type), columns[field].type)
            ).label(field)
            for field in public.model_fields
            if field in columns
        )
    )


TaskId = Annotated[int, Path(description="The id of the task"), NotFound]
# Built once: to build it for each request took a third of the time of a read.
SELECT_TASK = select_public(Task, TaskPublic).where(
    col(Task.id) == bindparam("task_id"), NOT_IN_TRASH
)


def find_task(session: Session, task_id: int) -> Row[Any]:
    """Return the row of a task, with the fields of `TaskPublic`; raise 404 if it is not there.

    The connection of the session executes the SELECT, without the session's work for objects.
    """
    row = session.connection().execute(SELECT_TASK, {"task_id": task_id}).first()
    if row is None:
        raise NotFound("Task not found")
    return row


def list_public(
    public: type[SQLModel], sources: Iterable[SQLModel | Row[Any]]
) -> list[dict[str, Any]]:
    """Return the fields of a public variant from objects, or from rows of `select_public`."""
    fields = tuple(public.model_fields)  # once for all: for each row, a list would take 7 % more
    return [
        # A row has these values in this order; to get each by its name takes five times as long.
        dict(zip(fields, source, strict=True))
        if isinstance(source, Row)
        else {field: getattr(source, field) for field in fields}
        for source in sources
    ]


def to_public(public: type[SQLModel], source: SQLModel | Row[Any]) -> dict[str, Any]:
    """Return the fields of a public variant from one object or row."""
    return list_public(public, [source])[0]


class PublicResponse(Response):
    """A response with a public variant, or with a list of them, as JSON.

    `response_model=` documents it. If a route returned the variant itself, FastAPI would validate
    it in another thread, and then convert it to JSON: that took a third of the time of a list.
    """

    media_type = "application/json"
    documented_headers: ClassVar[Headers] = {}

    def render(self, content: object) -> bytes:
        """Return the content as JSON."""
        return to_json(content)


LOCATION = document_header("Location", "The path of what was created")


class Created(PublicResponse):
    """A response with what a request has created."""

    documented_headers = LOCATION

    def __init__(self, request: Request, public: type[SQLModel], row: User | Task) -> None:
        """Take the request, and the row that is shown as the public variant."""
        # Quoted, so that no path prevents the response to what is stored by now.
        location = f"{quote(request.scope['path'])}/{row.id}"
        super().__init__(to_public(public, row), 201, {"Location": location})
