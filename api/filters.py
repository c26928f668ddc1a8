"""Filters: which tasks a client asks for, and the condition that each filter becomes."""

from collections.abc import Callable, Iterator
from operator import eq, ge, gt, le, lt
from typing import Any

from sqlalchemy import ColumnElement, SQLColumnExpression
from sqlmodel import Field, SQLModel, and_, col, exists, not_, or_, select

from api.clock import days_ago
from api.field_types import FilterText, QueryInteger, QueryPriority, TagName, UtcDatetime
from api.folding import fold
from models import Tag, Task, TaskStatus, TaskTag

IN_TRASH = col(Task.deleted_at).is_not(None)
NOT_IN_TRASH = col(Task.deleted_at).is_(None)

# The operator, the column, and the value that the client sent, if any.
Comparison = tuple[Callable[[Any, Any], Any], SQLColumnExpression[Any], object]


class TaskFilter(SQLModel):
    """Which tasks a client asks for."""

    model_config = {"frozen": True}  # hashable: equal queries share a statement in `pages.py`

    status: tuple[TaskStatus, ...] = Field(default=(), description="Any of these statuses")
    priority_min: QueryPriority | None = Field(
        default=None, description="A priority of at least this"
    )
    priority_max: QueryPriority | None = Field(
        default=None, description="A priority of at most this"
    )
    q: FilterText | None = Field(
        default=None, description="Text in the title or the description, in any case and encoding"
    )
    tag: tuple[TagName, ...] = Field(default=(), max_length=20, description="All of these tags")
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
    owner_id: QueryInteger | None = Field(
        default=None, description="Owned by the user with this id"
    )
    unowned: bool | None = Field(default=None, description="Whether owned by nobody")
    deleted: bool = Field(default=False, description="Whether in the trash")

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield the conditions that all have to be true for a task."""
        if self.status:
            yield col(Task.status).in_(self.status)
        if self.q is not None:
            yield has_text(self.q)
        yield from map(has_tag, self.tag)
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
        for wanted, condition in (
            (self.untagged, not_(is_tagged())),
            (self.overdue, is_overdue()),
            (self.unowned, col(Task.owner_id).is_(None)),
            (self.deleted, IN_TRASH),
        ):
            if wanted is not None:
                yield condition if wanted else not_(condition)


def has_text(text: str) -> ColumnElement[bool]:
    """Return the condition that the title or the description of a task has this text."""
    columns = (col(Task.folded_title), col(Task.folded_description))
    return or_(*(column.contains(fold(text), autoescape=True) for column in columns))


def is_overdue() -> ColumnElement[bool]:
    """Return the condition that a task is due in the past and not completed."""
    due_at = col(Task.due_at)
    # Without a due date the comparison is NULL, and so would be its opposite.
    return and_(due_at.is_not(None), due_at < days_ago(0), col(Task.status) != TaskStatus.completed)


def has_tag(name: str) -> ColumnElement[bool]:
    """Return the condition that a task has the tag with this name."""
    # A `scalar_subquery` is the id as one value. With a join instead, PostgreSQL read all links of
    # the tag and sorted them: 9 ms instead of 2 for a tag of a thousand tasks.
    tag_id = select(Tag.id).where(Tag.folded_name == fold(name)).scalar_subquery()
    return col(Task.id).in_(select(TaskTag.task_id).where(TaskTag.tag_id == tag_id))


def is_tagged() -> ColumnElement[bool]:
    """Return the condition that a task has any tag."""
    return exists().where(col(TaskTag.task_id) == Task.id)
