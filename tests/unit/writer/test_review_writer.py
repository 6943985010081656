"""The writer's loop with rings of this process and no other process: what a bad moment must not cost."""

import contextlib
import errno
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from seclea.contract import Home
from seclea.errors import LedgerError, LedgerFullError
from seclea.frames import FrameType, TombstoneFrame
from seclea.ledger.blobs import Spool, StoredPayload
from seclea.ledger.db import Ledger
from seclea.processes.rendezvous import prepare
from seclea.queues.queue import Queue
from seclea.queues.ring import Consumer, Producer
from seclea.records import unpack_metrics
from seclea.writer.writer import Writer
from tests.unit.writer.chain import check_ledger
from tests.unit.writer.client import Client, dataset, state


class Bench:
    """A home with a writer, and a client whose ring this process holds."""

    def __init__(self, home: Home) -> None:
        prepare(home)
        self.home = home
        self.client = Client()
        self.ring = Producer.create(home.rings, ring_id=self.client.ring)
        self._handed = 0
        self.writer = self.a_writer()

    def a_writer(self) -> Writer:
        queues = [Queue(directory=self.home.queues / name, allow_pickle=False) for name in ("send", "settle")]
        writer = Writer(self.home, Ledger(self.home.ledger), *queues)
        writer.recover()
        return writer

    def hand_over(self) -> None:
        """Put what the client has said since into its ring."""
        for kind, _, payload in self.client.frames[self._handed :]:
            assert self.ring.put(kind, payload)
        self._handed = len(self.client.frames)

    def step(self) -> None:
        """Hand over, and step until all payloads are sealed."""
        self.hand_over()
        self.writer.step()
        deadline = time.monotonic() + 10
        while self.writer.is_saving and time.monotonic() < deadline:
            self.writer.step()

    def restart(self) -> None:
        """As after a kill -9: nothing is closed in order."""
        self.writer.payloads.close()
        for ring in self.writer.rings.values():
            ring.close()
        self.writer.ledger._connection.close()
        self.writer = self.a_writer()

    def payload(self, content: bytes) -> str:
        name = self.client.ring.hex() + os.urandom(8).hex()
        (self.home.incoming / name).write_bytes(content)
        return name

    def rows(self, columns: str, where: str = "1") -> list[tuple[object, ...]]:
        return [
            tuple(row) for row in self.writer.ledger._all(f"SELECT {columns} FROM records WHERE {where} ORDER BY id")
        ]

    def chunk_files(self) -> set[str]:
        return {path.name for path in self.home.chunks.rglob("*") if path.is_file()}

    @contextlib.contextmanager
    def full_disk(self) -> Iterator[None]:
        """Nothing more fits into the ledger."""
        run = self.writer.ledger._connection.execute
        pages = run("PRAGMA page_count").fetchone()[0]
        run("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        run("CREATE TABLE filler (x)")
        run(f"PRAGMA max_page_count = {pages + 1}").fetchone()
        with contextlib.suppress(Exception):
            while True:
                run("INSERT INTO filler VALUES (zeroblob(500))")
        try:
            yield
        finally:
            run("PRAGMA max_page_count = 1073741823").fetchone()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    # The writer is this very process, with whatever other tests have loaded.
    monkeypatch.setattr("seclea.writer.gate.resident_bytes", lambda pids: 0)
    made = Bench(Home(tmp_path / "home"))
    yield made
    made.ring.close()
    made.writer.close()
    made.writer.send_queue.close()
    made.writer.settle_queue.close()


def test_a_flush_is_answered_by_a_writer_that_read_nothing_of_that_ring(bench: Bench) -> None:
    bench.client.stream()
    bench.step()
    ring, last = bench.ring.ring_id, bench.ring.sequence
    assert bench.writer.flushed(ring, last)
    bench.restart()
    bench.writer.step()
    assert bench.writer.flushed(ring, last), "all of it is durable since the writer before"
    bench.writer.recorder.forget()  # as after a transaction that failed
    assert bench.writer.flushed(ring, last)
    assert not bench.writer.flushed(ring, last + 1)


def test_a_ledger_that_could_not_be_opened_again_at_once_is_used_as_soon_as_it_can_be(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, _ = bench.client.run()
    bench.step()
    ledger = bench.writer.ledger
    ledger._is_read_only = True  # it could not write its shared memory
    refused = iter([True, True])

    def set_up() -> None:
        if next(refused, False):
            raise sqlite3.OperationalError("disk I/O error")
        Ledger._set_up(ledger)

    monkeypatch.setattr(ledger, "_set_up", set_up)
    bench.client.log(index, 0, loss=1.0)
    bench.hand_over()
    for _ in range(2):
        bench.writer.step()
        assert "the ledger cannot be used" in str(bench.writer.paused)
    bench.writer.step()
    assert bench.rows("points", "kind = 'metrics'") == [(1,)]
    bench.client.log(index, 1, loss=1.0)
    bench.client.finish(index)  # what ends a run is written by the new connection, too
    bench.step()
    assert bench.writer.ledger._all("SELECT status FROM run_ends")[0][0] == "finished"


def test_a_chunk_that_is_given_back_and_named_again_in_one_step_stays(bench: Bench) -> None:
    """The same weights twice: the first is delivered in the very step that makes the second durable."""
    index, run = bench.client.run()
    bench.client.entity(index, state(b"weights", run.uuid), bench.payload(b"weights"))
    bench.step()
    bench.client.entity(index, state(b"weights", run.uuid), bench.payload(b"weights"))
    bench.hand_over()
    bench.writer.step()
    while not all(future.done() for future in bench.writer.payloads._storing):
        time.sleep(0.001)
    (first,) = (number for (number,) in bench.rows("id", "kind = 'model_state' AND status = 'Transmitting'"))
    bench.writer.settle_queue.put(
        {"op": "outcome", "record": first, "verdict": "delivered", "receipt": {}, "streams": 1}
    )
    bench.writer.step()
    assert bench.rows("status", "kind = 'model_state'") == [("Completed",), ("Transmitting",)]
    assert bench.chunk_files() == {hashlib.sha256(b"weights").hexdigest()}


def test_chunks_of_a_payload_that_changed_on_the_way_do_not_stay(bench: Bench) -> None:
    session = bench.client.stream()
    bench.client.entity(session, dataset(b"table"), bench.payload(b"another"))
    bench.step()
    assert bench.rows("status", "kind = 'dataset'") == [("Failed",)]
    assert bench.chunk_files() == set()


def test_on_a_full_disk_a_client_that_ends_does_not_end_the_writer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.client.stream()
    bench.step()
    bench.ring.close()

    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "close_ring", refuse)
        bench.writer._next_scan = 0.0
        bench.writer.step()
        assert bench.ring.ring_id in bench.writer.rings
    bench.writer._next_scan = 0.0
    bench.writer.step()
    assert bench.writer.rings == {}


def test_on_a_full_disk_nothing_spins_and_nothing_is_lost(bench: Bench) -> None:
    index, _ = bench.client.run()
    bench.step()
    bench.writer.wake()
    with bench.full_disk():
        for step in range(2000):
            bench.client.log(index, step, loss=float(step))
        bench.hand_over()
        bench.writer.step()
        assert bench.writer.paused
        bench.writer.last_work -= 10.0
        waits = [bench.writer.next_wait() for _ in range(3)]
        assert min(waits) >= 0.02, "a disk that refuses is not asked without a pause"
    bench.writer.step()
    bench.writer._next_limits = 0.0
    bench.writer.step()
    assert not bench.writer.paused
    ((body,),) = bench.rows("body", "kind = 'metrics'")
    assert list(unpack_metrics(body).step) == list(range(2000))  # type: ignore[arg-type]
    check_ledger(bench.home.ledger)


def test_a_ring_that_is_damaged_while_its_client_lives_does_not_make_the_writer_spin(bench: Bench) -> None:
    bench.client.stream()
    bench.hand_over()
    with open(bench.ring.path, "r+b") as file:
        file.seek(-bench.ring.capacity_bytes + 4, os.SEEK_END)
        file.write(b"\xff" * 64)
    bench.writer.last_work -= 10.0
    bench.writer.step()
    waits = [bench.writer.next_wait() for _ in range(3)]
    assert min(waits) >= 0.02


def test_a_writer_starts_on_a_full_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise LedgerFullError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "add_event", full)
        bench.restart()
    bench.client.stream()
    bench.step()
    assert bench.rows("kind") == [("project",)]


def test_trouble_after_the_commit_ends_with_its_cause(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed is done: logging goes on, and a payload that was accepted then is stored."""
    session = bench.client.stream()
    for _ in range(2):  # the second is the same again: its file is not needed
        bench.client.entity(session, dataset(b"table"), bench.payload(b"table"))

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(bench.writer.spool, "delete_incoming", refuse)
        bench.hand_over()
        bench.writer.step()
        assert bench.writer.paused
    with monkeypatch.context() as patch:  # the next transaction fails, too
        patch.setattr(bench.writer.recorder, "close_batches", refuse)
        bench.client.stream("run")
        bench.hand_over()
        bench.writer.step()
    bench.step()
    bench.writer._next_limits = 0.0
    bench.writer.step()
    assert not bench.ring.paused
    assert bench.rows("status", "kind = 'dataset'") == [("Transmitting",)]


def test_a_pause_ends_though_nothing_comes_any_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.client.stream()

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(bench.writer, "tell_sender", refuse)
        bench.hand_over()
        bench.writer.step()
    assert bench.ring.paused
    for _ in range(2):
        bench.writer._next_limits = 0.0
        bench.writer.step()
    assert not bench.ring.paused


def test_a_ring_that_cannot_be_opened_just_now_is_opened_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Client()
    ring = Producer.create(bench.home.rings, ring_id=other.ring)
    other.stream()
    for kind, _, payload in other.frames:
        ring.put(kind, payload)

    def busy(_path: Path) -> Consumer:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Consumer, "attach", busy)
        bench.writer.scan()
    bench.writer.scan()
    bench.step()
    assert bench.rows("kind") == [("project",)]
    ring.close()


def test_a_stray_file_among_the_chunks_does_not_keep_a_writer_from_starting(bench: Bench) -> None:
    (bench.home.chunks / ".DS_Store").write_bytes(b"")
    bench.restart()


def test_a_writer_that_leaves_on_a_disk_that_refuses_payloads_closes_in_order(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = bench.client.stream()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Spool, "_write", refuse)
        bench.client.entity(session, dataset(b"table"), bench.payload(b"table"))
        bench.hand_over()
        bench.writer.step()
        bench.writer.close()
    bench.writer = bench.a_writer()
    bench.step()
    assert bench.rows("status", "kind = 'dataset'") == [("Transmitting",)]


def test_a_chunk_that_cannot_be_read_just_now_is_not_a_damaged_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = bench.client.stream()
    bench.client.entity(session, dataset(b"table"), bench.payload(b"table"))
    bench.step()
    sha256 = hashlib.sha256(b"table").hexdigest()

    def busy(_path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", busy)
        with pytest.raises(OSError, match="Too many open files"):
            bench.writer.spool.read(sha256)
    bench.writer.spool.chunk_path(sha256).unlink()
    with pytest.raises(LedgerError):
        bench.writer.spool.read(sha256)


def test_words_for_a_sender_that_is_not_there_do_not_pile_up(bench: Bench) -> None:
    index, _ = bench.client.run()
    bench.step()
    before = bench.writer.send_queue.qsize()
    for step in range(50):
        bench.client.log(index, step, loss=1.0)
        bench.step()
    assert bench.writer.send_queue.qsize() == before
    assert len(bench.writer.send_queue.get_many(1000)) == before
    bench.client.log(index, 50, loss=1.0)
    bench.step()
    assert bench.writer.send_queue.qsize() == 1, "who has read it is told again"


def test_what_a_client_left_out_before_its_end_stands_in_its_stream(bench: Bench) -> None:
    """It was paused to the last: its own tombstones found no room."""
    index, _ = bench.client.run()
    bench.client.log(index, 0, loss=1.0)
    bench.client.add(FrameType.TOMBSTONE, TombstoneFrame(index, "metrics", 3, "dropped", "full").pack())
    bench.step()
    bench.ring.add_dropped(3)
    bench.ring.add_dropped(17)
    bench.ring.close()
    bench.writer._next_scan = 0.0
    bench.writer.step()
    assert bench.writer.rings == {}
    assert [detail.split(":")[0] for detail in bench.writer.ledger.left_out()] == ["17 metrics", "3 metrics"]
    assert len(bench.rows("id", "kind = 'tombstone' AND run IS NOT NULL")) == 2
    check_ledger(bench.home.ledger)


def test_a_flush_waits_for_the_payloads_of_what_is_committed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = threading.Event()
    store = Spool.store

    def late(spool: Spool, name: str) -> StoredPayload:
        assert stored.wait(10)
        return store(spool, name)

    monkeypatch.setattr(Spool, "store", late)
    session = bench.client.stream()
    bench.client.entity(session, dataset(b"table"), bench.payload(b"table"))
    bench.hand_over()
    bench.writer.step()
    ring, last = bench.ring.ring_id, bench.ring.sequence
    assert bench.writer.ledger_sequence(ring) == last, "its row is committed"
    assert not bench.writer.flushed(ring, last)
    assert not bench.writer.flushed_up_to({ring: last})
    stored.set()
    bench.step()
    assert bench.writer.flushed(ring, last)
    assert bench.writer.flushed_up_to({ring: last})


def test_what_a_dead_client_left_in_the_spool_goes_before_its_ring(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that is killed in between finds the ring again, and with it what is left to be swept."""
    bench.client.run()
    bench.step()
    orphan = bench.home.incoming / f"{bench.ring.ring_id.hex()}{'0' * 32}"  # handed over by no frame
    orphan.write_bytes(b"weights")
    there: list[bool] = []
    close = Consumer.close

    def look(ring: Consumer, unlink: bool = False) -> None:
        there.append(orphan.exists())
        close(ring, unlink)

    monkeypatch.setattr(Consumer, "close", look)
    bench.ring.close()
    bench.writer._next_scan = 0.0
    bench.writer.step()
    assert bench.writer.rings == {} and there == [False]


def test_frames_that_died_with_a_damaged_ring_stand_in_the_stream(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, _ = bench.client.run()
    bench.step()
    position = bench.writer.rings[bench.ring.ring_id]._position
    for step in range(5):
        bench.client.log(index, step, loss=1.0)
    bench.hand_over()
    with open(bench.ring.path, "r+b") as file:
        file.seek(-bench.ring.capacity_bytes + position + 4, os.SEEK_END)
        file.write(b"\xff" * 8)
    monkeypatch.setattr(Consumer, "producer_alive", lambda self: False)
    bench.writer._next_scan = 0.0
    bench.writer.step()
    assert bench.writer.rings == {}
    ((body,),) = bench.rows("body", "kind = 'tombstone'")
    said = json.loads(str(body, "utf-8"))  # type: ignore[call-overload]
    assert (said["kind"], said["count"], said["reason"]) == ("metrics", 5, "damaged")
    check_ledger(bench.home.ledger)
