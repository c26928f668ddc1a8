"""The tables, and next to each its Create, Update and Public variants."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Optional

from pydantic import MISSING, StrictBool
from sqlmodel import (
    JSON,
    BigInteger,
    CheckConstraint,
    Enum,
    Field,
    Index,
    Integer,
    Relationship,
    SQLModel,
    Text,
    UniqueConstraint,
    text,
)

from api.clock import now
from api.field_types import (
    CurrentPassword,
    Description,
    Email,
    Id,
    Password,
    Priority,
    RequestBody,
    ShortText,
    TagName,
    TagNames,
    Title,
    Username,
    UtcDatetime,
    Version,
    example,
)
from api.folding import fold

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
# SQLite's integers have 64 bits in any case, and its ids have to be INTEGER.
ID: Any = BigInteger().with_variant(Integer, "sqlite")
# What is compared by code points, as SQLite compares every text.
FOLDED: Any = Text().with_variant(Text(collation="C"), "postgresql")
# So in the documentation no field of a public variant is optional.
ALL_FIELDS_ARE_SENT: Any = {"json_schema_serialization_defaults_required": True}


def only_where(condition: str) -> dict[str, Any]:
    """Return the options of an index that has only the rows for which the condition is true."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


LISTED = only_where("deleted_at IS NULL")
SORTED_COLUMNS = ("folded_title", "status", "priority", "due_at", "created_at", "updated_at")


class TaskStatus(StrEnum):
    """How far a task has come."""

    # The database stores the names, so each is the same as its value.
    pending = "pending"
    in_progress = "in_progress"
    completed = "completed"


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


def with_folded_texts(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a task, with the folded texts of those that are there."""
    texts = {name: values[name] for name in ("title", "description") if name in values}
    return values | {f"folded_{name}": text and fold(text) for name, text in texts.items()}


class Task(TaskBase, table=True):
    """The table of tasks."""

    # Constraints, and indexes of several columns, which `Field` cannot have.
    __table_args__ = (
        CheckConstraint("trim(title) <> ''", name="title"),
        CheckConstraint("priority BETWEEN 0 AND 5", name="priority"),
        # One for each order of the list, where the id decides between equal values. Without a name
        # of its own (None), an index gets that of its first column.
        Index(None, "id", **LISTED),
        *(Index(None, field, "id", **LISTED) for field in SORTED_COLUMNS),
        # For `GET /tasks?status=pending&sort=-created_at`.
        Index("ix_task_status_created_at", "status", "created_at", "id", **LISTED),
        Index("ix_task_trash", "id", **only_where("deleted_at IS NOT NULL")),
        # Those in the trash too: when a user is deleted, all tasks of the user change.
        Index(None, "owner_id", "id"),
        NEVER_REUSE_IDS,
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=ID)
    # A copy of the names of its tags, kept by `writing.py` and `tags.py`, so that a list needs no
    # other table.
    tags: list[str] = Field(default=[], sa_type=JSON)
    owner_id: int | None = Field(
        default=None, foreign_key="user.id", ondelete="SET NULL", sa_type=ID
    )
    owner: Optional["User"] = Relationship(back_populates="tasks")
    # `writing.py` makes it unique in one INSERT: by it, SQLAlchemy finds which task got which id.
    created_at: datetime = Field(default_factory=now, sa_column_kwargs={"insert_sentinel": True})
    updated_at: datetime = Field(default_factory=now)
    completed_at: datetime | None = None
    deleted_at: datetime | None = None
    version: int = 1
    # What `q` searches, and what a sort by title compares.
    folded_title: str = Field(default="", sa_type=FOLDED)
    folded_description: str | None = Field(default=None, sa_type=FOLDED)

    def change(self, values: dict[str, Any]) -> None:
        """Set the values; if any is new, this is a new version of the task."""
        if any(getattr(self, name) != value for name, value in values.items()):
            self.sqlmodel_update(with_folded_texts(values))
            self.set_completed_at()
            self.updated_at = now()
            self.version += 1

    def set_completed_at(self) -> None:
        """Set `completed_at` when the status becomes completed; clear it when that changes."""
        if self.status != TaskStatus.completed:
            self.completed_at = None
        elif self.completed_at is None:
            self.completed_at = now()


class TaskPublic(TaskBase):
    """What a client sees of a task."""

    model_config = ALL_FIELDS_ARE_SENT

    tags: list[str]
    id: int
    owner_id: int | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    deleted_at: datetime | None
    version: int


# MISSING is the value of a field that was not sent. `model_dump()` leaves it out, and a field with
# this default can refuse null, unlike a field whose default is None.


class TaskCreate(TaskBase, RequestBody):
    """What a client sends to create a task."""

    public = TaskPublic
    model_config = example(
        title="Write the report",
        description="Ten pages, and a summary",
        status="pending",
        priority=3,
        due_at="2027-01-29T18:00:00+01:00",
        tags=["report"],
    )

    tags: TagNames = []
    owner_id: Id | MISSING | None = Field(
        default=MISSING, description="A user, or null for nobody. By default, who is signed in"
    )


class TaskUpdate(RequestBody):
    """What a client sends to change a task. Fields that are not sent stay as they are."""

    public = TaskPublic
    model_config = example(status="in_progress", due_at="2027-02-05T18:00:00+01:00")

    title: Title | MISSING = MISSING
    description: Description | MISSING | None = MISSING
    status: TaskStatus | MISSING = MISSING
    priority: Priority | MISSING = MISSING
    due_at: UtcDatetime | MISSING | None = MISSING
    tags: TagNames | MISSING = MISSING
    owner_id: Id | MISSING | None = Field(
        default=MISSING, description="The owner that the task has: a transfer changes it"
    )
    version: Version | MISSING = Field(
        default=MISSING, description="The version that you know: another one is not changed"
    )


class TaskBulkUpdate(TaskUpdate):
    """What a client sends to change one of many tasks."""

    model_config = example(id=1, priority=4, due_at="2027-02-05T18:00:00+01:00")

    id: Id


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


class TaskTag(SQLModel, table=True):
    """The table that links tasks to tags, many to many, by which tasks are found and counted."""

    __tablename__ = "task_tag"
    __table_args__ = (Index(None, "tag_id", "task_id"),)

    task_id: int = Field(foreign_key="task.id", ondelete="CASCADE", primary_key=True, sa_type=ID)
    tag_id: int = Field(foreign_key="tag.id", ondelete="CASCADE", primary_key=True, sa_type=ID)


class TagBase(SQLModel):
    """The field that the table of tags and its variants share."""

    name: TagName = Field(schema_extra={"examples": ["report"]})


class Tag(TagBase, table=True):
    """The table of tags. The name is kept as it was first written."""

    __table_args__ = (UniqueConstraint("folded_name"), NEVER_REUSE_IDS)

    id: int | None = Field(default=None, primary_key=True, sa_type=ID)
    folded_name: str = Field(sa_type=FOLDED)  # names that are equal when folded are one tag
    # The links go with the tag by `ondelete`, without being read before.
    tasks: list[Task] = Relationship(link_model=TaskTag, passive_deletes=True)


class TagPublic(TagBase):
    """What a client sees of a tag."""

    id: int
    task_count: int = Field(description="How many tasks have it, without those in the trash")


class TagUpdate(TagBase, RequestBody):
    """What a client sends to rename a tag."""

    public = TagPublic


class TagDeleted(SQLModel):
    """What a client sees of a tag that it deleted."""

    message: str
    tag_id: int


class TagsDeleted(SQLModel):
    """What a client sees when it has deleted all unused tags."""

    message: str
    count: int


class UserBase(SQLModel):
    """The fields that the table of users and its variants share."""

    username: Username
    email: Email
    full_name: ShortText | None = Field(default=None, schema_extra={"examples": ["Bob Brown"]})
    is_admin: StrictBool = False


class User(UserBase, table=True):
    """The table of users."""

    __table_args__ = (UniqueConstraint("username"), UniqueConstraint("email"), NEVER_REUSE_IDS)

    id: int | None = Field(default=None, primary_key=True, sa_type=ID)
    is_active: bool = True
    password_hash: str = Field(repr=False)
    # Tokens with another version are not valid.
    token_version: int = 1
    created_at: datetime = Field(default_factory=now)
    updated_at: datetime = Field(default_factory=now, sa_column_kwargs={"onupdate": now})
    # They lose their owner by `ondelete` of `owner_id`, without being read before.
    tasks: list[Task] = Relationship(back_populates="owner", passive_deletes="all")


class UserPublic(UserBase):
    """What a client sees of a user."""

    model_config = ALL_FIELDS_ARE_SENT

    id: int
    is_active: bool
    created_at: datetime
    updated_at: datetime


class UserCreate(UserBase, RequestBody):
    """What a client sends to create a user."""

    public = UserPublic
    model_config = example(
        username="bob",
        email="bob@example.com",
        full_name="Bob Brown",
        password="towel-number-42",  # noqa: S106  # an example
    )

    is_active: StrictBool = True
    password: Password


class UserUpdate(RequestBody):
    """What a client sends to change a user. Fields that are not sent stay as they are."""

    public = UserPublic
    model_config = example(full_name="Robert Brown")

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


class UserDeleted(SQLModel):
    """What a client sees of a user that it deleted."""

    message: str
    user_id: int


class TransferBase(SQLModel):
    """The owner of a task before and after, where null is nobody."""

    from_user_id: Id | None = Field(sa_type=ID, schema_extra={"examples": [None]})
    to_user_id: Id | None = Field(sa_type=ID, schema_extra={"examples": [1]})


class Transfer(TransferBase, table=True):
    """The table of transfers, which keeps the ids of deleted users."""

    __table_args__ = (Index(None, "task_id", "id"), NEVER_REUSE_IDS)

    id: int | None = Field(default=None, primary_key=True, sa_type=ID)
    task_id: int = Field(foreign_key="task.id", ondelete="CASCADE", sa_type=ID)
    by_user_id: int | None = Field(sa_type=ID)
    created_at: datetime = Field(default_factory=now)


class TransferPublic(TransferBase):
    """What a client sees of a transfer."""

    id: int
    task_id: int
    by_user_id: int | None = Field(description="Who was signed in")
    created_at: datetime


class TransferCreate(TransferBase, RequestBody):
    """What a client sends to give a task to another user."""


class IdempotencyKey(SQLModel, table=True):
    """The table of the `Idempotency-Key` of each request, and of the tasks that it created."""

    __tablename__ = "idempotency_key"
    __table_args__ = (UniqueConstraint("user_id", "key"),)

    id: int | None = Field(default=None, primary_key=True, sa_type=ID)
    user_id: int = Field(sa_type=ID)  # 0 without sign-in, since UNIQUE would let NULL repeat
    key: str
    # Of the body, which has to be the same; None from before version 0008 of the schema.
    request_hash: str | None
    # No id is None, though the type of `Task.id` allows it.
    task_ids: list[int | None] = Field(default=[], sa_type=JSON)
    created_at: datetime = Field(default_factory=now, index=True)
