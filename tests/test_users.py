"""What a client may rely on about users, whether or not one must sign in."""

import httpx2
import pytest
from calls import PASSWORD, User, add_user, at_once, create, create_user
from servers import ApiServer
from sqlalchemy import Engine, text


def read(client: httpx2.Client, user: User) -> User:
    answer = client.get(f"/users/{user['id']}")
    assert answer.status_code == 200
    found: User = answer.json()
    return found


def test_a_new_user_is_shown_without_the_password(client: httpx2.Client) -> None:
    user = create_user(client, "ada", full_name=" Ada Lovelace ")

    assert read(client, user) == user
    assert user.keys() > {"id", "created_at", "updated_at"}
    expected = {
        "username": "ada",
        "email": "ada@example.com",
        "full_name": "Ada Lovelace",
        "is_admin": False,
        "is_active": True,
    }
    assert user.items() >= expected.items()
    assert user.keys().isdisjoint({"password", "password_hash", "token_version"})
    assert PASSWORD not in str(user)
    assert "argon2" not in str(user)


def test_a_user_may_be_created_inactive(client: httpx2.Client) -> None:
    assert create_user(client, "ada", is_active=False)["is_active"] is False


def test_the_answer_to_a_new_user_tells_where_it_is(client: httpx2.Client) -> None:
    body = {"username": "ada", "email": "ada@example.com", "password": PASSWORD}

    answer = client.post("/users", json=body)

    assert client.get(answer.headers["Location"]).json() == answer.json()


def test_the_username_and_the_email_are_kept_in_lower_case(client: httpx2.Client) -> None:
    user = create_user(client, "Ada_L.-9", email="Ada@EXAMPLE.com")

    assert (user["username"], user["email"]) == ("ada_l.-9", "ada@example.com")


def test_only_the_hash_of_a_password_is_kept(client: httpx2.Client, engine: Engine) -> None:
    create_user(client, "ada")
    with engine.connect() as connection:
        [row] = connection.execute(text('SELECT * FROM "user"')).all()

    assert row.password_hash.startswith("$argon2id$")
    assert PASSWORD not in str(row)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", "ad"),
        ("username", "a" * 51),
        ("username", "ada lovelace"),
        ("username", "ada\n"),
        ("username", "ädä"),
        ("username", None),
        ("email", "ada"),
        ("email", "ada@"),
        ("email", "ada@example"),
        ("email", "Ada <ada@example.com>"),
        ("email", "<ada@example.com>"),
        ("email", None),
        ("full_name", ""),
        ("full_name", "a" * 201),
        ("full_name", "a\x00"),
        ("full_name", "a\tb"),
        ("password", "1234567"),
        ("password", "a" * 129),
        ("password", None),
    ],
)
def test_a_wrong_field_is_named_and_creates_no_user(
    client: httpx2.Client, field: str, value: str | None
) -> None:
    body = {"username": "ada", "email": "ada@example.com", "password": PASSWORD, field: value}

    answer = client.post("/users", json=body)

    assert answer.status_code == 422
    assert [problem["loc"] for problem in answer.json()["detail"]] == [["body", field]]
    assert client.get("/users").json() == []


def test_each_wrong_field_is_named_once_and_changes_nothing(
    client: httpx2.Client, engine: Engine
) -> None:
    user = add_user(client, engine, "ada")

    answer = client.patch(
        f"/users/{user['id']}", json={"full_name": "", "email": "ada", "is_admin": True}
    )

    assert answer.status_code == 422
    locs = [problem["loc"] for problem in answer.json()["detail"]]
    assert locs == [["body", "email"], ["body", "full_name"]]
    assert read(client, user) == user


@pytest.mark.parametrize("field", ["username", "email"])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_another_user_has_is_taken(
    client: httpx2.Client, engine: Engine, method: str, field: str
) -> None:
    taken = {"username": "email", "email": "username@example.com"}  # their words do not confuse
    first, second = (
        add_user(client, engine, "email", email=taken["email"]),
        add_user(client, engine, "bob"),
    )
    body = {"username": "eve", "email": "eve@example.com", "password": PASSWORD}
    body = body if method == "POST" else {}
    path = "/users" if method == "POST" else f"/users/{second['id']}"

    answer = client.request(method, path, json=body | {field: taken[field].upper()})

    assert answer.status_code == 409
    assert answer.json() == {"detail": f"The {field} is already taken"}
    assert client.get("/users").json() == [first, second]


@pytest.mark.parametrize("number", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_of_users_with_one_name_at_the_same_time_one_is_created(
    client: httpx2.Client, number: int
) -> None:
    def ask(number: int) -> httpx2.Response:
        body = {"username": "ada", "email": f"{number}@example.com", "password": PASSWORD}
        return client.post("/users", json=body)

    statuses = [answer.status_code for answer in at_once(number, ask)]

    assert sorted(statuses) == [201] + [409] * (number - 1)
    assert len(client.get("/users").json()) == 1


def test_users_are_listed_in_pages_as_tasks_are(client: httpx2.Client, engine: Engine) -> None:
    users = [add_user(client, engine, name) for name in ("ada", "bob", "eve")]

    first = client.get("/users", params={"limit": 2, "count": True})

    assert first.json() == users[:2]
    assert first.headers["X-Total-Count"] == "3"
    rest = client.get(first.links["next"]["url"])
    assert rest.json() == users[2:]
    assert "next" not in rest.links
    assert client.get("/users", params={"offset": 1}).json() == users[1:]
    assert client.get("/users", params={"page": 1}).status_code == 422


@pytest.mark.parametrize("path", ["/users/0", "/users/0/tasks", "/users/99999999999999999999"])
def test_a_user_who_is_not_there_is_not_found(client: httpx2.Client, path: str) -> None:
    answer = client.get(path)

    assert answer.status_code == 404
    assert answer.json() == {"detail": "User not found"}


def test_a_change_of_a_user_changes_only_what_was_sent(
    client: httpx2.Client, engine: Engine
) -> None:
    user = add_user(client, engine, "ada", full_name="Ada")

    answer = client.patch(f"/users/{user['id']}", json={"email": "ADA@example.org"})

    assert answer.status_code == 200
    changed = answer.json()
    assert changed == user | {"email": "ada@example.org", "updated_at": changed["updated_at"]}
    assert changed["updated_at"] > user["updated_at"]
    assert read(client, user) == changed


def test_null_clears_the_full_name_and_nothing_else(client: httpx2.Client, engine: Engine) -> None:
    user = add_user(client, engine, "ada", full_name="Ada")
    path = f"/users/{user['id']}"

    assert client.patch(path, json={"full_name": None}).json()["full_name"] is None
    for field in ("username", "email", "is_admin", "is_active", "password"):
        assert client.patch(path, json={field: None}).status_code == 422


def test_the_tasks_of_a_user_have_the_filters_orders_and_pages_of_all(
    client: httpx2.Client,
    engine: Engine,
) -> None:
    ada, bob = add_user(client, engine, "ada"), add_user(client, engine, "bob")
    tasks = [create(client, owner_id=ada["id"], priority=number) for number in range(4)]
    create(client, owner_id=bob["id"])
    create(client)
    path = f"/users/{ada['id']}/tasks"

    assert client.get(path).json() == tasks
    query: dict[str, str | int] = {
        "sort": "-priority",
        "priority_min": 1,
        "limit": 2,
        "count": True,
    }
    page = client.get(path, params=query)
    assert page.json() == [tasks[3], tasks[2]]
    assert page.headers["X-Total-Count"] == "3"
    assert client.get(page.links["next"]["url"]).json() == [tasks[1]]
    assert client.get(path, params={"owner_id": bob["id"]}).json() == []


def test_the_tasks_of_a_removed_user_stay_and_belong_to_nobody(
    client: httpx2.Client, engine: Engine
) -> None:
    ada, bob = add_user(client, engine, "ada"), add_user(client, engine, "bob")
    kept = create(client, owner_id=bob["id"])
    task, trashed = create(client, owner_id=ada["id"]), create(client, owner_id=ada["id"])
    client.delete(f"/tasks/{trashed['id']}")

    answer = client.delete(f"/users/{ada['id']}")

    assert answer.status_code == 200
    assert answer.json() == {"message": "User removed", "user_id": ada["id"]}
    assert client.get("/users").json() == [bob]
    left = client.get(f"/tasks/{task['id']}")
    assert left.json() == task | {
        "owner_id": None,
        "version": 2,
        "updated_at": left.json()["updated_at"],
    }
    assert client.get("/tasks", params={"owner_id": bob["id"]}).json() == [kept]
    [in_trash] = client.get("/tasks", params={"deleted": True}).json()
    assert in_trash["owner_id"] is None


def test_the_removal_of_an_owner_is_recorded_as_a_transfer_to_nobody(
    client: httpx2.Client,
    engine: Engine,
) -> None:
    ada = add_user(client, engine, "ada")
    task = create(client, owner_id=ada["id"])

    client.delete(f"/users/{ada['id']}")

    [record] = client.get(f"/tasks/{task['id']}/transfers").json()
    assert (record["from_user_id"], record["to_user_id"]) == (ada["id"], None)


def test_the_id_of_a_removed_user_is_not_used_again(client: httpx2.Client, engine: Engine) -> None:
    ada = add_user(client, engine, "ada")
    client.delete(f"/users/{ada['id']}")

    assert create_user(client, "ada")["id"] > ada["id"]


def test_tasks_given_to_a_user_while_that_is_removed_end_with_an_owner_who_is_there(
    client: httpx2.Client,
    engine: Engine,
) -> None:
    ada = add_user(client, engine, "ada")

    def ask(number: int) -> httpx2.Response:
        if number == 10:
            return client.delete(f"/users/{ada['id']}")
        body = {"title": "Write the report", "owner_id": ada["id"]}
        return client.post("/tasks", json=body)

    answers = at_once(20, ask)

    assert answers.pop(10).status_code == 200
    assert {answer.status_code for answer in answers} <= {201, 422}
    tasks = client.get("/tasks").json()
    assert len(tasks) == [answer.status_code for answer in answers].count(201)
    assert all(task["owner_id"] is None for task in tasks)


@pytest.mark.parametrize(
    "current_password", [{}, {"current_password": "wrong horse"}, {"current_password": ""}]
)
def test_a_new_password_needs_the_current_one(
    client: httpx2.Client, engine: Engine, current_password: dict[str, str]
) -> None:
    user = add_user(client, engine, "ada")
    with engine.connect() as connection:
        before = connection.execute(text('SELECT * FROM "user"')).all()

    body = {"password": "battery staple", "full_name": "Ada"} | current_password
    answer = client.patch(f"/users/{user['id']}", json=body)

    assert answer.status_code == 403
    with engine.connect() as connection:
        assert connection.execute(text('SELECT * FROM "user"')).all() == before


def test_a_current_password_that_is_no_text_is_refused(
    client: httpx2.Client, engine: Engine
) -> None:
    user = add_user(client, engine, "ada")
    body = r'{"password": "battery staple", "current_password": "\ud800"}'

    answer = client.patch(
        f"/users/{user['id']}", content=body, headers={"Content-Type": "application/json"}
    )

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "current_password"]


def test_of_two_changes_of_a_password_at_the_same_time_one_succeeds(
    client: httpx2.Client,
    engine: Engine,
) -> None:
    user = add_user(client, engine, "ada")

    def ask(number: int) -> httpx2.Response:
        body = {"password": f"battery staple {number}", "current_password": PASSWORD}
        return client.patch(f"/users/{user['id']}", json=body)

    assert sorted(answer.status_code for answer in at_once(4, ask)) == [200, 403, 403, 403]


def test_nobody_signs_in_where_sign_in_is_off(client: httpx2.Client, engine: Engine) -> None:
    add_user(client, engine, "ada")

    token = client.post("/token", data={"username": "ada", "password": PASSWORD})
    me = client.get("/users/me")

    for answer in (token, me):
        assert (answer.status_code, answer.json()) == (404, {"detail": "Sign-in is off"})


def test_an_open_api_says_so_at_its_start(server: ApiServer) -> None:
    assert "SECRET_KEY is not set: the API is open" in server.log.read_text()
