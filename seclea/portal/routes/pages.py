"""Pages (bare)."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

router = APIRouter()


def wants_page(request: Request) -> bool:
    return False


def refusal(request: Request, status: int, detail: str, headers: dict[str, str]) -> Response:
    return HTMLResponse(detail, status, headers)
