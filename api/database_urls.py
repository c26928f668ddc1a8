"""The URLs of databases, as hosting providers give them, made ready for SQLAlchemy."""

import re
from contextlib import suppress
from typing import Annotated

from psycopg2 import ProgrammingError
from psycopg2.extensions import make_dsn, parse_dsn
from pydantic import AfterValidator, SecretStr
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError


def check_database_url(database_url: SecretStr) -> SecretStr:
    """Return the URL with its driver; raise ValueError for a URL that cannot work."""
    secret = database_url.get_secret_value()
    url = parse_url(re.sub(r"^postgres(ql)?(\+psycopg2)?:", "postgresql:", secret))
    if url.drivername == "sqlite":
        if url.host or url.database in (None, "", ":memory:"):
            raise ValueError("must name a file, as in sqlite:///tasks.db")
        return SecretStr(secret)
    if url.drivername != "postgresql":
        raise ValueError("must begin with sqlite:///, postgres:// or postgresql://")
    if secret.count("@") > 1 or "@" in str(url.database):
        # Else some of the password would be taken for the host, and errors name the host.
        raise ValueError("must have %40 for @, and %2F for /, in the user's name or password")
    url = url.set(drivername="postgresql+psycopg2")
    require_known_options(url)
    return SecretStr(url.render_as_string(hide_password=False))


DatabaseUrl = Annotated[SecretStr, AfterValidator(check_database_url)]


def parse_url(database_url: str) -> URL:
    """Return the URL, which may name several hosts; raise ValueError for a text that is no URL."""
    options = {}
    with suppress(ProgrammingError, UnicodeError):
        options = parse_dsn(database_url)
    try:
        if "," not in options.get("host", ""):
            return make_url(database_url)
    except (ArgumentError, ValueError):
        raise ValueError("is not the URL of a database") from None
    # SQLAlchemy does not read several hosts with ports, as in `postgres://a:5432,b:5432/tasks`
    # (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-MULTIPLE-HOSTS).
    # The rest is, for example, {"host": "a,b", "port": "5432,5432"}.
    user, password, database = (options.pop(key, None) for key in ("user", "password", "dbname"))
    return URL.create("postgresql", user, password, database=database, query=options)


def require_known_options(url: URL) -> None:
    """Refuse a URL that psycopg2 cannot turn into the parameters of a connection."""
    try:
        _, options = url.get_dialect()().create_connect_args(url)
        make_dsn(**options)
    except ArgumentError:
        raise ValueError("has hosts and ports that do not match") from None
    except ProgrammingError:
        raise ValueError("has an option that PostgreSQL does not know") from None
