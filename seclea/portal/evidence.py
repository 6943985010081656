"""What a stream's records say and what was made of them, for somebody who does not take our word (docs/wire.md, "Records").

A record is told with its body as it came, and with the rows that it made where no object shows them (`_rows`): the columns
of a batch of metrics, a tombstone and its alias, the chunks of a payload, the ends that a `finish` told.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from sqlalchemy import Connection, and_, exists, func, literal, select, tuple_

from seclea.portal.objects import DATASETS, MODEL_STATES, TRAINING_RUNS, TRANSFORMATIONS, Collection, find_row
from seclea.portal.receipts import receipt_of
from seclea.portal.tables import (
    aliases,
    chunks,
    content_chunks,
    datasets,
    metric_batches,
    records,
    requests,
    streams,
    tombstones,
    training_runs,
    transformation_inputs,
)
from seclea.records import RecordKind

MOST = 1000  # records of one page
BYTES = 4 << 20  # of bodies in one page, and one more
_PAYLOADS: dict[str, Collection] = {RecordKind.DATASET: DATASETS, RecordKind.MODEL_STATE: MODEL_STATES}


def read_heads(
    connection: Connection, organization_id: int, after: tuple[str, str], limit: int
) -> list[dict[str, Any]]:
    """Receipts of all streams, by stream and lane, after this one; ``stones`` are the rows of their tombstones."""
    own = streams.c
    rows = connection.execute(
        select(streams, training_runs.c.uuid)
        .outerjoin(training_runs, training_runs.c.id == own.training_run_id)
        .where(own.organization_id == organization_id, tuple_(own.stream, own.lane) > after)
        .order_by(own.stream, own.lane)
        .limit(limit)
    )
    return [{**receipt_of(connection, row), "stones": _stones(connection, row)} for row in rows.all()]


def _stones(connection: Connection, head: Any) -> int:
    """Rows of tombstones; a receipt counts their records."""
    own = tombstones.c
    count = select(func.count()).where(
        own.organization_id == head.organization_id, own.stream == head.stream, own.lane == head.lane
    )
    return connection.execute(count).scalar_one()


def read_records(
    connection: Connection, organization_id: int, stream: str, lane: str, after: int
) -> tuple[list[dict[str, Any]], int | None]:
    """A page of a lane's records after this sequence, in order, and what to ask for next."""
    rows = connection.execution_options(yield_per=20).execute(
        select(records, metric_batches.c.body.label("packed"))
        .outerjoin(
            metric_batches,
            and_(
                records.c.kind == str(RecordKind.METRICS),
                metric_batches.c.organization_id == records.c.organization_id,
                metric_batches.c.stream == records.c.stream,
                metric_batches.c.first == records.c.first,
            ),
        )
        .where(
            records.c.organization_id == organization_id,
            records.c.stream == stream,
            records.c.lane == lane,
            records.c.first > after,
        )
        .order_by(records.c.first)
    )
    told: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        if len(told) == MOST or size > BYTES:
            rows.close()
            return told, told[-1]["first"]
        body = row.packed if row.kind == RecordKind.METRICS else row.body
        size += len(body or b"")
        told.append(_told(connection, row, body))
    return told, None


def find_records(connection: Connection, organization_id: int, uuid: str) -> list[dict[str, Any]]:
    """Where the records stand that made, ended or stand for an object."""
    rows = connection.execute(
        select(records.c.stream, records.c.lane, records.c.first, records.c.last, records.c.kind)
        .where(records.c.organization_id == organization_id, records.c.object == uuid)
        .order_by(records.c.stream, records.c.lane, records.c.first)
        .limit(MOST)
    )
    return [dict(row) for row in rows.mappings()]


def has_stream(connection: Connection, organization_id: int, stream: str) -> bool:
    """Whether it has a head."""
    found = select(streams.c.lane).where(streams.c.organization_id == organization_id, streams.c.stream == stream)
    return connection.execute(found).first() is not None


def _told(connection: Connection, row: Any, body: bytes | None) -> dict[str, Any]:
    key = f"{row.stream.replace('-', '')}.{row.lane}.{row.first}"
    request = select(requests.c.digest).where(
        requests.c.organization_id == row.organization_id, requests.c.key.in_((key, f"{key}.t"))
    )
    digest = connection.execute(request).scalar()
    return {
        "first": row.first,
        "last": row.last,
        "kind": row.kind,
        "chained_kind": row.chained_kind,
        "digest": row.digest.hex(),
        "chain": row.chain.hex(),
        "object": row.object,
        "body_bytes": row.body_bytes,
        "request": None if digest is None else digest.hex(),
        "body": None if body is None else base64.b64encode(body).decode("ascii"),
        "rows": _rows(connection, row),
    }


def _rows(connection: Connection, row: Any) -> dict[str, Any] | None:
    """What the record made that no object shows; None where there is nothing (any more)."""
    if row.kind == RecordKind.METRICS:
        return _batch(connection, row)
    if row.kind == RecordKind.TOMBSTONE:
        return _tombstone(connection, row)
    if row.kind in _PAYLOADS:
        found = find_row(connection, _PAYLOADS[row.kind], (row.organization_id,), row.object or "")
        return None if found is None else {"chunks": _chunks(connection, row.organization_id, found["content_id"])}
    if row.kind == RecordKind.DATASET_TRANSFORMATION:
        found = find_row(connection, TRANSFORMATIONS, (row.organization_id,), row.object or "")
        return None if found is None else {"inputs": _inputs(connection, found["id"])}
    if row.kind == RecordKind.FINISH:
        found = find_row(connection, TRAINING_RUNS, (row.organization_id,), row.object or "")
        return None if found is None else {"ends": _json(found["ends"])}
    return None


def _batch(connection: Connection, row: Any) -> dict[str, Any] | None:
    found = connection.execute(
        select(metric_batches, training_runs.c.uuid)
        .outerjoin(training_runs, training_runs.c.id == metric_batches.c.training_run_id)
        .where(
            metric_batches.c.organization_id == row.organization_id,
            metric_batches.c.stream == row.stream,
            metric_batches.c.first == row.first,
        )
    ).first()
    if found is None:
        return None
    told = {"run": found.uuid, "first": found.first, "last": found.last, "rank": found.rank, "count": found.count}
    return {**told, "keys": _json(found.keys), "summary": _json(found.summary), "digest": found.digest.hex()}


def _tombstone(connection: Connection, row: Any) -> dict[str, Any] | None:
    found = connection.execute(
        select(tombstones).where(
            tombstones.c.organization_id == row.organization_id,
            tombstones.c.stream == row.stream,
            tombstones.c.lane == row.lane,
            tombstones.c.sequence == row.first,
        )
    ).first()
    if found is None:
        return None
    alias = select(aliases.c.kind, aliases.c.target).where(
        aliases.c.organization_id == row.organization_id, aliases.c.uuid == row.object
    )
    known_as = connection.execute(alias).first()
    return {
        "kind": found.kind,
        "count": found.count,
        "reason": found.reason,
        "detail": found.detail,
        "stands_for": _json(found.stands_for),
        "alias": None if known_as is None else [known_as.kind, known_as.target],
    }


def _chunks(connection: Connection, organization_id: int, content_id: int | None) -> list[list[Any]]:
    """The chunks of a payload, in order. One that the organisation does not have with this length has none."""
    own = and_(
        chunks.c.organization_id == organization_id,
        chunks.c.sha256 == content_chunks.c.sha256,
        chunks.c.bytes == content_chunks.c.bytes,
    )
    rows = connection.execute(
        select(content_chunks.c.sha256, chunks.c.bytes)
        .outerjoin(chunks, own)
        .where(content_chunks.c.content_id == content_id)
        .order_by(content_chunks.c.position)
    )
    return [[row.sha256, row.bytes] for row in rows]


def _inputs(connection: Connection, row_id: int) -> list[str | None]:
    """The inputs that a transformation named."""
    own = transformation_inputs.c
    rows = connection.execute(
        select(datasets.c.uuid)
        .select_from(transformation_inputs)
        .outerjoin(datasets, datasets.c.id == own.dataset_id)
        .where(own.transformation_id == row_id)
        .order_by(own.position)
    )
    return [row.uuid for row in rows]


def find_strays(connection: Connection, organization_id: int) -> list[dict[str, Any]]:
    """Streams and lanes that have rows and no head: nobody is shown them, and nobody should have made them."""
    found: set[tuple[str, str]] = set()
    for table, lane in (
        (records, records.c.lane),
        (tombstones, tombstones.c.lane),
        (metric_batches, literal("ordered")),
    ):
        head = and_(
            streams.c.organization_id == organization_id, streams.c.stream == table.c.stream, streams.c.lane == lane
        )
        rows = (
            select(table.c.stream, lane)
            .where(table.c.organization_id == organization_id, ~exists().where(head))
            .distinct()
            .limit(MOST)
        )
        found |= {(row[0], row[1]) for row in connection.execute(rows)}
    return [{"stream": stream, "lane": lane} for stream, lane in sorted(found)]


def _json(text: str | None) -> Any:
    """What a column holds; as text where that is no JSON (any more)."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text
