"""What a team may rely on once SECRET_KEY is set."""

import base64
import gzip
import json
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import jwt
import pytest
from calls import PASSWORD, SECRET_KEY, add_user, at_once, create, insert_user, sign_in
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


def test_a_stranger_learns_nothing_by_head_either(
    stranger: httpx2.Client, ada: httpx2.Client
) -> None:
    path = f"/tasks/{create(ada)['id']}"

    assert [stranger.head(each).status_code for each in (path, "/tasks", "/users/me")] == [401] * 3
    assert ada.head(path).status_code == 200


def test_every_call_but_the_open_ones_needs_a_token(stranger: httpx2.Client) -> None:
    paths = stranger.get("/openapi.json").json()["paths"]
    calls = {(method, path) for path, methods in paths.items() for method in methods}
    assert calls > OPEN

    for method, template in calls - OPEN:
        path = template.format(task_id=1, user_id=1, tag_id=1, status="pending")
        assert_unauthorized(stranger.request(method, path))
        assert_unauthorized(stranger.request(method, path, json=[]))
        assert_unauthorized(stranger.request(method, path, json={"title": "Write the report"}))


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/swagger/swagger-ui.css", "/openapi.json", "/health", "/ready"]
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
            needs_token = (method, path) not in OPEN
            assert bool(operation["security"]) is needs_token
            assert ("401" in operation["responses"]) is (needs_token or path == "/token")
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


@pytest.mark.slow
def test_the_lifetime_of_a_token_is_a_setting(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db"
    with ApiServer(tmp_path, url, SECRET_KEY=SECRET_KEY, TOKEN_LIFETIME="2") as server:
        insert_user(connect(url), "ada")
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


@pytest.mark.slow
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
    """Return a signed token. Unlike `jwt.encode`, it signs a `sub` of any type."""
    return jwt.PyJWS().encode(
        json.dumps(claims, default=datetime.timestamp).encode(), key, algorithm
    )


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
        lambda claims: forge(claims | {"sub": "1" * 19}),
        lambda claims: forge(claims | {"sub": ["1"]}),
        lambda claims: forge(claims | {"sub": "1\x00"}),
        lambda claims: forge(claims | {"version": 10**18}),
        lambda claims: forge(claims | {"version": [1]}),
        lambda claims: forge(claims | {"version": "1"}),
        lambda claims: forge(claims | {"version": "1\x00"}),
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
        "a user of 19 digits",
        "a list of users",
        "a user with NUL",
        "a version of 19 digits",
        "a list of versions",
        "a version as text",
        "a version with NUL",
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
        body = {"full_name": "Eve", "username": "eva", "current_password": PASSWORD}
        assert client.patch(f"/users/{eve['id']}", json=body).status_code == 200

        assert client.get("/users/me").json()["username"] == "eva"


def test_a_deactivated_member_is_out_at_once(
    team: ApiServer, team_engine: Engine, stranger: httpx2.Client, ada: httpx2.Client
) -> None:
    eve = add_user(ada, team_engine, "eve")
    form = {"username": "eve", "password": PASSWORD}
    with sign_in(team, "eve") as client:
        answer = ada.patch(f"/users/{eve['id']}", json={"is_active": False})

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
        for is_active in (False, True):
            ada.patch(f"/users/{eve['id']}", json={"is_active": is_active}).raise_for_status()

        assert_unauthorized(client.get("/tasks"))
    with sign_in(team, "eve") as client:
        assert client.get("/tasks").status_code == 200


def test_a_removed_member_is_out_at_once(
    team: ApiServer, team_engine: Engine, ada: httpx2.Client
) -> None:
    eve = add_user(ada, team_engine, "eve")
    with sign_in(team, "eve") as client:
        assert ada.delete(f"/users/{eve['id']}").status_code == 200

        assert_unauthorized(client.get("/tasks"))


def test_members_see_all_tasks(ada: httpx2.Client, bob: httpx2.Client) -> None:
    tasks = [create(ada), create(bob)]

    assert ada.get("/tasks").json() == bob.get("/tasks").json() == tasks
    assert bob.patch(f"/tasks/{tasks[0]['id']}", json={"priority": 3}).status_code == 200


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data; boundary=x", b"--x--"),
        ("application/json", b'{"username": "ada", "password": "correct horse"}'),
        ("text/plain", b"username=ada&password=correct+horse"),
        (None, b"username=ada&password=correct+horse"),
    ],
)
def test_a_form_of_another_type_is_refused(
    stranger: httpx2.Client, content_type: str | None, body: bytes
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}

    answer = stranger.post("/token", content=body, headers=headers)

    assert answer.status_code == 415
    assert answer.json() == {
        "detail": "Send the header `Content-Type: application/x-www-form-urlencoded`"
    }


def test_a_compressed_form_is_refused(stranger: httpx2.Client) -> None:
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Content-Encoding": "gzip",
    }

    answer = stranger.post("/token", content=gzip.compress(b"username=ada"), headers=headers)

    assert answer.status_code == 415
    assert "Content-Encoding" in answer.json()["detail"]


def test_a_stranger_is_not_told_how_to_send_a_body(stranger: httpx2.Client) -> None:
    for headers in ({}, {"Content-Type": "application/json", "Content-Encoding": "gzip"}):
        assert_unauthorized(stranger.post("/tasks", content=b"{}", headers=headers))


def test_a_form_may_name_its_charset(stranger: httpx2.Client) -> None:
    headers = {"Content-Type": "Application/X-WWW-Form-URLencoded; charset=UTF-8"}
    body = b"username=ada&password=correct+horse"

    assert stranger.post("/token", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize(("size", "status"), [(8192, 401), (8193, 413)])
def test_a_form_has_at_most_8_kib(stranger: httpx2.Client, size: int, status: int) -> None:
    body = b"username=nobody&password=".ljust(size, b"x")
    headers = {"Content-Type": "application/x-www-form-urlencoded"}

    answer = stranger.post("/token", content=body, headers=headers)

    assert answer.status_code == status


ADDRESSES = (f"192.0.2.{number}" for number in range(1, 255))


def guess(client: httpx2.Client, username: str, tried: str, address: str) -> httpx2.Response:
    """Sign in from an address, which uvicorn takes from a proxy on the same machine."""
    form = {"username": username, "password": tried}
    return client.post("/token", data=form, headers={"X-Forwarded-For": address})


def test_after_ten_wrong_passwords_a_client_has_to_wait(stranger: httpx2.Client) -> None:
    here, elsewhere = next(ADDRESSES), next(ADDRESSES)
    wrong = [guess(stranger, "bob", "wrong horse", here) for _ in range(10)]
    assert [answer.status_code for answer in wrong] == [401] * 10

    for tried in ("wrong horse", PASSWORD):
        refused = guess(stranger, "BOB", tried, here)
        assert refused.status_code == 429
        assert 0 < int(refused.headers["Retry-After"]) <= 60
        assert refused.json() == {"detail": "Too many wrong passwords for this name"}
    # Others at this address may sign in, and so may this user at another address.
    assert guess(stranger, "ada", PASSWORD, here).status_code == 200
    assert guess(stranger, "bob", PASSWORD, elsewhere).status_code == 200


def test_wrong_passwords_at_the_same_time_are_counted_too(stranger: httpx2.Client) -> None:
    address = next(ADDRESSES)

    answers = at_once(22, lambda _: guess(stranger, "bob", "wrong horse", address))

    assert sorted(answer.status_code for answer in answers) == [401] * 10 + [429] * 12


def test_a_right_password_forgets_the_wrong_ones(stranger: httpx2.Client) -> None:
    address = next(ADDRESSES)
    for _ in range(2):
        for _ in range(9):
            assert guess(stranger, "bob", "wrong horse", address).status_code == 401
        assert guess(stranger, "bob", PASSWORD, address).status_code == 200


def test_current_passwords_are_not_guessed_either(bob: httpx2.Client) -> None:
    path = f"/users/{bob.get('/users/me').json()['id']}"
    body = {"username": "zoe", "current_password": "wrong horse"}
    headers = {"X-Forwarded-For": next(ADDRESSES)}

    statuses = [bob.patch(path, json=body, headers=headers).status_code for _ in range(11)]

    assert statuses == [403] * 10 + [429]


def leave_at_once(server: ApiServer, number: int) -> None:
    """Send a request to sign in, and close the connection without waiting for the answer."""
    body = f"username=stranger-{number}&password=x".encode()
    head = f"POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    kind = "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    url = httpx2.URL(server.url)
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall((head + kind).encode() + body)


def test_who_has_left_is_not_waited_for(team: ApiServer, stranger: httpx2.Client) -> None:
    """A hash takes a sixth of a second, so 100 would take nine seconds."""
    for number in range(100):
        leave_at_once(team, number)

    begin = time.monotonic()
    address = next(ADDRESSES)
    while (answer := guess(stranger, "bob", PASSWORD, address)).status_code == 503:
        assert int(answer.headers["Retry-After"]) > 0
    assert answer.status_code == 200
    assert time.monotonic() - begin < 5


def test_no_password_is_hashed_for_who_may_not_send_one(bob: httpx2.Client) -> None:
    """If it were, some of these would be told to come back."""
    body = {"username": "zoe", "email": "zoe@example.com", "password": PASSWORD}

    created = at_once(40, lambda _: bob.post("/users", json=body))
    changed = at_once(40, lambda _: bob.patch("/users/1", json={"password": PASSWORD}))

    assert {answer.status_code for answer in created + changed} == {403}


@pytest.mark.slow
def test_when_many_wait_to_sign_in_others_are_told_to_come_back_and_reads_go_on(
    stranger: httpx2.Client, ada: httpx2.Client
) -> None:
    address = next(ADDRESSES)

    def ask(number: int) -> httpx2.Response:
        if number < 40:
            return guess(stranger, f"nobody-{number}", "wrong horse", address)
        time.sleep(0.5)
        return ada.get("/tasks")

    *answers, read = at_once(41, ask)

    # The 22 hashes take two seconds or more.
    assert (read.status_code, read.elapsed < timedelta(seconds=1)) == (200, True)
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {401, 503}
    # Two are hashed and twenty wait; a few more come when the first are done.
    assert 22 <= statuses.count(401) < 30
    busy = [answer for answer in answers if answer.status_code == 503]
    assert {answer.headers["Retry-After"] for answer in busy} == {"5"}
    assert guess(stranger, "bob", PASSWORD, address).status_code == 200


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
