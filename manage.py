"""Commands for the operator, on the server: users, the schema, backups, a copy to PostgreSQL."""

import sqlite3
import sys
from contextlib import closing
from logging.config import dictConfig
from math import inf
from pathlib import Path
from typing import Annotated, Any

import typer
from alembic.util import CommandError
from fastapi import HTTPException
from pydantic import SecretStr, ValidationError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, SQLModel, Table, col, func, insert, inspect, select, text
from uvicorn.config import LOGGING_CONFIG

from api.database_urls import check_database_url
from api.engines import open_engine
from api.locks import lock
from api.outages import first_line
from api.passwords import hasher
from api.problems import describe
from api.schema import schema_is_current, upgrade_schema
from api.users import commit_user
from config import settings
from database import engine, reading_engine
from models import User, UserCreate, UserUpdate

# Without Typer's own tracebacks, which show the values of variables.
cli = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)

PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input")
]


def read_password(*, from_stdin: bool) -> str:
    """Return the password from standard input, or ask for it twice without showing it."""
    if from_stdin:
        return sys.stdin.read().rstrip("\r\n")
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    return password


@cli.command()
def create_user(
    name: str,
    email: str,
    *,
    admin: Annotated[bool, typer.Option("--admin", help="Make the user an administrator")] = False,
    password_stdin: PasswordStdin = False,
) -> None:
    """Create a user, by the same rules as the API."""
    fields = {"username": name, "email": email, "is_admin": admin}
    password = read_password(from_stdin=password_stdin)
    user_create = UserCreate.model_validate(fields | {"password": password})
    if settings.migrate_at_start:
        upgrade_schema(engine)  # the first user comes before the first start
    password_hash = hasher.hash(password)
    with Session(engine) as session:
        session.add(User.model_validate(user_create, update={"password_hash": password_hash}))
        commit_user(session)
    typer.echo(f"Created {user_create.username}")


@cli.command()
def set_password(name: str, *, password_stdin: PasswordStdin = False) -> None:
    """Set the password of a user. This ends all tokens of the user and activates the account."""
    password = read_password(from_stdin=password_stdin)
    UserUpdate.model_validate({"password": password})  # or raise a ValidationError
    password_hash = hasher.hash(password)
    with Session(engine, expire_on_commit=False) as session:
        users = lock(session, User, col(User.username) == name.lower())
        if not users:
            sys.exit("User not found")
        [user] = users
        user.password_hash = password_hash
        user.token_version += 1
        user.is_active = True
        session.commit()
    typer.echo(f"{user.username} can sign in with the new password")


@cli.command()
def list_users() -> None:
    """List the users: id, username, email, and `administrator` or `inactive`."""
    with Session(reading_engine) as session:
        for user in session.exec(select(User).order_by(col(User.id))):
            states = {"administrator": user.is_admin, "inactive": not user.is_active}
            state = ", ".join(name for name, is_so in states.items() if is_so)
            typer.echo("\t".join([str(user.id), user.username, user.email, state]))


@cli.command()
def migrate() -> None:
    """Upgrade the schema to the newest version, as the start of the API does."""
    dictConfig(LOGGING_CONFIG)  # shows the log of the migrations, as at a start
    upgrade_schema(engine)
    typer.echo("The schema is the newest, or newer than this code knows")


@cli.command()
def backup(file: Path) -> None:
    """Copy the SQLite database to a new file, as it is now."""
    if engine.dialect.name != "sqlite":
        sys.exit("This is for SQLite. Back up PostgreSQL with pg_dump")
    database, file = Path(str(engine.url.database)).absolute(), file.absolute()
    try:
        # Readable by its owner alone, since it has the hashes of the passwords. VACUUM INTO takes
        # an empty file.
        file.touch(mode=0o600, exist_ok=False)
    except OSError as error:
        sys.exit(f"{file} cannot be created: {error.strerror}")
    try:
        # To copy the file itself would lose the newest tasks (https://www.sqlite.org/wal.html).
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
            connection.execute("VACUUM INTO ?", (str(file),))
    except sqlite3.Error as error:
        file.unlink()
        sys.exit(f"{database} cannot be copied to {file}: {error}")
    typer.echo(f"Copied the database to {file}")


def copy_table(table: Table, source: Connection, target: Connection) -> int:
    """Copy the rows of a table with their ids, and return their number. Later ids come after them.

    No id is used again, also none of a row that is deleted.
    """
    number = 0
    result = source.execute(table.select())
    sqlite_connection: Any = source.connection.dbapi_connection
    sqlite_connection.deadline = inf  # this SELECT has no time limit
    for rows in result.mappings().partitions(1000):
        target.execute(insert(table), [dict(row) for row in rows])
        number += len(rows)
    if "id" not in table.columns:  # as in the table of links
        return number
    last_id = "SELECT seq FROM sqlite_sequence WHERE name = :table"
    last = source.execute(text(last_id), {"table": table.name}).scalar()
    # SQLite notes the last id only of tables that never use one again.
    if last := last or source.execute(select(func.max(table.c.id))).scalar():
        sequence = func.pg_get_serial_sequence(f'"{table.name}"', "id")
        target.execute(func.setval(sequence, last).select())  # SELECT setval('task_id_seq', 17)
    return number


def open_named(name: str, url: str) -> Engine:
    """Return an engine for the URL, or end with one sentence if that is wrong."""
    try:
        return open_engine(check_database_url(SecretStr(url)))
    except ValueError as error:
        sys.exit(f"{name} {error}")


def is_empty(database: Connection) -> bool:
    """Return whether no table has a row, except the one with the version of the schema."""
    names = set(inspect(database).get_table_names()) - {"alembic_version"}
    statements = (text(f'SELECT 1 FROM "{name}" LIMIT 1') for name in names)  # noqa: S608
    return not any(database.execute(statement).first() for statement in statements)


def copy_database(from_engine: Engine, to_engine: Engine) -> dict[str, int]:
    """Copy all tables, and return the number of rows of each; or end with one sentence."""
    with Session(from_engine) as session:
        if not schema_is_current(session):
            sys.exit("The schema of FROM is not the newest: run `manage.py migrate` with it before")
    with to_engine.connect() as target:
        if not is_empty(target):
            sys.exit("TO is not empty")
    upgrade_schema(to_engine)
    tables = SQLModel.metadata.sorted_tables
    with from_engine.begin() as source, to_engine.begin() as target:
        # So that nobody else fills them before the end.
        target.execute(text("LOCK TABLE " + ", ".join(f'"{table.name}"' for table in tables)))
        if not is_empty(target):
            sys.exit("TO is not empty")
        return {table.name: copy_table(table, source, target) for table in tables}


@cli.command()
def copy(
    from_url: Annotated[str, typer.Argument(metavar="FROM", help="sqlite:///tasks.db")],
    to_url: Annotated[str, typer.Argument(metavar="TO", help="postgres://user@host/database")],
) -> None:
    """Copy a SQLite database, which must be writable, to an empty one of PostgreSQL.

    Stop the API before.
    """
    from_engine, to_engine = open_named("FROM", from_url), open_named("TO", to_url)
    if (from_engine.dialect.name, to_engine.dialect.name) != ("sqlite", "postgresql"):
        sys.exit("FROM must be SQLite, and TO PostgreSQL")
    if not Path(str(from_engine.url.database)).is_file():
        sys.exit("FROM does not exist")
    try:
        numbers = copy_database(from_engine, to_engine)
    finally:
        from_engine.dispose()  # SQLite then merges `tasks.db-wal` into the file
    for name, number in numbers.items():
        typer.echo(f"Copied {number} rows of {name}")


def main() -> None:
    """Run a command; when something is wrong, say it in one sentence and exit with 1."""
    try:
        cli()
    except HTTPException as error:  # from `commit_user`
        sys.exit(error.detail)
    except ValidationError as error:
        for problem in error.errors():
            sys.stderr.write(f"{problem['loc'][0]}: {describe(problem)}\n")
        sys.exit(1)
    # No database, a password that is not UTF-8, or a schema that has several versions.
    except (OSError, UnicodeError, CommandError) as error:
        sys.exit(str(error))
    except DBAPIError as error:
        sys.exit(f"The database cannot be used: {first_line(error)}")
    finally:
        engine.dispose()  # SQLite then merges `tasks.db-wal` into the file


if __name__ == "__main__":
    main()
