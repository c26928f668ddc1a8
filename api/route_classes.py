"""Classes of routes, which document what a route answers with; and what an id in a path is."""

from collections.abc import Callable, Iterable, Iterator
from inspect import signature
from typing import Any, ClassVar

from fastapi import HTTPException, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant
from fastapi.exception_handlers import http_exception_handler
from fastapi.params import Depends
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.routing import Match, compile_path

from api.errors import ApiError, BadBody, Invalid, TooLarge, Unauthorized, Unavailable
from api.field_types import MAX_INTEGER
from config import settings


def named_errors(function: Callable[..., Any]) -> Iterator[type[ApiError]]:
    """Yield the errors that the types of a function's arguments name, and of its dependencies."""
    for parameter in signature(function, eval_str=True).parameters.values():
        # What stands in `Annotated` behind the type.
        for each in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(each, type) and issubclass(each, ApiError):
                yield each
            elif isinstance(each, Depends) and each.dependency:
                yield from named_errors(each.dependency)


def has_body(dependant: Dependant) -> bool:
    """Return whether a route, or one of its dependencies, takes the body of a request."""
    return bool(dependant.body_params) or any(map(has_body, dependant.dependencies))


def document(errors: Iterable[type[ApiError]]) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of errors, as the `responses` of FastAPI have it."""
    responses: dict[int | str, dict[str, Any]] = {}
    for error in dict.fromkeys(errors):
        first = responses.setdefault(error.status, error.documentation)["description"]
        second = error.documentation["description"]
        if first != second:  # as in "The name is taken, or nobody else is ..."
            description = f"{first}, or {second[0].lower()}{second[1:]}"
            responses[error.status] = error.documentation | {"description": description}
    return responses


class OpenRoute(APIRoute):
    """A route for everyone, which documents its errors and the headers of its response."""

    errors: ClassVar[tuple[type[ApiError], ...]] = (Invalid, Unavailable)
    body_errors: ClassVar[tuple[type[ApiError], ...]] = (BadBody, TooLarge)
    security: ClassVar[dict[str, object] | None] = {"security": []}  # "needs no token", in OpenAPI

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:  # noqa: ANN401
        takes_body = has_body(get_dependant(path=compile_path(path)[1], call=endpoint))
        errors = (*self.errors, *named_errors(endpoint), *(self.body_errors if takes_body else ()))
        responses = document(errors)
        response = signature(endpoint, eval_str=True).return_annotation
        if headers := getattr(response, "documented_headers", None):
            responses[options["status_code"] or 200] = {"headers": headers}
        options["responses"] = responses | (options["responses"] or {})
        options["operation_id"] = options["operation_id"] or endpoint.__name__
        options["openapi_extra"] = options["openapi_extra"] or self.security
        super().__init__(path, endpoint, **options)


class ApiRoute(OpenRoute):
    """The same for a route behind the guard in `main.py`."""

    errors = (*OpenRoute.errors, *((Unauthorized,) if settings.secret_key else ()))
    security = None


class IdConvertor(IntegerConvertor):
    """An id in a path: only digits, so `/tasks/stats` does not match `/tasks/{task_id:id}`."""

    def convert(self, value: str) -> int:
        """Return the id; instead of one above MAX_INTEGER, which no row has, MAX_INTEGER."""
        # `int` raises an error for a text of thousands of digits.
        return min(int(value), MAX_INTEGER) if len(value) <= len(str(MAX_INTEGER)) else MAX_INTEGER


register_url_convertor("id", IdConvertor())


async def respond_wrong_method(request: Request, _error: HTTPException) -> Response:
    """Respond with 405 and all methods of the path (RFC 9110, 15.5.6), not those of one route."""
    # An included router is one entry of `app.routes`; this yields the routes in it.
    matching = [
        route
        for route in iter_route_contexts(request.app.routes)
        if route.matches(request.scope)[0] is not Match.NONE
    ]
    methods = {method for route in matching for method in route.methods or ()}
    allow = ", ".join(sorted(methods)) or "GET, HEAD"  # a path of files has no methods
    return await http_exception_handler(request, HTTPException(405, headers={"Allow": allow}))
