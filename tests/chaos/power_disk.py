"""Disks of our own: a logged one, and images of what it would hold had the power failed at some instant.

The logged disk is one file of a FUSE file system that this file speaks itself, under a loop device. Every write and every
flush that the kernel's file system makes is appended to a log before it is answered, so the size of the log's file is an
instant that can be noted: what was told before it, was told when just these writes had reached the disk.

All mounts are made in a mount namespace of the process (`seclude`), and loop devices let go by themselves: whatever happens,
nothing of it stays once the process and its children are gone.
Source: the kernel's include/uapi/linux/fuse.h and loop.h (structures and numbers).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512  # what a drive writes whole

_libc = ctypes.CDLL(None, use_errno=True)
_NEW_NAMESPACE, _RECURSIVE_PRIVATE = 0x00020000, 0x00004000 | 0x00040000
_LAZILY = 2
_LOOP_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_AUTOCLEAR = 4

_HEADER = struct.Struct("=BQI")  # of a log entry: kind, offset, length
_WRITE, _FLUSH = 1, 2


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def seclude() -> None:
    """Go into a mount namespace of our own; what is mounted from now on is seen by us and our children only."""
    _check(_libc.unshare(_NEW_NAMESPACE), "no mount namespace of its own")
    _check(_libc.mount(None, b"/", None, _RECURSIVE_PRIVATE, None), "mounts cannot be made private")


def mount(source: str, target: Path, kind: str, options: str = "") -> None:
    """mount(2). Raises OSError."""
    _check(_libc.mount(source.encode(), os.fsencode(target), kind.encode(), 0, options.encode()), f"mount {kind}")


def unmount(target: Path) -> None:
    """umount(2); lazily where something still uses it."""
    if _libc.umount2(os.fsencode(target), 0):
        _check(_libc.umount2(os.fsencode(target), _LAZILY), f"umount {target}")


def loop_device(file: Path) -> int:
    """A descriptor of a loop device over ``file``, which is let go of with its last user: close it once it is mounted."""
    backing = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    deadline = time.monotonic() + 20.0
    try:
        while True:
            device = os.open(f"/dev/loop{fcntl.ioctl(control, _LOOP_FREE)}", os.O_RDWR | os.O_CLOEXEC)
            # fd, block size, then loop_info64 (its flags at byte 52) and reserved words
            config = struct.pack("=II", backing, 0) + struct.pack("=52xI176x", _AUTOCLEAR) + bytes(64)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY or time.monotonic() > deadline:  # another process took it meanwhile
                    raise
            else:
                return device
    finally:
        os.close(control)
        os.close(backing)


@contextlib.contextmanager
def mounted(file: Path, target: Path, kind: str, options: str = "") -> Iterator[None]:
    """The file system in ``file``, mounted for the block."""
    device = loop_device(file)
    try:
        mount(os.readlink(f"/proc/self/fd/{device}"), target, kind, options)
    finally:
        os.close(device)
    try:
        yield
    finally:
        unmount(target)


# -- the logged disk ---------------------------------------------------------------------------------------------------

_IN = struct.Struct("=IIQQIIIHH")
_OUT = struct.Struct("=IiQ")
_ATTRIBUTES = struct.Struct("=6Q10I")
(
    _LOOKUP, _FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE_CALL, _STATFS, _RELEASE, _FSYNC, _FLUSH_CALL, _INIT, _ACCESS,
    _INTERRUPT, _DESTROY, _BATCH_FORGET, _OPENDIR, _RELEASEDIR,
) = (1, 2, 3, 4, 14, 15, 16, 17, 18, 20, 25, 26, 34, 36, 38, 42, 27, 29)  # fmt: skip
_ROOT, _DISK = 1, 2
_NAME = b"disk"
_DIRECT_IO = 1
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22
_PAGES = 256  # of a request: 1 MiB


class LoggedDisk:
    """Serves ``directory/disk`` until it is unmounted; ``image`` holds its bytes, ``log`` all that happened to them."""

    def __init__(self, image: Path, log: Path, directory: Path) -> None:
        self._image = os.open(image, os.O_RDWR | os.O_CLOEXEC)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._image).st_size
        self._fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        mount("logged", directory, "fuse", f"fd={self._fuse},rootmode=40000,user_id=0,group_id=0")

    def serve(self) -> None:
        """Answer until nobody can ask any more."""
        while True:
            try:
                request = os.read(self._fuse, (_PAGES + 2) * 4096)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                if error.errno == errno.ENODEV:
                    return
                raise
            _, call, unique, node, *_ = _IN.unpack_from(request)
            if call in (_FORGET, _BATCH_FORGET, _INTERRUPT):
                continue
            answer = self._answer(call, node, memoryview(request)[_IN.size :])
            number, body = (answer, b"") if isinstance(answer, int) else (0, answer)
            with contextlib.suppress(FileNotFoundError):  # interrupted meanwhile
                os.write(self._fuse, _OUT.pack(_OUT.size + len(body), -number, unique) + body)
            if call == _DESTROY:
                return

    def _attributes(self, node: int) -> bytes:
        mode, size = (stat.S_IFDIR | 0o700, 0) if node == _ROOT else (stat.S_IFREG | 0o600, self._size)
        return _ATTRIBUTES.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _answer(self, call: int, node: int, body: memoryview) -> bytes | int:
        if call == _WRITE_CALL:
            _, offset, size = struct.unpack_from("=QQI", body)
            self._append(_WRITE, offset, body[40 : 40 + size])
            os.pwrite(self._image, body[40 : 40 + size], offset)
            return struct.pack("=II", size, 0)
        if call == _FSYNC:
            self._append(_FLUSH, 0, b"")
            return b""
        if call == _READ:
            _, offset, size = struct.unpack_from("=QQI", body)
            return os.pread(self._image, size, offset)
        if call == _INIT:
            flags = struct.unpack_from("=I", body, 12)[0] & (_BIG_WRITES | _MAX_PAGES)
            return struct.pack("=IIIIHHIIHH32x", 7, 31, 0, flags, 16, 12, _PAGES * 4096, 1, _PAGES, 0)
        if call == _LOOKUP:
            if bytes(body).rstrip(b"\0") != _NAME:
                return errno.ENOENT
            return struct.pack("=QQQQII", _DISK, 0, 3600, 3600, 0, 0) + self._attributes(_DISK)
        if call in (_GETATTR, _SETATTR):
            return struct.pack("=QII", 3600, 0, 0) + self._attributes(node)
        if call in (_OPEN, _OPENDIR):
            return struct.pack("=QIi", 0, _DIRECT_IO if call == _OPEN else 0, 0)
        if call == _STATFS:
            return struct.pack("=5Q4I24x", 1 << 20, 1 << 19, 1 << 19, 100, 50, 4096, 255, 4096, 0)
        if call in (_RELEASE, _RELEASEDIR, _FLUSH_CALL, _ACCESS, _DESTROY):
            return b""
        return errno.ENOSYS

    def _append(self, kind: int, offset: int, data: bytes | memoryview) -> None:
        entry = b"".join((_HEADER.pack(kind, offset, len(data)), data))
        if os.write(self._log, entry) != len(entry):
            raise OSError(errno.ENOSPC, "the log was cut short")


# -- what the log says -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One write (or flush: no data) and where the log stood after it."""

    offset: int
    data: bytes
    end: int

    @property
    def is_flush(self) -> bool:
        return not self.data


def read_log(log: Path) -> list[Entry]:
    """All that happened, in order."""
    raw = memoryview(log.read_bytes())
    entries, place = [], 0
    while place < len(raw):
        _, offset, length = _HEADER.unpack_from(raw, place)
        end = place + _HEADER.size + length
        entries.append(Entry(offset, bytes(raw[place + _HEADER.size : end]), end))
        place = end
    return entries


class Image:
    """The bytes of a disk, in blocks of 4 KiB that were ever written, kept in memory and copied to a file when asked for."""

    BLOCK = 4096

    def __init__(self, file: Path) -> None:
        self.size = file.stat().st_size
        self._blocks: dict[int, bytes] = {}
        with file.open("rb") as start:
            for number in range(self.size // self.BLOCK):
                if (block := start.read(self.BLOCK)).count(0) != self.BLOCK:
                    self._blocks[number] = block

    def copy(self) -> Image:
        """Another one that goes its own way."""
        other = object.__new__(Image)
        other.size, other._blocks = self.size, dict(self._blocks)
        return other

    def write(self, offset: int, data: bytes) -> None:
        """What the disk does with a write of whole sectors."""
        place = 0
        while place < len(data):
            number, start = divmod(offset + place, self.BLOCK)
            piece = data[place : place + self.BLOCK - start]
            if len(piece) != self.BLOCK:
                before = self._blocks.get(number, bytes(self.BLOCK))
                piece = before[:start] + piece + before[start + len(piece) :]
            self._blocks[number] = piece
            place += self.BLOCK - start

    def save(self, file: Path) -> None:
        """Put it into ``file``, which may be of another image."""
        with file.open("wb") as out:
            out.truncate(self.size)
            run: list[bytes] = []
            begin = -1
            for number in sorted(self._blocks):
                if number != begin + len(run):
                    os.pwrite(out.fileno(), b"".join(run), max(begin, 0) * self.BLOCK)
                    begin, run = number, []
                run.append(self._blocks[number])
            os.pwrite(out.fileno(), b"".join(run), max(begin, 0) * self.BLOCK)


def make_file_system(file: Path, kind: str) -> None:
    """An empty one in a new file, as small as the kind allows.

    Raises:
        FileNotFoundError: its mkfs is not installed.
    """
    size, options = {
        "ext4": (64 << 20, ["-q", "-F", "-m", "0", "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0"]),
        "btrfs": (128 << 20, ["-q", "-f", "--mixed", "-m", "single", "-d", "single"]),
        "xfs": (320 << 20, ["-q", "-f"]),
    }[kind]
    with file.open("wb") as out:
        out.truncate(size)
    subprocess.run([f"mkfs.{kind}", *options, os.fspath(file)], check=True, capture_output=True)
