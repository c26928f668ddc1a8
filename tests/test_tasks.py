"""What a client may rely on for one task."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import httpx2
import pytest
from calls import Task, add_user, create
from sqlalchemy import Engine


def read(client: httpx2.Client, task: Task) -> Task:
    answer = client.get(f"/tasks/{task['id']}")
    assert answer.status_code == 200
    found: Task = answer.json()
    return found


def test_a_new_task_needs_only_a_title(client: httpx2.Client) -> None:
    task = create(client)

    assert task == read(client, task)
    assert task.keys() > {"id", "created_at", "updated_at"}
    expected = {
        "title": "Write the report",
        "description": None,
        "status": "pending",
        "priority": 0,
        "due_at": None,
        "owner_id": None,
        "completed_at": None,
        "deleted_at": None,
        "version": 1,
    }
    assert task.items() >= expected.items()


def test_a_new_task_keeps_what_was_sent(client: httpx2.Client) -> None:
    sent = {
        "title": "🐛 Fix `app.frontend()` <b>",
        "description": "line\nline\t'; DROP TABLE task; --",
        "status": "in_progress",
        "priority": 5,
        "due_at": "2026-12-31T23:59:59.123456Z",
    }

    task = create(client, **sent)

    assert read(client, task) == task
    assert task.items() >= sent.items()


def test_the_location_of_a_new_task_leads_to_it(client: httpx2.Client) -> None:
    answer = client.post("/tasks", json={"title": "Write the report"})

    assert answer.headers["Location"] == f"/tasks/{answer.json()['id']}"
    assert client.get(answer.headers["Location"]).json() == answer.json()


def test_a_title_is_trimmed_before_its_length_counts(client: httpx2.Client) -> None:
    assert create(client, title=f"\n {'x' * 200}\t")["title"] == "x" * 200


def test_datetimes_go_out_in_utc_with_a_z(client: httpx2.Client) -> None:
    task = create(client, due_at="2026-06-01T01:30:00+02:00", status="completed")

    assert task["due_at"] == "2026-05-31T23:30:00Z"
    for field in ("created_at", "updated_at", "completed_at"):
        assert task[field].endswith("Z")
        assert datetime.fromisoformat(task[field])


@pytest.mark.parametrize("due_at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
def test_the_first_and_the_last_datetime_of_the_calendar_are_kept(
    client: httpx2.Client, due_at: str
) -> None:
    task = create(client, due_at=due_at)

    assert task["due_at"] == due_at
    assert read(client, task) == task


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_an_update_changes_only_what_was_sent(client: httpx2.Client, method: str) -> None:
    task = create(client, description="Ten pages", priority=3, due_at="2026-06-01T00:00:00Z")

    answer = client.request(
        method, f"/tasks/{task['id']}", json={"title": " Read it ", "priority": 1}
    )

    assert answer.status_code == 200
    changed = answer.json()
    assert changed == task | {
        "title": "Read it",
        "priority": 1,
        "updated_at": changed["updated_at"],
        "version": 2,
    }
    assert changed["updated_at"] > task["updated_at"]
    assert read(client, task) == changed


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_null_clears_the_description_and_the_due_date(client: httpx2.Client, method: str) -> None:
    task = create(client, description="Ten pages", due_at="2026-06-01T00:00:00Z")

    client.request(method, f"/tasks/{task['id']}", json={"description": None, "due_at": None})

    assert read(client, task)["description"] is None
    assert read(client, task)["due_at"] is None


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("field", ["title", "status", "priority"])
def test_null_is_refused_for_the_other_fields(
    client: httpx2.Client, method: str, field: str
) -> None:
    task = create(client)

    changes = {field: None, "description": "must not be kept"}
    answer = client.request(method, f"/tasks/{task['id']}", json=changes)

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", field]
    assert read(client, task) == task


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_an_empty_update_changes_nothing(client: httpx2.Client, method: str) -> None:
    task = create(client)

    answer = client.request(method, f"/tasks/{task['id']}", json={})

    assert answer.status_code == 200
    assert answer.json() == task == read(client, task)


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_a_task_may_be_sent_back_as_it_was_received(client: httpx2.Client, method: str) -> None:
    task = create(client, status="completed", due_at="2026-06-01T00:00:00Z")
    received = task | {"id": 999_999, "created_at": "never", "completed_at": None}

    answer = client.request(method, f"/tasks/{task['id']}", json=received)

    assert answer.status_code == 200
    assert answer.json() == task == read(client, task)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/tasks", {"title": "new"}),
        ("PATCH", "/tasks/{task_id}", {"title": "new"}),
        ("PUT", "/tasks/{task_id}", {"title": "new"}),
        ("POST", "/tasks/{task_id}/transfer", {"from_user_id": None, "to_user_id": None}),
        ("PATCH", "/tags/{tag_id}", {"name": "new"}),
        ("POST", "/users", {"username": "new", "email": "new@example.com", "password": "new" * 3}),
        ("PATCH", "/users/{user_id}", {"full_name": "new"}),
    ],
)
@pytest.mark.parametrize("unknown", ["due_date", "folded_title"])
def test_a_body_with_an_unknown_field_changes_nothing(  # each is a part of the case
    client: httpx2.Client,
    engine: Engine,
    method: str,
    path: str,
    body: dict[str, object],
    unknown: str,
) -> None:
    user = add_user(client, engine, "ada")
    create(client, tags=["report"])
    ids = {name: client.get(f"/{name}s").json()[0]["id"] for name in ("task", "tag", "user")}
    before = [client.get(path).json() for path in ("/tasks", "/tags", "/users")]

    url = path.format(**{f"{name}_id": row_id for name, row_id in ids.items()})
    answer = client.request(method, url, json=body | {unknown: "2027-01-01"})

    assert answer.status_code == 422
    [problem] = answer.json()["detail"]
    assert (problem["type"], problem["loc"]) == ("extra_forbidden", ["body", unknown])
    assert [client.get(path).json() for path in ("/tasks", "/tags", "/users")] == before
    assert user == before[2][0]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_an_unknown_field_in_bulk_is_named_with_its_place(
    client: httpx2.Client, method: str
) -> None:
    task = create(client)
    items = [{"id": task["id"], "title": "new"}, {"id": 7, "title": "new", "due": "2027-01-01"}]

    answer = client.request(method, "/tasks/bulk", json=items)

    assert answer.status_code == 422
    assert [problem["loc"] for problem in answer.json()["detail"]] == [["body", 1, "due"]]
    assert client.get("/tasks").json() == [task]


def test_a_tag_and_a_user_may_be_sent_back_as_they_were_received(
    client: httpx2.Client, engine: Engine
) -> None:
    user = add_user(client, engine, "ada")
    create(client, tags=["report"])
    [tag] = client.get("/tags").json()

    assert client.patch(f"/tags/{tag['id']}", json=tag).json() == tag
    assert client.patch(f"/users/{user['id']}", json=user).json() == user


def test_a_task_may_be_created_as_another_was_received(client: httpx2.Client) -> None:
    task = create(client)

    assert create(client, **task)["id"] != task["id"]


def test_completed_at_is_set_while_the_status_is_completed(client: httpx2.Client) -> None:
    path = f"/tasks/{create(client)['id']}"

    completed = client.patch(path, json={"status": "completed"}).json()
    renamed = client.patch(path, json={"status": "completed", "title": "Renamed"}).json()
    reopened = client.patch(path, json={"status": "in_progress"}).json()

    assert completed["completed_at"] >= completed["created_at"]
    assert renamed["completed_at"] == completed["completed_at"]
    assert reopened["completed_at"] is None


def test_a_task_may_be_created_completed(client: httpx2.Client) -> None:
    assert create(client, status="completed")["completed_at"] is not None


def test_a_deleted_task_is_gone(client: httpx2.Client) -> None:
    task, other = create(client), create(client)
    path = f"/tasks/{task['id']}"

    answer = client.delete(path)

    assert answer.status_code == 200
    assert answer.json() == {"message": "Task moved to the trash", "task_id": task["id"]}
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        assert client.request(method, path, json={}).status_code == 404
    assert client.get("/tasks").json() == [other]


def test_the_id_of_a_deleted_task_is_not_used_again(client: httpx2.Client) -> None:
    task = create(client)
    client.delete(f"/tasks/{task['id']}")

    assert create(client)["id"] > task["id"]


def test_updates_at_the_same_time_are_all_kept(client: httpx2.Client) -> None:
    task = create(client)
    changes = {"title": "Read it", "description": "Ten pages", "status": "completed", "priority": 4}

    def change(field: str) -> int:
        return client.patch(f"/tasks/{task['id']}", json={field: changes[field]}).status_code

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(change, list(changes) * 5))

    assert set(answers) == {200}
    assert read(client, task).items() >= changes.items()


def test_the_status_and_completed_at_agree_after_updates_at_the_same_time(
    client: httpx2.Client,
) -> None:
    paths = [f"/tasks/{create(client)['id']}" for _ in range(30)]
    calls = [(path, status) for path in paths for status in ("completed", "in_progress")]

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(lambda call: client.patch(call[0], json={"status": call[1]}), calls))

    for task in client.get("/tasks").json():
        assert (task["status"] == "completed") is (task["completed_at"] is not None)


def test_of_deletions_at_the_same_time_one_succeeds(client: httpx2.Client) -> None:
    path = f"/tasks/{create(client)['id']}"

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda _: client.delete(path).status_code, range(20)))

    assert sorted(answers) == [200] + [404] * 19
