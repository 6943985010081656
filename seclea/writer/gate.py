"""Whether logging goes on, and how much of what stands in the rings may be taken now."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any

from seclea.contract import Home
from seclea.ledger.db import Ledger
from seclea.queues.ring import Consumer
from seclea.settings import Limits, LimitsWatch
from seclea.writer.account import Account
from seclea.writer.limits import (
    Usage,
    frames_that_fit,
    free_bytes,
    limits_from,
    margin,
    pause_reason,
    resident_bytes,
    room_to_resume,
    rows_of,
)
from seclea.writer.pauses import Pauses
from seclea.writer.tidy import Tidy
from seclea.writer.trouble import TROUBLE

log = logging.getLogger(__name__)

_FRAMES = 20_000  # of one ring in one transaction
_BYTES = 4 << 20
_FIRST_FRAMES = 64  # of each ring of a home that is new
_ROOMY_BYTES = 1 << 30  # from here on no frames of one step are counted
_CHECKPOINT_SECONDS = 0.2  # between two tries to make room so
_OUTCOMES_SECONDS = 2.0  # outcomes wait no longer for that: they are what gives space back


class Gate:
    """The limits of a home at its rings.

    Attributes:
        usage: as `check` last found it.
        watch: the limits in force, and what is wrong with an edit of them.
    """

    def __init__(self, home: Home, ledger: Ledger, rings: Mapping[bytes, Consumer]) -> None:
        self._home = home
        self._ledger = ledger
        self._rings = rings
        self.account = Account(home, ledger)
        self.pauses = Pauses(ledger)
        self.watch = LimitsWatch(self.account.limits)
        self.usage = Usage(0, 0, 1 << 62)
        self._tidy = Tidy(ledger)
        self._settings: dict[str, Any] | None = None  # what `watch` was made for
        self._no_room = False  # frames stay in the rings
        self._next_checkpoint = 0.0
        self._outcomes_wait_until = 0.0

    @property
    def is_tight(self) -> bool:
        """Whether logging is paused, or will be before long."""
        return self.pauses.reason is not None or self.account.room < self.account.limits.disk // 4

    def read_rings(self) -> dict[bytes, list[tuple[int, int, bytes]]]:
        """The next frames of each ring, as far as their rows fit the disk; the others stay, and logging pauses."""
        found: dict[bytes, list[tuple[int, int, bytes]]] = {}
        if not any(ring.has_more for ring in self._rings.values()):
            return found
        if self._settings is None:  # no client has said its limits yet: they stand in the first frames
            return {ring_id: got for ring_id, ring in self._rings.items() if (got := ring.read(_FIRST_FRAMES, _BYTES))}
        left = self._room_for_frames()
        if not left and self._checkpoint():
            left = self._room_for_frames()
        if not left:
            self._no_room = True
            self.pause(self.account.shortage())
            return found
        room = self.account.room - margin(self.account.limits)
        for ring_id, ring in self._rings.items():
            if left > 0 and (got := ring.read(_FRAMES, min(_BYTES, left))):
                rows = rows_of(got) if room < _ROOMY_BYTES else 0
                if rows > room:  # entities: a small frame, and many rows
                    ring.unread()
                    got = ring.read(max(1, len(got) * max(0, room) // rows // 2), min(_BYTES, left))
                    rows = rows_of(got)
                found[ring_id] = got
                room -= rows
                left = min(left - sum(len(payload) for _, _, payload in got), room)
        return found

    def _room_for_frames(self) -> int:
        return frames_that_fit(self.account.room, self.account.limits)

    def _checkpoint(self) -> bool:
        """Fold the sqlite log into the ledger: it may be all that is in the way."""
        now = time.monotonic()
        if now < self._next_checkpoint:
            return False
        self._next_checkpoint = now + _CHECKPOINT_SECONDS
        with contextlib.suppress(*TROUBLE):
            return self._ledger.checkpoint()
        return False

    def check(self, settings: dict[str, Any] | None, pids: tuple[int, ...], *, refused: bool) -> None:
        """Look at the limits and at what is used; pause or resume.

        Args:
            settings: what the last client said.
            pids: of writer and sender.
            refused: the disk refuses just now; then nothing resumes.
        """
        limits = self.limits_of(settings)
        account = self.account
        account.measure()
        self._tidy.step(time.monotonic(), account.used, account.room, limits)
        rings = sum(ring.path.stat().st_size for ring in self._rings.values() if ring.path.exists())
        memory = rings + resident_bytes(pids)
        self.usage = Usage(memory, account.used, free_bytes(self._home.path), rings, account.reserved)
        known = settings is not None
        reason = pause_reason(self.usage, limits, self.pauses.reason is not None) if known else None
        if self._no_room and reason is None:
            self._no_room = account.room < room_to_resume(limits)
            reason = account.shortage() if self._no_room else None
        if reason is not None:
            self.pause(reason)
        elif self.pauses.reason is not None and not refused:
            self._no_room = False
            self.pauses.end()
            self._show()
        self.pauses.write()

    def limits_of(self, settings: dict[str, Any] | None) -> Limits:
        """The limits of the client that said ``settings``, as its RC files are now; in force from here on."""
        if settings is not self._settings:
            self._settings = settings
            said = settings or {}
            self.watch = LimitsWatch(limits_from(settings), said.get("files") or (), said.get("fixed") or ())
        if self.watch.look():
            if self.watch.trouble:
                log.warning("%s", self.watch.trouble)
            else:
                log.info("the limits are now %s", self.watch.limits)
        if self.watch.limits is not self.account.limits:
            self.account.limits = self.watch.limits
            self._ledger.bound_log(2 * margin(self.watch.limits))
        return self.watch.limits

    def outcomes_that_fit(self) -> int:
        """How many outcomes may be applied at once: each writes some pages to the log, also at a limit.

        Where the log is all that is over the limit and a reader keeps it from being folded in, none for a moment.
        """
        room, now = self.account.room, time.monotonic()
        if room > 0 or self._checkpoint():
            self._outcomes_wait_until = 0.0
        elif not self._outcomes_wait_until:
            self._outcomes_wait_until = now + _OUTCOMES_SECONDS
        return 0 if now < self._outcomes_wait_until else max(8, min(1000, room // 65_536))

    def pause(self, reason: str) -> None:
        """Ask all clients to pause, for this reason."""
        self.pauses.begin(reason)
        self._show()

    def _show(self) -> None:
        for ring in self._rings.values():
            ring.set_paused(self.pauses.mark)
