"""Files that are mapped as shared memory: made safely, locked by their maker, told dead or alive.

Rule 1: a file is made under a name of its own (``.new``), locked, given all its blocks, filled, and only then renamed.
Whoever finds it under its final name finds it whole, and locked for as long as its maker lives.
Rule 2: blocks are allocated before the file is mapped. A full tmpfs is then an ``OSError`` here; with a sparse file it
would be a SIGBUS in the middle of a training step.
Rule 3: the lock is an fcntl record lock. A forked child does not inherit it and the kernel drops it at death, but
closing *any* descriptor of the file in the owner's process drops it too. So it alone never proves a death.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import mmap
import os
import stat
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

UNFINISHED = ".new"  # suffix of a file that is still being made
_UNFINISHED_SECONDS = 10.0  # making one takes milliseconds
_SHARE_OF_FREE = 4  # rings take at most a quarter of what is free where they are put
_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "lustre", "ceph", "beegfs", "gpfs", "glusterfs"}
)
_OPEN_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_STDERR = 2
# struct flock: field order differs between Linux and the BSDs (macOS).
_FLOCK = "hhqqi" if sys.platform.startswith("linux") else "qqihh"
_MADV_POPULATE_WRITE = 23  # Linux 5.14; the mmap module has no name for it


def private_directory(path: Path) -> Path:
    """Make ``path`` (and its parents) where it is missing, 0700, and make sure that it is ours alone.

    Raises:
        PermissionError: it is a link, belongs to another user, or others may enter it; or it lies below a directory
            that another user has put into a common one like ``/tmp``.
    """
    path = Path(os.path.abspath(path))
    for parent in reversed(path.parents):
        try:
            # No mode that a umask could widen: whoever could write to a parent could swap the directory itself.
            os.mkdir(parent, 0o700)
            os.chmod(parent, 0o700)
        except FileExistsError:
            pass
        except OSError:
            if not os.path.isdir(parent):  # read-only file systems refuse even what exists
                raise
        if _is_common(parent.parent) and os.stat(parent).st_uid not in (0, os.geteuid()):
            raise PermissionError(errno.EPERM, "belongs to another user", str(parent))
    try:
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)  # under a umask like 0777 nobody could enter it
    except FileExistsError:
        pass
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise PermissionError(errno.EPERM, "not a directory of its own (a link?)", str(path))
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "belongs to another user", str(path))
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(errno.EPERM, "other users may enter it; chmod 700 it", str(path))
    return path


def _is_common(directory: Path) -> bool:
    """Whether every user may put things there, as in ``/tmp`` and ``/dev/shm``."""
    return bool(os.stat(directory).st_mode & stat.S_IWOTH)


def create_unfinished(path: Path, size_bytes: int) -> int:
    """Make ``path`` with the suffix ``.new``, locked and with all its blocks, and return its descriptor.

    Args:
        path: the final name; `finish` moves the file there.
    Raises:
        FileExistsError: one of the two names is taken.
        OSError: no room (ENOSPC, EDQUOT, EFBIG); nothing is left behind.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "exists", str(path))
    unfinished = f"{path}{UNFINISHED}"
    with beyond_stdio():
        descriptor = os.open(unfinished, _OPEN_FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # under a umask like 0777 nobody could open it again
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.posix_fallocate(descriptor, 0, size_bytes)
    except BaseException:
        os.unlink(unfinished)
        os.close(descriptor)
        raise
    return descriptor


def finish(path: Path) -> None:
    """Give the file made by `create_unfinished` its final name."""
    os.rename(f"{path}{UNFINISHED}", path)


def discard_unfinished(path: Path) -> None:
    """Undo `create_unfinished`; the caller still closes the descriptor."""
    try:
        os.unlink(f"{path}{UNFINISHED}")
    except FileNotFoundError:
        pass


def sweep_unfinished(directory: Path, older_than_seconds: float = _UNFINISHED_SECONDS) -> int:
    """Remove what killed makers left half made in ``directory``; returns how many files that were.

    A maker that lives takes its lock right after it has made the file. Should we come just between, its `finish` fails,
    with `FileNotFoundError`.
    """
    removed = 0
    with os.scandir(directory) as entries:
        names = [entry.path for entry in entries if entry.name.endswith(UNFINISHED)]
    for name in names:
        try:
            descriptor = os.open(name, _OPEN_FLAGS | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            age_seconds = time.time() - os.fstat(descriptor).st_mtime
            if age_seconds > older_than_seconds and not is_locked(descriptor):
                os.unlink(name)
                removed += 1
        except FileNotFoundError:
            pass
        finally:
            os.close(descriptor)
    return removed


def open_existing(path: Path) -> int:
    """Open a file that another process made: a regular file, no link, ours.

    Raises:
        OSError: missing, a link (ELOOP), or not ours (PermissionError).
    """
    descriptor = os.open(path, _OPEN_FLAGS | os.O_NONBLOCK)  # a FIFO must not make us wait
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "not a regular file of this user", str(path))
    return descriptor


def map_shared(descriptor: int, size_bytes: int, *, populate: bool = False) -> mmap.mmap:
    """Map ``size_bytes`` of the file, readable and writable, shared with every other process that does so.

    Args:
        populate: fault all pages in now, so that the first lap of a ring meets none. For writing, where the kernel can: on a
            disk's file system each page would else fault once more (3 to 8 µs) when it is first written to.
    """
    with beyond_stdio():  # it keeps a copy of the descriptor
        memory = mmap.mmap(descriptor, size_bytes, flags=mmap.MAP_SHARED)
        if populate and sys.platform == "linux":
            try:
                memory.madvise(_MADV_POPULATE_WRITE)
            except OSError:  # an older kernel
                memory = mmap.mmap(descriptor, size_bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    return memory


@contextlib.contextmanager
def beyond_stdio() -> Iterator[None]:
    """What is opened inside gets no descriptor from 0 to 2, also where those are closed.

    A print of some library would else go into a ring, and what a subprocess inherits as its output would be one.
    """
    held: list[int] = []
    try:
        while not held or held[-1] <= _STDERR:
            held.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        os.close(held.pop())
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


def is_locked(descriptor: int) -> bool:
    """Whether some *other* open file holds the record lock of its maker. Takes no lock, so it drops none."""
    request = getattr(fcntl, "F_OFD_GETLK", fcntl.F_GETLK)  # the OFD one also sees a lock of our own process
    question = _pack_flock(fcntl.F_WRLCK)
    try:
        answer = fcntl.fcntl(descriptor, request, question)
    except OSError:
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, question)
    return _unpack_flock(answer) != fcntl.F_UNLCK


def _pack_flock(kind: int) -> bytes:
    if _FLOCK == "hhqqi":
        return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)
    return struct.pack(_FLOCK, 0, 0, 0, kind, os.SEEK_SET)


def _unpack_flock(answer: bytes) -> int:
    fields = struct.unpack(_FLOCK, answer[: struct.calcsize(_FLOCK)])
    return int(fields[0] if _FLOCK == "hhqqi" else fields[3])


def process_start(pid: int) -> int:
    """Clock ticks between boot and the start of ``pid`` (``/proc/<pid>/stat``, field 22).

    Returns 0 when there is no such process, when it is dead but not yet reaped, or where there is no ``/proc``.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name in parentheses may hold spaces and ")"
        return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0


def is_running(pid: int, start_ticks: int, boot: bytes) -> bool:
    """Whether that very process runs: by its pid, and by when it (``start_ticks``; 0 unknown) and its machine started."""
    if boot != boot_id():
        return False
    if start_ticks:
        return process_start(pid) == start_ticks
    try:  # no /proc
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    except OverflowError:
        return False
    return True


@functools.cache
def boot_id() -> bytes:
    """16 bytes that differ after every boot; zeroes where the system does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))[:16].ljust(16, b"\0")
    except (OSError, ValueError):
        return bytes(16)


def roomy_directory(candidates: Iterable[Path], need_bytes: int) -> Path:
    """The first of ``candidates`` that is ours, not on a network, and has room for rings of ``need_bytes`` together.

    Room means that they take at most a quarter of what is free. Where none is that roomy, the first that can hold them.

    Raises:
        OSError: ENOSPC, none can hold them.
    """
    tight: Path | None = None
    for candidate in candidates:
        try:
            directory = private_directory(candidate)
            if filesystem_type(directory) in _NETWORK:
                continue
            space = os.statvfs(directory)
        except OSError:
            continue
        free_bytes = space.f_bavail * space.f_frsize
        if free_bytes >= need_bytes * _SHARE_OF_FREE:
            return directory
        if tight is None and free_bytes >= need_bytes:
            tight = directory
    if tight is None:
        raise OSError(errno.ENOSPC, f"no directory has room for {need_bytes} bytes of shared memory")
    return tight


def filesystem_type(path: Path) -> str:
    """The type of the file system that ``path`` lies on, as ``/proc`` names it; empty where that is unknown."""
    try:
        device = os.stat(path).st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                before, _, after = line.partition(" - ")
                if before.split()[2] == wanted:
                    return after.split()[0]
    except (OSError, IndexError):
        pass
    return ""
