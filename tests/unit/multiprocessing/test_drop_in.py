"""`seclea.multiprocessing` has every name and submodule of what it stands in for, and each is the very same object."""

import importlib
import multiprocessing
import multiprocessing.pool
import pkgutil
import queue
import socket
import subprocess
import sys
from types import ModuleType

import pytest

import seclea
import seclea.multiprocessing as mp
from seclea.queues.shared import SharedQueue

OURS = {"Queue", "get_context"}


def compare(original: ModuleType, *submodules_of: ModuleType) -> None:
    """Fails where a public name or submodule of ``original`` is missing or another object, ours left out."""
    public = [name for name in dir(original) if not name.startswith("_") and name != "pool"]
    assert set(multiprocessing.__all__) <= set(public)
    differing = {name for name in public if getattr(mp, name) is not getattr(original, name)}
    assert differing == OURS
    assert list(mp.__all__) == list(original.__all__)
    assert set(public) <= set(dir(mp))
    for package in submodules_of:
        for found in pkgutil.iter_modules(package.__path__):
            if "win32" in found.name or (found.name == "pool" and package is not multiprocessing):
                continue
            theirs = importlib.import_module(f"{package.__name__}.{found.name}")
            spec = theirs.__spec__
            assert importlib.import_module(f"seclea.multiprocessing.{found.name}") is theirs
            assert theirs.__spec__ is spec is not None and spec.name == theirs.__name__
            if found.name != "spawn":  # in torch a function, before and after the submodule was imported
                assert getattr(mp, found.name) is theirs
    assert {name for name in public if getattr(mp, name) is not getattr(original, name)} == OURS


@pytest.mark.torch
def test_it_has_all_of_torchs() -> None:
    torch_multiprocessing = pytest.importorskip("torch.multiprocessing")
    compare(torch_multiprocessing, torch_multiprocessing)
    for name in ("managers", "shared_memory", "queues", "dummy"):  # which torch leaves to multiprocessing
        assert importlib.import_module(f"seclea.multiprocessing.{name}") is getattr(multiprocessing, name)
    pool = importlib.import_module("seclea.multiprocessing.pool")
    assert pool is mp.pool and pool.Pool is importlib.import_module("torch.multiprocessing.pool").Pool
    assert pool.ThreadPool is multiprocessing.pool.ThreadPool and pool.__spec__.name == "seclea.multiprocessing.pool"
    assert mp._set_thread_name is torch_multiprocessing._set_thread_name, "DataLoader asks for it"


WITHOUT_TORCH = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.partition(".")[0] == "torch" else find_spec(name, package)
import multiprocessing, sys
sys.path.insert(0, {root!r})
from tests.unit.multiprocessing.test_drop_in import compare
compare(multiprocessing, multiprocessing)
assert "torch" not in sys.modules
"""


def run(code: str, **keywords: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, **keywords)  # type: ignore[call-overload, no-any-return]


def test_it_has_all_of_multiprocessings_where_torch_is_not_installed(pytestconfig: pytest.Config) -> None:
    ran = run(WITHOUT_TORCH.format(root=str(pytestconfig.rootpath)))
    assert ran.returncode == 0, ran.stderr


def test_torch_is_loaded_when_one_of_its_own_names_is_used_and_not_before() -> None:
    ran = run(
        "import sys, seclea.multiprocessing as mp\n"
        "mp.Process, mp.Queue(), mp.get_context('spawn').Queue(), mp.Pool, mp.cpu_count()\n"
        "print('torch' in sys.modules, 'seclea.client' in sys.modules)\n"
    )
    assert (ran.stdout, ran.stderr) == ("False False\n", "")


def test_what_neither_has_is_an_attribute_error_and_no_module() -> None:
    with pytest.raises(AttributeError, match=r"'seclea\.multiprocessing' has no attribute 'no_such_name'"):
        mp.no_such_name  # noqa: B018
    with pytest.raises(ModuleNotFoundError, match="no_such_name"):
        importlib.import_module("seclea.multiprocessing.no_such_name")


# --- contexts and queues


@pytest.mark.parametrize("method", [None, "fork", "spawn", "forkserver"])
def test_a_context_is_a_real_one_and_differs_in_its_queue_alone(method: str | None) -> None:
    theirs, ours = multiprocessing.get_context(method), mp.get_context(method)
    assert isinstance(ours, type(theirs)) and isinstance(ours, multiprocessing.context.BaseContext)
    assert ours.get_start_method() == theirs.get_start_method()
    assert ours is mp.get_context(method) is ours.get_context()  # type: ignore[no-untyped-call]
    assert ours.get_context("spawn") is mp.get_context("spawn")
    assert ours.Process is theirs.Process  # type: ignore[attr-defined]
    assert type(ours.Queue()) is SharedQueue
    assert type(ours.JoinableQueue()) is multiprocessing.queues.JoinableQueue
    assert type(ours.SimpleQueue()) is multiprocessing.queues.SimpleQueue


def test_a_context_refuses_an_unknown_method_as_the_original() -> None:
    with pytest.raises(ValueError, match="cannot find context for 'threads'"):
        mp.get_context("threads")


def test_a_queue_has_the_originals_exceptions() -> None:
    made = mp.Queue(1)
    made.put(1)
    with pytest.raises(queue.Full):
        made.put(2, timeout=0.01)
    assert made.get() == 1
    with pytest.raises(queue.Empty):
        made.get_nowait()
    made.close()
    made.join_thread()
    with pytest.raises(ValueError, match="closed"):
        made.put(3)
    with pytest.raises(seclea.QueueClosed):
        made.get()


def test_what_multiprocessing_can_hand_over_comes_through() -> None:
    made = mp.Queue()
    left, right = socket.socketpair()
    with left, right:
        made.put(("a socket", right))  # pickle alone refuses it
        word, received = made.get(timeout=10)
        with received:
            assert received.fileno() != right.fileno()
            left.sendall(b"x")
            assert (word, received.recv(1)) == ("a socket", b"x")
    made.close()


@pytest.mark.torch
def test_a_tensor_is_the_same_memory_at_both_ends() -> None:
    torch = pytest.importorskip("torch")
    made = mp.Queue()
    sent = torch.zeros(3)
    made.put({"weights": sent})
    received = made.get(timeout=10)["weights"]
    sent += 1
    assert received.tolist() == [1.0, 1.0, 1.0] and received.is_shared()
    made.close()


def test_without_room_for_ours_the_queue_is_the_originals_and_one_line_says_so() -> None:
    ran = run(
        "import resource, seclea.multiprocessing as mp\n"
        "limits = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))\n"  # nearly full: a lock has 32 bytes
        "made = [mp.Queue(), mp.get_context('spawn').Queue()]\n"
        "print([type(queue).__module__ for queue in made])\n"
        "made[0].put('through')\n"
        "print(made[0].get(timeout=10))\n"
    )
    assert ran.stdout == "['multiprocessing.queues', 'multiprocessing.queues']\nthrough\n", ran.stderr
    assert ran.stderr == "seclea: the queue is multiprocessing's own: [Errno 27] File too large\n"


def test_who_wants_the_originals_queues_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECLEA_QUEUE", "0")
    assert type(mp.Queue()) is multiprocessing.queues.Queue
    assert type(mp.get_context("fork").Queue()) is multiprocessing.queues.Queue
