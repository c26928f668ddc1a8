"""Versions of a task: its `ETag`, and the conditions `If-Match` and `If-None-Match`."""

from typing import Annotated, Any

from fastapi import Header, Request
from pydantic import WithJsonSchema
from sqlalchemy import Row

from api.errors import ApiError, document_header
from api.public import LOCATION, Created, PublicResponse, to_public
from models import Task, TaskPublic

ETAG = document_header("ETag", "The version of the task, in quotes")


class NotModified(ApiError, status=304, model=None, documented_headers=ETAG):
    """The task still has this version."""


class OtherVersion(ApiError, status=412, documented_headers=ETAG):
    """The task has another version."""


# Documented as a string: clients send one header, as in `"1", "2"`. Several count as one.
Etags = Annotated[list[str], WithJsonSchema({"type": "string"})]
IfMatch = Annotated[
    Etags | None,
    Header(description='Do it only if the `ETag` of the task is in this, as in `"3"`'),
    OtherVersion,
]
IfNoneMatch = Annotated[
    Etags | None, Header(description="Send the task only if its `ETag` is not in this"), NotModified
]


def etag(task: Task | Row[Any]) -> dict[str, str]:
    """Return the header with the version of a task (RFC 9110, 8.8.3)."""
    return {"ETag": f'"{task.version}"'}


def has_version(headers: list[str], task: Task | Row[Any]) -> bool:
    """Return whether the version of a task is in a list as `If-Match` has it (RFC 9110, 13.1).

    The list may have come in several headers, each with some of it (RFC 9110, 5.3).
    """
    versions = ("*", etag(task)["ETag"])  # `*` is any
    return any(each.strip() in versions for header in headers for each in header.split(","))


def require_version(task: Task, if_match: list[str] | None) -> None:
    """Raise 412 if the client sent other versions of the task (RFC 9110, 13.1.1)."""
    if if_match and not has_version(if_match, task):
        raise OtherVersion(headers=etag(task))


def raise_if_not_modified(task: Task | Row[Any], if_none_match: list[str] | None) -> None:
    """Raise 304 if the client has this version of the task (RFC 9110, 13.1.2)."""
    # A proxy that compresses marks versions with `W/` (RFC 9110, 8.8.3).
    if if_none_match and has_version([each.replace("W/", "") for each in if_none_match], task):
        raise NotModified(headers=etag(task))


class TaskResponse(PublicResponse):
    """A response with a task, or a row with its fields, and with its version as its `ETag`."""

    documented_headers = ETAG

    def __init__(self, task: Task | Row[Any]) -> None:
        super().__init__(to_public(TaskPublic, task), headers=etag(task))


class CreatedTask(Created):
    """The same for a task that a request has created."""

    documented_headers = LOCATION | ETAG

    def __init__(self, request: Request, task: Task) -> None:
        super().__init__(request, TaskPublic, task)
        self.headers.update(etag(task))
