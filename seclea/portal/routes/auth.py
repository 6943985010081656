"""Logins: tokens as cookies, as existing clients know them."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response

from seclea.portal.accounts import Tokens, revoke
from seclea.portal.bodies import read_body
from seclea.portal.context import Portal, authenticate, find_caller, portal_of
from seclea.portal.database import first_row
from seclea.portal.replies import Refusal, bad, json_reply
from seclea.portal.tables import users
from seclea.portal.threads import in_thread

router = APIRouter()
NO_ACCOUNT = "No active account found with the given credentials."


def set_cookies(portal: Portal, response: Response, tokens: Tokens) -> None:
    """Hand out the tokens: HttpOnly, SameSite, and Secure wherever the portal is not on the loopback."""
    config = portal.config
    secure = not config.is_loopback if config.secure_cookies is None else config.secure_cookies
    for name, value, seconds in (
        ("access_token", tokens.access, config.access_seconds),
        ("refresh_token", tokens.refresh, config.refresh_seconds),
    ):
        response.set_cookie(name, value, max_age=seconds, path="/", secure=secure, httponly=True, samesite="lax")


def clear_cookies(response: Response) -> None:
    """Take the tokens back."""
    for name in ("access_token", "refresh_token"):
        response.delete_cookie(name, path="/", httponly=True, samesite="lax")


async def log_in(portal: Portal, username: str, password: str) -> Tokens | None:
    """Tokens for a user and password; None, after the same time, where one of them is wrong."""
    row = await portal.database.read(
        lambda connection: first_row(
            connection,
            select(users.c.id, users.c.password_hash).where(users.c.name == username, users.c.disabled_ns.is_(None)),
        )
    )
    if not await in_thread(portal.passwords.matches, password, row["password_hash"] if row else None) or row is None:
        return None
    return await portal.database.write(lambda connection: portal.logins.start(connection, row["id"]))


@router.post("/api/token/obtain/")
async def obtain(request: Request) -> Response:
    """Log in by JSON (older clients) or form (newer ones)."""
    portal = portal_of(request)
    body = await read_body(request, portal.config.limits)
    await body.close()
    username, password = body.fields.get("username"), body.fields.get("password")
    if not isinstance(username, str) or not isinstance(password, str):
        raise bad("username and password are required.")
    tokens = await log_in(portal, username, password)
    if tokens is None:
        raise Refusal(401, NO_ACCOUNT, code="not_authenticated", headers={"WWW-Authenticate": "Bearer"})
    response = json_reply({"detail": "Logged in.", "expires_in": portal.config.access_seconds})
    set_cookies(portal, response, tokens)
    return response


@router.post("/api/token/refresh/")
async def refresh(request: Request) -> Response:
    """A new access token for the refresh token, which is replaced too."""
    portal = portal_of(request)
    token = request.cookies.get("refresh_token")
    tokens = None
    if token:
        kept = token
        tokens = await portal.database.write(lambda connection: portal.logins.refresh(connection, kept))
    if tokens is None:
        response = json_reply(
            {"detail": "The refresh token is not valid (any more).", "code": "not_authenticated"}, 401
        )
        response.headers["WWW-Authenticate"] = "Bearer"
        return response
    response = json_reply({"detail": "Refreshed.", "expires_in": portal.config.access_seconds})
    set_cookies(portal, response, tokens)
    return response


@router.post("/api/token/verify/")
async def verify(request: Request) -> Response:
    """Whether the access token is good."""
    await authenticate(request)
    return json_reply({})


@router.post("/api/token/logout/")
async def logout(request: Request) -> Response:
    """End the session: its tokens are good for nothing from here on."""
    portal = portal_of(request)
    caller = await find_caller(request)
    session = caller.session if caller is not None else None
    if session is None and (token := request.cookies.get("refresh_token")):  # the access token may be over
        session = await portal.database.read(lambda connection: portal.logins.session_of_refresh(connection, token))
    if session is not None:
        ended = session
        await portal.database.write(lambda connection: revoke(connection, ended))
    response = json_reply({"detail": "Logged out."})
    clear_cookies(response)
    return response
