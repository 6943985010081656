"""What is missing of a run, as far as the portal can know: holes in its streams, and what its client left out.

What a client has logged and not sent yet nobody knows here; `seclea status` on its machine does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, func, select

from seclea.portal.series import awaited
from seclea.portal.tables import records, streams, tombstones

# What a client says of log calls that it dropped, for people. Others stand as they are.
_WHY = {
    "paused": "logging was paused: a limit of the client was reached",
    "full": "the client's background writer was behind",
    "its process ended": "its process ended before they were taken over",
}
_REASONS = {
    "damaged": "damaged on the client's machine",
    "refused": "refused by this portal",
    "held": "it needs something that was refused",
}


def health_of(connection: Connection, run: Mapping[str, Any]) -> dict[str, Any]:
    """The health of a run (its row): ``streams``, ``last_ns`` of them, ``missing`` records, ``lost`` by reason.

    ``awaited``: records that its end names and that have not come yet.
    """
    here = (streams.c.organization_id == run["organization_id"], streams.c.training_run_id == run["id"])
    heads = connection.execute(select(streams).where(*here)).all()
    covered: dict[tuple[str, str], int] = {}
    for stream, lane, count in connection.execute(
        select(records.c.stream, records.c.lane, func.sum(records.c.last - records.c.first + 1))
        .join(streams, (streams.c.organization_id == records.c.organization_id) & (streams.c.stream == records.c.stream)
              & (streams.c.lane == records.c.lane))
        .where(*here)
        .group_by(records.c.stream, records.c.lane)
    ):  # fmt: skip
        covered[stream, lane] = int(count)
    return {
        "streams": len({head.stream for head in heads}),
        "last_ns": max((head.updated_ns for head in heads), default=None),
        "missing": sum(max(head.sequence - covered.get((head.stream, head.lane), 0), 0) for head in heads),
        "awaited": sum(one["last"] - one["first"] + 1 for one in awaited(connection, run["id"])),
        "lost": _lost(connection, run, {head.stream for head in heads}),
    }


def _lost(connection: Connection, run: Mapping[str, Any], of_run: set[str]) -> list[dict[str, Any]]:
    stones = tombstones.c
    rows = connection.execute(
        select(stones.kind, stones.count.label("number"), stones.reason, stones.detail, stones.created_ns).where(
            stones.organization_id == run["organization_id"],
            stones.stream.in_(of_run),
            stones.reason != "adopted",  # it is there, under another id
        )
    )
    found: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        why = _WHY.get(row.detail, row.detail or "dropped") if row.reason == "dropped" else _REASONS[row.reason]
        counted = found[row.kind.replace("_", " "), why]
        counted[0] += row.number
        counted[1] = max(counted[1], row.created_ns)
    return [
        {"kind": kind, "why": why, "count": count, "last_ns": last_ns}
        for (kind, why), (count, last_ns) in sorted(found.items(), key=lambda item: -item[1][0])
    ]
