"""Records as the writer makes them, for the tests of the wire: each maker keeps the head of one stream."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

from seclea.entities import new_uuid
from seclea.records import (
    CHAIN_START,
    Lane,
    MetricBatch,
    Record,
    RecordKind,
    Status,
    canonical_json,
    chain_hash,
    idempotency_key,
    lane_of,
    pack_metrics,
    tombstone_body,
)

CONTENT = b"a,b\n1,2\n" * 1000
CHUNK = hashlib.sha256(CONTENT).hexdigest()


class RecordMaker:
    """One stream with one project, model, dataset, run and state."""

    def __init__(self) -> None:
        self.stream = uuid.uuid4().bytes
        self.heads: dict[Lane, tuple[int, bytes]] = {}
        self.project, self.model, self.dataset, self.run, self.state, self.step = (new_uuid() for _ in range(6))

    def record(
        self,
        kind: RecordKind,
        body: Any,
        *,
        count: int = 1,
        run: str | None = None,
        chunked: bool = False,
        lane: Lane | None = None,
    ) -> Record:
        """The next record of its lane."""
        raw = body if isinstance(body, bytes) else canonical_json(body)
        lane = lane or lane_of(kind)
        head, chain = self.heads.get(lane, (0, CHAIN_START))
        first, last, digest = head + 1, head + count, hashlib.sha256(raw).digest()
        after = chain_hash(chain, self.stream, lane, first, last, kind, digest)
        self.heads[lane] = (last, after)
        key = idempotency_key(self.stream, lane, first)
        entity = body["uuid"] if isinstance(body, dict) and "uuid" in body else None
        chunks = ((CHUNK, len(CONTENT)),) if chunked else ()
        return Record(
            1,
            kind,
            Status.TRANSMITTING,
            1,
            self.stream,
            lane,
            first,
            last,
            key,
            raw,
            digest,
            after,
            entity,
            run,
            chunks=chunks,
        )

    def make(self, kind: RecordKind, **changes: Any) -> Record:
        """A typical record of a kind, in the form of docs/wire.md."""
        payload = {"chunks": [[CHUNK, len(CONTENT)]], "size": len(CONTENT), "sha256": CHUNK, "format": "csv"}
        bodies: dict[RecordKind, dict[str, Any]] = {
            RecordKind.PROJECT: {"uuid": self.project, "name": "Claims", "description": "of 2026"},
            RecordKind.MODEL: {"uuid": self.model, "project": self.project, "name": "SGD", "framework": "sklearn"},
            RecordKind.DATASET: {
                "uuid": self.dataset, "project": self.project, "name": "Claims", "metadata": {"split": None},
                "hash": "ab" * 32, "parent": None, "intermediate": False, **payload,
            },
            RecordKind.DATASET_TRANSFORMATION: {
                "uuid": self.step, "dataset": self.dataset, "name": "encode", "code_raw": "def encode(): ...",
                "code_encoded": "", "order": 0, "details": {},
            },
            RecordKind.TRAINING_RUN: {
                "uuid": self.run, "project": self.project, "name": "Training Run 1", "model": self.model,
                "datasets": [self.dataset], "params": {"alpha": 0.1}, "metadata": {}, "started_ns": 1,
            },
            RecordKind.MODEL_STATE: {
                "uuid": self.state, "project": self.project, "training_run": self.run, "sequence_num": 3, "step": 10,
                "final_state": False, "framework": "sklearn", "metadata": {}, "created_ns": 1, **payload,
            },
            RecordKind.FINISH: {"status": "finished", "finished_ns": 2, "streams": []},
        }  # fmt: skip
        if kind is RecordKind.METRICS:
            return self.metrics()
        if kind is RecordKind.TOMBSTONE:
            return self.record(kind, tombstone_body("metrics", 3, "dropped", "paused"))
        of_run = kind in (RecordKind.TRAINING_RUN, RecordKind.MODEL_STATE, RecordKind.FINISH)
        run = self.run if of_run else None
        return self.record(kind, bodies[kind] | changes, run=run, chunked="chunks" in bodies[kind])

    def metrics(self, calls: int = 500) -> Record:
        """A batch of log calls."""
        first = self.heads.get(Lane.ORDERED, (0, b""))[0] + 1
        batch = MetricBatch(self.run, 0, first)
        for number in range(calls):
            batch.append(first + number, number, 1_700_000_000_000_000_000 + number, {"loss": 1 / (number + 1)})
        return self.record(RecordKind.METRICS, pack_metrics(batch), count=calls, run=self.run)
