"""The documentation page: Swagger UI, whose files come from the API itself."""

from base64 import b64encode
from hashlib import sha256

from fastapi import Request
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

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
# The browser runs this script and the files above, and asks no other origin for anything.
SCRIPT_HASH = b64encode(sha256(SCRIPT.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; script-src 'self' 'sha256-{SCRIPT_HASH}'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


async def read_docs(_request: Request) -> HTMLResponse:
    """Return the page, with the rules for the browser (https://www.w3.org/TR/CSP3/)."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})
