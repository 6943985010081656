"""Receipts: what the portal holds of a stream, to be compared with what was logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, select

from seclea.portal.objects import TRAINING_RUNS, find_row
from seclea.portal.tables import metric_batches, records, streams, training_runs
from seclea.records import Lane, RecordKind


def read_receipts(
    connection: Connection, scope: Sequence[int], stream: str | None, run: str | None
) -> list[dict[str, Any]]:
    """The heads, with counts taken from the rows themselves: what was removed afterwards is not counted."""
    statement = (
        select(streams, training_runs.c.uuid)
        .outerjoin(training_runs, training_runs.c.id == streams.c.training_run_id)
        .where(streams.c.organization_id.in_(scope))
        .order_by(streams.c.stream, streams.c.lane.desc())
    )
    if stream is not None:
        statement = statement.where(streams.c.stream == stream)
    if run is not None:
        row = find_row(connection, TRAINING_RUNS, scope, run)
        if row is None:
            return []
        own = select(streams.c.stream).where(streams.c.training_run_id == row["id"])
        statement = statement.where(
            streams.c.organization_id == row["organization_id"], streams.c.stream.in_(own.scalar_subquery())
        )
    return [receipt_of(connection, head) for head in connection.execute(statement).all()]


def receipt_of(connection: Connection, head: Any) -> dict[str, Any]:
    """The receipt of a head, with its run's uuid."""
    counts: dict[str, int] = dict(
        connection.execute(
            select(records.c.kind, func.count())
            .where(
                records.c.organization_id == head.organization_id,
                records.c.stream == head.stream,
                records.c.lane == head.lane,
            )
            .group_by(records.c.kind)
            .order_by(records.c.kind)
        )
        .tuples()
        .all()
    )
    points = 0
    if head.lane == Lane.ORDERED:
        held = select(func.count(), func.coalesce(func.sum(metric_batches.c.count), 0)).where(
            metric_batches.c.organization_id == head.organization_id, metric_batches.c.stream == head.stream
        )
        batches, points = connection.execute(held).tuples().one()
        if RecordKind.METRICS in counts:
            counts[str(RecordKind.METRICS)] = batches
    return {
        "stream": head.stream,
        "lane": head.lane,
        "sequence": head.sequence,
        "chain": head.chain.hex(),
        "counts": counts,
        "points": points,
        "tombstones": counts.get(str(RecordKind.TOMBSTONE), 0),
        "training_run": head.uuid,
    }
