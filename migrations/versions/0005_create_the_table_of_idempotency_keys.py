"""Create the table of idempotency keys, which were columns of the table of tasks."""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "idempotency_key",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("key", sqlmodel.AutoString(), nullable=False),
        sa.Column("request_hash", sqlmodel.AutoString(), nullable=True),
        sa.Column("task_ids", sa.JSON(), nullable=False),
        sa.Column("created_at", sqlmodel.UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_idempotency_key")),
        sa.UniqueConstraint("user_id", "key", name=op.f("uq_idempotency_key_user_id")),
    )
    op.create_index(op.f("ix_idempotency_key_created_at"), "idempotency_key", ["created_at"])
    # Who sent a key is unknown, so keep it for nobody (without sign-in) and for the first owner.
    # Not `request_hash`, which was made in another way. The seven days of a key begin now.
    json_array = "json_array" if op.get_bind().dialect.name == "sqlite" else "json_build_array"
    op.execute(f"""
        INSERT INTO idempotency_key (user_id, key, task_ids, created_at)
        SELECT 0, idempotency_key, {json_array}(id), CURRENT_TIMESTAMP
        FROM task WHERE idempotency_key IS NOT NULL
        UNION ALL
        SELECT first_owner_id, idempotency_key, {json_array}(id), CURRENT_TIMESTAMP
        FROM (
            SELECT task.id, idempotency_key,
                   CASE WHEN transfer.id IS NULL THEN owner_id ELSE from_user_id END
                   AS first_owner_id
            FROM task LEFT JOIN transfer ON transfer.id = (
                SELECT min(id) FROM transfer WHERE task_id = task.id
            )
        ) AS owned
        WHERE idempotency_key IS NOT NULL AND first_owner_id IS NOT NULL""")  # noqa: S608  # no input
    with op.batch_alter_table("task") as task:
        task.drop_constraint(op.f("uq_task_idempotency_key"), type_="unique")
        task.drop_column("idempotency_key")
        task.drop_column("request_hash")


def downgrade() -> None:
    with op.batch_alter_table("task") as task:
        task.add_column(sa.Column("idempotency_key", sqlmodel.AutoString()))
        task.add_column(sa.Column("request_hash", sqlmodel.AutoString()))
        task.create_unique_constraint(op.f("uq_task_idempotency_key"), ["idempotency_key"])
    # Keys of one task each: the old column is unique, one task to a key.
    op.execute("""
        UPDATE task SET idempotency_key = used.key
        FROM (
            SELECT key, min(CAST(task_ids ->> 0 AS INTEGER)) AS task_id
            FROM idempotency_key GROUP BY key
            HAVING count(DISTINCT CAST(task_ids AS TEXT)) = 1
               AND max(json_array_length(task_ids)) = 1
        ) AS used
        WHERE used.task_id = task.id""")
    op.drop_table("idempotency_key")
