"""What the home may still take on its disk: bytes in use, bytes promised, and to whom (docs/decisions/0017).

Rule 1  A promise belongs to a file, which its client has made (empty) in ``spool/making`` before it asked. It counts as
        the promise or the file, whichever is larger. It ends when the file is handed over, which has its size then, or is
        gone: nobody has to give it back.
Rule 2  The file of a client that is gone goes with its ring (`sweep`), and so does the promise.
Rule 3  A promise lives in the writer's memory. The next writer knows the files as they are and learns the rest as they grow.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from seclea.contract import Home
from seclea.ledger.db import Ledger
from seclea.settings import Limits
from seclea.writer.limits import file_bytes, fits, free_bytes

TOO_LARGE = -1


class Account:
    """The disk of a home as its limits see it.

    Attributes:
        limits: in force now.
        storing: bytes of payloads that are being cut into chunks, in no row yet.
        refused: promises that were not made since `measure`, for `status`.
    """

    def __init__(self, home: Home, ledger: Ledger) -> None:
        self._home = home
        self._ledger = ledger
        self.limits = Limits()
        self.storing = 0
        self.refused = 0
        self._promised: dict[str, int] = {}  # by the name that the file has in ``incoming``
        self._files: dict[str, int] = {}
        self._chunks = 0

    def measure(self) -> None:
        """Look at files and chunks again; promises whose file is gone end."""
        self.refused = 0
        found = list(self._payload_files())
        self._files = {name: size for name, size, _ in found}
        making = {name for name, _, complete in found if not complete}
        self._promised = {name: size for name, size in self._promised.items() if name in making}
        self._chunks = self._ledger.chunk_bytes()

    def _payload_files(self) -> Iterator[tuple[str, int, bool]]:
        """(name in ``incoming``, bytes, whether it is there); those on the way there first, or one could move past us."""
        with contextlib.suppress(FileNotFoundError):
            for ring in os.scandir(self._home.making):
                with contextlib.suppress(NotADirectoryError, FileNotFoundError):
                    for entry in os.scandir(ring.path):
                        with contextlib.suppress(FileNotFoundError):
                            yield ring.name + Path(entry.name).stem, entry.stat(follow_symlinks=False).st_size, False
        for entry in os.scandir(self._home.incoming):
            with contextlib.suppress(FileNotFoundError):
                yield entry.name, entry.stat(follow_symlinks=False).st_size, True

    def _parts(self) -> dict[str, int]:
        """What each payload on its way takes, or may take."""
        return {name: max(size, self._promised.get(name, 0)) for name, size in self._files.items()}

    @property
    def used(self) -> int:
        """Bytes on the disk: ledger with its log, also folded in; chunks, payloads on their way."""
        return self._ledger.file_bytes() + self._chunks + sum(self._files.values())

    @property
    def reserved(self) -> int:
        """Bytes that are promised and not written yet."""
        return sum(self._parts().values()) - sum(self._files.values()) + self.storing

    @property
    def room(self) -> int:
        """Bytes that may still be taken, under the limit and of what is free."""
        free = free_bytes(self._home.path) - self.limits.min_free_disk
        return min(self.limits.disk - self.used, free) - self.reserved

    def reserve(self, name: str, wanted: int, least: int) -> int:
        """Promise ``wanted`` bytes in all to the file that will be called ``name``, or ``least`` where that is what fits.

        Returns:
            Bytes promised; 0 when there is no room now, `TOO_LARGE` when there never will be.
        """
        if least > self.limits.disk:
            return TOO_LARGE
        refused = self.refused
        self.measure()
        parts = self._parts()
        own = parts.pop(name, 0)
        others = [size for size in parts.values() if size]
        for size in (max(least, min(wanted, self.limits.disk // 2)), least):  # what is more than half is no mere guess
            if size <= own or fits(size, self.room + own, others):
                self._promised[name] = max(size, 1)
                self._files.setdefault(name, 0)
                return max(size, 1)
        self.refused = refused + 1
        return 0

    def size_of(self, name: str) -> int:
        """Bytes of a payload in ``incoming``; 0 where it is gone."""
        return file_bytes(self._home.incoming / name)

    def may_store(self, name: str) -> bool:
        """Whether a payload may be cut into chunks now, which takes its size once more: when it fits, or is the only one."""
        return not self.storing or self.size_of(name) <= self.room

    def sweep(self, ring_hex: str) -> None:
        """The ring is gone: what its client had not handed over goes too."""
        shutil.rmtree(self._home.making / ring_hex, ignore_errors=True)

    def makers(self) -> set[str]:
        """Rings (in hex) whose clients have files in ``spool/making``."""
        with contextlib.suppress(FileNotFoundError):
            return {entry.name for entry in os.scandir(self._home.making)}
        return set()

    def shortage(self) -> str:
        """Why there is no room, in the words of a pause."""
        limit, used, least = self.limits.disk, self.used, self.limits.min_free_disk
        free = free_bytes(self._home.path)
        if free - least < limit - used:
            return f"free disk: {free / 1e6:.0f} MB are left, {least / 1e6:.0f} MB stay free"
        return f"disk: {used / 1e6:.0f} MB of {limit / 1e6:.0f} MB are in use"
