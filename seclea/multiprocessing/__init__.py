"""A drop-in for ``torch.multiprocessing``, or for ``multiprocessing`` where torch is not installed.

    import seclea.multiprocessing as mp

Every name and submodule is there and is the very object of the original, except `Queue`, `get_context` and, with torch, the
module `pool`, which has torch's `Pool` and the rest of multiprocessing's (`ThreadPool`). Children join
their parent's run (`seclea.log` without `seclea.init`), as they do with the original. Torch is imported when one of its own
names is first used.

`Queue`, and that of a context from `get_context`, is `seclea.queues.shared.SharedQueue`: in shared memory, without a feeder
thread. Tensors are shared as by ``torch.multiprocessing.Queue``. What differs from the original queue:

* `put` returns when the object is in the queue; what cannot be pickled raises there, and changing the object afterwards
  changes nothing. What a process put survives its death, but a tensor is torch's: its sender must live until it is taken.
* A process that is killed in the middle of `put` or `get` neither blocks the others nor loses what was put.
* Memory is the only bound of a queue without ``maxsize``, not a pipe: `put` does not wait for a consumer.
* Objects come out in the order of each producer, not of all of them together.
* Plain lists and dicts come out as equal copies: an object that was in one twice comes out as two.
* It can be pickled at any time, not only while a process is started. It is no instance of ``multiprocessing.queues.Queue``,
  and has no descriptor to wait on with ``multiprocessing.connection.wait``.
* It lives as long as a process has it: whoever makes one for children that are spawned keeps it until they run.
* A closed queue raises `seclea.QueueClosed`, which is a ``ValueError``.

``SECLEA_QUEUE=0`` in the environment gives the original's queues. They also serve where there is no room for ours, and on
Windows; one line on stderr says so. `JoinableQueue`, `SimpleQueue`, pools and managers are the original's.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import multiprocessing.pool
import sys
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from multiprocessing.context import BaseContext
from types import ModuleType
from typing import TYPE_CHECKING, Any

from seclea.multiprocessing import _contexts

if TYPE_CHECKING:
    from multiprocessing import Event, JoinableQueue, Lock, Manager, Pipe, Pool, Process, SimpleQueue, Value

    __all__ = ["Event", "JoinableQueue", "Lock", "Manager", "Pipe", "Pool", "Process", "SimpleQueue", "Value"]


def Queue(maxsize: int = 0) -> Any:
    """A queue for objects of processes that are started by whatever method; see the module for what differs."""
    return _contexts.new_queue(maxsize, multiprocessing.Queue)


def get_context(method: str | None = None) -> BaseContext:
    """The original's context for a start method, with our queue."""
    return _contexts.with_our_queue(multiprocessing.get_context(method))


@cache
def _original() -> ModuleType:
    """What this stands in for. Imports torch, where it is installed."""
    if importlib.util.find_spec("torch") is not None:
        try:
            return importlib.import_module("torch.multiprocessing")
        except ImportError:  # installed, and broken: not ours to report
            pass
    return multiprocessing


def _torchs_pool(torchs: ModuleType) -> ModuleType:
    """torch's module has its own `Pool`, and lacks what people take from multiprocessing's: `ThreadPool`, `AsyncResult`."""
    both = ModuleType(f"{__name__}.pool", torchs.__doc__)
    both.__dict__.update({name: value for name, value in vars(multiprocessing.pool).items() if name[:2] != "__"})
    both.__dict__.update({name: value for name, value in vars(torchs).items() if name[:2] != "__"})
    return both


def _original_submodule(name: str) -> ModuleType:
    for package in dict.fromkeys((_original().__name__, "multiprocessing")):
        if importlib.util.find_spec(f"{package}.{name}") is not None:
            return importlib.import_module(f"{package}.{name}")
    raise ModuleNotFoundError(f"No module named {__name__}.{name}", name=f"{__name__}.{name}")


def __getattr__(name: str) -> Any:
    if name in multiprocessing.__all__:
        return getattr(multiprocessing, name)
    if name == "pool":
        return importlib.import_module(f"{__name__}.pool")
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(_original(), name)
    except AttributeError:
        pass
    try:
        return _original_submodule(name)
    except ModuleNotFoundError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*dir(multiprocessing), *dir(_original())})


class _DropIn(ModuleType):
    """Keeps torch's function `spawn` where ``import seclea.multiprocessing.spawn`` puts the submodule of that name."""

    @property
    def spawn(self) -> Any:
        return _original().spawn

    @spawn.setter
    def spawn(self, value: Any) -> None:
        pass


sys.modules[__name__].__class__ = _DropIn


class _Submodules(MetaPathFinder, Loader):
    """``import seclea.multiprocessing.pool`` is the original's module, under one more name."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname.rpartition(".")[0] == __name__ else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = _original_submodule(spec.name.rpartition(".")[2])
        if module.__name__ == "torch.multiprocessing.pool":
            module = _torchs_pool(module)
        spec.loader_state = module.__spec__ or spec
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state  # it stays what it is, and has run long ago


sys.meta_path.append(_Submodules())
