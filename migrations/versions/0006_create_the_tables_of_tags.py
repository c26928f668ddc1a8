"""Create the table of tags, and the one that links them to tasks."""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tag",
        sa.Column("name", sqlmodel.AutoString(), nullable=False),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sqlmodel.AutoString(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tag")),
        # The key first, since PostgreSQL checks them in this order: a request that creates a tag
        # then waits for one that renames a tag to it, and not the other way round too.
        sa.UniqueConstraint("key", name=op.f("uq_tag_key")),
        sa.UniqueConstraint("name", name=op.f("uq_tag_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "task_tag",
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("tag_name", sqlmodel.AutoString(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", "tag_name", name=op.f("pk_task_tag")),
        sa.ForeignKeyConstraint(
            ["task_id"], ["task.id"], name=op.f("fk_task_tag_task_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["tag_name"],
            ["tag.name"],
            name=op.f("fk_task_tag_tag_name"),
            onupdate="CASCADE",
            ondelete="CASCADE",
        ),
    )
    op.create_index(op.f("ix_task_tag_tag_name"), "task_tag", ["tag_name", "task_id"])


def downgrade() -> None:
    op.drop_table("task_tag")
    op.drop_table("tag")
