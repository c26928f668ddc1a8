"""Keep the names of its tags in each task, and link tasks to the ids of tags."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# The names of the tags of each task, in the order of their keys' code points, as Python sorts.
NAMES = {
    "postgresql": """
        SELECT task_id, json_agg(tag.name ORDER BY tag.key COLLATE "C") AS names
        FROM task_tag JOIN tag ON tag.name = task_tag.tag_name GROUP BY task_id""",
    "sqlite": """
        SELECT task_id, json_group_array(name) AS names FROM (
            SELECT task_id, tag.name FROM task_tag JOIN tag ON tag.name = task_tag.tag_name
            ORDER BY task_id, tag.key
        ) GROUP BY task_id""",
}


def upgrade() -> None:
    # The default is for the tasks that are there.
    with op.batch_alter_table("task") as task:
        task.add_column(sa.Column("tags", sa.JSON(), nullable=False, server_default="[]"))
    tagged = NAMES[op.get_bind().dialect.name]
    op.execute(f"""
        UPDATE task SET tags = tagged.names FROM ({tagged}) AS tagged
        WHERE tagged.task_id = task.id""")  # noqa: S608
    with op.batch_alter_table("task") as task:
        task.alter_column("tags", server_default=None)
    op.execute("""
        CREATE TABLE link AS SELECT task_tag.task_id, tag.id AS tag_id
        FROM task_tag JOIN tag ON tag.name = task_tag.tag_name""")
    op.drop_table("task_tag")
    op.create_table(
        "task_tag",
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("tag_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", "tag_id", name=op.f("pk_task_tag")),
        sa.ForeignKeyConstraint(
            ["task_id"], ["task.id"], name=op.f("fk_task_tag_task_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["tag_id"], ["tag.id"], name=op.f("fk_task_tag_tag_id"), ondelete="CASCADE"
        ),
    )
    op.execute("INSERT INTO task_tag (task_id, tag_id) SELECT task_id, tag_id FROM link")
    op.execute("DROP TABLE link")
    op.create_index(op.f("ix_task_tag_tag_id"), "task_tag", ["tag_id", "task_id"])
    with op.batch_alter_table("tag") as tag:
        tag.drop_constraint(op.f("uq_tag_name"), type_="unique")


def downgrade() -> None:
    with op.batch_alter_table("tag") as tag:
        tag.create_unique_constraint(op.f("uq_tag_name"), ["name"])
    op.execute("""
        CREATE TABLE link AS SELECT task_tag.task_id, tag.name AS tag_name
        FROM task_tag JOIN tag ON tag.id = task_tag.tag_id""")
    op.drop_table("task_tag")
    op.create_table(
        "task_tag",
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("tag_name", sa.String(), nullable=False),
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
    op.execute("INSERT INTO task_tag (task_id, tag_name) SELECT task_id, tag_name FROM link")
    op.execute("DROP TABLE link")
    op.create_index(op.f("ix_task_tag_tag_name"), "task_tag", ["tag_name", "task_id"])
    with op.batch_alter_table("task") as task:
        task.drop_column("tags")
