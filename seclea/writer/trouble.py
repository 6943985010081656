"""What is tried again: the machine has no room just now (disk, memory, descriptors, threads), or the ledger cannot be used.

All of it is one state: logging is paused, that is said with a reason, nothing is lost, and it ends by itself.
"""

from __future__ import annotations

import errno
import sqlite3

from seclea.errors import LedgerDamagedError, LedgerError, LedgerFullError, QueueClosed

# Never a reason to end. QueueClosed: a queue's directory is gone.
TROUBLE = (LedgerFullError, LedgerDamagedError, OSError, MemoryError, sqlite3.Error, QueueClosed)
TROUBLE_SECONDS = 0.25  # between two tries
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


def words(error: BaseException) -> str:
    """What is wanting, for a person."""
    if isinstance(error, MemoryError):
        return "no memory is left"
    if isinstance(error, OSError) and error.errno in _NO_DESCRIPTORS:
        return f"no descriptors are left: {error}"
    if isinstance(error, RuntimeError):
        return f"no threads are left: {error}"
    if isinstance(error, LedgerError):
        return str(error)
    if isinstance(error, sqlite3.Error):
        return f"the ledger cannot be used: {error}"
    return f"the disk refuses: {error}"
