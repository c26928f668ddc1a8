"""Fold titles, descriptions and the names of tags, and make all ids BIGINT."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from unicodedata import normalize

import sqlalchemy as sa
import sqlmodel
from alembic import op

from api.clock import now
from api.folding import fold

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

logger = logging.getLogger("uvicorn.error")

PORTION = 1000  # tasks that are read and written at a time
FOLDED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# What each table has of its own ids and of those of others.
IDS = {
    "user": ["id"],
    "task": ["id", "owner_id"],
    "tag": ["id"],
    "task_tag": ["task_id", "tag_id"],
    "transfer": ["id", "task_id", "from_user_id", "to_user_id", "by_user_id"],
    "idempotency_key": ["id", "user_id"],
}

task = sa.table(
    "task",
    sa.column("id", sa.Integer),
    sa.column("title", sa.String),
    sa.column("folded_title", sa.String),
    sa.column("description", sa.String),
    sa.column("folded_description", sa.String),
    sa.column("tags", sa.JSON),
    sa.column("updated_at", sqlmodel.UTCDateTime),
    sa.column("version", sa.Integer),
)
tag = sa.table(
    "tag",
    sa.column("id", sa.Integer),
    sa.column("name", sa.String),
    sa.column("key", sa.String),
    sa.column("folded_name", sa.String),
)
link = sa.table("task_tag", sa.column("task_id", sa.Integer), sa.column("tag_id", sa.Integer))


def upgrade() -> None:
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    with op.batch_alter_table("task") as batch:
        batch.add_column(sa.Column("folded_title", FOLDED))
        batch.add_column(sa.Column("folded_description", FOLDED))
        batch.drop_index(op.f("ix_task_title"))
    with op.batch_alter_table("tag") as batch:
        batch.add_column(sa.Column("folded_name", FOLDED))
    # PostgreSQL writes all rows twice. With the indexes in place, that takes twice as long.
    indexes = drop_indexes() if is_postgresql else []
    fold_tasks()
    fold_tags()
    with op.batch_alter_table("task") as batch:
        batch.alter_column("folded_title", nullable=False)
    with op.batch_alter_table("tag") as batch:
        batch.alter_column("folded_name", nullable=False)
        batch.drop_constraint(op.f("uq_tag_key"), type_="unique")
        batch.create_unique_constraint(op.f("uq_tag_folded_name"), ["folded_name"])
        batch.drop_column("key")
    if is_postgresql:
        change_ids("bigint")
    for statement in indexes:
        op.execute(statement)
    index_titles_by("folded_title")
    # The hashes of requests from before are of tags in their order and case. Without its hash, a
    # request is repeated whatever its body is.
    op.execute("UPDATE idempotency_key SET request_hash = NULL")


def drop_indexes() -> list[str]:
    """Drop the indexes of tasks, but for those of constraints; return what makes them again."""
    indexes = op.get_bind().execute(
        sa.text("""
            SELECT CAST(CAST(indexrelid AS regclass) AS text), pg_get_indexdef(indexrelid)
            FROM pg_index WHERE indrelid = CAST('task' AS regclass)
            AND indexrelid NOT IN (SELECT conindid FROM pg_constraint) ORDER BY 1""")
    )
    statements = []
    for name, statement in indexes.all():
        op.execute(f"DROP INDEX {name}")
        statements.append(statement.replace(":", r"\:"))  # no parameter begins there
    return statements


def index_titles_by(column: str) -> None:
    listed = sa.text("deleted_at IS NULL")
    op.create_index(
        op.f(f"ix_task_{column}"),
        "task",
        [column, "id"],
        sqlite_where=listed,
        postgresql_where=listed,
    )


def fold_tasks() -> None:
    for rows in read_tasks(sa.true()):
        write_tasks(
            {
                "task_id": row.id,
                # No longer, as in new titles, for the index.
                "folded_title": fold(row.title)[:600],
                "folded_description": row.description and fold(row.description),
            }
            for row in rows
        )


def change_ids(integer: str) -> None:
    for table, columns in IDS.items():
        changes = ", ".join(f"ALTER {column} TYPE {integer}" for column in columns)
        op.execute(f'ALTER TABLE "{table}" {changes}')
        if "id" in columns:
            op.execute(f'ALTER SEQUENCE "{table}_id_seq" AS {integer}')


def fold_tags() -> None:
    """Fold the names of tags. Those that are equal then become one, under the name of the first."""
    connection = op.get_bind()
    rows = connection.execute(sa.select(tag).order_by(tag.c.id)).all()
    firsts: dict[str, Any] = {}
    for row in rows:
        firsts.setdefault(fold(row.name), row)
    for row in rows:
        folded_name = fold(row.name)
        first = firsts[folded_name]
        if first is not row or folded_name != row.key:  # the order of a task's tags may change too
            write_tags(row.id, firsts)
        if first is not row:
            merge(row, first)
            continue
        connection.execute(tag.update().where(tag.c.id == row.id).values(folded_name=folded_name))


def write_tags(tag_id: int, firsts: Mapping[str, Any]) -> None:
    """Write the names of their tags anew to the tasks of a tag, a change of each that differs."""
    of_tag = task.c.id.in_(sa.select(link.c.task_id).where(link.c.tag_id == tag_id))
    for rows in read_tasks(of_tag):
        names = [
            [firsts[name].name for name in sorted({fold(name) for name in row.tags})]
            for row in rows
        ]
        write_tasks(
            {"task_id": row.id, "tags": new, "version": row.version + 1, "updated_at": now()}
            for row, new in zip(rows, names, strict=True)
            if new != row.tags
        )


def merge(merged: sa.Row[Any], first: sa.Row[Any]) -> None:
    """Give the tasks of one tag to another that has the same folded name, and delete the tag."""
    connection = op.get_bind()
    of_first = sa.select(link.c.task_id).where(link.c.tag_id == first.id)
    connection.execute(
        link.update()
        .where(link.c.tag_id == merged.id, link.c.task_id.not_in(of_first))
        .values(tag_id=first.id)
    )
    connection.execute(link.delete().where(link.c.tag_id == merged.id))
    connection.execute(tag.delete().where(tag.c.id == merged.id))
    logger.info("The tag `%s` is now one with `%s`", merged.name, first.name)


def read_tasks(condition: sa.ColumnElement[bool]) -> Iterator[Sequence[sa.Row[Any]]]:
    """Yield the tasks for which the condition is true, a portion at a time."""
    statement = sa.select(task).where(condition).order_by(task.c.id).limit(PORTION)
    last_id = 0
    while rows := op.get_bind().execute(statement.where(task.c.id > last_id)).all():
        yield rows
        last_id = rows[-1].id


def write_tasks(changes: Iterable[dict[str, Any]]) -> None:
    """Write new values to tasks. Each has its `task_id`, and all have the same columns."""
    if rows := [*changes]:
        values: Any = {name: sa.bindparam(name) for name in rows[0] if name != "task_id"}
        statement = task.update().where(task.c.id == sa.bindparam("task_id")).values(values)
        op.get_bind().execute(statement, rows)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        change_ids("integer")
    with op.batch_alter_table("tag") as batch:
        batch.add_column(sa.Column("key", sqlmodel.AutoString()))
    connection = op.get_bind()
    for row in connection.execute(sa.select(tag)).all():
        key = normalize("NFC", row.name.lower())
        connection.execute(tag.update().where(tag.c.id == row.id).values(key=key))
    with op.batch_alter_table("tag") as batch:
        batch.alter_column("key", nullable=False)
        batch.drop_constraint(op.f("uq_tag_folded_name"), type_="unique")
        batch.create_unique_constraint(op.f("uq_tag_key"), ["key"])
        batch.drop_column("folded_name")
    op.drop_index(op.f("ix_task_folded_title"), "task")
    with op.batch_alter_table("task") as batch:
        batch.drop_column("folded_title")
        batch.drop_column("folded_description")
    index_titles_by("title")
