"""Sign-in: passwords, tokens, and who may call the API."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from secrets import token_urlsafe
from typing import Annotated, Any

import jwt
from anyio import CapacityLimiter, Semaphore, to_thread
from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import OAuth2PasswordBearer
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlmodel import col, select

from config import settings
from database import read_one
from middleware import limit_receive
from models import Claims, SignIn, Token, User, now
from responses import RETRY_AFTER, document_error, document_header

NEEDS_NO_TOKEN: dict[str, object] = {"security": []}  # as OpenAPI says it
UNAUTHORIZED = document_error(401, "Nobody is signed in")
UNAUTHORIZED[401]["headers"] = {"WWW-Authenticate": document_header("`Bearer`")}
WRONG_SIGN_IN = document_error(401, "The username or the password is wrong")
WRONG_SIGN_IN[401]["headers"] = UNAUTHORIZED[401]["headers"]
SIGN_IN_IS_OFF = document_error(404, "`SECRET_KEY` is not set")
TOO_MANY_GUESSES = document_error(429, "Too many wrong passwords for this name")
TOO_MANY_GUESSES[429]["headers"] = {"Retry-After": document_header("In seconds", "integer")}

# One thread for each hash: with the usual four, two hashes at once leave other requests little CPU.
hasher = PasswordHash([Argon2Hasher(parallelism=1)])
# The password of an unknown user is compared with this, to be refused as slowly as a known one's.
dummy_hash = hasher.hash(token_urlsafe()) if settings.secret_key else ""

# Two hashes at once leave the other CPUs to other requests: each takes one for a sixth of a second.
hash_slots = Semaphore(2)
# Threads of their own, one for each slot: the usual ones may all wait for the database.
hash_threads = CapacityLimiter(2)
MAX_WAITING = 20  # requests

# In the memory of each process. Each wrong password costs a hash, so few have to be kept.
guesses = FixedWindowRateLimiter(MemoryStorage())
TEN_A_MINUTE = RateLimitItemPerMinute(10)


@asynccontextmanager
async def hash_slot(request: Request) -> AsyncIterator[None]:
    """Wait for one of the slots to hash a password.

    Raise 503 if too many requests wait already, or if the client has left meanwhile.
    """
    if hash_slots.statistics().tasks_waiting >= MAX_WAITING:
        raise HTTPException(503, "Too many passwords are waiting to be hashed", RETRY_AFTER)
    async with hash_slots:
        if await request.is_disconnected():
            raise HTTPException(503, "The client has left", RETRY_AFTER)
        yield


async def hash_password(request: Request, password: str) -> str:
    """Return the hash of a password, to be stored; raise 503 as `hash_slot` does."""
    async with hash_slot(request):
        return await to_thread.run_sync(hasher.hash, password, limiter=hash_threads)


async def is_password(request: Request, username: str, password: str, password_hash: str) -> bool:
    """Return whether the hash is that of the password.

    Raise 429 if ten wrong ones for this name came from this address in a minute (RFC 6585, 4), and
    503 as `hash_slot` does.
    """
    address = request.client.host if request.client else ""
    too_many = HTTPException(429, "Too many wrong passwords for this name", {"Retry-After": "60"})
    if not await guesses.test(TEN_A_MINUTE, username, address):
        raise too_many  # without waiting for a slot
    async with hash_slot(request):
        # Counted as wrong until it is known to be right, or many could be tried at once.
        if not await guesses.hit(TEN_A_MINUTE, username, address):
            raise too_many
        is_right = await to_thread.run_sync(
            hasher.verify, password, password_hash, limiter=hash_threads
        )
    if is_right:
        await guesses.clear(TEN_A_MINUTE, username, address)
    return is_right


def get_secret_key() -> str:
    """Return the key that signs tokens; raise 404 where sign-in is off."""
    if settings.secret_key is None:
        raise HTTPException(404, "Sign-in is off")
    return settings.secret_key.get_secret_value()


def unauthorized(detail: str) -> HTTPException:
    """Return the error for a client who has to sign in (RFC 6750, 3)."""
    return HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})


FORM = "application/x-www-form-urlencoded"
MAX_FORM_SIZE = 8 * 1024  # bytes
BAD_FORM = document_error(400, "The form has too many fields")
BAD_FORM |= document_error(413, f"The body is over {MAX_FORM_SIZE} bytes")
BAD_FORM |= document_error(415, f"The form is not `{FORM}`")


class FormRoute(APIRoute):
    """A route whose form is small and urlencoded, which is checked before it is parsed.

    Starlette decodes a multipart form by any codec that its sender names, and some are very slow.
    See https://fastapi.tiangolo.com/how-to/custom-request-and-route/.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function that handles a request."""
        handle = super().get_route_handler()

        async def check_and_handle(request: Request) -> Response:
            media_type = request.headers.get("Content-Type", "").partition(";")[0]
            if media_type.strip().lower() != FORM:
                raise HTTPException(415, f"The form must be {FORM}")
            return await handle(
                Request(request.scope, limit_receive(request.receive, MAX_FORM_SIZE))
            )

        return check_and_handle


router = APIRouter(tags=["users"], route_class=FormRoute)


@router.post(
    "/token",
    responses=WRONG_SIGN_IN | SIGN_IN_IS_OFF | TOO_MANY_GUESSES | BAD_FORM,
    openapi_extra=NEEDS_NO_TOKEN,
)
async def create_token(
    form: Annotated[SignIn, Form()], request: Request, response: Response
) -> Token:
    """Sign in, and get a token to send as `Authorization: Bearer …` with every call.

    It expires after `expires_in` seconds. A new password, deactivation and deletion of the user end
    it at once. After ten wrong passwords for one name in a minute, wait as `Retry-After` says.
    """
    secret_key = get_secret_key()
    user = await read_one(
        select(User).where(col(User.username) == form.username, col(User.is_active))
    )
    password_hash = user.password_hash if user else dummy_hash
    password = form.password.get_secret_value()
    is_right = await is_password(request, form.username, password, password_hash)
    if user is None or not is_right:
        raise unauthorized("The username or the password is wrong")
    lifetime = timedelta(minutes=settings.token_lifetime)
    claims = {"sub": str(user.id), "version": user.token_version, "exp": now() + lifetime}
    response.headers["Cache-Control"] = "no-store"
    return Token(
        access_token=jwt.encode(claims, secret_key, "HS256"),
        expires_in=int(lifetime.total_seconds()),
    )


async def require_user(
    request: Request,
    token: Annotated[str | None, Depends(OAuth2PasswordBearer("token", auto_error=False))],
) -> User | None:
    """Return who is signed in; raise 401 for others. The files of a frontend are for everyone."""
    if not isinstance(request.scope.get("route"), APIRoute):
        return None
    try:
        claims = Claims.model_validate(
            jwt.decode(
                token or "",  # which is as invalid as any wrong token
                get_secret_key(),
                ["HS256"],
                {"require": ["sub", "version", "exp"]},
            )
        )
    except (jwt.InvalidTokenError, ValueError):  # the latter of `Claims`
        raise unauthorized("Not signed in") from None
    user = await read_one(
        select(User).where(
            col(User.id) == claims.sub,
            col(User.token_version) == claims.version,
            col(User.is_active),
        )
    )
    if user is None:
        raise unauthorized("Not signed in")
    return user


async def get_no_user() -> None:
    """Return no user, since sign-in is off."""


get_current_user = require_user if settings.secret_key else get_no_user
# The user who is signed in, or None where sign-in is off.
CurrentUserDep = Annotated[User | None, Depends(get_current_user)]


async def require_admin(current_user: CurrentUserDep) -> None:
    """Raise 403 for a user who is not an administrator. Without sign-in, everyone may do all."""
    if current_user is not None and not current_user.is_admin:
        raise HTTPException(403, "Only an administrator may do this")
