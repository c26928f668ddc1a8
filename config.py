"""The settings, read from the environment, the file `.env` and the secrets of a container."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    Field,
    HttpUrl,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    ValidationError,
    ValidationInfo,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from api.database_urls import DatabaseUrl

# Where containers have secrets, in a file each, such as `secret_key`.
SECRETS = Path("/run/secrets")
# The length of HMAC-SHA256, below which a key is weaker than its hash (RFC 7518, 3.2).
MIN_SECRET_LENGTH = 32
HOST_NAME = r"[a-z0-9_-]+(\.[a-z0-9_-]+)*"
ORIGIN = rf"https?://({HOST_NAME}|\[[0-9a-f:]+\])(:[0-9]+)?"


def require_postgresql(replica_url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    """Refuse a replica if it or the database itself is SQLite."""
    urls = (replica_url, info.data.get("database_url"))  # the latter is not there if it is wrong
    if replica_url and any(url and url.get_secret_value().startswith("sqlite") for url in urls):
        raise ValueError("must be a PostgreSQL replica of a PostgreSQL DATABASE_URL")
    return replica_url


def require_long_key(secret_key: SecretStr | None) -> SecretStr | None:
    """Refuse a short key, and an empty one: the API would be open."""
    if secret_key is not None and len(secret_key.get_secret_value()) < MIN_SECRET_LENGTH:
        raise ValueError(f"must have {MIN_SECRET_LENGTH} characters or more")
    return secret_key


def split_at_commas(setting: str) -> list[str]:
    """Return the values of a setting without the blanks around them."""
    return [each.strip() for each in setting.split(",")] if setting else []


def require_host_names(allowed_hosts: str) -> str:
    """Return the names of hosts as browsers send them; refuse what no browser would send."""
    names = split_at_commas(allowed_hosts.lower())
    if not all(re.fullmatch(HOST_NAME, each) for each in names):
        raise ValueError("must be like tasks.example.com, without a port, and with commas between")
    return ",".join(names)


def require_origins(cors_origins: str) -> str:
    """Return the origins without blanks; refuse one that no browser would send (RFC 6454, 6.2)."""
    origins = split_at_commas(cors_origins)
    try:
        # `HttpUrl` adds a slash to an origin, and changes what no browser would send.
        are_origins = all(
            re.fullmatch(ORIGIN, each) and str(HttpUrl(each)) == f"{each}/" for each in origins
        )
    except ValidationError:
        are_origins = False
    if not are_origins:
        raise ValueError(
            "must be like https://example.com, without a path, and with commas between"
        )
    return ",".join(origins)


class Settings(BaseSettings):
    """What a deployment may set, each by the environment variable of the same name."""

    model_config = SettingsConfigDict(
        env_file=".env",
        # Pydantic fails for a folder that it may not read.
        secrets_dir=SECRETS if os.access(SECRETS, os.R_OK | os.X_OK) else None,
        extra="ignore",
    )

    database_url: DatabaseUrl = SecretStr("sqlite:///tasks.db")
    # A PostgreSQL replica, where GET requests read.
    database_replica_url: Annotated[DatabaseUrl | None, AfterValidator(require_postgresql)] = None
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
    secret_key: Annotated[SecretStr | None, AfterValidator(require_long_key)] = None
    # Minutes until a token expires.
    token_lifetime: int = Field(default=60, ge=1, le=366 * 24 * 60)
    # The other origins whose pages may call the API, with commas between them.
    cors_origins: Annotated[str, AfterValidator(require_origins)] = ""
    # The names of the API, with commas between them. If they are set, or without `secret_key`,
    # clients reach it only by them, localhost and IP addresses.
    allowed_hosts: Annotated[str, AfterValidator(require_host_names)] = ""


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
