"""Capabilities and the caller's organisations."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from seclea.portal.bodies import ENCODINGS
from seclea.portal.context import authenticate, portal_of
from seclea.portal.replies import json_reply

router = APIRouter()
EXTENSIONS = (
    "chunks",
    "metrics",
    "receipts",
    "streams",
    "tombstones",
    "finish",
    "content",
    "lineage",
    "metric-batches",
    "records",
)


@router.get("/api/capabilities")
async def capabilities(request: Request) -> Response:
    """What this portal can do beyond the base interface. No login needed."""
    limits = portal_of(request).config.limits
    return json_reply(
        {
            "version": "1",
            "extensions": list(EXTENSIONS),
            "encodings": list(ENCODINGS),
            "limits": {"body_bytes": limits.body_bytes, "chunk_bytes": limits.chunk_bytes, "chunks": limits.chunks},
        }
    )


@router.get("/organization/")
async def organizations(request: Request) -> Response:
    """The caller's organisations, all or by name."""
    caller = await authenticate(request)
    name = request.query_params.get("name")
    found = [item for item in caller.organizations if name is None or item.name == name]
    return json_reply([{"uuid": item.uuid, "name": item.name} for item in found])
