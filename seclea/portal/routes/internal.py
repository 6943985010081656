"""What only the owner of the data folder may ask, over the unix socket. Over TCP there is nothing here (404)."""

from __future__ import annotations

import os

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from seclea.errors import UsageError
from seclea.portal import accounts
from seclea.portal.bodies import read_body, text_field
from seclea.portal.context import Portal, is_owner_socket, portal_of
from seclea.portal.replies import bad, json_reply, not_found
from seclea.portal.routes.auth import set_cookies
from seclea.portal.threads import in_thread

router = APIRouter()


def _owner_only(request: Request) -> Portal:
    if not is_owner_socket(request):
        raise not_found()
    return portal_of(request)


@router.get("/internal/health")
async def health(request: Request) -> Response:
    """Alive, and who."""
    portal = _owner_only(request)
    return json_reply({"status": "ok", "pid": os.getpid(), "url": portal.url, "stays": portal.stay})


@router.post("/internal/token")
async def token(request: Request) -> Response:
    """An access token of the owner, for scripts."""
    portal = _owner_only(request)
    tokens = await portal.database.write(lambda connection: portal.logins.start(connection, portal.owner.user_id))
    return json_reply({"access_token": tokens.access, "expires_in": portal.config.access_seconds})


@router.post("/internal/link")
async def link(request: Request) -> Response:
    """A link that lets one browser in, once."""
    portal = _owner_only(request)
    return json_reply({"url": portal.browser_link()})


@router.get("/open")
async def open_link(request: Request) -> Response:
    """Redeem a link: cookies, and on to the first page."""
    portal = portal_of(request)
    if is_owner_socket(request) or not portal.links.redeem(request.query_params.get("code", "")):
        response = RedirectResponse("/login?expired=1", 303)
    else:
        tokens = await portal.database.write(lambda connection: portal.logins.start(connection, portal.owner.user_id))
        response = RedirectResponse("/", 303)
        set_cookies(portal, response, tokens)
    response.headers["Cache-Control"] = "no-store"
    return response


@router.post("/internal/stay")
async def stay(request: Request) -> Response:
    """Do not leave when idle."""
    portal = _owner_only(request)
    portal.stay = True
    return json_reply({"stays": True})


@router.post("/internal/stop")
async def stop(request: Request) -> Response:
    """Leave."""
    portal = _owner_only(request)
    portal.stop()
    return json_reply({"stops": True})


@router.post("/internal/organizations")
async def add_organization(request: Request) -> Response:
    """Make an organisation (201), or say that it is there (200). The owner is a member of each."""
    portal = _owner_only(request)
    body = await read_body(request, portal.config.limits)
    name = text_field(body.fields, "name", 250)
    known = next((item for item in portal.owner.organizations if item.name == name), None)
    if known is not None:
        return json_reply({"uuid": known.uuid, "name": name})
    try:
        uuid = await portal.database.write(lambda connection: accounts.add_organization(connection, name))
    except UsageError as error:
        raise bad(str(error)) from None
    await portal.reload_owner()
    return json_reply({"uuid": uuid, "name": name}, 201)


@router.post("/internal/users")
async def add_user(request: Request) -> Response:
    """Make a user, as a member of an organisation where one is named."""
    portal = _owner_only(request)
    body = await read_body(request, portal.config.limits)
    name = text_field(body.fields, "name", 150)
    password = text_field(body.fields, "password", accounts.PASSWORD_CHARACTERS)
    organization = text_field(body.fields, "organization", 250, default="")
    kept = await in_thread(portal.passwords.hash, password)
    try:
        uuid = await portal.database.write(
            lambda connection: accounts.add_member(connection, name, kept, organization or None)
        )
    except UsageError as error:
        raise bad(str(error)) from None
    return json_reply({"uuid": uuid, "name": name}, 201)
