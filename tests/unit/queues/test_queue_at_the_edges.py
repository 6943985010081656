"""A queue where the machine, the file system or the program around it is unkind."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seclea.queues
from seclea.errors import QueueClosed, QueueEmpty, QueueFull, UsageError
from seclea.queues import items, temporary
from seclea.queues.queue import Queue
from seclea.queues.ring import Producer

DEADLINE_SECONDS = 30.0


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(directory=tmp_path / "queue")
    yield queue
    queue.close()


@contextlib.contextmanager
def on_signal(handler: Any) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_package_names_the_queue() -> None:
    assert seclea.queues.Queue is Queue
    with pytest.raises(AttributeError):
        seclea.queues.Nothing  # noqa: B018


def test_a_queue_with_a_name_is_found_by_another_process_and_goes_with_its_last_user() -> None:
    name = f"results-{os.getpid()}"
    queue = Queue(name=name)
    path = queue.directory
    code = """if True:
        import sys
        from seclea.queues import Queue
        queue = Queue.attach(sys.argv[1])
        queue.put(queue.get(timeout=20) + 1)
    """
    queue.put(1)
    subprocess.run([sys.executable, "-c", code, name], check=True, timeout=60)
    assert queue.get(timeout=DEADLINE_SECONDS) == 2
    with pytest.raises(UsageError, match="already"):
        Queue(name=name)
    other = Queue.attach(name)
    again = pickle.loads(pickle.dumps(other))
    queue.close()
    del queue
    gc.collect()
    other.put(3)
    assert again.get() == 3 and path.exists()
    other.close()
    again.close()
    del other, again
    gc.collect()
    assert not path.exists() and not temporary._held
    with pytest.raises(UsageError, match="no queue"):
        Queue.attach(name)


@pytest.mark.parametrize("name", ["", "a b", "../x", "x/y", "ä", "x" * 65])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        Queue(name=name)
    with pytest.raises(UsageError):
        Queue.attach(name)


def test_a_name_that_is_refused_makes_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "_bases", lambda: [tmp_path / "base"])
    with pytest.raises(UsageError):
        Queue(name="no name")
    assert not (tmp_path / "base").exists()


def test_a_queue_has_a_name_or_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not both"):
        Queue(name="x", directory=tmp_path)


def test_a_directory_that_was_removed_is_no_queue_and_closes_those_who_get(queue: Queue) -> None:
    queue.put(1)
    shutil.rmtree(queue.directory)
    with pytest.raises(UsageError, match="no queue"):
        Queue.attach(queue.directory)
    with pytest.raises(QueueClosed, match="removed"):
        while True:
            queue.get(timeout=1.0)
    with pytest.raises(QueueClosed):
        queue.qsize()


def test_a_get_of_a_signal_handler_in_the_middle_of_a_get_says_empty_at_once(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot wait for what it interrupted. Looking and putting work."""
    seen: list[Any] = []

    def handler(*_: object) -> None:
        for call in (queue.get, queue.get_nowait, lambda: queue.get(timeout=1000)):
            with pytest.raises(QueueEmpty):
                call()
        seen.append((queue.qsize(), queue.empty(), queue.get_many(), queue.put("from the handler")))

    unpack = items.unpack

    def interrupted(*arguments: Any) -> Any:
        monkeypatch.undo()
        signal.raise_signal(signal.SIGUSR1)
        return unpack(*arguments)

    queue.put(1)
    with on_signal(handler):
        monkeypatch.setattr(items, "unpack", interrupted)
        assert queue.get(timeout=DEADLINE_SECONDS) == 1
    assert seen == [(1, False, [], None)]
    assert queue.get(timeout=DEADLINE_SECONDS) == "from the handler"


class Interrupted(Exception):
    pass


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("maxsize", [0, 5])
def test_a_signal_handler_that_raises_anywhere_in_put_or_get_leaves_the_queue_whole(
    tmp_path: Path, maxsize: int
) -> None:
    """At every call of ours and after every call of C, which is where Python runs handlers: afterwards this and other
    handles put and get, and nothing is doubled."""

    def interrupted_at(point: int, work: Any) -> bool:
        left = point

        def profile(frame: Any, event: str, arg: object) -> None:
            nonlocal left
            if event in ("call", "c_return") and "/seclea/queues/" in frame.f_code.co_filename:
                left -= 1
                if not left:
                    sys.setprofile(None)
                    raise Interrupted

        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            work()
        except Interrupted:
            return False
        finally:
            sys.setprofile(before)
        return True

    for what in ("put", "get"):
        queue = Queue(maxsize, directory=tmp_path / f"{what}", capacity_bytes=4096)
        other = Queue.attach(queue.directory)
        point, finished = 0, False
        while not finished:
            point += 1
            item = np.full(1000, point)
            if what == "get":
                other.put(item)
            finished = interrupted_at(point, lambda: queue.put(item) if what == "put" else queue.get_nowait())  # noqa: B023
            got = [other.get_many(), queue.get_many()]
            assert sum(map(len, got)) <= 1, "once at most"
            other.put("after")
            assert queue.get(timeout=3.0) == "after", (what, point)
            queue.put("back")
            assert other.get(timeout=DEADLINE_SECONDS) == "back", (what, point)
        assert point > 30
        other.close()
        queue.close()


def test_a_child_forked_at_any_moment_puts_and_gets(tmp_path: Path) -> None:
    """While other threads of the parent put, get and sleep on the bell."""
    queue = Queue(50, directory=tmp_path / "queue")
    stop = threading.Event()

    def work(call: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(QueueEmpty, QueueFull):
                call()

    calls = [
        lambda: queue.put("parent", timeout=0.05),
        lambda: queue.put(np.ones(100), timeout=0.05),
        lambda: queue.get(timeout=0.05),
    ]
    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            pid = os.fork()
            if not pid:
                signal.alarm(60)
                with contextlib.suppress(QueueFull, QueueEmpty):
                    queue.put("child", timeout=5)
                    queue.get(timeout=5)
                queue.close()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    queue.close()


def leave_dead_rings(directory: Path, count: int) -> None:
    """As ``count`` producers would that were killed, each with one object in its ring."""
    pid = os.fork()
    if not pid:
        try:
            for number in range(count):
                ring = Producer.create(directory, capacity_bytes=4096, ring_id=os.urandom(8) + (1).to_bytes(8, "big"))
                ring.put(*items.pack(number, True)[:2])
                ring.abandon_after_fork()  # lets go of it without a word
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("descriptors", [None, 200])
def test_the_rings_of_a_thousand_dead_producers_are_read_and_removed(queue: Queue, descriptors: int | None) -> None:
    """Also by a process that may open few files, with a large object among them."""
    leave_dead_rings(queue.directory, 1000)
    queue.put(np.full(100_000, 7))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, before[1]))
    got: list[Any] = []
    try:
        while len(got) < 1001:
            got.append(queue.get(timeout=DEADLINE_SECONDS))
        assert queue.get_many() == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    arrays = [item for item in got if isinstance(item, np.ndarray)]
    assert len(arrays) == 1 and (arrays[0] == 7).all()
    assert sorted(item for item in got if isinstance(item, int)) == list(range(1000))
    assert queue.lost == 0
    queue._rings._clock = lambda: 1e9
    assert queue.get_many() == [] and len(list(queue.directory.glob("*.ring"))) == 1


def test_a_large_object_stays_when_no_descriptor_is_left_to_read_it(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    for item in ("first", np.ones(100_000), "last"):
        queue.put(item)

    def exhausted(*_: object) -> Any:
        raise OSError(errno.EMFILE, "no descriptor left")

    monkeypatch.setattr(items, "read_side_file", exhausted)
    assert queue.get_many() == ["first"]
    for _ in range(2):
        with pytest.raises(OSError, match="no descriptor"):
            queue.get()
    monkeypatch.undo()
    got = queue.get_many()
    assert got[0].sum() == 100_000 and got[1] == "last" and queue.lost == 0


class Unloadable:
    def __init__(self) -> None:
        self.array = np.ones(100_000)

    def __reduce__(self) -> Any:
        return (int, ("not a number", self.array))


def test_a_large_object_that_cannot_be_unpickled_raises_its_own_error_also_behind_others(queue: Queue) -> None:
    for item in (1, Unloadable(), 2):
        queue.put(item)
    assert queue.get_many() == [1]
    with pytest.raises(TypeError):
        queue.get_many()
    assert queue.get_many() == [2] and queue.lost == 0 and not list(queue.directory.glob("*.item"))


@pytest.fixture
def small_memory(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB in memory."""
    path = tmp_path / "small"
    path.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("cannot mount a small tmpfs")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(queue: Queue, item: Any) -> int:
    count = 0
    try:
        while True:
            queue.put(item, timeout=0.01)
            count += 1
    except QueueFull:
        return count


def test_memory_that_is_really_full_is_queue_full_never_a_signal_and_nothing_put_is_lost(small_memory: Path) -> None:
    """In a child, so that a SIGBUS would be seen."""
    queue = Queue(directory=small_memory / "queue", capacity_bytes=16 << 10)
    queue.put("first")
    pid = os.fork()
    if not pid:
        try:
            large, array, small = b"x" * 50_000, np.arange(5_000), "y" * 100
            full = [fill(queue, item) for item in (large, array, small)]
            (small_memory / "filler").touch()
            with contextlib.suppress(OSError), open(small_memory / "filler", "wb") as file:
                file.write(bytes(1 << 20))  # not a page is left
            full[2] += fill(queue, small)
            assert full[0] > 5 and full[2] > 5, full
            with pytest.raises(QueueFull):
                queue.put_nowait(array)
            with pytest.raises(QueueFull):
                Queue.attach(queue.directory).put_nowait(small)  # no room for its first ring
            got = []
            while some := queue.get_many():
                got += some
            assert "first" in [each for each in got if type(each) is str]
            assert [sum(type(each) is kind for each in got) for kind in (bytes, np.ndarray, str)] == [
                *full[:2],
                full[2] + 1,
            ]
            (small_memory / "filler").unlink()
            queue.put(large)
            assert queue.get(timeout=DEADLINE_SECONDS) == large
            os._exit(73)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 73
    queue.close()


@pytest.mark.parametrize("wrong", [{"maxsize": "x"}, {"maxsize": None}, {"maxsize": 1.5}, {"name": 5}])
def test_a_bound_or_name_that_is_none_is_refused_before_anything_is_made(wrong: dict[str, Any]) -> None:
    before = [set(base.glob("*")) for base in temporary._bases()]
    with pytest.raises(UsageError, match="maxsize is a whole number"):
        Queue(**wrong)
    assert [set(base.glob("*")) for base in temporary._bases()] == before


def test_rings_that_could_not_be_listed_once_are_found_at_the_next_look(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert queue.empty()
    other = Queue(directory=queue.directory)
    other.put("come")
    os.utime(queue.directory, ns=(0, 1_000_000_000))  # long ago: what was listed since then need not be listed again

    def no_descriptor(path: object) -> list[str]:
        raise OSError(errno.EMFILE, "no descriptor left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", no_descriptor)
        with pytest.raises(OSError, match="no descriptor left"):
            queue.empty()
    assert queue.get_nowait() == "come"
    other.close()
