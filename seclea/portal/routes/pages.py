"""Pages for people: projects, runs with their curves, datasets. Plain HTML; what moves is in `static/run.js`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from seclea.portal import views
from seclea.portal.accounts import Caller, Tokens, revoke
from seclea.portal.bodies import is_uuid, read_body
from seclea.portal.context import find_caller, ids, is_owner_socket, portal_of
from seclea.portal.rendering import render
from seclea.portal.replies import not_found
from seclea.portal.routes.auth import clear_cookies, log_in, set_cookies

router = APIRouter()
_NOT_PAGES = ("/api/", "/collection/", "/internal/", "/organization/", "/static/")
View = Callable[[Connection, list[int], str], dict[str, Any] | None]


def wants_page(request: Request) -> bool:
    """Whether a refusal is better shown to a person."""
    return not request.url.path.startswith(_NOT_PAGES) and "text/html" in request.headers.get("accept", "")


def refusal(request: Request, status: int, detail: str, headers: dict[str, str]) -> Response:
    """A refusal as a page."""
    return HTMLResponse(render("error.html", status=status, detail=detail, caller=None), status, headers)


# ----------------------------------------------------------------------------------------------------------- logins


async def _page(request: Request, show: Callable[[Caller], Awaitable[Response]]) -> Response:
    """Show a page to whoever is logged in. A login whose access token has run out is renewed on the way."""
    portal = portal_of(request)
    caller, tokens = await find_caller(request), None
    if caller is None and (refresh := request.cookies.get("refresh_token")):
        caller, tokens = await _renew(request, refresh)
    if caller is None:
        response: Response = _login_page(request, request.url.path, 401)
    else:
        response = await show(caller)
    if tokens is not None:
        set_cookies(portal, response, tokens)
    response.headers.setdefault("Cache-Control", "no-store")
    return response


async def _renew(request: Request, refresh: str) -> tuple[Caller | None, Tokens | None]:
    portal = portal_of(request)

    def work(connection: Connection) -> tuple[Caller | None, Tokens | None]:
        tokens = portal.logins.refresh(connection, refresh)
        session = portal.logins.session_of(tokens.access) if tokens else None
        return (portal.logins.caller(connection, session) if session else None), tokens

    return await portal.database.write(work)


def _login_page(request: Request, following: str, status: int = 200, problem: str = "") -> HTMLResponse:
    local = portal_of(request).config.is_loopback
    page = render("login.html", following=_safe_path(following), problem=problem, local=local, caller=None)
    return HTMLResponse(page, status, {"Cache-Control": "no-store"})


def _safe_path(path: str) -> str:
    """A path of this portal, never another host's."""
    plain = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if plain and not path.startswith(("/login", "/open")) else "/"


@router.get("/login")
async def login_page(request: Request) -> Response:
    """The form."""
    expired = "This link was used already, or is too old." if "expired" in request.query_params else ""
    return _login_page(request, request.query_params.get("next", "/"), problem=expired)


@router.post("/login")
async def login(request: Request) -> Response:
    """Log a browser in."""
    portal = portal_of(request)
    body = await read_body(request, portal.config.limits)
    await body.close()
    username, password, following = (str(body.fields.get(name, "")) for name in ("username", "password", "next"))
    tokens = await log_in(portal, username, password)
    if tokens is None:
        return _login_page(request, following, 401, "That name and password do not go together.")
    response = RedirectResponse(_safe_path(following), 303)
    set_cookies(portal, response, tokens)
    return response


@router.post("/logout")
async def logout(request: Request) -> Response:
    """Log a browser out."""
    caller = await find_caller(request)
    if caller is not None and caller.session is not None and not is_owner_socket(request):
        session = caller.session
        await portal_of(request).database.write(lambda connection: revoke(connection, session))
    response = RedirectResponse("/login", 303)
    clear_cookies(response)
    return response


# ------------------------------------------------------------------------------------------------------------ pages


@router.get("/")
async def projects(request: Request) -> Response:
    """All projects."""

    async def show(caller: Caller) -> Response:
        scope = ids(caller.organizations)
        found = await portal_of(request).database.read(lambda connection: views.projects(connection, scope))
        return HTMLResponse(render("projects.html", caller=caller, projects=found))

    return await _page(request, show)


@router.get("/projects/{uuid}")
async def project(request: Request) -> Response:
    """A project: its runs and datasets."""
    return await _object_page(request, "project.html", views.project)


@router.get("/runs/{uuid}")
async def run(request: Request) -> Response:
    """A training run: its curves, parameters and states."""
    return await _object_page(request, "run.html", views.run)


@router.get("/datasets/{uuid}")
async def dataset(request: Request) -> Response:
    """A dataset: what it is, where it came from and who was trained on it."""
    return await _object_page(request, "dataset.html", views.dataset)


@router.get("/transformations/{uuid}")
async def transformation(request: Request) -> Response:
    """A step. Its article is what the lineage's graph shows beside it."""
    return await _object_page(request, "transformation.html", views.transformation)


async def _object_page(request: Request, template: str, view: View) -> Response:
    async def show(caller: Caller) -> Response:
        scope, uuid = ids(caller.organizations), request.path_params["uuid"].lower()
        found = None
        if is_uuid(uuid):
            found = await portal_of(request).database.read(lambda connection: view(connection, scope, uuid))
        if found is None:
            raise not_found("There is nothing here under that address.")
        return HTMLResponse(render(template, caller=caller, **found))

    return await _page(request, show)
