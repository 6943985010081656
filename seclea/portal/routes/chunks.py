"""Chunks: which are missing, and their bytes."""

from __future__ import annotations

import hashlib

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from seclea.portal.bodies import limited, parse_json, read_bytes, sha256_text
from seclea.portal.context import authenticate, only_organization, portal_of, scope_of
from seclea.portal.creates import lengths_of
from seclea.portal.payloads import add_chunk
from seclea.portal.replies import bad, json_reply
from seclea.portal.threads import in_thread

router = APIRouter()


@router.post("/collection/chunks/missing")
async def missing(request: Request) -> Response:
    """Those of the listed chunks that the caller's organisation has not given us."""
    caller = await authenticate(request)
    portal = portal_of(request)
    organization = only_organization(scope_of(request, caller))
    limits = portal.config.limits
    listed = parse_json(await read_bytes(request, limits), limits)
    if not isinstance(listed, list) or len(listed) > limits.chunks:
        raise bad(f"The body is no JSON list of at most {limits.chunks} sha256.")
    names = list(dict.fromkeys(sha256_text(item, "sha256") for item in listed))
    here = await portal.database.read(lambda connection: lengths_of(connection, organization.id, names))
    return json_reply([name for name in names if name not in here])


@router.put("/collection/chunks/{sha256}")
async def put(request: Request) -> Response:
    """Keep a chunk: 201 where it is new, 200 where it is here already. The bytes are checked in both cases."""
    caller = await authenticate(request)
    portal = portal_of(request)
    organization = only_organization(scope_of(request, caller))
    sha256 = sha256_text(request.path_params["sha256"], "sha256")
    body = b"".join([piece async for piece in limited(request, portal.config.limits.chunk_bytes)])

    def store() -> None:
        if hashlib.sha256(body).hexdigest() != sha256:
            raise bad("The bytes do not hash to the name.", code="wrong_digest")
        portal.blobs.put(sha256, body)

    await in_thread(store)
    new = await portal.database.write(lambda connection: add_chunk(connection, organization.id, sha256, len(body)))
    return json_reply({"sha256": sha256, "bytes": len(body)}, 201 if new else 200)
