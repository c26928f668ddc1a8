"""The documentation page, and pages of other origins, in a real browser."""

import shutil
from collections.abc import Iterator
from json import loads
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from calls import PASSWORD, SECRET_KEY, insert_user
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Error,
    Locator,
    Page,
    Response,
    sync_playwright,
)
from servers import ROOT, ApiServer, connect
from sqlalchemy import text

from api.passwords import hasher

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
PICTURE = ROOT / "docs/docs-page.png"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser without internet: it reaches only this machine."""
    offline = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=[offline])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(viewport={"width": 1200, "height": 1000}) as context:
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page that must report no error and ask only its own origin."""
    page = context.new_page()
    origins: set[tuple[str, str]] = set()
    errors: list[str] = []
    console: list[str] = []
    page.on("request", lambda request: origins.add(urlsplit(request.url)[:2]))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: console.append(message.text))
    yield page
    assert errors == []
    assert [text for text in console if "Content Security Policy" in text] == []
    assert len({origin for origin in origins if origin[0] != "data"}) == 1


def open_docs(page: Page, url: str) -> None:
    page.goto(f"{url}/docs")
    page.locator(".opblock").first.wait_for()


def open_call(page: Page, operation_id: str) -> Locator:
    call = page.locator(f".opblock[id$='-{operation_id}']")
    if not call.locator(".opblock-body").is_visible():
        call.locator(".opblock-summary-control").click()
        call.locator(".opblock-body").wait_for()
    return call


def execute(page: Page, operation_id: str, **values: str) -> Response:
    """Press **Execute**, with all that the page has filled in and with these values."""
    call = open_call(page, operation_id)
    for name, value in values.items():
        row = f"[data-param-name='{name}'], [data-property-name='{name}']"
        field = call.locator(row).locator("input, select")
        is_select = field.evaluate("field => field.localName") == "select"
        field.select_option(value) if is_select else field.fill(value)
    with page.expect_response(lambda answer: answer.request.resource_type == "fetch") as answer:
        call.locator(".btn.execute").click()
    call.locator(".live-responses-table").wait_for()
    call.locator(".opblock-summary-control").click()  # the page is slow with many open calls
    return answer.value


def authorize(page: Page, username: str, password: str) -> None:
    page.locator(".auth-wrapper .btn.authorize").click()
    dialog = page.locator(".modal-ux")
    dialog.locator("#oauth_username").fill(username)
    dialog.locator("#oauth_password").fill(password)
    with page.expect_response("**/token") as answer:
        dialog.locator(".btn.authorize").click()
    assert answer.value.status == 200
    dialog.locator(".btn-done").click()


def sign_out(page: Page) -> None:
    page.locator(".auth-wrapper .btn.authorize").click()
    page.locator(".modal-ux").get_by_text("Logout").click()
    page.locator(".modal-ux .btn-done").click()


def test_a_task_is_created_and_read_without_internet(server: ApiServer, page: Page) -> None:
    open_docs(page, server.url)

    created = execute(page, "create_task")
    read = execute(page, "read_task", task_id=str(created.json()["id"]))

    assert (created.status, read.status) == (201, 200)
    assert read.json() == created.json()


def test_the_page_begins_with_tasks_and_what_to_call_first(
    server: ApiServer, page: Page, tmp_path: Path
) -> None:
    open_docs(page, server.url)

    tags = page.locator(".opblock-tag-section")
    assert [tag.get_attribute("data-tag") for tag in tags.locator("h3").all()] == [
        "tasks",
        "tags",
        "users",
        "service",
    ]
    first = page.locator(".opblock").first
    assert first.locator(".opblock-summary-path").inner_text() == "/tasks"
    assert first.locator(".opblock-summary-method").inner_text() == "POST"
    # To renew the picture in the README, delete it and run this test.
    page.screenshot(path=tmp_path / "page.png" if PICTURE.exists() else PICTURE)


def test_the_page_works_behind_a_path_prefix(
    empty_database: str, page: Page, tmp_path: Path
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with ApiServer(tmp_path, empty_database, "--root-path", "/api") as server:
        # As a proxy does, take the prefix off.
        page.route(
            f"{server.url}/api/**",
            lambda route: route.continue_(url=route.request.url.replace("/api/", "/", 1)),
        )
        open_docs(page, f"{server.url}/api")
        created = execute(page, "create_task")

    assert created.status == 201
    assert [url for url in asked if not url.startswith((f"{server.url}/api/", "data:"))] == []
    assert f"{server.url}/api/tasks" in asked


# The calls, with the values that the page cannot know. Each finds what those before have created.
CALLS: dict[str, dict[str, str]] = {
    "create_user": {},
    "create_task": {},
    "create_tasks": {},
    "read_task": {"task_id": "1"},
    "read_tasks": {},
    "read_tasks_by_status": {},
    "read_recent_tasks": {},
    "read_stats": {},
    "export_tasks": {},
    "put_task": {"task_id": "1"},
    "update_task": {"task_id": "1"},
    "update_tasks": {},
    "transfer_task": {"task_id": "1"},
    "read_transfers": {"task_id": "1"},
    "delete_task": {"task_id": "1"},
    "restore_task": {"task_id": "1"},
    "read_tags": {},
    "read_tag": {"tag_id": "1"},
    "delete_unused_tags": {"unused": "true"},
    "rename_tag": {"tag_id": "1"},
    "delete_tag": {"tag_id": "1"},
    "read_users": {},
    "read_user": {"user_id": "1"},
    "read_tasks_of_user": {"user_id": "1"},
    "update_user": {"user_id": "1"},
    "health": {},
    "ready": {},
}


def assert_every_call_succeeds(page: Page, calls: dict[str, dict[str, str]]) -> None:
    answers = {name: execute(page, name, **values) for name, values in calls.items()}
    assert [name for name, answer in answers.items() if not answer.ok] == []
    assert len(answers) == page.locator(".opblock").count()


# The next two take half a minute each, so they use one database; the page is the same on both, and
# `test_openapi.py` sends the examples to both.


def test_every_call_succeeds_with_what_is_filled_in(page: Page, tmp_path: Path) -> None:
    with ApiServer(tmp_path, f"sqlite:///{tmp_path}/tasks.db") as server:
        open_docs(page, server.url)
        # Without sign-in there is nobody to sign in.
        page.locator(".opblock[id$='-create_token'], .opblock[id$='-read_member']").evaluate_all(
            "calls => calls.forEach(call => call.remove())"
        )
        assert_every_call_succeeds(page, CALLS | {"delete_user": {"user_id": "1"}})


def test_every_call_of_an_administrator_succeeds_with_what_is_filled_in(
    page: Page, tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path}/tasks.db"
    with ApiServer(tmp_path, database, SECRET_KEY=SECRET_KEY) as server:
        password_hash = hasher.hash(PASSWORD)
        insert_user(connect(database), "ada", is_admin=True, password_hash=password_hash)
        open_docs(page, server.url)
        authorize(page, "ada", PASSWORD)
        of_a_team = {
            "create_token": {"username": "ada", "password": PASSWORD},
            "read_member": {},
            "delete_user": {"user_id": "2"},
        }
        assert_every_call_succeeds(page, CALLS | of_a_team)


def test_a_member_stays_signed_in_until_signing_out(team: ApiServer, page: Page) -> None:
    open_docs(page, team.url)
    assert execute(page, "read_member").status == 401

    authorize(page, "ada", PASSWORD)
    assert execute(page, "read_member").json()["username"] == "ada"
    assert PASSWORD not in page.evaluate("JSON.stringify(localStorage)")
    page.reload()
    assert execute(page, "read_member").json()["username"] == "ada"

    sign_out(page)
    assert execute(page, "read_member").status == 401


# Ask the API as a page does, and return what the browser lets it see.
ASK = """
async ([url, method, headers, body]) => {
    const answer = await fetch(url, {method, headers, body});
    return {
        status: answer.status,
        headers: Object.fromEntries(answer.headers),
        body: await answer.text(),
    };
}
"""
# An app with a bug.
APP = """
from main import app

@app.get("/bug")
def bug() -> None:
    raise RuntimeError("a bug")
"""


@pytest.fixture
def other_page(context: BrowserContext, server: ApiServer) -> Page:
    """A page of another origin, here of another port."""
    page = context.new_page()
    page.goto(f"{server.url}/health")
    return page


def serve(other_page: Page, folder: Path, database_url: str, **settings: str) -> ApiServer:
    """Start an API for the pages of two origins, of which this is one."""
    (folder / "app.py").write_text(APP)
    origins = f"https://app.example, {other_page.url.removesuffix('/health')}"
    settings |= {"CORS_ORIGINS": origins, "PYTHONPATH": str(ROOT)}
    return ApiServer(folder, database_url, app="app:app", app_dir=folder, **settings)


def ask(
    other_page: Page, url: str, method: str = "GET", body: str | None = None, **headers: str
) -> dict[str, Any]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    answer: dict[str, Any] = other_page.evaluate(ASK, [url, method, sent, body])
    return answer


def test_a_page_of_a_named_origin_may_make_every_call(
    empty_database: str, other_page: Page, tmp_path: Path
) -> None:
    json = {"Content_Type": "application/json"}
    with serve(other_page, tmp_path, empty_database) as server:
        tasks = f"{server.url}/tasks"
        first, again = (
            ask(other_page, tasks, "POST", '{"title": "A"}', Idempotency_Key="1", **json)
            for _ in range(2)
        )
        task = server.url + first["headers"]["location"]
        read = ask(other_page, task, If_None_Match=first["headers"]["etag"])
        changed = ask(other_page, task, "PATCH", "{}", If_Match=first["headers"]["etag"], **json)
        head = ask(other_page, task, "HEAD", If_None_Match='"0"')
        put = ask(other_page, task, "PUT", '{"title": "B"}', **json)
        ask(other_page, tasks, "POST", '{"title": "C"}', **json)
        page = ask(other_page, f"{tasks}?limit=1&count=true")
        deleted = ask(other_page, task, "DELETE")

    assert first["body"] == again["body"]
    answers = (first, read, changed, head, put, deleted)
    assert [answer["status"] for answer in answers] == [201, 304, 200, 200, 200, 200]
    assert page["headers"]["x-total-count"] == "2"
    assert 'rel="next"' in page["headers"]["link"]


def test_a_page_of_a_named_origin_sees_what_went_wrong(
    empty_database: str, other_page: Page, tmp_path: Path
) -> None:
    with serve(other_page, tmp_path, empty_database) as server:
        with connect(empty_database).begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        invalid = ask(other_page, f"{server.url}/tasks?limit=0")
        unavailable = ask(other_page, f"{server.url}/ready")
        bug = ask(other_page, f"{server.url}/bug")

    assert invalid["status"] == 422
    assert '"limit"' in invalid["body"]
    assert (unavailable["status"], unavailable["headers"]["retry-after"]) == (503, "5")
    assert bug["status"] == 500
    assert "RuntimeError: a bug" in server.log.read_text()


def test_a_page_of_a_named_origin_signs_in(
    empty_database: str, other_page: Page, tmp_path: Path
) -> None:
    with serve(other_page, tmp_path, empty_database, SECRET_KEY=SECRET_KEY) as server:
        password_hash = hasher.hash(PASSWORD)
        insert_user(connect(empty_database), "ada", password_hash=password_hash)
        refused = ask(other_page, f"{server.url}/tasks")
        form = {"Content_Type": "application/x-www-form-urlencoded"}
        token = ask(
            other_page, f"{server.url}/token", "POST", f"username=ada&password={PASSWORD}", **form
        )
        authorization = f"Bearer {loads(token['body'])['access_token']}"
        read = ask(other_page, f"{server.url}/tasks", Authorization=authorization)

    assert (refused["status"], refused["headers"]["www-authenticate"]) == (401, "Bearer")
    assert (read["status"], read["body"]) == (200, "[]")


@pytest.mark.parametrize("origins", ["", "https://app.example", "http://127.0.0.1"])
def test_pages_of_other_origins_read_nothing_and_send_no_json(
    empty_database: str, other_page: Page, tmp_path: Path, origins: str
) -> None:
    with ApiServer(tmp_path, empty_database, CORS_ORIGINS=origins) as server:
        for method, body in (("GET", None), ("POST", '{"title": "A"}')):
            with pytest.raises(Error, match="Failed to fetch"):
                ask(
                    other_page, f"{server.url}/tasks", method, body, Content_Type="application/json"
                )
        with server.client() as client:
            assert client.get("/tasks").json() == []
