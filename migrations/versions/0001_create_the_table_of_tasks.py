"""Create the table of tasks."""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "task",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("title", sqlmodel.AutoString(), nullable=False),
        sa.Column("description", sqlmodel.AutoString(), nullable=True),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("due_at", sqlmodel.UTCDateTime(), nullable=True),
        sa.Column("created_at", sqlmodel.UTCDateTime(), nullable=False),
        sa.Column("updated_at", sqlmodel.UTCDateTime(), nullable=False),
        sa.Column("completed_at", sqlmodel.UTCDateTime(), nullable=True),
        sa.CheckConstraint("trim(title) <> ''", name=op.f("ck_task_title")),
        sa.CheckConstraint(
            "status IN ('pending', 'in_progress', 'completed')", name=op.f("ck_task_status")
        ),
        sa.CheckConstraint("priority BETWEEN 0 AND 5", name=op.f("ck_task_priority")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task")),
        sqlite_autoincrement=True,
    )
    for column in ("title", "status", "priority", "due_at", "created_at", "updated_at"):
        op.create_index(op.f(f"ix_task_{column}"), "task", [column, "id"])


def downgrade() -> None:
    op.drop_table("task")
