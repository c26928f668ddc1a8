"""What a client may rely on for tags: their names, the tasks that have them, and their changes."""

import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import pytest
from calls import Task, add_user, assert_tags_agree_with_links, at_once, create, create_many
from servers import ApiServer, connect
from sqlalchemy import Engine, insert, text

import models
from api.folding import fold
from api.tags import PORTION

OTHER_LISTS = ["/tasks/by-status/pending", "/tasks/recent"]
MANY = [f"tag {number:02}" for number in range(21)]


def tags(client: httpx2.Client) -> dict[str, int]:
    """Return the names of all tags, and how many tasks have each."""
    return {tag["name"]: tag["task_count"] for tag in client.get("/tags").json()}


def tag_id(client: httpx2.Client, name: str) -> int:
    [found] = [tag["id"] for tag in client.get("/tags").json() if tag["name"] == name]
    return int(found)


def change(client: httpx2.Client, task: Task, **fields: object) -> Task:
    answer = client.patch(f"/tasks/{task['id']}", json=fields)
    assert answer.status_code == 200, answer.text
    changed: Task = answer.json()
    return changed


def rename(client: httpx2.Client, name: str, new: str) -> httpx2.Response:
    return client.patch(f"/tags/{tag_id(client, name)}", json={"name": new})


def titles(client: httpx2.Client, path: str = "/tasks", **query: Any) -> list[str]:  # noqa: ANN401
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return [task["title"] for task in answer.json()]


def test_a_task_shows_its_tags_trimmed_and_sorted_in_every_answer(client: httpx2.Client) -> None:
    task = create(client, tags=["b", " Report ", "A"])

    assert task["tags"] == ["A", "b", "Report"]
    assert client.get(f"/tasks/{task['id']}").json() == task
    assert client.get("/tasks").json() == [task]
    assert change(client, task) == task
    client.delete(f"/tasks/{task['id']}")
    [deleted] = client.get("/tasks?deleted=true").json()
    assert deleted["tags"] == task["tags"]
    assert client.post(f"/tasks/{task['id']}/restore").json()["tags"] == task["tags"]
    transfer = {"from_user_id": None, "to_user_id": None}
    assert (
        client.post(f"/tasks/{task['id']}/transfer", json=transfer).json()["tags"] == task["tags"]
    )


def test_a_task_has_no_tags_unless_it_is_said(client: httpx2.Client) -> None:
    assert create(client)["tags"] == []
    assert tags(client) == {}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Über", "ÜBER"),
        ("report", "Report"),
        ("É", "E\u0301"),
        ("a", " a"),
        ("Straße", "STRASSE"),
        ("ΣΟΦΟΣ", "σοφος"),
        ("ﬁle", "FILE"),
    ],
)
def test_names_that_differ_only_in_case_or_encoding_are_one_tag(
    client: httpx2.Client, first: str, second: str
) -> None:
    create(client, tags=[first])

    assert create(client, tags=[second])["tags"] == [first]
    assert create(client, tags=[second, first])["tags"] == [first]
    assert tags(client) == {first: 3}
    assert len(titles(client, tag=second)) == 3


def test_names_with_other_letters_are_two_tags(client: httpx2.Client) -> None:
    assert create(client, tags=["cafe", "café"])["tags"] == ["cafe", "café"]


@pytest.mark.parametrize("name", ["", " ", "a,b", "a\nb", "a\0", "\ufeff", "x" * 51, 1, None])
def test_a_wrong_name_is_refused_and_changes_nothing(client: httpx2.Client, name: object) -> None:
    task = create(client, tags=["a"])
    path = f"/tasks/{task['id']}"
    body = {"title": "new", "tags": ["b", name]}
    answers = {
        client.post("/tasks", json=body): ["body", "tags", 1],
        client.patch(path, json=body): ["body", "tags", 1],
        client.put(path, json=body): ["body", "tags", 1],
        client.post("/tasks/bulk", json=[body]): ["body", 0, "tags", 1],
        client.patch("/tasks/bulk", json=[body | {"id": task["id"]}]): ["body", 0, "tags", 1],
        client.patch(f"/tags/{tag_id(client, 'a')}", json={"name": name}): ["body", "name"],
    }

    for answer, loc in answers.items():
        assert answer.status_code == 422, answer.request.url
        assert [problem["loc"] for problem in answer.json()["detail"]] == [loc]
    assert client.get("/tasks").json() == [task]
    assert tags(client) == {"a": 1}


@pytest.mark.parametrize("name", ["", "a,b", "x" * 51])
def test_a_filter_by_a_wrong_name_is_refused(client: httpx2.Client, name: str) -> None:
    answer = client.get("/tasks", params={"tag": ["a", name]})

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "tag", 1]


def test_a_task_has_at_most_twenty_tags(client: httpx2.Client) -> None:
    assert create(client, tags=MANY[:20])["tags"] == MANY[:20]
    assert client.post("/tasks", json={"title": "a", "tags": MANY}).status_code == 422
    assert client.get("/tasks", params={"tag": MANY[:20]}).status_code == 200
    assert client.get("/tasks", params={"tag": MANY}).status_code == 422


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_tags_are_replaced_left_and_cleared(client: httpx2.Client, method: str) -> None:
    task = create(client, tags=["a", "b"])
    path = f"/tasks/{task['id']}"

    replaced = client.request(method, path, json={"tags": ["c", "B"]}).json()
    left = client.request(method, path, json={"priority": 1}).json()
    cleared = client.request(method, path, json={"tags": []}).json()

    assert replaced["tags"] == left["tags"] == ["b", "c"]
    assert cleared["tags"] == client.get(path).json()["tags"] == []
    assert client.request(method, path, json={"tags": None}).status_code == 422
    assert tags(client) == {"a": 0, "b": 0, "c": 0}


def test_a_change_of_the_tags_is_a_change_of_the_task(client: httpx2.Client) -> None:
    task = create(client, tags=["a"])

    answer = client.patch(f"/tasks/{task['id']}", json={"tags": ["b"]}, headers={"If-Match": '"1"'})

    assert answer.json() == task | {
        "tags": ["b"],
        "version": 2,
        "updated_at": answer.json()["updated_at"],
    }
    assert answer.json()["updated_at"] > task["updated_at"]
    assert answer.headers["ETag"] == '"2"'


@pytest.mark.parametrize("same", [["a", "b", "c"], ["c", "b", "a"], ["C", "A ", "b", "a"]])
def test_the_same_tags_are_no_change(client: httpx2.Client, same: list[str]) -> None:
    task = create(client, tags=["b", "c", "a"])

    assert change(client, task, tags=same) == task
    assert client.patch("/tasks/bulk", json=[{"id": task["id"], "tags": same}]).json() == [task]


def test_many_tasks_are_created_and_changed_with_their_tags(client: httpx2.Client) -> None:
    first, second, third = create_many(
        client, [{"title": "a", "tags": ["x", "y"]}, {"title": "b"}, {"title": "c", "tags": ["X"]}]
    )
    assert [first["tags"], second["tags"], third["tags"]] == [["x", "y"], [], ["x"]]

    body = [
        {"id": third["id"], "tags": ["new", "y"]},
        {"id": first["id"], "priority": 1},
        {"id": second["id"], "tags": ["NEW"], "priority": 2},
    ]
    answer = client.patch("/tasks/bulk", json=body)

    assert [task["tags"] for task in answer.json()] == [["new", "y"], ["x", "y"], ["new"]]
    assert [task["version"] for task in answer.json()] == [2, 2, 2]
    assert client.get("/tasks").json() == sorted(answer.json(), key=lambda task: int(task["id"]))


def test_a_refused_request_creates_no_tag(client: httpx2.Client) -> None:
    task = create(client)
    path = f"/tasks/{task['id']}"
    body = {"title": "a", "tags": ["new"]}
    refused = [
        client.post("/tasks", json=body | {"owner_id": 10**9}),
        client.patch("/tasks/1000000000", json=body),
        client.patch(path, json=body, headers={"If-Match": '"9"'}),
        client.patch("/tasks/bulk", json=[body | {"id": task["id"]}, {"id": 10**9}]),
    ]

    assert [answer.status_code for answer in refused] == [422, 404, 412, 404]
    assert tags(client) == {}
    assert client.get(path).json() == task


@pytest.fixture
def tagged(client: httpx2.Client) -> httpx2.Client:
    """A client of tasks with the tags x and y, with one of them, and with none."""
    for title, names in {"both": ["x", "Y"], "one": ["x"], "other": ["y"], "none": []}.items():
        create(client, title=title, tags=names)
    return client


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"tag": "X"}, ["both", "one"]),
        ({"tag": ["x", "y"]}, ["both"]),
        ({"tag": ["x", "unknown"]}, []),
        ({"untagged": "true"}, ["none"]),
        ({"untagged": "false"}, ["both", "one", "other"]),
        ({"untagged": "true", "tag": "x"}, []),
        ({"tag": "y", "q": "o", "sort": "-title"}, ["other", "both"]),
        ({"tag": "y", "sort": "due_at", "limit": 1, "offset": 1}, ["other"]),
    ],
    ids=str,
)
def test_tasks_are_filtered_by_their_tags(
    tagged: httpx2.Client, query: dict[str, Any], expected: list[str]
) -> None:
    assert titles(tagged, **query) == expected


@pytest.mark.parametrize("path", OTHER_LISTS)
def test_tags_are_filters_of_the_other_lists(tagged: httpx2.Client, path: str) -> None:
    assert titles(tagged, path, tag=["x", "y"]) == ["both"]
    assert titles(tagged, path, untagged="true") == ["none"]


def test_tags_are_filters_of_pages_counts_statistics_and_a_users_tasks(
    tagged: httpx2.Client, engine: Engine
) -> None:
    user = add_user(tagged, engine, "ada")
    create(tagged, title="owned", tags=["z"], owner_id=user["id"])
    page = tagged.get("/tasks", params={"tag": "x", "limit": 1, "count": "true"})

    assert page.headers["X-Total-Count"] == "2"
    assert [task["title"] for task in tagged.get(page.links["next"]["url"]).json()] == ["one"]
    assert tagged.get("/tasks/stats?tag=y").json()["total"] == 2
    assert tagged.get("/tasks/stats?untagged=true").json()["total"] == 1
    assert titles(tagged, f"/users/{user['id']}/tasks", tag="z") == ["owned"]
    assert titles(tagged, f"/users/{user['id']}/tasks", tag="x") == []


def test_the_tags_are_a_list_with_pages_and_the_number_of_their_tasks(
    tagged: httpx2.Client,
) -> None:
    trash = create(tagged, tags=["y", "z"])
    tagged.delete(f"/tasks/{trash['id']}")

    page = tagged.get("/tags?limit=2&count=true")
    following = tagged.get(page.links["next"]["url"])

    assert page.headers["X-Total-Count"] == "3"
    names_and_counts = [(tag["name"], tag["task_count"]) for tag in page.json() + following.json()]
    assert names_and_counts == [("x", 2), ("Y", 2), ("z", 0)]
    tagged.post(f"/tasks/{trash['id']}/restore")
    assert tags(tagged) == {"x": 2, "Y": 3, "z": 1}


def test_a_tag_is_read_with_the_number_of_its_tasks(tagged: httpx2.Client) -> None:
    assert [tagged.get(f"/tags/{tag['id']}").json() for tag in tagged.get("/tags").json()] == (
        tagged.get("/tags").json()
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"name": "X"}, ["x"]),
        ({"name": " \uff38 "}, ["x"]),  # X in full width
        ({"name": "unknown"}, []),
        ({"unused": "true"}, ["unused"]),
        ({"unused": "false"}, ["x", "Y", "trash"]),
        ({"unused": "true", "name": "x"}, []),
        ({"unused": "false", "limit": 1, "offset": 1}, ["Y"]),
    ],
    ids=str,
)
def test_tags_are_filtered(
    tagged: httpx2.Client, query: dict[str, Any], expected: list[str]
) -> None:
    tagged.delete(f"/tasks/{create(tagged, tags=['trash'])['id']}").raise_for_status()
    change(tagged, create(tagged, tags=["unused"]), tags=[])

    page = tagged.get("/tags", params=query | {"count": "true"})

    assert [tag["name"] for tag in page.json()] == expected
    if "limit" in query:
        expected = ["x", "Y", "trash"]
        assert tagged.get(page.links["next"]["url"]).json()[0]["name"] == "trash"
    assert page.headers["X-Total-Count"] == str(len(expected))


def test_a_filter_of_tags_by_a_wrong_name_is_refused(client: httpx2.Client) -> None:
    answer = client.get("/tags", params={"name": "a,b"})

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "name"]


def test_all_unused_tags_are_deleted_at_once_and_no_task_changes(
    tagged: httpx2.Client, engine: Engine
) -> None:
    tagged.delete(f"/tasks/{create(tagged, tags=['trash'])['id']}").raise_for_status()
    names = [f"tag {number}" for number in range(2 * PORTION + 1)]
    with engine.begin() as connection:
        unused = [{"name": name, "folded_name": name} for name in names]
        connection.execute(insert(models.Tag), unused)
    before = tagged.get("/tasks").json()

    answers = [tagged.delete("/tags?unused=true") for _ in range(2)]

    assert [answer.json() for answer in answers] == [
        {"message": "Unused tags deleted", "count": 2 * PORTION + 1},
        {"message": "Unused tags deleted", "count": 0},
    ]
    assert tags(tagged) == {"x": 2, "Y": 2, "trash": 0}
    assert tagged.get("/tasks").json() == before


@pytest.mark.parametrize("query", ["", "?unused=false", "?unused=", "?unused=true&unused=true"])
def test_tags_are_not_deleted_together_without_unused(client: httpx2.Client, query: str) -> None:
    change(client, create(client, tags=["unused"]), tags=[])

    answer = client.delete(f"/tags{query}")

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "unused"]
    assert tags(client) == {"unused": 0}


ADD_MISSING = "INSERT INTO tag (name, folded_name) VALUES (:name, :name) ON CONFLICT DO NOTHING"


@pytest.mark.slow
def test_tasks_keep_the_tags_that_they_get_while_unused_ones_are_deleted(
    client: httpx2.Client, engine: Engine
) -> None:
    names = [
        f"tag {number:03}" for number in range(PORTION)
    ]  # in the order in which they are created
    rows = [{"name": name} for name in names]
    end = time.monotonic() + 8

    def create_until_the_end(seed: int) -> set[int]:
        random = Random(seed)  # noqa: S311
        statuses = set()
        while time.monotonic() < end:
            body = {"title": "a", "tags": random.sample(names, 3)}
            statuses.add(client.post("/tasks", json=body).status_code)
        return statuses

    deleted = 0
    with ThreadPoolExecutor(6) as threads:
        answers = [threads.submit(create_until_the_end, seed) for seed in range(6)]
        while time.monotonic() < end:
            deleted += client.delete("/tags?unused=true").json()["count"]
            with engine.begin() as connection:
                connection.execute(text(ADD_MISSING), rows)

    assert deleted > PORTION
    assert {status for answer in answers for status in answer.result()} == {201}
    assert_tags_agree_with_links(engine)


@pytest.mark.slow
def test_a_tag_that_another_transaction_has_locked_is_not_deleted(
    new_postgresql_database: Callable[..., str], tmp_path: Path
) -> None:
    url = new_postgresql_database()
    with (
        ApiServer(tmp_path, url) as server,
        server.client() as client,
        connect(url).connect() as connection,
    ):
        task = change(client, create(client, tags=["a", "b"]), tags=[])
        ids = {"tag_id": tag_id(client, "a"), "task_id": task["id"]}
        # As a request does that gives the tag to a task.
        connection.execute(text("SELECT id FROM tag WHERE id = :tag_id FOR KEY SHARE"), ids)

        answer = client.delete("/tags?unused=true")

        connection.execute(text("INSERT INTO task_tag VALUES (:task_id, :tag_id)"), ids)
        connection.commit()
        assert answer.json()["count"] == 1
        assert tags(client) == {"a": 1}


def test_a_request_creates_at_most_a_thousand_tags(client: httpx2.Client) -> None:
    task = create(client, tags=["there"])
    most = [{"title": "a", "tags": [f"tag {n} {i}" for i in range(20)]} for n in range(50)]
    one_more = {"title": "a", "tags": ["one more", "THERE"]}
    refused = [
        client.post("/tasks/bulk", json=[*most, one_more]),
        client.post("/tasks/bulk", json=[*most, one_more], headers={"Idempotency-Key": "a key"}),
    ]

    for answer in refused:
        assert answer.status_code == 422
        message = "Input should have 1000 or fewer tags that do not exist yet"
        problem = {"type": "too_many_new_tags", "loc": ["body"], "msg": message}
        assert answer.json() == {"detail": [problem]}
    assert client.get("/tasks").json() == [task]
    assert tags(client) == {"there": 1}
    create_many(client, most)
    # Those that exist are not counted.
    again = [{"title": "b", "tags": [name.upper() for name in each["tags"]]} for each in most]
    created = create_many(client, [*again, one_more])
    assert [each["tags"] for each in created[:-1]] == [
        sorted(each["tags"], key=fold) for each in most
    ]


def test_renames_that_swap_names_do_not_wait_for_each_other(
    client: httpx2.Client, server: ApiServer
) -> None:
    create(client, tags=["a", "b"])
    ids = [tag_id(client, name) for name in "ab"]
    logged = len(server.log.read_text())

    def ask(number: int) -> httpx2.Response:
        return client.patch(f"/tags/{ids[number % 2]}", json={"name": "ba"[number % 2]})

    for _ in range(20):
        answers = at_once(4, ask)
        assert {answer.status_code for answer in answers} == {409}
        assert max(answer.elapsed for answer in answers) < timedelta(seconds=0.9)
    assert "deadlock" not in server.log.read_text()[logged:]


REFUSE_TAGS = {
    "sqlite": "CREATE TRIGGER refuse BEFORE INSERT ON tag"
    " BEGIN SELECT RAISE(ABORT, 'refused'); END",
    "postgresql": "ALTER TABLE tag ADD CONSTRAINT refused CHECK (id < 0) NOT VALID",
}
ALLOW_TAGS = {
    "sqlite": "DROP TRIGGER refuse",
    "postgresql": "ALTER TABLE tag DROP CONSTRAINT refused",
}


def test_a_tag_that_the_database_refuses_is_a_bug_at_once(
    client: httpx2.Client, engine: Engine, server: ApiServer
) -> None:
    before = len(server.log.read_text())
    with engine.begin() as connection:
        connection.execute(text(REFUSE_TAGS[engine.dialect.name]))
    try:
        answer = client.post("/tasks", json={"title": "a", "tags": ["my secret"]})
    finally:
        with engine.begin() as connection:
            connection.execute(text(ALLOW_TAGS[engine.dialect.name]))

    assert (answer.status_code, answer.json()) == (500, {"detail": "Internal Server Error"})
    assert answer.elapsed < timedelta(seconds=3)
    logged = server.log.read_text()[before:]
    assert logged.count("Traceback") <= 1
    assert "refused" in logged
    assert "my secret" not in logged
    assert len(logged) < 10_000
    assert (client.get("/tasks").json(), tags(client)) == ([], {})
    create(client, tags=["my secret"])


def test_a_new_name_shows_in_all_tasks_and_is_a_change_of_each(tagged: httpx2.Client) -> None:
    trash = create(tagged, title="trash", tags=["x"])
    tagged.delete(f"/tasks/{trash['id']}")
    before = {task["title"]: task for task in tagged.get("/tasks").json()}

    answer = rename(tagged, "x", " Z ")

    assert (answer.status_code, answer.json()["name"], answer.json()["task_count"]) == (200, "Z", 2)
    after = {task["title"]: task for task in tagged.get("/tasks").json()}
    assert (after["both"]["tags"], after["one"]["tags"]) == (["Y", "Z"], ["Z"])
    for title in ("both", "one"):
        assert after[title]["version"] == 2
        assert after[title]["updated_at"] > before[title]["updated_at"]
    assert [after["other"], after["none"]] == [before["other"], before["none"]]
    [deleted] = tagged.get("/tasks?deleted=true").json()
    assert (deleted["tags"], deleted["version"]) == (["Z"], 3)
    assert titles(tagged, tag="z") == ["both", "one"]
    assert titles(tagged, tag="x") == []


def test_the_same_name_again_is_no_change_but_another_case_is(tagged: httpx2.Client) -> None:
    before = tagged.get("/tasks").json()

    assert rename(tagged, "Y", "Y").status_code == 200
    assert tagged.get("/tasks").json() == before
    assert rename(tagged, "Y", "y").json()["name"] == "y"
    assert tagged.get("/tasks").json()[0]["tags"] == ["x", "y"]


def test_a_name_that_another_tag_has_is_refused(tagged: httpx2.Client) -> None:
    before = tagged.get("/tasks").json()

    answer = rename(tagged, "x", "y")

    assert (answer.status_code, answer.json()) == (409, {"detail": "Another tag has this name"})
    assert tagged.get("/tasks").json() == before
    assert tags(tagged) == {"x": 2, "Y": 2}


def test_a_deleted_tag_goes_from_all_tasks_and_they_stay(tagged: httpx2.Client) -> None:
    before = {task["title"]: task for task in tagged.get("/tasks").json()}
    number = tag_id(tagged, "x")

    answer = tagged.delete(f"/tags/{number}")

    assert answer.json() == {"message": "Tag deleted", "tag_id": number}
    after = {task["title"]: task for task in tagged.get("/tasks").json()}
    assert {title: task["tags"] for title, task in after.items()} == {
        "both": ["Y"],
        "one": [],
        "other": ["Y"],
        "none": [],
    }
    assert [after[title]["version"] for title in ("both", "one")] == [2, 2]
    assert [after["other"], after["none"]] == [before["other"], before["none"]]
    assert tags(tagged) == {"Y": 2}
    create(tagged, tags=["x"])
    assert tag_id(tagged, "x") > number


def test_a_new_name_and_a_deletion_reach_more_tasks_than_are_written_at_a_time(
    client: httpx2.Client,
) -> None:
    for number in (1000, 1000, 1):
        create_many(client, [{"title": "a", "tags": ["x", "y"]}] * number)
    assert 2 * PORTION + 1 == 2001

    def export() -> list[Task]:
        return [json.loads(line) for line in client.get("/tasks/export").text.splitlines()]

    states = [export()]
    assert rename(client, "x", "z").json()["task_count"] == 2001
    states.append(export())
    client.delete(f"/tags/{tag_id(client, 'y')}").raise_for_status()
    states.append(export())

    for first, second, third in zip(*states, strict=True):
        at = "updated_at"
        assert second == first | {"tags": ["y", "z"], "version": 2, at: second[at]}
        assert third == second | {"tags": ["z"], "version": 3, at: third[at]}
        assert first[at] < second[at] < third[at]
    assert len(states[0]) == 2001


@pytest.mark.parametrize("number", [0, 10**9, 10**30])
def test_an_unknown_tag_is_not_found(client: httpx2.Client, number: int) -> None:
    answers = [
        client.get(f"/tags/{number}"),
        client.patch(f"/tags/{number}", json={"name": "a"}),
        client.delete(f"/tags/{number}"),
    ]

    for answer in answers:
        assert (answer.status_code, answer.json()) == (404, {"detail": "Tag not found"})


def test_a_task_that_is_deleted_for_good_leaves_its_tags(client: httpx2.Client) -> None:
    task = create(client, tags=["a"])

    client.delete(f"/tasks/{task['id']}?permanent=true").raise_for_status()

    assert tags(client) == {"a": 0}


def test_requests_that_create_the_same_tags_at_the_same_time_all_succeed(
    client: httpx2.Client,
) -> None:
    tasks = create_many(client, [{"title": "a"}] * 10)

    def ask(number: int) -> httpx2.Response:
        names = MANY[:10] if number % 4 < 2 else MANY[9::-1]
        if number % 2:
            return client.post("/tasks", json={"title": "a", "tags": names})
        return client.patch(f"/tasks/{tasks[number // 2]['id']}", json={"tags": names})

    answers = at_once(20, ask)

    assert Counter(answer.status_code for answer in answers) == {200: 10, 201: 10}
    assert all(answer.json()["tags"] == MANY[:10] for answer in answers)
    assert tags(client) == dict.fromkeys(MANY[:10], 20)


def test_a_version_of_a_task_has_the_same_tags_for_everyone(client: httpx2.Client) -> None:
    task = create(client, tags=["a", "b"])
    path, tag_path = f"/tasks/{task['id']}", f"/tags/{tag_id(client, 'a')}"

    def ask(number: int) -> httpx2.Response:
        return {
            0: lambda: client.patch(path, json={"title": f"title {number}"}),
            1: lambda: client.patch(path, json={"tags": ["a", f"b{number}"]}),
            2: lambda: client.patch(tag_path, json={"name": f"a{number}"}),
            3: lambda: client.get(path),
        }[number % 4]()

    answers = list(chain.from_iterable(at_once(20, ask) for _ in range(3)))

    assert {answer.status_code for answer in answers} == {200}
    shown: dict[int, set[str]] = {}
    for answer in answers:
        if "version" in answer.json():
            shown.setdefault(answer.json()["version"], set()).add(str(answer.json()["tags"]))
    assert len(shown) > 20
    assert {len(different) for different in shown.values()} == {1}


def test_a_tag_may_get_a_name_while_its_tasks_get_a_tag_with_this_name(
    client: httpx2.Client,
) -> None:
    tasks = create_many(client, [{"title": "a", "tags": ["a"]}] * 10)
    path = f"/tags/{tag_id(client, 'a')}"

    def ask(number: int) -> httpx2.Response:
        if number % 2:
            return client.patch(path, json={"name": f"b{number // 10}"})
        body = {"tags": [f"b{number // 10}"]}
        return client.patch(f"/tasks/{tasks[number // 2]['id']}", json=body)

    for _ in range(3):
        statuses = {answer.status_code for answer in at_once(20, ask)}
        assert statuses <= {200, 409}
        client.patch(path, json={"name": "a"}).raise_for_status()
        for name in ("b0", "b1"):
            if name in tags(client):
                client.delete(f"/tags/{tag_id(client, name)}").raise_for_status()
        body = [{"id": task["id"], "tags": ["a"]} for task in tasks]
        client.patch("/tasks/bulk", json=body).raise_for_status()


def test_a_repeated_request_gets_its_task_with_the_tags_of_now(client: httpx2.Client) -> None:
    body, key = {"title": "a", "tags": ["x"]}, {"Idempotency-Key": "a key"}
    client.post("/tasks", json=body, headers=key).raise_for_status()
    rename(client, "x", "y").raise_for_status()

    again = client.post("/tasks", json=body, headers=key)

    assert (again.json()["tags"], again.json()["version"]) == (["y"], 2)
    assert client.post("/tasks", json=body | {"tags": ["y"]}, headers=key).status_code == 422


def test_a_tag_may_be_deleted_while_tasks_get_and_lose_it(client: httpx2.Client) -> None:
    tasks = create_many(client, [{"title": "a", "tags": ["a", "b"]}] * 4)

    def ask(number: int) -> httpx2.Response:
        task_id = tasks[number // 5]["id"]
        return {
            0: lambda: client.patch(f"/tasks/{task_id}", json={"tags": ["b", "a"]}),
            1: lambda: client.patch(f"/tasks/{task_id}", json={"tags": ["c"]}),
            2: lambda: client.patch("/tasks/bulk", json=[{"id": task_id, "tags": ["b"]}]),
            3: lambda: client.post("/tasks", json={"title": "new", "tags": ["a", "c"]}),
            4: lambda: client.delete(f"/tags/{ids['ab'[number // 5 % 2]]}"),
        }[number % 5]()

    for _ in range(3):
        create(client, tags=["a", "b"])
        ids = {tag["name"]: tag["id"] for tag in client.get("/tags").json()}
        statuses = {answer.status_code for answer in at_once(20, ask)}
        assert statuses == {200, 201, 404}  # 404 for whoever deletes second


# Of five tags and of four more names, so that renames often meet.
SOME_NAMES = ["a", "A", "b", "c d", "\u00c9", "e\u0301", "f"]
NEW_NAMES = [*SOME_NAMES, "g", "h", "i", "j"]


def change_at_random(client: httpx2.Client, random: Random) -> list[httpx2.Response]:
    """Change a task or a tag, and return the answers, also that of a list before."""
    newest = client.get("/tasks?sort=-updated_at&limit=20")
    tasks, tags = newest.json(), client.get("/tags").json()
    names = partial(random.sample, SOME_NAMES, 3)
    task_path = f"/tasks/{random.choice(tasks)['id']}"
    tag_path = f"/tags/{random.choice(tags)['id'] if tags else 0}"
    some = random.sample(tasks, min(5, len(tasks)))
    method, path, body = random.choice(
        [
            ("POST", "/tasks", {"title": "new", "tags": names()}),
            ("POST", "/tasks/bulk", [{"title": "new", "tags": names()}] * 3),
            ("PATCH", task_path, {"tags": names()}),
            ("PUT", task_path, {"title": str(random.random())}),
            ("PATCH", "/tasks/bulk", [{"id": task["id"], "tags": names()} for task in some]),
            ("DELETE", task_path, None),
            ("DELETE", f"{task_path}?permanent=true", None),
            (
                "POST",
                f"/tasks/{random.randint(1, max(task['id'] for task in tasks))}/restore",
                None,
            ),
            ("PATCH", tag_path, {"name": random.choice(NEW_NAMES)}),
            ("DELETE", tag_path, None),
            ("DELETE", "/tags?unused=true", None),
        ]
    )
    return [newest, client.request(method, path, json=body)]


@pytest.mark.slow
def test_tasks_have_the_tags_that_they_are_linked_to_after_many_changes_at_once(
    client: httpx2.Client, engine: Engine, server: ApiServer
) -> None:
    create_many(client, [{"title": "a", "tags": ["a", "b"]}] * 20)
    logged = len(server.log.read_text())
    end = time.monotonic() + 6

    def change_until_the_end(seed: int) -> list[httpx2.Response]:
        random = Random(seed)  # noqa: S311
        answers = []
        with server.client() as own_client:
            while time.monotonic() < end:
                answers += change_at_random(own_client, random)
        return answers

    with ThreadPoolExecutor(16) as threads:
        answers = [*chain.from_iterable(threads.map(change_until_the_end, range(16)))]

    assert_tags_agree_with_links(engine)
    statuses = Counter(answer.status_code for answer in answers)
    print(engine.dialect.name, statuses)
    assert statuses.keys() <= {200, 201, 404, 409}
    assert "deadlock detected" not in server.log.read_text()[logged:]
    # Each version of a task had the same tags for everyone.
    shown: dict[tuple[int, int], set[str]] = {}
    for answer in answers:
        for task in answer.json() if isinstance(answer.json(), list) else [answer.json()]:
            if "version" in task:
                shown.setdefault((task["id"], task["version"]), set()).add(str(task["tags"]))
    assert {len(different) for different in shown.values()} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
def test_renames_that_swap_names_or_change_the_same_tasks_are_never_an_outage(
    new_postgresql_database: Callable[..., str], tmp_path: Path, isolation: str
) -> None:
    url = new_postgresql_database()
    with connect(url).begin() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar()
        setting = f"default_transaction_isolation = '{isolation}'"
        connection.execute(text(f"ALTER DATABASE {name} SET {setting}"))
    with ApiServer(tmp_path, url) as server, server.client() as client:
        create_many(client, [{"title": "a", "tags": ["a", "b"]}] * 3)
        ids = [tag_id(client, name) for name in "ab"]

        def ask(number: int) -> httpx2.Response:
            name = "abc"[number % 3]
            return client.patch(f"/tags/{ids[number % 2]}", json={"name": name})

        answers = [*chain.from_iterable(at_once(2, ask) for _ in range(400))]
        answers += chain.from_iterable(at_once(3, ask) for _ in range(100))

        statuses = Counter(answer.status_code for answer in answers)
        print(isolation, statuses, max(answer.elapsed for answer in answers))
        assert statuses.keys() <= {200, 409}
        assert_tags_agree_with_links(connect(url))
    assert "not available" not in server.log.read_text()
