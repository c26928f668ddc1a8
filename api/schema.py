"""The schema of the database: whether it is the newest, and its upgrade by Alembic."""

from functools import lru_cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine
from sqlmodel import Session

# Alembic runs the files in `migrations/versions`.
alembic_config = Config(toml_file=Path(__file__).parents[1] / "pyproject.toml")


def upgrade_schema(engine: Engine) -> None:
    """Upgrade the schema to the newest version.

    Of several processes one does it, and the others wait for the lock in `migrations/env.py`.
    """
    alembic_config.attributes["engine"] = engine  # for `migrations/env.py`
    try:
        command.upgrade(alembic_config, "head")
    except CommandError:  # Alembic does not know the version of the schema, which may be newer
        with Session(engine) as session:
            if not schema_is_current(session):
                raise


@lru_cache
def older_versions() -> set[str]:
    """Return the versions of the schema that this code knows, except the newest."""
    scripts = ScriptDirectory.from_config(alembic_config)
    return {script.revision for script in scripts.walk_revisions()} - {scripts.get_current_head()}


def schema_is_current(session: Session) -> bool:
    """Return whether the schema has the newest version that this code knows, or an unknown one.

    An unknown one is newer: another host upgraded the schema, or this code was rolled back.
    """
    version = MigrationContext.configure(session.connection()).get_current_revision()
    return version is not None and version not in older_versions()
