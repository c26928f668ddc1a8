"""What a team may rely on about accounts: who may change which, and that an administrator stays."""

import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from calls import PASSWORD, SECRET_KEY, User, add_user, at_once, create_user, sign_in
from servers import ApiServer, connect
from sqlalchemy import Engine, text

NEW = {"username": "eve", "email": "eve@example.com", "password": PASSWORD}
FORBIDDEN = {"detail": "Only an administrator may do this"}
LAST = {"detail": "Nobody else is an active administrator"}


def me(client: httpx2.Client) -> User:
    user: User = client.get("/users/me").json()
    return user


def change(client: httpx2.Client, user: User, **fields: object) -> httpx2.Response:
    return client.patch(f"/users/{user['id']}", json=fields)


def administrators(engine: Engine) -> list[str]:
    statement = 'SELECT username FROM "user" WHERE is_admin AND is_active ORDER BY id'
    with engine.connect() as connection:
        return [*connection.execute(text(statement)).scalars()]


@pytest.mark.slow
def test_where_one_signs_in_no_stranger_creates_even_the_first_user(
    empty_database: str, tmp_path: Path
) -> None:
    with (
        ApiServer(tmp_path, empty_database, SECRET_KEY=SECRET_KEY) as server,
        server.client() as stranger,
    ):
        assert stranger.post("/users", json=NEW).status_code == 401
        assert stranger.post("/users", json=NEW | {"is_admin": True}).status_code == 401
    with connect(empty_database).connect() as connection:
        assert connection.execute(text('SELECT count(*) FROM "user"')).scalar() == 0


def test_only_an_administrator_creates_users(
    ada: httpx2.Client, bob: httpx2.Client, stranger: httpx2.Client
) -> None:
    assert stranger.post("/users", json=NEW).status_code == 401
    refused = bob.post("/users", json=NEW)
    assert (refused.status_code, refused.json()) == (403, FORBIDDEN)
    assert [user["username"] for user in ada.get("/users").json()] == ["ada", "bob"]

    assert create_user(ada, "eve")["is_admin"] is False
    assert create_user(ada, "joe", is_admin=True)["is_admin"] is True


def test_a_new_administrator_may_do_what_the_first_may(team: ApiServer, ada: httpx2.Client) -> None:
    create_user(ada, "eve", is_admin=True)

    with sign_in(team, "eve") as eve:
        assert eve.delete(f"/users/{create_user(eve, 'joe')['id']}").status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"full_name": "Ada"},
        {"username": "eve", "current_password": PASSWORD},
        {"password": "battery staple", "current_password": PASSWORD},
        {"is_active": False},
        {"is_admin": False},
        {},
    ],
)
def test_a_member_does_not_change_another_user(
    ada: httpx2.Client, bob: httpx2.Client, fields: dict[str, Any]
) -> None:
    before = me(ada)

    answer = change(bob, before, **fields)

    assert (answer.status_code, answer.json()) == (403, FORBIDDEN)
    assert me(ada) == before


@pytest.mark.parametrize(("field", "value"), [("is_active", False), ("is_admin", True)])
def test_a_member_neither_leaves_nor_becomes_an_administrator(
    bob: httpx2.Client, field: str, *, value: bool
) -> None:
    before = me(bob)

    answer = change(bob, before, full_name="Bob", current_password=PASSWORD, **{field: value})

    assert (answer.status_code, answer.json()) == (403, FORBIDDEN)
    assert me(bob) == before


def test_a_member_removes_nobody(ada: httpx2.Client, bob: httpx2.Client) -> None:
    for user in (me(ada), me(bob)):
        answer = bob.delete(f"/users/{user['id']}")
        assert (answer.status_code, answer.json()) == (403, FORBIDDEN)
    assert len(ada.get("/users").json()) == 2


def test_a_member_changes_the_own_full_name(bob: httpx2.Client) -> None:
    assert change(bob, me(bob), full_name="Bob").json()["full_name"] == "Bob"


def test_the_own_user_may_be_sent_back_as_it_was_received(
    ada: httpx2.Client, bob: httpx2.Client
) -> None:
    for client in (ada, bob):  # an administrator and a member
        before = me(client)

        assert change(client, before, **before).json() == before
        changed = change(client, before, **before | {"full_name": "New"}).json()
        assert changed == before | {"full_name": "New", "updated_at": changed["updated_at"]}
        assert me(client) == changed


TAKE_OVER = [{"username": "eva"}, {"email": "eva@example.com"}, {"password": "battery staple"}]


@pytest.mark.parametrize("is_admin", [False, True])
def test_who_does_not_know_the_current_password_does_not_take_over_an_account(
    team: ApiServer, ada: httpx2.Client, team_engine: Engine, *, is_admin: bool
) -> None:
    before = add_user(ada, team_engine, "eve", is_admin=is_admin)
    with sign_in(team, "eve") as eve:
        for fields in TAKE_OVER:
            for current in ({}, {"current_password": "wrong horse"}):
                answer = change(eve, before, full_name="Eve", **current, **fields)
                assert answer.status_code == 403
                detail = "`current_password` is not the current password"
                assert answer.json() == {"detail": detail}
        assert me(eve) == before


@pytest.mark.parametrize("is_admin", [False, True])
def test_who_knows_the_current_password_changes_the_own_account(
    team: ApiServer, ada: httpx2.Client, team_engine: Engine, *, is_admin: bool
) -> None:
    user = add_user(ada, team_engine, "eve", is_admin=is_admin)
    fields = {"username": "eva", "email": "eva@example.com", "password": "battery staple"}
    with sign_in(team, "eve") as eve:
        answer = change(eve, user, **fields, current_password=PASSWORD)

    assert answer.status_code == 200
    with sign_in(team, "eva", "battery staple") as eva:
        assert me(eva).items() >= {"username": "eva", "email": "eva@example.com"}.items()


def test_an_administrator_changes_every_field_of_another_user(
    team: ApiServer, ada: httpx2.Client, team_engine: Engine
) -> None:
    user = add_user(ada, team_engine, "eve")
    fields: dict[str, Any] = {"username": "eva", "email": "eva@example.com", "full_name": "Eva"}
    fields |= {"is_admin": True}
    with sign_in(team, "eve") as eve:
        answer = change(ada, user, **fields, password="battery staple")

        assert answer.status_code == 200
        assert answer.json().items() >= fields.items()
        assert eve.get("/tasks").status_code == 401
    with sign_in(team, "eva", "battery staple") as eva:
        assert me(eva)["is_admin"] is True


def test_an_administrator_deactivates_and_activates_another_user(
    team: ApiServer, ada: httpx2.Client, team_engine: Engine, stranger: httpx2.Client
) -> None:
    user = add_user(ada, team_engine, "eve")
    form = {"username": "eve", "password": PASSWORD}

    assert change(ada, user, is_active=False).json()["is_active"] is False
    assert stranger.post("/token", data=form).status_code == 401
    assert change(ada, user, is_active=True).json()["is_active"] is True
    with sign_in(team, "eve") as eve:
        assert me(eve)["username"] == "eve"


def test_a_demoted_administrator_is_a_member_at_once(
    team: ApiServer, ada: httpx2.Client, team_engine: Engine
) -> None:
    user = add_user(ada, team_engine, "eve", is_admin=True)
    with sign_in(team, "eve") as eve:
        assert change(ada, user, is_admin=False).status_code == 200

        assert eve.post("/users", json=NEW | {"username": "joe"}).status_code == 403
        assert eve.get("/tasks").status_code == 200


def leave(client: httpx2.Client, user: User, how: str) -> httpx2.Response:
    """Remove, deactivate or demote the user."""
    if how == "remove":
        return client.delete(f"/users/{user['id']}")
    return change(client, user, **{how: False})


@pytest.mark.parametrize("how", ["remove", "is_active", "is_admin"])
def test_the_last_active_administrator_stays(
    ada: httpx2.Client, team_engine: Engine, how: str
) -> None:
    add_user(ada, team_engine, "eve", is_admin=True, is_active=False)
    before = me(ada)

    answer = leave(ada, before, how)

    assert (answer.status_code, answer.json()) == (409, LAST)
    assert me(ada) == before


@pytest.mark.parametrize("how", ["remove", "is_active", "is_admin"])
def test_an_administrator_may_go_while_another_one_is_active(
    team: ApiServer, ada: httpx2.Client, team_engine: Engine, how: str
) -> None:
    user = add_user(ada, team_engine, "eve", is_admin=True)
    with sign_in(team, "eve") as eve:
        assert leave(eve, user, how).status_code == 200

    assert administrators(team_engine) == ["ada"]


@pytest.mark.slow
def test_who_is_ended_while_requests_wait_for_a_hash_creates_nobody(
    team: ApiServer, ada: httpx2.Client, team_engine: Engine
) -> None:
    user = add_user(ada, team_engine, "eve", is_admin=True)
    with sign_in(team, "eve") as eve:

        def ask(number: int) -> httpx2.Response:
            if number == 0:
                time.sleep(0.3)
                return ada.delete(f"/users/{user['id']}")
            name = f"friend-{number}"
            body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
            return eve.post("/users", json=body | {"is_admin": True})

        deleted, *answers = at_once(20, ask)

    assert deleted.status_code == 200
    assert [answer.status_code for answer in answers].count(401) > 0
    before = [answer.json()["id"] for answer in answers if answer.status_code == 201]
    assert len(before) < 15  # more would be those who were still waiting
    assert len(ada.get("/users").json()) == 2 + len(before)


@pytest.mark.parametrize("rounds", [2, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", ["remove", "is_active", "is_admin"])
def test_of_administrators_who_end_each_other_at_the_same_time_one_stays(
    team: ApiServer, ada: httpx2.Client, team_engine: Engine, how: str, rounds: int
) -> None:
    with team_engine.begin() as connection:
        connection.execute(text("""UPDATE "user" SET is_admin = false WHERE username = 'ada'"""))
    for number in range(rounds):
        names = [f"{name}-{number}" for name in ("eve", "joe", "zoe")]
        users = [add_user(ada, team_engine, name, is_admin=True) for name in names]
        clients = [sign_in(team, name) for name in names]

        answers = at_once(3, lambda n: leave(clients[n], users[n - 1], how))  # noqa: B023

        # Who is gone may no longer end another; of those who may, one is the last.
        assert {answer.status_code for answer in answers} <= {200, 401, 403, 409}
        assert len(administrators(team_engine)) >= 1
        with team_engine.begin() as connection:
            connection.execute(text("""DELETE FROM "user" WHERE username LIKE '%-%'"""))
        for client in clients:
            client.close()


@pytest.mark.parametrize("how", ["remove", "is_active", "is_admin"])
def test_an_open_api_needs_no_administrator(client: httpx2.Client, how: str) -> None:
    user = create_user(client, "ada", is_admin=True)

    assert leave(client, user, how).status_code == 200


def test_an_open_api_lets_everyone_change_every_user(client: httpx2.Client, engine: Engine) -> None:
    user = add_user(client, engine, "ada")
    fields: dict[str, Any] = {"username": "eva", "email": "eva@example.com", "is_admin": True}

    answer = change(client, user, **fields, is_active=False)

    assert answer.status_code == 200
    assert answer.json().items() >= (fields | {"is_active": False}).items()
