from __future__ import annotations

import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from seclea.queues import bell as bell_module
from seclea.queues.bell import Bell, Words
from seclea.queues.queue import Queue
from seclea.queues.wait import wait_until

DEADLINE_SECONDS = 30.0


@pytest.fixture
def memory(tmp_path: Path) -> memoryview:
    return Words(tmp_path / "words").memory


@pytest.fixture
def bells(tmp_path: Path, memory: memoryview) -> Iterator[list[Bell]]:
    """One bell, as three processes have it."""
    bells = [Bell(memory, 0, tmp_path / "bell") for _ in range(3)]
    yield bells
    for bell in bells:
        bell.close()


def asleep(bell: Bell, memory: memoryview) -> bool:
    return bell._sleepers > 0 and memory[0] == 1


def test_a_bell_wakes_a_sleeper_who_says_that_others_may_still_sleep(
    bells: list[Bell], memory: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bell_module, "LONGEST_SLEEP_SECONDS", DEADLINE_SECONDS)
    done = threading.Event()
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(bells[0].sleep(done.is_set, DEADLINE_SECONDS)))
    thread.start()
    assert wait_until(lambda: asleep(bells[0], memory), DEADLINE_SECONDS)
    assert bells[1].is_wanted
    done.set()
    bells[1].ring()
    thread.join(DEADLINE_SECONDS / 2)
    assert results == [True] and bells[1].is_wanted


def test_who_would_sleep_looks_once_more_after_the_word_is_up(bells: list[Bell], memory: memoryview) -> None:
    seen: list[int] = []
    started = time.monotonic()
    assert bells[0].sleep(lambda: not seen.append(memory[0]), DEADLINE_SECONDS)  # type: ignore[func-returns-value]
    assert seen == [1] and time.monotonic() - started < DEADLINE_SECONDS / 2


def test_the_word_is_down_before_the_byte_is_written(
    bells: list[Bell], memory: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: list[int] = []
    memory[0] = 1
    monkeypatch.setattr(Bell, "_write", lambda self: words.append(memory[0]))
    bells[0].ring()
    assert words == [0]


def test_a_bell_that_nobody_hears_costs_a_sleeper_a_tenth_of_a_second(bells: list[Bell]) -> None:
    started = time.monotonic()
    assert not bells[0].sleep(lambda: False, DEADLINE_SECONDS)
    assert time.monotonic() - started < DEADLINE_SECONDS / 2


def test_bells_for_a_full_fifo_or_after_close_do_nothing(bells: list[Bell], tmp_path: Path) -> None:
    for _ in range(70_000):
        bells[0].ring()
    assert stat.S_ISFIFO((tmp_path / "bell").stat().st_mode) and (tmp_path / "bell").stat().st_mode & 0o777 == 0o600
    assert not bells[1].sleep(lambda: False, 1.0)
    bells[1].close()
    bells[1].close()
    bells[1].ring()
    assert bells[1].sleep(lambda: True, 1.0)


def test_where_no_fifo_can_be_had_it_naps(tmp_path: Path, memory: memoryview) -> None:
    (tmp_path / "file").write_bytes(b"no FIFO")
    for path in (tmp_path / "file", tmp_path / "gone" / "bell"):
        bell = Bell(memory, 0, path)
        started = time.monotonic()
        assert not bell.sleep(lambda: False, DEADLINE_SECONDS)
        assert time.monotonic() - started >= bell_module._NAP_SECONDS
        bell.ring()
        bell.close()


def test_words_that_are_no_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "words")
    with pytest.raises(OSError):
        Words(tmp_path / "words")


def test_closing_wakes_those_who_sleep_here_and_the_last_lets_go(
    bells: list[Bell], memory: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bell_module, "LONGEST_SLEEP_SECONDS", DEADLINE_SECONDS)
    thread = threading.Thread(target=bells[0].sleep, args=(lambda: False, DEADLINE_SECONDS))
    thread.start()
    assert wait_until(lambda: asleep(bells[0], memory), DEADLINE_SECONDS)
    bells[0].close()
    thread.join(DEADLINE_SECONDS / 2)
    assert not thread.is_alive() and bells[0]._descriptor < 0


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(directory=tmp_path / "queue")
    yield queue
    queue.close()


def test_a_consumer_that_sleeps_is_woken_by_a_put_and_the_next_by_the_first(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sleeps that would outlast the test, three items must wake three sleepers."""
    monkeypatch.setattr(bell_module, "LONGEST_SLEEP_SECONDS", 1000.0)
    consumers = [Queue.attach(queue.directory) for _ in range(3)]
    got: list[int] = []
    threads = [threading.Thread(target=lambda c=consumer: got.append(c.get())) for consumer in consumers]
    for thread in threads:
        thread.start()
    assert wait_until(lambda: all(c._items_bell._sleepers for c in consumers), DEADLINE_SECONDS)
    for number in range(3):
        queue.put(number)
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert sorted(got) == [0, 1, 2]
    for consumer in consumers:
        consumer.close()


def test_who_waited_and_leaves_work_for_another_sleeper_rings_for_him(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[int] = []
    monkeypatch.setattr(Bell, "_write", lambda self: rung.append(1))
    queue.put(1)
    queue.put(2)
    for left in (1, 0):
        queue._words[0] = 1  # somebody sleeps
        taken: list[int] = []
        assert queue._wait(lambda t=taken: queue._take(t, 1), 1.0, queue._items_bell)
        assert len(rung) == 1, f"{left} left"


def test_a_producer_that_sleeps_in_front_of_a_full_queue_is_woken_by_a_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bell_module, "LONGEST_SLEEP_SECONDS", 1000.0)
    queue = Queue(1, directory=tmp_path / "queue")
    queue.put(0)
    producers = [Queue.attach(queue.directory) for _ in range(2)]
    threads = [threading.Thread(target=producer.put, args=(1,)) for producer in producers]
    for thread in threads:
        thread.start()
    assert wait_until(lambda: all(p._room_bell._sleepers for p in producers), DEADLINE_SECONDS)
    assert [queue.get(timeout=DEADLINE_SECONDS) for _ in range(3)] == [0, 1, 1]
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    for each in (*producers, queue):
        each.close()


def test_nobody_rings_while_the_consumer_is_busy(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    rung: list[int] = []
    monkeypatch.setattr(Bell, "_write", lambda self: rung.append(1))
    for number in range(1000):
        queue.put(number)
        assert queue.get(timeout=1.0) == number
    assert not rung


def test_a_thread_that_waits_in_get_learns_at_once_that_the_queue_was_closed(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seclea.errors import QueueClosed

    monkeypatch.setattr(bell_module, "LONGEST_SLEEP_SECONDS", 1000.0)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            queue.get()
        except QueueClosed as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert wait_until(lambda: queue._items_bell._sleepers > 0, DEADLINE_SECONDS)
    queue.close()
    thread.join(DEADLINE_SECONDS)
    assert len(errors) == 1 and queue._items_bell._descriptor < 0


def test_a_signal_handler_may_put_while_its_thread_sleeps_in_get(queue: Queue) -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: queue.put("from the handler"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        assert queue.get(timeout=DEADLINE_SECONDS) == "from the handler"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
