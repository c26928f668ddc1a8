"""What a user may rely on in any order: random sequences of calls are answered as a model says."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import pytest
from calls import PASSWORD, add_user, assert_tags_agree_with_links
from hypothesis import HealthCheck, settings, stateful
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.stateful import initialize, invariant, precondition, rule
from sqlalchemy import Engine, text

from api.folding import fold
from api.sorts import TaskSort
from models import TaskCreate, UserCreate

Row = dict[str, Any]  # a task, a tag, a user or a transfer, as clients see it
Answer = httpx2.Response
Choices = dict[str, st.SearchStrategy[Any]]

parse = datetime.fromisoformat

NEVER_USED = 10**9  # as an id
NO_TASK, NO_USER = {"detail": "Task not found"}, {"detail": "User not found"}
NO_TAG = {"detail": "Tag not found"}
# The fields that are not sent. One that this model does not know has the default of the API.
NEW_TASK: Row = TaskCreate(title="a").model_dump(mode="json")
NEW_TASK |= {"description": None, "status": "pending", "priority": 0, "due_at": None}
NEW_TASK |= {"tags": [], "owner_id": None}
ANY_USER = {"username": "ada", "email": "ada@example.com", "password": PASSWORD}
NEW_USER: Row = UserCreate.model_validate(ANY_USER).model_dump(mode="json", exclude={"password"})
NEW_USER |= {"full_name": None, "is_admin": False, "is_active": True}
# What a task had when a page ended with it, and it was deleted since.
GONE_TASK: Row = {"title": "b", "status": "in_progress", "priority": 2, "due_at": None}
GONE_TASK |= dict.fromkeys(("created_at", "updated_at"), "2026-01-01T00:00:00Z")
STATUSES = ["pending", "in_progress", "completed"]
# Lists of entity tags, where {} is the version that the task has. The first three name it, the
# fourth does for `If-None-Match`.
ETAGS = ["*", '"{}"', '"0", "{}"', 'W/"{}"', '"0"']
WRONG_FIELDS = {
    "title": (
        " ",
        "string_too_short",
        "Input should have 1 or more characters",
    ),
    "status": ("done", "enum", "Input should be 'pending', 'in_progress' or 'completed'"),
    "priority": (6, "less_than_equal", "Input should be less than or equal to 5"),
    "tags": (
        [f"must not be kept {n}" for n in range(21)],
        "too_long",
        "Input should have 20 or fewer items",
    ),
}


@dataclass(eq=False)
class Unforeseen:
    """Stands in the model for a value that only the API knows: it equals every one that matches."""

    matches: Callable[[Any], bool]

    def __eq__(self, other: object) -> bool:
        return self.matches(other)

    __hash__ = None  # type: ignore[assignment]


def trimmed(fields: Row) -> Row:
    """Return the fields of a task without blanks around texts, and with `due_at` in UTC."""
    changed = dict(fields)
    if "title" in fields:
        changed["title"] = fields["title"].strip()
    if fields.get("due_at"):
        in_utc = parse(fields["due_at"]).astimezone(UTC)
        changed["due_at"] = in_utc.isoformat().replace("+00:00", "Z")
    if "tags" in fields:
        changed["tags"] = [name.strip() for name in fields["tags"]]
    return changed


def tag_key(name: str) -> str:
    """Return what all names of one tag have in common."""
    return fold(name.strip())


def tag_keys(names: Iterable[str]) -> set[str]:
    return {tag_key(name) for name in names}


def in_order_of_keys(names: Iterable[str]) -> list[str]:
    return sorted(names, key=tag_key)


def sent(fields: Row) -> Row:
    """Return what is compared when a key is used again: all but the defaults; tags are a set."""
    return {
        name: sorted(tag_keys(value)) if name == "tags" else value
        for name, value in trimmed(fields).items()
        if name == "owner_id" or value != NEW_TASK[name]
    }


def again(fields: Row, *, reverse: bool) -> Row:
    """Return what `sent` returned with the defaults, and blanks around the tags."""
    names = [f" {name} " for name in fields.get("tags", [])]
    return {"title": "a"} | fields | {"tags": names[::-1] if reverse else names}


def keep_completed_at(task: Row, at: Unforeseen) -> None:
    if task["status"] != "completed":
        task["completed_at"] = None
    elif task["completed_at"] is None:
        task["completed_at"] = at


def change(task: Row, at: Unforeseen, **values: object) -> None:
    """Change the task as the API does at that time."""
    if any(task[field] != value for field, value in values.items()):
        task.update(values, updated_at=at, version=task["version"] + 1)
        keep_completed_at(task, at)


def is_due(task: Row, earlier: datetime, later: datetime) -> bool:
    """Return whether the task is due between the datetimes."""
    return task["due_at"] is not None and earlier < parse(task["due_at"]) < later


def is_overdue(task: Row) -> bool:
    return is_due(task, FIRST, datetime.now(UTC)) and task["status"] != "completed"


FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
FILTERS: dict[str, Callable[[Row, Any], bool]] = {
    "status": lambda task, it: task["status"] in it,
    "priority_min": lambda task, it: task["priority"] >= it,
    "priority_max": lambda task, it: task["priority"] <= it,
    "q": lambda task, it: (
        fold(it) in fold(task["title"]) or fold(it) in fold(task["description"] or "")
    ),
    "created_after": lambda task, it: parse(task["created_at"]) > parse(it),
    "created_before": lambda task, it: parse(task["created_at"]) < parse(it),
    "due_after": lambda task, it: is_due(task, parse(it), LAST),
    "due_before": lambda task, it: is_due(task, FIRST, parse(it)),
    "overdue": lambda task, it: is_overdue(task) is it,
    "owner_id": lambda task, it: bool(task["owner_id"] == it),
    "unowned": lambda task, it: (task["owner_id"] is None) is it,
    "tag": lambda task, it: tag_keys(it) <= tag_keys(task["tags"]),
    "untagged": lambda task, it: (task["tags"] == []) is it,
    "deleted": lambda task, it: (task["deleted_at"] is not None) is it,
}


def matching(tasks: Iterable[Row], query: Row) -> list[Row]:
    """Return the tasks that match all filters of the query."""
    wanted = {"deleted": False} | query
    filters = [name for name in wanted if name in FILTERS]
    return [task for task in tasks if all(FILTERS[name](task, wanted[name]) for name in filters)]


def in_order(rows: list[Row], sort: str) -> list[Row]:
    """Sort by the field, then by the id; no value comes last."""
    field, descending = sort.removeprefix("-"), sort.startswith("-")

    def key(row: Row) -> tuple[Any, int]:
        value = row[field]
        return parse(value) if field.endswith("_at") and value else value, row["id"]

    def by(part: list[Row]) -> list[Row]:
        return sorted(part, key=key, reverse=descending)

    without = [row for row in rows if row[field] is None]
    return by([row for row in rows if row[field] is not None]) + by(without)


def cursor(row: Row, sort: str) -> str:
    """Return what `after` is for the page after this row."""
    field = sort.removeprefix("-")
    if field == "id":
        return str(row["id"])
    return f"{'' if row[field] is None else row[field]},{row['id']}"


def behind(rows: list[Row], sort: str, after: str) -> list[Row]:
    """Return in order the rows behind a cursor, whose row may have changed or be gone."""
    field, (value, _, row_id) = sort.removeprefix("-"), after.rpartition(",")
    last: Row = {field: int(value) if field == "priority" else value or None} | {"id": int(row_id)}
    ordered = in_order([*rows, last], sort)
    return ordered[[row is last for row in ordered].index(True) + 1 :]


def problems(kind: str, msg: str, *locs: Sequence[object]) -> Row:
    """Return the answer that says what is wrong in these positions."""
    return {"detail": [{"type": kind, "loc": loc, "msg": msg} for loc in locs]}


def unknown_users(*locs: Sequence[object]) -> Row:
    return problems("user_not_found", "Input should be the id of a user, or null for nobody", *locs)


def check(answer: Answer, status: int, body: Any, **headers: str) -> None:  # noqa: ANN401
    """Compare the answer with the expected one; what could not be foreseen is known from then on.

    Headers are named as in Python, and those that are not named must not be there.
    """
    assert answer.status_code == status, answer.text
    assert answer.json() == body
    if isinstance(body, dict):
        body.update(answer.json())
    elif isinstance(body, list):
        for known, sent in zip(body, answer.json(), strict=True):
            known.update(sent)
    assert answer.json() == body  # also where it shows one thing twice
    check_headers(answer, **headers)


def check_headers(answer: Answer, **headers: str) -> None:
    for name in ("etag", "location", "x_total_count", "link"):
        assert answer.headers.get(name.replace("_", "-")) == headers.get(name), name


def check_task(answer: Answer, task: Row) -> None:
    check(answer, 200, task, etag=f'"{task["version"]}"')


POSITIONS = st.integers(0, 199)  # for `pick`
DUE = ["2020-01-01T00:00:00Z", "2020-01-01T01:00:00+01:00", "2039-12-31T23:00:00.5-01:00"]
# In one case, since databases differ in how they sort others.
TITLES = st.sampled_from(["a", "b", "b2", " c "])
# Of three tags, so that they often meet. One of them is in two encodings.
TAG_NAMES = st.sampled_from(["a", " A ", "b c", "B c", "\u00c9", "e\u0301"])
FREE_NAMES = st.sampled_from(["c", "z"])  # unless a tag was renamed to them
CHANGES: Choices = {
    "title": TITLES,
    "description": st.sampled_from([None, "", "A report", "50% of a_b"]),
    "status": st.sampled_from(STATUSES),
    "priority": st.integers(0, 5),
    "due_at": st.sampled_from([None, *DUE]),
    "tags": st.lists(TAG_NAMES, max_size=4),
}
TASK_CHANGES = st.fixed_dictionaries({}, optional=CHANGES)
OWNERS = st.none() | POSITIONS
NEW_TASKS = st.fixed_dictionaries({}, optional=CHANGES | {"owner_id": OWNERS}).map(
    lambda fields: {"title": "a"} | fields
)
FILTER_VALUES: Choices = {
    "status": st.lists(st.sampled_from(STATUSES), min_size=1, max_size=2),
    "priority_min": st.integers(0, 5),
    "priority_max": st.integers(0, 5),
    "q": st.sampled_from(["", "A", "REPORT", "%", "_b", "b2"]),
    "created_after": POSITIONS,
    "created_before": POSITIONS,
    "due_after": st.sampled_from(DUE),
    "due_before": st.sampled_from(DUE),
    "overdue": st.booleans(),
    "owner_id": POSITIONS,
    "unowned": st.booleans(),
    "tag": st.lists(TAG_NAMES, min_size=1, max_size=2),
    "untagged": st.booleans(),
    "deleted": st.booleans(),
}
ONE_FILTER = st.one_of(*[st.tuples(st.just(name), value) for name, value in FILTER_VALUES.items()])
SOME_FILTERS = st.lists(ONE_FILTER, max_size=2).map(dict)  # few, so that many tasks match them
PAGE: Choices = {"limit": st.integers(1, 4), "offset": st.integers(0, 3)}
PAGE |= {"after": POSITIONS, "count": st.booleans()}
PAGES = st.fixed_dictionaries({}, optional=PAGE)
SORTS = st.fixed_dictionaries({}, optional={"sort": st.sampled_from(TaskSort)})
QUERIES = st.tuples(SOME_FILTERS, PAGES, SORTS).map(lambda parts: parts[0] | parts[1] | parts[2])
IF_MATCH = st.none() | st.sampled_from(ETAGS)
EMAILS = st.sampled_from(["ADA@example.com", "bob@example.com", "eve@example.com"])
USER_FIELDS: Choices = {"username": st.sampled_from(["ada", "Bob", "eve"]), "email": EMAILS}
FULL_NAMES = st.sampled_from([None, "Ada", "Bob"])
USER_CHANGES: Choices = USER_FIELDS | {"full_name": FULL_NAMES}
USER_CHANGES |= {"is_admin": st.booleans(), "is_active": st.booleans()}
KEYS = st.none() | st.sampled_from(["a key", "another"])


def shown_user(fields: Row) -> Row:
    return fields | {name: fields[name].lower() for name in USER_FIELDS if name in fields}


class Sequences(stateful.RuleBasedStateMachine):
    """The calls, and the model: what is in the database after them."""

    client: ClassVar[httpx2.Client]
    engine: ClassVar[Engine]

    def __init__(self) -> None:
        super().__init__()
        self.tasks: dict[int, Row] = {}
        self.transfers: dict[int, list[Row]] = {}  # by the task
        # What was sent with a key, and the ids of the tasks that it created.
        self.keys: dict[str, tuple[Row | list[Row], list[int]]] = {}
        self.users: dict[int, Row] = {}
        self.tags: dict[int, str] = {}  # their names
        self.gone_tasks, self.gone_users, self.gone_tags = [NEVER_USED], [NEVER_USED], [NEVER_USED]
        self.last_task = self.last_user = self.last_tag = self.passwords = 0
        with self.engine.begin() as connection:
            for table in ("idempotency_key", "transfer", "task_tag", "task", "tag", '"user"'):
                connection.execute(text(f"DELETE FROM {table}"))  # noqa: S608
        for name in ("ada", "bob"):
            add_user(self.client, self.engine, name)

    def call(self, method: str, path: str, **options: Any) -> Answer:  # noqa: ANN401
        """Send the request, and keep when it was answered."""
        begin = datetime.now(UTC)
        answer = self.client.request(method, path, **options)
        end = datetime.now(UTC)
        self.now = Unforeseen(lambda it: isinstance(it, str) and begin <= parse(it) <= end)
        return answer

    def select(self, **query: object) -> list[Row]:
        return matching(self.tasks.values(), query)

    def pick(self, position: int, usual: Iterable[int], others: list[int]) -> int:
        """Return an id: nine times of ten a usual one, if there is one."""
        ids = ([*usual] if position % 10 < 9 else []) or others
        return ids[position // 10 % len(ids)]

    def pick_task(self, position: int, *, deleted: bool = False) -> int:
        usual, others = self.select(deleted=deleted), self.select(deleted=not deleted)
        gone = [task["id"] for task in others] + self.gone_tasks
        return self.pick(position, [task["id"] for task in usual], gone)

    def pick_user(self, position: int) -> int:
        return self.pick(position, self.users, self.gone_users)

    def pick_tag(self, position: int) -> int:
        used = [*chain.from_iterable(task["tags"] for task in self.tasks.values())]
        usual = [tag_id for tag_id, name in self.tags.items() if name in used]
        return self.pick(position, usual, [*self.tags, *self.gone_tags])

    def with_ids(self, fields: Row) -> Row:
        """Return the fields of a new task, or a query, with ids and datetimes for positions."""
        values = dict(fields)
        for name in {"owner_id", "from_user_id", "to_user_id"}.intersection(fields):
            values[name] = None if fields[name] is None else self.pick_user(fields[name])
        if "after" in fields:
            task_id, sort = self.pick_task(fields["after"]), fields.get("sort", "id")
            values["after"] = cursor(self.tasks.get(task_id, GONE_TASK | {"id": task_id}), sort)
        for name in {"created_after", "created_before"}.intersection(fields):
            task = self.tasks.get(self.pick_task(fields[name]))
            values[name] = task["created_at"] if task else DUE[0]
        return values

    def is_unknown(self, user_id: int | None) -> bool:
        return user_id is not None and user_id not in self.users

    def create_tags(self, asked: Iterable[Row]) -> None:
        """Keep the tags that the API creates for what was asked, and ask for their ids."""
        names = [*chain.from_iterable(fields.get("tags", []) for fields in asked)]
        by_key = {tag_key(name): name.strip() for name in reversed(names)}
        there = tag_keys(self.tags.values())
        answer = self.client.get("/tags", params={"after": self.last_tag})
        ids = [tag["id"] for tag in answer.json()]
        new = [by_key[key] for key in sorted(by_key.keys() - there)]
        assert [tag["name"] for tag in answer.json()] == new
        self.tags |= zip(ids, new, strict=True)
        self.last_tag = max([self.last_tag, *ids])

    def shown(self, fields: Row) -> Row:
        """Return the fields of a task as the API shows what was sent."""
        changed = trimmed(fields)
        if "tags" in fields:
            keys = tag_keys(fields["tags"])
            names = [name for name in self.tags.values() if tag_key(name) in keys]
            changed["tags"] = in_order_of_keys(names)
        return changed

    def show_tag(self, tag_id: int) -> Row:
        name = self.tags[tag_id]
        return {"name": name, "id": tag_id, "task_count": len(self.select(tag=[name]))}

    def show_tags(self) -> list[Row]:
        return [self.show_tag(tag_id) for tag_id in self.tags]

    def new_tasks(self, asked: list[Row]) -> list[Row]:
        """Return the tasks that the API creates, with their tags."""
        self.create_tags(asked)
        return [self.new_task(NEW_TASK | self.shown(task)) for task in asked]

    def new_task(self, asked: Row) -> Row:
        """Return the task that the API creates."""
        last = self.last_task
        datetimes = {"created_at": self.now, "updated_at": self.now, "completed_at": None}
        task = asked | datetimes | {"id": Unforeseen(lambda it: it > last)}
        keep_completed_at(task, self.now)
        return task | {"deleted_at": None, "version": 1}

    def keep(self, tasks: list[Row], key: str | None, body: Row | list[Row]) -> None:
        """Keep the tasks if they are new, and what was sent with the key."""
        for task in tasks:
            if task["id"] not in self.transfers:
                assert task["created_at"] == task["updated_at"]
                assert task["id"] > self.last_task
                self.last_task = task["id"]
                self.tasks[task["id"]] = task
                self.transfers[task["id"]] = []
        if key and key not in self.keys:
            self.keys[key] = body, [task["id"] for task in tasks]

    def find(
        self,
        answer: Answer,
        task_id: int,
        etags: str | None = None,
        *,
        deleted: bool | None = False,
    ) -> Row | None:
        """Return the task; compare the answer if it is not there or has another version."""
        task = self.tasks.get(task_id)
        if task is None or deleted not in (None, task["deleted_at"] is not None):
            check(answer, 404, NO_TASK)
        elif etags not in (None, *ETAGS[:4]):
            body = {"detail": "The task has another version"}
            check(answer, 412, body, etag=f'"{task["version"]}"')
        else:
            return task
        return None

    def with_etags(self, name: str, etags: str | None, task_id: int) -> dict[str, str]:
        """Return the header with the entity tags."""
        version = self.tasks[task_id]["version"] if task_id in self.tasks else 1
        return {name: etags.format(version)} if etags else {}

    def compare_list(self, path: str, query: Row, rows: list[Row]) -> None:
        """Compare the page of these rows that the query asks for, and all that follow."""
        answer = self.call("GET", path, params=query)
        after, sort = query.get("after"), query.get("sort", "id")
        rest = in_order(rows, sort) if after is None else behind(rows, sort, str(after))
        rest = rest[query.get("offset", 0) :]
        page = rest[: query.get("limit", 100)]
        headers = {"x_total_count": str(len(rows))} if query.get("count") else {}
        if len(page) == len(rest):
            check(answer, 200, page, **headers)
            return
        kept = answer.request.url.params.remove("offset").remove("after")
        after = cursor(page[-1], sort)
        url = str(answer.request.url.copy_with(params=kept.add("after", after)))
        check(answer, 200, page, link=f'<{url.replace("%2C", ",")}>; rel="next"', **headers)
        following = {name: value for name, value in query.items() if name != "offset"}
        self.compare_list(path, following | {"after": after}, rows)

    @initialize(changes=st.lists(TASK_CHANGES, min_size=3, max_size=6))
    def begin(self, changes: list[Row]) -> None:
        self.users = {user["id"]: user for user in self.call("GET", "/users").json()}
        self.last_user = max(self.users)
        owners = (0, 10, None)  # the first, the second, and nobody
        tasks = [
            {"title": "a", "tags": ["a"], "owner_id": owners[n % 3]} for n in range(len(changes))
        ]
        self.create_tasks(
            [task | fields for task, fields in zip(tasks, changes, strict=True)], None
        )
        self.delete_task(0, None, trashed=False, permanent=False)

    @invariant()
    def everything_is_as_in_the_model(self) -> None:
        for deleted in (False, True):
            self.compare_list("/tasks", {"deleted": deleted}, self.select(deleted=deleted))
        self.compare_list("/tags", {}, self.show_tags())

    @invariant()
    def tasks_have_the_tags_that_they_are_linked_to(self) -> None:
        assert_tags_agree_with_links(self.engine)

    @rule(fields=NEW_TASKS, key=KEYS)
    def create_task(self, fields: Row, key: str | None) -> None:
        self.post_task(self.with_ids(fields), key)

    @precondition(lambda self: self.keys)
    @rule(position=POSITIONS, same=st.booleans(), reverse=st.booleans())
    def repeat_with_key(self, position: int, *, same: bool, reverse: bool) -> None:
        key = [*self.keys][position % len(self.keys)]
        body, _ = self.keys[key]
        if isinstance(body, list):
            self.post_tasks([again(task, reverse=reverse) for task in body] * (2 - same), key)
        else:
            other = {} if same else {"title": "another"}
            self.post_task(again(body, reverse=reverse) | other, key)

    def earlier(self, answer: Answer, key: str, body: Row | list[Row]) -> list[Row]:
        """Return the tasks that the key created; compare the answer if they are not sent again."""
        first, ids = self.keys[key]
        if first != body:
            loc = ["header", "Idempotency-Key"]
            msg = "Input should be another key: this one was used with another body"
            check(answer, 422, problems("idempotency_key_reused", msg, loc))
        elif not self.tasks.keys() >= set(ids):
            detail = "A task that was created with this key has been deleted for good"
            check(answer, 409, {"detail": detail})
        else:
            return [self.tasks[task_id] for task_id in ids]
        return []

    def post_task(self, body: Row, key: str | None) -> None:
        headers = {"Idempotency-Key": key} if key else {}
        answer = self.call("POST", "/tasks", json=body, headers=headers)
        if key in self.keys:
            tasks = self.earlier(answer, key, sent(body))
        elif self.is_unknown(body.get("owner_id")):
            check(answer, 422, unknown_users(["body", "owner_id"]))
            return
        else:
            tasks = self.new_tasks([body])
        for task in tasks:
            location = f"/tasks/{answer.json().get('id')}"
            check(answer, 201, task, etag=f'"{task["version"]}"', location=location)
        self.keep(tasks, key, sent(body))

    @rule(tasks=st.lists(NEW_TASKS, min_size=1, max_size=3), key=KEYS)
    def create_tasks(self, tasks: list[Row], key: str | None) -> None:
        self.post_tasks([self.with_ids(task) for task in tasks], key)

    def post_tasks(self, body: list[Row], key: str | None) -> None:
        headers = {"Idempotency-Key": key} if key else {}
        answer = self.call("POST", "/tasks/bulk", json=body, headers=headers)
        what = [sent(task) for task in body]
        owners = enumerate(task.get("owner_id") for task in body)
        unknown = [position for position, user_id in owners if self.is_unknown(user_id)]
        if key in self.keys:
            tasks = self.earlier(answer, key, what)
        elif unknown:
            locs = (["body", position, "owner_id"] for position in unknown)
            check(answer, 422, unknown_users(*locs))
            return
        else:
            tasks = self.new_tasks(body)
        if tasks:
            check(answer, 201, tasks)
        if key not in self.keys:
            datetimes = [parse(task["created_at"]) for task in tasks]
            assert datetimes == sorted(set(datetimes))
        self.keep(tasks, key, what)

    @rule(key=KEYS)
    def create_tasks_of_unknown_user(self, key: str | None) -> None:
        """Create tasks for a user who is not there: they are refused, and no tag is created."""
        fields = {"title": "must not be kept", "tags": ["must not be kept"]}
        self.post_task(fields | {"owner_id": NEVER_USED}, key)
        self.post_tasks([fields, fields | {"owner_id": NEVER_USED}], key)

    @rule(position=POSITIONS, etags=IF_MATCH)
    def read_task(self, position: int, etags: str | None) -> None:
        task_id = self.pick_task(position)
        headers = self.with_etags("If-None-Match", etags, task_id)
        answer = self.call("GET", f"/tasks/{task_id}", headers=headers)
        task = self.find(answer, task_id)
        if task and etags in ETAGS[:4]:
            assert (answer.status_code, answer.content) == (304, b"")
            check_headers(answer, etag=f'"{task["version"]}"')
        elif task:
            check_task(answer, task)

    @rule(position=POSITIONS, fields=TASK_CHANGES, etags=IF_MATCH, put=st.booleans())
    def update_task(self, position: int, fields: Row, etags: str | None, *, put: bool) -> None:
        self.send_changes(self.pick_task(position), fields, etags, put=put)

    def send_changes(self, task_id: int, fields: Row, etags: str | None, *, put: bool) -> None:
        headers = self.with_etags("If-Match", etags, task_id)
        method = "PUT" if put else "PATCH"
        answer = self.call(method, f"/tasks/{task_id}", json=fields, headers=headers)
        if task := self.find(answer, task_id, etags):
            self.create_tags([fields])
            change(task, self.now, **self.shown(fields))
            check_task(answer, task)

    @precondition(lambda self: self.select(untagged=False))
    @rule(position=POSITIONS, put=st.booleans())
    def send_tags_again(self, position: int, *, put: bool) -> None:
        """Send the tags that a task has in another order, in another case and twice."""
        tagged = self.select(untagged=False)
        task = tagged[position % len(tagged)]
        names = [*reversed(task["tags"]), *(name.swapcase() for name in task["tags"])]
        self.send_changes(task["id"], {"tags": names}, None, put=put)

    @rule(changes=st.lists(st.tuples(POSITIONS, TASK_CHANGES), min_size=1, max_size=4))
    def update_tasks(self, changes: list[tuple[int, Row]]) -> None:
        body = [{"id": self.pick_task(position)} | fields for position, fields in changes]
        answer = self.call("PATCH", "/tasks/bulk", json=body)
        ids = [item["id"] for item in body]
        if repeated := [n for n, task_id in enumerate(ids) if task_id in ids[:n]]:
            locs = (["body", position, "id"] for position in repeated)
            check(answer, 422, problems("task_repeated", "Input should be sent only once", *locs))
            return
        there = [task["id"] for task in self.select()]
        unknown = [position for position, item in enumerate(body) if item["id"] not in there]
        if unknown:
            locs = (["body", position, "id"] for position in unknown)
            check(answer, 404, problems("task_not_found", "Task not found", *locs))
            return
        self.create_tags(body)
        for item in body:
            change(self.tasks[item["id"]], self.now, **self.shown(item))
        check(answer, 200, [self.tasks[item["id"]] for item in body])

    @rule(position=POSITIONS, etags=IF_MATCH, trashed=st.booleans(), permanent=st.booleans())
    def delete_task(
        self, position: int, etags: str | None, *, trashed: bool, permanent: bool
    ) -> None:
        task_id = self.pick_task(position, deleted=trashed and permanent)
        headers, query = self.with_etags("If-Match", etags, task_id), {"permanent": permanent}
        answer = self.call("DELETE", f"/tasks/{task_id}", params=query, headers=headers)
        task = self.find(answer, task_id, etags, deleted=None if permanent else False)
        if not task:
            return
        message = "Task deleted" if permanent else "Task moved to the trash"
        check(answer, 200, {"message": message, "task_id": task_id})
        change(task, self.now, deleted_at=self.now)
        if permanent:
            del self.tasks[task_id], self.transfers[task_id]
            self.gone_tasks.append(task_id)

    @precondition(lambda self: self.select(deleted=True))
    @rule(position=POSITIONS)
    def restore_task(self, position: int) -> None:
        task_id = self.pick_task(position, deleted=True)
        answer = self.call("POST", f"/tasks/{task_id}/restore")
        if task := self.find(answer, task_id, deleted=True):
            change(task, self.now, deleted_at=None)
            check_task(answer, task)

    @rule(position=POSITIONS, giver=OWNERS, taker=OWNERS, right=st.booleans())
    def transfer_task(
        self, position: int, giver: int | None, taker: int | None, *, right: bool
    ) -> None:
        task_id = self.pick_task(position)
        owner_id = self.tasks.get(task_id, NEW_TASK)["owner_id"]
        body = self.with_ids({"from_user_id": giver, "to_user_id": taker})
        if right:
            body["from_user_id"] = owner_id
        answer = self.call("POST", f"/tasks/{task_id}/transfer", json=body)
        if self.is_unknown(body["to_user_id"]):
            check(answer, 422, unknown_users(["body", "to_user_id"]))
        elif task := self.find(answer, task_id):
            if body["from_user_id"] != owner_id:
                check(answer, 409, {"detail": "The task does not belong to `from_user_id`"})
                return
            change(task, self.now, owner_id=body["to_user_id"])
            check_task(answer, task)
            self.record_transfer(task_id, body)

    def record_transfer(self, task_id: int, between: Row) -> None:
        record = {"id": Unforeseen(bool), "task_id": task_id, "by_user_id": None}
        self.transfers[task_id].append(between | record | {"created_at": self.now})

    @rule(position=POSITIONS, page=PAGES)
    def list_transfers(self, position: int, page: Row) -> None:
        transferred = [task["id"] for task in self.select() if self.transfers[task["id"]]]
        task_id = self.pick(position, transferred, [*self.tasks, *self.gone_tasks])
        path = f"/tasks/{task_id}/transfers"
        answer = self.call("GET", path)
        if self.find(answer, task_id):
            records = self.transfers[task_id]
            check(answer, 200, records)
            ids = [record["id"] for record in records]
            assert ids == sorted(set(ids))
            after = {"after": self.pick(page["after"], ids, [0])} if "after" in page else {}
            self.compare_list(path, page | after, records)

    @rule(query=QUERIES)
    def list_tasks(self, query: Row) -> None:
        asked = self.with_ids(query)
        self.compare_list("/tasks", asked, self.select(**asked))

    @rule(names=st.lists(TAG_NAMES, min_size=2, max_size=3))
    def list_tasks_with_tags(self, names: list[str]) -> None:
        self.compare_list("/tasks", {"tag": names}, self.select(tag=names))

    @rule(query=QUERIES)
    def list_recent_tasks(self, query: Row) -> None:
        asked = self.with_ids(query)
        self.compare_list("/tasks/recent", asked, self.select(**asked))

    @rule(query=QUERIES, status=st.sampled_from(STATUSES))
    def list_tasks_by_status(self, query: Row, status: str) -> None:
        asked = self.with_ids(query)
        tasks = [task for task in self.select(**asked) if task["status"] == status]
        self.compare_list(f"/tasks/by-status/{status}", asked, tasks)

    @rule(query=QUERIES, position=POSITIONS)
    def list_tasks_of_user(self, query: Row, position: int) -> None:
        asked, user_id = self.with_ids(query), self.pick_user(position)
        path = f"/users/{user_id}/tasks"
        if user_id in self.users:
            tasks = [task for task in self.select(**asked) if task["owner_id"] == user_id]
            self.compare_list(path, asked, tasks)
        else:
            check(self.call("GET", path, params=asked), 404, NO_USER)

    @rule(query=SOME_FILTERS, how=st.sampled_from([{}, {"format": "jsonl"}]))
    def export_tasks(self, query: Row, how: Row) -> None:
        asked = self.with_ids(query)
        answer = self.call("GET", "/tasks/export", params=asked | how)
        assert answer.status_code == 200, answer.text
        *lines, rest = answer.text.split("\n")
        assert [json.loads(line) for line in lines] == in_order(self.select(**asked), "id")
        assert rest == ""

    @rule(query=SOME_FILTERS)
    def count_tasks(self, query: Row) -> None:
        asked = self.with_ids(query)
        answer = self.call("GET", "/tasks/stats", params=asked)
        tasks = self.select(**asked)
        statuses = [task["status"] for task in tasks]
        average = sum(task["priority"] for task in tasks) / len(tasks) if tasks else None
        expected = {
            "total": len(tasks),
            "by_status": {status: statuses.count(status) for status in STATUSES},
            "overdue": sum(is_overdue(task) for task in tasks),
            "average_priority": pytest.approx(average),
        }
        check(answer, 200, expected)

    @rule(position=POSITIONS, field=st.sampled_from(sorted(WRONG_FIELDS)), many=st.booleans())
    def send_wrong_task(self, position: int, field: str, *, many: bool) -> None:
        value, kind, msg = WRONG_FIELDS[field]
        good = {"id": self.pick_task(position), "title": "must not be kept"}
        good["tags"] = ["must not be kept"]
        wrong = good | {field: value}
        for method in ("POST", "PATCH") if many else ("POST", "PATCH", "PUT"):
            one_path = "/tasks" if method == "POST" else f"/tasks/{good['id']}"
            path, body = ("/tasks/bulk", [good, wrong]) if many else (one_path, wrong)
            answer = self.call(method, path, json=body)
            check(answer, 422, problems(kind, msg, ["body", 1, field] if many else ["body", field]))

    @rule(page=PAGES)
    def list_tags(self, page: Row) -> None:
        after = {"after": self.pick_tag(page["after"])} if "after" in page else {}
        self.compare_list("/tags", page | after, self.show_tags())

    @rule(position=POSITIONS)
    def read_tag(self, position: int) -> None:
        tag_id = self.pick_tag(position)
        answer = self.call("GET", f"/tags/{tag_id}")
        if self.is_tag(answer, tag_id):
            check(answer, 200, self.show_tag(tag_id))

    @rule(name=TAG_NAMES | FREE_NAMES, page=PAGES)
    def list_tags_by_name(self, name: str, page: Row) -> None:
        same = [tag for tag in self.show_tags() if tag_key(tag["name"]) == tag_key(name)]
        after = {"after": self.pick_tag(page["after"])} if "after" in page else {}
        self.compare_list("/tags", page | after | {"name": name}, same)

    @rule(unused=st.booleans())
    def list_tags_by_their_use(self, *, unused: bool) -> None:
        found = [tag for tag in self.show_tags() if (tag["id"] in self.unused_tags()) is unused]
        self.compare_list("/tags", {"unused": unused}, found)

    def unused_tags(self) -> list[int]:
        used = {*chain.from_iterable(task["tags"] for task in self.tasks.values())}
        return [tag_id for tag_id, name in self.tags.items() if name not in used]

    @rule()
    def delete_unused_tags(self) -> None:
        unused = self.unused_tags()
        answer = self.call("DELETE", "/tags", params={"unused": True})
        check(answer, 200, {"message": "Unused tags deleted", "count": len(unused)})
        for tag_id in unused:
            del self.tags[tag_id]
        self.gone_tags += unused

    def is_tag(self, answer: Answer, tag_id: int) -> bool:
        """Return whether the tag is there; compare the answer if it is not."""
        if tag_id not in self.tags:
            check(answer, 404, NO_TAG)
        return tag_id in self.tags

    def replace_tag(self, name: str, *new: str) -> None:
        """Replace the tag by new ones in all tasks that have it, those in the trash too."""
        for task in self.tasks.values():
            if name in task["tags"]:
                others = [other for other in task["tags"] if other != name]
                change(task, self.now, tags=in_order_of_keys([*others, *new]))

    @rule(position=POSITIONS, name=TAG_NAMES | FREE_NAMES)
    def rename_tag(self, position: int, name: str) -> None:
        self.send_name(self.pick_tag(position), name)

    @rule(position=POSITIONS)
    def rename_tag_to_another_case(self, position: int) -> None:
        tag_id = self.pick_tag(position)
        self.send_name(tag_id, self.tags.get(tag_id, "a").swapcase())

    def send_name(self, tag_id: int, name: str) -> None:
        answer = self.call("PATCH", f"/tags/{tag_id}", json={"name": name})
        if not self.is_tag(answer, tag_id):
            return
        others = [self.tags[other] for other in self.tags if other != tag_id]
        if tag_key(name) in tag_keys(others):
            check(answer, 409, {"detail": "Another tag has this name"})
            return
        self.replace_tag(self.tags[tag_id], name.strip())
        self.tags[tag_id] = name.strip()
        check(answer, 200, self.show_tag(tag_id))

    @rule(position=POSITIONS)
    def delete_tag(self, position: int) -> None:
        tag_id = self.pick_tag(position)
        answer = self.call("DELETE", f"/tags/{tag_id}")
        if self.is_tag(answer, tag_id):
            check(answer, 200, {"message": "Tag deleted", "tag_id": tag_id})
            self.replace_tag(self.tags.pop(tag_id))
            self.gone_tags.append(tag_id)

    def find_user(self, answer: Answer, user_id: int) -> Row | None:
        """Return the user; compare the answer if that is not there."""
        user = self.users.get(user_id)
        if not user:
            check(answer, 404, NO_USER)
        return user

    def is_taken(self, answer: Answer, new: Row) -> bool:
        """Compare the answer if another user has the name or the address."""
        others = [user for user in self.users.values() if user["id"] != new["id"]]
        taken = [
            {"detail": f"The {name} is already taken"}
            for name in ("username", "email")
            if new[name] in [user[name] for user in others]
        ]
        if taken:  # of two, either may be named
            check(answer, 409, Unforeseen(lambda it: it in taken))
        return bool(taken)

    @precondition(lambda self: self.passwords < 2)
    @rule(fields=st.fixed_dictionaries(USER_FIELDS))
    def create_user(self, fields: Row) -> None:
        self.passwords += 1
        answer = self.call("POST", "/users", json=fields | {"password": PASSWORD})
        last = self.last_user
        user = NEW_USER | shown_user(fields) | {"id": Unforeseen(lambda it: it > last)}
        user |= {"created_at": self.now, "updated_at": self.now}
        if not self.is_taken(answer, user):
            check(answer, 201, user, location=f"/users/{answer.json().get('id')}")
            self.last_user = user["id"]
            self.users[user["id"]] = user

    @rule(position=POSITIONS)
    def read_user(self, position: int) -> None:
        user_id = self.pick_user(position)
        answer = self.call("GET", f"/users/{user_id}")
        if user := self.find_user(answer, user_id):
            check(answer, 200, user)

    @rule(page=PAGES)
    def list_users(self, page: Row) -> None:
        after = {"after": self.pick_user(page["after"])} if "after" in page else {}
        self.compare_list("/users", page | after, [*self.users.values()])

    @rule(position=POSITIONS, fields=st.fixed_dictionaries({}, optional=USER_CHANGES))
    def update_user(self, position: int, fields: Row) -> None:
        user_id = self.pick_user(position)
        answer = self.call("PATCH", f"/users/{user_id}", json=fields)
        if user := self.find_user(answer, user_id):
            changed = user | shown_user(fields)
            if not self.is_taken(answer, changed):
                # The tokens of who is inactive end each time, which is a change that nobody sees.
                is_new = changed != user or not changed["is_active"]
                user.update(changed | ({"updated_at": self.now} if is_new else {}))
                check(answer, 200, user)

    # One stays, so that tasks may always belong to somebody.
    @precondition(lambda self: len(self.users) > 1)
    @rule(position=POSITIONS)
    def delete_user(self, position: int) -> None:
        user_id = self.pick_user(position)
        answer = self.call("DELETE", f"/users/{user_id}")
        if not self.find_user(answer, user_id):
            return
        check(answer, 200, {"message": "User removed", "user_id": user_id})
        del self.users[user_id]
        self.gone_users.append(user_id)
        for task in self.tasks.values():
            if task["owner_id"] == user_id:
                change(task, self.now, owner_id=None)
                self.record_transfer(task["id"], {"from_user_id": user_id, "to_user_id": None})


# The first sequence is always the simplest one, so no random one.
@pytest.mark.parametrize("number", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_random_sequences_are_answered_as_the_model_says(
    client: httpx2.Client, engine: Engine, tmp_path: Path, number: int
) -> None:
    set_hypothesis_home_dir(tmp_path)  # instead of a folder in the project
    Sequences.client, Sequences.engine = client, engine
    how = settings(
        max_examples=number,
        stateful_step_count=40,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    stateful.run_state_machine_as_test(Sequences, settings=how)
