"""The types of fields: what each accepts, and what it refuses."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    EmailStr,
    Secret,
    StringConstraints,
    WithJsonSchema,
)
from sqlmodel import Field

# The largest integer that every JSON parser keeps exact (RFC 8259, 6).
MAX_INTEGER = 2**53 - 1


def require_number(value: object) -> object:
    """Refuse booleans and strings, which Pydantic would convert to numbers."""
    if isinstance(value, bool | str):
        raise ValueError("must be a number")  # noqa: TRY004  # a TypeError would not become a 422
    return value


Id = Annotated[int, Field(ge=1, le=MAX_INTEGER), BeforeValidator(require_number)]
Version = Id  # likewise a positive integer
Priority = Annotated[int, Field(ge=0, le=5), BeforeValidator(require_number)]


def require_datetime(value: object) -> object:
    """Refuse numbers and digits, which Pydantic would take for seconds since 1970.

    A date begins with its year and a `-`.
    """
    if isinstance(value, datetime) or (isinstance(value, str) and value[4:5] == "-"):
        return value
    raise ValueError("must be a date and time with an offset, as in 2026-12-31T17:00:00Z")


def to_utc(value: datetime) -> datetime:
    """Return the datetime in UTC; refuse one that is before year 1 or after year 9999 in UTC."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie in the years 1 to 9999 in UTC") from None


UtcDatetime = Annotated[
    AwareDatetime,
    BeforeValidator(require_datetime),
    AfterValidator(to_utc),
    # The pattern tells clients what `to_utc` refuses.
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "pattern": r"^(?!0001-01-01.*\+|9999-12-31T.*-)",
            "examples": ["2027-01-29T17:00:00Z"],
        }
    ),
]

# PostgreSQL stores no NUL character, so no text may contain one.
NO_NUL = r"^[^\x00]*$"
# Control characters are the category Cc of Unicode. Some are commands to a terminal. U+FEFF is
# blank too, but not in `\s`.
CONTROL = r"\x00-\x1f\x7f-\x9f"
ONE_LINE_NOT_BLANK = rf"^[^{CONTROL}]*[^{CONTROL}\s\ufeff][^{CONTROL}]*$"
# No comma, which separates the names of tags in an export as CSV.
ONE_LINE_WITHOUT_COMMA = rf"^[^{CONTROL},]*[^{CONTROL},\s\ufeff][^{CONTROL},]*$"
NO_CONTROL_BUT_WHITESPACE = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"

ShortText = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=200, pattern=ONE_LINE_NOT_BLANK
    ),
]
Title = Annotated[ShortText, Field(schema_extra={"examples": ["Write the report"]})]
Description = Annotated[
    str,
    StringConstraints(max_length=10_000, pattern=NO_CONTROL_BUT_WHITESPACE),
    Field(schema_extra={"examples": ["Ten pages, and a summary"]}),
]
FilterText = Annotated[str, StringConstraints(max_length=200, pattern=NO_NUL)]
TagName = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=50, pattern=ONE_LINE_WITHOUT_COMMA
    ),
]
TagNames = Annotated[list[TagName], Field(max_length=20, schema_extra={"examples": [["report"]]})]


def require_address(value: object) -> object:
    """Refuse `Ada <ada@example.com>`, from which Pydantic would take the address."""
    if isinstance(value, str) and "<" in value:
        raise ValueError("must be an address alone, as in ada@example.com")
    return value


Username = Annotated[
    str,
    StringConstraints(to_lower=True, min_length=3, max_length=50, pattern=r"^[A-Za-z0-9_.-]+$"),
    Field(schema_extra={"examples": ["ada"]}),
]
Email = Annotated[
    EmailStr,
    BeforeValidator(require_address),
    AfterValidator(str.lower),
    Field(schema_extra={"examples": ["ada@example.com"]}),
]
# A `Secret` hides its value in every representation, so in logs too.
Password = Secret[Annotated[str, StringConstraints(min_length=8, max_length=128)]]
CurrentPassword = Secret[Annotated[str, StringConstraints(max_length=128)]]
