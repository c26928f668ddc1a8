"""The documentation: its text, and the page that shows it, whose files come from the API itself."""

from base64 import b64encode
from hashlib import sha256
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.routing import BaseRoute, Mount, Route

DESCRIPTION = """\
Press **Authorize** first, if it is there, to sign in; only name and password are needed.
Then start with `POST /tasks`: open it and press **Execute**. `GET /tasks` lists the task.

- **Filters:** `GET /tasks?status=pending&q=report&sort=-priority`. A task has to match all of them.
- **Tags:** create a task with `"tags": ["report"]`, and find it by `GET /tasks?tag=report`.
  `GET /tags` lists all tags, and `GET /tags?name=report` finds one, which
  `PATCH /tags/{tag_id}` renames.
- **Pages:** a list has at most 100 tasks. If more follow, the header `Link` has the next URL.
- **Exports:** `GET /tasks/export` has all tasks at once, also for a spreadsheet.
- **Changes:** `PATCH` changes only what is sent. `DELETE` moves a task to the trash.
- **Versions:** each change of a task adds one to its `version`. With the header `If-Match: "3"`, it
  is changed only if its version is 3, so if nobody else has changed it; the same with
  `"version": 3` in the body.
- **Retries:** with an `Idempotency-Key`, a request may be sent again and creates nothing twice.
- **Errors:** `detail` says what is wrong. After 429 and 503, wait as `Retry-After` says.
"""

# What the app is created with, so that its documentation is complete.
DOCUMENTATION: dict[str, Any] = {
    "description": DESCRIPTION,
    "openapi_tags": [
        {
            "name": "tasks",
            "description": "Create, find, change and delete tasks, also many at once",
        },
        {"name": "tags", "description": "Find, rename and delete the tags that tasks have"},
        {"name": "users", "description": "Sign in, and manage the users"},
        {"name": "service", "description": "For monitors: whether the API works"},
    ],
    "license_info": {"name": "MIT", "identifier": "MIT"},
    "servers": [{"url": "."}],  # the API is where the document is, also behind a path prefix
    "root_path_in_servers": False,
    "docs_url": None,  # see `read_docs`
    "redoc_url": None,
}

FILES = StaticFiles(packages=[("fastapi_swagger", "resources")])

# See https://swagger.io/docs/open-source-tools/swagger-ui/usage/configuration/.
SCRIPT = """
    SwaggerUIBundle({
        dom_id: "#swagger-ui",
        url: "openapi.json",
        deepLinking: true,
        tryItOutEnabled: true,
        // Keep the token in the browser, but not the password.
        persistAuthorization: true,
        plugins: [{statePlugins: {auth: {wrapActions: {
            authorizeOauth2: (save) => ({auth, token}) =>
                save({auth: {...auth, password: ""}, token}),
        }}}}],
    });
"""
# All URLs are relative, so that the page works behind a path prefix too.
PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Task API</title>
    <link rel="stylesheet" href="swagger/swagger-ui.css">
    <link rel="icon" href="swagger/favicon-32x32.png">
</head>
<body>
    <div id="swagger-ui"></div>
    <script src="swagger/swagger-ui-bundle.js"></script>
    <script>{SCRIPT}</script>
</body>
</html>
"""
# The browser runs this script, which it knows by its hash, and the files above. It asks no other
# origin for anything.
SCRIPT_HASH = b64encode(sha256(SCRIPT.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; script-src 'self' 'sha256-{SCRIPT_HASH}'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


async def read_docs(_request: Request) -> HTMLResponse:
    """Return the page, with the rules for the browser (https://www.w3.org/TR/CSP3/)."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})


async def redirect_to_docs(_request: Request) -> RedirectResponse:
    """Redirect a browser to the documentation."""
    return RedirectResponse("docs")


routes: list[BaseRoute] = [
    Route("/", redirect_to_docs, include_in_schema=False),
    Route("/docs", read_docs, include_in_schema=False),
    Mount("/swagger", FILES),
]
