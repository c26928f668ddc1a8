"""What a developer may rely on in tests of their own: each route takes the session they give it."""

from collections.abc import Iterator

import httpx2
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlmodel import Session

from database import get_session
from main import app


@pytest.fixture
def sessions(engine: Engine) -> Iterator[list[Session]]:
    """The sessions that the routes have taken."""
    taken: list[Session] = []

    def get_test_session() -> Iterator[Session]:
        with Session(engine, expire_on_commit=False) as session:
            taken.append(session)
            yield session

    app.dependency_overrides[get_session] = get_test_session
    yield taken
    app.dependency_overrides.clear()


# These need no session of the request.
WITHOUT_SESSION = {("get", "/health"), ("get", "/ready"), ("post", "/token"), ("get", "/users/me")}


def test_every_route_takes_the_session_that_overrides_its_own(sessions: list[Session]) -> None:
    client = TestClient(app, "http://localhost")
    operations = [
        (method, path)
        for path, methods in app.openapi()["paths"].items()
        for method in methods
        if (method, path) not in WITHOUT_SESSION
    ]

    for number, (method, path) in enumerate(operations, start=1):
        client.request(
            method, path.format(task_id=1, user_id=1, tag_id=1, status="pending"), json={}
        )
        assert len(sessions) == number, (method, path)
    assert len(operations) == 26


def test_what_a_route_writes_is_in_the_database_of_the_session(
    client: httpx2.Client, sessions: list[Session]
) -> None:
    own_client = TestClient(app, "http://localhost")
    task = own_client.post("/tasks", json={"title": "Write the report"}).json()

    assert client.get("/tasks").json() == [task]
    assert len(sessions) == 1
