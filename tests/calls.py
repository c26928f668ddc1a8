"""What many tests ask of the API."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx2
from servers import ApiServer

Task = dict[str, Any]
User = dict[str, Any]

SECRET_KEY = "the secret of the tests, which is long enough for any of the algorithms"
PASSWORD = "correct horse"


def create(client: httpx2.Client, **fields: object) -> Task:
    answer = client.post("/tasks", json={"title": "Write the report"} | fields)
    assert answer.status_code == 201, answer.text
    task: Task = answer.json()
    return task


def create_user(client: httpx2.Client, username: str, **fields: object) -> User:
    required = {"username": username, "email": f"{username}@example.com", "password": PASSWORD}
    answer = client.post("/users", json=required | fields)
    assert answer.status_code == 201, answer.text
    user: User = answer.json()
    return user


def sign_in(server: ApiServer, username: str, password: str = PASSWORD) -> httpx2.Client:
    """Return a client who is signed in."""
    form = {"username": username, "password": password}
    answer = httpx2.post(f"{server.url}/token", data=form)
    assert answer.status_code == 200, answer.text
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    return httpx2.Client(base_url=server.url, headers=headers, timeout=30)


def at_once(number: int, ask: Callable[[int], httpx2.Response]) -> list[httpx2.Response]:
    """Return the answers to requests that are sent in the same moment."""
    ready = Barrier(number)

    def wait_and_ask(place: int) -> httpx2.Response:
        ready.wait()
        return ask(place)

    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(wait_and_ask, range(number)))
