"""Add administrators; the oldest active user becomes one."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("user") as user:
        # The default is for users that already exist.
        user.add_column(
            sa.Column("is_admin", sa.Boolean(), nullable=False, server_default=sa.false())
        )
    with op.batch_alter_table("user") as user:
        user.alter_column("is_admin", server_default=None)
    op.execute("""
        UPDATE "user" SET is_admin = true
        WHERE id = (SELECT min(id) FROM "user" WHERE is_active)""")


def downgrade() -> None:
    with op.batch_alter_table("user") as user:
        user.drop_column("is_admin")
