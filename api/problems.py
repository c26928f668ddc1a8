"""Problems: which values in a request are wrong, why, and in which place each is."""

import re
from collections.abc import Iterable, Mapping, Sized
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from api.field_types import ADDRESS_MESSAGE, DATETIME_MESSAGE, PATTERN_MESSAGES

# Where in a request a value is, as in `("body", 3, "owner_id")`. FastAPI's errors call it `loc`.
Place = tuple[str | int, ...]


def places_of_items(items: Sized) -> list[Place]:
    """Return the places of the items of a list that is the body."""
    return [("body", position) for position in range(len(items))]


Problem = dict[str, object]


def problem(kind: str, place: Place, message: str) -> Problem:
    """Return a problem as FastAPI has it."""
    return {"type": kind, "loc": place, "msg": message}


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise 422 with all the problems, if there is any."""
    if found := [*problems]:
        raise RequestValidationError(found)


UNKNOWN_MESSAGE = "Input should be left out: no field or parameter has this name"
INTEGER_MESSAGE = "Input should be an integer, as in 3"
# What clients read instead of the messages of Pydantic, for patterns and for types of errors.
MESSAGES = PATTERN_MESSAGES | {
    "bool_parsing": "Input should be true or false",
    "bool_type": "Input should be true or false",
    "datetime_from_date_parsing": DATETIME_MESSAGE,
    "datetime_parsing": DATETIME_MESSAGE,
    "extra_forbidden": UNKNOWN_MESSAGE,
    "finite_number": INTEGER_MESSAGE,
    "int_from_float": INTEGER_MESSAGE,
    "int_parsing": INTEGER_MESSAGE,
    "int_parsing_size": "Input should be an integer with fewer digits",
    "int_type": INTEGER_MESSAGE,
    "json_invalid": "Input should be JSON: {error}",
    "list_type": "Input should be a list, between [ and ]",
    "model_attributes_type": "Input should be an object, between {{ and }}",
    "string_too_short": "Input should have {min_length} or more characters",
    "string_type": "Input should be a string, in quotation marks",
    "string_unicode": "Input should be a string without lone surrogates (U+D800 to U+DFFF)",
    "timezone_aware": DATETIME_MESSAGE,
    "too_long": "Input should have {max_length} or fewer items",
    "too_short": "Input should have {min_length} or more items",
}
# A datetime whose `+` became a blank, as in `2026-12-31T17:00:00 01:00`.
LOST_PLUS = re.compile(r"[0-9]{4}-[0-9-]+[T ][0-9:.]+ [0-9]")


def describe(error: Mapping[str, Any]) -> str:
    """Return what a client should have sent, in words, for an error of Pydantic or a problem."""
    context = error.get("ctx", {})
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message.replace("value is not a valid email address", ADDRESS_MESSAGE)
    if ours := MESSAGES.get(context.get("pattern", error["type"])):
        message = ours.format(**context)
    if error["loc"][0] == "query" and LOST_PLUS.match(str(error.get("input"))):
        message += ". In a URL, write + as %2B"
    return message


async def respond_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    """Respond with 422, without the input, which may be secret or not representable in JSON."""
    detail = [problem(each["type"], each["loc"], describe(each)) for each in error.errors()]
    return JSONResponse({"detail": detail}, 422)
