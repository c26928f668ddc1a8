"""The types of fields and of bodies: what each accepts, and what it refuses."""

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    EmailStr,
    Secret,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticKnownError
from sqlmodel import Field, SQLModel

from api.folding import fold

# The largest integer that every JSON parser keeps exact (RFC 8259, 6).
MAX_INTEGER = 2**53 - 1
MAX_FOLDED_TITLE = 600  # characters


def require_number(value: object) -> object:
    """Refuse booleans and strings, which Pydantic would convert to numbers."""
    if isinstance(value, bool | str):
        # A TypeError would not become a 422.
        raise ValueError("Input should be an integer without quotation marks, as in 3")  # noqa: TRY004
    return value


Id = Annotated[int, Field(ge=1, le=MAX_INTEGER), BeforeValidator(require_number)]
Version = Id  # a number that each change raises
Priority = Annotated[
    int, Field(ge=0, le=5, description="5 is the most urgent"), BeforeValidator(require_number)
]


def require_digits(value: object) -> object:
    """Refuse `1_0`, `1.0`, `+1` and ` 1`, which Pydantic would convert to integers."""
    if isinstance(value, str) and not (value.isascii() and value.removeprefix("-").isdigit()):
        raise PydanticKnownError("int_parsing")
    return value


# Integers in a query, where all values are text.
Digits = BeforeValidator(require_digits)
QueryInteger = Annotated[int, Field(ge=0, le=MAX_INTEGER), Digits]
QueryPriority = Annotated[int, Field(ge=0, le=5), Digits]
QueryLimit = Annotated[int, Field(ge=1, le=100), Digits]
QueryDays = Annotated[int, Field(ge=1, le=3650), Digits]

DATETIME_MESSAGE = "Input should be a date and time with an offset, as in 2026-12-31T17:00:00Z"


def require_datetime(value: object) -> object:
    """Refuse numbers and digits, which Pydantic would take for seconds since 1970.

    A date begins with its year and a `-`.
    """
    if isinstance(value, datetime) or (isinstance(value, str) and value[4:5] == "-"):
        return value
    raise ValueError(DATETIME_MESSAGE)


def to_utc(value: datetime) -> datetime:
    """Return the datetime in UTC; refuse one that is before year 1 or after year 9999 in UTC."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("Input should lie in the years 1 to 9999 in UTC") from None


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
USERNAME = r"^[A-Za-z0-9_.-]+$"
CURSOR = r"^([^\x00]*,)?[0-9]{1,16}$"

# What clients read where a text does not match a pattern.
PATTERN_MESSAGES = {
    NO_NUL: "Input should have no NUL (U+0000)",
    ONE_LINE_NOT_BLANK: "Input should be one line, not blank, and without control characters",
    ONE_LINE_WITHOUT_COMMA: "Input should be one line, not blank, and without commas and control "
    "characters",
    NO_CONTROL_BUT_WHITESPACE: "Input should have no control characters but tabs and line breaks",
    USERNAME: "Input should have only letters from A to Z, digits, `_`, `.` and `-`, as in ada_42",
    CURSOR: "Input should be an id, as in 17, or a value, a comma and an id, as in 3,17",
}

ShortText = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=200, pattern=ONE_LINE_NOT_BLANK
    ),
]


def require_short_when_folded(title: str) -> str:
    """Refuse a title that grows too much when it is folded, as from `ﷺ` to 18 characters.

    PostgreSQL's index, by which titles are sorted, takes 2,700 bytes. With 600 characters, each of
    a title's 200 may become three, as those of Korean do.
    """
    if len(fold(title)) > MAX_FOLDED_TITLE:
        raise ValueError(
            "Input should have 600 or fewer characters with ligatures, such as ﷺ, written out"
        )
    return title


Title = Annotated[
    ShortText,
    AfterValidator(require_short_when_folded),
    Field(schema_extra={"examples": ["Write the report"]}),
]
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

ADDRESS_MESSAGE = "Input should be an email address alone, as in ada@example.com"


def require_address(value: object) -> object:
    """Refuse `Ada <ada@example.com>`, from which Pydantic would take the address."""
    if isinstance(value, str) and "<" in value:
        raise ValueError(ADDRESS_MESSAGE)
    return value


Username = Annotated[
    str,
    StringConstraints(to_lower=True, min_length=3, max_length=50, pattern=USERNAME),
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


class RequestBody(SQLModel):
    """What a client sends: unknown fields are refused, so that no value is lost in silence.

    What a client received, it may send back: fields that it can only see are ignored.
    """

    model_config = {"extra": "forbid"}

    public: ClassVar[type[SQLModel]] = SQLModel  # what clients receive

    @model_validator(mode="before")
    @classmethod
    def ignore_what_is_only_seen(cls, body: Any) -> Any:  # noqa: ANN401  # a client may send anything
        """Return the body without the fields that clients can only see."""
        if not isinstance(body, dict) or cls.model_fields.keys() >= body.keys():
            return body
        only_seen = cls.public.model_fields.keys() - cls.model_fields.keys()
        return {name: value for name, value in body.items() if name not in only_seen}


def example(**fields: object) -> Any:  # noqa: ANN401  # SQLModel has no public type for it
    """Return the configuration of a model that the documentation shows with these values."""
    return {"json_schema_extra": {"examples": [fields]}}
