"""What a client may rely on for many tasks: filters, orders, pages and statistics."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import chain, product
from typing import Any
from urllib.parse import quote_plus

import httpx2
import pytest
from calls import Task, create, create_many
from sqlalchemy import Engine, text

Query = str | int | list[str]

FIELDS = ["id", "title", "status", "priority", "due_at", "created_at", "updated_at"]
SORTS = [direction + field for field, direction in product(FIELDS, ("", "-"))]
LISTS = ["/tasks", "/tasks/by-status/pending", "/tasks/recent"]


def titles(client: httpx2.Client, path: str = "/tasks", **query: Query) -> list[str]:
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return [task["title"] for task in answer.json()]


def follow(client: httpx2.Client, path: str, **query: Query) -> list[list[Task]]:
    """Return the pages from the first to the last, each as the one before it links to it."""
    answer = client.get(path, params=query)
    pages = [answer.json()]
    while "next" in answer.links:
        answer = client.get(answer.links["next"]["url"])
        assert answer.status_code == 200, answer.text
        pages.append(answer.json())
    return pages


def in_order(tasks: list[Task], sort: str) -> list[Task]:
    """Sort as the API documents it: by the field, then by the id; no value comes last."""
    field = sort.removeprefix("-")
    with_value = [task for task in tasks if task[field] is not None]
    without = [task for task in tasks if task[field] is None]
    descending = sort.startswith("-")
    return sorted(
        with_value, key=lambda task: (task[field], task["id"]), reverse=descending
    ) + sorted(without, key=lambda task: int(task["id"]), reverse=descending)


@pytest.fixture
def tasks(client: httpx2.Client) -> list[Task]:
    """Thirty tasks with equal and missing values, whose ids are in no other order than theirs."""
    due_at = ["2027-01-01T00:00:00Z", None, "2020-01-01T00:00:00Z", None, "2027-01-01T00:00:00Z"]
    statuses = ["pending", "completed", "in_progress"]
    return create_many(
        client,
        [
            {
                "title": f"task {number * 7 % 10}",
                "status": statuses[number % 3],
                "priority": number * 5 % 4,
                "due_at": due_at[number % 5],
            }
            for number in range(30)
        ],
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"status": "pending"}, "a"),
        ({"status": ["pending", "completed"]}, "ac"),
        ({"priority_min": 2}, "bc"),
        ({"priority_max": 2}, "ab"),
        ({"priority_min": 2, "priority_max": 2}, "b"),
        ({"due_after": "2020-01-01T00:00:00Z"}, "b"),
        ({"due_before": "2030-01-01T00:00:00Z"}, "a"),
        ({"due_before": "2030-01-01T02:00:00+01:00"}, "ab"),
        ({"overdue": "true"}, "a"),
        ({"overdue": "false"}, "bc"),
        ({"status": ["pending", "in_progress"], "priority_min": 1, "overdue": "false"}, "b"),
        ({"q": "nothing has this"}, ""),
        ({}, "abc"),
    ],
)
def test_a_filter_lets_pass_what_it_names(
    client: httpx2.Client, query: dict[str, Any], expected: str
) -> None:
    create(client, title="a", status="pending", priority=0, due_at="2020-01-01T00:00:00Z")
    create(client, title="b", status="in_progress", priority=2, due_at="2030-01-01T00:00:00Z")
    create(client, title="c", status="completed", priority=5)

    assert titles(client, **query) == list(expected)
    assert client.get("/tasks/stats", params=query).json()["total"] == len(expected)


def test_a_completed_task_is_not_overdue(client: httpx2.Client) -> None:
    create(client, title="done", status="completed", due_at="2020-01-01T00:00:00Z")

    assert titles(client, overdue="true") == []
    assert titles(client, overdue="false") == ["done"]


def test_a_task_without_a_due_date_is_not_overdue(client: httpx2.Client) -> None:
    create(client, title="some day")

    assert titles(client, overdue="true") == []
    assert titles(client, overdue="false") == ["some day"]


def test_the_datetime_of_creation_is_a_filter(client: httpx2.Client) -> None:
    first, second, third = (create(client, title=title) for title in "abc")

    assert titles(client, created_after=first["created_at"]) == ["b", "c"]
    assert titles(client, created_before=third["created_at"]) == ["a", "b"]
    assert (
        titles(client, created_after=second["created_at"], created_before=third["created_at"]) == []
    )


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("REPORT", True),
        ("straße", True),
        ("STRASSE", True),
        ("ÜBER", True),
        ("über 50%", True),
        ("5_%", False),
        ("50%", True),
        ("%", True),
        ("%50", False),
        ("a_b", True),
        ("a%b", False),
        ("A/B\\C", True),
        ("'; --", True),
        ("🐛", True),
        ("", True),
    ],
)
def test_a_text_is_found_as_it_is_written_in_any_case(
    client: httpx2.Client, q: str, *, found: bool
) -> None:
    create(client, title="Report über 50% a_b", description="Straße a/b\\c '; -- 🐛")
    create(client, title="other", description=None)

    assert ("Report über 50% a_b" in titles(client, q=q)) is found
    assert ("other" in titles(client, q=q)) is (q == "")


@pytest.mark.parametrize("sort", SORTS)
def test_a_list_is_sorted(client: httpx2.Client, tasks: list[Task], sort: str) -> None:
    answer = client.get("/tasks", params={"sort": sort})

    assert answer.json() == in_order(tasks, sort)


def test_a_list_is_sorted_by_id_unless_asked_otherwise(
    client: httpx2.Client, tasks: list[Task]
) -> None:
    assert client.get("/tasks").json() == tasks


@pytest.mark.parametrize("sort", SORTS)
def test_following_next_visits_every_task_once(
    client: httpx2.Client, tasks: list[Task], sort: str
) -> None:
    for limit in (1, 4, 30):
        pages = follow(client, "/tasks", sort=sort, limit=limit)

        assert list(chain(*pages)) == in_order(tasks, sort)
        assert all(len(page) == limit for page in pages[:-1])
        assert pages[-1] != []


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.usefixtures("tasks")
def test_every_list_has_pages(client: httpx2.Client, path: str) -> None:
    pages = follow(client, path, sort="-due_at", limit=3)

    assert list(chain(*pages)) == client.get(path, params={"sort": "-due_at"}).json()
    assert len(pages) > 1


def test_the_next_page_keeps_the_query(client: httpx2.Client, tasks: list[Task]) -> None:
    query = (
        "status=pending&status=completed&priority_max=3&q=task+%26&sort=-title&limit=2&count=true"
    )
    for task in tasks:
        client.patch(f"/tasks/{task['id']}", json={"title": f"task & {task['id']:09}"})

    answer = client.get(f"/tasks?{query}&offset=2")

    last = answer.json()[-1]
    after = f"{quote_plus(last['title'])},{last['id']}"
    assert answer.headers["Link"] == f'<{client.base_url}/tasks?{query}&after={after}>; rel="next"'


@pytest.mark.parametrize("sort", SORTS)
def test_an_offset_skips_tasks(client: httpx2.Client, tasks: list[Task], sort: str) -> None:
    for offset in (0, 1, 17, 18, 19, 29, 30, 31, 2**53 - 1):
        answer = client.get("/tasks", params={"sort": sort, "offset": offset, "limit": 3})

        assert answer.json() == in_order(tasks, sort)[offset : offset + 3]


@pytest.mark.slow
def test_a_page_is_read_at_one_time(client: httpx2.Client) -> None:
    tasks = create_many(client, [{"title": f"task {number}"} for number in range(20)])
    due_at = [None, "2027-01-01T00:00:00Z"]

    def move(number: int) -> None:
        path = f"/tasks/{tasks[number % 20]['id']}"
        client.patch(path, json={"due_at": due_at[number // 20 % 2]})

    with ThreadPoolExecutor(4) as threads:
        moves = [threads.submit(move, number) for number in range(400)]
        while not moves[-1].done():
            assert len(set(titles(client, sort="due_at"))) == 20
            assert len(titles(client, sort="-due_at")) == 20


def test_an_offset_counts_from_the_task_behind_which_the_list_goes_on(
    client: httpx2.Client, tasks: list[Task]
) -> None:
    after = f"{tasks[0]['due_at']},{tasks[0]['id']}"
    query: dict[str, Query] = {"sort": "due_at", "after": after, "offset": 20}

    everything = in_order(tasks, "due_at")
    assert (
        client.get("/tasks", params=query).json() == everything[everything.index(tasks[0]) + 21 :]
    )


@pytest.mark.parametrize("sort", SORTS)
def test_an_edit_of_the_last_task_of_a_page_leaves_no_other_out_and_shows_none_twice(
    client: httpx2.Client, tasks: list[Task], sort: str
) -> None:
    to_front, to_back = (
        {"title": "a", "status": "completed", "priority": 0, "due_at": "2019-01-01T00:00:00Z"},
        {"title": "z", "status": "pending", "priority": 5, "due_at": None},
    )
    left = [task["id"] for task in in_order(tasks, sort)]
    edited: set[int] = set()
    answer = client.get("/tasks", params={"sort": sort, "limit": 4})
    while left:
        ids = [task["id"] for task in answer.json()]
        others = [task_id for task_id in ids if task_id not in edited]
        assert others == left[: len(others)]
        left = left[len(others) :]
        edited.add(ids[-1])
        edit = to_front if len(edited) % 2 else to_back
        client.patch(f"/tasks/{ids[-1]}", json=edit).raise_for_status()
        if left:
            answer = client.get(answer.links["next"]["url"])


@pytest.mark.parametrize("sort", SORTS)
def test_a_list_goes_on_behind_a_deleted_task(
    client: httpx2.Client, tasks: list[Task], sort: str
) -> None:
    everything = in_order(tasks, sort)
    page = client.get("/tasks", params={"sort": sort, "limit": 9})

    client.delete(f"/tasks/{everything[8]['id']}", params={"permanent": True})

    assert client.get(page.links["next"]["url"]).json() == everything[9:18]


@pytest.mark.parametrize(
    ("sort", "after"),
    [
        ("id", "3,17"),
        ("title", "17"),
        ("title", "a\0,17"),
        ("status", "done,17"),
        ("priority", "high,17"),
        ("priority", f"{2**63},17"),
        ("-due_at", "2027-01-01,17"),
        ("-due_at", "tomorrow,17"),
        ("created_at", ",17"),
        ("updated_at", "2027-01-01T00:00:00,17"),
        ("priority", "3,"),
        ("priority", "3,x"),
        ("priority", f"3,{2**63}"),
    ],
)
def test_a_cursor_that_does_not_fit_the_sort_is_refused(
    client: httpx2.Client, sort: str, after: str
) -> None:
    answer = client.get("/tasks", params={"sort": sort, "after": after})

    assert answer.status_code == 422
    [problem] = answer.json()["detail"]
    assert problem["loc"] == ["query", "after"]


def test_titles_are_sorted_in_any_case_by_the_code_points_of_their_characters(
    client: httpx2.Client,
) -> None:
    expected = ["_", "a", "A b", "a-c", "B", "e", "E\u0301", "é", "f", "ﬁ", "Z", "д", "Ж", "🐛"]
    for title in sorted(expected):
        create(client, title=title)

    for limit in (1, 3, 100):
        pages = follow(client, "/tasks", sort="title", limit=limit)
        assert [task["title"] for page in pages for task in page] == expected
        pages = follow(client, "/tasks", sort="-title", limit=limit)
        assert [task["title"] for page in pages for task in page] == expected[::-1]


@pytest.mark.parametrize("title", ["\ufdfa" * 33, "각" * 200, "\U00010400" * 200])
def test_titles_that_grow_when_they_are_folded_are_stored_found_and_sorted(
    client: httpx2.Client, title: str
) -> None:
    task, other = create(client, title=title), create(client, title="a")

    assert titles(client, q=title[:50]) == [title]
    pages = follow(client, "/tasks", sort="title", limit=1)
    assert [page[0] for page in pages] == [other, task]


def test_a_cursor_may_hold_a_title_with_commas(client: httpx2.Client) -> None:
    create_many(client, [{"title": title} for title in ("a", "a, b, 3", "b")])

    pages = follow(client, "/tasks", sort="title", limit=1)

    assert [task["title"] for page in pages for task in page] == ["a", "a, b, 3", "b"]


@pytest.mark.usefixtures("tasks")
def test_tasks_are_counted_on_demand(client: httpx2.Client) -> None:
    query: dict[str, Any] = {"status": "pending", "limit": 3, "offset": 3}

    assert client.get("/tasks", params=query | {"count": "true"}).headers["X-Total-Count"] == "10"
    assert "X-Total-Count" not in client.get("/tasks", params=query).headers


@pytest.mark.usefixtures("tasks")
def test_the_last_page_links_to_no_other(client: httpx2.Client) -> None:
    assert "Link" in client.get("/tasks", params={"limit": 29}).headers
    assert "Link" not in client.get("/tasks", params={"limit": 30}).headers


def test_a_page_has_a_hundred_tasks_unless_asked_otherwise(client: httpx2.Client) -> None:
    create_many(client, [{"title": "Write the report"}] * 101)

    assert [len(page) for page in follow(client, "/tasks")] == [100, 1]


@pytest.mark.parametrize("path", [*LISTS, "/tasks/stats"])
def test_an_unknown_query_parameter_is_refused(client: httpx2.Client, path: str) -> None:
    answer = client.get(path, params={"prioritymin": 3})

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "prioritymin"]


@pytest.mark.parametrize("status", ["pending", "in_progress", "completed"])
@pytest.mark.usefixtures("tasks")
def test_the_tasks_of_one_status_are_a_list_of_their_own(
    client: httpx2.Client, status: str
) -> None:
    query: dict[str, Any] = {"priority_min": 1, "sort": "-due_at", "count": "true"}

    by_status = client.get(f"/tasks/by-status/{status}", params=query)
    filtered = client.get("/tasks", params=query | {"status": status})

    assert by_status.json() == filtered.json() != []
    assert by_status.headers["X-Total-Count"] == filtered.headers["X-Total-Count"]


def test_recent_tasks_are_those_of_the_last_days(client: httpx2.Client, engine: Engine) -> None:
    for days in (0, 6, 8, 3649, 3651):
        task = create(client, title=str(days))
        with engine.begin() as connection:
            connection.execute(
                text("UPDATE task SET created_at = :created_at WHERE id = :id"),
                {"created_at": str(datetime.now(UTC) - timedelta(days=days)), "id": task["id"]},
            )

    assert titles(client, "/tasks/recent") == ["0", "6"]
    assert titles(client, "/tasks/recent", days=1) == ["0"]
    assert titles(client, "/tasks/recent", days=3650, sort="-id") == ["3649", "8", "6", "0"]


@pytest.mark.parametrize("days", [0, 3651, 999_999_999])
def test_days_out_of_range_are_refused(client: httpx2.Client, days: int) -> None:
    assert client.get("/tasks/recent", params={"days": days}).status_code == 422


def test_the_statistics_count_tasks(client: httpx2.Client) -> None:
    create(client, status="pending", priority=1, due_at="2020-01-01T00:00:00Z")
    create(client, status="pending", priority=3)
    create(client, status="completed", priority=4, due_at="2020-01-01T00:00:00Z")

    assert client.get("/tasks/stats").json() == {
        "total": 3,
        "by_status": {"pending": 2, "in_progress": 0, "completed": 1},
        "overdue": 1,
        "average_priority": pytest.approx(8 / 3),
    }


def test_the_statistics_of_no_task_have_no_average(client: httpx2.Client) -> None:
    create(client, priority=1)

    assert client.get("/tasks/stats", params={"priority_min": 2}).json() == {
        "total": 0,
        "by_status": {"pending": 0, "in_progress": 0, "completed": 0},
        "overdue": 0,
        "average_priority": None,
    }
