"""Faults at system calls, and a wall clock that jumps: builds `shim.c` and steers it. Standard library only.

`interpreter()` is a python that works as the one of this process does, and puts the shim in front of every process of the
pipeline whose home lies beside a control file; so the product needs no switch for it. `Control` is that file.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".cache" / "shim"
ROLES = ("client", "writer", "sender", "portal")
MODES = {
    "KILL": 1,  # before the call
    "KILLED": 2,  # after it
    "STOP": 3,
    "SHORT": 4,
    **{name: 1000 + getattr(errno, name) for name in ("ENOSPC", "EIO", "EMFILE", "ENOMEM", "EINTR", "ECONNRESET")},
}
_NAME = 256
_LOG_BYTES = 2 << 20
# As in shim.c.
OPENS, CREATES, WRITES, READS, SYNCS, SPACE, REMOVES, MAPS, DESCRIPTOR = (1 << bit for bit in range(9))
NETWORK, LOCKS, WAITS, CLOSES, SOCKET = (1 << bit for bit in range(9, 14))


class CannotBuild(Exception):
    """There is no C compiler, or it refuses."""


@functools.cache
def build() -> Path:
    """The directory of the built shim and its interpreter, made unless it is there.

    Raises:
        CannotBuild: with the reason.
    """
    if Path(sys.prefix).parent == CACHE:  # we run under it
        return Path(sys.prefix)
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None or not sys.platform.startswith("linux"):
        raise CannotBuild("there is no C compiler here, or this is not Linux")
    base = Path(sys.prefix)
    real = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    digest = hashlib.sha256(f"{real}\0{base}\0{compiler}".encode())
    for source in ("shim.c", "interpreter.c"):
        digest.update((HERE / source).read_bytes())
    built = CACHE / digest.hexdigest()[:16]
    if built.is_dir():
        return built
    CACHE.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=CACHE))
    try:
        (unfinished / "bin").mkdir()
        if (base / "pyvenv.cfg").exists():  # an environment of its own, with the packages of this one
            shutil.copy(base / "pyvenv.cfg", unfinished)
            (unfinished / "lib").symlink_to(base / "lib")
        places = [f'-DINTERPRETER="{real}"', f'-DSHIM="{built / "shim.so"}"']
        _compile([compiler, "-O2", "-o", str(unfinished / "bin" / "python"), *places, str(HERE / "interpreter.c")])
        _compile([compiler, "-O2", "-shared", "-fPIC", "-o", str(unfinished / "shim.so"), str(HERE / "shim.c"), "-ldl"])
        try:
            unfinished.rename(built)
        except OSError:
            if not built.is_dir():  # else somebody else was faster
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return built


def _compile(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"{command[0]} refuses: {done.stderr[-500:]}")


def interpreter() -> str:
    """The python to start clients with; `sys.executable` of all that they start."""
    return str(build() / "bin" / "python")


def preload() -> dict[str, str]:
    """For the environment of a process that forks clients: each of them calls `attach`."""
    return {"LD_PRELOAD": str(build() / "shim.so")}


def attach(control: Path, role: str) -> None:
    """Put this process, which was started with `preload`, under a control."""
    if ctypes.CDLL(None).shim_attach(os.fsencode(control), role.encode()):
        raise OSError(f"{control} steers no {role}")


class Point(NamedTuple):
    """The n-th call of a function on a path, both as the shim names them."""

    role: str
    function: str
    path: str
    nth: int

    def __str__(self) -> str:
        return f"{self.role}:{self.function}:{self.path}:{self.nth}"

    @classmethod
    def parse(cls, text: str) -> Point:
        role, function, rest = text.split(":", 2)
        path, _, nth = rest.rpartition(":")
        return cls(role, function, path, int(nth))


def applies(mode: str, kind: int) -> bool:
    """Whether the kernel may answer so to a call of this kind; shim.c asks the same of calls while a fault lasts."""
    match mode:
        case "ENOSPC":
            return not kind & SOCKET and bool(kind & (CREATES | WRITES | SYNCS | SPACE))
        case "EIO":
            wanted = OPENS | CREATES | WRITES | READS | SYNCS | SPACE | REMOVES | CLOSES
            return not kind & SOCKET and bool(kind & wanted)
        case "EMFILE":
            return bool(kind & DESCRIPTOR)
        case "ENOMEM":
            return bool(kind & (DESCRIPTOR | MAPS))
        case "EINTR":
            return bool(kind & (OPENS | WRITES | READS | SYNCS | SPACE | NETWORK | LOCKS | WAITS | CLOSES))
        case "ECONNRESET":
            return bool(kind & SOCKET and kind & (WRITES | READS | NETWORK))
        case "SHORT":
            return bool(kind & (WRITES | READS))
    return True


class _Head(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("on", "mode", "nth", "seen", "fired", "logged")),
        *((name, ctypes.c_int32) for name in ("left", "pid")),
        ("clock_ns", ctypes.c_int64 * len(ROLES)),
        *((name, ctypes.c_char * _NAME) for name in ("role", "function", "path")),
        ("prefixes", (ctypes.c_char * _NAME) * 3),
    ]


class Control:
    """The control file of one case: what fails where, and what was called. Shared with the processes it steers."""

    def __init__(self, path: Path, home: Path, runtime: Path, shared: Path) -> None:
        self.path = path
        with open(path, "w+b") as file:
            file.truncate(ctypes.sizeof(_Head) + _LOG_BYTES)
            self._map = mmap.mmap(file.fileno(), 0)
        self.head = _Head.from_buffer(self._map)
        for place, prefix in zip(self.head.prefixes, (home, runtime, shared), strict=True):
            place.value = os.fsencode(prefix)

    def plan(self, point: Point, mode: str, times: int = 1) -> None:
        """Let the call at ``point`` fail so, and after it each that the mode applies to, ``times`` in all."""
        head = self.head
        head.role, head.function, head.path = (word.encode() for word in point[:3])
        head.mode, head.nth, head.left, head.on = MODES[mode], point.nth, times, 1

    @property
    def fired(self) -> int:
        """How many calls failed by the plan."""
        return int(self.head.fired)

    @property
    def pid(self) -> int:
        """The process that was hit last."""
        return int(self.head.pid)

    def end_of_faults(self) -> None:
        """From now on every call does what the kernel says."""
        self.head.on = 0

    def set_clock(self, role: str, seconds: float) -> None:
        """Put the wall clock of one kind of process ``seconds`` ahead, at once."""
        self.head.clock_ns[ROLES.index(role)] = int(seconds * 1e9)

    def calls(self) -> Iterator[tuple[Point, int]]:
        """Every call so far, with its kind."""
        start = ctypes.sizeof(_Head)
        text = self._map[start : start + min(int(self.head.logged), _LOG_BYTES)].decode("utf-8", "replace")
        met: Counter[tuple[str, str, str]] = Counter()
        for line in text.split("\n")[:-1]:
            role, kind, function, path = line.split(" ", 3)
            met[role, function, path] += 1
            yield Point(role, function, path, met[role, function, path]), int(kind)

    def close(self) -> None:
        """Unmap the file."""
        del self.head
        self._map.close()
