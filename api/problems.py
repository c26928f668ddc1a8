"""Problems: which values in a request are wrong, why, and in which place each is."""

from collections import Counter
from collections.abc import Iterable
from typing import get_origin

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.params import ParamTypes
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

# Where in a request a value is, as in `("body", 3, "owner_id")`. FastAPI's errors call it `loc`.
Place = tuple[str | int, ...]


def problem(kind: str, place: Place, message: str) -> dict[str, object]:
    """Return a problem as FastAPI has it."""
    return {"type": kind, "loc": place, "msg": message}


def raise_problems(problems: Iterable[dict[str, object]]) -> None:
    """Raise 422 with all the problems, if there is any."""
    if found := [*problems]:
        raise RequestValidationError(found)


async def respond_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    """Respond with 422, without the input, which may be secret or not representable in JSON."""
    detail = [{key: each[key] for key in ("type", "loc", "msg")} for each in error.errors()]
    return JSONResponse({"detail": detail}, 422)


# The query parameters of each route, by its `id()`. To find them anew takes 3 % of a list.
known_parameters: dict[int, dict[str, bool]] = {}


def query_parameters(route: APIRoute) -> dict[str, bool]:
    """Return the names of the query parameters of a route, and whether each is a list."""
    if id(route) not in known_parameters:
        known_parameters[id(route)] = {
            field.alias: get_origin(field.field_info.annotation) in (list, tuple)
            for field in get_flat_params(route.dependant)
            # `in_` is where a parameter is; a field of a query model has none.
            if getattr(field.field_info, "in_", ParamTypes.query) is ParamTypes.query
        }
    return known_parameters[id(route)]


async def refuse_unknown_parameters(request: Request) -> None:
    """Raise 422 for query parameters that the route does not have, such as misspelt ones.

    Raise it too for a parameter that is sent twice but is no list: FastAPI would take the last.
    """
    route = request.scope.get("route")
    if not request.query_params or not isinstance(route, APIRoute):  # files take any query
        return
    known = query_parameters(route)
    sent = Counter(name for name, _ in request.query_params.multi_items())
    raise_problems(
        problem("parameter_repeated", ("query", name), "Was sent more than once")
        if name in known
        else problem("extra_forbidden", ("query", name), "Extra inputs are not permitted")
        for name, number in sent.items()
        if name not in known or (number > 1 and not known[name])
    )
