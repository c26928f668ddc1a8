"""Index the tasks of each status by the time of their creation."""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NAME = "ix_task_status_created_at"


def upgrade() -> None:
    live = sa.text("deleted_at IS NULL")
    columns = ["status", "created_at", "id"]
    op.create_index(NAME, "task", columns, sqlite_where=live, postgresql_where=live)


def downgrade() -> None:
    op.drop_index(NAME, "task")
