"""The errors that clients see: each is a class, which is raised, and which documents itself.

A route documents an error if the type of one of its arguments names the class, as in
`Annotated[int, Path(), NotFound]`: see `route_classes.py`.
"""

from typing import Any, ClassVar

from fastapi import HTTPException
from sqlmodel import SQLModel

MAX_BODY_SIZE = 1024 * 1024  # bytes, as `TooLarge` says


class ErrorMessage(SQLModel):
    """What a client sees when a request fails."""

    detail: str


class Problem(SQLModel):
    """What is wrong with one value in a request, and where that is."""

    type: str
    loc: list[str | int]
    msg: str


class Problems(SQLModel):
    """What a client sees when values in its request are wrong."""

    detail: list[Problem]


# The documentation of headers, as OpenAPI has it.
Headers = dict[str, dict[str, object]]


def document_header(name: str, description: str, kind: str = "string") -> Headers:
    """Return the documentation of a header."""
    return {name: {"schema": {"type": kind}, "description": description}}


class ApiError(HTTPException):
    """An error with a status code. What the docstring of its class says, clients read."""

    status: ClassVar[int]
    documentation: ClassVar[dict[str, Any]] = {}  # as the `responses` of FastAPI have it
    sent_headers: ClassVar[dict[str, str]] = {}
    usual_detail: ClassVar[str]

    def __init_subclass__(  # called for each class, as in `class NotFound(ApiError, status=404)`
        cls,
        status: int,
        detail: str = "",
        model: type[SQLModel] | None = ErrorMessage,
        documented_headers: Headers | None = None,
        sent_headers: dict[str, str] | None = None,
    ) -> None:
        """Take the status code, the model of the body, and the headers, documented and sent."""
        description = str(cls.__doc__).removesuffix(".")
        headers = documented_headers or cls.documentation.get("headers")
        parts = {"description": description, "model": model, "headers": headers}
        cls.documentation = {name: part for name, part in parts.items() if part}
        cls.status, cls.sent_headers = status, sent_headers or cls.sent_headers
        cls.usual_detail = detail or description

    def __init__(self, detail: object = None, headers: dict[str, str] | None = None) -> None:
        headers = self.sent_headers | (headers or {})
        super().__init__(self.status, detail or self.usual_detail, headers)


class BadBody(ApiError, status=400):
    """The body cannot be decoded, or nests too deep."""


class Unauthorized(
    ApiError,
    status=401,
    detail="Not signed in",
    documented_headers=document_header("WWW-Authenticate", "`Bearer`"),
    sent_headers={"WWW-Authenticate": "Bearer"},  # RFC 6750, 3
):
    """Nobody is signed in."""


class Forbidden(ApiError, status=403):
    """Only an administrator may do this."""


class NotFound(ApiError, status=404):
    """There is no such task, user or tag."""


class SignInIsOff(ApiError, status=404, detail="Sign-in is off"):
    """`SECRET_KEY` is not set."""


class TooLarge(ApiError, status=413):
    """The body is over 1048576 bytes."""


class UnsupportedMediaType(ApiError, status=415):
    """The body is compressed, or its `Content-Type` is another one."""


class Invalid(ApiError, status=422, model=Problems):
    """Values in the request are wrong."""


RETRY_AFTER = document_header("Retry-After", "In seconds", "integer")


class Unavailable(
    ApiError, status=503, documented_headers=RETRY_AFTER, sent_headers={"Retry-After": "5"}
):
    """The database is not available, or too many requests wait."""
