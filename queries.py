"""What clients ask lists for, and the SELECT that each query becomes."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from operator import eq, ge, gt, le, lt
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import to_jsonable_python
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
    insert,
    not_,
    or_,
    tuple_,
    union_all,
)

from models import (
    MAX_INTEGER,
    NO_NUL,
    Task,
    TaskPublic,
    TaskStatus,
    Transfer,
    User,
    UtcDatetime,
    now,
)

# How a SELECT reads what is only sent on as JSON: as the driver returns it. To make an enum of each
# status and to check the zone of each datetime took a quarter of the time of a list.
DRIVER_TYPES: dict[type, TypeEngine[Any]] = {
    Enum: String(),
    UTCDateTime: UTCDateTime().with_variant(DateTime(timezone=True), "postgresql"),
}


def select_public(table: type[SQLModel], public: type[SQLModel]) -> Select[Any]:
    """Return the SELECT of the fields of a public variant, in their order.

    A field may be a column of the table or a `hybrid_property`.
    """
    columns = {field: getattr(table, field) for field in public.model_fields}
    return Select(
        *(
            type_coerce(column, DRIVER_TYPES.get(type(column.type), column.type)).label(field)
            for field, column in columns.items()
        )
    )


# Built once: that took a third of the time of a read.
SELECT_TASK = select_public(Task, TaskPublic).where(
    col(Task.id) == bindparam("task_id"), col(Task.deleted_at).is_(None)
)
INSERT_TASKS = insert(Task).returning(col(Task.id), sort_by_parameter_order=True)


def since(days: int = 0) -> BindParameter[datetime]:
    """Return the datetime that many days ago, computed at each execution of a statement."""
    return bindparam(None, callable_=lambda: now() - timedelta(days=days), type_=UTCDateTime())


def overdue() -> ColumnElement[bool]:
    """Return the condition that a task is due in the past and not completed."""
    due_at = col(Task.due_at)
    # Without a due date the comparison is NULL, and so would be its opposite.
    return and_(due_at.is_not(None), due_at < since(), col(Task.status) != TaskStatus.completed)


Table = type[Task] | type[Transfer] | type[User]
Comparison = tuple[Callable[[Any, Any], Any], SQLColumnExpression[Any], object]


class PageBase(SQLModel):
    """The fields that all queries of pages share."""

    # Without "forbid", a misspelt parameter would return the whole list.
    model_config = {"extra": "forbid", "frozen": True}

    limit: int = Field(default=100, ge=1, le=100, description="The maximum number to return")
    offset: int = Field(default=0, ge=0, le=MAX_INTEGER, description="The number to skip")
    count: bool = Field(default=False, description="Whether to send `X-Total-Count`")


class PageQuery(PageBase):
    """Which page of a list, sorted by id, a client asks for."""

    after: int | None = Field(
        default=None,
        ge=0,
        le=MAX_INTEGER,
        description="The last id of the page before. Unlike `offset`, fast on every page",
    )

    sort: ClassVar[str] = "id"

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield no condition, since such a list has no filters."""
        yield from ()


FilterText = Annotated[str, StringConstraints(max_length=200, pattern=NO_NUL)]


class TaskFilter(SQLModel):
    """Which tasks a client asks for."""

    model_config = {"extra": "forbid", "frozen": True}

    status: tuple[TaskStatus, ...] = Field(default=(), description="Any of these")
    priority_min: int | None = Field(default=None, ge=0, le=5, description="At least this")
    priority_max: int | None = Field(default=None, ge=0, le=5, description="At most this")
    q: FilterText | None = Field(
        default=None, description="Text in the title or the description, ignoring case"
    )
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
        default=None, ge=0, le=MAX_INTEGER, description="Owned by this user"
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
        if self.overdue is not None:
            yield overdue() if self.overdue else not_(overdue())
        if self.unowned is not None:
            yield col(Task.owner_id).is_(None) if self.unowned else col(Task.owner_id).is_not(None)
        yield col(Task.deleted_at).is_not(None) if self.deleted else col(Task.deleted_at).is_(None)


TaskSort = Literal[
    "id", "title", "status", "priority", "due_at", "created_at", "updated_at",
    "-id", "-title", "-status", "-priority", "-due_at", "-created_at", "-updated_at",
]  # fmt: skip

# What a cursor holds for each field to sort by: the value and the id of the last row of a page.
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
        raise ValueError("is not a cursor of this sort") from None
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
        default="id",
        description="The field to sort by, descending with a `-` in front. Between equal values "
        "the id decides, in the same direction. Tasks without `due_at` come last in both. Titles "
        "are sorted as the database collates text.",
    )
    after: Annotated[str, StringConstraints(pattern=r"^([^\x00]*,)?[0-9]{1,16}$")] | None = Field(
        default=None,
        description="Where the page before ended, as its `Link` says: the value of its last task "
        "in the field to sort by, a comma, and the id of that task; for `sort=id` only the id. "
        "Unlike `offset`, fast on every page",
    )

    @field_validator("after")
    @classmethod
    def require_cursor(cls, after: str | None, info: ValidationInfo) -> str | None:
        """Refuse a cursor that does not fit the sort."""
        if after is not None and "sort" in info.data:
            read_cursor(info.data["sort"], after)
        return after


class RecentQuery(TaskQuery):
    """The same of the tasks created in the last days."""

    days: int = Field(default=7, ge=1, le=3650, description="Created in the last days")

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield the conditions that all have to be true for a task."""
        yield from super().conditions()
        yield col(Task.created_at) >= since(self.days)


def select_matching(
    table: Table,
    public: type[SQLModel],
    query: PageQuery | TaskQuery,
    **equal: object,
) -> Select[Any]:
    """Return the SELECT of all rows that the query asks for and that have these column values."""
    columns = (getattr(table, name) == value for name, value in equal.items())
    return select_public(table, public).where(*query.conditions(), *columns)


@lru_cache  # to build an equal SELECT again, and SQLAlchemy's key for it, takes a tenth of a list
def select_page(
    table: Table,
    public: type[SQLModel],
    query: PageQuery | TaskQuery,
    **equal: object,
) -> Select[Any]:
    """Return the SELECT of a page, and of one more row, which tells whether there is a next page.

    For `?sort=priority&after=3,17&limit=2` it is, but for the names of the columns:

        SELECT * FROM task WHERE deleted_at IS NULL AND (priority, id) > (3, 17)
        ORDER BY priority, id LIMIT 3

    PostgreSQL starts to read there in the index on both columns. SQLite uses the first column only,
    and reads all rows of this priority.
    """
    statement = select_matching(table, public, query, **equal)
    last = None if query.after is None else read_cursor(query.sort, query.after)
    if query.sort in ("due_at", "-due_at"):
        page = sort_by_due_at(statement, query, last)
    else:
        fields = dict.fromkeys((query.sort.removeprefix("-"), "id"))
        page = sort_by([getattr(table, field) for field in fields], statement, query.sort, last)
    return page.offset(query.offset).limit(query.limit + 1)


def sort_by(
    columns: Sequence[Any],
    statement: Select[Any],
    sort: str,
    last: tuple[Any, ...] | None = None,
) -> Select[Any]:
    """Return the SELECT of the rows behind the last values of these columns, sorted by them."""
    direction, further = (desc, lt) if sort.startswith("-") else (asc, gt)
    if last is not None:
        statement = statement.where(further(tuple_(*columns), last))
    return statement.order_by(*(direction(column) for column in columns))


def sort_by_due_at(
    statement: Select[Any], query: PageQuery | TaskQuery, last: tuple[Any, ...] | None
) -> Select[Any]:
    """Return the SELECT sorted by due date, with tasks that have none last in both directions.

    An index has these at one end only, so a page unites two ranges of it.
    """
    due_at, task_id = col(Task.due_at), col(Task.id)
    undated = statement.where(due_at.is_(None))
    if last is not None and last[0] is None:
        return sort_by([task_id], undated, query.sort, last[1:])
    dated = statement.where(due_at.is_not(None))
    ranges = (
        sort_by([due_at, task_id], dated, query.sort, last),
        sort_by([task_id], undated, query.sort),
    )
    enough = min(query.offset + query.limit + 1, MAX_INTEGER)
    both = union_all(*(part.limit(enough).subquery().select() for part in ranges)).subquery()
    dated_first = both.select().order_by(both.c.due_at.is_(None))
    return sort_by([both.c.due_at, both.c.id], dated_first, query.sort)
