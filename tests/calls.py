"""What many tests ask of the API."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx2
from servers import ApiServer
from sqlalchemy import Engine
from sqlmodel import Session, select

import models
from api.folding import fold

Task = dict[str, Any]
User = dict[str, Any]

SECRET_KEY = "the secret of the tests, which is long enough for any of the algorithms"
PASSWORD = "correct horse"
# Its hash, made with little effort; the API takes a sixth of a second for one, and for its check.
PASSWORD_HASH = (
    "$argon2id$v=19$m=8,t=1,p=1$zmxEjjPod42sc5qjZZe9lQ$Fw9FxWhu6qntK/dYl8LLWmxpoyz2y2WfQTnGJkvpZLk"
)


def create(client: httpx2.Client, **fields: object) -> Task:
    answer = client.post("/tasks", json={"title": "Write the report"} | fields)
    assert answer.status_code == 201, answer.text
    task: Task = answer.json()
    return task


def create_many(client: httpx2.Client, tasks: list[dict[str, Any]]) -> list[Task]:
    answer = client.post("/tasks/bulk", json=tasks)
    assert answer.status_code == 201, answer.text
    created: list[Task] = answer.json()
    return created


def create_user(client: httpx2.Client, username: str, **fields: object) -> User:
    required = {"username": username, "email": f"{username}@example.com", "password": PASSWORD}
    answer = client.post("/users", json=required | fields)
    assert answer.status_code == 201, answer.text
    user: User = answer.json()
    return user


def insert_user(engine: Engine, username: str, **fields: str | bool) -> int:
    """Put a user into the database, which is faster, and return the id."""
    required = {"username": username, "email": f"{username}@example.com"}
    row = models.User.model_validate(required | {"password_hash": PASSWORD_HASH} | fields)
    with Session(engine) as session:
        session.add(row)
        session.commit()
        assert row.id
        return row.id


def add_user(client: httpx2.Client, engine: Engine, username: str, **fields: str | bool) -> User:
    """Put a user into the database, and return the user as the client sees it."""
    user: User = client.get(f"/users/{insert_user(engine, username, **fields)}").json()
    return user


def assert_tags_agree_with_links(engine: Engine) -> None:
    """Check that the tags in the row of each task are those that it is linked to."""
    with Session(engine) as session:
        tags = dict(session.exec(select(models.Task.id, models.Task.tags)).all())
        links = select(models.TaskTag.task_id, models.Tag.name).join(models.Tag)
        by_links: dict[int | None, list[str]] = {task_id: [] for task_id in tags}
        for task_id, name in session.exec(links):
            by_links[task_id].append(name)
    assert tags == {task_id: sorted(names, key=fold) for task_id, names in by_links.items()}


def sign_in(server: ApiServer, username: str, password: str = PASSWORD) -> httpx2.Client:
    """Return a client who is signed in."""
    with server.client() as client:
        answer = client.post("/token", data={"username": username, "password": password})
    assert answer.status_code == 200, answer.text
    return server.client(Authorization=f"Bearer {answer.json()['access_token']}")


def at_once(number: int, ask: Callable[[int], httpx2.Response]) -> list[httpx2.Response]:
    """Return the answers to requests that are sent at the same time."""
    ready = Barrier(number)

    def wait_and_ask(index: int) -> httpx2.Response:
        ready.wait()
        return ask(index)

    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(wait_and_ask, range(number)))
