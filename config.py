"""The settings, read from the environment, the file `.env` and the secrets of a container."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from psycopg2 import ProgrammingError
from psycopg2.extensions import make_dsn, parse_dsn
from pydantic import (
    AfterValidator,
    Field,
    HttpUrl,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

# What the database URLs of hosting providers begin with, and the driver for each.
DRIVERS = {
    "sqlite": "sqlite",
    "postgres": "postgresql+psycopg2",
    "postgresql": "postgresql+psycopg2",
    "postgresql+psycopg2": "postgresql+psycopg2",
}

# Where containers have secrets, in a file each, such as `secret_key`.
SECRETS = Path("/run/secrets")

# The length of HMAC-SHA256, below which a key is weaker than its hash (RFC 7518, 3.2).
MIN_SECRET_LENGTH = 32


def require_known_options(url: URL) -> None:
    """Refuse a URL that psycopg2 cannot turn into the parameters of a connection."""
    try:
        _, options = url.get_dialect()().create_connect_args(url)
        make_dsn(**options)
    except ArgumentError:
        raise ValueError("has hosts and ports that do not match") from None
    except ProgrammingError:
        raise ValueError("has an option that PostgreSQL does not know") from None


def parse_url(database_url: str) -> URL:
    """Return the URL, which may name several hosts; raise ValueError for a text that is no URL."""
    options = {}
    with suppress(ProgrammingError, UnicodeError):
        options = parse_dsn(database_url.replace("+psycopg2", "", 1))
    try:
        if "," not in options.get("host", ""):
            return make_url(database_url)
    except (ArgumentError, ValueError):
        raise ValueError("is not the URL of a database") from None
    # SQLAlchemy does not read several hosts with ports, as in `postgres://a:5432,b:5432/tasks`
    # (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-MULTIPLE-HOSTS).
    return URL.create(
        "postgresql",
        username=options.pop("user", None),
        password=options.pop("password", None),
        database=options.pop("dbname", None),
        query=options,
    )


def check_database_url(database_url: SecretStr) -> SecretStr:
    """Return the URL with its driver; refuse a URL that cannot work."""
    url = parse_url(database_url.get_secret_value())
    if url.drivername not in DRIVERS:
        raise ValueError("must begin with sqlite:///, postgres:// or postgresql://")
    url = url.set(drivername=DRIVERS[url.drivername])
    if url.drivername == "sqlite":
        if url.host or url.database in (None, "", ":memory:"):
            raise ValueError("must name a file, as in sqlite:///tasks.db")
    elif database_url.get_secret_value().count("@") > 1 or "@" in str(url.database):
        # Else some of the password would be taken for the host, and errors name the host.
        raise ValueError("must have %40 for @, and %2F for /, in the user's name or password")
    else:
        require_known_options(url)
    return SecretStr(url.render_as_string(hide_password=False))


DatabaseUrl = Annotated[SecretStr, AfterValidator(check_database_url)]


def is_origin(text: str) -> bool:
    """Return whether a browser may send this as the origin of a page (RFC 6454, 6.2)."""
    try:
        return str(HttpUrl(text)) == f"{text}/" and "@" not in text
    except ValidationError:
        return False


class Settings(BaseSettings):
    """What a deployment may set, each by the environment variable of the same name."""

    model_config = SettingsConfigDict(
        env_file=".env",
        secrets_dir=SECRETS if os.access(SECRETS, os.R_OK | os.X_OK) else None,
        extra="ignore",
    )

    database_url: DatabaseUrl = SecretStr("sqlite:///tasks.db")
    # A PostgreSQL replica, where GET requests read.
    database_replica_url: DatabaseUrl | None = None
    # Connections that each process keeps open, and how many more it opens for a single use.
    database_pool_size: PositiveInt = 20
    database_max_overflow: NonNegativeInt = 0
    # Seconds to wait for a free connection or, on SQLite, for the end of another write.
    database_pool_timeout: PositiveInt = 30
    # Seconds after which a connection is replaced by a new one.
    database_pool_recycle: PositiveInt = 3600
    # Seconds to wait for PostgreSQL to accept a new connection; few, so that an outage shows soon.
    database_connect_timeout: int = Field(default=5, ge=1, le=5)
    # Seconds after which the database ends a statement, and PostgreSQL a transaction in which
    # nothing happens. 0 is never; PostgreSQL takes no more than the maximum.
    database_statement_timeout: int = Field(default=30, ge=0, le=2_147_483)
    database_idle_transaction_timeout: int = Field(default=30, ge=0, le=2_147_483)
    # Whether the start upgrades the schema of the database to the newest version.
    migrate_at_start: bool = True
    # The key that signs tokens. Without it, the API is open to everyone.
    secret_key: SecretStr | None = None
    # Minutes until a token expires.
    token_lifetime: int = Field(default=60, ge=1, le=366 * 24 * 60)
    # The other origins whose pages may call the API, with commas between them.
    cors_origins: str = ""

    @field_validator("database_replica_url")
    @classmethod
    def require_postgresql(
        cls, replica_url: SecretStr | None, info: ValidationInfo
    ) -> SecretStr | None:
        """Refuse a replica if it or the database itself is SQLite."""
        urls = [replica_url, info.data.get("database_url")] if replica_url else []
        if any(url and url.get_secret_value().startswith("sqlite") for url in urls):
            raise ValueError("must be a PostgreSQL replica of a PostgreSQL DATABASE_URL")
        return replica_url

    @field_validator("secret_key")
    @classmethod
    def require_long_key(cls, secret_key: SecretStr | None) -> SecretStr | None:
        """Refuse a short key, and an empty one: the API would be open."""
        if secret_key is not None and len(secret_key.get_secret_value()) < MIN_SECRET_LENGTH:
            raise ValueError(f"must have {MIN_SECRET_LENGTH} characters or more")
        return secret_key

    @field_validator("cors_origins")
    @classmethod
    def require_origins(cls, cors_origins: str) -> str:
        """Return the origins without blanks; refuse one that no browser would send."""
        origins = [origin.strip() for origin in cors_origins.split(",")]
        if cors_origins and not all(is_origin(origin) for origin in origins):
            raise ValueError(
                "must be like https://example.com, without a path, and with commas between"
            )
        return ",".join(origins)


def read_settings() -> Settings:
    """Return the settings, or end the process with one sentence for each that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors():
            message = problem["msg"].removeprefix("Value error, ")
            sys.stderr.write(f"{str(problem['loc'][0]).upper()} {message}\n")
    except SettingsError as error:  # the file of a secret cannot be read
        sys.stderr.write(f"{error}: {error.__cause__}\n")
    # The exit code by which uvicorn's parent process knows not to try again.
    sys.exit(3)


settings = read_settings()
