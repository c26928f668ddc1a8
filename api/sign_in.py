"""Sign-in: the tokens that clients get, and who may call the API."""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Annotated, Any, Literal

import jwt
from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import OAuth2PasswordBearer
from pydantic import SecretStr, StringConstraints
from sqlmodel import Field, SQLModel, col, select

from api.clock import now
from api.errors import ApiError, Forbidden, SignInIsOff, Unauthorized, UnsupportedMediaType
from api.field_types import MAX_INTEGER, NO_NUL, Id
from api.middleware import limit_receive
from api.passwords import TooManyGuesses, dummy_hash, is_password
from api.route_classes import OpenRoute
from config import settings
from database import read_apart, reading_engine
from models import ALL_FIELDS_ARE_SENT, User

MAX_FORM_SIZE = 8 * 1024  # bytes, as `LargeForm` says


class SignIn(SQLModel):
    """What a client sends, as a form, to sign in (RFC 6749, 4.3.2).

    Unlike FastAPI's `OAuth2PasswordRequestForm`, it hides the password and ignores case in names.
    """

    grant_type: Literal["password"] = "password"
    username: Annotated[
        str,
        StringConstraints(min_length=1, max_length=50, pattern=NO_NUL, to_lower=True),
        Field(schema_extra={"examples": ["ada"]}),
    ]
    password: SecretStr = Field(min_length=1)


class Token(SQLModel):
    """What a client gets when it has signed in (RFC 6749, 5.1)."""

    model_config = ALL_FIELDS_ARE_SENT

    access_token: str
    token_type: str = "bearer"  # noqa: S105  # no secret: it says how to send the token
    expires_in: int = Field(description="Seconds")


class Claims(SQLModel):
    """What a token says (RFC 7519, 4): whose it is, and the `token_version` of that user."""

    sub: int = Field(ge=1, le=MAX_INTEGER)  # text in the token, which `Id` would refuse
    version: Id


class WrongSignIn(Unauthorized, status=401):
    """The username or the password is wrong."""


class BadForm(ApiError, status=400):
    """The form has too many fields."""


class LargeForm(ApiError, status=413):
    """The body is over 8192 bytes."""


class FormRoute(OpenRoute):
    """A route with a small and urlencoded form.

    See https://fastapi.tiangolo.com/how-to/custom-request-and-route/.
    """

    body_errors = (BadForm, LargeForm, UnsupportedMediaType)
    media_type = media_types = "application/x-www-form-urlencoded"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function that limits a form, and then handles a request as others do."""
        handle = super().get_route_handler()

        async def limit_and_handle(request: Request) -> Response:
            return await handle(
                Request(request.scope, limit_receive(request.receive, MAX_FORM_SIZE))
            )

        return limit_and_handle


router = APIRouter(tags=["users"], route_class=FormRoute)


def secret_key() -> str:
    """Return the key that signs tokens; raise 404 where sign-in is off."""
    if settings.secret_key is None:
        raise SignInIsOff
    return settings.secret_key.get_secret_value()


@router.post("/token")
async def create_token(
    form: Annotated[SignIn, Form(), WrongSignIn, SignInIsOff, TooManyGuesses],
    request: Request,
    response: Response,
) -> Token:
    """Sign in, and get a token to send as `Authorization: Bearer …` with every call.

    It expires after `expires_in` seconds. A new password, deactivation and deletion of the user end
    it at once. After ten wrong passwords for one name in a minute, wait as `Retry-After` says.
    """
    key = secret_key()
    user = await find_active(col(User.username) == form.username)
    password_hash = user.password_hash if user else dummy_hash  # as slow for an unknown name
    password = form.password.get_secret_value()
    is_right = await is_password(request, form.username, password, password_hash)
    if user is None or not is_right:
        raise WrongSignIn
    lifetime = timedelta(minutes=settings.token_lifetime)
    claims = {"sub": str(user.id), "version": user.token_version, "exp": now() + lifetime}
    response.headers["Cache-Control"] = "no-store"
    return Token(
        access_token=jwt.encode(claims, key, "HS256"), expires_in=int(lifetime.total_seconds())
    )


async def find_active(*conditions: Any) -> User | None:  # noqa: ANN401  # as `where` takes them
    """Return the active user for whom the conditions are true."""
    statement = select(User).where(*conditions, col(User.is_active))
    return await read_apart(reading_engine, lambda session: session.exec(statement).one_or_none())


get_token = OAuth2PasswordBearer("token", auto_error=False)


async def require_user(
    request: Request, token: Annotated[str | None, Depends(get_token)]
) -> User | None:
    """Return who is signed in; raise 401 for others. Files that the app serves are for everyone."""
    if not isinstance(request.scope.get("route"), APIRoute):
        return None
    try:
        claims = Claims.model_validate(
            jwt.decode(
                token or "",  # no token is as invalid as any wrong one
                secret_key(),
                ["HS256"],
                {"require": ["sub", "version", "exp"]},
            )
        )
    except (jwt.InvalidTokenError, ValueError):  # the latter of `Claims`
        raise Unauthorized from None
    user = await find_active(col(User.id) == claims.sub, col(User.token_version) == claims.version)
    if user is None:
        raise Unauthorized
    return user


async def get_no_user() -> None:
    """Return no user, since sign-in is off."""


class ApiRoute(OpenRoute):
    """A route behind the guard."""

    errors = (*OpenRoute.errors, *((Unauthorized,) if settings.secret_key else ()))
    security = None

    async def refuse_strangers(self, request: Request) -> None:
        """Raise 401 for strangers, if one has to sign in."""
        if settings.secret_key:
            await require_user(request, await get_token(request))


# The user who is signed in, or None where sign-in is off.
CurrentUserDep = Annotated[
    User | None, Depends(require_user if settings.secret_key else get_no_user)
]
# The dependencies of the app, so of each route that is added to it.
GUARD = [Depends(require_user)] if settings.secret_key else []


async def require_admin(current_user: CurrentUserDep) -> User | None:
    """Raise 403 for a user who is not an administrator. Without sign-in, everyone may do all."""
    if current_user is not None and not current_user.is_admin:
        raise Forbidden
    return current_user


# The same for what only administrators may do.
CurrentAdminDep = Annotated[User | None, Depends(require_admin), Forbidden]
