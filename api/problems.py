"""Problems: which values in a request are wrong, why, and in which place each is."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeVar, get_origin

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.params import ParamTypes
from fastapi.routing import APIRoute

# Where in a request a value is, as in `("body", 3, "owner_id")`. FastAPI's errors call it `loc`.
Place = tuple[str | int, ...]
Item = TypeVar("Item")


def places(items: Iterable[Item]) -> Iterator[tuple[Place, Item]]:
    """Yield the items of a body that is a list, each with its place."""
    for position, item in enumerate(items):
        yield ("body", position), item


def problem(kind: str, place: Place, message: str) -> dict[str, object]:
    """Return a problem as FastAPI has it."""
    return {"type": kind, "loc": place, "msg": message}


def raise_problems(problems: Iterable[dict[str, object]]) -> None:
    """Raise 422 with all the problems, if there is any."""
    if found := [*problems]:
        raise RequestValidationError(found)


# Of each route by its `id()`, since a route cannot be a key. To find them takes 3 % of a list.
known_parameters: dict[int, dict[str, bool]] = {}


def query_parameters(route: APIRoute) -> dict[str, bool]:
    """Return the names of the query parameters of a route, and whether each is a list."""
    if id(route) not in known_parameters:
        known_parameters[id(route)] = {
            field.alias: get_origin(field.field_info.annotation) in (list, tuple)
            for field in get_flat_params(route.dependant)
            # A field of a query model has no `in_`.
            if getattr(field.field_info, "in_", ParamTypes.query) is ParamTypes.query
        }
    return known_parameters[id(route)]


async def check_parameters(request: Request) -> None:
    """Raise 422 for query parameters that the route does not have, such as misspelt ones.

    Raise it too for a parameter that is sent twice but is no list: FastAPI would take the last.
    """
    route = request.scope.get("route")
    if not request.query_params or not isinstance(route, APIRoute):  # as for a frontend
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
