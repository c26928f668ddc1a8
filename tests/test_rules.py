"""The rules that the code enforces: a developer who breaks one is told so at once."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any
from urllib.parse import quote

import httpx2
import pytest
from calls import PASSWORD, SECRET_KEY, add_user, create, insert_user, sign_in
from fastapi import APIRouter, FastAPI, Path
from fastapi.testclient import TestClient
from servers import ROOT, ApiServer, connect
from sqlalchemy import Engine
from sqlmodel import Session

from api.errors import ApiError, NotFound
from api.locks import find_and_lock, lock, lock_ids
from api.passwords import hasher
from api.sign_in import ApiRoute
from models import Tag, Task, User


@pytest.fixture(scope="module")
def own_server(
    new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiServer]:
    """A server of `own_app.py` with sign-in."""
    folder, tests = tmp_path_factory.mktemp("own"), ROOT / "tests"
    settings = {"SECRET_KEY": SECRET_KEY, "PYTHONPATH": str(ROOT)}
    with ApiServer(folder, new_database(), app="own_app:app", app_dir=tests, **settings) as server:
        insert_user(connect(server.database_url), "ada", password_hash=hasher.hash(PASSWORD))
        yield server


@pytest.fixture(scope="module")
def member(own_server: ApiServer) -> Iterator[httpx2.Client]:
    with sign_in(own_server, "ada") as client:
        yield client


@pytest.fixture
def stranger(own_server: ApiServer) -> Iterator[httpx2.Client]:
    with own_server.client() as client:
        yield client


def test_a_route_that_is_added_late_is_only_for_members(
    stranger: httpx2.Client, member: httpx2.Client
) -> None:
    for path in ("/late", "/tags/late", "/own/late", "/own/later"):
        assert stranger.get(path).status_code == 401, path
        assert stranger.get(path).json() == {"detail": "Not signed in"}
        assert member.get(path).json() == "for members"


def test_only_these_routes_are_for_everyone(stranger: httpx2.Client) -> None:
    paths = stranger.get("/openapi.json").json()["paths"]
    values = {"task_id": 1, "user_id": 1, "tag_id": 1, "status": "pending", "name": "a"}
    statuses = {
        (method, path): stranger.request(method, path.format_map(values)).status_code
        for path, operations in paths.items()
        for method in operations
    }

    is_open = {operation for operation, status in statuses.items() if status != 401}
    assert is_open == {("get", "/health"), ("get", "/ready"), ("post", "/token")}
    for path in ("/health", "/ready", "/docs", "/swagger/swagger-ui.css"):
        assert stranger.get(path).status_code == 200, path


def fail(server: ApiServer, member: httpx2.Client, path: str) -> str:
    """Return what the server logs of a request that fails."""
    before = len(server.log.read_text())
    # On a connection of its own, since uvicorn then closes it.
    with server.client(Authorization=member.headers["Authorization"]) as client:
        assert client.get(path).status_code == 500
    assert member.get("/health").status_code == 200  # so all is logged
    return server.log.read_text()[before:]


@pytest.mark.parametrize("how", ["object", "insert", "update", "delete"])
def test_a_get_request_that_writes_fails_and_writes_nothing(
    own_server: ApiServer, member: httpx2.Client, how: str
) -> None:
    create(member)
    before = member.get("/tasks").json()

    logged = fail(own_server, member, f"/writes/{how}")

    assert "RuntimeError: A GET request only reads" in logged
    assert member.get("/tasks").json() == before


def test_a_filter_by_the_datetime_of_its_first_request_fails_at_that_request(
    own_server: ApiServer, member: httpx2.Client
) -> None:
    logged = fail(own_server, member, "/filters/frozen")

    assert "RuntimeError: This statement is kept" in logged
    assert "use days_ago(), as in days_ago(0)" in logged


def test_a_filter_by_days_ago_has_the_datetime_of_each_request(member: httpx2.Client) -> None:
    for _ in range(2):
        task = create(member)
        assert member.get("/filters/age?sort=-id").json()[0] == task


def test_a_path_may_have_any_text_in_it(member: httpx2.Client) -> None:
    path = f"/projects/{quote('a “猫”?', safe='')}/tasks"

    answers = [member.post(path, json={"title": "x"}) for _ in range(2)]
    page = member.get(path, params={"limit": 1})

    ids = [answer.json()["id"] for answer in answers]
    assert [answer.headers["Location"] for answer in answers] == [f"{path}/{each}" for each in ids]
    assert member.get(page.links["next"]["url"]).json() == [answers[1].json()]


@pytest.mark.parametrize(("first", "second"), [(Task, User), (Task, Tag), (Tag, User)])
def test_a_lock_in_another_order_is_refused(
    engine: Engine,
    first: Any,  # noqa: ANN401
    second: Any,  # noqa: ANN401
) -> None:
    with Session(engine) as session:
        lock(session, first)
        for lock_too in (
            lambda: lock(session, second),
            lambda: lock_ids(session, second),
            lambda: find_and_lock(session, second, 1),
        ):
            with pytest.raises(RuntimeError, match=f"Lock each {second.__name__} before any"):
                lock_too()


def test_users_tags_and_tasks_are_locked_in_this_order(
    client: httpx2.Client, engine: Engine
) -> None:
    user = add_user(client, engine, "ada")
    task = create(client, tags=["a"], owner_id=user["id"])

    with Session(engine) as session:
        assert lock_ids(session, User) == [user["id"]]
        assert [found.username for found in lock(session, User)] == ["ada"]
        assert [found.name for found in lock(session, Tag)] == ["a"]
        assert find_and_lock(session, Task, task["id"]).title == task["title"]
        assert lock_ids(session, Task) == [task["id"]]


class RoomTaken(ApiError, status=409):
    """The room is taken."""


class RoomClosed(ApiError, status=409):
    """The room is closed."""


def test_an_error_that_the_type_of_an_argument_names_is_documented() -> None:
    app = FastAPI()
    router = APIRouter(route_class=ApiRoute)

    @router.put("/rooms/{number}")
    def book(number: Annotated[int, Path(), NotFound, RoomTaken, RoomClosed]) -> None:
        raise RoomTaken if number == 1 else RoomClosed

    app.include_router(router)
    responses = app.openapi()["paths"]["/rooms/{number}"]["put"]["responses"]
    assert responses["404"]["description"] == "There is no such task, user or tag"
    assert responses["409"]["description"] == "The room is taken, or the room is closed"
    assert responses["409"]["content"] == responses["404"]["content"]
    client = TestClient(app)
    details = [client.put(f"/rooms/{number}").json()["detail"] for number in (1, 2)]
    assert details == ["The room is taken", "The room is closed"]
