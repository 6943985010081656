"""A payload file in the making: private, under a random name, hashed, gone if anything fails.

Within `taking` its bytes are asked for before they are written.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

Take = Callable[[Path, int, int], int]  # as in `director.grants`, which is not loaded for a snapshot alone

_take: ContextVar[Take | None] = ContextVar("seclea_take", default=None)

_ASK_BYTES = 1 << 20  # the least that a file asks for whose size nobody knows; then always twice of what it has
_BUFFER_BYTES = 1 << 20  # Parquet and pickle make many small writes; larger ones pass by the buffer


@contextmanager
def taking(take: Take) -> Iterator[None]:
    """Payload files that are made within the block ask ``take`` for their bytes. A thread needs the block's context."""
    token = _take.set(take)
    try:
        yield
    finally:
        _take.reset(token)


def _new_file(directory: str | os.PathLike[str], suffix: str) -> tuple[Path, int]:
    os.makedirs(directory, mode=0o700, exist_ok=True)
    path = Path(directory, secrets.token_hex(16) + suffix)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    return path, os.open(path, flags, 0o600)


class PayloadFile:
    """A new file in ``directory`` (0600, never an existing one), to be used as a context manager.

    Leaving the block by an exception removes it. It is not synced: that is the writer's part, before its row.
    After the block ``size`` (bytes) and ``sha256`` (hex) are those of everything written.

    Raises:
        OSError: the directory cannot be made or written, or the disk is full; nothing is left behind.
        TooLargeError, LoggingPaused: a limit has no room for it (`director.grants.Take`); likewise.
    """

    def __init__(self, directory: str | os.PathLike[str], suffix: str) -> None:
        self._take, self._granted = _take.get(), 0
        self.path, descriptor = _new_file(directory, suffix)
        self._file = open(descriptor, "wb", buffering=_BUFFER_BYTES)  # noqa: SIM115
        self._hash = hashlib.sha256()
        self.size = 0
        self.sha256 = ""
        self.closed = False

    def expect(self, size: int, *, surely: bool = True) -> None:
        """It will have about ``size`` bytes more, or ``surely`` as many: they are asked for at once."""
        size += self.size
        if self._take is not None and size > self._granted:
            self._granted = self._take(self.path, size, size if surely else 0)

    def write(self, data: Any) -> int:
        """Append bytes (anything with a contiguous buffer)."""
        with memoryview(data) as view:
            if self._take is not None and (least := self.size + view.nbytes) > self._granted:
                self._granted = self._take(self.path, max(least, _ASK_BYTES, 2 * self._granted), least)
            self._hash.update(view)
            self._file.write(view)
            self.size += view.nbytes
            return view.nbytes

    def writable(self) -> bool:  # what pyarrow asks of a file object
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Left to the end of the block: libraries that write here close what they were handed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()  # writes what is buffered: can be what finds the disk full
        except BaseException:
            self.path.unlink(missing_ok=True)
            raise
        self.closed = True
        if error is not None:
            self.path.unlink(missing_ok=True)
        elif self._take is not None and self._granted > 2 * self.size + _ASK_BYTES:  # others may have the rest
            self._take(self.path, self.size, self.size)
        self.sha256 = self._hash.hexdigest()


class PayloadPath:
    """The same for a library that opens the path itself: a new private file to be written over within the block.

    It is hashed at the end of the block, and is 0600 also where the library put another file in its place. What is more
    than ``expected`` bytes is asked for at the end only.

    Raises:
        OSError: as above; also at the end, when what stands there is no regular file.
    """

    def __init__(self, directory: str | os.PathLike[str], suffix: str, expected: int = _ASK_BYTES) -> None:
        self._take = _take.get()
        self.path, descriptor = _new_file(directory, suffix)
        os.close(descriptor)
        if self._take is not None:
            try:
                self._take(self.path, expected, 0)
            except BaseException:
                self.path.unlink(missing_ok=True)
                raise
        self.size = 0
        self.sha256 = ""

    def _read(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0))
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(f"{self.path} is no regular file")
            os.fchmod(descriptor, 0o600)
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            self.size = found.st_size
            if self._take is not None:
                self._take(self.path, self.size, self.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._read()
        except BaseException:
            self.path.unlink(missing_ok=True)
            raise
        if error is not None:
            self.path.unlink(missing_ok=True)


class Stored(NamedTuple):
    """A payload, its format and what is known of it."""

    format: str
    file: PayloadFile | PayloadPath
    metadata: dict[str, Any]
