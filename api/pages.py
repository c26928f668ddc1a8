"""Pages: which page of a list a client asks for, and how it is read."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar
from urllib.parse import quote, urlencode

from fastapi import Request
from pydantic import StringConstraints, ValidationInfo, field_validator
from sqlalchemy import ColumnElement, Row, Select
from sqlmodel import Field, Session, SQLModel, col, func
from starlette.datastructures import URL

from api.clock import days_ago, stopped_clock
from api.errors import document_header
from api.field_types import CURSOR, QueryDays, QueryInteger, QueryLimit
from api.filters import TaskFilter
from api.public import PublicResponse, list_public, select_public
from api.sorts import TaskSort, read_cursor, sort_page, write_cursor
from models import Tag, Task, TaskPublic, Transfer, User

Listed = type[Tag] | type[Task] | type[Transfer] | type[User]


class PageBase(SQLModel):
    """The fields that all queries of pages share."""

    model_config = {"frozen": True}  # to be a key of the cache of `select_page`

    limit: QueryLimit = Field(default=100, description="The maximum number to return")
    offset: QueryInteger = Field(default=0, description="The number to skip")
    count: bool = Field(default=False, description="Whether to send `X-Total-Count`")


class PageQuery(PageBase):
    """Which page of a list, sorted by id, a client asks for."""

    after: QueryInteger | None = Field(
        default=None,
        description="The last id of the page before. Unlike `offset`, it counts nothing before",
    )

    sort: ClassVar[str] = "id"

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield no condition, since such a list has no filters."""
        yield from ()


class TaskQuery(TaskFilter, PageBase):
    """Which tasks a client asks for, in which order, and which page of them."""

    sort: TaskSort = Field(
        default=TaskSort.ID,
        description="The field to sort by, descending with a `-` in front. Between equal values "
        "the id decides, in the same direction. Tasks without `due_at` come last in both. Titles "
        "are sorted without regard to case, by the code points of their characters.",
    )
    # After `sort`, which `require_cursor` needs. The pattern is for the documentation.
    after: Annotated[str, StringConstraints(pattern=CURSOR)] | None = Field(
        default=None,
        description="The id of the last task of the page before. If `sort` is another field: the "
        "value of that task in this field, a comma, and the id, as in `3,17` for the priority; "
        "`Link` has it. Unlike `offset`, it counts nothing before",
    )

    @field_validator("after")
    @classmethod
    def require_cursor(cls, after: str | None, info: ValidationInfo) -> str | None:
        """Refuse a cursor that does not fit the sort."""
        # `info.data` has the fields above, as far as they are right.
        if after is not None and "sort" in info.data:
            read_cursor(info.data["sort"], after)
        return after


class RecentQuery(TaskQuery):
    """The same for the tasks created in the last days."""

    days: QueryDays = Field(default=7, description="Created in the last `days` days")

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield the conditions that all have to be true for a task."""
        yield from super().conditions()
        yield col(Task.created_at) >= days_ago(self.days)


class Page(PublicResponse):
    """A response with a page of a list. If another page follows, `Link` has its URL (RFC 8288)."""

    documented_headers = document_header(
        "Link", 'The URL of the next page, if there is one, with `rel="next"`'
    ) | document_header("X-Total-Count", "With `count=true`, the number on all pages", "integer")


def read_page(
    session: Session,
    request: Request,
    query: PageQuery | TaskQuery,
    table: Listed = Task,
    public: type[SQLModel] = TaskPublic,
    show: Callable[[type[SQLModel], Sequence[Row[Any]]], object] = list_public,
    **column_values: object,
) -> Page:
    """Return the page that the query asks for, of tasks or of the rows of another table.

    `show` makes of the rows what is sent. The rows must have `column_values` in these columns.
    """
    headers = {}
    connection = session.connection()
    if query.count:
        matching = select_matching(table, public, query, **column_values)
        # SELECT count(*) of the same rows
        counting = matching.with_only_columns(func.count(), maintain_column_froms=True)
        headers["X-Total-Count"] = str(connection.execute(counting).scalar_one())
    rows = connection.execute(select_page(table, public, query, **column_values)).all()
    if len(rows) > query.limit:
        rows = rows[: query.limit]
        headers["Link"] = f'<{next_url(request, write_cursor(query.sort, rows[-1]))}>; rel="next"'
    return Page(show(public, rows), headers=headers)


def next_url(request: Request, after: str) -> str:
    """Return the URL of the request, with the cursor of the next page."""
    sent = [
        (name, value)
        for name, value in request.query_params.multi_items()
        if name not in ("after", "offset")
    ]
    query = urlencode([*sent, ("after", after)], safe=",")
    # Quoted, since a header has to be ASCII.
    next_scope = {"path": quote(request.scope["path"]), "query_string": query.encode()}
    return str(URL(scope={**request.scope, **next_scope}))


def select_matching(
    table: Listed, public: type[SQLModel], query: PageQuery | TaskFilter, **column_values: object
) -> Select[Any]:
    """Return the SELECT of all rows that match the query and have these values in these columns."""
    conditions = [getattr(table, name) == value for name, value in column_values.items()]
    return select_public(table, public).where(*query.conditions(), *conditions)


@lru_cache  # to build an equal SELECT again takes a sixth of the instructions of a list
def select_page(
    table: Listed, public: type[SQLModel], query: PageQuery | TaskQuery, **column_values: object
) -> Select[Any]:
    """Return the SELECT of a page, and of one more row, which tells whether there is a next page.

    For `?sort=priority&after=3,17&limit=2` it is:

        SELECT ... FROM task WHERE deleted_at IS NULL AND (priority, id) > (3, 17)
        ORDER BY priority, id LIMIT 3

    PostgreSQL starts at (3, 17) in the index on both columns. SQLite uses only the first column,
    so it reads all tasks of priority 3.
    """
    with stopped_clock():
        statement = select_matching(table, public, query, **column_values)
        return sort_page(statement, table, query.sort, query.after, query.offset, query.limit + 1)
