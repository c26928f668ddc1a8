"""Call the API by the client for Python: `round_trip.py URL`, and a name and a password if any."""

import json
import sys
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

from task_api import AuthenticatedClient, Client
from task_api.api.tags import read_tags
from task_api.api.tasks import (
    create_task,
    create_tasks,
    export_tasks,
    read_tasks,
    update_task,
    update_tasks,
)
from task_api.api.users import create_token, read_member
from task_api.models import (
    ErrorMessage,
    Problems,
    SignIn,
    TaskBulkUpdate,
    TaskCreate,
    TaskPublic,
    TaskSort,
    TaskStatus,
    TaskUpdate,
    Token,
    UserPublic,
)

DUE_AT = datetime(2027, 1, 29, 17, tzinfo=UTC)


def sign_in(url: str, username: str, password: str) -> str:
    """Return a token, with which the API knows who calls."""
    client = Client(url, raise_on_unexpected_status=True)
    refused = create_token.sync(client=client, body=SignIn(username=username, password="not it"))
    assert isinstance(refused, ErrorMessage)
    token = create_token.sync(client=client, body=SignIn(username=username, password=password))
    assert isinstance(token, Token)
    signed_in = AuthenticatedClient(url, token.access_token, raise_on_unexpected_status=True)
    member = read_member.sync(client=signed_in)
    assert isinstance(member, UserPublic)
    assert member.username == username
    return token.access_token


def create_and_update(client: AuthenticatedClient) -> None:
    """Create a task, change some of its fields, and meet the errors."""
    tags = ["report", "Home"]
    body = TaskCreate(title="Write the report", description="Ten pages", due_at=DUE_AT, tags=tags)
    task = create_task.sync(client=client, body=body, idempotency_key="first")
    assert isinstance(task, TaskPublic)
    assert (task.status, task.priority, task.due_at) == (TaskStatus.PENDING, 0, DUE_AT)
    assert task.tags == ["Home", "report"]
    assert create_task.sync(client=client, body=body, idempotency_key="first") == task

    changes = TaskUpdate(due_at=None, status=TaskStatus.IN_PROGRESS)
    updated = update_task.sync(task.id, client=client, body=changes, if_match='"1"')
    assert isinstance(updated, TaskPublic)
    assert updated.due_at is None
    assert (updated.description, updated.status) == ("Ten pages", TaskStatus.IN_PROGRESS)

    conflict = update_task.sync_detailed(task.id, client=client, body=changes, if_match='"1"')
    assert conflict.status_code == 412
    assert isinstance(conflict.parsed, ErrorMessage)

    refused = create_task.sync(client=client, body=TaskCreate(title=""))
    assert isinstance(refused, Problems)
    assert refused.detail[0].loc == ["body", "title"]


def create_and_update_many(client: AuthenticatedClient) -> None:
    """Create tasks at once, and complete the first of them."""
    bodies = [
        TaskCreate(title=f"Task {priority}", priority=priority, tags=["home"])
        for priority in (5, 4, 3)
    ]
    tasks = create_tasks.sync(client=client, body=bodies)
    assert isinstance(tasks, list)
    assert [task.priority for task in tasks] == [5, 4, 3]

    completed = TaskBulkUpdate(id=tasks[0].id, status=TaskStatus.COMPLETED)
    updated = update_tasks.sync(client=client, body=[completed])
    assert isinstance(updated, list)
    assert [(task.status, task.priority) for task in updated] == [(TaskStatus.COMPLETED, 5)]
    assert updated[0].completed_at is not None


def list_pages(client: AuthenticatedClient) -> None:
    """List the tasks of two statuses, two on a page, the most urgent first."""
    statuses = [TaskStatus.PENDING, TaskStatus.IN_PROGRESS]
    sort = TaskSort.PRIORITY_DESCENDING
    first = read_tasks.sync_detailed(client=client, status=statuses, sort=sort, limit=2, count=True)
    assert isinstance(first.parsed, list)
    assert [task.title for task in first.parsed] == ["Task 4", "Task 3"]
    assert first.headers["X-Total-Count"] == "3"

    url = first.headers["Link"].removeprefix("<").partition(">")[0]
    [after] = parse_qs(urlsplit(url).query)["after"]
    last = read_tasks.sync_detailed(client=client, status=statuses, sort=sort, limit=2, after=after)
    assert isinstance(last.parsed, list)
    assert [task.title for task in last.parsed] == ["Write the report"]
    assert "Link" not in last.headers


def find_tagged(client: AuthenticatedClient) -> None:
    """List the tasks that have both tags, and the tags."""
    tasks = read_tasks.sync(client=client, tag=["home", "report"])
    assert isinstance(tasks, list)
    assert [task.title for task in tasks] == ["Write the report"]

    tags = read_tags.sync(client=client)
    assert isinstance(tags, list)
    assert [(tag.name, tag.task_count) for tag in tags] == [("Home", 4), ("report", 1)]


def export(client: AuthenticatedClient) -> None:
    """Export all tasks, each a line."""
    lines = export_tasks.sync(client=client)
    assert isinstance(lines, str)
    titles = [json.loads(line)["title"] for line in lines.splitlines()]
    assert titles == ["Write the report", "Task 5", "Task 4", "Task 3"]


def main(url: str, *credentials: str) -> None:
    """Do all of it. An API without sign-in reads no token."""
    token = sign_in(url, *credentials) if credentials else "none"
    with AuthenticatedClient(url, token, raise_on_unexpected_status=True) as client:
        create_and_update(client)
        create_and_update_many(client)
        list_pages(client)
        find_tagged(client)
        export(client)


main(*sys.argv[1:])
