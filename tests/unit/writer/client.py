"""Frames as a client packs them, and a ledger to take them, without any process."""

import hashlib
import uuid
from pathlib import Path
from typing import Any

from seclea.contract import Home
from seclea.entities import Dataset, Entity, Model, ModelState, TrainingRun
from seclea.frames import EntityFrame, FinishFrame, FrameType, MetricsFrame, StreamFrame, TombstoneFrame, pack_large
from seclea.ledger.blobs import Spool
from seclea.ledger.db import Ledger
from seclea.processes.rendezvous import prepare
from seclea.writer.again import Again
from seclea.writer.recorder import Recorder
from seclea.writer.settle import Settler

DESTINATION = ("https://portal", "https://auth", "Acme")
TIME_NS = 1_700_000_000_000_000_000


class Client:
    """One ring's worth of frames, numbered."""

    def __init__(self, project: str = "Claims", destination: tuple[str, str, str] = DESTINATION) -> None:
        self.ring = uuid.uuid4().bytes
        self.frames: list[tuple[int, int, bytes]] = []
        self.project = project
        self.destination = destination
        self.streams: list[bytes] = []

    def add(self, kind: FrameType, payload: bytes) -> None:
        self.frames.append((int(kind), len(self.frames) + 1, payload))

    def stream(self, run: str | None = None, rank: int = 0) -> int:
        index, stream = len(self.streams), uuid.uuid4().bytes
        self.streams.append(stream)
        frame = StreamFrame(index, stream, self.destination, self.project, run, rank, {"disk": 10**9})
        self.add(FrameType.STREAM, frame.pack())
        return index

    def entity(self, index: int, entity: Entity, payload: str | None = None) -> None:
        self.add(FrameType.ENTITY, EntityFrame(index, entity.kind, entity.to_json(), payload).pack())

    def run(self, session: int | None = None, **fields: Any) -> tuple[int, TrainingRun]:
        """A run in a stream of its own."""
        run = TrainingRun(**fields)
        index = self.stream(run.uuid)
        self.entity(index, run)
        return index, run

    def log(self, index: int, step: int, **metrics: float) -> None:
        self.add(FrameType.METRICS, MetricsFrame(index, step, TIME_NS + step, metrics).pack())

    def finish(self, index: int, status: str = "finished") -> None:
        self.add(FrameType.FINISH, FinishFrame(index, status, TIME_NS).pack())

    def leave_out(self, index: int, count: int) -> None:
        self.add(FrameType.TOMBSTONE, TombstoneFrame(index, "metrics", count, "dropped", "paused").pack())

    def large(self, kind: FrameType, name: str) -> None:
        self.add(FrameType.LARGE, pack_large(kind, name))


class Desk:
    """A ledger with a recorder and a settler, that does what the writer does in one step."""

    def __init__(self, directory: Path) -> None:
        self.home = Home(directory / "home")
        prepare(self.home)
        self.ledger = Ledger(self.home.ledger)
        self.spool = Spool(self.home)
        self.recorder = Recorder(self.ledger, self.spool)
        self.settler = Settler(self.ledger)
        self.again = Again(self.ledger, self.settler)

    def take(self, client: Client, first: int = 1, last: int | None = None) -> None:
        """Record the frames ``first..last`` of a client, and commit."""
        with self.ledger.transaction():
            self.recorder.take(client.ring, 1, client.frames[first - 1 : last])
            self.recorder.close_batches()
            for record in self.recorder.sealed:
                self.settler.hold_behind(record)
        self.recorder.sealed.clear()

    def restart(self) -> None:
        """As after a kill: nothing is remembered but the ledger."""
        self.ledger.close()
        self.ledger = Ledger(self.home.ledger)
        self.recorder = Recorder(self.ledger, self.spool)
        self.settler = Settler(self.ledger)
        self.again = Again(self.ledger, self.settler)

    def payload(self, content: bytes, name: str = "") -> str:
        name = name or uuid.uuid4().hex
        (self.home.incoming / name).write_bytes(content)
        return name

    def store_payloads(self) -> None:
        """What the payload threads do, and the commit that follows."""
        ready = {}
        for record, name in self.recorder.payloads:
            try:
                ready[record] = self.spool.store(name)
            except FileNotFoundError:
                ready[record] = f"its payload {name} is gone"  # type: ignore[assignment]
        self.recorder.payloads.clear()
        with self.ledger.transaction():
            for record, stored in sorted(ready.items()):
                assert self.recorder.seal_payload(record, stored)
            for record in self.recorder.sealed:
                self.settler.hold_behind(record)
        self.recorder.sealed.clear()

    def settle(self, record: int, verdict: str, **message: Any) -> None:
        with self.ledger.transaction():
            self.settler.apply({"op": "outcome", "record": record, "verdict": verdict, **message})

    def retry(self) -> tuple[int, int]:
        """What `seclea retry` does: (sent again, left as they are)."""
        with self.ledger.transaction():
            retried = self.again.retry()
        self.recorder.forget_streams()
        return retried.again, retried.left

    def rows(self, columns: str, where: str = "1", *parameters: Any) -> list[tuple[Any, ...]]:
        found = self.ledger._all(f"SELECT {columns} FROM records WHERE {where} ORDER BY id", parameters)
        return [tuple(row) for row in found]

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """All tables, without times and seals."""
        names = ("destinations", "rings", "streams", "lanes", "entities", "records", "needs", "chunks")
        tables = {}
        for name in names:
            rows = self.ledger._all(f"SELECT * FROM {name}")
            kept = [{key: value for key, value in dict(row).items() if not key.endswith("_ns")} for row in rows]
            tables[name] = [tuple(value for key, value in row.items() if key != "seal") for row in kept]
        return tables


def dataset(content: bytes, name: str = "Claims", digest: str = "", **fields: Any) -> Dataset:
    sha256 = hashlib.sha256(content).hexdigest()
    return Dataset(name=name, digest=digest or sha256, sha256=sha256, size=len(content), **fields)


def state(content: bytes, run: str, **fields: Any) -> ModelState:
    sha256 = hashlib.sha256(content).hexdigest()
    return ModelState(name="Net", training_run=run, sha256=sha256, size=len(content), **fields)


__all__ = ["TIME_NS", "Client", "Desk", "Model", "dataset", "state"]
