"""What a client may rely on when it sends much at once, sends it again, or was not the only one."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from calls import Task, add_user, at_once, create, create_many
from servers import ApiServer, alembic, listen_to_postgresql
from sqlalchemy import Engine, text
from sqlmodel import col, insert, update

from api.clock import now
from models import IdempotencyKey


def test_many_tasks_are_created_in_the_order_given(client: httpx2.Client) -> None:
    body = [
        {"title": f"task {number}", "priority": number % 6, "description": None}
        | ({"status": "completed", "due_at": "2026-01-01T00:00:00Z"} if number % 3 else {})
        for number in range(1000)
    ]

    answer = client.post("/tasks/bulk", json=body)

    assert answer.status_code == 201
    tasks = answer.json()
    assert [task | sent for task, sent in zip(tasks, body, strict=True)] == tasks
    ids = [task["id"] for task in tasks]
    assert ids == sorted(set(ids))
    assert all((task["completed_at"] is None) is (task["status"] == "pending") for task in tasks)
    assert client.get("/tasks").json() == tasks[:100]
    assert client.get("/tasks/stats").json()["total"] == 1000


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_bulk_call_has_one_to_a_thousand_items(client: httpx2.Client, method: str) -> None:
    task = create(client)
    item = {"title": "Read it"} | ({"id": task["id"]} if method == "PATCH" else {})
    for number in (0, 1001):
        answer = client.request(method, "/tasks/bulk", json=[item] * number)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body"]
    assert client.get("/tasks").json() == [task]


def test_one_wrong_task_of_many_is_named_and_none_is_created(client: httpx2.Client) -> None:
    body: list[dict[str, Any]] = [{"title": f"task {number}"} for number in range(5)]
    body[2]["title"] = "a" * 201
    body[4]["priority"] = 6

    answer = client.post("/tasks/bulk", json=body)

    assert answer.status_code == 422
    assert [(problem["loc"], problem["type"]) for problem in answer.json()["detail"]] == [
        (["body", 2, "title"], "string_too_long"),
        (["body", 4, "priority"], "less_than_equal"),
    ]
    assert client.get("/tasks").json() == []


def test_an_unknown_owner_of_one_task_of_many_is_named_and_none_is_created(
    client: httpx2.Client,
    engine: Engine,
) -> None:
    user = add_user(client, engine, "ada")
    owners = [None, user["id"], 10**9, user["id"], 10**15]
    body = [{"title": "Write the report", "owner_id": owner} for owner in owners]

    answer = client.post("/tasks/bulk", json=body)

    assert answer.status_code == 422
    problems = answer.json()["detail"]
    places = [problem["loc"] for problem in problems]
    assert places == [["body", 2, "owner_id"], ["body", 4, "owner_id"]]
    assert {problem["msg"] for problem in problems} == {
        "Input should be the id of a user, or null for nobody"
    }
    assert client.get("/tasks").json() == []


def test_many_tasks_are_changed_in_the_order_given(client: httpx2.Client) -> None:
    body = [{"title": f"task {number}"} for number in range(1000)]
    tasks = client.post("/tasks/bulk", json=body).json()
    different: list[dict[str, Any]] = [
        {"title": "Read it"},
        {"status": "completed"},
        {"due_at": "2026-12-31T00:00:00Z", "description": "a\nb"},
        {"priority": 5, "owner_id": None, "version": 1},
    ]
    changes = [
        {"id": task["id"]} | different[number % 4] for number, task in enumerate(reversed(tasks))
    ]

    answer = client.patch("/tasks/bulk", json=changes)

    assert answer.status_code == 200
    changed = answer.json()
    assert [task["id"] for task in changed] == [change["id"] for change in changes]
    for before, after, change in zip(reversed(tasks), changed, changes, strict=True):
        assert after == before | change | {
            "version": 2,
            "updated_at": after["updated_at"],
            "completed_at": after["completed_at"],
        }
        # As text, one on the full second would come behind those that follow.
        updated_at = [datetime.fromisoformat(task["updated_at"]) for task in (before, after)]
        assert updated_at[0] < updated_at[1]
        assert (after["completed_at"] is None) is ("status" not in change)
    assert client.get("/tasks", params={"limit": 3}).json() == changed[:-4:-1]


def test_null_clears_the_fields_of_many_tasks(client: httpx2.Client) -> None:
    fields = {"description": "Ten pages", "due_at": "2026-12-31T00:00:00Z", "status": "completed"}
    tasks = [create(client, **fields) for _ in range(3)]
    change = {"description": None, "due_at": None, "status": "pending"}

    answer = client.patch("/tasks/bulk", json=[{"id": task["id"]} | change for task in tasks])

    for task in answer.json():
        assert task == task | change | {"completed_at": None}
    assert client.get("/tasks").json() == answer.json()


def test_a_bulk_change_that_changes_nothing_keeps_the_version(client: httpx2.Client) -> None:
    tasks = [create(client), create(client)]
    body = [{"id": tasks[0]["id"]}, {"id": tasks[1]["id"], "priority": 0}]

    assert client.patch("/tasks/bulk", json=body).json() == tasks
    assert client.get("/tasks").json() == tasks


def test_a_task_that_is_changed_twice_in_one_request_is_named_and_none_is_changed(
    client: httpx2.Client,
) -> None:
    tasks = [create(client), create(client)]
    ids = [tasks[0]["id"], tasks[1]["id"], tasks[0]["id"], tasks[0]["id"]]

    answer = client.patch("/tasks/bulk", json=[{"id": task_id, "priority": 3} for task_id in ids])

    assert answer.status_code == 422
    assert answer.json()["detail"] == [
        {
            "type": "task_repeated",
            "loc": ["body", position, "id"],
            "msg": "Input should be sent only once",
        }
        for position in (2, 3)
    ]
    assert client.get("/tasks").json() == tasks


def test_one_wrong_change_of_many_is_named_and_none_is_made(client: httpx2.Client) -> None:
    task = create(client)
    good = {"id": task["id"], "priority": 3}

    wrong = client.patch("/tasks/bulk", json=[good, good | {"title": None}, {"priority": 3}])
    unknown = client.patch("/tasks/bulk", json=[good, {"id": 10**9}, {"id": 10**15}])

    assert wrong.status_code == 422
    places = [problem["loc"][:3] for problem in wrong.json()["detail"]]
    assert places == [["body", 1, "title"], ["body", 2, "id"]]
    assert unknown.status_code == 404
    assert unknown.json()["detail"] == [
        {"type": "task_not_found", "loc": ["body", place, "id"], "msg": "Task not found"}
        for place in (1, 2)
    ]
    assert client.get("/tasks").json() == [task]


def test_bulk_changes_in_opposite_orders_at_the_same_time_all_succeed(
    client: httpx2.Client,
) -> None:
    tasks = client.post("/tasks/bulk", json=[{"title": "Write the report"}] * 50).json()

    def ask(number: int) -> httpx2.Response:
        ordered = tasks if number % 2 else tasks[::-1]
        body = [{"id": task["id"], "title": f"by {number}"} for task in ordered]
        return client.patch("/tasks/bulk", json=body)

    answers = at_once(10, ask)

    assert {answer.status_code for answer in answers} == {200}
    left = client.get("/tasks").json()
    assert {task["version"] for task in left} == {11}
    assert len({task["title"] for task in left}) == 1


@pytest.mark.slow
def test_the_round_trips_of_a_bulk_call_do_not_grow_with_its_items(
    new_postgresql_database: Callable[[], str], tmp_path: Path
) -> None:
    with (
        listen_to_postgresql(new_postgresql_database()) as (url, asked),
        ApiServer(tmp_path, url) as server,
        server.client() as client,
    ):
        create(client)  # opens the connection

        def count(number: int) -> int:
            asked.clear()
            tasks = create_many(client, [{"title": "a"}] * number)
            changes = [{"id": task["id"], "title": f"b{task['id']}"} for task in tasks]
            client.patch("/tasks/bulk", json=changes).raise_for_status()
            # A large message comes in parts, of which the first begins so.
            return sum(part.startswith(b"Q") for part in asked)

        begin_insert_commit, begin_select_update_commit = 3, 4
        assert count(1) == count(1000) == begin_insert_commit + begin_select_update_commit


def retry(client: httpx2.Client, key: str, **body: object) -> httpx2.Response:
    fields = {"title": "Write the report"} | body
    return client.post("/tasks", json=fields, headers={"Idempotency-Key": key})


def retry_many(client: httpx2.Client, key: str, *titles: str) -> httpx2.Response:
    body = [{"title": title} for title in titles]
    return client.post("/tasks/bulk", json=body, headers={"Idempotency-Key": key})


def assert_another_body(answer: httpx2.Response) -> None:
    assert answer.status_code == 422
    assert answer.json()["detail"] == [
        {
            "type": "idempotency_key_reused",
            "loc": ["header", "Idempotency-Key"],
            "msg": "Input should be another key: this one was used with another body",
        }
    ]


def test_a_repeated_request_gets_its_task_even_if_the_owner_is_gone(
    client: httpx2.Client, engine: Engine
) -> None:
    owner = add_user(client, engine, "ada")["id"]
    first = retry(client, "a key", owner_id=owner)
    client.delete(f"/users/{owner}").raise_for_status()

    again = retry(client, "a key", owner_id=owner)

    assert again.status_code == 201
    assert again.json() == client.get(f"/tasks/{first.json()['id']}").json()


def test_a_repeated_request_gets_the_task_of_the_first(client: httpx2.Client) -> None:
    first = retry(client, "a key", priority=3)

    again = retry(client, "a key", priority=3)

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    for header in ("Location", "ETag"):
        assert again.headers[header] == first.headers[header]
    assert client.get("/tasks").json() == [first.json()]
    assert retry(client, "another key", priority=3).json()["id"] > first.json()["id"]


def test_a_repeated_bulk_request_gets_the_tasks_of_the_first(client: httpx2.Client) -> None:
    first = retry_many(client, "a key", "b", "a", "c")

    again = retry_many(client, "a key", "b", "a", "c")

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json() == client.get("/tasks").json()


def test_the_same_request_may_be_written_in_another_way(client: httpx2.Client) -> None:
    first = retry(client, "a key", due_at="2026-01-01T12:00:00Z")

    again = retry(client, "a key", priority=0, due_at="2026-01-01T13:00:00+01:00", id=7)

    assert again.json() == first.json()


def test_the_same_tags_may_be_written_in_another_way(client: httpx2.Client) -> None:
    first = retry(client, "a key", tags=["work", "Über"])
    many = retry_many(client, "many", "a", "b")

    again = retry(client, "a key", tags=["u\u0308ber", "WORK", "work"])
    other = retry(client, "a key", tags=["work"])

    assert again.json() == first.json()
    assert other.status_code == 422
    assert retry_many(client, "many", "a", "b").json() == many.json()


def test_a_repeated_request_gets_the_task_as_it_is_by_then(client: httpx2.Client) -> None:
    first = retry(client, "a key").json()
    changed = client.patch(f"/tasks/{first['id']}", json={"title": "Read it"}).json()

    assert retry(client, "a key").json() == changed

    client.delete(f"/tasks/{first['id']}")
    assert retry(client, "a key").json()["deleted_at"] is not None


def test_a_repeated_request_does_not_bring_back_what_was_deleted_for_good(
    client: httpx2.Client,
) -> None:
    one = retry(client, "one").json()
    many = retry_many(client, "many", "a", "b").json()
    for task in (one, many[1]):
        client.delete(f"/tasks/{task['id']}", params={"permanent": True})

    for answer in (retry(client, "one"), retry_many(client, "many", "a", "b")):
        assert answer.status_code == 409
        detail = "A task that was created with this key has been deleted for good"
        assert answer.json() == {"detail": detail}
    assert client.get("/tasks").json() == many[:1]


def test_a_key_is_not_used_for_another_body(client: httpx2.Client) -> None:
    first = retry(client, "a key").json()

    assert_another_body(retry(client, "a key", priority=1))
    assert_another_body(retry_many(client, "a key", "Write the report"))
    assert client.get("/tasks").json() == [first]


def test_a_key_is_not_used_for_other_tasks_in_bulk(client: httpx2.Client) -> None:
    tasks = retry_many(client, "a key", "a", "b").json()

    assert_another_body(retry_many(client, "a key", "b", "a"))
    assert_another_body(retry_many(client, "a key", "a"))
    assert client.get("/tasks").json() == tasks


def test_a_key_of_a_refused_request_is_free(client: httpx2.Client) -> None:
    assert retry(client, "a key", owner_id=10**9).status_code == 422
    assert retry(client, "a key", priority=6).status_code == 422

    assert retry(client, "a key").status_code == 201


def test_two_users_may_use_the_same_key(ada: httpx2.Client, bob: httpx2.Client) -> None:
    tasks = [retry(client, "a key").json() for client in (ada, bob)]

    assert tasks[0]["id"] != tasks[1]["id"]
    assert [retry(client, "a key").json() for client in (ada, bob)] == tasks
    assert_another_body(retry(bob, "a key", priority=1))


def age(engine: Engine, key: str, **age: int) -> None:
    """Let the key be this old."""
    with engine.begin() as connection:
        statement = update(IdempotencyKey).where(col(IdempotencyKey.key) == key)
        connection.execute(statement.values(created_at=now() - timedelta(**age)))


def test_a_key_is_kept_for_seven_days(client: httpx2.Client, engine: Engine) -> None:
    new, old = retry(client, "new").json(), retry(client, "old").json()
    retry(client, "forgotten")
    age(engine, "new", days=6, hours=23)
    age(engine, "old", days=7, minutes=1)
    age(engine, "forgotten", days=7, minutes=1)

    assert retry(client, "new").json() == new
    assert retry(client, "old").json()["id"] > old["id"]
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT key FROM idempotency_key ORDER BY key"))
        assert [*kept.scalars()] == ["new", "old"]


def add_keys(engine: Engine, number: int, **age: int) -> None:
    """Add keys of this age, as if as many users had sent a request each."""
    key = {
        "key": "a key",
        "request_hash": "",
        "task_ids": [],
        "created_at": now() - timedelta(**age),
    }
    with engine.begin() as connection:
        connection.execute(
            insert(IdempotencyKey), [key | {"user_id": n + 1} for n in range(number)]
        )


def test_very_many_old_keys_hold_up_nobody(client: httpx2.Client, engine: Engine) -> None:
    """With a million, one DELETE of all would take longer than a statement may."""
    add_keys(engine, 1000, days=8)

    assert retry(client, "a key").status_code == 201
    with engine.connect() as connection:
        left = connection.execute(text("SELECT count(*) FROM idempotency_key")).scalar()
    assert left == 1000 - 100 + 1


@pytest.mark.usefixtures("client")
def test_old_keys_are_found_by_an_index(engine: Engine) -> None:
    add_keys(engine, 5000, days=1)
    explain = {"sqlite": "EXPLAIN QUERY PLAN", "postgresql": "EXPLAIN"}[engine.dialect.name]
    with engine.begin() as connection:
        connection.execute(text("ANALYZE idempotency_key"))
        old = "DELETE FROM idempotency_key WHERE created_at < '2026-01-01'"
        plan = connection.execute(text(f"{explain} {old}")).all()

    assert "ix_idempotency_key_created_at" in str(plan)


@pytest.mark.slow
def test_a_repeated_request_is_recognised_by_a_version_with_another_field(
    empty_database: str, copy: Path
) -> None:
    sent = {"priority": 3, "due_at": "2026-01-01T12:00:00Z"}
    with ApiServer(copy, empty_database) as server, server.client() as client:
        first = retry(client, "a key", **sent).json()
    file = copy / "models.py"
    field = "    priority: Priority = 0\n"
    file.write_text(file.read_text().replace(field, '    location: str = "here"\n' + field, 1))
    alembic(
        empty_database, "revision", "--autogenerate", "--rev-id", "9", "-m", "Add it", project=copy
    )
    [migration] = (copy / "migrations/versions").glob("9_*.py")
    required = "nullable=False"
    text = migration.read_text().replace(required, f"{required}, server_default='there'")
    migration.write_text(text)

    with ApiServer(copy, empty_database, app_dir=copy) as server, server.client() as client:
        assert retry(client, "a key", **sent).json() == first | {"location": "there"}


@pytest.mark.parametrize(("key", "status"), [("", 422), ("k" * 200, 201), ("k" * 201, 422)])
def test_a_key_has_1_to_200_characters(client: httpx2.Client, key: str, status: int) -> None:
    assert retry(client, key).status_code == status


def test_of_twenty_equal_requests_at_the_same_time_one_creates_a_task(
    client: httpx2.Client,
) -> None:
    def ask(_: int) -> httpx2.Response:
        headers, body = {"Idempotency-Key": "a key"}, {"title": "Write the report"}
        return client.post("/tasks", json=body, headers=headers)

    answers = at_once(20, ask)

    assert {answer.status_code for answer in answers} == {201}
    [task] = client.get("/tasks").json()
    assert all(answer.json() == task for answer in answers)


def test_the_version_grows_by_one_with_each_change_and_is_the_etag(client: httpx2.Client) -> None:
    created = client.post("/tasks", json={"title": "Write the report"})
    path = created.headers["Location"]
    answers = [
        created,
        client.get(path),
        client.patch(path, json={"priority": 3}),
        client.patch(path, json={"priority": 3}),
        client.patch(path, json={}),
        client.put(path, json={"status": "completed", "title": "Read it"}),
        client.post(f"{path}/transfer", json={"from_user_id": None, "to_user_id": None}),
    ]

    versions = [answer.json()["version"] for answer in answers]
    assert versions == [1, 1, 2, 2, 2, 3, 3]
    assert [answer.headers["ETag"] for answer in answers] == [f'"{v}"' for v in versions]
    client.delete(path)
    assert client.post(f"{path}/restore").headers["ETag"] == '"5"'


@pytest.mark.parametrize(
    "tags", ['"2"', '"9","2"', "*", 'W/"2"', '"1,3" , W/"2"', '"2-gzip"', '"1",, "2",']
)
@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE"])
def test_a_change_of_the_newest_version_is_made(
    client: httpx2.Client, method: str, tags: str
) -> None:
    task = changed(client)

    answer = client.request(
        method, f"/tasks/{task['id']}", json={"priority": 5}, headers={"If-Match": tags}
    )

    assert answer.status_code == 200
    assert client.get("/tasks").json() != [task]


# All calls that change one task that is not in the trash: method, path, and body.
TRANSFER = {"from_user_id": None, "to_user_id": None}
CHANGES: list[tuple[str, str, Task | None]] = [
    ("PATCH", "", {"priority": 5}),
    ("PUT", "", {"priority": 5}),
    ("DELETE", "", None),
    ("DELETE", "?permanent=true", None),
    ("POST", "/transfer", TRANSFER),
]


OTHER_VERSIONS = [
    *({"If-Match": tags} for tags in ('"1"', '"3"', 'W/"1"', '"22"', '"1", "3"', '"1,2"', '"*"')),
    *({"If-None-Match": tags} for tags in ('"2"', '"1", W/"2"', "*")),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "header"),
    [
        *((*CHANGES[0], header) for header in OTHER_VERSIONS),
        *((*change, OTHER_VERSIONS[end]) for change in CHANGES[1:] for end in (0, -1)),
    ],
)
def test_a_change_of_an_older_version_is_refused(
    client: httpx2.Client, method: str, path: str, body: Task | None, header: dict[str, str]
) -> None:
    task = changed(client)

    answer = client.request(method, f"/tasks/{task['id']}{path}", json=body, headers=header)

    assert answer.status_code == 412
    assert answer.json() == {"detail": "The task has another version"}
    assert answer.headers["ETag"] == '"2"'
    assert client.get("/tasks").json() == [task]


@pytest.mark.parametrize("tags", ["2", '"', "", '"1", 2', '"1" "2"', '*, "2"', "w/2", ","])
@pytest.mark.parametrize(
    ("name", "method"),
    [("If-Match", "PATCH"), ("If-None-Match", "PATCH"), ("If-None-Match", "GET")],
)
def test_what_is_no_list_of_versions_is_refused(
    client: httpx2.Client, name: str, method: str, tags: str
) -> None:
    task = changed(client)

    path, body = f"/tasks/{task['id']}", {"priority": 5} if method == "PATCH" else None
    answer = client.request(method, path, json=body, headers={name: tags})

    assert answer.status_code == 400
    assert answer.json() == {"detail": 'Versions are written in quotes, as in `"3"`'}
    assert client.get("/tasks").json() == [task]


def test_a_task_is_restored_only_if_it_has_the_version_that_is_sent(client: httpx2.Client) -> None:
    path = f"/tasks/{changed(client)['id']}"
    client.delete(path)

    refused = [
        client.post(f"{path}/restore", headers={"If-Match": '"2"'}),
        client.post(f"{path}/restore", headers={"If-None-Match": '"3"'}),
    ]
    restored = client.post(f"{path}/restore", headers={"If-Match": '"3"'})

    assert [answer.status_code for answer in refused] == [412, 412]
    assert restored.json()["version"] == 4


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_a_task_that_is_sent_back_with_an_older_version_is_not_changed(
    client: httpx2.Client, method: str
) -> None:
    received = create(client)
    path = f"/tasks/{received['id']}"
    newer = client.patch(path, json={"priority": 1}).json()

    answer = client.request(method, path, json=received | {"title": "of the older version"})
    same = client.request(method, path, json=newer | {"title": "of the newer version"})

    assert (answer.status_code, answer.headers["ETag"]) == (412, '"2"')
    assert (same.status_code, same.json()["version"]) == (200, 3)


def test_many_tasks_of_which_one_has_another_version_are_not_changed(client: httpx2.Client) -> None:
    tasks = client.post("/tasks/bulk", json=[{"title": name} for name in "abc"]).json()
    client.patch(f"/tasks/{tasks[1]['id']}", json={"priority": 1})
    before = client.get("/tasks").json()

    answer = client.patch("/tasks/bulk", json=[task | {"title": "new"} for task in tasks])
    newest = client.patch("/tasks/bulk", json=[task | {"title": "new"} for task in before])

    assert answer.status_code == 412
    [problem] = answer.json()["detail"]
    assert problem["loc"] == ["body", 1, "version"]
    assert [task["version"] for task in newest.json()] == [2, 3, 2]


def changed(client: httpx2.Client) -> Task:
    """Return a task that has its second version."""
    task: Task = client.patch(f"/tasks/{create(client)['id']}", json={"priority": 1}).json()
    return task


def test_of_twenty_edits_of_one_version_at_the_same_time_one_is_made(
    client: httpx2.Client,
) -> None:
    task = create(client)

    def ask(number: int) -> httpx2.Response:
        body, headers = {"title": f"by {number}"}, {"If-Match": '"1"'}
        return client.patch(f"/tasks/{task['id']}", json=body, headers=headers)

    answers = at_once(20, ask)

    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 19
    [winner] = [answer.json() for answer in answers if answer.status_code == 200]
    assert client.get("/tasks").json() == [winner]


@pytest.mark.parametrize("tags", ['"2"', 'W/"2"', '"1", W/"2"', "*"])
def test_a_version_that_a_client_has_is_not_sent_again(client: httpx2.Client, tags: str) -> None:
    task = changed(client)

    answer = client.get(f"/tasks/{task['id']}", headers={"If-None-Match": tags})

    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["ETag"] == '"2"'


@pytest.mark.parametrize(
    "lines", [['"1"', '"2"'], ['"2"', '"1"'], ['"1", "7"', '"3", "2"', '"x"'], ['"2"', ""]]
)
def test_several_lines_of_entity_tags_are_one_list(client: httpx2.Client, lines: list[str]) -> None:
    path = f"/tasks/{changed(client)['id']}"

    same = client.get(path, headers=[("If-None-Match", line) for line in lines])
    made = client.patch(path, json={"priority": 5}, headers=[("If-Match", line) for line in lines])

    assert same.status_code == 304
    assert made.status_code == 200


@pytest.mark.parametrize("tags", ['"1"', '"1", "3"', '"22"', '"*"'])
def test_a_version_that_a_client_does_not_have_is_sent(client: httpx2.Client, tags: str) -> None:
    task = changed(client)

    answer = client.get(f"/tasks/{task['id']}", headers={"If-None-Match": tags})

    assert (answer.status_code, answer.json()) == (200, task)
