"""Metric batches: kept packed as they came, read back as curves.

Rule 1  No row per point: a batch is one row, its body untouched.
Rule 2  A reader is told of every hole. What is served was checked against the digest that the chain covers, and the
        batches of a stream join up with its other records, from 1 to the head; what does not is in ``gaps``.
Rule 3  Thinned curves keep the smallest and the largest value of each bucket, and a NaN always.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

from sqlalchemy import Connection, and_, bindparam, insert, select, update

from seclea.portal.bodies import INT64
from seclea.portal.creates import IN_LIST
from seclea.portal.database import now_ns
from seclea.portal.intake import Effect, Effected, Place
from seclea.portal.objects import TRAINING_RUNS, find_row
from seclea.portal.replies import bad, missing_parent
from seclea.portal.tables import metric_batches, metric_keys, records, streams, tombstones, training_runs
from seclea.records import MAX_KEY_CHARACTERS, Lane, MetricBatch, RecordKind, unpack_metrics

Summary = list[list[Any]]  # as `summarise` says, one entry per key


# ---------------------------------------------------------------------------------------------------------- storing


def column_of(batch: MetricBatch, number: int) -> tuple[array[int], array[int], array[float]]:
    """Steps, times and values of the key with this number, in the order logged."""
    keys, width = batch.key, len(batch.keys)
    if width == 1:
        return batch.step, batch.time, batch.value
    if len(keys) % width == 0 and keys == array("H", range(width)) * (len(keys) // width):
        return batch.step[number::width], batch.time[number::width], batch.value[number::width]
    chosen = [number == key for key in keys]
    return (
        array("q", compress(batch.step, chosen)),
        array("q", compress(batch.time, chosen)),
        array("d", compress(batch.value, chosen)),
    )


def summarise(batch: MetricBatch) -> Summary:
    """For each key: points, smallest, largest (of the finite ones), first step, last step, points that are not finite."""
    summary: Summary = []
    for number in range(len(batch.keys)):
        steps, _, values = column_of(batch, number)
        finite: Iterable[float] = values if math.isfinite(sum(values)) else [v for v in values if math.isfinite(v)]
        if not steps:
            summary.append([0, None, None, None, None, 0])
            continue
        known = list(finite)
        summary.append(
            [
                len(values),
                min(known) if known else None,
                max(known) if known else None,
                steps[0],
                steps[-1],
                len(values) - len(known),
            ]
        )
    return summary


def read_batch(body: bytes) -> tuple[MetricBatch, Summary, bytes]:
    """A batch, its summary and its digest from a request's body.

    Raises:
        Refusal: 400.
    """
    try:
        batch = unpack_metrics(body)
    except (ValueError, OverflowError, MemoryError) as error:
        raise bad(f"The metrics cannot be read: {error}") from None
    if batch.last > INT64 or batch.rank > 2**31 - 1:
        raise bad("last or rank is too large.")
    for key in batch.keys:
        if not key or len(key) > MAX_KEY_CHARACTERS or "\x00" in key:
            raise bad(f"A metric's key has 1 to {MAX_KEY_CHARACTERS} characters and no NUL.", field="keys")
    return batch, summarise(batch), hashlib.sha256(body).digest()


def metrics(
    organization_id: int, place: Place, body: bytes, digest: bytes, batch: MetricBatch, summary: Summary
) -> Effect:
    """Keep a batch."""
    if (batch.first, batch.last) != (place.first, place.last):
        raise bad("first and last are not those of Seclea-Sequence.", field="Seclea-Sequence")

    def effect(connection: Connection) -> Effected:
        run = find_row(connection, TRAINING_RUNS, (organization_id,), batch.run)
        if run is None:
            raise missing_parent("training_run", batch.run)
        connection.execute(
            _ADD_BATCH,
            {
                "organization_id": organization_id,
                "training_run_id": run["id"],
                "stream": place.stream,
                "first": batch.first,
                "last": batch.last,
                "rank": batch.rank,
                "count": batch.count,
                "keys": json.dumps(batch.keys),
                "summary": json.dumps(summary, separators=(",", ":")),
                "digest": digest,
                "body": body,
                "created_ns": now_ns(),
            },
        )
        _count_keys(connection, run["id"], batch.keys, summary)
        return Effected({"uuid": run["uuid"], "count": batch.count}, run["id"])

    return effect


# Built once: building a statement costs five times as much as running it.
_ADD_BATCH = insert(metric_batches)
_FIND_KEYS = select(metric_keys).where(
    metric_keys.c.training_run_id == bindparam("run"), metric_keys.c.key.in_(bindparam("names", expanding=True))
)
_ADD_KEYS = insert(metric_keys)
_MOVE_KEYS = (
    update(metric_keys)
    .where(metric_keys.c.training_run_id == bindparam("run"), metric_keys.c.key == bindparam("name"))
    .values(count=bindparam("to_count"), first_step=bindparam("to_first"), last_step=bindparam("to_last"))
)


def _count_keys(connection: Connection, run_id: int, keys: list[str], summary: Summary) -> None:
    known: dict[str, Any] = {}
    for start in range(0, len(keys), IN_LIST):
        rows = connection.execute(_FIND_KEYS, {"run": run_id, "names": keys[start : start + IN_LIST]})
        known.update((row.key, row) for row in rows)
    added, moved = [], []
    for key, (count, _, _, first_step, last_step, _) in zip(keys, summary, strict=True):
        if not count:
            continue
        row = known.get(key)
        if row is None:
            named = {"training_run_id": run_id, "key": key}
            added.append({**named, "count": count, "first_step": first_step, "last_step": last_step})
        else:
            steps = {"to_first": min(row.first_step, first_step), "to_last": max(row.last_step, last_step)}
            moved.append({"run": run_id, "name": key, "to_count": row.count + count, **steps})
    if added:
        connection.execute(_ADD_KEYS, added)
    if moved:
        connection.execute(_MOVE_KEYS, moved)


# ---------------------------------------------------------------------------------------------------------- reading


def list_keys(connection: Connection, run_id: int) -> list[dict[str, Any]]:
    """The keys of a run by name, with how many points they have and from which step to which."""
    rows = connection.execute(
        select(metric_keys).where(metric_keys.c.training_run_id == run_id).order_by(metric_keys.c.key)
    )
    return [
        {"key": row.key, "count": row.count, "first_step": row.first_step, "last_step": row.last_step} for row in rows
    ]


@dataclass(slots=True)
class Series:
    """One stream's part of a curve."""

    rank: int
    steps: array[int] = field(default_factory=lambda: array("q"))
    times: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))


@dataclass(slots=True)
class Curve:
    """What was read of one key: a series per stream, and everything that is not there."""

    series: list[Series]
    gaps: list[dict[str, Any]]
    tombstones: list[dict[str, Any]]

    def to_json(self, key: str, points: int | None) -> dict[str, Any]:
        """The reply, with at most ``points`` points."""
        count = sum(len(item.values) for item in self.series)
        steps: list[int] = []
        times: list[int] = []
        values: list[float | str] = []
        ranks: list[int] = []
        for item, share in zip(self.series, shares([len(item.values) for item in self.series], points), strict=True):
            chosen = thin(item.values, share)
            steps.extend(item.steps[index] for index in chosen)
            times.extend(item.times[index] for index in chosen)
            values.extend(number_to_json(item.values[index]) for index in chosen)
            ranks.extend([item.rank] * len(chosen))
        answer = {"key": key, "count": count, "steps": steps, "values": values, "times": times, "ranks": ranks}
        return {**answer, "gaps": self.gaps, "tombstones": self.tombstones}


def number_to_json(value: float) -> float | str:
    """JSON has no word for three floats."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def shares(counts: list[int], points: int | None) -> list[int]:
    """How many points each series gets of ``points`` in all: in proportion, and one at least while there are enough."""
    total = sum(counts)
    if points is None or total <= points:
        return counts
    given = [count * points // total for count in counts]
    left = points - sum(given)
    for index in sorted(range(len(counts)), key=lambda index: given[index]):
        if left and given[index] < counts[index]:
            given[index] += 1
            left -= 1
    return given


def thin(values: array[float], points: int) -> Sequence[int]:
    """The indices to keep, in order and at most ``points``: of each bucket its smallest and its largest value."""
    count = len(values)
    if count <= points:
        return range(count)
    if points < 2:
        return range(count - points, count)  # the last one, or none
    buckets = points // 2
    chosen: list[int] = []
    for bucket in range(buckets):
        start, end = bucket * count // buckets, (bucket + 1) * count // buckets
        part = values[start:end]
        extremes = {part.index(min(part)), part.index(max(part))} if not math.isnan(sum(part)) else _with_nan(part)
        chosen.extend(start + offset for offset in sorted(extremes))
    return chosen


def _with_nan(part: array[float]) -> set[int]:
    """The same where the sum is NaN: there is one, or both infinities. ``min`` and ``max`` cannot be used with a NaN."""
    broken = [index for index, value in enumerate(part) if math.isnan(value)]
    sound = [value for value in part if not math.isnan(value)]
    if not broken:
        return {part.index(min(sound)), part.index(max(sound))}
    return {broken[0], part.index(min(sound))} if sound else {broken[0]}


def read_curve(connection: Connection, run_id: int, key: str) -> Curve:
    """Every point of one key, in order of (stream, sequence), and what is missing between them."""
    series: list[Series] = []
    gaps: list[dict[str, Any]] = []
    buried: list[dict[str, Any]] = []
    for head in connection.execute(
        select(streams)
        .where(streams.c.training_run_id == run_id, streams.c.lane == str(Lane.ORDERED))
        .order_by(streams.c.stream)
    ).all():
        reader = _StreamReader(connection, head)
        part: Series | None = None
        for batch in reader.batches():
            if key not in batch.keys:
                continue
            if part is None:
                part = Series(batch.rank)
                series.append(part)
            steps, times, values = column_of(batch, batch.keys.index(key))
            part.steps.extend(steps)
            part.times.extend(times)
            part.values.extend(values)
        gaps.extend(reader.gaps)
        buried.extend(reader.tombstones())
    gaps.extend(awaited(connection, run_id))
    return Curve(series, gaps, buried)


class _StreamReader:
    """Walks one stream's records from 1 to the head, and names what is not as the chain says."""

    def __init__(self, connection: Connection, head: Any) -> None:
        self._connection = connection
        self._head = head
        self.gaps: list[dict[str, Any]] = []

    def batches(self) -> Iterator[MetricBatch]:
        """The sound batches."""
        expected = 1
        joined = records.outerjoin(
            metric_batches,
            and_(
                metric_batches.c.organization_id == records.c.organization_id,
                metric_batches.c.stream == records.c.stream,
                metric_batches.c.first == records.c.first,
            ),
        )
        rows = self._connection.execution_options(yield_per=50).execute(
            select(
                records.c.first,
                records.c.last,
                records.c.kind,
                records.c.digest,
                metric_batches.c.body,
            )
            .select_from(joined)
            .where(
                records.c.organization_id == self._head.organization_id,
                records.c.stream == self._head.stream,
                records.c.lane == str(Lane.ORDERED),
            )
            .order_by(records.c.first)
        )
        for row in rows:
            if row.first != expected:
                self._miss(expected, row.first - 1, "missing")
            expected = row.last + 1
            if row.kind != RecordKind.METRICS:
                continue
            if row.body is None:
                self._miss(row.first, row.last, "missing")
            elif hashlib.sha256(row.body).digest() != row.digest:
                self._miss(row.first, row.last, "damaged")
            else:
                yield unpack_metrics(row.body)
        if expected <= self._head.sequence:
            self._miss(expected, self._head.sequence, "missing")

    def tombstones(self) -> list[dict[str, Any]]:
        """What the client says that it left out of this stream."""
        rows = self._connection.execute(
            select(tombstones.c.sequence, tombstones.c.kind, tombstones.c.count, tombstones.c.reason)
            .where(
                tombstones.c.organization_id == self._head.organization_id,
                tombstones.c.stream == self._head.stream,
                tombstones.c.lane == str(Lane.ORDERED),
                tombstones.c.kind == str(RecordKind.METRICS),
            )
            .order_by(tombstones.c.sequence)
        ).all()
        return [
            {"stream": self._head.stream, "sequence": row.sequence, "count": row.count, "reason": row.reason}
            for row in rows
        ]

    def _miss(self, first: int, last: int, reason: str) -> None:
        self.gaps.append({"stream": self._head.stream, "first": first, "last": last, "reason": reason})


def awaited(connection: Connection, run_id: int) -> list[dict[str, Any]]:
    """What `finish` said there would be and has not come (yet)."""
    row = connection.execute(
        select(training_runs.c.organization_id, training_runs.c.ends).where(training_runs.c.id == run_id)
    ).one()
    missing = []
    for end in json.loads(row.ends):
        if end["lane"] != Lane.ORDERED:
            continue
        head = connection.execute(
            select(streams.c.sequence).where(
                streams.c.organization_id == row.organization_id,
                streams.c.stream == end["stream"],
                streams.c.lane == end["lane"],
            )
        ).scalar()
        if (head or 0) < end["sequence"]:
            missing.append(
                {"stream": end["stream"], "first": (head or 0) + 1, "last": end["sequence"], "reason": "awaited"}
            )
    return missing
