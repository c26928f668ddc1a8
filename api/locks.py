"""Locks: rows that no other transaction changes until this one ends.

Every transaction locks users first, then tags, then tasks, and the rows of a table in the order of
their ids. In another order, two transactions could wait for each other.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from sqlalchemy import SQLColumnExpression
from sqlmodel import Session, SQLModel, col, select

from api.errors import NotFound
from api.problems import Place, problem, raise_problems
from models import Tag, Task, User

ORDER: list[type[SQLModel]] = [User, Tag, Task]

Model = TypeVar("Model", User, Tag, Task)
Condition = SQLColumnExpression[bool]
# Weaker than FOR UPDATE, which is the default: others may lock and use the rows too, but not delete
# them (FOR KEY SHARE); or others may refer to the rows, but not change them (FOR NO KEY UPDATE).
AGAINST_DELETION = {"read": True, "key_share": True}
AGAINST_CHANGE = {"key_share": True}


def lock(
    session: Session,
    table: type[Model],
    *conditions: Condition,
    limit: int | None = None,
    **options: bool,
) -> Sequence[Model]:
    """Lock the rows for which the conditions are true, and return them in the order of their ids.

    PostgreSQL does it by SELECT ... FOR UPDATE. SQLite needs no locks: it has one writer at a time.
    """
    require_order(session, table)
    statement = select(table).where(*conditions).order_by(col(table.id)).limit(limit)
    # `of`: not the rows of joined tables too.
    return session.exec(statement.with_for_update(of=table, **options)).all()


def lock_ids(
    session: Session, table: type[Model], *conditions: Condition, **options: bool
) -> Sequence[int | None]:
    """Lock rows as `lock` does, and return their ids alone, since there may be many."""
    require_order(session, table)
    statement = select(table.id).where(*conditions).order_by(col(table.id))
    return session.exec(statement.with_for_update(of=table, **options)).all()


def require_order(session: Session, table: type[SQLModel]) -> None:
    """Raise RuntimeError if the session has locked rows of a later table."""
    rank = ORDER.index(table)
    last = session.info.get("last_lock", 0)
    if rank < last:
        names = (ORDER[each].__name__ for each in (rank, last))
        raise RuntimeError("Lock each {} before any {}: see locks.py".format(*names))
    session.info["last_lock"] = rank


def find_and_lock(
    session: Session, table: type[Model], row_id: int, *conditions: Condition
) -> Model:
    """Lock one row, and return it; raise 404 if it is not there, or a condition is not true."""
    rows = lock(session, table, col(table.id) == row_id, *conditions)
    if not rows:
        raise NotFound(f"{table.__name__} not found")
    return rows[0]


def lock_owners(session: Session, owners: Mapping[Place, int | None]) -> None:
    """Keep owners from being deleted; raise 422 with the place of each that does not exist."""
    wanted = {user_id for user_id in owners.values() if user_id is not None}
    if not wanted:
        return
    found = lock_ids(session, User, col(User.id).in_(wanted), **AGAINST_DELETION)
    unknown = wanted.difference(found)
    raise_problems(
        problem("user_not_found", place, "Input should be the id of a user, or null for nobody")
        for place, user_id in owners.items()
        if user_id in unknown
    )
