"""Ask an app without a server, in this process, whose instructions valgrind counts.

`benchmark.py --instructions` starts it with the file of the app, and the calls as JSON.
"""

import gc
import json
import os
import sys
from importlib import import_module
from pathlib import Path

import uvloop
from starlette.types import ASGIApp, Message

WARM_UP = 50  # requests of each call
COUNTED = 100

# A method, a path, and the bodies to send in turn.
Call = tuple[str, str, list[str]]


async def ask(app: ASGIApp, method: str, path: str, body: str) -> None:
    """Send the app one request, as uvicorn does, and fail if its answer is an error."""
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": body.encode()}

    async def send(message: Message) -> None:
        assert message.get("status", 200) < 400, message

    await app(scope, receive, send)


async def ask_all(file: Path, calls: list[Call]) -> None:
    """Ask the app of the file all calls.

    Valgrind writes a file of what it counted at each `getpgrp`: of each call, one for the warm-up
    and one for what follows.
    """
    sys.path.insert(0, str(file.parent))
    app = import_module(file.stem).app
    async with app.router.lifespan_context(app):
        gc.disable()  # else some calls pay for what others leave behind
        for method, path, bodies in calls:
            for number in range(WARM_UP + COUNTED):
                if number == WARM_UP:
                    os.getpgrp()
                await ask(app, method, path, bodies[number % len(bodies)])
            os.getpgrp()


if __name__ == "__main__":
    uvloop.run(ask_all(Path(sys.argv[1]), json.loads(sys.argv[2])))
