"""What belongs to streams alone: metrics, tombstones, the end of a run."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from seclea.portal import creates
from seclea.portal.bodies import int_field, is_uuid, read_bytes
from seclea.portal.context import authenticate, ids, portal_of, scope_of
from seclea.portal.intake import Incoming, read_key, read_place
from seclea.portal.many import read_many, take_many
from seclea.portal.objects import TRAINING_RUNS, find_row
from seclea.portal.replies import bad, json_reply, not_found
from seclea.portal.routes.collection import organization_of, read_create, take_create
from seclea.portal.series import list_keys, metrics, read_batch, read_curve
from seclea.portal.threads import in_thread
from seclea.portal.tombstones import Tombstone
from seclea.records import RecordKind

router = APIRouter()


@router.post("/collection/metrics")
async def add_metrics(request: Request) -> Response:
    """A batch of metric points, packed."""
    caller = await authenticate(request)
    portal = portal_of(request)
    key, place = read_key(request.headers), read_place(request.headers)
    if place is None:
        raise bad("Metrics stand in a stream: send the Seclea-* headers.", field="Seclea-Stream")
    scope = scope_of(request, caller)
    organization = await organization_of(portal, scope, request.query_params.get("project"))
    body = await read_bytes(request, portal.config.limits)
    batch, summary, digest = await in_thread(read_batch, body)
    effect = metrics(organization.id, place, body, digest, batch, summary)
    incoming = Incoming(organization.id, request.url.path, RecordKind.METRICS, digest, key, place, raw=body)
    with portal.running.hold(organization.id, key):
        return await portal.take(incoming, effect)


@router.post("/collection/metric-batches")
async def add_metric_batches(request: Request) -> Response:
    """Batches of metric points of one stream, each a record of its own: taken in order, up to the first that is not."""
    caller = await authenticate(request)
    portal = portal_of(request)
    organization = await organization_of(portal, scope_of(request, caller), request.query_params.get("project"))
    sent = await in_thread(read_many, await read_bytes(request, portal.config.limits))
    return json_reply(await take_many(portal, organization.id, sent))


@router.post("/collection/tombstones")
async def add_tombstone(request: Request) -> Response:
    """What is not in the stream, and why."""
    create = await read_create(request)
    await create.body.close()
    if create.place is None:
        raise bad("A tombstone stands in a stream: send the Seclea-* headers.", field="Seclea-Stream")
    tombstone = Tombstone.from_json(create.body.fields)
    record = tombstone.stands_for
    incoming = Incoming(
        create.organization.id,
        request.url.path,
        RecordKind.TOMBSTONE,
        create.body.digest,
        create.key,
        create.place,
        chained_kind=record.kind if record else None,
        chained_digest=record.digest if record else None,
        raw=create.body.raw,
    )
    with create.portal.running.hold(create.organization.id, create.key):
        return await create.portal.take(incoming, tombstone.effect(create.organization.id, create.place))


@router.post("/collection/training-runs/{uuid}/finish")
async def finish(request: Request) -> Response:
    """The end of a run."""
    create = await read_create(request)
    await create.body.close()
    uuid = _run_uuid(request)
    effect = creates.finish(create.organization, uuid, create.body.fields)
    return await take_create(create, RecordKind.FINISH, request.url.path, effect)


@router.get("/collection/training-runs/{uuid}/metrics")
async def curve(request: Request) -> Response:
    """One key's points, thinned where there are more than asked for, and everything that is missing."""
    run_id = await _run_id(request)
    key = request.query_params.get("key")
    if not key:
        raise bad("key is required.", field="key")
    points = int_field(request.query_params, "points", high=1_000_000)

    def answer() -> Response:
        found = portal_of(request).database.read_now(lambda connection: read_curve(connection, run_id, key))
        return json_reply(found.to_json(key, points))

    return await in_thread(answer)


@router.get("/collection/training-runs/{uuid}/metric-keys")
async def keys(request: Request) -> Response:
    """The keys that the run logged, with their number of points and steps."""
    run_id = await _run_id(request)
    return json_reply(await portal_of(request).database.read(lambda connection: list_keys(connection, run_id)))


def _run_uuid(request: Request) -> str:
    uuid: str = request.path_params["uuid"].lower()
    if not is_uuid(uuid):
        raise not_found()
    return uuid


async def _run_id(request: Request) -> int:
    caller = await authenticate(request)
    scope = ids(scope_of(request, caller))
    uuid = _run_uuid(request)
    row = await portal_of(request).database.read(lambda connection: find_row(connection, TRAINING_RUNS, scope, uuid))
    if row is None:
        raise not_found()
    return int(row["id"])
