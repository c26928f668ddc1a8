"""The routes of tags: a rename or a deletion reaches all tasks that have the tag."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from sqlalchemy import Row
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import with_parent
from sqlmodel import Session, SQLModel, col, func, select

from api.errors import ApiError, NotFound
from api.filters import NOT_IN_TRASH
from api.folding import fold
from api.locks import find_and_lock, lock
from api.pages import Page, PageQuery, read_page
from api.public import PublicResponse
from api.sign_in import ApiRoute
from database import SessionDep
from models import Tag, TagDeleted, TagPublic, TagUpdate, Task, TaskTag

PORTION = 1000  # tasks that a rename holds in memory


class TagTaken(ApiError, status=409):
    """Another tag has this name."""


TagId = Annotated[int, Path(description="The id of the tag"), NotFound]

router = APIRouter(prefix="/tags", tags=["tags"], route_class=ApiRoute)


@router.get("", response_model=list[TagPublic])
def read_tags(query: Annotated[PageQuery, Query()], request: Request, session: SessionDep) -> Page:
    """List the tags, a page at a time, each with the number of tasks that have it.

    Tasks in the trash are not counted. A tag stays when no task has it any more.
    """
    return read_page(session, request, query, Tag, TagPublic, partial(with_counts, session))


@router.patch("/{tag_id:id}", response_model=TagPublic)
def rename_tag(
    tag_id: TagId, tag_update: Annotated[TagUpdate, TagTaken], session: SessionDep
) -> PublicResponse:
    """Rename a tag in all tasks that have it. For each of them, this is a change."""
    tag = find_and_lock(session, Tag, tag_id)
    old_name, new_name = tag.name, tag_update.name
    if new_name != old_name:
        tag.name, tag.folded_name = new_name, fold(new_name)
        try:
            session.flush()
        except IntegrityError:
            raise TagTaken from None
        replace_name(session, tag, old_name, [new_name])
    [public] = with_counts(session, TagPublic, [tag])
    session.commit()
    return PublicResponse(public)


@router.delete("/{tag_id:id}")
def delete_tag(tag_id: TagId, session: SessionDep) -> TagDeleted:
    """Delete a tag. All tasks that have it stay, and lose it, which is a change of each."""
    tag = find_and_lock(session, Tag, tag_id)
    replace_name(session, tag, tag.name, [])
    session.delete(tag)
    session.commit()
    return TagDeleted(message="Tag deleted", tag_id=tag_id)


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
    statement = select(tag_id, func.count()).join(Task).group_by(tag_id)
    of_tags = statement.where(tag_id.in_([tag.id for tag in tags]), NOT_IN_TRASH)
    counts: dict[int | None, int] = dict(session.exec(of_tags).all())
    return [
        public.model_validate(tag, update={"task_count": counts.get(tag.id, 0)}) for tag in tags
    ]
