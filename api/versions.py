"""Versions of a task: its `ETag`, and the preconditions `If-Match` and `If-None-Match`."""

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from fastapi import Header, Request
from pydantic import MISSING, WithJsonSchema
from sqlalchemy import Row

from api.errors import ApiError, Problems, document_header
from api.problems import problem
from api.public import LOCATION, Created, PublicResponse, to_public
from models import Task, TaskPublic

ETAG = document_header("ETag", "The version of the task, in quotes")


class NotModified(ApiError, status=304, model=None, documented_headers=ETAG):
    """The task still has this version."""


class OtherVersion(ApiError, status=412, documented_headers=ETAG):
    """The task has another version."""


class SomeOtherVersions(ApiError, status=412, model=Problems):
    """Some of the tasks have another version."""


class BadEtag(ApiError, status=400, detail='Versions are written in quotes, as in `"3"`'):
    """`If-Match` or `If-None-Match` has a version without quotes."""


# Documented as a string: clients send one header, as in `"1", "2"`. Several count as one.
Etags = Annotated[
    list[str] | None,
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r'^(\*|(W/)?"[!#-~]*"(, *(W/)?"[!#-~]*")*)$',
            "examples": ['"1"'],
        }
    ),
]

# A model of both headers took 90,000 instructions more than two parameters.
IfMatch = Annotated[
    Etags,
    Header(description='Do it only if the `ETag` of the task is in this, as in `"3"`'),
    OtherVersion,
    BadEtag,
]
IfNoneMatch = Annotated[
    Etags, Header(description="Do it only if the `ETag` of the task is not in this"), BadEtag
]

# A list of versions, or `*` for any (RFC 9110, 13.1 and 5.6.1). Proxies that compress make `W/"3"`
# or `"3-gzip"` of `"3"`.
VERSION = r'(?:W/)?"([^"]*?)(?:-(?:gzip|br|zstd))?"'
VERSIONS = re.compile(rf"[\s,]*(?:\*|{VERSION}(?:\s*,[\s,]*{VERSION})*)[\s,]*")


def etag(task: Task | Row[Any]) -> dict[str, str]:
    """Return the header with the version of a task (RFC 9110, 8.8.3)."""
    return {"ETag": f'"{task.version}"'}


def has_version(headers: list[str], task: Task | Row[Any]) -> bool:
    """Return whether the version of a task is in a list; raise 400 for what is no such list.

    The list may have come in several headers, each with some of it (RFC 9110, 5.3). What proxies
    made of a version counts too, since ours are strong: with an equal one, the task is the same.
    """
    sent = ",".join(headers)
    if not VERSIONS.fullmatch(sent):
        raise BadEtag
    return sent.strip(" \t,") == "*" or str(task.version) in re.findall(VERSION, sent)


def require_version(
    task: Task,
    if_match: list[str] | None,
    if_none_match: list[str] | None,
    version: int | MISSING = MISSING,
) -> None:
    """Raise 412 if the headers or the body say that the client knows another version of the task.

    See RFC 9110, 13.1.1 and 13.1.2.
    """
    if (
        (if_match and not has_version(if_match, task))
        or (if_none_match and has_version(if_none_match, task))
        or version not in (MISSING, task.version)
    ):
        raise OtherVersion(headers=etag(task))


def require_versions(tasks: Sequence[Task], versions: Iterable[int | MISSING]) -> None:
    """Raise 412 with the place of each task whose version was sent, and is another."""
    problems = [
        problem(
            "other_version",
            ("body", position, "version"),
            f"Input should be {task.version}, the version of the task",
        )
        for position, (task, version) in enumerate(zip(tasks, versions, strict=True))
        if version not in (MISSING, task.version)
    ]
    if problems:
        raise SomeOtherVersions(problems)


def raise_if_not_modified(task: Task | Row[Any], if_none_match: list[str] | None) -> None:
    """Raise 304 if the client has this version of the task (RFC 9110, 13.1.2)."""
    if if_none_match and has_version(if_none_match, task):
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
