"""The errors that clients see: each is a class, which is raised, and which documents itself.

A route documents an error if the type of one of its arguments names the class, as in
`Annotated[int, Path(), NotFound]`: see `routes.py`.
"""

from typing import Any, ClassVar

from fastapi import HTTPException
from sqlmodel import SQLModel

MAX_BODY_SIZE = 1024 * 1024  # bytes


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
    """An error that is answered with a status code; its docstring is its documentation."""

    status: ClassVar[int]
    documentation: ClassVar[dict[str, Any]]  # as the `responses` of FastAPI have it
    sent: ClassVar[dict[str, str]]

    def __init_subclass__(
        cls,
        status: int,
        meaning: str | None = None,
        model: type[SQLModel] | None = ErrorMessage,
        documented: Headers | None = None,
        sent: dict[str, str] | None = None,
    ) -> None:
        """Take the status code; the documentation of the body and the headers; and the latter."""
        parts = {"model": model, "headers": documented}
        cls.status, cls.sent = status, sent or {}
        cls.documentation = {name: part for name, part in parts.items() if part}
        cls.documentation["description"] = meaning or str(cls.__doc__).removesuffix(".")

    def __init__(self, detail: object = None, headers: dict[str, str] | None = None) -> None:
        """Say in `detail` what is wrong, if that is more than the documentation says."""
        meaning = self.documentation["description"]
        super().__init__(self.status, detail or meaning, self.sent | (headers or {}))


# FastAPI itself raises these two: `BadBody`, and `Invalid` as its `RequestValidationError`.
class BadBody(ApiError, status=400):
    """The body cannot be decoded, or nests too deep."""


class Invalid(ApiError, status=422, model=Problems):
    """Values in the request are wrong."""


BEARER: dict[str, Any] = {  # RFC 6750, 3
    "documented": document_header("WWW-Authenticate", "`Bearer`"),
    "sent": {"WWW-Authenticate": "Bearer"},
}


class Unauthorized(ApiError, status=401, **BEARER):
    """Nobody is signed in."""


class Forbidden(ApiError, status=403):
    """Only an administrator may do this."""


class SignInIsOff(ApiError, status=404):
    """`SECRET_KEY` is not set."""


class NotFound(ApiError, status=404):
    """There is no such task, user or tag."""


class TooLarge(ApiError, status=413, meaning=f"The body is over {MAX_BODY_SIZE} bytes"):
    """The body has more bytes than a request may send."""


RETRY_AFTER = document_header("Retry-After", "In seconds", "integer")


class Unavailable(ApiError, status=503, documented=RETRY_AFTER, sent={"Retry-After": "5"}):
    """The database is not available, or too many requests wait."""
