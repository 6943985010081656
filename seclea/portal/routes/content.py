"""Stored files, whole or in part."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection, select
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from seclea.portal.blobs import DamagedBlob
from seclea.portal.bodies import is_uuid
from seclea.portal.context import authenticate, ids, portal_of, scope_of
from seclea.portal.objects import COLLECTIONS, Collection, find_row
from seclea.portal.payloads import Span, chunks_of, cut, parse_range, serve
from seclea.portal.replies import Refusal, not_found
from seclea.portal.tables import contents

router = APIRouter()


@router.api_route("/collection/{kind}/{uuid}/content", methods=["GET", "HEAD"])
async def content(request: Request) -> Response:
    """The file of a dataset or model state."""
    caller = await authenticate(request)
    portal = portal_of(request)
    scope = ids(scope_of(request, caller))
    kind, uuid = request.path_params["kind"], request.path_params["uuid"].lower()
    if kind not in ("datasets", "model-states") or not is_uuid(uuid):
        raise not_found()
    found = await portal.database.read(lambda connection: _find(connection, COLLECTIONS[kind], scope, uuid))
    if found is None:
        raise not_found()
    name, sha256, size, parts = found
    headers = {
        "ETag": f'"{sha256}"',
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "private, no-cache",
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    span = _span(request, size, headers["ETag"])
    whole = span is None
    span = span or Span(0, size, size)
    headers["Content-Length"] = str(span.end - span.start)
    if not whole:
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{size}"
    status, media_type = 200 if whole else 206, "application/octet-stream"
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    try:
        pieces = await serve(portal.blobs, cut(parts, span))
    except DamagedBlob as error:
        raise Refusal(
            500,
            f"The stored file is damaged: {error}. Nothing was sent.",
            code="damaged_chunk",
            chunk=error.sha256,
            uuid=uuid,
        ) from None
    return StreamingResponse(pieces, status, headers, media_type)


def _span(request: Request, size: int, etag: str) -> Span | None:
    condition = request.headers.get("if-range")
    if condition is not None and condition != etag:
        return None
    try:
        return parse_range(request.headers.get("range"), size)
    except ValueError:
        raise Refusal(
            416, f"The file has {size} bytes.", headers={"Content-Range": f"bytes */{size}"}, size=size
        ) from None


def _find(
    connection: Connection, collection: Collection, scope: list[int], uuid: str
) -> tuple[str, str, int, list[tuple[str, int]]] | None:
    row = find_row(connection, collection, scope, uuid)
    if row is None or row["content_id"] is None:
        return None
    held = connection.execute(select(contents).where(contents.c.id == row["content_id"])).one()
    return _file_name(row), held.sha256, held.size, chunks_of(connection, held.id)


def _file_name(row: Any) -> str:
    """A name for the download, of harmless characters only."""
    stem = row["name"] if "name" in row else f"state-{row['sequence_num']}"
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-")[:80] or row["uuid"]
    ending = re.sub(r"[^A-Za-z0-9.]+", "", row["format"])[:20]
    return f"{stem}.{ending}" if ending else stem
