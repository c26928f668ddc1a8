"""The tables, and next to each its Create, Update and Public variants."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal
from unicodedata import normalize

from pydantic import (
    MISSING,
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    EmailStr,
    Secret,
    SecretStr,
    StrictBool,
    StringConstraints,
    WithJsonSchema,
)
from sqlalchemy import ColumnElement, Dialect, TypeDecorator, text
from sqlalchemy.ext.hybrid import hybrid_property
from sqlmodel import (
    JSON,
    CheckConstraint,
    Enum,
    Field,
    ForeignKeyConstraint,
    Index,
    Relationship,
    SQLModel,
    String,
    UniqueConstraint,
    col,
    func,
    select,
    type_coerce,
)

# A migration can replace a constraint only by its name.
SQLModel.metadata.naming_convention = {
    "pk": "pk_%(table_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
}
# As on PostgreSQL, the id of a deleted row is never used again.
NEVER_REUSE_IDS = {"sqlite_autoincrement": True}

# The largest integer that every JSON parser keeps exact (RFC 8259, 6).
MAX_INTEGER = 2**53 - 1


def now() -> datetime:
    """Return the current datetime, in UTC."""
    return datetime.now(UTC)


def require_number(value: object) -> object:
    """Refuse booleans and strings, which Pydantic would convert to numbers."""
    if isinstance(value, bool | str):
        raise ValueError("must be a number")  # noqa: TRY004  # a TypeError would not become a 422
    return value


def require_datetime(value: object) -> object:
    """Refuse numbers and digits, which Pydantic would take for seconds since 1970."""
    if isinstance(value, datetime) or (isinstance(value, str) and value[4:5] == "-"):
        return value
    raise ValueError("must be a date and time with an offset, as in 2026-12-31T17:00:00Z")


def to_utc(value: datetime) -> datetime:
    """Return the datetime in UTC; refuse one that is before year 1 or after year 9999 in UTC."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie in the years 1 to 9999 in UTC") from None


def require_address(value: object) -> object:
    """Refuse `Ada <ada@example.com>`, from which Pydantic would take the address."""
    if isinstance(value, str) and "<" in value:
        raise ValueError("must be an address alone, as in ada@example.com")
    return value


# PostgreSQL stores no NUL character, so no text may contain one.
NO_NUL = r"^[^\x00]*$"
# Control characters are the category Cc of Unicode. Some are commands to a terminal. U+FEFF is
# blank too, but not in `\s`.
CONTROL = r"\x00-\x1f\x7f-\x9f"
ONE_LINE_NOT_BLANK = rf"^[^{CONTROL}]*[^{CONTROL}\s\ufeff][^{CONTROL}]*$"
# No comma, which separates the names of tags in a SELECT, and in an export as CSV.
ONE_LINE_WITHOUT_COMMA = rf"^[^{CONTROL},]*[^{CONTROL},\s\ufeff][^{CONTROL},]*$"
NO_CONTROL_BUT_WHITESPACE = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"
ShortText = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=200, pattern=ONE_LINE_NOT_BLANK
    ),
]
Title = Annotated[ShortText, Field(schema_extra={"examples": ["Write the report"]})]
Description = Annotated[
    str,
    StringConstraints(max_length=10_000, pattern=NO_CONTROL_BUT_WHITESPACE),
    Field(schema_extra={"examples": ["Ten pages, and a summary"]}),
]
TagName = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=50, pattern=ONE_LINE_WITHOUT_COMMA
    ),
]
TagNames = Annotated[list[TagName], Field(max_length=20, schema_extra={"examples": [["report"]]})]
Id = Annotated[int, Field(ge=1, le=MAX_INTEGER), BeforeValidator(require_number)]
Priority = Annotated[int, Field(ge=0, le=5), BeforeValidator(require_number)]
UtcDatetime = Annotated[
    AwareDatetime,
    BeforeValidator(require_datetime),
    AfterValidator(to_utc),
    # The pattern tells clients what `to_utc` refuses.
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "pattern": r"^(?!0001-01-01.*\+|9999-12-31T.*-)",
            "examples": ["2027-01-29T17:00:00Z"],
        }
    ),
]
Username = Annotated[
    str,
    StringConstraints(to_lower=True, min_length=3, max_length=50, pattern=r"^[A-Za-z0-9_.-]+$"),
    Field(schema_extra={"examples": ["ada"]}),
]
Email = Annotated[
    EmailStr,
    BeforeValidator(require_address),
    AfterValidator(str.lower),
    Field(schema_extra={"examples": ["ada@example.com"]}),
]
# A `Secret` hides its value in every representation, so in logs too.
Password = Secret[Annotated[str, StringConstraints(min_length=8, max_length=128)]]
CurrentPassword = Secret[Annotated[str, StringConstraints(max_length=128)]]


class TaskStatus(StrEnum):
    """How far a task has come."""

    # The database stores the names, so each is the same as its value.
    pending = "pending"
    in_progress = "in_progress"
    completed = "completed"


class TaskTag(SQLModel, table=True):
    """The table that links tasks to tags, many to many.

    It has the names of the tags, not their ids: to show a task then needs no join, which made a
    read on PostgreSQL 25 % slower. When a tag is renamed, the database renames it here too.
    """

    __tablename__ = "task_tag"
    __table_args__ = (
        ForeignKeyConstraint(["tag_name"], ["tag.name"], onupdate="CASCADE", ondelete="CASCADE"),
        Index(None, "tag_name", "task_id"),
    )

    task_id: int = Field(foreign_key="task.id", ondelete="CASCADE", primary_key=True)
    tag_name: str = Field(primary_key=True)


class TaskBase(SQLModel):
    """The fields that the table of tasks and its variants share."""

    title: Title
    description: Description | None = None
    status: TaskStatus = Field(
        default=TaskStatus.pending,
        # Text with a CHECK constraint: a native ENUM would be a type of its own to migrate.
        sa_type=Enum(
            TaskStatus, name="status", native_enum=False, create_constraint=True, length=20
        ),
    )
    priority: Priority = 0
    due_at: UtcDatetime | None = None


def index(*columns: str, name: str | None = None, where: str = "deleted_at IS NULL") -> Index:
    """Return an index of the tasks that are not in the trash, or of those that `where` selects.

    Without a name, it gets the name of its first column.
    """
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class Task(TaskBase, table=True):
    """The table of tasks."""

    # A `hybrid_property` is no field of Pydantic.
    model_config = {"ignored_types": (hybrid_property,)}
    __table_args__ = (
        CheckConstraint("trim(title) <> ''", name="title"),
        CheckConstraint("priority BETWEEN 0 AND 5", name="priority"),
        # One for each order of the list, where the id decides between equal values.
        index("id"),
        index("title", "id"),
        index("status", "id"),
        index("priority", "id"),
        index("due_at", "id"),
        index("created_at", "id"),
        index("updated_at", "id"),
        # The newest tasks of a status, however many or few there are.
        index("status", "created_at", "id", name="ix_task_status_created_at"),
        index("id", name="ix_task_trash", where="deleted_at IS NOT NULL"),
        # With those in the trash: when a user is deleted, all tasks of the user change.
        Index(None, "owner_id", "id"),
        NEVER_REUSE_IDS,
    )

    id: int | None = Field(default=None, primary_key=True)
    owner_id: int | None = Field(default=None, foreign_key="user.id", ondelete="SET NULL")
    # When one INSERT creates many tasks, this column tells SQLAlchemy which task got which id.
    created_at: datetime = Field(default_factory=now, sa_column_kwargs={"insert_sentinel": True})
    updated_at: datetime = Field(default_factory=now)  # set again by `change`
    completed_at: datetime | None = None
    deleted_at: datetime | None = None
    version: int = 1
    # Read by a second statement, after the one that locks the task: so no other request changes
    # them in between.
    tag_objects: list["Tag"] = Relationship(
        link_model=TaskTag,
        sa_relationship_kwargs={"lazy": "selectin", "order_by": "Tag.id"},
    )

    @hybrid_property
    def tags(self) -> list[str]:
        """Return the names of the tags, sorted without regard to case."""
        return sorted((tag.name for tag in self.tag_objects), key=tag_key)

    @tags.inplace.expression
    @classmethod
    def _select_tags(cls) -> ColumnElement[list[str]]:
        """Return the same as a column of a SELECT."""
        names = select(func.aggregate_strings(col(TaskTag.tag_name), ","))
        return type_coerce(names.where(TaskTag.task_id == cls.id).scalar_subquery(), JoinedNames())

    def change(self, **values: object) -> None:
        """Set the values; if any is new, update the version and the datetimes too."""
        if any(getattr(self, name) != value for name, value in values.items()):
            for name, value in values.items():
                setattr(self, name, value)  # `sqlmodel_update` sets no relationship
            self.set_completed_at()
            self.updated_at = now()
            self.version += 1

    def set_completed_at(self) -> None:
        """Set `completed_at` when the status becomes completed; clear it when that changes."""
        if self.status != TaskStatus.completed:
            self.completed_at = None
        elif self.completed_at is None:
            self.completed_at = now()


# MISSING is the value of a field that was not sent. `model_dump()` leaves it out, and a field with
# this default can refuse null, unlike a field whose default is None.


class TaskCreate(TaskBase):
    """What a client sends to create a task."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "title": "Write the report",
                    "description": "Ten pages, and a summary",
                    "status": "pending",
                    "priority": 3,
                    "due_at": "2027-01-29T18:00:00+01:00",
                    "tags": ["report"],
                }
            ]
        }
    }

    tags: TagNames = []
    owner_id: Id | MISSING | None = Field(
        default=MISSING, description="A user, or null for nobody. By default, who is signed in"
    )


class TaskUpdate(SQLModel):
    """What a client sends to change a task. Fields that are not sent stay as they are."""

    model_config = {
        "json_schema_extra": {
            "examples": [{"status": "in_progress", "due_at": "2027-02-05T18:00:00+01:00"}]
        }
    }

    title: Title | MISSING = MISSING
    description: Description | MISSING | None = MISSING
    status: TaskStatus | MISSING = MISSING
    priority: Priority | MISSING = MISSING
    due_at: UtcDatetime | MISSING | None = MISSING
    tags: TagNames | MISSING = MISSING


class TaskBulkUpdate(TaskUpdate):
    """What a client sends to change one of many tasks."""

    model_config = {
        "json_schema_extra": {
            "examples": [{"id": 1, "priority": 4, "due_at": "2027-02-05T18:00:00+01:00"}]
        }
    }

    id: Id


class TaskPublic(TaskBase):
    """What a client sees of a task."""

    # In the OpenAPI document no field is optional, since all are always sent.
    model_config = {"json_schema_serialization_defaults_required": True}

    tags: list[str]
    id: int
    owner_id: int | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    deleted_at: datetime | None
    version: int


class TaskStats(SQLModel):
    """The statistics of tasks."""

    total: int
    by_status: dict[TaskStatus, int]
    overdue: int
    average_priority: float | None


class TaskDeleted(SQLModel):
    """What a client sees of a task that it deleted."""

    message: str
    task_id: int


def tag_key(name: str) -> str:
    """Return what names of one tag have in common: they differ only in case, or in encoding.

    `É` may be encoded as one character or as two (https://www.unicode.org/reports/tr15/).
    """
    return normalize("NFC", name.lower())


class JoinedNames(TypeDecorator[list[str]]):
    """The type of names that a SELECT joins with commas, and that Python has as a sorted list."""

    impl = String
    cache_ok = True

    def process_result_value(self, value: str | None, _dialect: Dialect) -> list[str]:
        """Return the names, sorted without regard to case."""
        return sorted(value.split(","), key=tag_key) if value else []


class TagBase(SQLModel):
    """The field that the table of tags and its variants share."""

    name: TagName = Field(schema_extra={"examples": ["report"]})


class Tag(TagBase, table=True):
    """The table of tags. The name is kept as it was first written."""

    model_config = {"ignored_types": (hybrid_property,)}
    __table_args__ = (UniqueConstraint("key"), UniqueConstraint("name"), NEVER_REUSE_IDS)

    id: int | None = Field(default=None, primary_key=True)
    key: str  # see `tag_key`

    @hybrid_property
    def task_count(self) -> ColumnElement[int]:
        """Return how many tasks have the tag, without those in the trash, as a column of a SELECT.

        An object does not know it.
        """
        tasks = select(func.count()).select_from(TaskTag).join(Task)
        has_tag = tasks.where(TaskTag.tag_name == self.name, col(Task.deleted_at).is_(None))
        return has_tag.scalar_subquery()


class TagUpdate(TagBase):
    """What a client sends to rename a tag."""


class TagPublic(TagBase):
    """What a client sees of a tag."""

    id: int
    task_count: int = Field(description="How many tasks have it, without those in the trash")


class TagDeleted(SQLModel):
    """What a client sees of a tag that it deleted."""

    message: str
    tag_id: int


class IdempotencyKey(SQLModel, table=True):
    """The table of the `Idempotency-Key` of each request, and of the tasks that it created."""

    __tablename__ = "idempotency_key"
    __table_args__ = (UniqueConstraint("user_id", "key"),)

    id: int | None = Field(default=None, primary_key=True)
    user_id: int  # 0 without sign-in, since no NULL equals another
    key: str
    # None is from before version 0005 of the schema, and accepts any body.
    request_hash: str | None
    # Never None, which is only in the type of `Task.id`.
    task_ids: list[int | None] = Field(default=[], sa_type=JSON)
    created_at: datetime = Field(default_factory=now, index=True)


class TransferBase(SQLModel):
    """The owner of a task before and after, where null is nobody."""

    from_user_id: Id | None = Field(schema_extra={"examples": [None]})
    to_user_id: Id | None = Field(schema_extra={"examples": [1]})


class Transfer(TransferBase, table=True):
    """The table of transfers, which keeps the ids of deleted users."""

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


class UserBase(SQLModel):
    """The fields that the table of users and its variants share."""

    username: Username
    email: Email
    full_name: ShortText | None = Field(default=None, schema_extra={"examples": ["Bob Brown"]})
    is_admin: StrictBool = False


class User(UserBase, table=True):
    """The table of users."""

    __table_args__ = (UniqueConstraint("username"), UniqueConstraint("email"), NEVER_REUSE_IDS)

    id: int | None = Field(default=None, primary_key=True)
    is_active: bool = True
    password_hash: str = Field(repr=False)
    # Tokens with another version are not valid.
    token_version: int = 1
    created_at: datetime = Field(default_factory=now)
    updated_at: datetime = Field(default_factory=now, sa_column_kwargs={"onupdate": now})


class UserCreate(UserBase):
    """What a client sends to create a user."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "username": "bob",
                    "email": "bob@example.com",
                    "full_name": "Bob Brown",
                    "password": "towel-number-42",
                }
            ]
        }
    }

    password: Password


class UserUpdate(SQLModel):
    """What a client sends to change a user. Fields that are not sent stay as they are."""

    model_config = {"json_schema_extra": {"examples": [{"full_name": "Robert Brown"}]}}

    username: Username | MISSING = MISSING
    email: Email | MISSING = MISSING
    full_name: ShortText | MISSING | None = MISSING
    is_admin: StrictBool | MISSING = MISSING
    is_active: StrictBool | MISSING = MISSING
    password: Password | MISSING = MISSING
    current_password: CurrentPassword | MISSING = Field(
        default=MISSING,
        description="Needed with your own username, email or password; "
        "without sign-in, with any password",
    )


class UserPublic(UserBase):
    """What a client sees of a user."""

    model_config = {"json_schema_serialization_defaults_required": True}

    id: int
    is_active: bool
    created_at: datetime
    updated_at: datetime


class UserDeleted(SQLModel):
    """What a client sees of a user that it deleted."""

    message: str
    user_id: int


class SignIn(SQLModel):
    """What a client sends, as a form, to sign in (RFC 6749, 4.3.2).

    Unlike FastAPI's `OAuth2PasswordRequestForm`, it hides the password and ignores case in names.
    """

    grant_type: Literal["password"] = "password"
    username: Annotated[
        str,
        StringConstraints(min_length=1, max_length=50, pattern=NO_NUL, to_lower=True),
        Field(schema_extra={"examples": ["ada"]}),
    ]
    password: SecretStr = Field(min_length=1)


class Token(SQLModel):
    """What a client gets when it has signed in (RFC 6749, 5.1)."""

    model_config = {"json_schema_serialization_defaults_required": True}

    access_token: str
    token_type: str = "bearer"  # noqa: S105  # no secret: it says how to send the token
    expires_in: int = Field(description="Seconds")


class Claims(SQLModel):
    """What a token says (RFC 7519, 4): whose it is, and the `token_version` of that user."""

    sub: int = Field(ge=1, le=MAX_INTEGER)  # text in the token, which `Id` would refuse
    version: Id


class State(SQLModel):
    """The state of the process."""

    status: str


class ErrorMessage(SQLModel):
    """What a client sees when a request fails."""

    detail: str


class Problem(SQLModel):
    """What is wrong with one value in a request, and where that is."""

    type: str
    loc: list[str | int]
    msg: str


class Problems(SQLModel):
    """What a client sees when values in its request are wrong."""

    detail: list[Problem]
