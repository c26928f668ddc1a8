"""Create the tables of users and transfers; give tasks an owner, a trash and a version."""

import sqlalchemy as sa
import sqlmodel
from alembic import op
from alembic.util import CommandError

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SORTED = ("title", "status", "priority", "due_at", "created_at", "updated_at")


def create_index(name: str, *columns: str, where: str = "deleted_at IS NULL") -> None:
    condition = sa.text(where)
    op.create_index(op.f(name), "task", columns, sqlite_where=condition, postgresql_where=condition)


def upgrade() -> None:
    op.create_table(
        "user",
        sa.Column("username", sqlmodel.AutoString(), nullable=False),
        sa.Column("email", sqlmodel.AutoString(), nullable=False),
        sa.Column("full_name", sqlmodel.AutoString(), nullable=True),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("password_hash", sqlmodel.AutoString(), nullable=False),
        sa.Column("token_version", sa.Integer(), nullable=False),
        sa.Column("created_at", sqlmodel.UTCDateTime(), nullable=False),
        sa.Column("updated_at", sqlmodel.UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user")),
        sa.UniqueConstraint("username", name=op.f("uq_user_username")),
        sa.UniqueConstraint("email", name=op.f("uq_user_email")),
        sqlite_autoincrement=True,
    )
    for column in SORTED:
        op.drop_index(op.f(f"ix_task_{column}"), "task")
    with op.batch_alter_table("task") as task:
        task.add_column(sa.Column("owner_id", sa.Integer()))
        task.add_column(sa.Column("deleted_at", sqlmodel.UTCDateTime()))
        # The default is for the tasks that are there.
        task.add_column(sa.Column("version", sa.Integer(), nullable=False, server_default="1"))
        task.add_column(sa.Column("idempotency_key", sqlmodel.AutoString()))
        task.add_column(sa.Column("request_hash", sqlmodel.AutoString()))
        task.create_foreign_key(
            op.f("fk_task_owner_id"), "user", ["owner_id"], ["id"], ondelete="SET NULL"
        )
        task.create_unique_constraint(op.f("uq_task_idempotency_key"), ["idempotency_key"])
    with op.batch_alter_table("task") as task:
        task.alter_column("version", server_default=None)
    create_index("ix_task_id", "id")
    for column in SORTED:
        create_index(f"ix_task_{column}", column, "id")
    create_index("ix_task_trash", "id", where="deleted_at IS NOT NULL")
    op.create_index(op.f("ix_task_owner_id"), "task", ["owner_id", "id"])
    op.create_table(
        "transfer",
        sa.Column("from_user_id", sa.Integer(), nullable=True),
        sa.Column("to_user_id", sa.Integer(), nullable=True),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("by_user_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sqlmodel.UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transfer")),
        sa.ForeignKeyConstraint(
            ["task_id"], ["task.id"], name=op.f("fk_transfer_task_id"), ondelete="CASCADE"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_transfer_task_id"), "transfer", ["task_id", "id"])


def downgrade() -> None:
    # The version before has no trash: the tasks in it would be back in the lists.
    trash = "SELECT 1 FROM task WHERE deleted_at IS NOT NULL LIMIT 1"
    if op.get_bind().exec_driver_sql(trash).first():
        raise CommandError(
            "There are tasks in the trash. Restore each by POST /tasks/{task_id}/restore,"
            " or delete it for good by DELETE /tasks/{task_id}?permanent=true"
        )
    op.drop_table("transfer")
    for column in ("id", "trash", "owner_id", *SORTED):
        op.drop_index(op.f(f"ix_task_{column}"), "task")
    with op.batch_alter_table("task") as task:
        task.drop_constraint(op.f("fk_task_owner_id"), type_="foreignkey")
        task.drop_constraint(op.f("uq_task_idempotency_key"), type_="unique")
        for column in ("owner_id", "deleted_at", "version", "idempotency_key", "request_hash"):
            task.drop_column(column)
    for column in SORTED:
        op.create_index(op.f(f"ix_task_{column}"), "task", [column, "id"])
    op.drop_table("user")
