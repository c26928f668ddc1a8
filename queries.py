"""What clients may ask of a list, and the SELECT that each query becomes."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache, lru_cache
from operator import eq, ge, gt, le, lt
from typing import Annotated, Any, ClassVar

from pydantic import (
    BeforeValidator,
    GetJsonSchemaHandler,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema, to_jsonable_python
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Row,
    Select,
    SQLColumnExpression,
    bindparam,
    type_coerce,
)
from sqlalchemy.types import TypeEngine
from sqlmodel import (
    DateTime,
    Enum,
    Field,
    SQLModel,
    String,
    UTCDateTime,
    and_,
    asc,
    col,
    desc,
    exists,
    insert,
    not_,
    or_,
    select,
    tuple_,
    union_all,
)

from models import (
    MAX_INTEGER,
    NO_NUL,
    Tag,
    TagName,
    Task,
    TaskPublic,
    TaskStatus,
    TaskTag,
    Transfer,
    User,
    UtcDatetime,
    now,
    tag_key,
)

# Types of columns whose values become JSON as the database returns them: a status as text instead
# of a `TaskStatus`, and on PostgreSQL a datetime without a conversion to UTC. To convert them took
# a quarter of the time of a list. `UTCDateTime` is SQLModel's own column type for every `datetime`;
# on SQLite, which stores no time zone, it stays.
RAW_TYPES: dict[type, TypeEngine[Any]] = {
    Enum: String(),
    UTCDateTime: UTCDateTime().with_variant(DateTime(timezone=True), "postgresql"),
}


@cache  # all statements share these columns: 10,000 different filters take 34 MiB instead of 69
def select_public(table: type[SQLModel], public: type[SQLModel]) -> Select[Any]:
    """Return the SELECT of the fields of a public variant, in their order.

    A field may be a column of the table or a `hybrid_property`.
    """
    columns = {field: getattr(table, field) for field in public.model_fields}
    return Select(  # `select` of SQLModel is typed for four columns at most
        *(
            type_coerce(column, RAW_TYPES.get(type(column.type), column.type)).label(field)
            for field, column in columns.items()
        )
    )


# Statements built once: to build the SELECT for each request took a third of the time of a read.
# The connection of a session executes them, without the session's own work for objects.
SELECT_TASK = select_public(Task, TaskPublic).where(
    col(Task.id) == bindparam("task_id"), col(Task.deleted_at).is_(None)
)
INSERT_TASKS = insert(Task).returning(col(Task.id), sort_by_parameter_order=True)


def days_ago(days: int) -> BindParameter[datetime]:
    """Return the datetime that many days ago, computed anew at each execution of a kept SELECT."""
    return bindparam(None, callable_=lambda: now() - timedelta(days=days), type_=UTCDateTime())


def overdue() -> ColumnElement[bool]:
    """Return the condition that a task is due in the past and not completed."""
    due_at = col(Task.due_at)
    # Without a due date the comparison is NULL, and so would be its opposite.
    return and_(due_at.is_not(None), due_at < days_ago(0), col(Task.status) != TaskStatus.completed)


def has_tag(name: str) -> ColumnElement[bool]:
    """Return the condition that a task has the tag with this name."""
    # As one value, by which PostgreSQL finds the links in the order of the tasks. By a join it read
    # all links of the tag and sorted them: 9 ms instead of 2 for a tag of a thousand tasks.
    tag_name = select(Tag.name).where(Tag.key == tag_key(name)).scalar_subquery()
    return col(Task.id).in_(select(TaskTag.task_id).where(TaskTag.tag_name == tag_name))


def is_tagged() -> ColumnElement[bool]:
    """Return the condition that a task has any tag."""
    return exists().where(col(TaskTag.task_id) == Task.id)


Table = type[Tag] | type[Task] | type[Transfer] | type[User]
Comparison = tuple[Callable[[Any, Any], Any], SQLColumnExpression[Any], object]


class PageBase(SQLModel):
    """The fields that all queries of pages share."""

    # To be a key of the cache of `select_page`.
    model_config = {"frozen": True}

    limit: int = Field(default=100, ge=1, le=100, description="The maximum number to return")
    offset: int = Field(default=0, ge=0, le=MAX_INTEGER, description="The number to skip")
    count: bool = Field(default=False, description="Whether to send `X-Total-Count`")


class PageQuery(PageBase):
    """Which page of a list, sorted by id, a client asks for."""

    after: int | None = Field(
        default=None,
        ge=0,
        le=MAX_INTEGER,
        description="The last id of the page before. Unlike `offset`, it counts nothing before",
    )

    sort: ClassVar[str] = "id"

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield no condition, since such a list has no filters."""
        yield from ()


FilterText = Annotated[str, StringConstraints(max_length=200, pattern=NO_NUL)]


class TaskFilter(SQLModel):
    """Which tasks a client asks for."""

    model_config = {"frozen": True}

    status: tuple[TaskStatus, ...] = Field(default=(), description="Any of these statuses")
    priority_min: int | None = Field(
        default=None, ge=0, le=5, description="A priority of at least this"
    )
    priority_max: int | None = Field(
        default=None, ge=0, le=5, description="A priority of at most this"
    )
    q: FilterText | None = Field(
        default=None, description="Text in the title or the description, ignoring case"
    )
    tag: Annotated[tuple[TagName, ...], Field(max_length=20)] = Field(
        default=(), description="All of these tags"
    )
    untagged: bool | None = Field(default=None, description="Whether without any tag")
    created_after: UtcDatetime | None = Field(default=None, description="Created later than this")
    created_before: UtcDatetime | None = Field(
        default=None, description="Created earlier than this"
    )
    due_after: UtcDatetime | None = Field(default=None, description="Due later than this")
    due_before: UtcDatetime | None = Field(default=None, description="Due earlier than this")
    overdue: bool | None = Field(
        default=None, description="Whether due in the past and not completed"
    )
    owner_id: int | None = Field(
        default=None, ge=0, le=MAX_INTEGER, description="Owned by the user with this id"
    )
    unowned: bool | None = Field(default=None, description="Whether owned by nobody")
    deleted: bool = Field(default=False, description="Whether in the trash")

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield the conditions that all have to be true for a task."""
        if self.status:
            yield col(Task.status).in_(self.status)
        if self.q is not None:
            yield or_(
                col(Task.title).icontains(self.q, autoescape=True),
                col(Task.description).icontains(self.q, autoescape=True),
            )
        comparisons: tuple[Comparison, ...] = (
            (ge, col(Task.priority), self.priority_min),
            (le, col(Task.priority), self.priority_max),
            (gt, col(Task.created_at), self.created_after),
            (lt, col(Task.created_at), self.created_before),
            (gt, col(Task.due_at), self.due_after),
            (lt, col(Task.due_at), self.due_before),
            (eq, col(Task.owner_id), self.owner_id),
        )
        for compare, column, value in comparisons:
            if value is not None:
                yield compare(column, value)
        yield from map(has_tag, self.tag)
        if self.untagged is not None:
            yield not_(is_tagged()) if self.untagged else is_tagged()
        if self.overdue is not None:
            yield overdue() if self.overdue else not_(overdue())
        if self.unowned is not None:
            yield col(Task.owner_id).is_(None) if self.unowned else col(Task.owner_id).is_not(None)
        yield col(Task.deleted_at).is_not(None) if self.deleted else col(Task.deleted_at).is_(None)


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


# What `after` holds for each field to sort by: the value and the id of the last row of a page. The
# parts of a URL are text, so `Id` and `Priority`, which refuse text, cannot be used.
CursorId = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
EmptyIsNone = BeforeValidator(lambda value: value or None)
CURSORS: dict[str, TypeAdapter[Any]] = {
    "id": TypeAdapter(tuple[CursorId]),
    "title": TypeAdapter(tuple[FilterText, CursorId]),
    "status": TypeAdapter(tuple[TaskStatus, CursorId]),
    "priority": TypeAdapter(tuple[Annotated[int, Field(ge=0, le=5)], CursorId]),
    "due_at": TypeAdapter(tuple[Annotated[UtcDatetime | None, EmptyIsNone], CursorId]),
    "created_at": TypeAdapter(tuple[UtcDatetime, CursorId]),
    "updated_at": TypeAdapter(tuple[UtcDatetime, CursorId]),
}


def read_cursor(sort: str, after: str | int) -> tuple[Any, ...]:
    """Return the value and the id in a cursor, or the id alone if that is what is sorted by.

    Raise a ValueError if they are not there.
    """
    try:
        values: tuple[Any, ...] = CURSORS[sort.removeprefix("-")].validate_python(
            str(after).rsplit(",", 1)
        )
    except ValidationError:
        raise ValueError("does not fit `sort`") from None
    return values


def write_cursor(sort: str, row: Row[Any]) -> str:
    """Return the cursor of the page after the row: `3,17` for a sort by priority."""
    field = sort.removeprefix("-")
    if field == "id":
        return str(row.id)
    value = to_jsonable_python(getattr(row, field))
    return f"{'' if value is None else value},{row.id}"


class TaskQuery(TaskFilter, PageBase):
    """Which tasks a client asks for, in which order, and which page of them."""

    sort: TaskSort = Field(
        default=TaskSort.ID,
        description="The field to sort by, descending with a `-` in front. Between equal values "
        "the id decides, in the same direction. Tasks without `due_at` come last in both. Titles "
        "are sorted as the database collates text.",
    )
    # Declared after `sort`, which `require_cursor` needs. The pattern is for the documentation.
    after: Annotated[str, StringConstraints(pattern=r"^([^\x00]*,)?[0-9]{1,16}$")] | None = Field(
        default=None,
        description="Where the page before ended, as its `Link` says: the value of its last task "
        "in the field to sort by, a comma, and the id of that task; for `sort=id` only the id. "
        "Unlike `offset`, it counts nothing before",
    )

    @field_validator("after")
    @classmethod
    def require_cursor(cls, after: str | None, info: ValidationInfo) -> str | None:
        """Refuse a cursor that does not fit the sort."""
        if after is not None and "sort" in info.data:  # it is not there if it is wrong itself
            read_cursor(info.data["sort"], after)
        return after


class RecentQuery(TaskQuery):
    """The same for the tasks created in the last days."""

    days: int = Field(default=7, ge=1, le=3650, description="Created in the last `days` days")

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield the conditions that all have to be true for a task."""
        yield from super().conditions()
        yield col(Task.created_at) >= days_ago(self.days)


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


EXPORT_PAGE = 200  # tasks, so that long descriptions of all of them take some megabytes


def select_export(query: ExportQuery) -> Select[Any]:
    """Return the SELECT of the next page of an export: of tasks after the id `:after`."""
    following = select_matching(Task, TaskPublic, query).where(col(Task.id) > bindparam("after"))
    return following.order_by(col(Task.id)).limit(EXPORT_PAGE)


def select_matching(
    table: Table,
    public: type[SQLModel],
    query: PageQuery | TaskFilter,
    **column_values: object,
) -> Select[Any]:
    """Return the SELECT of all rows that match the query and have these values in these columns."""
    conditions = [getattr(table, name) == value for name, value in column_values.items()]
    return select_public(table, public).where(*query.conditions(), *conditions)


@lru_cache  # to build an equal SELECT again takes a tenth of the time of a list
def select_page(
    table: Table,
    public: type[SQLModel],
    query: PageQuery | TaskQuery,
    **column_values: object,
) -> Select[Any]:
    """Return the SELECT of a page, and of one more row, which tells whether there is a next page.

    For `?sort=priority&after=3,17&limit=2` it is:

        SELECT ... FROM task WHERE deleted_at IS NULL AND (priority, id) > (3, 17)
        ORDER BY priority, id LIMIT 3

    PostgreSQL starts at (3, 17) in the index on both columns. SQLite uses only the first column,
    so it reads all tasks of priority 3.
    """
    statement = select_matching(table, public, query, **column_values)
    field = query.sort.removeprefix("-")
    last = None if query.after is None else read_cursor(query.sort, query.after)
    if field == "due_at":
        page = sort_by_due_at(statement, query, last)
    else:
        columns = [table.id] if field == "id" else [getattr(table, field), table.id]
        page = sort_by(statement, columns, query.sort, last)
    return page.offset(query.offset).limit(query.limit + 1)


def sort_by(
    statement: Select[Any],
    columns: list[Any],
    sort: str,
    last: tuple[Any, ...] | None = None,
) -> Select[Any]:
    """Return the SELECT sorted by the columns, of the rows after their last values, if any."""
    direction, compare = (desc, lt) if sort.startswith("-") else (asc, gt)
    if last is not None:
        statement = statement.where(compare(tuple_(*columns), last))
    return statement.order_by(*(direction(column) for column in columns))


def sort_by_due_at(
    statement: Select[Any], query: PageQuery | TaskQuery, last: tuple[Any, ...] | None
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
        return sort_by(undated, [task_id], query.sort, last[1:])
    reads = (
        sort_by(dated, [due_at, task_id], query.sort, last),
        sort_by(undated, [task_id], query.sort),
    )
    limit = query.offset + query.limit + 1
    both = union_all(*(read.limit(limit).subquery().select() for read in reads)).subquery()
    dated_first = both.select().order_by(both.c.due_at.is_(None))
    return sort_by(dated_first, [both.c.due_at, both.c.id], query.sort)
