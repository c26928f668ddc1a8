"""The errors that clients see: each is a class, which is raised, and which documents itself.

A route documents an error if the type of one of its arguments names the class, as in
`Annotated[int, Path(), NotFound]`: see `routes.py`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from fastapi import HTTPException
from sqlmodel import SQLModel


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
    """An error, with its status code, what it means, and the headers that it is sent with."""

    status: ClassVar[int]
    meaning: ClassVar[str]
    model: ClassVar[type[SQLModel] | None] = ErrorMessage
    documented_headers: ClassVar[Headers] = {}
    header: ClassVar[tuple[str, str] | None] = None

    def __init__(self, detail: object = None, headers: Mapping[str, str] | None = None) -> None:
        """Say in `detail` what is wrong, if that is more than the meaning of the error."""
        own_headers = dict([self.header]) if self.header else None
        super().__init__(self.status, detail or self.meaning, headers or own_headers)

    @classmethod
    def document(cls) -> dict[str, Any]:
        """Return the documentation of the error, as the `responses` of FastAPI have it."""
        parts = {"model": cls.model, "headers": cls.documented_headers}
        return {"description": cls.meaning} | {name: part for name, part in parts.items() if part}


class Invalid(ApiError):
    """Raised as FastAPI's own `RequestValidationError`: see `problems.py`."""

    status = 422
    meaning = "Values in the request are wrong"
    model = Problems


class NotFound(ApiError):
    """There is no row with this id."""

    status = 404
    meaning = "There is no such task, user or tag"


class Unauthorized(ApiError):
    """The client has to sign in (RFC 6750, 3)."""

    status = 401
    meaning = "Nobody is signed in"
    documented_headers = document_header("WWW-Authenticate", "`Bearer`")
    header = ("WWW-Authenticate", "Bearer")


class Forbidden(ApiError):
    """The client has signed in, but may not do this."""

    status = 403
    meaning = "Only an administrator may do this"


class SignInIsOff(ApiError):
    """Everyone may call the API, and nobody is signed in."""

    status = 404
    meaning = "`SECRET_KEY` is not set"


class Unavailable(ApiError):
    """The client may send the request again after the seconds in `Retry-After`."""

    status = 503
    meaning = "The database is not available, or too many requests wait"
    documented_headers = document_header("Retry-After", "In seconds", "integer")
    header = ("Retry-After", "5")


class BadBody(ApiError):
    """Raised by FastAPI itself."""

    status = 400
    meaning = "The body cannot be decoded, or nests too deep"


MAX_BODY_SIZE = 1024 * 1024  # bytes


class TooLarge(ApiError):
    """The body has more bytes than a request may send."""

    status = 413
    meaning = f"The body is over {MAX_BODY_SIZE} bytes"
