"""``python -m tests.chaos.hostile_rings --frames N --seed S``: rings of hostile clients, read by the real writer (R12).

Each round is one ring file of good and hostile frames, in any mixture. In half of the rounds every checksum is right, and
the content is hostile; then all of the good must be recorded. In the others the file is damaged after its producer is
gone: flipped bits, torn frames, hostile cursors and identities. What is recorded is held against what the good frames
said (the model); what is not recorded has to be counted.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import shutil
import sqlite3
import struct
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

from seclea.contract import Home
from seclea.entities import Dataset, Model, ModelState, TrainingRun
from seclea.frames import (
    POINTS_HEAD,
    EntityFrame,
    FinishFrame,
    FrameType,
    KeysFrame,
    MetricsFrame,
    StreamFrame,
    pack_large,
    points_struct,
)
from seclea.ledger.db import Ledger
from seclea.processes.rendezvous import prepare
from seclea.queues import layout
from seclea.queues.queue import Queue
from seclea.queues.ring import Producer
from seclea.records import MAX_KEY_CHARACTERS, RecordKind, unpack_metrics
from seclea.writer.writer import Writer
from tests.unit.writer.chain import check_ledger

ROUND_FRAMES = 250
ROUNDS_OF_A_HOME = 12  # then a fresh one: what is compared is the whole ledger
CAPACITY_BYTES = 1 << 20
STEPS = 200  # of the writer, for one ring; a ring that is not done by then is a hang
GONE_PID = (1 << 22) + 7  # no process has it: pids end at 2^22
LIMITS = {"memory": 1 << 50, "disk": 1 << 50, "min_free_disk": 0}
DESTINATION = ("https://portal.example", "https://portal.example", "Acme")
TIME_NS = 1_700_000_000_000_000_000


class Finding(AssertionError):
    """Something that must not be."""


def demand(condition: object, what: str) -> None:
    """Or else it is a finding."""
    if not condition:
        raise Finding(what)


class HostileClient:
    """One ring: what it says, and the model of what must come of it.

    Attributes:
        good: (step, value) of each good log call, in order, all under the name "loss".
    """

    def __init__(self, home: Home, chance: random.Random) -> None:
        self.home, self.chance = home, chance
        self.ring = Producer.create(home.rings, capacity_bytes=CAPACITY_BYTES)
        self.run = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        self.good: list[tuple[int, float]] = []
        self.looks_empty = False  # nothing in the header of the file says any more that something was handed over
        self.hostile = 0
        self.frames = 0
        self.starts: list[int] = []  # of each frame, from the beginning of the file
        self.said: list[tuple[int, bytes]] = []
        self._session, self._of_run = self._uuid(), self._uuid()

    def _uuid(self) -> bytes:
        return self.chance.getrandbits(128).to_bytes(16, "big")

    def put(self, kind: int, payload: bytes) -> None:
        self.starts.append(layout.HEADER_BYTES + self.ring._words[layout.HEAD])
        demand(self.ring.put(kind, payload), "the ring of the harness is too small")
        self.frames += 1
        self.said.append((kind, payload))

    def open(self) -> None:
        """The frames with which an honest client begins."""
        self.put(FrameType.STREAM, self._stream(0, None))
        self.put(FrameType.STREAM, self._stream(1, self.run))
        run = TrainingRun(uuid=self.run, name=f"run {self.run}")
        self.put(FrameType.ENTITY, EntityFrame(1, run.kind, run.to_json()).pack())
        self.put(FrameType.KEYS, KeysFrame(1, 7, ("loss",)).pack())

    def _stream(self, index: int, run: str | None) -> bytes:
        name = self._session if run is None else self._of_run
        return StreamFrame(index, name, DESTINATION, "Claims", run, 0, LIMITS).pack()

    def say_good(self) -> None:
        """One log call, in one of the two forms."""
        step = len(self.good)
        value = self.chance.random()
        if self.chance.random() < 0.7:
            payload = points_struct(1).pack(POINTS_HEAD.pack(1, 7), step, TIME_NS + step, value)
            self.put(FrameType.POINTS, payload)
        else:
            self.put(FrameType.METRICS, MetricsFrame(1, step, TIME_NS + step, {"loss": value}).pack())
        self.good.append((step, value))

    def finish(self) -> None:
        self.put(FrameType.FINISH, FinishFrame(1, "finished", TIME_NS).pack())

    # -- the hostile part --------------------------------------------------------------------------------------------------

    def say_hostile(self) -> None:
        """A frame with the right checksum that no honest client would put."""
        kind, payload = self.chance.choice(_KINDS)(self)
        self.hostile += 1
        self.put(kind, payload[: self.ring.largest_payload_bytes])

    def value(self, depth: int = 0) -> Any:
        """Anything that msgpack can say."""
        chance = self.chance
        pick = chance.randrange(20 if depth < 4 else 15)
        if pick >= 15:
            items = [self.value(depth + 1) for _ in range(chance.randrange(4))]
            return items if pick < 18 else {str(self.value(9)): item for item in items}
        return (
            None, True, 0, -1, 2**63 - 1, -(2**63), 2**64 - 1, chance.random(), float("nan"), float("inf"), "", "x" * 2000,
            "nul\0", b"\xff" * 16, msgpack.Timestamp(2**33),
        )[pick]  # fmt: skip

    def _fields(self, fields: list[Any], keep_index: bool = True) -> bytes:
        """The fields of a frame, one or more of which are something else."""
        for _ in range(self.chance.choice((1, 1, 1, 2, 4))):
            place = self.chance.randrange(1 if keep_index else 0, len(fields))
            fields[place] = self.value()
        if self.chance.random() < 0.1:
            fields = fields[: self.chance.randrange(len(fields))] + [
                self.value() for _ in range(self.chance.randrange(3))
            ]
        return bytes(msgpack.packb(fields))

    def _stream_frame(self) -> tuple[int, bytes]:
        fields = [self.chance.randrange(2, 9), self._uuid(), list(DESTINATION), "Claims", None, 0, None, None]
        if self.chance.random() < 0.2:
            fields[1], fields[4] = self.chance.choice(((self._session, None), (self._of_run, self.run)))  # there is one
            return FrameType.STREAM, bytes(msgpack.packb(fields))
        if self.chance.random() < 0.3:
            names = ("memory", "disk", "min_free_disk", "resume_below", "when_full", "wait_timeout_seconds", "files", "fixed",
                     "idle_timeout_seconds")  # fmt: skip
            fields[6] = {
                **LIMITS,
                self.chance.choice(names): self.chance.choice(("x", None, -1, [], {}, "\0", float("nan"), [1])),
            }
            return FrameType.STREAM, bytes(msgpack.packb(fields))
        return FrameType.STREAM, self._fields(fields, keep_index=False)

    def _entity_frame(self) -> tuple[int, bytes]:
        entity = self.chance.choice((
            Model(name="evil", framework="x"), TrainingRun(name="evil"), Dataset(name="evil", digest="ab"),
            ModelState(name="evil", training_run=self.run),
        )).to_json()  # fmt: skip
        kind = self.chance.choice([entity.get("kind", "model"), *RecordKind])
        for _ in range(self.chance.randrange(3)):
            entity[self.chance.choice(list(entity))] = self.value()
        payload = self.chance.choice((None, None, self._file(), self.value()))
        return FrameType.ENTITY, bytes(msgpack.packb([self.chance.randrange(3), kind, entity, payload]))

    def _metrics_frame(self) -> tuple[int, bytes]:
        metrics = {self.chance.choice(("evil", "e" * 1001, "nul\0", b"bytes", "")): self.value()}
        fields: list[Any] = [self.chance.choice((0, 1, 1, 2, 3, 4, 5, 6, 7, 8, -1, 2**40)), 1, 2, metrics]
        if self.chance.random() < 0.5:
            return FrameType.METRICS, bytes(msgpack.packb(fields))
        return FrameType.METRICS, self._fields(fields)

    def _keys_frame(self) -> tuple[int, bytes]:
        keys = [self.chance.choice(("evil", "worse", "nul\0", "e" * 1001, 3)) for _ in range(self.chance.randrange(4))]
        number = self.chance.choice((8, 9, 2**40, 2**70 if self.chance.random() < 0 else 2**63, -1))
        fields: list[Any] = [1, number, keys]
        return FrameType.KEYS, bytes(msgpack.packb(fields)) if self.chance.random() < 0.7 else self._fields(
            [1, 8, keys]
        )

    def _points_frame(self) -> tuple[int, bytes]:
        head = POINTS_HEAD.pack(self.chance.choice((0, 2, 2**31, 77)), self.chance.choice((8, 9, 2**31)))
        size = self.chance.choice((0, 3, 8, 16, 24, 32, 33, 40, 4000))
        return FrameType.POINTS, (head + self.chance.randbytes(4000))[:size]

    def _finish_frame(self) -> tuple[int, bytes]:
        return FrameType.FINISH, self._fields([0, "finished", TIME_NS])

    def _tombstone_frame(self) -> tuple[int, bytes]:
        return FrameType.TOMBSTONE, self._fields(["x", "metrics", 3, "dropped", "paused"], keep_index=False)

    def _large_frame(self) -> tuple[int, bytes]:
        if self.chance.random() < 0.3:
            return FrameType.LARGE, self._fields([3, self._file()], keep_index=False)
        return FrameType.LARGE, pack_large(self.chance.choice([FrameType.METRICS] * 8 + list(FrameType)), self._file())

    def _file(self) -> str:
        """A name in ``incoming``: another's file, a folder, a pipe, a link, nothing, itself."""
        chance, incoming = self.chance, self.home.incoming
        own = self.ring.ring_id.hex() + chance.randbytes(8).hex()
        pick = chance.randrange(9)
        if pick == 0:
            return FOREIGN
        if pick == 1:
            return "a" * 250
        if pick == 2:
            return "../ledger.sqlite"
        if pick == 3:
            return "\u0436" * 120
        path = incoming / own
        if pick == 4:
            path.mkdir()
        elif pick == 5:
            os.mkfifo(path)
        elif pick == 6:
            path.symlink_to(self.home.ledger)
        elif pick == 7:
            path.write_bytes(pack_large(FrameType.LARGE, own) if chance.random() < 0.5 else chance.randbytes(99))
        return own

    def _unknown_frame(self) -> tuple[int, bytes]:
        return self.chance.choice((9, 77, 255)), self.chance.randbytes(self.chance.randrange(64))

    def _noise_frame(self) -> tuple[int, bytes]:
        return self.chance.randrange(1, 9), self.chance.randbytes(self.chance.randrange(200))

    def _flipped_frame(self) -> tuple[int, bytes]:
        """Of an honest frame that says nothing of "loss"."""
        payload = bytearray(MetricsFrame(1, 3, TIME_NS, {"evil": 1.0}).pack())
        for _ in range(self.chance.randrange(1, 4)):
            payload[self.chance.randrange(len(payload))] ^= 1 << self.chance.randrange(8)
        return FrameType.METRICS, bytes(payload)

    def _deep_frame(self) -> tuple[int, bytes]:
        return self.chance.randrange(1, 8), b"\x91" * self.chance.choice((100, 600, 5000)) + b"\xc0"

    # -- damage ------------------------------------------------------------------------------------------------------------

    def damage(self) -> str:
        """Close the ring, as of a process that is gone, and damage the file; in which way."""
        self.ring.close()
        data = bytearray(self.ring.path.read_bytes())
        magic, version, checksum, capacity, ring_id, _, _, boot = layout.IDENTITY.unpack_from(data)
        layout.IDENTITY.pack_into(data, 0, magic, version, checksum, capacity, ring_id, GONE_PID, 1, boot)
        kind = self.chance.choice(("flip", "flip", "torn", "header", "cursors", "words", "cut"))
        end = self.starts[-1]
        if kind == "flip":
            for _ in range(self.chance.randrange(1, 5)):
                data[self.chance.randrange(layout.HEADER_BYTES, end)] ^= 1 << self.chance.randrange(8)
        elif kind == "torn":  # from the middle of a frame on nothing was written
            start = min(self.chance.choice(self.starts) + self.chance.randrange(1, 24), end)
            data[start:end] = bytes(end - start) if self.chance.random() < 0.5 else self.chance.randbytes(end - start)
        elif kind == "header":
            places = [*range(0, 96), *range(512, 544), *range(1024, 1072)]
            for _ in range(self.chance.randrange(1, 4)):
                data[self.chance.choice(places)] ^= 1 << self.chance.randrange(8)
        elif kind == "cursors":
            for word in (layout.HEAD, layout.HEAD_SEQUENCE, layout.TAIL, layout.TAIL_SEQUENCE):
                if self.chance.random() < 0.5:
                    struct.pack_into("=Q", data, word * 8, self.chance.choice(self.hostile_words()))
        elif kind == "words":
            for word in (layout.STATE, layout.DROPPED, layout.SLEEP, layout.PAUSED, layout.BEAT, layout.ATTACHED):
                struct.pack_into("=Q", data, word * 8, self.chance.choice(self.hostile_words()))
        else:
            del data[self.chance.randrange(len(data)) :]
        self.ring.path.write_bytes(data)
        if len(data) >= layout.HEADER_BYTES:
            words = memoryview(bytes(data[: layout.HEADER_BYTES])).cast("Q")
            said, taken = words[layout.HEAD_SEQUENCE], words[layout.TAIL_SEQUENCE]
            self.looks_empty = words[layout.HEAD] == words[layout.TAIL] and said <= taken
        return kind

    def hostile_words(self) -> tuple[int, ...]:
        near = self.chance.randrange(1 << 20)
        return 0, 1, 7, 8, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 8, near, near & ~7, CAPACITY_BYTES, CAPACITY_BYTES + 8


FOREIGN = "f" * 32 + "0123456789abcdef"
_KINDS: tuple[Callable[[HostileClient], tuple[int, bytes]], ...] = tuple(
    getattr(HostileClient, name) for name in vars(HostileClient) if name.endswith("_frame")
)


class Campaign:
    """Rings, one after the other, into one home after the other."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.seconds_of_a_ring = 0.0

    def run(self, frames: int) -> None:
        number = 0
        while self.counts["frames"] < frames:
            path = self.directory / f"home{number}"
            number += 1
            home = Home(path)
            prepare(home)
            (home.incoming / FOREIGN).write_bytes(MetricsFrame(1, 1, TIME_NS, {"evil": 1.0}).pack())
            queues = [Queue(directory=home.queues / name, allow_pickle=False) for name in ("send", "settle")]
            writer = Writer(home, Ledger(home.ledger), *queues)
            try:
                writer.recover()
                for _ in range(ROUNDS_OF_A_HOME):
                    if self.counts["frames"] < frames:
                        self.a_ring(home, writer)
                demand((home.incoming / FOREIGN).exists(), "another process's file was deleted")
                writer._next_scan = 0.0
            finally:
                writer.close()
                for queue in queues:
                    queue.close()
            check_ledger(home.ledger)
            shutil.rmtree(path)

    def a_ring(self, home: Home, writer: Writer) -> None:
        chance = self.chance
        client = HostileClient(home, chance)
        share = chance.choice((0.1, 0.5, 0.9))
        if chance.random() < 0.1:
            client.say_hostile()  # before there is any stream
        client.open()
        for _ in range(ROUND_FRAMES):
            client.say_hostile() if chance.random() < share else client.say_good()
        client.finish()
        damage = "none" if chance.random() < 0.5 else client.damage()
        if damage == "none":
            client.ring.close()
        before, unreadable = losses(home.ledger), left_out(home.ledger)
        began = time.monotonic()
        self.read(home, writer, client.ring.path)
        self.seconds_of_a_ring = max(self.seconds_of_a_ring, time.monotonic() - began)
        self.judge(home, client, damage, before)
        new = left_out(home.ledger) - unreadable
        demand(losses(home.ledger) - before >= new, f"{new} frames made no sense, and not all of them are counted")
        self.counts["hostile contents left out"] += new
        self.counts["frames"] += client.frames
        self.counts["hostile contents"] += client.hostile
        self.counts["rings"] += 1
        self.counts[f"rings, damage: {damage}"] += 1

    def read(self, home: Home, writer: Writer, path: Path) -> None:
        """Until the writer is done with the ring: removed, or put aside."""
        for _ in range(STEPS):
            writer._next_scan = 0.0
            writer.step()
            demand(not writer.in_trouble, f"the writer tries again for ever: {writer._trouble}")
            if path in writer._unreadable or not path.exists():
                return
        raise Finding(f"{path} is not done after {STEPS} steps")

    def judge(self, home: Home, client: HostileClient, damage: str, before: int) -> None:
        recorded = points(home.ledger, client.run)
        lost = losses(home.ledger) - before
        if damage == "none":
            demand(
                recorded == client.good,
                f"{len(recorded)} of {len(client.good)} good log calls were recorded, or others",
            )
        else:
            rest = iter(client.good)
            demand(all(point in rest for point in recorded), "what was recorded was not said so, or not in this order")
            left = len(client.good) - len(recorded)
            self.counts["rings made to look empty"] += client.looks_empty
            seen = (
                client.looks_empty or client.ring.path.exists()
            )  # a file that is no ring: it stays where it is, and the log names it
            at_least = (
                left if damage in ("flip", "torn") else min(left, 1)
            )  # else the numbers of the header may be damaged
            demand(lost >= at_least or seen, f"{left} good log calls are lost, {lost} counted (damage: {damage})")
            self.counts["good lost to damage"] += left
        self.counts["good recorded"] += len(recorded)
        self.counts["counted as lost"] += lost


def points(ledger: Path, run: str) -> list[tuple[int, float]]:
    """The points named "loss" of a run, in order; each batch is one that a portal takes."""
    found = []
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as rows:
        for first, last, body in rows.execute(
            "SELECT first, last, body FROM records WHERE kind = 'metrics' AND run = ? ORDER BY stream, first", (run,)
        ):
            batch = unpack_metrics(body)
            demand((first, last) == (batch.first, batch.last), "a batch says another place than its row")
            named = all(
                type(key) is str and 0 < len(key) <= MAX_KEY_CHARACTERS and "\0" not in key for key in batch.keys
            )
            demand(named, f"a batch with names that no portal takes: {batch.keys!r:.200}")
            columns = zip(batch.step, batch.key, batch.value, strict=True)
            found += [(step, value) for step, key, value in columns if batch.keys[key] == "loss"]
    return found


def losses(ledger: Path) -> int:
    """What `status` says was left out."""
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as rows:
        return int(rows.execute("SELECT coalesce(sum(count), 0) FROM losses").fetchone()[0])


def left_out(ledger: Path) -> int:
    """Frames that the writer says made no sense."""
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as rows:
        return int(rows.execute("SELECT count(*) FROM events WHERE kind = 'unreadable'").fetchone()[0])


def main(arguments: list[str]) -> int:
    """Run, print what was done; 1 and the directory on a finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.hostile_rings")
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="hostile-", dir=shared))
    campaign = Campaign(directory, options.seed)
    began = time.monotonic()
    try:
        campaign.run(options.frames)
    except Exception as error:
        print(f"seed {options.seed}, after {campaign.counts['frames']} frames: {type(error).__name__}: {error}")
        print(f"kept: {directory}")
        if not isinstance(error, Finding):
            raise
        return 1
    shutil.rmtree(directory)
    for name, count in sorted(campaign.counts.items()):
        print(f"{count:>10} {name}")
    print(f"seed {options.seed}, {time.monotonic() - began:.0f} s, slowest ring {campaign.seconds_of_a_ring:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
