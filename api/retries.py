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
from api.problems import places, problem, raise_problems
from api.sign_in import CurrentUserDep
from api.writing import Placed, insert_tasks
from database import SessionDep
from models import IdempotencyKey, Task, TaskCreate, User

KEY_LIFETIME = timedelta(days=7)


class CreatedButDeleted(ApiError, status=409):
    """A task that was created with this key has been deleted for good."""


KeyHeader = Annotated[
    str | None,
    Header(min_length=1, max_length=200, description="Any text, another one for each new request"),
    CreatedButDeleted,
]


@dataclass
class Once:
    """Inserts and commits the tasks of a request, but only once for each key of a user."""

    session: Session
    user: User | None
    key: str | None

    def insert(self, body: TaskCreate | list[TaskCreate]) -> list[Task]:
        """Insert new tasks; or, if the key was used before, return the tasks of that request.

        Raise 422 if an owner does not exist, or the key was used with another body. Raise 409 if a
        task of the earlier request was deleted for good.
        """
        placed: list[Placed] = [*places(body)] if isinstance(body, list) else [(("body",), body)]
        tasks = (
            insert_tasks(self.session, placed, self.user)
            if self.key is None
            else self.insert_with_key(self.key, placed)
        )
        self.session.commit()
        return tasks

    def insert_with_key(self, key: str, placed: list[Placed]) -> list[Task]:
        """Do the same with a key, of which the database stores each only once."""
        delete_expired_keys(self.session)
        # Without the defaults, so that a field which is added later changes no hash.
        sent = [(place, each.model_dump(exclude_defaults=True)) for place, each in placed]
        request_hash = sha256(to_json(sent)).hexdigest()
        user_id = (self.user and self.user.id) or 0
        row = IdempotencyKey(user_id=user_id, key=key, request_hash=request_hash)
        self.session.add(row)
        try:
            self.session.flush()  # which waits if another request is inserting this key
        except IntegrityError as error:
            self.session.rollback()  # `row` keeps its values, since it was not stored
            return find_created(self.session, row, error)
        tasks = insert_tasks(self.session, placed, self.user)
        row.task_ids = [task.id for task in tasks]
        return tasks


async def get_once(
    session: SessionDep, current_user: CurrentUserDep, idempotency_key: KeyHeader = None
) -> Once:
    """Return what inserts the tasks of a request. A class as a dependency would run in a thread."""
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
        raise error  # another error would bring its values into the log
    if earlier.request_hash not in (None, repeated.request_hash):
        place = ("header", "Idempotency-Key")
        raise_problems([problem("idempotency_key_reused", place, "Was used with another body")])
    # The ids are in the order of the request.
    of_request = col(Task.id).in_(earlier.task_ids)
    tasks = [*session.exec(select(Task).where(of_request).order_by(col(Task.id)))]
    if len(tasks) < len(earlier.task_ids):
        raise CreatedButDeleted
    return tasks
