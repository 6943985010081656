"""A payload file in the making: private, under a random name, hashed as it is written, gone if anything fails."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_BUFFER_BYTES = 1 << 20  # Parquet and pickle make many small writes; larger ones pass by the buffer


class PayloadFile:
    """A new file in ``directory`` (0600, never an existing one), to be used as a context manager.

    Leaving the block by an exception removes it. It is not synced: that is the writer's part, before its row.
    After the block ``size`` (bytes) and ``sha256`` (hex) are those of everything written.

    Raises:
        OSError: the directory cannot be made or written, or the disk is full; nothing is left behind.
    """

    def __init__(self, directory: str | os.PathLike[str], suffix: str) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self.path = Path(directory, secrets.token_hex(16) + suffix)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
        self._file = open(os.open(self.path, flags, 0o600), "wb", buffering=_BUFFER_BYTES)  # noqa: SIM115
        self._hash = hashlib.sha256()
        self.size = 0
        self.sha256 = ""
        self.closed = False

    def write(self, data: Any) -> int:
        """Append bytes (anything with a contiguous buffer)."""
        with memoryview(data) as view:
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
        self.sha256 = self._hash.hexdigest()
