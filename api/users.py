"""The routes of users: their accounts, and the tasks that they own."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import MISSING
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from api.errors import ApiError, NotFound, SignInIsOff, Unauthorized
from api.locks import AGAINST_CHANGE, find_and_lock, lock_ids
from api.outages import first_line
from api.pages import Page, PageQuery, TaskQuery, read_page
from api.passwords import TooManyGuesses, hash_password, is_password
from api.public import Created, PublicResponse, to_public
from api.sign_in import ApiRoute, CurrentAdminDep, CurrentUserDep, require_admin
from api.transfers import transfer_to_nobody
from database import SessionDep, read_apart, reading_engine
from models import TaskPublic, User, UserCreate, UserDeleted, UserPublic, UserUpdate


class UserTaken(ApiError, status=409):
    """The username or the email is taken."""


class LastAdmin(ApiError, status=409):
    """Nobody else is an active administrator."""


class WrongPassword(ApiError, status=403, detail="`current_password` is not the current password"):
    """Not allowed, or `current_password` is wrong."""


UserId = Annotated[int, Path(description="The id of the user"), NotFound]

router = APIRouter(prefix="/users", tags=["users"], route_class=ApiRoute)


async def user_to_create(user_create: UserCreate, request: Request) -> User:
    """Return the new user. The password is hashed before a session holds a connection."""
    password_hash = await hash_password(request, user_create.password.get_secret_value())
    return User.model_validate(user_create, update={"password_hash": password_hash})


@router.post("", status_code=201, response_model=UserPublic)
def create_user(
    current_admin: CurrentAdminDep,  # first, so that no password is hashed for others
    user: Annotated[User, Depends(user_to_create), UserTaken],
    request: Request,
    session: SessionDep,
) -> Created:
    """Create a user. With sign-in, only administrators may do this."""
    require_still_admin(session, current_admin)
    session.add(user)
    commit_user(session)
    return Created(request, UserPublic, user)


@router.get("", response_model=list[UserPublic])
def read_users(query: Annotated[PageQuery, Query()], request: Request, session: SessionDep) -> Page:
    """List the users, a page at a time, like tasks."""
    return read_page(session, request, query, User, UserPublic)


@router.get("/me", response_model=UserPublic)
async def read_member(
    current_user: Annotated[CurrentUserDep, SignInIsOff],
) -> PublicResponse:
    """Return who is signed in."""
    if current_user is None:
        raise SignInIsOff
    return PublicResponse(to_public(UserPublic, current_user))


@router.get("/{user_id:id}", response_model=UserPublic)
def read_user(user_id: UserId, session: SessionDep) -> PublicResponse:
    """Return one user."""
    return PublicResponse(to_public(UserPublic, find_user(session, user_id)))


@router.get("/{user_id:id}/tasks", response_model=list[TaskPublic])
def read_tasks_of_user(
    user_id: UserId, query: Annotated[TaskQuery, Query()], request: Request, session: SessionDep
) -> Page:
    """List the tasks of one user, with the filters, orders and pages of all tasks."""
    find_user(session, user_id)
    return read_page(session, request, query, owner_id=user_id)


# To change these of their own accounts, users have to know the current password.
CREDENTIALS = {"username", "email", "password"}


async def check_current_password(
    user_id: int, changed: set[str], user_update: UserUpdate, request: Request, by_user: User | None
) -> str | None:
    """Return the hash of the current password if the change of these fields needs the password.

    Raise 403 if it is wrong or the change is not allowed, and 429 and 503 as `is_password` does.
    """
    is_own = by_user is not None and by_user.id == user_id
    if not is_own or changed & {"is_active", "is_admin"}:
        await require_admin(by_user)
    # Without sign-in, anyone could take over an account before it is turned on.
    protected = {"password"} if by_user is None else CREDENTIALS if is_own else set()
    if not changed & protected:
        return None
    user = await read_apart(reading_engine, lambda session: find_user(session, user_id))
    current = user_update.current_password
    if current is MISSING or not await is_password(
        request, user.username, current.get_secret_value(), user.password_hash
    ):
        raise WrongPassword
    return user.password_hash


async def changes_of_user(
    user_id: UserId,
    user_update: Annotated[UserUpdate, WrongPassword, TooManyGuesses],
    request: Request,
    current_user: CurrentUserDep,
) -> tuple[dict[str, Any], str | None]:
    """Return what to change, with a new password hashed; and the hash of the current one."""
    changed = user_update.model_fields_set
    if current_user and current_user.id == user_id:  # who may send back what they received
        known = current_user.model_dump()
        changed = {name for name in changed if getattr(user_update, name) != known.get(name)}
    checked_hash = await check_current_password(
        user_id, changed, user_update, request, current_user
    )
    changes = user_update.model_dump(include=changed - {"password", "current_password"})
    if user_update.password is not MISSING:
        password = user_update.password.get_secret_value()
        changes["password_hash"] = await hash_password(request, password)
    return changes, checked_hash


@router.patch("/{user_id:id}", response_model=UserPublic)
def update_user(
    user_id: Annotated[UserId, UserTaken, LastAdmin],
    checked: Annotated[tuple[dict[str, Any], str | None], Depends(changes_of_user)],
    current_user: CurrentUserDep,
    session: SessionDep,
) -> PublicResponse:
    """Change the fields that are sent, and only those. Null clears `full_name`.

    Members change their own profile, administrators change every user. With your own `username`,
    `email` or `password`, send your `current_password` too. Only administrators change `is_active`
    and `is_admin`, and the last active one can be neither deactivated nor demoted. A new password
    or `"is_active": false` ends all tokens of the user.
    """
    changes, checked_hash = checked
    if changes.get("is_active") is False or changes.get("is_admin") is False:
        require_other_admin(session, user_id, current_user)
    require_still_admin(session, current_user)
    user = find_and_lock(session, User, user_id)
    if checked_hash not in (None, user.password_hash):
        raise WrongPassword  # another request has changed it meanwhile
    user.sqlmodel_update(changes)
    if "password_hash" in changes or not user.is_active:
        user.token_version += 1
    commit_user(session)
    return PublicResponse(to_public(UserPublic, user))


@router.delete("/{user_id:id}")
def delete_user(
    current_admin: CurrentAdminDep, user_id: Annotated[UserId, LastAdmin], session: SessionDep
) -> UserDeleted:
    """Delete a user for good. The tasks of the user stay and are owned by nobody.

    With sign-in, only administrators may do this, and the last active one cannot be deleted.
    """
    require_other_admin(session, user_id, current_admin)
    require_still_admin(session, current_admin)
    user = find_and_lock(session, User, user_id)
    transfer_to_nobody(session, user, current_admin)
    session.delete(user)
    session.commit()
    return UserDeleted(message="User removed", user_id=user_id)


def require_other_admin(session: Session, user_id: int, current_user: User | None) -> None:
    """Raise 409 if no other user is an active administrator. Without sign-in, none is needed."""
    active_admins = (col(User.is_admin), col(User.is_active))
    if current_user and lock_ids(session, User, *active_admins, **AGAINST_CHANGE) == [user_id]:
        raise LastAdmin


def require_still_admin(session: Session, current_user: User | None) -> None:
    """Raise 401 if the user stopped being an administrator while the request waited for a hash."""
    if current_user is None or not current_user.is_admin:
        return
    statement = select(User.id).where(
        col(User.id) == current_user.id,
        col(User.token_version) == current_user.token_version,
        col(User.is_active),
        col(User.is_admin),
    )
    if session.exec(statement).first() is None:
        raise Unauthorized


def find_user(session: Session, user_id: int) -> User:
    """Return the user, or raise 404."""
    user = session.get(User, user_id)
    if user is None:
        raise NotFound("User not found")
    return user


def commit_user(session: Session) -> None:
    """Commit; raise 409 if another user has the username or the email."""
    try:
        session.commit()
    except IntegrityError as error:
        # `… failed: user.email` or `… constraint "uq_user_email"`; other lines repeat the values.
        taken = re.search(r"user[._](username|email)", first_line(error))
        if taken is None:
            raise
        raise UserTaken(f"The {taken[1]} is already taken") from None
