"""The task: its table, and what clients send, ask for and see of it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from operator import gt, lt
from typing import Annotated, Any, Literal

from pydantic import (
    MISSING,
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    StringConstraints,
    WithJsonSchema,
)
from sqlalchemy import ColumnElement, UnaryExpression, event, literal, union_all
from sqlalchemy.orm import aliased
from sqlmodel import (
    CheckConstraint,
    Enum,
    Field,
    Index,
    SQLModel,
    and_,
    asc,
    col,
    desc,
    or_,
    select,
)
from sqlmodel.sql.expression import SelectOfScalar

# A migration can replace a constraint only by its name.
SQLModel.metadata.naming_convention = {
    "pk": "pk_%(table_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_name)s",
}

# The largest integer that both databases hold.
MAX_INTEGER = 2**63 - 1


def now() -> datetime:
    """Return the present moment, in UTC."""
    return datetime.now(UTC)


def require_number(value: object) -> object:
    """Refuse true, false and text, which Pydantic would turn into numbers."""
    if isinstance(value, bool | str):
        raise ValueError("must be a number")  # noqa: TRY004  # a TypeError would not become a 422
    return value


def require_date(value: object) -> object:
    """Refuse numbers and digits, which Pydantic would take for seconds since 1970."""
    if isinstance(value, datetime) or (isinstance(value, str) and value[4:5] == "-"):
        return value
    raise ValueError("must be a date and time with an offset, as in 2026-12-31T17:00:00Z")


def to_utc(moment: datetime) -> datetime:
    """Return the same moment in UTC; refuse one that is there before year 1 or after year 9999."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie in the years 1 to 9999 in UTC") from None


# PostgreSQL stores no NUL character, so no text may hold one.
NO_NUL = r"^[^\x00]*$"
NO_NUL_AND_NOT_BLANK = r"^[^\x00]*[^\x00\s][^\x00]*$"
Title = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=200, pattern=NO_NUL_AND_NOT_BLANK
    ),
    Field(schema_extra={"examples": ["Write the report"]}),
]
Description = Annotated[
    str,
    StringConstraints(max_length=10_000, pattern=NO_NUL),
    Field(schema_extra={"examples": ["Ten pages, and a summary"]}),
]
Priority = Annotated[int, Field(ge=0, le=5), BeforeValidator(require_number)]
Moment = Annotated[
    AwareDatetime,
    BeforeValidator(require_date),
    AfterValidator(to_utc),
    # The pattern tells clients what `to_utc` refuses.
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "pattern": r"^(?!0001-01-01.*\+|9999-12-31T.*-)",
        }
    ),
]


class TaskStatus(StrEnum):
    """How far a task has come."""

    # The database stores the names, so each equals its value.
    pending = "pending"
    in_progress = "in_progress"
    completed = "completed"


class TaskBase(SQLModel):
    """What a task says, shared by its table and the variants."""

    title: Title
    description: Description | None = None
    status: TaskStatus = Field(
        default=TaskStatus.pending,
        # Text with a CHECK constraint: a native ENUM is a type of its own to be migrated.
        sa_type=Enum(
            TaskStatus, name="status", native_enum=False, create_constraint=True, length=20
        ),
    )
    priority: Priority = 0
    due_at: Moment | None = None


class Task(TaskBase, table=True):
    """The table; each index serves one order of the list, where the id decides between equals."""

    __table_args__ = (
        CheckConstraint("trim(title) <> ''", name="title"),
        CheckConstraint("priority BETWEEN 0 AND 5", name="priority"),
        Index(None, "title", "id"),
        Index(None, "status", "id"),
        Index(None, "priority", "id"),
        Index(None, "due_at", "id"),
        Index(None, "created_at", "id"),
        Index(None, "updated_at", "id"),
        # As on PostgreSQL, the id of a deleted task is never given to another.
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, primary_key=True)
    created_at: datetime = Field(default_factory=now)
    updated_at: datetime = Field(default_factory=now, sa_column_kwargs={"onupdate": now})
    completed_at: datetime | None = None


@event.listens_for(Task, "before_insert")
@event.listens_for(Task, "before_update")
def keep_completed_at(_mapper: object, _connection: object, task: Task) -> None:
    """Set `completed_at` when the status becomes completed, and clear it when it leaves that."""
    if task.status != TaskStatus.completed:
        task.completed_at = None
    elif task.completed_at is None:
        task.completed_at = now()


class TaskCreate(TaskBase):
    """What a client sends to create a task."""


class TaskUpdate(SQLModel):
    """What a client sends to change a task: what is not sent stays as it is."""

    # A field that was not sent is MISSING, which is left out of `model_dump()`.
    title: Title | MISSING = MISSING
    description: Description | MISSING | None = MISSING
    status: TaskStatus | MISSING = MISSING
    priority: Priority | MISSING = MISSING
    due_at: Moment | MISSING | None = MISSING


class TaskPublic(TaskBase):
    """What a client sees of a task."""

    # In the OpenAPI document no field is optional, since each is always sent.
    model_config = {"json_schema_serialization_defaults_required": True}

    id: int
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None


def overdue() -> ColumnElement[bool]:
    """Return the condition that a task is due in the past and not completed."""
    return and_(col(Task.due_at) < now(), col(Task.status) != TaskStatus.completed)


class TaskFilter(SQLModel):
    """Which tasks a client asks for."""

    # Without this, a misspelt filter would return every task.
    model_config = {"extra": "forbid"}

    status: list[TaskStatus] = Field(default=[], description="Any of these")
    priority_min: int | None = Field(default=None, ge=0, le=5, description="At least this")
    priority_max: int | None = Field(default=None, ge=0, le=5, description="At most this")
    q: Annotated[str, StringConstraints(max_length=200, pattern=NO_NUL)] | None = Field(
        default=None, description="Text in the title or the description, in any case"
    )
    created_after: Moment | None = Field(default=None, description="Created later than this")
    created_before: Moment | None = Field(default=None, description="Created earlier than this")
    due_after: Moment | None = Field(default=None, description="Due later than this")
    due_before: Moment | None = Field(default=None, description="Due earlier than this")
    overdue: bool | None = Field(
        default=None, description="Whether due in the past and not completed"
    )

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield the conditions that a task must meet, all of them."""
        if self.status:
            yield col(Task.status).in_(self.status)
        if self.priority_min is not None:
            yield col(Task.priority) >= self.priority_min
        if self.priority_max is not None:
            yield col(Task.priority) <= self.priority_max
        if self.q is not None:
            yield or_(
                col(Task.title).icontains(self.q, autoescape=True),
                col(Task.description).icontains(self.q, autoescape=True),
            )
        if self.created_after is not None:
            yield col(Task.created_at) > self.created_after
        if self.created_before is not None:
            yield col(Task.created_at) < self.created_before
        if self.due_after is not None:
            yield col(Task.due_at) > self.due_after
        if self.due_before is not None:
            yield col(Task.due_at) < self.due_before
        if self.overdue is not None:
            # IS NOT TRUE, since for a task without due date the condition is NULL.
            yield overdue() if self.overdue else overdue().is_not(True)


TaskSort = Literal[
    "id", "title", "status", "priority", "due_at", "created_at", "updated_at",
    "-id", "-title", "-status", "-priority", "-due_at", "-created_at", "-updated_at",
]  # fmt: skip


class TaskQuery(TaskFilter):
    """Which tasks a client asks for, in which order, and which page of them."""

    sort: TaskSort = Field(
        default="id",
        description="The field to sort by, descending with a `-` in front. Between equal values "
        "the id decides, in the same direction. Tasks without `due_at` come last in both. Titles "
        "are ordered as the database collates text.",
    )
    limit: int = Field(default=100, ge=1, le=100, description="The most tasks to return")
    offset: int = Field(default=0, ge=0, le=MAX_INTEGER, description="How many tasks to skip")
    after: int | None = Field(
        default=None,
        ge=0,
        le=MAX_INTEGER,
        description="The id of the task to go on behind: unlike `offset`, as fast far behind. "
        "Behind a deleted task, only a list by `id` goes on",
    )
    count: bool = Field(default=False, description="Whether to send `X-Total-Count`")

    @property
    def sort_field(self) -> str:
        """The name of the field to sort by."""
        return self.sort.removeprefix("-")

    def parts(self, last: Task | None) -> list[ColumnElement[bool]]:
        """Return the conditions of the parts of the list behind `last`, the task of `after`.

        Behind task 7, which is due on May 1st, a list by `due_at` goes on with those due then
        whose id is above 7, then those due later, then those without `due_at`. Each part is one
        range of an index, at whose start both databases begin to read, however far it is.

        By id, no `last` is needed: such a list goes on even behind a task that is gone.
        """
        field = col(getattr(Task, self.sort_field))
        without_value = [field.is_(None)] if self.sort_field == "due_at" else []
        if self.after is None:
            return [field.is_not(None), *without_value]
        further = lt if self.sort.startswith("-") else gt
        id_further = further(col(Task.id), self.after)
        if last is None:
            return [id_further]
        value = getattr(last, self.sort_field)
        if value is None:
            return [and_(field.is_(None), id_further)]
        return [and_(field == value, id_further), further(field, value), *without_value]

    def statement(
        self, passing: list[ColumnElement[bool]], last: Task | None, wanted: int
    ) -> SelectOfScalar[Task]:
        """Return the one statement that reads up to `wanted` of the tasks that pass.

        Its parts are united by the database, so that all of them see the same moment.
        """
        direction = desc if self.sort.startswith("-") else asc

        def order(task: type[Task]) -> list[UnaryExpression[Any]]:
            return [direction(col(getattr(task, self.sort_field))), direction(col(task.id))]

        parts = self.parts(last)
        if len(parts) == 1:
            whole = select(Task).where(*passing, *parts).order_by(*order(Task))
            return whole.offset(self.offset).limit(wanted)
        enough = min(self.offset + wanted, MAX_INTEGER)
        united = union_all(
            *(
                select(Task, literal(number).label("part"))
                .where(*passing, part)
                .order_by(*order(Task))
                .limit(enough)
                .subquery()
                .select()
                for number, part in enumerate(parts)
            )
        ).subquery()
        task = aliased(Task, united)
        whole = select(task).order_by(united.c.part, *order(task))
        return whole.offset(self.offset).limit(wanted)


class RecentQuery(TaskQuery):
    """The same of the tasks created lately."""

    days: int = Field(default=7, ge=1, le=3650, description="Created in the last so many days")

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield the conditions that a task must meet, all of them."""
        yield from super().conditions()
        yield col(Task.created_at) >= now() - timedelta(days=self.days)


class TaskStats(SQLModel):
    """What a client sees of many tasks at once."""

    total: int
    by_status: dict[TaskStatus, int]
    overdue: int
    average_priority: float | None


class TaskDeleted(SQLModel):
    """What a client sees of a task that it deleted."""

    message: str
    task_id: int


class State(SQLModel):
    """What a platform sees of the process that it watches."""

    status: str


class ErrorMessage(SQLModel):
    """What a client sees when it does not get what it asked for."""

    detail: str
