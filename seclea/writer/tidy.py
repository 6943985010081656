"""Space that comes back: rows nobody asks for again, free pages, and the sqlite log.

Rule 1  Only metrics and tombstones that are Completed go, oldest first; their totals and the heads of their lanes stay.
        Entities, lanes, streams, and everything that is open, held, failed or stands for another record stay.
Rule 2  What is kept here because a portal has no place for it is the only copy: it goes only for the disk limit, and that
        is written down.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time

from seclea.ledger.db import Ledger
from seclea.ledger.view import THINNED
from seclea.settings import Limits
from seclea.writer.trouble import TROUBLE

log = logging.getLogger(__name__)

TIDY_SECONDS = 5.0  # between two looks; at a limit each look at usage is one
KEEP_ROWS = 20_000  # completed rows for people to look at; about 10 MB
KEEP_SECONDS = 7 * 86_400.0
_KEEP_EVENTS = 10_000
_ROWS = 2_000  # in one transaction, some milliseconds
_LOG_BYTES = 1 << 20  # of the sqlite log that are worth a checkpoint
_PAGES = 256  # free pages, 1 MB, that are worth giving back
_VACUUM_SECONDS = 0.05  # at one look; the rings wait meanwhile
_PAGES_AT_ONCE = 4_096  # 16 MB
_SHARE = 0.9  # of what logging resumes below: from there on rows go early, before a pause comes


class Tidy:
    """Gives space of a ledger back, a bounded amount at a time."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._next = 0.0

    def step(self, now: float, used: int, room: int, limits: Limits) -> None:
        """One look, if it is time.

        Args:
            used: bytes of disk in use.
            room: bytes that may still be taken.
        """
        wanted = int(limits.disk * limits.resume_below * _SHARE)
        tight = used > wanted
        if now < self._next and not tight:
            return
        self._next = now + TIDY_SECONDS
        with contextlib.suppress(*TROUBLE):  # later, then
            with self._ledger.transaction():
                self._thin(tight, used - wanted)
                self._ledger.thin_events(_KEEP_EVENTS)
            self._give_back(tight, room)

    def _thin(self, tight: bool, too_much: int) -> None:
        horizon_ns = time.time_ns() - int(KEEP_SECONDS * 1e9)
        gone, _ = self._ledger.thin(_ROWS, keep=0 if tight else KEEP_ROWS, before_ns=horizon_ns)
        too_much -= self._ledger.free_pages() * 4096  # on their way out already
        if not tight or gone or too_much <= 0:
            return
        gone, points = self._ledger.thin(_ROWS, kept_here=True, enough=too_much)
        if gone:
            log.warning("%d records that were kept here only have gone for the disk limit", gone)
            before = json.loads(self._ledger.meta(THINNED) or "[0, 0]")
            self._ledger.set_meta(THINNED, json.dumps([before[0] + gone, before[1] + points]))

    def _give_back(self, tight: bool, room: int) -> None:
        """Free pages and the log to the file system. Readers are not waited for: then the next time."""
        if tight or self._ledger.log_bytes() > _LOG_BYTES:
            self._ledger.checkpoint()
        # For each page that goes another one may move, by way of the log.
        pages = max(64, min(_PAGES_AT_ONCE, room // 16_384))
        until = time.monotonic() + _VACUUM_SECONDS
        while (free := self._ledger.free_pages()) >= (1 if tight else _PAGES) and time.monotonic() < until:
            self._ledger.give_back_space(pages)
            if not self._ledger.checkpoint() or self._ledger.free_pages() >= free:
                break
