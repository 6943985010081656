"""A stream as the writer knows it: what one process says about one session or one run."""

from __future__ import annotations

from dataclasses import dataclass

from seclea.records import MetricBatch


@dataclass(slots=True)
class Stream:
    """A stream as the recorder knows it; the ledger has the same."""

    id: int
    uuid: bytes
    destination: int
    project: str
    run: str | None
    rank: int
    sequence: int  # of the ordered lane, counting calls in the open batch
    batch: MetricBatch | None = None
