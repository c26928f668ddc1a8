"""The tests that one writes first: in this process, on a SQLite file of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlmodel import Session, SQLModel, create_engine

from database import get_session
from main import app


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    engine = create_engine(f"sqlite:///{tmp_path}/tasks.db")
    SQLModel.metadata.create_all(engine)

    def get_test_session() -> Iterator[Session]:
        with Session(engine) as session:
            yield session

    app.dependency_overrides[get_session] = get_test_session
    # Without `with`, so the start does not touch the real database.
    yield TestClient(app, "http://localhost")
    app.dependency_overrides.clear()
    engine.dispose()


def test_create_a_task(client: TestClient) -> None:
    answer = client.post("/tasks", json={"title": "Write the report", "tags": ["work"]})
    task = answer.json()

    assert answer.status_code == 201
    assert (task["title"], task["tags"], task["status"]) == (
        "Write the report",
        ["work"],
        "pending",
    )
    assert client.get(f"/tasks/{task['id']}").json() == client.get("/tasks").json()[0] == task


def test_change_and_delete_a_task(client: TestClient) -> None:
    path = client.post("/tasks", json={"title": "Write the report"}).headers["Location"]

    assert client.patch(path, json={"status": "completed"}).json()["status"] == "completed"
    assert client.delete(path).status_code == 200
    assert client.get(path).status_code == 404
    assert client.get("/tasks").json() == []


def test_a_task_needs_a_title(client: TestClient) -> None:
    answer = client.post("/tasks", json={"description": "Ten pages"})

    assert answer.status_code == 422
    assert client.get("/tasks").json() == []
