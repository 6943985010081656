"""The spool: payloads as content-addressed chunks on disk.

Rule 1  temporary name in the same directory, write, fsync, rename, fsync the directory, and only then a row that names it.
        The names of the directories above it, up to those that others made, are synced too: at the writer's start
        (`Spool.sync_names`), and that of a new one before anything in it counts.
Rule 2  A failed fsync is never tried again on the same data: the file is removed and the error passed on.
Rule 3  A chunk's file is deleted only after the transaction that dropped its last reference, and never while a payload
        that is just being stored counts on it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from seclea.contract import Home
from seclea.errors import LedgerError

CHUNK_BYTES = 8 << 20  # 4 to 8 MiB: large enough for line rate, small enough to send again
RING_CHARACTERS = 32  # an incoming file's name begins with the id of its ring, in hex
_NOT_OURS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL})  # a directory above that we may not sync
_ABANDONED_SECONDS = 3600.0  # an incoming file without a frame, this old, belongs to a client that died in the call


def sync_descriptor(descriptor: int) -> None:
    """fsync; in a function of its own because it raises no audit event that a crash test could hook."""
    os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class StoredPayload:
    """A payload that is durable in chunks: ``chunks`` are (sha256, bytes) in order, ``sha256`` and ``size`` of the whole."""

    chunks: tuple[tuple[str, int], ...]
    sha256: str
    size: int


class Spool:
    """Stores, reads and deletes chunks. `store` may run in several threads; the rest is the writer's main thread's."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._counted_on: Counter[str] = Counter()
        self._named: set[Path] = set()  # directories of chunks whose own names are durable

    def sync_names(self) -> None:
        """Make durable the names of the spool's directories, of the home, and of what stands above it and is ours.

        Whoever made them may have died, or not been asked to wait for a disk: a client makes the home of a new user.
        """
        made = {path for path in self._home.chunks.iterdir() if path.is_dir()}
        for directory in (self._home.chunks, self._home.spool):
            sync_directory(directory)
        for directory in (self._home.path, *self._home.path.parents):
            try:
                sync_directory(directory)
            except OSError as error:
                if error.errno not in _NOT_OURS or directory == self._home.path:
                    raise
            if directory.stat().st_uid != os.getuid():
                break  # it was there before us
        self._named |= made

    def incoming(self, name: str) -> Path:
        """The file that a client wrote."""
        if not name.isalnum():
            raise LedgerError(f"{name!r} is no name of an incoming payload.")
        return self._home.incoming / name

    def open_incoming(self, name: str) -> BinaryIO:
        """What a client wrote there, to be read.

        Raises:
            LedgerError: something else than a file stands there.
            FileNotFoundError, OSError: it is gone, or cannot be read now.
        """
        try:
            # A link is not followed, and a pipe is not waited for.
            descriptor = os.open(self.incoming(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
            raise LedgerError(f"{name} in {self._home.incoming} is no file.") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise LedgerError(f"{name} in {self._home.incoming} is no file.")
        return os.fdopen(descriptor, "rb")

    def chunk_path(self, sha256: str) -> Path:
        """Where a chunk stands."""
        return self._home.chunks / sha256[:2] / sha256

    def store(self, name: str) -> StoredPayload:
        """Cut an incoming file into chunks and make them durable. Call `settled` once the row is committed.

        Raises:
            FileNotFoundError: the incoming file is gone.
            OSError: the disk refused; nothing of it is counted on.
        """
        chunks: list[tuple[str, int]] = []
        whole = hashlib.sha256()
        size = 0
        touched: set[Path] = set()
        try:
            for data in _pieces(self.open_incoming(name), CHUNK_BYTES):
                whole.update(data)
                sha256 = hashlib.sha256(data).hexdigest()
                with self._lock:
                    self._counted_on[sha256] += 1
                chunks.append((sha256, len(data)))
                size += len(data)
                touched.add(self._write(sha256, data))
            for directory in touched:
                sync_directory(directory)
        except BaseException:
            self.settled(chunks)
            raise
        return StoredPayload(tuple(chunks), whole.hexdigest(), size)

    def _write(self, sha256: str, data: bytes) -> Path:
        path = self.chunk_path(sha256)
        directory = path.parent
        if directory not in self._named:  # that it is there says nothing: another thread may just have made it
            with contextlib.suppress(FileExistsError):
                directory.mkdir(mode=0o700)
            sync_directory(directory.parent)
            self._named.add(directory)
        if path.exists() and path.stat().st_size == len(data):
            return directory
        temporary = directory / f"{sha256}.{os.getpid()}.{threading.get_ident()}.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                sync_descriptor(descriptor)
            finally:
                os.close(descriptor)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        return directory

    def settled(self, chunks: Iterable[tuple[str, int]]) -> None:
        """The row that names these chunks is committed (or never will be)."""
        with self._lock:
            for sha256, _ in chunks:
                self._counted_on[sha256] -= 1
                if self._counted_on[sha256] <= 0:
                    del self._counted_on[sha256]

    def delete(self, chunks: Iterable[str]) -> None:
        """Delete chunks that no row names any more."""
        with self._lock:
            for sha256 in chunks:
                if sha256 not in self._counted_on:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self.chunk_path(sha256))

    def delete_incoming(self, name: str) -> None:
        """An incoming file is in the spool now (or refused)."""
        _remove(self.incoming(name))

    def sweep_ring(self, ring: bytes, waiting: set[str]) -> None:
        """Delete what stands in ``incoming`` for a ring that is gone: left by a writer that died before it could.

        Args:
            waiting: names of incoming files that rows wait for.
        """
        for path in self._home.incoming.glob(f"{ring.hex()}*"):
            if path.name not in waiting:
                _remove(path)

    def read(self, sha256: str) -> bytes:
        """A chunk's bytes.

        Raises:
            LedgerError: missing, or not what its name says.
            OSError: it cannot be read just now.
        """
        try:
            data = self.chunk_path(sha256).read_bytes()
        except FileNotFoundError:
            raise LedgerError(f"The chunk {sha256} cannot be read from the spool: it is gone.") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise LedgerError(f"The chunk {sha256} in the spool is damaged.")
        return data

    def sweep(self, is_known: Callable[[str], bool], waiting: set[str], rings: Collection[str] = ()) -> int:
        """Delete what no row names: half-written files, chunks of a transaction that never was, abandoned payloads.

        Args:
            is_known: ``(sha256) -> bool``, whether a row names this chunk.
            waiting: names of incoming files that rows wait for.
            rings: ids (hex) of rings that are still there. Their frames may name a payload however old it is: it may
                have waited for a writer since yesterday, or the clock was set. `sweep_ring` comes when they are empty.
        Returns:
            Files deleted.
        """
        swept = 0
        for directory in filter(Path.is_dir, self._home.chunks.iterdir()):
            for path in directory.iterdir():
                if path.name.endswith(".new") or not is_known(path.name):
                    _remove(path)
                    swept += 1
        horizon = time.time() - _ABANDONED_SECONDS
        for path in self._home.incoming.iterdir():
            if path.name in waiting or path.name[:RING_CHARACTERS] in rings:
                continue
            if path.lstat().st_mtime < horizon:
                _remove(path)
                swept += 1
        return swept


def _remove(path: Path) -> None:
    """Delete a file. A folder is nobody's of ours: it stays, and nothing waits for it."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(path)


def _pieces(opened: BinaryIO, size: int) -> Iterator[bytes]:
    """A file in pieces of ``size`` bytes; an empty file is one empty piece."""
    with opened as file:
        first = True
        while True:
            data = file.read(size)
            if not data and not first:
                return
            yield data
            first = False
            if len(data) < size:
                return
