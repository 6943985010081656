from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import pickle
import queue as standard_queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seclea.errors import QueueClosed, QueueEmpty, QueueFull, UsageError
from seclea.queues import layout, temporary
from seclea.queues.queue import Queue
from seclea.queues.ring import Consumer
from seclea.queues.wait import wait_until

DEADLINE_SECONDS = 30.0


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(directory=tmp_path / "queue")
    yield queue
    queue.close()


def rings(queue: Queue) -> list[str]:
    return sorted(name for name in os.listdir(queue.directory) if name.endswith(".ring"))


def side_files(queue: Queue) -> list[str]:
    return [name for name in os.listdir(queue.directory) if name.endswith(".item")]


def in_child(work: Any) -> int:
    pid = os.fork()
    if not pid:
        try:
            signal.alarm(30)
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_it_has_every_method_of_multiprocessings_queue() -> None:
    theirs = {name for name in dir(multiprocessing.Queue()) if not name.startswith("_")}
    assert theirs <= set(dir(Queue))


def test_objects_come_out_as_they_went_in(queue: Queue) -> None:
    objects = [None, 1, "text", {"a": [1.5, None]}, (1, 2), {3}, b"x" * 400_000, ["y" * 1000] * 100, Path("p")]
    for item in objects:
        queue.put(item)
    assert queue.qsize() == len(objects) and not queue.empty() and not queue.full()
    assert [queue.get() for _ in objects] == objects
    assert queue.empty() and queue.qsize() == 0 and not side_files(queue)


def test_an_empty_queue_raises_at_once_or_after_its_timeout(queue: Queue) -> None:
    for call in (queue.get_nowait, lambda: queue.get(timeout=0.01), lambda: queue.get(False)):
        with pytest.raises(QueueEmpty) as caught:
            call()
        assert isinstance(caught.value, standard_queue.Empty)
    assert queue.get_many(5) == []


def test_a_bounded_queue_refuses_waits_and_goes_on(tmp_path: Path) -> None:
    queue = Queue(2, directory=tmp_path / "queue")
    queue.put(1)
    queue.put_nowait(2)
    assert queue.full()
    for call in (lambda: queue.put_nowait(3), lambda: queue.put(3, timeout=0.01), lambda: queue.put(3, False)):
        with pytest.raises(QueueFull) as caught:
            call()
        assert isinstance(caught.value, standard_queue.Full)
    putter = threading.Thread(target=queue.put, args=(3,))
    putter.start()
    assert [queue.get(timeout=DEADLINE_SECONDS) for _ in range(3)] == [1, 2, 3]
    putter.join(DEADLINE_SECONDS)
    assert not putter.is_alive()
    queue.close()


def test_a_bound_holds_over_several_processes_and_threads(tmp_path: Path) -> None:
    queue = Queue(5, directory=tmp_path / "queue")

    def work() -> None:
        for number in range(60):
            queue.put((os.getpid(), number), timeout=DEADLINE_SECONDS)

    def fork() -> int:
        pid = os.fork()
        if not pid:
            try:
                threads = [threading.Thread(target=work) for _ in range(2)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                os._exit(0)
            finally:
                os._exit(1)
        return pid

    pids = [fork(), fork()]
    got = 0
    while got < 240:
        assert queue.qsize() <= 5
        got += len(queue.get_many(3, timeout=DEADLINE_SECONDS))
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    assert queue.empty()
    queue.close()


def test_an_unbounded_queue_grows_by_larger_rings_and_keeps_the_order(tmp_path: Path) -> None:
    queue = Queue(directory=tmp_path / "queue", capacity_bytes=4096)
    for number in range(3000):
        queue.put({"number": number})
    assert len(rings(queue)) > 3
    assert [queue.get()["number"] for _ in range(1500)] == list(range(1500))
    for number in range(3000, 4000):
        queue.put({"number": number})
    got: list[Any] = []
    while items := queue.get_many(10_000):
        got += items
    assert [item["number"] for item in got] == list(range(1500, 4000))
    assert len(rings(queue)) == 1
    queue.close()


def test_get_many_takes_what_is_there_up_to_its_limit(queue: Queue) -> None:
    for number in range(10):
        queue.put(number)
    assert queue.get_many(4) == [0, 1, 2, 3]
    assert queue.get_many(100, timeout=5) == [4, 5, 6, 7, 8, 9]


def test_a_get_visits_one_ring_only_however_many_producers_and_each_in_its_turn(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    producers = [Queue.attach(queue.directory) for _ in range(6)]
    for number in range(2):
        for name, producer in enumerate(producers):
            producer.put((name, number))
    assert queue.qsize() == 12  # the rings are known now
    visits = 0
    refresh = Consumer.refresh

    def counted(ring: Consumer) -> None:
        nonlocal visits
        visits += 1
        refresh(ring)

    monkeypatch.setattr(Consumer, "refresh", counted)
    got = [queue.get() for _ in range(6)]
    assert visits == 6
    assert sorted(name for name, _ in got) == list(range(6)), "each producer once before one comes again"
    assert sorted(queue.get_many()) == [(name, 1) for name in range(6)]
    for producer in producers:
        producer.close()


def test_an_unrelated_process_attaches_by_name(queue: Queue) -> None:
    code = """if True:
        import sys
        from seclea.queues.queue import Queue
        queue = Queue.attach(sys.argv[1])
        queue.put(["answer", queue.get(timeout=20)])
        assert "multiprocessing" not in sys.modules
    """
    queue.put("question")
    subprocess.run([sys.executable, "-c", code, str(queue.directory)], check=True, timeout=60)
    assert queue.get(timeout=DEADLINE_SECONDS) == ["answer", "question"]
    queue.put(1)
    attached = Queue.attach(queue.directory)
    assert attached.get() == 1
    attached.close()


def test_attaching_where_there_is_no_queue_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no queue"):
        Queue.attach(tmp_path / "nothing")
    with pytest.raises(UsageError):
        Queue(directory=tmp_path / "queue", capacity_bytes=0)


def put_from_child(queue: Queue, number: int) -> None:
    queue.put(["child", number, queue.get(timeout=DEADLINE_SECONDS)])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_multiprocessing_use_it_whatever_the_start_method(method: str) -> None:
    queue = Queue()
    queue.put("to the child")
    process = multiprocessing.get_context(method).Process(target=put_from_child, args=(queue, 7))
    process.start()
    answer = queue.get(timeout=DEADLINE_SECONDS)
    if answer == "to the child":  # we were first
        queue.put(answer)
        answer = None
    process.join(DEADLINE_SECONDS)
    assert process.exitcode == 0
    assert (answer or queue.get()) == ["child", 7, "to the child"]
    queue.close()
    process.close()


def test_a_forked_child_has_a_ring_of_its_own_and_its_parents_goes_on(queue: Queue) -> None:
    queue.put("parent 1")

    def work() -> None:
        assert queue.get() == "parent 1"
        queue.put("child")

    assert in_child(work) == 0
    queue.put("parent 2")
    assert len(rings(queue)) == 2
    assert sorted([queue.get(), queue.get()]) == ["child", "parent 2"]
    now = [0.0]
    queue._rings._clock = lambda: now[0]
    now[0] = 1e9
    assert queue.get_many() == [] and len(rings(queue)) == 1, "the dead child's ring is removed"


def test_a_child_forked_in_the_middle_of_a_get_and_a_put_is_not_stuck(queue: Queue) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with queue._local, queue._producing:
            assert queue._turn.take(1.0)
            held.set()
            done.wait(DEADLINE_SECONDS)
            queue._turn.leave()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(DEADLINE_SECONDS)

    def work() -> None:
        queue.put("child")
        assert queue.get_many(1) == [], "it is the parent's turn"

    assert in_child(work) == 0
    done.set()
    thread.join()
    assert queue.get(timeout=DEADLINE_SECONDS) == "child"


def test_a_closed_queue_refuses_here_but_what_was_put_stays(queue: Queue) -> None:
    queue.put("stays")
    other = Queue.attach(queue.directory)
    queue.close()
    queue.close()
    queue.join_thread()
    queue.cancel_join_thread()
    for call in (lambda: queue.put(1), queue.get, queue.qsize, queue.empty, lambda: queue.get_many(1)):
        with pytest.raises(QueueClosed):
            call()
    assert other.get() == "stays"
    assert other.get_many() == [] and not rings(other)
    other.close()


def test_a_bell_rings_only_while_the_consumer_sleeps_and_at_a_first_put(tmp_path: Path) -> None:
    rung: list[int] = []
    queue = Queue(directory=tmp_path / "queue", bell=lambda: rung.append(1))
    consumer = Queue.attach(queue.directory)
    consumer.set_sleeping(True)
    queue.put("the consumer cannot have said that it sleeps in a ring that it does not know")
    assert len(rung) >= 1
    assert consumer.get()
    rung.clear()
    consumer.set_sleeping(True)
    queue.put(1)
    assert len(rung) == 1
    consumer.set_sleeping(False)
    queue.put(2)
    assert len(rung) == 1
    assert consumer.get_many() == [1, 2]
    queue.close()
    consumer.close()


class Unloadable:
    def __reduce__(self) -> Any:
        return (int, ("not a number",))


def test_an_object_that_cannot_be_unpickled_raises_once_and_the_rest_goes_on(queue: Queue) -> None:
    for item in (1, Unloadable(), Unloadable(), 2):
        queue.put(item)
    assert queue.get_many() == [1]
    for _ in range(2):
        with pytest.raises(ValueError, match="not a number"):
            queue.get_many()
    assert queue.get_many() == [2]


def leave_unless(pid: int) -> str:
    if os.getpid() != pid:
        os._exit(73)
    return "decoded"


class DecodableHereOnly:
    def __reduce__(self) -> Any:
        return (leave_unless, (os.getpid(),))


def test_a_consumer_that_dies_while_it_decodes_leaves_the_object_to_the_next(queue: Queue) -> None:
    queue.put(DecodableHereOnly())
    pid = os.fork()
    if not pid:
        queue.get()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 73
    assert queue.get(timeout=DEADLINE_SECONDS) == "decoded"


def test_what_a_consumer_killed_inside_its_commit_took_is_not_given_again(queue: Queue) -> None:
    for number in range(4):
        queue.put(number)
    assert queue.qsize() == 4
    (ring,) = queue._rings._rings.values()
    ring._words[layout.TAIL_SEQUENCE] = 2  # the commit of two, without the store of TAIL that follows
    assert queue.get_many() == [2, 3] and queue.empty()


def test_a_closed_ring_is_kept_until_it_is_read_to_its_end(queue: Queue) -> None:
    producer = Queue.attach(queue.directory)
    producer.put(1)
    producer.close()
    assert queue.qsize() == 1 and not queue._rings.retire()
    assert queue.get() == 1 and queue._rings.retire() and not rings(queue)


def test_the_bound_is_looked_at_again_in_the_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(1, directory=tmp_path / "queue")
    queue.put(1)
    monkeypatch.setattr(queue, "full", lambda: False)  # looked before another process put
    with pytest.raises(QueueFull):
        queue.put(2, timeout=0.001)
    queue.close()


def test_an_object_that_cannot_be_pickled_raises_at_put(queue: Queue) -> None:
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        queue.put(threading.Lock())
    assert queue.empty()


def test_a_queue_without_pickles_takes_and_gives_plain_data_only(tmp_path: Path) -> None:
    queue = Queue(directory=tmp_path / "queue", allow_pickle=False)
    with pytest.raises(UsageError):
        queue.put((1, 2))
    other = Queue.attach(tmp_path / "queue")
    with pytest.raises(UsageError):
        other.put({1})
    other.put([1])
    assert queue.get() == [1]
    other.close()
    queue.close()


def test_a_large_object_whose_file_is_gone_is_counted_and_passed_over(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    for item in (b"x" * 400_000, "next"):
        queue.put(item)
    os.unlink(queue.directory / side_files(queue)[0])
    with caplog.at_level(logging.ERROR):
        assert queue.get() == "next"
    assert queue.lost == 1 and "large object" in caplog.text


def test_a_damaged_ring_of_a_dead_producer_is_put_aside_and_the_others_go_on(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    def work() -> None:
        queue.put("first")
        queue.put("second of the child")

    assert in_child(work) == 0
    path = queue.directory / rings(queue)[0]
    data = bytearray(path.read_bytes())
    data[data.index(b"second")] ^= 1
    path.write_bytes(data)
    (queue.directory / ("0" * 32 + ".ring")).write_bytes(b"no ring")
    queue.put("parent")
    with caplog.at_level(logging.ERROR):
        assert sorted(queue.get_many()) == ["first", "parent"]
        queue._rings._clock = lambda: 1e9
        assert queue.get_many() == []
    assert len(rings(queue)) == 1 and queue._rings.damaged == 2
    assert len([name for name in os.listdir(queue.directory) if name.endswith(".damaged")]) == 2


def test_a_consumer_that_was_stopped_in_its_turn_makes_others_wait_no_longer_than_they_want(queue: Queue) -> None:
    queue.put(1)
    other = Queue.attach(queue.directory)
    assert other._turn.take(1.0)
    started = time.monotonic()
    with pytest.raises(QueueEmpty):
        queue.get(timeout=0.05)
    with pytest.raises(QueueEmpty):
        queue.get_nowait()
    assert time.monotonic() - started < 5
    other.close()
    assert queue.get(timeout=DEADLINE_SECONDS) == 1


def test_memory_that_is_full_is_queue_full_and_what_was_put_stays(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    small = Queue(directory=queue.directory / "small", capacity_bytes=4096)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(QueueFull):
        small.put_nowait(1)
    monkeypatch.undo()
    small.put(1)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(QueueFull):
        for _ in range(1000):
            small.put("x" * 100, timeout=0.01)
    with pytest.raises(QueueFull):
        for _ in range(100):
            small.put_nowait(None)
    with pytest.raises(QueueFull):
        small.put(b"x" * 100_000, block=False)
    assert not side_files(small), "an object that was not put leaves no file"
    monkeypatch.undo()
    count = small.qsize()
    small.put("last")
    got = small.get_many(1000)
    while items := small.get_many(1000):
        got += items
    assert got[-1] == "last" and len(got) == count + 1 > 20
    small.close()


def test_a_queue_without_a_name_is_removed_by_its_last_user() -> None:
    queue = Queue()
    path = queue.directory
    queue.put(1)
    again = pickle.loads(pickle.dumps(queue))
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        os.read(ours, 1)
        os._exit(0)
    queue.close()
    del queue
    gc.collect()
    assert path.exists() and again.get() == 1
    again.close()
    del again
    gc.collect()
    assert path.exists(), "the child may use it"
    os.write(theirs, b"x")
    os.waitpid(pid, 0)
    assert path.exists()
    other = Queue()
    assert not path.exists(), "what killed users left is removed by the next"
    path = other.directory
    other.put(1)
    del other
    gc.collect()
    assert not path.exists() and not temporary._held
    for descriptor in (ours, theirs):
        os.close(descriptor)


def test_a_dropped_queue_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    def use() -> None:
        queue = Queue(directory=tmp_path / "queue", capacity_bytes=4096)
        for number in range(500):
            queue.put(number)
        while queue.get_many(7):
            pass

    use()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        use()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_many_threads_put_and_get(queue: Queue) -> None:
    got: list[list[tuple[int, int]]] = [[], []]

    def put(name: int) -> None:
        for number in range(500):
            queue.put((name, number))

    def get(into: list[tuple[int, int]]) -> None:
        while (item := queue.get(timeout=DEADLINE_SECONDS)) is not None:
            into.append(item)

    putters = [threading.Thread(target=put, args=(name,)) for name in range(3)]
    getters = [threading.Thread(target=get, args=(into,)) for into in got]
    for thread in putters + getters:
        thread.start()
    for thread in putters:
        thread.join()
    for _ in getters:
        queue.put(None)
    for thread in getters:
        thread.join()
    assert sorted(got[0] + got[1]) == [(name, number) for name in range(3) for number in range(500)]
    for into in got:
        for name in range(3):
            numbers = [number for who, number in into if who == name]
            assert numbers == sorted(numbers)


def test_puts_of_a_signal_handler_are_all_there(tmp_path: Path) -> None:
    queue = Queue(directory=tmp_path / "queue", capacity_bytes=4096)
    handled = 0
    busy = False

    def handle(*_: object) -> None:
        nonlocal handled, busy
        if not busy:
            busy = True
            queue.put(["handler", handled])
            handled += 1
            busy = False

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for number in range(8000):
            queue.put(["main", number])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    queue.put("end")
    got: list[Any] = []
    assert wait_until(lambda: got.extend(queue.get_many(10_000)) or got[-1:] == ["end"], DEADLINE_SECONDS)  # type: ignore[func-returns-value]
    assert [number for who, number in got[:-1] if who == "main"] == list(range(8000))
    assert [number for who, number in got[:-1] if who == "handler"] == list(range(handled)) and handled
    queue.close()
