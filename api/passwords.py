"""Passwords: hashed a few at a time, and guessed a few times a minute."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_urlsafe

from anyio import CapacityLimiter, Semaphore, to_thread
from fastapi import Request
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from api.errors import RETRY_AFTER, ApiError, Unavailable
from config import settings

# One thread for each hash: with the usual four, two hashes at once leave other requests little CPU.
hasher = PasswordHash([Argon2Hasher(parallelism=1)])
# The password of an unknown user is compared with this, to be refused as slowly as a known one's.
dummy_hash = hasher.hash(token_urlsafe()) if settings.secret_key else ""

# Two hashes at once leave the other CPUs to other requests: each takes one for a sixth of a second.
two_at_once = Semaphore(2)
# Their threads are their own: FastAPI's may all wait for the database.
hash_threads = CapacityLimiter(2)
MAX_WAITING = 20  # requests

# In the memory of each process. There are never many wrong guesses, since each costs a hash.
guesses = FixedWindowRateLimiter(MemoryStorage())
TEN_A_MINUTE = RateLimitItemPerMinute(10)


class TooManyGuesses(
    ApiError, status=429, documented_headers=RETRY_AFTER, sent_headers={"Retry-After": "60"}
):
    """Too many wrong passwords for this name."""


@asynccontextmanager
async def wait_for_turn(request: Request) -> AsyncIterator[None]:
    """Wait until a password may be hashed.

    Raise 503 if too many requests wait already, or if the client has left meanwhile.
    """
    if two_at_once.statistics().tasks_waiting >= MAX_WAITING:
        raise Unavailable("Too many passwords are waiting to be hashed")
    async with two_at_once:
        if await request.is_disconnected():
            raise Unavailable("The client has left")
        yield


async def hash_password(request: Request, password: str) -> str:
    """Return the hash of a password, to be stored; raise 503 as `wait_for_turn` does."""
    async with wait_for_turn(request):
        return await to_thread.run_sync(hasher.hash, password, limiter=hash_threads)


async def is_password(request: Request, username: str, password: str, password_hash: str) -> bool:
    """Return whether the hash is that of the password.

    Raise 429 if ten wrong ones for this name came from this address in a minute, and 503 as
    `wait_for_turn` does.
    """
    address = request.client.host if request.client else ""
    if not await guesses.test(TEN_A_MINUTE, username, address):
        raise TooManyGuesses  # without waiting for a turn
    async with wait_for_turn(request):
        # Counted as wrong until it is known to be right, or many could be tried at once.
        if not await guesses.hit(TEN_A_MINUTE, username, address):
            raise TooManyGuesses
        is_right = await to_thread.run_sync(
            hasher.verify, password, password_hash, limiter=hash_threads
        )
    if is_right:
        await guesses.clear(TEN_A_MINUTE, username, address)
    return is_right
