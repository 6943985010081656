"""Receipts, asked for."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from seclea.portal.bodies import uuid_field
from seclea.portal.context import authenticate, ids, portal_of, scope_of
from seclea.portal.receipts import read_receipts
from seclea.portal.replies import bad, json_reply

router = APIRouter()


@router.get("/collection/receipts")
async def receipts(request: Request) -> Response:
    """One receipt per lane of a stream, or of all streams of a run."""
    caller = await authenticate(request)
    scope = ids(scope_of(request, caller))
    stream = uuid_field(request.query_params, "stream", required=False)
    run = uuid_field(request.query_params, "training_run", required=False)
    if stream is None and run is None:
        raise bad("Name a stream or a training_run.")
    return json_reply(
        await portal_of(request).database.read(lambda connection: read_receipts(connection, scope, stream, run))
    )
