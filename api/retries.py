"""Retries: with an `Idempotency-Key`, a request may be sent again and creates nothing twice."""

from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Annotated

from fastapi import Depends, Header
from pydantic_core import to_json
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, delete, select

from api.clock import now
from api.errors import ApiError
from api.folding import fold
from api.problems import Place, places_of_items, problem, raise_problems
from api.sign_in import CurrentUserDep
from api.writing import insert_tasks
from database import SessionDep
from models import IdempotencyKey, Task, TaskCreate, User

KEY_LIFETIME = timedelta(days=7)
KEY_REUSED = "Input should be another key: this one was used with another body"


class CreatedButDeleted(ApiError, status=409):
    """A task that was created with this key has been deleted for good."""


KeyHeader = Annotated[
    str | None,
    Header(min_length=1, max_length=200, description="Any text, another one for each new request"),
    CreatedButDeleted,
]


@dataclass
class Once:
    """Inserts the tasks of a request, but only once for each `Idempotency-Key` of a user."""

    session: Session
    user: User | None
    key: str | None

    def insert_one(self, task_create: TaskCreate) -> Task:
        """Insert a task as `insert` does."""
        [task] = self.insert([task_create], [("body",)])
        return task

    def insert_many(self, task_creates: list[TaskCreate]) -> list[Task]:
        """Insert many tasks as `insert` does."""
        return self.insert(task_creates, places_of_items(task_creates))

    def insert(self, task_creates: list[TaskCreate], places: list[Place]) -> list[Task]:
        """Insert new tasks; or, if the key was used before, return the tasks of that request.

        Raise 422 if an owner does not exist, or the key was used with another body. Raise 409 if a
        task of the earlier request was deleted for good.
        """
        if self.key is None:
            return insert_tasks(self.session, task_creates, places, self.user)
        delete_expired_keys(self.session)
        row = IdempotencyKey(
            user_id=(self.user and self.user.id) or 0,
            key=self.key,
            request_hash=hash_request(task_creates, places),
        )
        self.session.add(row)
        try:
            self.session.flush()  # which waits if another request is inserting this key
        except IntegrityError as error:
            self.session.rollback()  # which leaves `row` as it is, since that was not stored
            return find_created(self.session, row, error)
        tasks = insert_tasks(self.session, task_creates, places, self.user)
        row.task_ids = [task.id for task in tasks]
        return tasks


def hash_request(task_creates: list[TaskCreate], places: list[Place]) -> str:
    """Return a hash that is the same for a request that creates the same tasks."""
    # Without the defaults, so that a field which is added later changes no hash.
    dumps = [task_create.model_dump(exclude_defaults=True) for task_create in task_creates]
    for dump in dumps:
        if "tags" in dump:  # a set, in any order and case
            dump["tags"] = sorted({fold(name) for name in dump["tags"]})
    return sha256(to_json([*zip(places, dumps, strict=True)])).hexdigest()


async def get_once(
    session: SessionDep, current_user: CurrentUserDep, idempotency_key: KeyHeader = None
) -> Once:
    """Return what inserts the tasks of a request: `async`, since FastAPI runs others in threads."""
    return Once(session, current_user, idempotency_key)


OnceDep = Annotated[Once, Depends(get_once)]


def delete_expired_keys(session: Session) -> None:
    """Delete the oldest expired keys. There may be a million, too many to delete at once."""
    created_at = col(IdempotencyKey.created_at)
    expired = select(IdempotencyKey.id).where(created_at < now() - KEY_LIFETIME)
    # Those that another request deletes at the same time are skipped.
    oldest = expired.order_by(created_at).limit(100).with_for_update(skip_locked=True)
    session.exec(delete(IdempotencyKey).where(col(IdempotencyKey.id).in_(oldest)))


def find_created(session: Session, repeated: IdempotencyKey, error: IntegrityError) -> list[Task]:
    """Return the tasks that an earlier request with this key has created.

    Raise 422 and 409 as `Once.insert` says. If there was no such request, raise the error again.
    """
    same_key = (
        col(IdempotencyKey.user_id) == repeated.user_id,
        col(IdempotencyKey.key) == repeated.key,
    )
    earlier = session.exec(select(IdempotencyKey).where(*same_key)).one_or_none()
    if earlier is None:
        raise error  # not a new error, whose traceback would show the values that were sent
    if earlier.request_hash not in (None, repeated.request_hash):
        place = ("header", "Idempotency-Key")
        raise_problems([problem("idempotency_key_reused", place, KEY_REUSED)])
    # The ids are in the order of the request.
    of_request = col(Task.id).in_(earlier.task_ids)
    tasks = [*session.exec(select(Task).where(of_request).order_by(col(Task.id)))]
    if len(tasks) < len(earlier.task_ids):
        raise CreatedButDeleted
    return tasks
