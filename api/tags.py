"""The routes of tags: a rename or a deletion reaches all tasks that have the tag."""

from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import AfterValidator, WithJsonSchema
from sqlalchemy import ColumnElement, Row
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import with_parent
from sqlmodel import (
    Field,
    Session,
    SQLModel,
    col,
    delete,
    exists,
    func,
    not_,
    or_,
    outerjoin,
    select,
)

from api.engines import ConnectionLimit
from api.errors import ApiError, NotFound
from api.field_types import TagName
from api.filters import IN_TRASH
from api.folding import fold
from api.locks import find_and_lock, lock
from api.outages import first_line
from api.pages import Page, PageQuery, read_page
from api.public import PublicResponse
from api.sign_in import ApiRoute, CurrentAdminDep
from database import SessionDep
from models import Tag, TagDeleted, TagPublic, TagsDeleted, TagUpdate, Task, TaskTag

PORTION = 1000  # tasks that a rename holds in memory, and tags that a deletion does
# By any task, in the trash too: no task loses such a tag with it.
IS_UNUSED: ColumnElement[bool] = not_(exists().where(col(TaskTag.tag_id) == Tag.id))


class TagTaken(ApiError, status=409):
    """Another tag has this name."""


TagId = Annotated[int, Path(description="The id of the tag"), NotFound]


class TagQuery(PageQuery):
    """Which tags a client asks for, and which page of them."""

    name: TagName | None = Field(default=None, description="This name, in any case and encoding")
    unused: bool | None = Field(
        default=None, description="Whether no task has it, in the trash neither"
    )

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield the conditions that all have to be true for a tag."""
        if self.name is not None:
            yield col(Tag.folded_name) == fold(self.name)
        if self.unused is not None:
            yield IS_UNUSED if self.unused else not_(IS_UNUSED)


def require_true(value: bool) -> bool:  # noqa: FBT001  # as a validator is called
    """Refuse false, since to delete all used tags is no call."""
    if not value:
        raise ValueError("Input should be true: only unused tags are deleted together")
    return value


OnlyUnused = Annotated[
    bool,
    AfterValidator(require_true),
    WithJsonSchema({"type": "boolean", "const": True}),
    Query(description="Has to be true"),
]

two_at_once = ConnectionLimit(2)


async def wait_to_count() -> AsyncIterator[None]:
    """Let two requests at a time count, since the tasks of a page of tags may be a million."""
    async with two_at_once:
        yield


router = APIRouter(prefix="/tags", tags=["tags"], route_class=ApiRoute)


# It waits before it takes a connection, which `SessionDep` does.
@router.get(
    "",
    response_model=list[TagPublic],
    dependencies=[Depends(wait_to_count, scope="function")],
)
def read_tags(query: Annotated[TagQuery, Query()], request: Request, session: SessionDep) -> Page:
    """List the tags, a page at a time, each with the number of tasks that have it.

    Tasks in the trash are not counted. A tag stays when no task has it any more.
    """
    return read_page(session, request, query, Tag, TagPublic, partial(with_counts, session))


@router.get("/{tag_id:id}", response_model=TagPublic)
def read_tag(tag_id: TagId, session: SessionDep) -> PublicResponse:
    """Return one tag, with the number of tasks that have it."""
    tag = session.get(Tag, tag_id)
    if tag is None:
        raise NotFound("Tag not found")
    return show_tag(session, tag)


@router.patch("/{tag_id:id}", response_model=TagPublic)
def rename_tag(
    tag_id: TagId, tag_update: Annotated[TagUpdate, TagTaken], session: SessionDep
) -> PublicResponse:
    """Rename a tag in all tasks that have it. For each of them, this is a change."""
    new_name, folded_name = tag_update.name, fold(tag_update.name)
    # Together with the tag that has the new name, if any: or two renames that swap names would wait
    # for each other.
    has_name = col(Tag.folded_name) == folded_name
    tags = {tag.id: tag for tag in lock(session, Tag, or_(col(Tag.id) == tag_id, has_name))}
    tag = tags.pop(tag_id, None)
    if tag is None:
        raise NotFound("Tag not found")
    if tags:
        raise TagTaken
    old_name = tag.name
    if new_name != old_name:
        tag.name, tag.folded_name = new_name, folded_name
        try:
            session.flush()
        except IntegrityError as error:
            if "folded_name" not in first_line(error):
                raise
            raise TagTaken from None  # another request has just created the tag
        replace_name(session, tag, old_name, [new_name])
    response = show_tag(session, tag)
    session.commit()
    return response


@router.delete("/{tag_id:id}")
def delete_tag(tag_id: TagId, session: SessionDep) -> TagDeleted:
    """Delete a tag. All tasks that have it stay, and lose it, which is a change of each."""
    tag = find_and_lock(session, Tag, tag_id)
    replace_name(session, tag, tag.name, [])
    session.delete(tag)
    session.commit()
    return TagDeleted(message="Tag deleted", tag_id=tag_id)


@router.delete("")
def delete_unused_tags(
    unused: OnlyUnused,  # noqa: ARG001  # so that nobody deletes tags by a path that is too short
    current_admin: CurrentAdminDep,  # noqa: ARG001  # refuses others
    session: SessionDep,
) -> TagsDeleted:
    """Delete all tags that no task has, in the trash neither.

    With sign-in, only administrators may do this.
    """
    count = 0
    last_id: int | None = 0
    # A portion at a time, so that nobody waits for all. Those that other requests have locked are
    # skipped, since they are about to be used.
    while tags := lock(
        session, Tag, IS_UNUSED, col(Tag.id) > last_id, limit=PORTION, skip_locked=True
    ):
        ids = [tag.id for tag in tags]
        # Before it was locked, another request may have given a tag to a task.
        still_unused = delete(Tag).where(col(Tag.id).in_(ids), IS_UNUSED)
        count += session.connection().execute(still_unused).rowcount
        session.commit()
        session.expunge_all()
        last_id = ids[-1]
    return TagsDeleted(message="Unused tags deleted", count=count)


def replace_name(session: Session, tag: Tag, old_name: str, new_names: list[str]) -> None:
    """Replace the name of a tag in all tasks that have the tag.

    A portion at a time: when 100,000 tasks were changed at once, it took 38 s and 173 MiB.
    """
    last_id: int | None = 0
    of_tag = with_parent(tag, Tag.tasks)  # type: ignore[arg-type]  # `tag.tasks`, as a condition
    while tasks := lock(session, Task, of_tag, col(Task.id) > last_id, limit=PORTION):
        for task in tasks:
            # Meanwhile, a task may have lost the tag.
            if old_name in task.tags:
                names = [name for name in task.tags if name != old_name]
                task.change({"tags": sorted(names + new_names, key=fold)})
        session.flush()
        last_id = tasks[-1].id
        session.expunge_all()  # forget the tasks, but not the tag
        session.add(tag)


def with_counts(
    session: Session, public: type[SQLModel], tags: Sequence[Tag | Row[Any]]
) -> list[SQLModel]:
    """Return the tags as clients see them, each with the number of its tasks."""
    tag_id = col(TaskTag.tag_id)
    # SQLite would look into each task, which takes seven times as long as to read the trash first.
    trash = select(Task.id).where(IN_TRASH).cte().prefix_with("MATERIALIZED", dialect="sqlite")
    links = outerjoin(TaskTag, trash, trash.c.id == TaskTag.task_id)
    statement = select(tag_id, func.count()).select_from(links).group_by(tag_id)
    of_tags = statement.where(tag_id.in_([tag.id for tag in tags]), trash.c.id.is_(None))
    counts: dict[int | None, int] = dict(session.exec(of_tags).all())
    return [
        public.model_validate(tag, update={"task_count": counts.get(tag.id, 0)}) for tag in tags
    ]


def show_tag(session: Session, tag: Tag) -> PublicResponse:
    """Return the response with one tag."""
    return PublicResponse(with_counts(session, TagPublic, [tag])[0])
