"""Problems: which values in a request are wrong, why, and in which place each is."""

from collections.abc import Iterable, Sized

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

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


async def respond_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    """Respond with 422, without the input, which may be secret or not representable in JSON."""
    detail = [{key: each[key] for key in ("type", "loc", "msg")} for each in error.errors()]
    return JSONResponse({"detail": detail}, 422)
