"""Users: how they sign in, who may call the API, and the routes that manage them."""

import re
from datetime import timedelta
from secrets import token_urlsafe
from typing import Annotated, Any

import jwt
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, Form, HTTPException, Path, Query, Request, Response
from fastapi.security import OAuth2PasswordBearer
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from pydantic import MISSING
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, insert, literal, null, select, update

from config import settings
from database import SessionDep, first_line, lock_table, read_one
from models import (
    SignIn,
    Task,
    TaskPublic,
    Token,
    Transfer,
    User,
    UserCreate,
    UserDeleted,
    UserPublic,
    UserUpdate,
    now,
)
from queries import PageQuery, TaskQuery
from responses import (
    BAD_BODY,
    LOCATION_HEADER,
    NOT_FOUND,
    OK_WITH_LINK,
    PublicResponse,
    document_error,
    document_header,
    read_page,
    to_public,
)

UNAUTHORIZED = document_error(401, "Nobody is signed in")
UNAUTHORIZED[401]["headers"] = {"WWW-Authenticate": document_header("`Bearer`")}
FORBIDDEN = document_error(403, "Not allowed for this account")
SIGN_IN_IS_OFF = document_error(404, "`SECRET_KEY` is not set")
TAKEN = document_error(409, "The name or address is taken")

# One thread for each hash: with the usual four, two hashes at once leave other requests little CPU.
hasher = PasswordHash([Argon2Hasher(parallelism=1)])
two_at_once = CapacityLimiter(2)
# The password of an unknown user is compared with this, so that the response takes as long.
dummy_hash = hasher.hash(token_urlsafe()) if settings.secret_key else ""


async def hash_password(password: str) -> str:
    """Return the hash of a password, to be stored."""
    return await to_thread.run_sync(hasher.hash, password, limiter=two_at_once)


async def is_password(password: str, password_hash: str) -> bool:
    """Return whether the hash is that of the password."""
    return await to_thread.run_sync(hasher.verify, password, password_hash, limiter=two_at_once)


def get_secret_key() -> str:
    """Return the key that signs tokens; raise 404 where sign-in is off."""
    if settings.secret_key is None:
        raise HTTPException(404, "Sign-in is off")
    return settings.secret_key.get_secret_value()


def unauthorized(detail: str) -> HTTPException:
    """Return the error for a client who has to sign in (RFC 6750, 3)."""
    return HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})


token_router = APIRouter(tags=["users"])


@token_router.post("/token", responses=UNAUTHORIZED | SIGN_IN_IS_OFF | BAD_BODY)
async def create_token(form: Annotated[SignIn, Form()], response: Response) -> Token:
    """Sign in, and get a token to send as `Authorization: Bearer …` with every call.

    It expires after `expires_in` seconds, or when the user changes the password.
    """
    secret_key = get_secret_key()
    user = await read_one(
        select(User).where(col(User.username) == form.username, col(User.is_active))
    )
    password_hash = user.password_hash if user else dummy_hash
    is_right = await is_password(form.password.get_secret_value(), password_hash)
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
    """Return who is signed in; raise 401 for others, but let anyone create the first user."""
    creates_user = token is None and request.scope["endpoint"] is create_user
    if creates_user and await read_one(select(User).limit(1)) is None:
        return None  # there is no user yet; `create_user` checks this again under a lock
    try:
        claims = jwt.decode(
            token or "",  # which is as invalid as any wrong token
            get_secret_key(),
            ["HS256"],
            {"require": ["sub", "version", "exp"]},
        )
        user_id = int(claims["sub"])
    except (jwt.InvalidTokenError, ValueError):
        raise unauthorized("Not signed in") from None
    user = await read_one(
        select(User).where(
            col(User.id) == user_id,
            col(User.token_version) == claims["version"],
            col(User.is_active),
        )
    )
    if user is None:
        raise unauthorized("Not signed in")
    return user


async def get_no_user() -> None:
    """Return no user, since sign-in is off."""


get_current_user = require_user if settings.secret_key else get_no_user
# The user who is signed in; None where sign-in is off, or when the first user is created.
CurrentUserDep = Annotated[User | None, Depends(get_current_user)]
UserId = Annotated[int, Path(description="The id of the user")]

router = APIRouter(prefix="/users", tags=["users"])


async def user_to_create(user_create: UserCreate) -> User:
    """Return the new user; the password is hashed before a session holds a connection."""
    password_hash = await hash_password(user_create.password.get_secret_value())
    return User.model_validate(user_create, update={"password_hash": password_hash})


@router.post("", status_code=201, responses={201: {"headers": LOCATION_HEADER}} | TAKEN | BAD_BODY)
def create_user(
    user: Annotated[User, Depends(user_to_create)],
    request: Request,
    current_user: CurrentUserDep,
    session: SessionDep,
) -> PublicResponse[UserPublic]:
    """Create a user. While there is none, anyone may; from then on, those who are signed in."""
    if settings.secret_key and current_user is None:
        lock_table(session, "user")
        if session.exec(select(User).limit(1)).first():
            raise unauthorized("Not signed in")
    session.add(user)
    commit_user(session)
    location = {"Location": f"{request.scope['path']}/{user.id}"}
    return PublicResponse(to_public(UserPublic, user), 201, location)


@router.get("", responses=OK_WITH_LINK)
def read_users(
    query: Annotated[PageQuery, Query()], request: Request, session: SessionDep
) -> PublicResponse[list[UserPublic]]:
    """List the users, a page at a time, like tasks."""
    return read_page(session, request, query, User, UserPublic)


@router.get("/me", responses=SIGN_IN_IS_OFF)
async def read_member(current_user: CurrentUserDep) -> PublicResponse[UserPublic]:
    """Return who is signed in."""
    if current_user is None:
        raise HTTPException(404, "Sign-in is off")
    return PublicResponse(to_public(UserPublic, current_user))


@router.get("/{user_id:id}", responses=NOT_FOUND)
def read_user(user_id: UserId, session: SessionDep) -> PublicResponse[UserPublic]:
    """Return one user."""
    return PublicResponse(to_public(UserPublic, find_user(session, user_id)))


@router.get("/{user_id:id}/tasks", responses=OK_WITH_LINK | NOT_FOUND)
def read_tasks_of_user(
    user_id: UserId,
    query: Annotated[TaskQuery, Query()],
    request: Request,
    session: SessionDep,
) -> PublicResponse[list[TaskPublic]]:
    """List the tasks of one user, with the filters, orders and pages of all tasks."""
    find_user(session, user_id)
    return read_page(session, request, query, Task, TaskPublic, owner_id=user_id)


async def require_own_account(user_id: UserId, current_user: CurrentUserDep) -> None:
    """Raise 403 for a user who wants to change the account of another user."""
    if current_user is not None and current_user.id != user_id:
        raise HTTPException(403, "This is not your account")


def wrong_password() -> HTTPException:
    """Return the error for a client who does not know the current password."""
    return HTTPException(403, "`current_password` is not the current password")


async def changes_of_user(
    user_id: UserId, user_update: UserUpdate
) -> tuple[dict[str, Any], str | None]:
    """Return what to change, and the hash of the current password if that had to be checked.

    The passwords are hashed before a session holds a connection.
    """
    changes = user_update.model_dump(exclude={"password", "current_password"})
    password, current_password = user_update.password, user_update.current_password
    if password is MISSING:
        return changes, None
    user = await read_one(select(User).where(col(User.id) == user_id))
    if user is None:
        raise HTTPException(404, "User not found")
    if current_password is MISSING or not await is_password(
        current_password.get_secret_value(), user.password_hash
    ):
        raise wrong_password()
    changes["password_hash"] = await hash_password(password.get_secret_value())
    return changes, user.password_hash


@router.patch(
    "/{user_id:id}",
    dependencies=[Depends(require_own_account)],
    responses=FORBIDDEN | NOT_FOUND | TAKEN | BAD_BODY,
)
def update_user(
    user_id: UserId,
    changes_and_checked_hash: Annotated[
        tuple[dict[str, Any], str | None], Depends(changes_of_user)
    ],
    session: SessionDep,
) -> PublicResponse[UserPublic]:
    """Change the fields that are sent, and only those. Null clears `full_name`.

    Members change only their own account. A new `password` needs `current_password` and ends all
    tokens of the user, and so does `"is_active": false`, after which the user cannot sign in.
    """
    changes, checked_hash = changes_and_checked_hash
    user = find_user(session, user_id, for_update=True)
    if checked_hash is not None and checked_hash != user.password_hash:
        raise wrong_password()  # another request has changed it meanwhile
    user.sqlmodel_update(changes)
    if "password_hash" in changes or not user.is_active:
        user.token_version += 1
    commit_user(session)
    return PublicResponse(to_public(UserPublic, user))


@router.delete(
    "/{user_id:id}",
    dependencies=[Depends(require_own_account)],
    responses=FORBIDDEN | NOT_FOUND,
)
def delete_user(user_id: UserId, current_user: CurrentUserDep, session: SessionDep) -> UserDeleted:
    """Delete a user for good. The tasks of the user stay and are owned by nobody.

    Members delete only their own account.
    """
    user = find_user(session, user_id, for_update=True)
    is_theirs = col(Task.owner_id) == user_id
    # Lock the tasks, in the order of their ids as `update_tasks` does, so that no other request
    # transfers one before the UPDATE below.
    session.exec(select(Task.id).where(is_theirs).order_by(col(Task.id)).with_for_update())
    # One INSERT ... SELECT for the transfers of all tasks.
    transfer = {
        "task_id": col(Task.id),
        "from_user_id": col(Task.owner_id),
        "to_user_id": null(),
        "by_user_id": literal(current_user and current_user.id),
        "created_at": literal(now()),
    }
    transfers = select(*transfer.values()).where(is_theirs)
    session.exec(insert(Transfer).from_select([*transfer], transfers))
    changes = {"owner_id": None, "updated_at": now(), "version": Task.version + 1}
    session.exec(update(Task).where(is_theirs).values(changes))
    session.delete(user)
    session.commit()
    return UserDeleted(message="User removed", user_id=user_id)


def find_user(session: Session, user_id: int, *, for_update: bool = False) -> User:
    """Return the user, or raise 404. With `for_update`, it is locked until the transaction ends."""
    user = session.get(User, user_id, with_for_update=for_update)
    if user is None:
        raise HTTPException(404, "User not found")
    return user


def commit_user(session: Session) -> None:
    """Commit; raise 409 if another user has the name or the address."""
    try:
        session.commit()
    except IntegrityError as error:
        # `… failed: user.email` or `… constraint "uq_user_email"`; other lines repeat the values.
        taken = re.search(r"user[._](username|email)", first_line(error))
        if taken is None:
            raise
        raise HTTPException(409, f"The {taken[1]} is already taken") from None
