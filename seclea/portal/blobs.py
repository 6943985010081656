"""Where chunks lie: a store that is addressed by sha256 and hands out nothing that does not hash to its name.

Disk order: temporary name in the same directory, write, fsync, rename, fsync the directory. Only then may a row
name the blob.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import Protocol


class DamagedBlob(Exception):
    """A stored blob is missing, or is not what its name says."""

    def __init__(self, sha256: str, reason: str) -> None:
        super().__init__(f"chunk {sha256} {reason}")
        self.sha256 = sha256
        self.reason = reason


class BlobStore(Protocol):
    """What the portal asks of a store: a folder here, S3 later. Calls block; run them in a thread."""

    def put(self, sha256: str, body: bytes) -> None:
        """Keep ``body``, which hashes to ``sha256``. Durable when it returns; heals a damaged one."""

    def get(self, sha256: str) -> bytes:
        """The bytes, checked. Raises `DamagedBlob`."""


class FolderBlobs:
    """Blobs as files ``<first two digits>/<sha256>``, 0600."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        for number in range(256):  # all at once, so that no two threads race for one and none is used before its fsync
            (folder / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
        _sync_directory(folder)
        _sync_directory(folder.parent)
        for leftover in folder.glob("*/.part-*"):  # written by a portal that was killed; nothing names them
            leftover.unlink(missing_ok=True)

    def path(self, sha256: str) -> Path:
        """Where a blob lies."""
        return self._folder / sha256[:2] / sha256

    def put(self, sha256: str, body: bytes) -> None:
        """Keep ``body``. One that is here and sound is left as it is."""
        path = self.path(sha256)
        try:
            self.get(sha256)
            return
        except DamagedBlob:
            pass
        part = path.with_name(f".part-{secrets.token_hex(8)}")
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            os.rename(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)

    def get(self, sha256: str) -> bytes:
        """Read and check."""
        try:
            with open(os.open(self.path(sha256), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                body = file.read()
        except FileNotFoundError:
            raise DamagedBlob(sha256, "is missing") from None
        except OSError as error:
            raise DamagedBlob(sha256, f"cannot be read ({error.strerror})") from error
        if hashlib.sha256(body).hexdigest() != sha256:
            raise DamagedBlob(sha256, "is damaged: its bytes do not hash to its name")
        return body


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
