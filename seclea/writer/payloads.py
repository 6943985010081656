"""Payloads on their way into the spool, in a few threads beside the writer's loop.

Rule 1  Nothing is forgotten but by `take`: a payload that the disk refuses (or that has no thread, no memory, no descriptor) is
        stored again after a moment, until it is stored or its file is gone.
Rule 2  They begin in order, as their chunks fit the disk limit beside the files that they are cut from (`Account.may_store`).
Rule 3  Only the writer's main thread calls this; the threads touch nothing but the spool.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from seclea.errors import LedgerError
from seclea.ledger.blobs import Spool, StoredPayload
from seclea.writer.account import Account

PAYLOAD_THREADS = 4
_AGAIN_SECONDS = 0.5


class Payloads:
    """Stores payloads of records.

    Attributes:
        stored: what is ready, by record: where it lies now, or why it never will.
        refused: records whose payload was refused the last time, and is tried again.
    """

    def __init__(self, spool: Spool, account: Account) -> None:
        self._spool = spool
        self._account = account
        self._pool = _pool()
        self._waiting: deque[tuple[int, str, float]] = deque()  # for a thread, and for room
        self._sizes: dict[int, int] = {}  # of those that are cut into chunks and in no row yet, by record
        self._storing: dict[Future[StoredPayload], tuple[int, str]] = {}
        self._is_closing = False
        self.stored: dict[int, StoredPayload | str] = {}
        self.refused: set[int] = set()

    def __bool__(self) -> bool:
        """Whether any are on their way, or ready and not taken."""
        return bool(self._waiting or self._storing or self.stored)

    @property
    def are_storing(self) -> bool:
        """Whether any are on their way."""
        return bool(self._storing)

    def add(self, record: int, name: str, after_seconds: float = 0.0) -> None:
        """Store the incoming file ``name`` of a record. Never fails."""
        self._waiting.append((record, name, after_seconds))
        self._begin()

    def _begin(self) -> None:
        """Hand payloads to the threads as they fit."""
        while self._waiting:
            record, name, after_seconds = self._waiting[0]
            try:
                if not self._account.may_store(name):
                    return
            except OSError:  # it cannot be looked at just now
                return
            self._count(record, self._account.size_of(name))
            self._submit(record, name, after_seconds)
            self._waiting.popleft()

    def _submit(self, record: int, name: str, after_seconds: float) -> None:
        try:
            self._storing[self._pool.submit(self._store, name, after_seconds)] = (record, name)
        except RuntimeError as error:  # no more threads for this user
            unborn: Future[StoredPayload] = Future()
            unborn.set_exception(error)
            self._storing[unborn] = (record, name)
            # What the old one could not begin it would begin beside the next try.
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = _pool()

    def _count(self, record: int, size: int) -> None:
        self._sizes[record] = size
        self._account.storing = sum(self._sizes.values())

    def _store(self, name: str, after_seconds: float) -> StoredPayload:
        time.sleep(after_seconds)  # in a payload thread
        return self._spool.store(name)

    def collect(self) -> BaseException | None:
        """Look which are done; what refused one of those that are tried again."""
        self._begin()
        trouble: BaseException | None = None
        for future in [future for future in self._storing if future.done()]:
            record, name = self._storing[future]
            came: StoredPayload | str | None = None
            again_seconds = 0.0
            if not future.cancelled():
                if (error := future.exception()) is None:
                    came = future.result()
                elif isinstance(error, LedgerError):
                    came = str(error)
                elif not self._spool.incoming(name).exists():
                    came = f"its payload {name} is gone"
                else:
                    trouble, again_seconds = error, _AGAIN_SECONDS
                    self.refused.add(record)
            del self._storing[future]  # last: what fails above leaves it to the next look
            if came is not None:
                self.stored[record] = came
                self.refused.discard(record)
            else:
                self._count(record, 0)
                if not self._is_closing:  # else its row is Saving, and the next writer saves it
                    self.add(record, name, again_seconds)
        return trouble

    def take(self, record: int) -> StoredPayload | str:
        """The writer has committed what came of it."""
        self._sizes.pop(record, None)
        self._account.storing = sum(self._sizes.values())
        return self.stored.pop(record)

    def close(self, *, wait: bool = True) -> None:
        """Finish those that have begun, or (without ``wait``) leave them to the next writer."""
        self._is_closing = True
        self._pool.shutdown(wait=wait, cancel_futures=True)


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(PAYLOAD_THREADS, thread_name_prefix="seclea-payload")
