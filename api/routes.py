"""How routes document what they answer with, and what an id in a path is."""

from collections.abc import Callable, Iterable, Iterator
from inspect import signature
from typing import Any, ClassVar, get_origin

from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant
from fastapi.params import Depends
from fastapi.routing import APIRoute
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.routing import compile_path

from api.errors import ApiError, BadBody, Invalid, TooLarge, Unauthorized, Unavailable
from api.field_types import MAX_INTEGER
from config import settings


def named_errors(function: Callable[..., Any]) -> Iterator[type[ApiError]]:
    """Yield the errors that the types of a function's arguments name, and of its dependencies."""
    for parameter in signature(function, eval_str=True).parameters.values():
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
        documentation = error.documentation
        if error.status in responses:  # as in "The name is taken, or nobody else is ..."
            first, second = responses[error.status]["description"], documentation["description"]
            documentation = documentation | {
                "description": f"{first}, or {second[0].lower()}{second[1:]}"
            }
        responses[error.status] = documentation
    return responses


class OpenRoute(APIRoute):
    """A route that everyone may call; it documents its errors and the headers of its response."""

    errors: ClassVar[tuple[type[ApiError], ...]] = (Invalid, Unavailable)
    body_errors: ClassVar[tuple[type[ApiError], ...]] = (BadBody, TooLarge)
    security: ClassVar[dict[str, object] | None] = {"security": []}  # as OpenAPI says it

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:  # noqa: ANN401
        """Take the options of FastAPI's own routes."""
        errors = [*self.errors, *named_errors(endpoint)]
        if has_body(get_dependant(path=compile_path(path)[1], call=endpoint)):
            errors += self.body_errors
        responses = document(errors)
        response = signature(endpoint, eval_str=True).return_annotation
        headers = getattr(get_origin(response) or response, "documented_headers", None)
        if headers:
            responses[options.get("status_code") or 200] = {"headers": headers}
        options["responses"] = responses | (options.get("responses") or {})
        options["operation_id"] = options.get("operation_id") or endpoint.__name__
        options["openapi_extra"] = options.get("openapi_extra") or self.security
        super().__init__(path, endpoint, **options)


class ApiRoute(OpenRoute):
    """The same for a route where one may have to sign in."""

    errors = (*OpenRoute.errors, *((Unauthorized,) if settings.secret_key else ()))
    security = None


class IdConvertor(IntegerConvertor):
    """An id in a path: only digits, so `/tasks/stats` does not match `/tasks/{task_id:id}`."""

    def convert(self, value: str) -> int:
        """Return the id; instead of one above MAX_INTEGER, which no row has, MAX_INTEGER."""
        # `int` raises an error for a text of thousands of digits.
        return min(int(value), MAX_INTEGER) if len(value) <= len(str(MAX_INTEGER)) else MAX_INTEGER


register_url_convertor("id", IdConvertor())
