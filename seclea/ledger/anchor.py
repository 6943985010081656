"""The anchor: where the ledger stood after its latest commits, in a small file beside it.

Rule 1  Written after the commit, so it never leads; it needs no fsync, so it may lag. A ledger that is behind its anchor has
        lost commits: a log that was deleted, a backup that was put back.
Rule 2  Two slots, written in turn, each with its own checksum: one torn write leaves the other.
"""

from __future__ import annotations

import contextlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

_SLOT = struct.Struct(">8s16sqI32sI")  # magic, ledger, commit, schema version, running hash, crc32 of these
_MAGIC = b"SECLEAan"


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a ledger stands: which one it is, its latest commit, the hash over all of them, its schema's version."""

    ledger: bytes
    number: int
    running: bytes
    version: int


def anchor_of(ledger: Path) -> Path:
    """The anchor's file of the ledger at this path."""
    return ledger.with_suffix(".anchor")


def read_anchor(path: Path) -> Moment | None:
    """The later of the two moments in the file; None where there is none that is whole."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        data = os.read(descriptor, 2 * _SLOT.size)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    found = []
    for start in (0, _SLOT.size):
        slot = data[start : start + _SLOT.size]
        if len(slot) == _SLOT.size and slot.startswith(_MAGIC) and crc32(slot[:-4]) == int.from_bytes(slot[-4:], "big"):
            _, ledger, number, version, running, _ = _SLOT.unpack(slot)
            found.append(Moment(ledger, number, running, version))
    return max(found, key=lambda moment: moment.number, default=None)


class Anchor:
    """The writer's hold on the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def write(self, moment: Moment) -> None:
        """Note the moment in the older slot.

        Raises:
            OSError: it stays behind.
        """
        if self._descriptor < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            self._descriptor = os.open(self._path, flags, 0o600)
        slot = _SLOT.pack(_MAGIC, moment.ledger, moment.number, moment.version, moment.running, 0)[:-4]
        os.pwrite(self._descriptor, slot + crc32(slot).to_bytes(4, "big"), moment.number % 2 * _SLOT.size)

    def close(self) -> None:
        """Give the file back."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1
