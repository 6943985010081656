from __future__ import annotations

import dis
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType

import pytest

from seclea.errors import QueueClosed, TooLargeError, UsageError
from seclea.queues import consumer as consumer_module
from seclea.queues import layout
from seclea.queues.ring import PARKED, Consumer, Producer, RingDamaged


@pytest.fixture
def producer(tmp_path: Path) -> Iterator[Producer]:
    producer = Producer.create(tmp_path / "rings", capacity_bytes=64 << 10)
    yield producer
    producer.close()


@pytest.fixture
def consumer(producer: Producer) -> Iterator[Consumer]:
    consumer = Consumer.attach(producer.path)
    yield consumer
    consumer.close()


def test_what_is_put_is_read_and_then_committed(producer: Producer, consumer: Consumer) -> None:
    assert [producer.put(1, b"one"), producer.put(255, b"")] == [1, 2]
    assert not producer.is_drained and producer.used_bytes == 24 + 16 and producer.committed == 0
    assert consumer.read() == [(1, 1, b"one"), (255, 2, b"")]
    assert consumer.read() == []
    assert not producer.is_drained
    consumer.commit()
    assert producer.is_drained and producer.committed == 2 and producer.used_bytes == 0


def test_rewind_gives_what_was_not_committed_again(producer: Producer, consumer: Consumer) -> None:
    producer.put(1, b"one")
    consumer.read()
    consumer.commit()
    producer.put(1, b"two")
    producer.put(1, b"three")
    assert len(consumer.read()) == 2
    consumer.rewind()
    assert [payload for _, _, payload in consumer.read()] == [b"two", b"three"]


def test_a_consumer_killed_inside_commit_shows_frames_again_up_to_its_committed_sequence(
    producer: Producer, consumer: Consumer
) -> None:
    for payload in (b"one", b"two", b"three"):
        producer.put(1, payload)
    consumer.read(2)
    consumer._words[layout.TAIL_SEQUENCE] = 2  # and no further
    again = Consumer.attach(producer.path)
    assert again.committed == 2
    assert [sequence for _, sequence, _ in again.read()] == [1, 2, 3]
    again.commit()
    assert producer.is_drained
    again.close()


def test_a_full_ring_returns_0_and_takes_more_after_a_commit(producer: Producer, consumer: Consumer) -> None:
    count = 0
    while producer.put(1, b"x" * 1000):
        count += 1
    assert count == (64 << 10) // 1016
    assert producer.put(1, b"x" * 1000) == 0 and producer.sequence == count
    assert len(consumer.read(10)) == 10
    assert producer.put(1, b"x" * 1000) == 0, "read is not commit"
    consumer.commit()
    assert producer.put(1, b"x" * 1000) == count + 1


def test_limits_of_a_read_are_kept_but_one_frame_always_comes(producer: Producer, consumer: Consumer) -> None:
    for _ in range(10):
        producer.put(1, b"x" * 100)
    assert len(consumer.read(max_frames=3)) == 3
    assert len(consumer.read(max_frames=100, max_bytes=150)) == 2
    assert len(consumer.read(max_frames=100, max_bytes=1)) == 1


def test_wrong_use_raises_and_writes_nothing(producer: Producer, tmp_path: Path) -> None:
    with pytest.raises(TooLargeError):
        producer.put(1, b"x" * (producer.largest_payload_bytes + 1))
    for type in (0, 256, -1):
        with pytest.raises(UsageError):
            producer.put(type, b"")
    with pytest.raises(UsageError):
        Producer.create(tmp_path, ring_id=b"short")
    assert producer.sequence == 0
    assert producer.put(1, b"x" * producer.largest_payload_bytes) == 1


def test_words_that_consumer_and_producer_tell_each_other(producer: Producer, consumer: Consumer) -> None:
    assert not producer.consumer_sleeps and not producer.paused and producer.beat_ns == 0
    consumer.set_sleeping(True)
    consumer.set_paused(True)
    consumer.beat(123)
    assert producer.consumer_sleeps and producer.paused and producer.beat_ns == 123
    consumer.set_sleeping(False)
    consumer.set_paused(False)
    assert not producer.consumer_sleeps and not producer.paused
    producer.add_dropped(3)
    producer.add_dropped(4)
    assert consumer.dropped == 7
    assert not consumer.closed_by_producer
    assert consumer.ring_id == producer.ring_id and consumer.pid == os.getpid()
    producer.put(1, b"")
    producer.close()
    assert consumer.closed_by_producer and consumer.has_more and consumer.backlog_bytes == 16
    assert consumer.read() == [(1, 1, b"")]


def test_a_closed_producer_refuses_and_answers(producer: Producer) -> None:
    producer.put(1, b"x")
    producer.close()
    producer.close(unlink=True)
    with pytest.raises(QueueClosed):
        producer.put(1, b"x")
    assert not producer.consumer_sleeps and not producer.paused and producer.used_bytes == 0
    producer.add_dropped(1)


def test_closing_with_unlink_removes_the_file(producer: Producer, consumer: Consumer) -> None:
    producer.close(unlink=True)
    assert not producer.path.exists()
    consumer.close(unlink=True)
    consumer.close()


def test_the_file_is_private_and_has_all_its_blocks(producer: Producer) -> None:
    found = os.stat(producer.path)
    assert stat.S_IMODE(found.st_mode) == 0o600 and stat.S_IMODE(os.stat(producer.path.parent).st_mode) == 0o700
    assert found.st_blocks * 512 >= found.st_size == layout.HEADER_BYTES + producer.capacity_bytes
    assert producer.path.name == f"{producer.ring_id.hex()}.ring"
    assert os.listdir(producer.path.parent) == [producer.path.name]


def test_cursors_of_the_two_sides_are_aligned_and_far_apart() -> None:
    mine = [layout.HEAD, layout.HEAD_SEQUENCE, layout.STATE, layout.DROPPED]
    theirs = [layout.TAIL, layout.TAIL_SEQUENCE, layout.SLEEP, layout.PAUSED, layout.BEAT, layout.ATTACHED]
    assert min(abs(a - b) for a in mine for b in theirs) * 8 >= 128
    assert layout.IDENTITY.size <= min(mine) * 8


def test_head_is_stored_once_and_after_the_frame_is_whole(producer: Producer, consumer: Consumer) -> None:
    """A tracing function looks at the file from the consumer's side at every line and every opcode of put."""
    heads: list[int] = []

    def look(frame: FrameType, event: str, arg: object) -> object:
        frame.f_trace_opcodes = True
        heads.append(consumer._words[layout.HEAD])
        if heads[-1]:
            peeker = Consumer.attach(producer.path)
            assert peeker.read() == [(9, 1, b"payload")]
            peeker.close()
        return look

    sys.settrace(look)  # type: ignore[arg-type]
    try:
        producer.put(9, b"payload")
    finally:
        sys.settrace(None)
    assert sorted(set(heads)) == [0, 24] and heads == sorted(heads)


def test_a_commit_is_whole_or_not_at_all_at_every_instant(producer: Producer, consumer: Consumer) -> None:
    """Another consumer attaches at every opcode of commit, as after a kill there, and passes over what is committed."""
    for payload in (b"one", b"two", b"three"):
        producer.put(1, payload)
    consumer.read(2)
    seen = set()

    def look(frame: FrameType, event: str, arg: object) -> object:
        frame.f_trace_opcodes = True
        peeker = Consumer.attach(producer.path)
        seen.add(tuple(data for _, sequence, data in peeker.read() if sequence > peeker.committed))
        peeker.close()
        return look

    sys.settrace(look)  # type: ignore[arg-type]
    try:
        consumer.commit()
    finally:
        sys.settrace(None)
    assert seen == {(b"one", b"two", b"three"), (b"three",)}


def handler_points(code: CodeType) -> set[int]:
    """Where CPython may run a signal handler: before the instructions that follow a call, a loop's jump, an entry."""
    points, checks = set(), False
    for instruction in dis.get_instructions(code):
        if checks:
            points.add(instruction.offset)
        checks = instruction.opname.startswith(("CALL", "RESUME", "JUMP_BACKWARD"))
    return points


def test_a_put_interrupted_by_an_exception_wherever_a_handler_can_raise_leaves_a_working_ring(tmp_path: Path) -> None:
    class Interrupt(BaseException):
        pass

    producer = Producer.create(tmp_path / "rings", capacity_bytes=4096)
    consumer = Consumer.attach(producer.path)
    points: dict[CodeType, set[int]] = {}
    stop_at = 0
    while True:
        stop_at += 1
        left = stop_at

        def trip(frame: FrameType, event: str, arg: object) -> object:
            nonlocal left
            code = frame.f_code
            frame.f_trace_opcodes = True
            if event == "opcode" and code.co_filename.endswith("producer.py"):
                left -= frame.f_lasti in points.setdefault(code, handler_points(code))
                if not left:
                    raise Interrupt
            return trip

        payload = b"%d" % stop_at
        producer._parked.append((3, b"parked"))
        producer.hold_back(False)  # as parking does: the next put looks at everything
        sys.settrace(trip)  # type: ignore[arg-type]
        try:
            producer.put(1, payload)
            break
        except Interrupt:
            pass
        finally:
            sys.settrace(None)
        # The lock is free for another thread, the next put works, nothing comes twice, and nothing parked is lost.
        done: list[int] = []
        other = threading.Thread(target=lambda: done.append(producer.put(2, b"after")), daemon=True)  # noqa: B023
        other.start()
        other.join(5)
        assert done and done[0] > 0, f"stuck after an interrupt at point {stop_at}"
        got = [data for _, _, data in consumer.read()]
        assert got in ([b"parked", payload, b"after"], [b"parked", b"after"])
        consumer.commit()
    assert stop_at > 10 and consumer.read()[-1][2] == payload
    consumer.close()
    producer.close()


def test_puts_of_a_signal_handler_are_written_after_the_one_that_it_interrupted(tmp_path: Path) -> None:
    producer = Producer.create(tmp_path / "rings", capacity_bytes=4 << 20)
    consumer = Consumer.attach(producer.path)
    handled = 0
    parked = 0
    in_handler = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal handled, parked, in_handler
        if in_handler:  # the next alarm
            return
        in_handler = True
        sequence = producer.put(2, b"%d" % (handled + 1))
        handled += sequence != 0
        parked += sequence == PARKED
        in_handler = False

    following = {1: 0, 2: 1}

    def check_order() -> bool:
        taken = False
        while frames := consumer.read():
            taken = True
            for type, _, payload in frames:
                assert int(payload) == following[type]
                following[type] += 1
        consumer.commit()
        return taken

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        number = 0
        while number < 40_000 or (parked < 3 and number < 400_000):
            if not producer.put(1, b"%d" % number):
                assert check_order()
                continue
            number += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    check_order()
    assert following == {1: number, 2: handled + 1} and parked and producer.is_drained
    consumer.close()
    producer.close()


def test_parked_frames_that_find_no_room_wait_for_the_next_put_or_are_counted(tmp_path: Path) -> None:
    producer = Producer.create(tmp_path / "rings", capacity_bytes=4096)
    consumer = Consumer.attach(producer.path)
    while producer.put(1, b"x" * 100):
        pass
    producer._parked.append((2, b"from a handler" * 10))
    assert producer.put(3, b"") == 0, "nothing overtakes what is parked"
    consumer.read()
    consumer.commit()
    assert not producer.is_drained
    assert producer.put(3, b"") > 0
    assert [type for type, _, _ in consumer.read()] == [2, 3]
    producer._parked.append((2, b"lost"))
    producer.close()
    assert consumer.dropped == 1
    consumer.close()


def test_threads_share_a_ring(tmp_path: Path) -> None:
    producer = Producer.create(tmp_path / "rings", capacity_bytes=1 << 20)
    consumer = Consumer.attach(producer.path)

    def work(number: int) -> None:
        for count in range(2000):
            assert producer.put(number, b"%d" % count)

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    frames = consumer.read(10_000)
    assert [sequence for _, sequence, _ in frames] == list(range(1, 6001))
    for number in (1, 2, 3):
        assert [int(data) for type, _, data in frames if type == number] == list(range(2000))
    consumer.close()
    producer.close()


def in_child(work: object) -> int:
    """Run ``work`` in a forked child; its exit code, 0 when it returned."""
    pid = os.fork()
    if not pid:
        try:
            work()  # type: ignore[operator]
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_never_writes_into_its_parents_ring(producer: Producer, consumer: Consumer) -> None:
    put = producer.put
    put(1, b"parent")
    before = producer.path.read_bytes()

    def work() -> None:
        for attempt in (put, producer.put):
            with pytest.raises(QueueClosed):
                attempt(1, b"child")
        producer.add_dropped(1)
        producer.close(unlink=True)
        assert producer.closed and producer.path.exists()

    assert in_child(work) == 0
    # Reading the file above closed a descriptor of it, so here only the process still speaks for the producer.
    assert producer.path.read_bytes() == before and consumer.producer_alive()
    assert put(1, b"parent again") == 2


def test_a_child_forked_while_another_thread_holds_the_lock_is_not_stuck(producer: Producer) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with producer._lock:
            held.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)

    def work() -> None:
        signal.alarm(10)
        with pytest.raises(QueueClosed):
            producer.put(1, b"child")
        producer.close()

    assert in_child(work) == 0
    done.set()
    thread.join()


def test_a_producer_is_dead_only_when_its_lock_is_free_and_its_process_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = os.pipe()
    go, stay = os.pipe()
    pid = os.fork()
    if not pid:
        child = Producer.create(tmp_path / "rings", capacity_bytes=4096)
        child.put(1, b"last words")
        os.close(stay)
        os.write(theirs, os.fsencode(child.path))
        os.read(go, 1)
        os._exit(0)
    try:
        path = Path(os.fsdecode(os.read(ours, 4096)))
        consumer = Consumer.attach(path)
        assert consumer.pid == pid and consumer.producer_alive()
        # Each half alone says "alive".
        monkeypatch.setattr(consumer_module.segment, "process_start", lambda pid: 0)
        assert consumer.producer_alive()
        monkeypatch.undo()
        monkeypatch.setattr(consumer_module.segment, "is_locked", lambda descriptor: False)
        assert consumer.producer_alive()
        # The same pid with another start time is another process; after a boot they are all gone.
        monkeypatch.setattr(consumer_module.segment, "process_start", lambda pid: consumer.start_ticks + 1)
        assert not consumer.producer_alive()
        monkeypatch.setattr(consumer_module.segment, "process_start", lambda pid: consumer.start_ticks)
        monkeypatch.setattr(consumer_module.segment, "boot_id", lambda: b"another boot....")
        assert not consumer.producer_alive()
        monkeypatch.undo()
        assert consumer.producer_alive()
        os.write(stay, b"x")
        # A zombie is dead: WNOWAIT leaves it so.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert not consumer.producer_alive()
        os.waitpid(pid, 0)
        assert not consumer.producer_alive()
        assert consumer.read() == [(1, 1, b"last words")]
        consumer.close()
    finally:
        for descriptor in (ours, theirs, go, stay):
            os.close(descriptor)  # also ends a child that still waits


def test_a_tail_that_cannot_be_makes_the_ring_full_rather_than_overwriting(
    producer: Producer, consumer: Consumer
) -> None:
    for tail in (1 << 63, 100_000):
        consumer._words[layout.TAIL] = tail
        while producer.put(1, b"x" * 1000):
            pass
        assert producer.used_bytes <= producer.capacity_bytes
    consumer._words[layout.TAIL] = 0
    assert consumer.read(1) == [(1, 1, b"x" * 1000)]


def test_a_ring_of_another_version_or_user_is_refused(producer: Producer, tmp_path: Path) -> None:
    data = bytearray(producer.path.read_bytes())
    data[8] = 99
    other = tmp_path / "other.ring"
    other.write_bytes(data)
    with pytest.raises(RingDamaged, match="version"):
        Consumer.attach(other)
    if os.geteuid() == 0:
        os.chown(producer.path, 12345, 12345)
        with pytest.raises(PermissionError):
            Consumer.attach(producer.path)
