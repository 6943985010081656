"""The application: routes, errors, static files. `doors` stands around it and `serve` runs it."""

from __future__ import annotations

import logging
from http import HTTPStatus
from pathlib import Path

from fastapi import FastAPI
from sqlalchemy.exc import IntegrityError, OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from seclea.portal.config import PortalConfig
from seclea.portal.context import Portal
from seclea.portal.replies import Refusal, already_exists, json_reply
from seclea.portal.routes import (
    auth,
    chunks,
    collection,
    content,
    internal,
    lineage,
    organization,
    pages,
    receipts,
    records,
    streams,
)

logger = logging.getLogger(__name__)
STATIC = Path(__file__).parent / "static"


def create_app(config: PortalConfig) -> FastAPI:
    """The portal of ``config.data`` as an ASGI application; ``app.state.portal`` is to be closed at the end.

    Without a `doors.Door` around it every request is one from TCP, and no host or origin is checked.
    """
    app = FastAPI(title="seclea portal", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.portal = Portal(config)
    for module in (
        organization,
        auth,
        streams,
        content,
        receipts,
        records,
        lineage,
        chunks,
        collection,
        internal,
        pages,
    ):
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(IntegrityError, _not_unique)
    app.add_exception_handler(OperationalError, _no_room)
    app.add_exception_handler(OSError, _no_room)
    return app


def _request_id(request: Request) -> str:
    return str(request.scope.get("seclea.request_id", "-"))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    if pages.wants_page(request):
        return pages.refusal(request, error.status, error.detail, error.headers)
    return json_reply(error.body(_request_id(request)), error.status, error.headers)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail or HTTPStatus(error.status_code).phrase
    if pages.wants_page(request):
        return pages.refusal(request, error.status_code, detail, dict(error.headers or {}))
    body = {"detail": detail, "request_id": _request_id(request)}
    return json_reply(body, error.status_code, dict(error.headers or {}))


async def _not_unique(request: Request, _error: Exception) -> Response:
    """A constraint of the tables that no look-up saw before (two writers at once)."""
    return await _refused(request, already_exists("object", "of the table"))


async def _no_room(request: Request, error: Exception) -> Response:
    """The database or the disk does not do what it should: full, busy, broken. Nothing was kept; it may go well later."""
    logger.error("request %s: the database or the disk cannot be used: %s", _request_id(request), error)
    refusal = Refusal(503, "The portal cannot store anything right now.", code="storage", headers={"Retry-After": "5"})
    return await _refused(request, refusal)
