"""Objects: lists, single ones, and creates in the dialects of both generations of clients."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from seclea.portal import creates
from seclea.portal.accounts import Organization
from seclea.portal.blobs import DamagedBlob
from seclea.portal.bodies import Body, is_uuid, read_body
from seclea.portal.context import Portal, authenticate, ids, only_organization, portal_of, scope_of
from seclea.portal.creates import Payload, check_chunks, payload_field
from seclea.portal.intake import Effect, Incoming, Place, read_key, read_place, replay
from seclea.portal.objects import COLLECTIONS, PROJECTS, Collection, find_row, show_list, show_one
from seclea.portal.payloads import check_whole, store_file
from seclea.portal.replies import Refusal, bad, json_reply, not_found, raw_json
from seclea.portal.threads import in_thread
from seclea.records import RecordKind

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Create:
    """A create that was read: whose it is, what it says and where it stands."""

    portal: Portal
    organization: Organization
    body: Body
    key: str | None
    place: Place | None


async def read_create(request: Request) -> Create:
    """Authenticate, read and place a create."""
    caller = await authenticate(request)
    portal = portal_of(request)
    key, place = read_key(request.headers), read_place(request.headers)
    body = await read_body(request, portal.config.limits)
    try:
        fields = body.fields
        if place is not None and not body.is_json:
            raise bad("A record in a stream has a JSON body.")
        fields.setdefault("project", request.query_params.get("project"))
        scope = scope_of(request, caller, fields)
        organization = await organization_of(portal, scope, fields.get("project"))
    except BaseException:
        await body.close()
        raise
    return Create(portal, organization, body, key, place)


async def organization_of(portal: Portal, scope: tuple[Organization, ...], project: Any) -> Organization:
    """The organisation of a create: the one named, the caller's only one, or that of the project."""
    if len(scope) > 1 and isinstance(project, str) and is_uuid(project.lower()):
        row = await portal.database.read(lambda connection: find_row(connection, PROJECTS, ids(scope), project.lower()))
        if row is not None:
            return next(item for item in scope if item.id == row["organization_id"])
    return only_organization(scope)


async def take_create(create: Create, kind: RecordKind, target: str, effect: Effect) -> Response:
    """Take it in, under its key."""
    body = create.body
    incoming = Incoming(create.organization.id, target, kind, body.digest, create.key, create.place, raw=body.raw)
    with create.portal.running.hold(create.organization.id, create.key):
        return await create.portal.take(incoming, effect)


# ------------------------------------------------------------------------------------------------------------ lists


def _read_routes(collection: Collection) -> None:
    async def many(request: Request) -> Response:
        return await _list(request, collection)

    async def one(request: Request) -> Response:
        return await _show(request, collection)

    many.__doc__ = f"List {collection.path}."
    one.__doc__ = f"One of {collection.path}."
    router.add_api_route(f"/collection/{collection.path}", many, methods=["GET"], name=f"list {collection.path}")
    router.add_api_route(
        f"/collection/{collection.path}/{{uuid}}", one, methods=["GET"], name=f"one of {collection.path}"
    )


for _collection in COLLECTIONS.values():
    _read_routes(_collection)


async def _list(request: Request, collection: Collection) -> Response:
    caller = await authenticate(request)
    portal = portal_of(request)
    scope = ids(scope_of(request, caller))
    query = dict(request.query_params)
    limit, after = page_of(query, portal.config.limits.page)
    items, following = await portal.database.read(
        lambda connection: show_list(connection, collection, scope, query, after=after, limit=limit)
    )
    headers = None
    if following is not None:
        cursor = base64.urlsafe_b64encode(str(following).encode()).decode()
        rest = urlencode({**query, "limit": str(limit), "cursor": cursor})
        headers = {"Link": f'<{request.url.path}?{rest}>; rel="next"'}
    return json_reply(items, headers=headers)


def page_of(query: dict[str, str], most: int) -> tuple[int, int]:
    """``limit`` and the row id that ``cursor`` stands for."""
    try:
        limit = int(query.get("limit", most))
        cursor = query.get("cursor")
        after = int(base64.urlsafe_b64decode(cursor)) if cursor else 0
    except (ValueError, binascii.Error):
        raise bad("limit or cursor cannot be read.") from None
    if limit < 1 or not 0 <= after < 2**63:
        raise bad("limit or cursor cannot be read.")
    return min(limit, most), after


async def _show(request: Request, collection: Collection) -> Response:
    caller = await authenticate(request)
    scope = ids(scope_of(request, caller))
    uuid = request.path_params["uuid"].lower()
    found = None
    if is_uuid(uuid):
        found = await portal_of(request).database.read(lambda connection: show_one(connection, collection, scope, uuid))
    if found is None:
        raise not_found()
    return json_reply(found)


# ---------------------------------------------------------------------------------------------------------- creates


@router.post("/collection/projects")
async def create_project(request: Request) -> Response:
    """Make a project."""
    return await _create(request, RecordKind.PROJECT, creates.project)


@router.post("/collection/models")
async def create_model(request: Request) -> Response:
    """Make a model."""
    return await _create(request, RecordKind.MODEL, creates.model)


@router.post("/collection/dataset-transformations")
async def create_transformation(request: Request) -> Response:
    """Make a dataset transformation."""
    return await _create(request, RecordKind.DATASET_TRANSFORMATION, creates.transformation)


@router.post("/collection/training-runs")
async def create_training_run(request: Request) -> Response:
    """Make a training run."""
    create = await read_create(request)
    await create.body.close()
    opens = create.place is not None and create.place.first == 1
    effect = creates.training_run(create.organization, create.body.fields, opens_stream=opens)
    return await take_create(create, RecordKind.TRAINING_RUN, request.url.path, effect)


async def _create(
    request: Request, kind: RecordKind, make: Callable[[Organization, dict[str, Any]], Effect]
) -> Response:
    create = await read_create(request)
    await create.body.close()
    effect = make(create.organization, create.body.fields)
    return await take_create(create, kind, request.url.path, effect)


@router.post("/collection/datasets")
async def create_dataset(request: Request) -> Response:
    """Make a dataset from a file part, or from chunks."""
    return await _create_with_payload(request, RecordKind.DATASET, creates.dataset, "dataset")


@router.post("/collection/model-states")
async def create_model_state(request: Request) -> Response:
    """Make a model state from a file part, or from chunks."""
    return await _create_with_payload(request, RecordKind.MODEL_STATE, creates.model_state, "state")


async def _create_with_payload(
    request: Request,
    kind: RecordKind,
    make: Callable[[Organization, dict[str, Any], Payload | None], Effect],
    part: str,
) -> Response:
    create = await read_create(request)
    portal, body, organization = create.portal, create.body, create.organization
    try:
        make(organization, body.fields, None)  # the fields are checked before the payload is looked at
        payload = payload_field(body.fields, portal.config.limits)
        if payload is None and body.file is None:
            raise bad(f"A file ({part}) or chunks are required.", field=part)
        with portal.running.hold(organization.id, create.key):
            if payload is None:
                assert body.file is not None
                payload = await store_file(portal.database, portal.blobs, organization.id, body.file.file)
                body.digest = hashlib.sha256(body.digest + bytes.fromhex(payload.sha256)).digest()
            incoming = Incoming(
                organization.id, request.url.path, kind, body.digest, create.key, create.place, raw=body.raw
            )
            known = await portal.database.read(lambda connection: _known(connection, incoming, payload))
            if known is not None:
                return known
            if body.file is None:
                await _check_whole(portal, payload)
            return await portal.take(incoming, make(organization, body.fields, payload))
    finally:
        await body.close()


async def _check_whole(portal: Portal, payload: Payload) -> None:
    try:
        await in_thread(check_whole, portal.blobs, payload)
    except DamagedBlob as error:  # sent again, it is healed
        detail = f"A chunk has been damaged here: {error}. Send it again."
        raise Refusal(409, detail, code="missing_chunks", missing=[error.sha256]) from None


def _known(connection: Connection, incoming: Incoming, payload: Payload) -> Response | None:
    """The first reply where there was one; else look that every chunk is here, before they are read."""
    first = replay(connection, incoming)
    if first is not None:
        return raw_json(first.body, first.status, {"Idempotency-Replayed": "true"})
    check_chunks(connection, incoming.organization_id, payload)
    return None
