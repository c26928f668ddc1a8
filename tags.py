"""The routes of tags, and the tags that tasks are created with or changed to."""

from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Request
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, insert, select, update

from database import SessionDep
from models import Tag, TagDeleted, TagPublic, TagUpdate, Task, TaskTag, now, tag_key
from queries import PageQuery, select_public
from responses import (
    BAD_BODY,
    NOT_FOUND,
    OK_WITH_LINK,
    PublicResponse,
    document_error,
    read_page,
    to_public,
)

IS_TAKEN = "Another tag has this name"
TAKEN = document_error(409, IS_TAKEN)

TagId = Annotated[int, Path(description="The id of the tag")]

router = APIRouter(prefix="/tags", tags=["tags"])


@router.get("", responses=OK_WITH_LINK)
def read_tags(
    query: Annotated[PageQuery, Query()], request: Request, session: SessionDep
) -> PublicResponse[list[TagPublic]]:
    """List the tags, a page at a time, each with the number of tasks that have it.

    Tasks in the trash are not counted. A tag stays when no task has it any more.
    """
    return read_page(session, request, query, Tag, TagPublic)


@router.patch("/{tag_id:id}", responses=NOT_FOUND | TAKEN | BAD_BODY)
def rename_tag(
    tag_id: TagId, tag_update: TagUpdate, session: SessionDep
) -> PublicResponse[TagPublic]:
    """Rename a tag in all tasks that have it. For each of them, this is a change."""
    tag = find_tag(session, tag_id)
    if tag.name != tag_update.name:
        # The key before the tasks are locked; the name, which changes their links, after that.
        tag.key = tag_key(tag_update.name)
        flush_key(session)
        record_change(session, tag)
        tag.name = tag_update.name
        session.flush()
    # As a row, since only a SELECT has the number of tasks.
    statement = select_public(Tag, TagPublic).where(col(Tag.id) == tag_id)
    row = session.connection().execute(statement).one()
    session.commit()
    return PublicResponse(to_public(TagPublic, row))


@router.delete("/{tag_id:id}", responses=NOT_FOUND)
def delete_tag(tag_id: TagId, session: SessionDep) -> TagDeleted:
    """Delete a tag. All tasks that have it stay, and lose it, which is a change of each."""
    tag = find_tag(session, tag_id)
    record_change(session, tag)
    session.delete(tag)
    session.commit()
    return TagDeleted(message="Tag deleted", tag_id=tag_id)


# Every request locks users first, then tags and the keys of new ones, then tasks. In another order,
# two requests could wait for each other.


def find_tag(session: Session, tag_id: int) -> Tag:
    """Return the tag, or raise 404. Its row is locked until the transaction ends.

    Meanwhile no task gets the tag.
    """
    tag = session.get(Tag, tag_id, with_for_update=True)
    if tag is None:
        raise HTTPException(404, "Tag not found")
    return tag


def flush_key(session: Session) -> None:
    """Write the new key; raise 409 if another tag has it."""
    try:
        session.flush()
    except IntegrityError:
        raise HTTPException(409, IS_TAKEN) from None


def record_change(session: Session, tag: Tag) -> None:
    """Update the version and the datetime of all tasks that have the tag."""
    tagged = select(TaskTag.task_id).where(col(TaskTag.tag_name) == tag.name)
    has_tag = col(Task.id).in_(tagged)
    # Lock the tasks in the order of their ids, as `update_tasks` does.
    session.exec(select(Task.id).where(has_tag).order_by(col(Task.id)).with_for_update())
    changes = {"updated_at": now(), "version": Task.version + 1}
    # The session has none of these tasks, so it need not be told which have changed.
    statement = update(Task).where(has_tag).values(changes)
    session.exec(statement, execution_options={"synchronize_session": False})


def find_or_create_tags(session: Session, names: Iterable[str]) -> dict[str, Tag]:
    """Return the tag for each of the names, by its `tag_key`; create those that are missing.

    Until the transaction ends, no other request renames or deletes them.
    """
    # Of names that differ in case, the first is kept.
    by_key = {tag_key(name): name for name in reversed([*names])}
    if not by_key:
        return {}
    statement = select(Tag).where(col(Tag.key).in_(by_key)).order_by(col(Tag.id))
    found = session.exec(statement.with_for_update(read=True, key_share=True)).all()
    tags = {tag.key: tag for tag in found}
    # In the order of their keys, so that no two requests wait for each other.
    new = {key: Tag(name=by_key[key], key=key) for key in sorted(by_key.keys() - tags.keys())}
    if not new:
        return tags
    try:
        with session.begin_nested():
            session.add_all(new.values())
    except IntegrityError:  # another request has just created one of them: it is found now
        return find_or_create_tags(session, by_key.values())
    return tags | new


def tags_named(tags: dict[str, Tag], names: Iterable[str]) -> list[Tag]:
    """Return the tags with these names, each once, and in the order of `Task.tag_objects`."""
    return sorted((tags[key] for key in set(map(tag_key, names))), key=lambda tag: tag.id or 0)


def insert_links(session: Session, tasks: Iterable[Task]) -> None:
    """Insert by one statement which tags these new tasks have."""
    links = [
        {"task_id": task.id, "tag_name": tag.name} for task in tasks for tag in task.tag_objects
    ]
    if links:
        session.connection().execute(insert(TaskTag), links)
