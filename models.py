"""The users and their tasks: the tables, and what clients send, ask for and see of them."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache, lru_cache
from hashlib import sha256
from operator import eq, ge, gt, le, lt
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    MISSING,
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    EmailStr,
    Secret,
    SecretStr,
    StringConstraints,
    WithJsonSchema,
)
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Select,
    bindparam,
    inspect,
    literal,
    text,
    type_coerce,
    union_all,
)
from sqlalchemy.types import TypeEngine
from sqlmodel import (
    CheckConstraint,
    DateTime,
    Enum,
    Field,
    Index,
    SQLModel,
    String,
    UniqueConstraint,
    UTCDateTime,
    and_,
    asc,
    col,
    desc,
    not_,
    or_,
)

# A migration can replace a constraint only by its name.
SQLModel.metadata.naming_convention = {
    "pk": "pk_%(table_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
}
# As on PostgreSQL, the id of a deleted row is never given to another.
NEVER_REUSE_IDS = {"sqlite_autoincrement": True}

# The largest integer that every JSON parser keeps as it is (RFC 8259, 6).
MAX_INTEGER = 2**53 - 1


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
# The last two are blank to some, and are not in the `\s` of others.
NO_NUL_AND_NOT_BLANK = r"^[^\x00]*[^\x00\s\x85\ufeff][^\x00]*$"
Line = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=200, pattern=NO_NUL_AND_NOT_BLANK
    ),
]
Title = Annotated[Line, Field(schema_extra={"examples": ["Write the report"]})]
Description = Annotated[
    str,
    StringConstraints(max_length=10_000, pattern=NO_NUL),
    Field(schema_extra={"examples": ["Ten pages, and a summary"]}),
]
Id = Annotated[int, Field(ge=1, le=MAX_INTEGER), BeforeValidator(require_number)]
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
Username = Annotated[
    str,
    StringConstraints(to_lower=True, min_length=3, max_length=50, pattern=r"^[A-Za-z0-9_.-]+$"),
    Field(schema_extra={"examples": ["ada"]}),
]
Email = Annotated[
    EmailStr, AfterValidator(str.lower), Field(schema_extra={"examples": ["ada@example.com"]})
]
# A secret shows itself in no representation, so in no log.
Password = Secret[Annotated[str, StringConstraints(min_length=8, max_length=128)]]


class UserBase(SQLModel):
    """What a user is known by, shared by the table and the variants."""

    username: Username
    email: Email
    full_name: Line | None = None


class User(UserBase, table=True):
    """The table of users, who are the members of the team."""

    __table_args__ = (UniqueConstraint("username"), UniqueConstraint("email"), NEVER_REUSE_IDS)

    id: int | None = Field(default=None, primary_key=True)
    is_active: bool = True
    password_hash: str = Field(repr=False)
    # A token is good as long as it has this number.
    token_version: int = 1
    created_at: datetime = Field(default_factory=now)
    updated_at: datetime = Field(default_factory=now, sa_column_kwargs={"onupdate": now})


class UserCreate(UserBase):
    """What a client sends to create a user."""

    password: Password


class UserUpdate(SQLModel):
    """What a client sends to change a user: what is not sent stays as it is."""

    # A field that was not sent is MISSING, which is left out of `model_dump()`.
    username: Username | MISSING = MISSING
    email: Email | MISSING = MISSING
    full_name: Line | MISSING | None = MISSING
    is_active: bool | MISSING = MISSING
    password: Password | MISSING = MISSING
    current_password: SecretStr | MISSING = Field(
        default=MISSING, description="Needed to change the password"
    )


class UserPublic(UserBase):
    """What a client sees of a user."""

    # In the OpenAPI document no field is optional, since each is always sent.
    model_config = {"json_schema_serialization_defaults_required": True}

    id: int
    is_active: bool
    created_at: datetime
    updated_at: datetime


class SignIn(SQLModel):
    """What a client sends, as a form, to sign in (RFC 6749, 4.3.2)."""

    grant_type: Literal["password"] = "password"
    username: Annotated[str, StringConstraints(min_length=1, pattern=NO_NUL, to_lower=True)]
    password: SecretStr = Field(min_length=1)


class Token(SQLModel):
    """What a client gets to be recognized by (RFC 6749, 5.1)."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105  # no secret: it says how to send the token
    expires_in: int = Field(description="Seconds")


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


def index(*columns: str, name: str | None = None, where: str = "deleted_at IS NULL") -> Index:
    """Return an index of the tasks that are not in the trash, or of the others."""
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class Task(TaskBase, table=True):
    """The table of tasks."""

    __table_args__ = (
        CheckConstraint("trim(title) <> ''", name="title"),
        CheckConstraint("priority BETWEEN 0 AND 5", name="priority"),
        UniqueConstraint("idempotency_key"),
        # Each serves one order of the list, where the id decides between equals.
        index("id"),
        index("title", "id"),
        index("status", "id"),
        index("priority", "id"),
        index("due_at", "id"),
        index("created_at", "id"),
        index("updated_at", "id"),
        # The tasks of a status, the newest first, however many or few have it.
        index("status", "created_at", "id", name="ix_task_status_created_at"),
        index("id", name="ix_task_trash", where="deleted_at IS NOT NULL"),
        # With the trash, since the removal of a user looks for all tasks of that.
        Index(None, "owner_id", "id"),
        NEVER_REUSE_IDS,
    )

    id: int | None = Field(default=None, primary_key=True)
    owner_id: int | None = Field(default=None, foreign_key="user.id", ondelete="SET NULL")
    # When one statement inserts many tasks, their ids come back in any order, but with this.
    created_at: datetime = Field(default_factory=now, sa_column_kwargs={"insert_sentinel": True})
    updated_at: datetime = Field(default_factory=now)
    completed_at: datetime | None = None
    deleted_at: datetime | None = None
    version: int = 1
    # What the request that created the task was known by, so that it creates no second one.
    idempotency_key: str | None = None
    request_hash: str | None = None

    def change(self, **values: object) -> None:
        """Set the values; if any is new, the version grows, and the moments follow."""
        if any(getattr(self, field) != value for field, value in values.items()):
            self.sqlmodel_update(values)
            self.keep_completed_at()
            self.updated_at = now()
            self.version += 1

    def keep_completed_at(self) -> None:
        """Set `completed_at` when the status becomes completed; clear it when it leaves that."""
        if self.status != TaskStatus.completed:
            self.completed_at = None
        elif self.completed_at is None:
            self.completed_at = now()

    def hash_request(self) -> str:
        """Return what tells the request that asked for this new task from any other."""
        asked = self.model_dump_json(include={*TaskBase.model_fields, "owner_id"})
        return sha256(asked.encode()).hexdigest()


class TaskCreate(TaskBase):
    """What a client sends to create a task."""

    owner_id: Id | MISSING | None = Field(
        default=MISSING, description="A user, or null for nobody; if not sent, who is signed in"
    )


class TaskUpdate(SQLModel):
    """What a client sends to change a task: what is not sent stays as it is."""

    title: Title | MISSING = MISSING
    description: Description | MISSING | None = MISSING
    status: TaskStatus | MISSING = MISSING
    priority: Priority | MISSING = MISSING
    due_at: Moment | MISSING | None = MISSING


class TaskBulkUpdate(TaskUpdate):
    """The same for one of many tasks."""

    id: Id


class TaskPublic(TaskBase):
    """What a client sees of a task."""

    model_config = {"json_schema_serialization_defaults_required": True}

    id: int
    owner_id: int | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    deleted_at: datetime | None
    version: int


class TransferBase(SQLModel):
    """Between whom a task changes hands, where null is nobody."""

    from_user_id: Id | None
    to_user_id: Id | None


class Transfer(TransferBase, table=True):
    """The table of the transfers of tasks; the ids of users stay when the users are gone."""

    __table_args__ = (Index(None, "task_id", "id"), NEVER_REUSE_IDS)

    id: int | None = Field(default=None, primary_key=True)
    task_id: int = Field(foreign_key="task.id", ondelete="CASCADE")
    by_user_id: int | None
    created_at: datetime = Field(default_factory=now)


class TransferCreate(TransferBase):
    """What a client sends to give a task to another user."""


class TransferPublic(TransferBase):
    """What a client sees of a transfer."""

    id: int
    task_id: int
    by_user_id: int | None = Field(description="Who was signed in")
    created_at: datetime


def since(days: int = 0) -> BindParameter[datetime]:
    """Return the moment so many days ago, found anew each time that a statement is executed."""
    return bindparam(None, callable_=lambda: now() - timedelta(days=days), type_=UTCDateTime())


def overdue() -> ColumnElement[bool]:
    """Return the condition that a task is due in the past and not completed."""
    due_at = col(Task.due_at)
    # Without a due date the comparison is NULL, and so would be its opposite.
    return and_(due_at.is_not(None), due_at < since(), col(Task.status) != TaskStatus.completed)


Row = TypeVar("Row", User, Task, Transfer)


# How a page reads its values: as the driver has them, where that is what JSON needs, since the
# connections to PostgreSQL are in UTC. To make an enum of each status, and to look at the zone of
# each moment, took a quarter of a page's time.
AS_SHOWN: dict[type, TypeEngine[Any]] = {
    Enum: String(),
    UTCDateTime: UTCDateTime().with_variant(DateTime(timezone=True), "postgresql"),
}


@cache
def select_shown(table: type[Row], public: type[SQLModel]) -> Select[Any]:
    """Return the statement that reads the fields that the public variant shows, in their order."""
    columns = [inspect(table).columns[field] for field in public.model_fields]
    shown = [type_coerce(it, AS_SHOWN.get(type(it.type), it.type)) for it in columns]
    return Select(*shown)


class PageQuery(SQLModel):
    """Which page of a list a client asks for."""

    # Without this, a misspelt parameter would return the whole list.
    model_config = {"extra": "forbid"}

    limit: int = Field(default=100, ge=1, le=100, description="The most to return")
    offset: int = Field(default=0, ge=0, le=MAX_INTEGER, description="How many to skip")
    after: int | None = Field(
        default=None,
        ge=0,
        le=MAX_INTEGER,
        description="The id to go on behind: unlike `offset`, as fast far behind. Behind one that "
        "is gone, only a list by `id` goes on",
    )
    count: bool = Field(default=False, description="Whether to send `X-Total-Count`")

    def by_id(
        self, table: type[Row], public: type[SQLModel], *passing: ColumnElement[bool]
    ) -> Select[Any]:
        """Return the statement that reads the page, and one more, of the rows that pass, by id."""
        behind = [] if self.after is None else [col(table.id) > self.after]
        rows = select_shown(table, public).where(*passing, *behind).order_by(col(table.id))
        return rows.offset(self.offset).limit(self.limit + 1)


class TaskFilter(SQLModel):
    """Which tasks a client asks for."""

    model_config = {"extra": "forbid", "frozen": True}

    status: tuple[TaskStatus, ...] = Field(default=(), description="Any of these")
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
    owner_id: int | None = Field(
        default=None, ge=0, le=MAX_INTEGER, description="Belonging to this user"
    )
    unowned: bool | None = Field(default=None, description="Whether belonging to nobody")
    deleted: bool = Field(default=False, description="Whether in the trash")

    def conditions(self, **equal: object) -> Iterator[ColumnElement[bool]]:
        """Yield the conditions that a task must meet, all of them, and be equal in these fields."""
        for name, value in equal.items():
            yield col(getattr(Task, name)) == value
        if self.status:
            yield col(Task.status).in_(self.status)
        if self.q is not None:
            yield or_(
                col(Task.title).icontains(self.q, autoescape=True),
                col(Task.description).icontains(self.q, autoescape=True),
            )
        for compare, field, value in (
            (ge, Task.priority, self.priority_min),
            (le, Task.priority, self.priority_max),
            (gt, Task.created_at, self.created_after),
            (lt, Task.created_at, self.created_before),
            (gt, Task.due_at, self.due_after),
            (lt, Task.due_at, self.due_before),
            (eq, Task.owner_id, self.owner_id),
        ):
            if value is not None:
                yield compare(col(field), value)
        if self.overdue is not None:
            yield overdue() if self.overdue else not_(overdue())
        for field, is_null in (
            (Task.owner_id, self.unowned),
            (Task.deleted_at, not self.deleted),
        ):
            if is_null is not None:
                yield col(field).is_(None) if is_null else col(field).is_not(None)


TaskSort = Literal[
    "id", "title", "status", "priority", "due_at", "created_at", "updated_at",
    "-id", "-title", "-status", "-priority", "-due_at", "-created_at", "-updated_at",
]  # fmt: skip


class TaskQuery(TaskFilter, PageQuery):
    """Which tasks a client asks for, in which order, and which page of them."""

    sort: TaskSort = Field(
        default="id",
        description="The field to sort by, descending with a `-` in front. Between equal values "
        "the id decides, in the same direction. Tasks without `due_at` come last in both. Titles "
        "are ordered as the database collates text.",
    )

    @property
    def sort_field(self) -> str:
        """The name of the field to sort by."""
        return self.sort.removeprefix("-")

    def parts(self, last_value: object) -> list[ColumnElement[bool]]:
        """Return the conditions of the parts of the list behind the task of `after`.

        Behind task 7, which is due on May 1st, a list by `due_at` goes on with those due then
        whose id is above 7, then those due later, then those without `due_at`. Each part is one
        range of an index, at whose start both databases begin to read, however far it is.

        By id, the value of that task is not needed: such a list goes on even if the task is gone.
        """
        field = col(getattr(Task, self.sort_field))
        without_value = [field.is_(None)] if self.sort_field == "due_at" else []
        if self.after is None:
            return [field.is_not(None), *without_value]
        further: Callable[..., ColumnElement[bool]] = lt if self.sort.startswith("-") else gt
        id_further = further(col(Task.id), self.after)
        if self.sort_field == "id":
            return [id_further]
        if last_value is None:
            return [and_(field.is_(None), id_further)]
        return [and_(field == last_value, id_further), further(field, last_value), *without_value]

    # The same pages are asked for again and again, and to build this takes a fifth of their time.
    @lru_cache  # noqa: B019  # what it keeps are the last 128 queries
    def statement(self, last_value: object = None, **equal: object) -> Select[Any]:
        """Return the one statement that reads the page, and one more, of the tasks that pass.

        `last_value` is what the task of `after` has in the field to sort by. The parts are united
        by the database, so that all of them see the same moment.
        """
        passing = [*self.conditions(**equal)]
        wanted = self.limit + 1
        direction = desc if self.sort.startswith("-") else asc
        order = [direction(col(getattr(Task, field))) for field in (self.sort_field, "id")]
        parts = self.parts(last_value)
        if len(parts) == 1:
            whole = select_shown(Task, TaskPublic).where(*passing, *parts).order_by(*order)
            return whole.offset(self.offset).limit(wanted)
        enough = min(self.offset + wanted, MAX_INTEGER)
        united = union_all(
            *(
                select_shown(Task, TaskPublic)
                .add_columns(literal(number).label("part"))
                .where(*passing, part)
                .order_by(*order)
                .limit(enough)
                .subquery()
                .select()
                for number, part in enumerate(parts)
            )
        ).subquery()
        in_order = [direction(united.c[field]) for field in (self.sort_field, "id")]
        whole = Select(*(united.c[name] for name in TaskPublic.model_fields))
        return whole.order_by(united.c.part, *in_order).offset(self.offset).limit(wanted)


class RecentQuery(TaskQuery):
    """The same of the tasks created lately."""

    days: int = Field(default=7, ge=1, le=3650, description="Created in the last so many days")

    def conditions(self, **equal: object) -> Iterator[ColumnElement[bool]]:
        """Yield the conditions that a task must meet, all of them, and be equal in these fields."""
        yield from super().conditions(**equal)
        yield col(Task.created_at) >= since(self.days)


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


class UserDeleted(SQLModel):
    """What a client sees of a user that it removed."""

    message: str
    user_id: int


class State(SQLModel):
    """What a platform sees of the process that it watches."""

    status: str


class ErrorMessage(SQLModel):
    """What a client sees when it does not get what it asked for."""

    detail: str


class Problem(SQLModel):
    """What is wrong, and where in the request."""

    type: str
    loc: list[str | int]
    msg: str


class Problems(SQLModel):
    """What a client sees when parts of its request are wrong."""

    detail: list[Problem]
