"""A producer that is killed loses nothing that it was told is handed over, and leaves nothing that blocks (R1, R12)."""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
import time
from pathlib import Path
from types import FrameType

import pytest

from seclea.queues.ring import Consumer, Producer
from seclea.queues.wait import wait_until

DEADLINE_SECONDS = 30.0


def fork_producer(directory: Path, acknowledged: Path) -> int:
    """A child that puts numbers for ever. After each put it notes the number, in a file that outlives it."""
    pid = os.fork()
    if pid:
        return pid
    try:
        note = os.open(acknowledged, os.O_WRONLY | os.O_CREAT)
        producer = Producer.create(directory, capacity_bytes=16 << 10)
        number = 0
        while True:
            if producer.put(1, struct.pack("=Q", number) + b"x" * (number % 90)):
                os.pwrite(note, struct.pack("=Q", number + 1), 0)
                number += 1
    finally:
        os._exit(1)


@pytest.mark.parametrize("seed", range(25))
def test_a_producer_killed_at_a_random_instant_loses_nothing_it_was_told_is_in(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    rings = tmp_path / "rings"
    note = tmp_path / "acknowledged"
    pid = fork_producer(rings, note)
    consumer: Consumer | None = None
    got: list[int] = []
    try:
        assert wait_until(lambda: any(rings.glob("*.ring")), DEADLINE_SECONDS)
        consumer = Consumer.attach(next(rings.glob("*.ring")))
        kill_at = chance.randrange(1, 3000)
        deadline = time.monotonic() + DEADLINE_SECONDS
        killed = False
        while consumer.has_more or consumer.producer_alive() or consumer.has_more:
            assert time.monotonic() < deadline
            frames = consumer.read(chance.randrange(1, 100))
            if chance.random() < 0.2:
                consumer.rewind()  # this consumer "died" before its commit
                continue
            got += [struct.unpack_from("=Q", payload)[0] for _, _, payload in frames]
            consumer.commit()
            if not killed and len(got) >= kill_at:
                killed = True
                os.kill(pid, signal.SIGKILL)
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if consumer is not None:
            consumer.close(unlink=True)
    acknowledged = struct.unpack("=Q", note.read_bytes())[0]
    assert got == list(range(len(got))), "in order, nothing twice"
    assert acknowledged <= len(got) <= acknowledged + 1


def test_a_producer_killed_at_every_opcode_of_put_leaves_the_frame_whole_or_not_at_all(tmp_path: Path) -> None:
    point, finished = 0, False
    while not finished:
        point += 1
        directory = tmp_path / str(point)
        pid = os.fork()
        if not pid:
            try:
                producer = Producer.create(directory, capacity_bytes=4096)
                for _ in range(3):
                    producer.put(1, b"before" * 160)
                reader = Consumer.attach(producer.path)
                reader.read(2)
                reader.commit()
                producer.put(1, b"x" * 1000)
                left = point

                def kill(frame: FrameType, event: str, arg: object) -> object:
                    nonlocal left
                    frame.f_trace_opcodes = True
                    if event == "opcode":
                        left -= 1
                        if not left:
                            os.kill(os.getpid(), signal.SIGKILL)
                    return kill

                sys.settrace(kill)  # type: ignore[arg-type]
                first = producer.put(2, b"y" * 1000)  # goes around the end
                second = producer.put(2, b"z" * 1024)  # finds no room
                sys.settrace(None)
                os._exit(73 if (first, second) == (5, 0) else 1)
            finally:
                os._exit(1)
        finished = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 73
        consumer = Consumer.attach(next(directory.glob("*.ring")))
        frames = consumer.read()
        expected = [b"before" * 160, b"x" * 1000, b"y" * 1000]
        assert [payload for _, _, payload in frames] in (expected[:2], expected)
        assert len(frames) == 3 or not finished
        assert not consumer.has_more and not consumer.producer_alive()
        assert consumer.last_sequence - 2 in (len(frames), len(frames) - 1)
        consumer.close()
    assert point > 150


@pytest.mark.parametrize("seed", range(5))
def test_consumers_killed_one_after_the_other_lose_nothing_and_commit_once(tmp_path: Path, seed: int) -> None:
    """Each consumer notes what it committed before it commits; what shows twice is told by `committed`."""
    chance = random.Random(seed)
    producer = Producer.create(tmp_path / "rings", capacity_bytes=16 << 10)
    note = tmp_path / "committed"
    note.touch()
    number = 0

    def feed() -> None:
        nonlocal number
        while number < 20_000 and producer.put(1, struct.pack("=Q", number)):
            number += 1

    deadline = time.monotonic() + DEADLINE_SECONDS
    while not producer.is_drained or number < 20_000:
        assert time.monotonic() < deadline
        feed()
        pid = os.fork()
        if not pid:
            try:
                consumer = Consumer.attach(producer.path)
                file = os.open(note, os.O_WRONLY | os.O_APPEND)
                while frames := consumer.read(50):
                    already = consumer.committed
                    fresh = [payload for _, sequence, payload in frames if sequence > already]
                    size = os.fstat(file).st_size
                    # Like a ledger: it holds the sequence, so what is in it is passed over.
                    os.write(file, b"".join(fresh)[max(0, size - already * 8) :])
                    consumer.commit()
                os._exit(0)
            finally:
                os._exit(1)
        kill_at = note.stat().st_size + 8 * chance.randrange(1, 800)
        while note.stat().st_size < kill_at and os.waitpid(pid, os.WNOHANG) == (0, 0):
            feed()
            assert time.monotonic() < deadline
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
    data = note.read_bytes()
    assert list(struct.unpack(f"={len(data) // 8}Q", data)) == list(range(20_000))
    producer.close()
