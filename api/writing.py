"""How tasks are written: created by one INSERT, changed by one UPDATE, and linked to their tags."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from pydantic import MISSING
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm.attributes import flag_modified
from sqlmodel import Session, col, delete, insert, inspect

from api.clock import now
from api.folding import fold
from api.locks import AGAINST_DELETION, lock, lock_owners
from api.problems import Place, problem, raise_problems
from models import Tag, Task, TaskCreate, TaskTag, TaskUpdate, User, with_folded_texts

# Its ids come back in the order of the tasks, by the sentinel of `Task.created_at`. For one task,
# `add` and `flush` of the session took 610 µs; this takes 420.
INSERT_TASKS = insert(Task).returning(col(Task.id), sort_by_parameter_order=True)
INSERT_TAGS = insert(Tag).returning(col(Tag.id), col(Tag.folded_name))
MAX_NEW_TAGS = 1000  # of a request, since all other writes wait for it on SQLite

# What is sent with a change only to be compared with the task.
NOT_CHANGED = {"id", "owner_id", "version"}
TRANSFER_INSTEAD = "The task has another owner: POST /tasks/{task_id}/transfer changes the owner"

Tags = dict[str, Tag]  # by their folded names


def find_or_create_tags(session: Session, sent: Iterable[Task | TaskUpdate]) -> Tags:
    """Return the tags that clients sent for tasks; create those that are missing.

    Raise 422 if too many are missing. Until the transaction ends, no other request renames or
    deletes the tags.
    """
    sent_names = [name for each in sent if each.tags is not MISSING for name in each.tags]
    # Of names that are equal when folded, the first is kept.
    names = {fold(name): name for name in reversed(sent_names)}
    if not names:
        return {}
    for _ in range(10):  # three were not enough where 16 clients created, renamed and deleted five
        found = lock(session, Tag, col(Tag.folded_name).in_(names), **AGAINST_DELETION)
        tags = {tag.folded_name: tag for tag in found}
        if len(tags) == len(names):
            return tags
        try:
            with session.begin_nested():  # if this fails, only this is rolled back
                return tags | insert_tags(session, names, names.keys() - tags.keys())
        except IntegrityError as error:  # another request has just created one: it is found now
            last_error = error
    raise last_error  # here, so that it has no chain of causes


def insert_tags(session: Session, names: dict[str, str], missing: set[str]) -> Tags:
    """Insert the missing tags by one statement, and return them; raise 422 if they are too many."""
    if len(missing) > MAX_NEW_TAGS:
        message = f"Input should have {MAX_NEW_TAGS} or fewer tags that do not exist yet"
        raise_problems([problem("too_many_new_tags", ("body",), message)])
    # In their order, so that no two requests wait for each other.
    values = [{"name": names[folded], "folded_name": folded} for folded in sorted(missing)]
    # The session does not know these objects, which do not change any more.
    return {
        folded: Tag(id=tag_id, name=names[folded], folded_name=folded)
        for tag_id, folded in session.connection().execute(INSERT_TAGS, values)
    }


def sorted_names(tags: Tags, names: Iterable[str]) -> list[str]:
    """Return the names of these tags as they were first written, each once and in order."""
    return [tags[folded].name for folded in sorted({fold(name) for name in names})]


def insert_links(session: Session, tasks: Iterable[Task], tags: Tags) -> None:
    """Link tasks to their tags, by one statement."""
    links = [
        {"task_id": task.id, "tag_id": tags[fold(name)].id} for task in tasks for name in task.tags
    ]
    if links:
        session.connection().execute(insert(TaskTag), links)


def new_task(task_create: TaskCreate, current_user: User | None, created_at: datetime) -> Task:
    """Return the task to create. Its owner is who is signed in, unless the client sent another."""
    # An owner that was not sent is MISSING, so not in the dump.
    owner = {"owner_id": current_user.id} if current_user else {}
    datetimes = {"created_at": created_at, "updated_at": created_at}
    task = Task.model_validate(with_folded_texts(owner | task_create.model_dump() | datetimes))
    task.set_completed_at()
    return task


def insert_tasks(
    session: Session,
    task_creates: Sequence[TaskCreate],
    places: Sequence[Place],
    current_user: User | None,
) -> list[Task]:
    """Insert new tasks, and return them.

    Raise 422 if an owner does not exist; the places of the tasks in the request are for its errors.
    """
    created_at = now()
    tasks = [
        # Each a microsecond later, so that a list sorted by `created_at` keeps this order.
        new_task(task_create, current_user, created_at + timedelta(microseconds=position))
        for position, task_create in enumerate(task_creates)
    ]
    owner_ids = (task.owner_id for task in tasks)
    owner_places = ((*place, "owner_id") for place in places)
    lock_owners(session, dict(zip(owner_places, owner_ids, strict=True)))
    tags = find_or_create_tags(session, tasks)
    for task in tasks:
        task.tags = sorted_names(tags, task.tags)
    values = [task.model_dump(exclude={"id"}) for task in tasks]
    ids = session.connection().execute(INSERT_TASKS, values).scalars()
    # The session does not know these objects, which do not change any more.
    for task, task_id in zip(tasks, ids, strict=True):
        task.id = task_id
    insert_links(session, tasks, tags)
    return tasks


def change_tasks(
    session: Session,
    tasks: Sequence[Task],
    task_updates: Sequence[TaskUpdate],
    places: Sequence[Place],
    tags: Tags,
) -> None:
    """Give each locked task its new values, to be written together by the commit.

    Raise 422 if an owner is sent who is not that of the task; the places are for its errors.
    """
    raise_problems(
        problem("owner_is_another", (*place, "owner_id"), TRANSFER_INSTEAD)
        for task, task_update, place in zip(tasks, task_updates, places, strict=True)
        if task_update.owner_id not in (MISSING, task.owner_id)
    )
    retagged = []
    for task, task_update in zip(tasks, task_updates, strict=True):
        # What was not sent is MISSING, so not in the dump.
        values = task_update.model_dump(exclude=NOT_CHANGED)
        if "tags" in values:
            values["tags"] = sorted_names(tags, values["tags"])
            if values["tags"] != task.tags:
                retagged.append(task)
        task.change(values)
    write_together(tasks)
    if retagged:
        ids = [task.id for task in retagged]
        session.exec(delete(TaskTag).where(col(TaskTag.task_id).in_(ids)))
        insert_links(session, retagged, tags)


def write_together(tasks: Iterable[Task]) -> None:
    """Let the UPDATEs of tasks be sent in one round trip, as those of the same columns are.

    So each changed task writes, unchanged, the columns too that only other tasks change: if one
    gets a title and another a priority, both UPDATEs set both.
    """
    # `committed_state` has the changed attributes only.
    changed = {name for task in tasks for name in inspect(task).committed_state}
    for task in tasks:
        if inspect(task).committed_state:
            for name in changed:
                flag_modified(task, name)
