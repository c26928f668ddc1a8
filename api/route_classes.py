"""Classes of routes, which check the query, and document responses; and what an id in a path is."""

import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from inspect import signature
from typing import Any, ClassVar, get_origin

from anyio import sleep
from fastapi import HTTPException, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant, get_flat_params
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends, ParamTypes
from fastapi.routing import APIRoute, iter_route_contexts
from sqlalchemy.exc import DBAPIError
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.routing import Match, compile_path

from api.errors import ApiError, BadBody, Invalid, TooLarge, Unavailable, UnsupportedMediaType
from api.field_types import MAX_INTEGER
from api.outages import is_conflict
from api.problems import UNKNOWN_MESSAGE, Problem, problem, raise_problems


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
    """A route for everyone, which refuses unknown query parameters, and documents its responses."""

    errors: ClassVar[tuple[type[ApiError], ...]] = (Invalid, Unavailable)
    body_errors: ClassVar[tuple[type[ApiError], ...]] = (BadBody, TooLarge, UnsupportedMediaType)
    media_type: ClassVar[str] = "application/json"  # of a body
    media_types: ClassVar[str] = r"application/([^/]*\+)?json"  # all that FastAPI reads, a pattern
    security: ClassVar[dict[str, object] | None] = {"security": []}  # "needs no token", in OpenAPI

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:  # noqa: ANN401
        # FastAPI's own description of what a request has, which it makes again below.
        dependant = get_dependant(path=compile_path(path)[1], call=endpoint)
        self.takes_body = has_body(dependant)
        body_errors = self.body_errors if self.takes_body else ()
        responses = document((*self.errors, *named_errors(endpoint), *body_errors))
        response = signature(endpoint, eval_str=True).return_annotation
        if headers := getattr(response, "documented_headers", None):
            responses[options["status_code"] or 200] = {"headers": headers}
        options["responses"] = responses | (options["responses"] or {})
        options["operation_id"] = options["operation_id"] or endpoint.__name__
        options["openapi_extra"] = options["openapi_extra"] or self.security
        super().__init__(path, endpoint, **options)
        # The names of the query parameters, and whether each is a list.
        self.query_parameters = {
            field.alias: get_origin(field.field_info.annotation) in (list, tuple)
            for field in get_flat_params(self.dependant)
            # `in_` is where a parameter is; a field of a query model has none.
            if getattr(field.field_info, "in_", ParamTypes.query) is ParamTypes.query
        }

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function that checks a request, and then handles it as FastAPI does.

        A dependency that does the same would take 5 % of the instructions of a read.
        """
        handle = super().get_route_handler()

        async def check_and_handle(request: Request) -> Response:
            try:
                raise_problems(find_unknown_parameters(request, self.query_parameters))
                if self.takes_body:
                    self.require_media_type(request)
            except (RequestValidationError, UnsupportedMediaType):
                await self.refuse_strangers(request)
                raise
            try:
                return await handle(request)
            except DBAPIError as error:
                if not is_conflict(error):
                    raise
            # Its transaction was rolled back, so handle it once more. First close the stack that
            # FastAPI has of its dependencies, which ends the session.
            await request.scope["fastapi_function_astack"].aclose()
            await sleep(0.1)  # so that the other request ends first
            return await handle(request)

        return check_and_handle

    def require_media_type(self, request: Request) -> None:
        """Raise 415 for a body of which FastAPI would see only bytes."""
        headers = request.headers
        # A request with neither has no body (RFC 9112, 6.3).
        if headers.get("Content-Length", "0") == "0" and "Transfer-Encoding" not in headers:
            return
        sent = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if not re.fullmatch(self.media_types, sent):
            raise UnsupportedMediaType(f"Send the header `Content-Type: {self.media_type}`")
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UnsupportedMediaType(
                "Send the body uncompressed, without the header `Content-Encoding`",
                {"Accept-Encoding": "identity"},  # RFC 9110, 12.5.3
            )

    async def refuse_strangers(self, request: Request) -> None:
        """Raise 401 for strangers, who are told of nothing else, where one has to sign in."""


def find_unknown_parameters(request: Request, known: dict[str, bool]) -> Iterator[Problem]:
    """Yield a problem for each query parameter that the route does not have, or that is repeated.

    Of a parameter that is sent twice but is no list, FastAPI would take the last.
    """
    if not request.scope["query_string"]:
        return
    sent = Counter(name for name, _ in request.query_params.multi_items())
    for name, number in sent.items():
        if name not in known:
            yield problem("extra_forbidden", ("query", name), UNKNOWN_MESSAGE)
        elif number > 1 and not known[name]:
            yield problem("parameter_repeated", ("query", name), "Input should be sent only once")


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
    if "GET" in methods or not methods:  # a path of files has no methods
        methods |= {"GET", "HEAD"}  # see `answer_head`
    allow = ", ".join(sorted(methods))
    return await http_exception_handler(request, HTTPException(405, headers={"Allow": allow}))
