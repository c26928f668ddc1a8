"""What a team may rely on once SECRET_KEY is set."""

import base64
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import jwt
import pytest
from calls import PASSWORD, SECRET_KEY, add_user, at_once, create, create_user, sign_in
from servers import ApiServer, connect
from sqlalchemy import Engine, text

OPEN = {("get", "/health"), ("get", "/ready"), ("post", "/token")}


def claims_of(client: httpx2.Client) -> dict[str, Any]:
    token = client.headers["Authorization"].removeprefix("Bearer ")
    return jwt.decode(token, SECRET_KEY, ["HS256"])


def assert_unauthorized(answer: httpx2.Response) -> None:
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json()["detail"]


def test_every_call_but_the_open_ones_needs_a_token(stranger: httpx2.Client) -> None:
    paths = stranger.get("/openapi.json").json()["paths"]
    calls = {(method, path) for path, methods in paths.items() for method in methods}
    assert calls > OPEN

    for method, template in calls - OPEN:
        path = template.format(task_id=1, user_id=1, status="pending")
        assert_unauthorized(stranger.request(method, path))
        assert_unauthorized(stranger.request(method, path, json=[]))
        assert_unauthorized(stranger.request(method, path, json={"title": "Write the report"}))


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/redoc", "/openapi.json", "/health", "/ready", "/docs/oauth2-redirect"]
)
def test_the_documentation_and_the_state_are_open(stranger: httpx2.Client, path: str) -> None:
    assert stranger.get(path, follow_redirects=True).status_code == 200


def test_the_document_says_which_calls_need_a_token(
    stranger: httpx2.Client, client: httpx2.Client
) -> None:
    document = stranger.get("/openapi.json").json()

    [scheme] = document["components"]["securitySchemes"].values()
    assert scheme["flows"]["password"]["tokenUrl"] == "token"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert ("security" in operation) is ((method, path) not in OPEN)
            assert ("401" in operation["responses"]) is (
                "security" in operation or path == "/token"
            )
    # Where sign-in is off, none does.
    assert "securitySchemes" not in client.get("/openapi.json").json()["components"]


def test_a_member_signs_in_and_is_known(stranger: httpx2.Client, ada: httpx2.Client) -> None:
    answer = stranger.post("/token", data={"username": "ADA", "password": PASSWORD})

    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    token = answer.json()
    assert token.keys() == {"access_token", "token_type", "expires_in"}
    assert (token["token_type"], token["expires_in"]) == ("bearer", 3600)
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    me = stranger.get("/users/me", headers=headers).json()
    assert me["username"] == "ada"
    assert me == ada.get(f"/users/{me['id']}").json()


def test_the_lifetime_of_a_token_is_a_setting(tmp_path: Path) -> None:
    with ApiServer(tmp_path, SECRET_KEY=SECRET_KEY, TOKEN_LIFETIME="2") as server:
        with server.client() as client:
            create_user(client, "ada")
        with sign_in(server, "ada") as ada:
            left = claims_of(ada)["exp"] - time.time()

    assert 110 < left <= 121


@pytest.mark.parametrize(
    ("username", "password"),
    [("ada", "wrong horse"), ("nobody", PASSWORD), ("x", "y"), ("ada@example.com", PASSWORD)],
)
def test_a_wrong_name_and_a_wrong_password_get_the_same_answer(
    stranger: httpx2.Client, username: str, password: str
) -> None:
    answer = stranger.post("/token", data={"username": username, "password": password})

    assert_unauthorized(answer)
    assert answer.json() == {"detail": "The username or the password is wrong"}


def test_an_unknown_name_takes_as_long_as_a_wrong_password(stranger: httpx2.Client) -> None:
    def seconds(username: str) -> float:
        begin = time.perf_counter()
        stranger.post("/token", data={"username": username, "password": "wrong horse"})
        return time.perf_counter() - begin

    pairs = [(seconds("ada"), seconds("nobody")) for _ in range(3)]

    # Without a hash it would be a tenth.
    assert 0.5 < median(known / unknown for known, unknown in pairs) < 2


@pytest.mark.parametrize(
    "form",
    [
        {"username": "ada"},
        {"password": PASSWORD},
        {"username": "ada\x00", "password": PASSWORD},
        {"username": "ada", "password": PASSWORD, "grant_type": "refresh_token"},
    ],
)
def test_a_wrong_form_is_refused_without_its_content(
    stranger: httpx2.Client, form: dict[str, str]
) -> None:
    answer = stranger.post("/token", data=form)

    assert answer.status_code == 422
    assert PASSWORD not in answer.text


def forge(claims: dict[str, Any], key: str = SECRET_KEY, algorithm: str = "HS256") -> str:
    return jwt.encode(claims, key, algorithm)


def tamper(token: str) -> str:
    """Return the token with another user in its claims and the old signature."""
    header, claims, signature = token.split(".")
    changed = json.loads(base64.urlsafe_b64decode(claims + "==")) | {"sub": "2"}
    encoded = base64.urlsafe_b64encode(json.dumps(changed).encode()).rstrip(b"=").decode()
    return f"{header}.{encoded}.{signature}"


@pytest.mark.parametrize(
    "token_of",
    [
        lambda _: "secret",
        lambda claims: forge(claims, key="another secret of the same length!"),
        lambda claims: forge(claims, algorithm="none", key=""),
        lambda claims: forge(claims, algorithm="HS512"),
        lambda claims: tamper(forge(claims)),
        lambda claims: forge(claims | {"exp": datetime.now(UTC) - timedelta(seconds=1)}),
        lambda claims: forge(claims | {"version": claims["version"] - 1}),
        lambda claims: forge(claims | {"sub": "0"}),
        lambda claims: forge(claims | {"sub": "ada"}),
        lambda claims: forge({name: claims[name] for name in ("sub", "version")}),
        lambda claims: forge({name: claims[name] for name in ("sub", "exp")}),
        lambda claims: forge({name: claims[name] for name in ("version", "exp")}),
    ],
    ids=[
        "no token",
        "another key",
        "no signature",
        "another algorithm",
        "tampered",
        "expired",
        "old version",
        "unknown user",
        "no user",
        "never expires",
        "without version",
        "without user",
    ],
)
def test_a_token_that_the_api_did_not_give_is_refused(
    stranger: httpx2.Client, ada: httpx2.Client, token_of: Callable[[dict[str, Any]], str]
) -> None:
    claims = claims_of(ada)
    good = {"Authorization": f"Bearer {forge(claims)}"}
    assert stranger.get("/tasks", headers=good).status_code == 200

    headers = {"Authorization": f"Bearer {token_of(claims)}"}

    assert_unauthorized(stranger.get("/tasks", headers=headers))
    assert_unauthorized(stranger.post("/tasks", headers=headers, json={"title": "Read it"}))
    assert ada.get("/tasks").json() == []


@pytest.mark.parametrize("header", ["Basic YWRhOmFkYQ==", "Bearer", "ada"])
def test_another_kind_of_sign_in_is_refused(stranger: httpx2.Client, header: str) -> None:
    assert_unauthorized(stranger.get("/tasks", headers={"Authorization": header}))


def test_a_new_password_ends_every_earlier_token(
    team: ApiServer, team_engine: Engine, stranger: httpx2.Client, ada: httpx2.Client
) -> None:
    eve = add_user(ada, team_engine, "eve")
    body = {"password": "battery staple", "current_password": PASSWORD}
    form = {"username": "eve", "password": PASSWORD}
    with sign_in(team, "eve") as first, sign_in(team, "eve") as second:
        assert first.patch(f"/users/{eve['id']}", json=body).status_code == 200

        assert_unauthorized(first.get("/tasks"))
        assert_unauthorized(second.get("/tasks"))
    assert_unauthorized(stranger.post("/token", data=form))
    with sign_in(team, "eve", "battery staple") as third:
        assert third.get("/users/me").json()["username"] == "eve"


def test_another_change_of_a_user_ends_no_token(
    team: ApiServer, team_engine: Engine, ada: httpx2.Client
) -> None:
    eve = add_user(ada, team_engine, "eve")
    with sign_in(team, "eve") as client:
        body = {"full_name": "Eve", "username": "eva", "is_active": True}
        assert client.patch(f"/users/{eve['id']}", json=body).status_code == 200

        assert client.get("/users/me").json()["username"] == "eva"


def test_a_deactivated_member_is_out_at_once(
    team: ApiServer, team_engine: Engine, stranger: httpx2.Client, ada: httpx2.Client
) -> None:
    eve = add_user(ada, team_engine, "eve")
    form = {"username": "eve", "password": PASSWORD}
    with sign_in(team, "eve") as client:
        answer = client.patch(f"/users/{eve['id']}", json={"is_active": False})

        assert answer.json()["is_active"] is False
        assert_unauthorized(client.get("/tasks"))
    assert_unauthorized(stranger.post("/token", data=form))


def test_a_member_who_is_deactivated_in_the_database_is_out_at_once(
    team: ApiServer, team_engine: Engine, ada: httpx2.Client
) -> None:
    add_user(ada, team_engine, "eve")
    with sign_in(team, "eve") as client:
        with team_engine.begin() as connection:
            connection.execute(
                text("""UPDATE "user" SET is_active = false WHERE username = 'eve'""")
            )

        assert_unauthorized(client.get("/tasks"))


def test_activation_does_not_bring_back_tokens(
    team: ApiServer, team_engine: Engine, ada: httpx2.Client
) -> None:
    eve = add_user(ada, team_engine, "eve")
    with sign_in(team, "eve") as client:
        client.patch(f"/users/{eve['id']}", json={"is_active": False})
        with team_engine.begin() as connection:
            connection.execute(text('UPDATE "user" SET is_active = true'))

        assert_unauthorized(client.get("/tasks"))
    with sign_in(team, "eve") as client:
        assert client.get("/tasks").status_code == 200


def test_a_removed_member_is_out_at_once(
    team: ApiServer, team_engine: Engine, ada: httpx2.Client
) -> None:
    eve = add_user(ada, team_engine, "eve")
    with sign_in(team, "eve") as client:
        assert client.delete(f"/users/{eve['id']}").status_code == 200

        assert_unauthorized(client.get("/tasks"))


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_the_account_of_another_is_not_for_a_member_to_change(
    ada: httpx2.Client, bob: httpx2.Client, method: str
) -> None:
    before = bob.get("/users/me").json()

    answer = ada.request(method, f"/users/{before['id']}", json={"full_name": "Bob"})

    assert answer.status_code == 403
    assert bob.get("/users/me").json() == before


def test_members_see_all_tasks(ada: httpx2.Client, bob: httpx2.Client) -> None:
    tasks = [create(ada), create(bob)]

    assert ada.get("/tasks").json() == bob.get("/tasks").json() == tasks
    assert bob.patch(f"/tasks/{tasks[0]['id']}", json={"priority": 3}).status_code == 200


def test_only_members_create_users_once_there_is_one(
    stranger: httpx2.Client, ada: httpx2.Client
) -> None:
    body = {"username": "eve", "email": "eve@example.com", "password": PASSWORD}

    assert_unauthorized(stranger.post("/users", json=body))
    assert len(ada.get("/users").json()) == 2
    assert ada.post("/users", json=body).status_code == 201


@pytest.mark.slow
def test_of_twenty_first_users_at_the_same_time_one_is_created(
    empty_database: str, tmp_path: Path
) -> None:
    options = ("--workers", "2")
    with (
        ApiServer(tmp_path, empty_database, *options, SECRET_KEY=SECRET_KEY) as server,
        server.client() as stranger,
    ):

        def ask(number: int) -> httpx2.Response:
            name = f"first-{number}"
            body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
            return stranger.post("/users", json=body)

        with ThreadPoolExecutor() as threads, connect(empty_database).connect() as connection:
            # While nobody may write, all of them see that there is no user.
            postgresql = connection.dialect.name == "postgresql"
            lock = 'LOCK TABLE "user" IN EXCLUSIVE MODE'
            connection.exec_driver_sql(lock if postgresql else "BEGIN IMMEDIATE")
            waiting = threads.submit(at_once, 20, ask)
            time.sleep(4)
            connection.rollback()
            answers = waiting.result()

        assert sorted(answer.status_code for answer in answers) == [201] + [401] * 19
        [first] = [answer.json() for answer in answers if answer.status_code == 201]
        with sign_in(server, first["username"]) as client:
            assert client.get("/users").json() == [first]


def test_no_secret_reaches_the_log_or_an_answer(
    team: ApiServer, team_engine: Engine, ada: httpx2.Client
) -> None:
    user = add_user(ada, team_engine, "eve")
    with sign_in(team, "eve") as eve:
        token = eve.headers["Authorization"].removeprefix("Bearer ")
        path = f"/users/{user['id']}"
        body = {"password": "battery staple", "current_password": PASSWORD}
        answers = [
            eve.post("/users", json={"password": PASSWORD, "username": PASSWORD}),
            eve.post("/users", json=[PASSWORD]),
            eve.post("/users", content=PASSWORD),
            eve.post("/token", data={"username": "eve", "password": "wrong horse"}),
            eve.get("/users/me"),
            eve.get("/users"),
            eve.patch(path, json={"full_name": "Eve"}),
            eve.patch(path, json={"password": PASSWORD, "current_password": "wrong horse"}),
            eve.patch(path, json=body),
        ]
    texts = [team.log.read_text(), *(answer.text for answer in answers)]

    secrets = (PASSWORD, "battery staple", "wrong horse", SECRET_KEY, token, "argon2")
    assert [secret for secret in secrets for text in texts if secret in text] == []
