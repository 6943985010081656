"""The copy of a ledger that is kept while it is new to its version.

A migration is one transaction: a kill, a full disk or a power loss leaves the old version whole. The copy is for what a
transaction does not help against, a migration that does something wrong. It is made before the first statement, as
``ledger.sqlite.v6`` for one of version 6, and deleted when a later start finds the migrated ledger sound. Where there is no
room for it, or the ledger is large, the migration goes on without: logging must not wait for a person to make room.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
from pathlib import Path

log = logging.getLogger(__name__)

LARGEST_BYTES = 1 << 30  # of a ledger that is copied: ten seconds or so on a slow disk
_ROOM_BYTES = 256 << 20  # that must be free beside the copy


def spare_path(path: Path, version: int) -> Path:
    """Where the copy of the ledger ``path`` as it was in ``version`` stands."""
    return path.with_name(f"{path.name}.v{version}")


def make(connection: sqlite3.Connection, path: Path, version: int) -> bool:
    """Copy what is committed; durable and whole where it stands under its name. Whether there is one now; never raises."""
    target = spare_path(path, version)
    unfinished = target.with_name(f"{target.name}.new")
    try:
        size = (
            connection.execute("PRAGMA page_count").fetchone()[0] * connection.execute("PRAGMA page_size").fetchone()[0]
        )
        if size > LARGEST_BYTES or shutil.disk_usage(path.parent).free < size + _ROOM_BYTES:
            log.warning("no room for a copy of the ledger before its migration: %d bytes", size)
            return False
        unfinished.unlink(missing_ok=True)
        connection.execute("VACUUM INTO ?", (os.fspath(unfinished),))
        for sync, flags in ((unfinished, os.O_RDWR), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
            descriptor = os.open(sync, flags | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if sync == unfinished:
                os.replace(unfinished, target)
    except (sqlite3.Error, OSError) as error:
        log.warning("the ledger cannot be copied before its migration: %s", error)
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        return False
    return True


def drop(path: Path) -> None:
    """The ledger is sound in its new version: delete copies of older ones, and what is left of one that was being made."""
    for copy in path.parent.glob(f"{path.name}.v*"):
        with contextlib.suppress(OSError):
            copy.unlink()
