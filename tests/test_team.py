"""What a team may rely on when many work on the same tasks: owners, transfers and the trash."""

from typing import Any

import httpx2
import pytest
from calls import Task, add_user, at_once, create
from sqlalchemy import Engine, text


def me(client: httpx2.Client) -> int:
    user_id: int = client.get("/users/me").json()["id"]
    return user_id


def transfer(
    client: httpx2.Client, task: Task, giver: int | None, taker: int | None
) -> httpx2.Response:
    body = {"from_user_id": giver, "to_user_id": taker}
    return client.post(f"/tasks/{task['id']}/transfer", json=body)


def test_a_new_task_belongs_to_who_is_signed_in(ada: httpx2.Client) -> None:
    assert create(ada)["owner_id"] == me(ada)
    [task] = ada.post("/tasks/bulk", json=[{"title": "Write the report"}]).json()
    assert task["owner_id"] == me(ada)


def test_a_new_task_may_belong_to_another_or_to_nobody(
    ada: httpx2.Client, bob: httpx2.Client
) -> None:
    assert create(ada, owner_id=me(bob))["owner_id"] == me(bob)
    assert create(ada, owner_id=None)["owner_id"] is None


def test_a_new_task_of_an_open_api_belongs_to_whom_it_is_said(
    client: httpx2.Client, engine: Engine
) -> None:
    user = add_user(client, engine, "ada")

    assert create(client)["owner_id"] is None
    assert create(client, owner_id=user["id"])["owner_id"] == user["id"]


def test_only_an_administrator_deletes_all_unused_tags(
    ada: httpx2.Client, bob: httpx2.Client
) -> None:
    task = create(bob, tags=["a"])
    bob.patch(f"/tasks/{task['id']}", json={"tags": []}).raise_for_status()

    refused, done = (member.delete("/tags?unused=true") for member in (bob, ada))

    assert (refused.status_code, refused.json()) == (
        403,
        {"detail": "Only an administrator may do this"},
    )
    assert done.json() == {"message": "Unused tags deleted", "count": 1}


@pytest.mark.parametrize("owner_id", [2**53 - 1, 10**9, True, "1", 1.5, 0, -1, 2**53])
def test_a_task_for_an_unknown_user_is_refused(client: httpx2.Client, owner_id: object) -> None:
    answer = client.post("/tasks", json={"title": "Write the report", "owner_id": owner_id})

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "owner_id"]
    assert client.get("/tasks").json() == []


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_an_update_does_not_change_the_owner(
    client: httpx2.Client, engine: Engine, method: str
) -> None:
    user = add_user(client, engine, "ada")
    task = create(client)
    path = f"/tasks/{task['id']}"
    new = {"title": "must not be kept", "tags": ["must not be kept"], "owner_id": user["id"]}

    answer = client.request(method, path, json=new)
    in_bulk = client.patch("/tasks/bulk", json=[{"id": task["id"]} | new])

    assert (answer.status_code, in_bulk.status_code) == (422, 422)
    [problem], [problem_in_bulk] = answer.json()["detail"], in_bulk.json()["detail"]
    assert problem["loc"] == ["body", "owner_id"]
    assert problem_in_bulk["loc"] == ["body", 0, "owner_id"]
    assert "/tasks/{task_id}/transfer" in problem["msg"]
    assert client.get(path).json() == task
    assert client.get("/tags").json() == []


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_an_update_may_name_the_owner(client: httpx2.Client, engine: Engine, method: str) -> None:
    user = add_user(client, engine, "ada")
    task = create(client, owner_id=user["id"])

    answer = client.request(method, f"/tasks/{task['id']}", json={"owner_id": user["id"]})

    assert (answer.status_code, answer.json()) == (200, task)


def test_tasks_are_filtered_by_their_owner(client: httpx2.Client, engine: Engine) -> None:
    ada, bob = add_user(client, engine, "ada"), add_user(client, engine, "bob")
    of_ada, of_bob = create(client, owner_id=ada["id"]), create(client, owner_id=bob["id"])
    of_nobody = create(client)

    def found(**query: str | bool) -> list[Task]:
        tasks: list[Task] = client.get("/tasks", params=query).json()
        return tasks

    assert found(owner_id=str(ada["id"])) == [of_ada]
    assert found(unowned=True) == [of_nobody]
    assert found(unowned=False) == [of_ada, of_bob]
    assert found(unowned=True, owner_id=str(ada["id"])) == []
    assert client.get("/tasks", params={"owner_id": -1}).status_code == 422


def test_a_transfer_changes_the_owner_and_is_recorded(
    ada: httpx2.Client, bob: httpx2.Client
) -> None:
    task = create(ada)

    answer = transfer(bob, task, me(ada), me(bob))

    assert answer.status_code == 200
    changed = answer.json()
    assert changed == task | {
        "owner_id": me(bob),
        "version": 2,
        "updated_at": changed["updated_at"],
    }
    assert ada.get(f"/tasks/{task['id']}").json() == changed
    [record] = ada.get(f"/tasks/{task['id']}/transfers").json()
    assert record.keys() > {"id", "created_at"}
    expected = {
        "task_id": task["id"],
        "from_user_id": me(ada),
        "to_user_id": me(bob),
        "by_user_id": me(bob),
    }
    assert record.items() >= expected.items()


def test_a_task_is_given_to_nobody_and_taken_from_nobody(
    client: httpx2.Client, engine: Engine
) -> None:
    user = add_user(client, engine, "ada")
    task = create(client, owner_id=user["id"])

    assert transfer(client, task, user["id"], None).json()["owner_id"] is None
    assert transfer(client, task, None, user["id"]).json()["owner_id"] == user["id"]

    records = client.get(f"/tasks/{task['id']}/transfers").json()
    hands = [(record["from_user_id"], record["to_user_id"]) for record in records]
    assert hands == [(user["id"], None), (None, user["id"])]
    assert [record["by_user_id"] for record in records] == [None, None]
    page = client.get(f"/tasks/{task['id']}/transfers", params={"limit": 1, "count": True})
    assert page.headers["X-Total-Count"] == "2"
    assert client.get(page.links["next"]["url"]).json() == records[1:]


def test_a_transfer_from_another_than_the_owner_changes_nothing(
    client: httpx2.Client, engine: Engine
) -> None:
    ada, bob = add_user(client, engine, "ada"), add_user(client, engine, "bob")
    task = create(client, owner_id=ada["id"])

    for giver in (bob["id"], None, 10**9):
        answer = transfer(client, task, giver, bob["id"])
        assert answer.status_code == 409
        assert answer.json() == {"detail": "The task does not belong to `from_user_id`"}

    assert client.get(f"/tasks/{task['id']}").json() == task
    assert client.get(f"/tasks/{task['id']}/transfers").json() == []


def test_a_transfer_to_an_unknown_user_changes_nothing(client: httpx2.Client) -> None:
    task = create(client)

    answer = transfer(client, task, None, 10**9)

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "to_user_id"]
    assert client.get("/tasks").json() == [task]


@pytest.mark.parametrize("body", [{}, {"from_user_id": None}, {"to_user_id": None}, []])
def test_a_transfer_says_from_whom_and_to_whom(client: httpx2.Client, body: object) -> None:
    task = create(client)

    assert client.post(f"/tasks/{task['id']}/transfer", json=body).status_code == 422


def test_of_twenty_transfers_from_one_owner_at_the_same_time_one_succeeds(
    client: httpx2.Client,
    engine: Engine,
) -> None:
    users = [add_user(client, engine, f"user-{number}") for number in range(3)]
    task = create(client, owner_id=users[0]["id"])

    def ask(number: int) -> httpx2.Response:
        body = {"from_user_id": users[0]["id"], "to_user_id": users[1 + number % 2]["id"]}
        return client.post(f"/tasks/{task['id']}/transfer", json=body)

    answers = at_once(20, ask)

    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 19
    [record] = client.get(f"/tasks/{task['id']}/transfers").json()
    after = client.get(f"/tasks/{task['id']}").json()
    assert (after["owner_id"], after["version"]) == (record["to_user_id"], 2)


def test_the_records_of_a_transfer_stay_when_the_users_are_gone(
    client: httpx2.Client, engine: Engine
) -> None:
    ada, bob = add_user(client, engine, "ada"), add_user(client, engine, "bob")
    task = create(client, owner_id=ada["id"])
    transfer(client, task, ada["id"], bob["id"])
    client.delete(f"/users/{ada['id']}")

    [record] = client.get(f"/tasks/{task['id']}/transfers").json()

    assert (record["from_user_id"], record["to_user_id"]) == (ada["id"], bob["id"])


def test_a_deleted_task_is_in_the_trash_and_in_no_other_answer(
    client: httpx2.Client, engine: Engine
) -> None:
    user = add_user(client, engine, "ada")
    task, other = (
        create(client, owner_id=user["id"]),
        create(client, owner_id=user["id"], status="completed"),
    )
    path = f"/tasks/{task['id']}"

    assert client.delete(path).status_code == 200

    for calls in ("GET", "PATCH", "PUT", "DELETE"):
        assert client.request(calls, path, json={}).status_code == 404
    assert transfer(client, task, user["id"], None).status_code == 404
    assert client.get(f"{path}/transfers").status_code == 404
    body = [{"id": other["id"], "priority": 3}, {"id": task["id"], "priority": 3}]
    assert client.patch("/tasks/bulk", json=body).status_code == 404
    for list_path in ("/tasks", "/tasks/recent", f"/users/{user['id']}/tasks"):
        assert client.get(list_path).json() == [other]
    assert client.get("/tasks/by-status/pending").json() == []
    assert client.get("/tasks/stats").json()["total"] == 1
    [trashed] = client.get("/tasks", params={"deleted": True}).json()
    assert trashed == task | {
        "deleted_at": trashed["deleted_at"],
        "updated_at": trashed["updated_at"],
        "version": 2,
    }
    assert trashed["deleted_at"] > task["created_at"]


def test_a_task_is_restored_from_the_trash(client: httpx2.Client) -> None:
    task = create(client, priority=3)
    client.delete(f"/tasks/{task['id']}")

    answer = client.post(f"/tasks/{task['id']}/restore")

    assert answer.status_code == 200
    restored = answer.json()
    assert restored == task | {"updated_at": restored["updated_at"], "version": 3}
    assert client.get("/tasks").json() == [restored]
    assert client.get("/tasks", params={"deleted": True}).json() == []


def test_only_what_is_in_the_trash_is_restored(client: httpx2.Client) -> None:
    task = create(client)

    assert client.post(f"/tasks/{task['id']}/restore").status_code == 404
    assert client.post("/tasks/0/restore").status_code == 404
    assert client.get("/tasks").json() == [task]


@pytest.mark.parametrize("trashed", [False, True])
def test_a_task_is_deleted_for_good(client: httpx2.Client, engine: Engine, trashed: bool) -> None:  # noqa: FBT001  # pytest passes it by name
    task = create(client)
    transfer(client, task, None, None)
    path = f"/tasks/{task['id']}"
    if trashed:
        client.delete(path)

    answer = client.delete(path, params={"permanent": True})

    assert answer.status_code == 200
    assert answer.json() == {"message": "Task deleted", "task_id": task["id"]}
    assert client.delete(path, params={"permanent": True}).status_code == 404
    assert client.post(f"{path}/restore").status_code == 404
    with engine.connect() as connection:
        for table in ("task", "transfer"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 0  # noqa: S608


def test_the_trash_has_filters_orders_and_pages(client: httpx2.Client) -> None:
    tasks = [create(client, priority=number) for number in range(4)]
    for task in tasks[1:]:
        client.delete(f"/tasks/{task['id']}")
    query: dict[str, Any] = {"deleted": True, "sort": "-priority", "limit": 2, "count": True}

    page = client.get("/tasks", params=query)

    assert [task["id"] for task in page.json()] == [tasks[3]["id"], tasks[2]["id"]]
    assert page.headers["X-Total-Count"] == "3"
    rest = client.get(page.links["next"]["url"]).json()
    assert [task["id"] for task in rest] == [tasks[1]["id"]]
    assert client.get("/tasks/stats", params={"deleted": True}).json()["total"] == 3


def test_a_list_goes_on_behind_a_task_in_the_trash(client: httpx2.Client) -> None:
    tasks = [create(client, title=title) for title in "abcd"]
    page = client.get("/tasks", params={"sort": "title", "limit": 2})
    client.delete(f"/tasks/{tasks[1]['id']}")

    assert client.get(page.links["next"]["url"]).json() == tasks[2:]


def test_of_twenty_restorations_at_the_same_time_one_succeeds(
    client: httpx2.Client,
) -> None:
    task = create(client)
    client.delete(f"/tasks/{task['id']}")

    answers = at_once(20, lambda _: client.post(f"/tasks/{task['id']}/restore"))

    assert sorted(answer.status_code for answer in answers) == [200] + [404] * 19
    assert client.get("/tasks").json()[0]["version"] == 3
