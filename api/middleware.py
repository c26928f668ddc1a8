"""What every request and response goes through outside the routes: middleware, and error handlers.

Each middleware takes an app and returns it wrapped (https://asgi.readthedocs.io): `scope` describes
the request, `receive` returns its body in parts, and `send` sends the response in parts.
"""

import re
from collections.abc import Callable, Coroutine
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from opentelemetry import trace
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import MAX_BODY_SIZE, TooLarge
from api.field_types import CONTROL
from api.outages import respond_database_error
from api.problems import respond_invalid
from api.route_classes import respond_wrong_method
from config import settings


def hide_query(app: ASGIApp) -> ASGIApp:
    """Wrap the app so that OpenTelemetry, if it is on, does not record what clients search for."""

    async def hiding_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("query_string"):
            # The span is the record of this request.
            trace.get_current_span().set_attribute("url.query", "REDACTED")
        await app(scope, receive, send)

    return hiding_app


def log_reason(app: ASGIApp) -> ASGIApp:
    """Wrap the app so that a start without a database logs its reason, and no traceback."""

    async def logging_app(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_reason(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                # A traceback, which ends with the ConnectionError of `lifespan`.
                message["message"] = message["message"].rpartition("\nConnectionError: ")[2].strip()
            await send(message)

        await app(scope, receive, send_reason if scope["type"] == "lifespan" else send)

    return logging_app


# A name or an IPv4 address, or an IPv6 address in brackets; and a port (RFC 9110, 7.2).
HOST = re.compile(rb"([\w.-]+|\[[0-9a-f:.]+\])(:\d*)?", re.IGNORECASE)


def is_address(host: str) -> bool:
    """Return whether a host is an IP address."""
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


@lru_cache  # a client sends the same each time
def require_allowed_host(host: bytes) -> None:
    """Raise a ValueError, which says why, unless clients may send this `Host`.

    By DNS rebinding, a page of evil.example makes its own name one of this machine, and reads the
    API as if that were its server. But its browser then sends `Host: evil.example`.
    """
    match = HOST.fullmatch(host)
    name = match[1].decode().lower().removesuffix(".") if match else ""
    if is_address(name):
        return
    if not name or name.startswith("["):
        raise ValueError("The header `Host` is not the name or the address of a host")
    is_checked = settings.secret_key is None or settings.allowed_hosts
    allowed = ("localhost", *settings.allowed_hosts.split(","))
    if is_checked and name not in allowed and not name.endswith(".localhost"):
        raise ValueError(f"The host `{name}` is not allowed: add it to ALLOWED_HOSTS")


def check_host(app: ASGIApp) -> ASGIApp:
    """Wrap the app to refuse a `Host` that is malformed or not allowed."""

    async def checking_app(scope: Scope, receive: Receive, send: Send) -> None:
        hosts = [value for name, value in scope.get("headers", ()) if name == b"host"]
        try:
            if hosts:  # every browser sends it
                require_allowed_host(b",".join(hosts))  # two are malformed (RFC 9112, 3.2)
        except ValueError as error:
            await JSONResponse({"detail": str(error)}, 400)(scope, receive, send)
        else:
            await app(scope, receive, send)

    return checking_app


def answer_head(app: ASGIApp) -> ASGIApp:
    """Wrap the app to answer HEAD as GET, but without the body (RFC 9110, 9.3.2)."""

    async def answering_app(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                # At once, so that an export stops, as for a client that leaves.
                await send({"type": "http.response.body"})

        if scope.get("method") == "HEAD":
            await app({**scope, "method": "GET"}, receive, send_head)
        else:
            await app(scope, receive, send)

    return answering_app


def refuse_control_characters(app: ASGIApp) -> ASGIApp:
    """Wrap the app to answer 404 to a path with a control character, which no route has.

    Starlette would take `/tasks%0a` for `/tasks`, since `$` also matches before a final line feed.
    """
    search = re.compile(f"[{CONTROL}]").search

    async def refusing_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and search(scope["path"]):
            await JSONResponse({"detail": "Not Found"}, 404)(scope, receive, send)
        else:
            await app(scope, receive, send)

    return refusing_app


def limit_receive(receive: Receive, max_size: int) -> Receive:
    """Return ASGI's `receive`, but raising 413 once the body has more than `max_size` bytes.

    FastAPI's `max_body_size` would send plain text.
    """
    size = 0

    async def limited_receive() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > max_size:
            raise TooLarge(f"The body is over {max_size} bytes")
        return message

    return limited_receive


def limit_body(app: ASGIApp) -> ASGIApp:
    """Wrap the app to refuse large bodies."""

    async def limited_app(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, limit_receive(receive, MAX_BODY_SIZE), send)

    return limited_app


SENT = ["Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match"]
RECEIVED = ["Content-Disposition", "ETag", "Link", "Location", "Retry-After"]
RECEIVED += ["WWW-Authenticate", "X-Total-Count"]
# Lets pages of other origins call the API (https://fetch.spec.whatwg.org/#http-cors-protocol).
CORS = [
    Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins.split(","),
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=SENT,
        expose_headers=RECEIVED,
    ),
    # Starlette's own is outside of CORS, so its 500 would lack those headers.
    Middleware(ServerErrorMiddleware),
]

MIDDLEWARE = [
    Middleware(hide_query),  # the first: what fails before it would record the query
    Middleware(log_reason),
    *(CORS if settings.cors_origins else []),
    Middleware(answer_head),
    Middleware(check_host),
    Middleware(refuse_control_characters),
    Middleware(limit_body),
]

Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]
EXCEPTION_HANDLERS: dict[int | type[Exception], Handler] = {
    405: respond_wrong_method,
    RequestValidationError: respond_invalid,
    DBAPIError: respond_database_error,
    PoolTimeoutError: respond_database_error,
}
