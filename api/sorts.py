"""Sorts and cursors: in which order a list is, and where each of its pages begins."""

from enum import StrEnum
from operator import gt, lt
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import CoreSchema, to_jsonable_python
from sqlalchemy import Row, Select
from sqlmodel import asc, col, desc, tuple_, union_all

from api.field_types import MAX_FOLDED_TITLE, FilterText, QueryInteger, QueryPriority, UtcDatetime
from api.folding import fold
from models import Task, TaskStatus


class TaskSort(StrEnum):
    """The field to sort tasks by, descending with a `-` in front."""

    ID = "id"
    TITLE = "title"
    STATUS = "status"
    PRIORITY = "priority"
    DUE_AT = "due_at"
    CREATED_AT = "created_at"
    UPDATED_AT = "updated_at"
    ID_DESCENDING = "-id"
    TITLE_DESCENDING = "-title"
    STATUS_DESCENDING = "-status"
    PRIORITY_DESCENDING = "-priority"
    DUE_AT_DESCENDING = "-due_at"
    CREATED_AT_DESCENDING = "-created_at"
    UPDATED_AT_DESCENDING = "-updated_at"

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Add the names to the OpenAPI document, since no generated client can name `-id`."""
        return handler(schema) | {"x-enum-varnames": [*cls.__members__]}


# What `after` holds for each field to sort by, as `3,17` for the priority: the value and the id of
# the last row of a page, which are text in a URL.
EmptyIsNone = BeforeValidator(lambda value: value or None)  # `,17` is a task without `due_at`
# Migration 0008 cut the folded titles that are longer, which no new title is.
FoldedTitle = Annotated[FilterText, AfterValidator(lambda text: fold(text)[:MAX_FOLDED_TITLE])]
CURSORS: dict[str, TypeAdapter[Any]] = {
    "id": TypeAdapter(tuple[QueryInteger]),
    "title": TypeAdapter(tuple[FoldedTitle, QueryInteger]),
    "status": TypeAdapter(tuple[TaskStatus, QueryInteger]),
    "priority": TypeAdapter(tuple[QueryPriority, QueryInteger]),
    "due_at": TypeAdapter(tuple[Annotated[UtcDatetime | None, EmptyIsNone], QueryInteger]),
    "created_at": TypeAdapter(tuple[UtcDatetime, QueryInteger]),
    "updated_at": TypeAdapter(tuple[UtcDatetime, QueryInteger]),
}


def read_cursor(sort: str, after: str | int) -> tuple[Any, ...]:
    """Return the value and the id in a cursor, or the id alone if that is what is sorted by.

    Raise a ValueError if they are not there.
    """
    field = sort.removeprefix("-")
    try:
        values: tuple[Any, ...] = CURSORS[field].validate_python(str(after).rsplit(",", 1))
    except ValidationError:
        expected = "an id" if field == "id" else f"a value of `{field}`, a comma and an id"
        raise ValueError(f"Input should be {expected}, to fit `sort`") from None
    return values


def write_cursor(sort: str, row: Row[Any]) -> str:
    """Return the cursor of the page after the row: `3,17` for a sort by priority."""
    field = sort.removeprefix("-")
    if field == "id":
        return str(row.id)
    value = to_jsonable_python(getattr(row, field))
    return f"{'' if value is None else value},{row.id}"


def sort_page(
    statement: Select[Any],
    table: Any,  # noqa: ANN401  # its columns are found by their names
    sort: str,
    after: str | int | None,
    offset: int,
    limit: int,
) -> Select[Any]:
    """Return the SELECT of the rows after the cursor, sorted by a field and then by their ids."""
    last = None if after is None else read_cursor(sort, after)
    field = sort.removeprefix("-")
    if field == "due_at":
        page = sort_by_due_at(statement, sort, last, offset + limit)
    else:
        column = "folded_title" if field == "title" else field
        columns = [table.id] if field == "id" else [getattr(table, column), table.id]
        page = sort_by(statement, columns, sort, last)
    return page.offset(offset).limit(limit)


def sort_by(
    statement: Select[Any], columns: list[Any], sort: str, last: tuple[Any, ...] | None = None
) -> Select[Any]:
    """Return the SELECT sorted by the columns, of the rows after their last values, if any."""
    direction, compare = (desc, lt) if sort.startswith("-") else (asc, gt)
    if last is not None:
        statement = statement.where(compare(tuple_(*columns), last))  # (priority, id) > (3, 17)
    return statement.order_by(*(direction(column) for column in columns))


def sort_by_due_at(
    statement: Select[Any], sort: str, last: tuple[Any, ...] | None, limit: int
) -> Select[Any]:
    """Return the SELECT sorted by due date, with the tasks that have none last in both directions.

    An index cannot have NULL last in both directions, so this unites two reads of it. Without
    `after` and ascending:

        SELECT * FROM (SELECT ... WHERE due_at IS NOT NULL ORDER BY due_at, id LIMIT 101)
        UNION ALL SELECT * FROM (SELECT ... WHERE due_at IS NULL ORDER BY id LIMIT 101)
        ORDER BY due_at IS NULL, due_at, id
    """
    due_at, task_id = col(Task.due_at), col(Task.id)
    dated, undated = statement.where(due_at.is_not(None)), statement.where(due_at.is_(None))
    if last is not None and last[0] is None:
        return sort_by(undated, [task_id], sort, last[1:])
    reads = (sort_by(dated, [due_at, task_id], sort, last), sort_by(undated, [task_id], sort))
    both = union_all(*(read.limit(limit).subquery().select() for read in reads)).subquery()
    # `both.c` has the columns of the union.
    dated_first = both.select().order_by(both.c.due_at.is_(None))
    return sort_by(dated_first, [both.c.due_at, both.c.id], sort)
