"""Streams and their records, for whoever checks them (`seclea.verify`)."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from seclea.portal.bodies import int_field, uuid_field
from seclea.portal.context import authenticate, only_organization, portal_of, scope_of
from seclea.portal.evidence import find_records, find_strays, has_stream, read_heads, read_records
from seclea.portal.replies import bad, json_reply, not_found
from seclea.records import Lane

router = APIRouter()


async def _organization(request: Request) -> int:
    """The one organisation that is asked about: another may have streams of the same names."""
    return only_organization(scope_of(request, await authenticate(request))).id


@router.get("/collection/streams")
async def heads(request: Request) -> Response:
    """The heads of all streams of an organisation. ``next`` is to be asked for as ``after``; the first page has ``strays``."""
    organization = await _organization(request)
    portal = portal_of(request)
    stream, _, lane = request.query_params.get("after", "").partition(".")
    limit = int_field(request.query_params, "limit", default=portal.config.limits.page, low=1) or 1
    limit = min(limit, portal.config.limits.page)
    found = await portal.database.read(lambda connection: read_heads(connection, organization, (stream, lane), limit))
    following = f"{found[-1]['stream']}.{found[-1]['lane']}" if len(found) == limit else None
    strays = [] if stream else await portal.database.read(lambda connection: find_strays(connection, organization))
    return json_reply({"streams": found, "next": following, "strays": strays})


@router.get("/collection/records")
async def records(request: Request) -> Response:
    """The records of a stream's lane with their bodies, in order; or, with ``object``, where those of an object stand."""
    organization = await _organization(request)
    database = portal_of(request).database
    query = request.query_params
    if query.get("object"):
        uuid = str(uuid_field(query, "object"))
        found = await database.read(lambda connection: find_records(connection, organization, uuid))
        return json_reply({"records": found, "next": None})
    stream, lane = str(uuid_field(query, "stream")), query.get("lane", Lane.ORDERED)
    if lane not in tuple(Lane):
        raise bad("lane is neither ordered nor bulk.", field="lane")
    after = int_field(query, "after", default=0) or 0
    if not await database.read(lambda connection: has_stream(connection, organization, stream)):
        raise not_found("There is no such stream.")
    page, following = await database.read(
        lambda connection: read_records(connection, organization, stream, lane, after)
    )
    return json_reply({"records": page, "next": following})
