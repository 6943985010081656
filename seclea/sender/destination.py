"""What both lanes to a destination share: its breaker, its hold, its organization, and what the portal has."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from seclea.api.api import Api
from seclea.contract import Clock, Destination, Outcome, Verdict
from seclea.errors import UnknownOrganizationError
from seclea.processes.liveness import boot_id
from seclea.sender.backoff import RetryBudget
from seclea.sender.breaker import SUCCESSES, BreakerState, Wait, after_attempt, before_attempt

log = logging.getLogger(__name__)

HOLD_PROBE_SECONDS = 900.0  # at most so long after the hold's cause is gone; half of it at the least
_FIRST_PROBE_SECONDS = 60.0  # after a start: short jobs probe, too
_REPORT_SECONDS = 1.0  # counters go to the ledger at most this often


class DestinationState:
    """State of one destination, for its lanes. Thread-safe; what must outlive us is told to the writer."""

    def __init__(
        self,
        row: sqlite3.Row,
        tell: Callable[[dict[str, Any]], None],
        make_ready: Callable[[], bool],
        make_organization: Callable[[str], bool],
        random: Random,
        clock: Clock = time.monotonic,
    ) -> None:
        self.id: int = row["id"]
        self.destination = Destination(row["platform_url"], row["auth_url"], row["organization"], row["id"])
        self.ca_bundle: str | None = row["ca_bundle"]
        self.hold: str | None = row["hold"]
        self._held_login: int | None = None  # the login that was refused, where that is why it is on hold
        self.remote: dict[str, str] = {}  # our uuid → the portal's, of what was sent since we started
        self.losses = 0  # how often the portal was seen to have lost something
        self.wakes: list[Callable[[], None]] = []  # of its lanes
        self._make_ready = make_ready
        self._ready = False  # known to answer since the last attempt that came through
        self._make_organization = make_organization
        self._tell = tell
        self._random = random
        self._clock = clock
        # One before us may have probed just now; and whoever starts often should not ask each time.
        self._probe_at = clock() + random.uniform(0.5, 1.0) * _FIRST_PROBE_SECONDS
        self._lock = threading.Lock()
        self._boot = boot_id()
        self._budget = RetryBudget()
        self._breaker = BreakerState.from_json(json.loads(row["breaker"]) if row["breaker"] else None)
        self._organization = row["organization_uuid"]
        self._requests = self._retries = 0
        self._reported_at = 0.0

    def organization_uuid(self, api: Api) -> str:
        """The organization's uuid at the portal, asked for once."""
        if self._organization is None:
            name = self.destination.organization
            try:
                self._organization = api.organization_uuid(name)
            except UnknownOrganizationError:
                if not self.destination.is_local or not self._make_organization(name):
                    raise
                self._organization = api.organization_uuid(name)
            self._state(organization_uuid=self._organization)
        return str(self._organization)

    def make_ready(self) -> bool:
        """See that there is something to send to: looked at only when the last attempt did not come through."""
        if not self._ready:
            self._ready = self._make_ready()
        return self._ready

    def lacks(self, unmet: Iterable[str]) -> bool:
        """Whether one of these entities is not at the portal, as far as ledger and memory know."""
        return any(uuid not in self.remote for uuid in unmet)

    def may_attempt(self, now: float, *, retry: bool) -> float:
        """0 when a request may go out now, else the seconds until then. A probe is announced before it is sent."""
        with self._lock:
            decision = before_attempt(self._breaker, now, self._boot)
            if isinstance(decision, Wait):
                return decision.seconds
            if self.hold is not None:
                if now < self._probe_at:
                    return self._probe_at - now
                self._probe_at = self._next_probe(now)
            if retry and (wait_seconds := self._budget.take(now)) > 0:
                return wait_seconds
            self._set_breaker(decision.state)
            return 0.0

    def _next_probe(self, now: float) -> float:
        return now + self._random.uniform(0.5, 1.0) * HOLD_PROBE_SECONDS

    def is_kept_back(self, now: float) -> bool:
        """On hold, and it is not yet time to ask whether that is over."""
        return self.hold is not None and now < self._probe_at

    def seconds_until_allowed(self, now: float) -> float:
        """How long the breaker keeps everything back; 0 when it does not."""
        with self._lock:
            decision = before_attempt(self._breaker, now, self._boot)
            return decision.seconds if isinstance(decision, Wait) else 0.0

    def after_attempt(self, outcome: Outcome, now: float) -> None:
        """Learn from an attempt."""
        self._ready = outcome.verdict not in (Verdict.UNAVAILABLE, Verdict.UNKNOWN)
        with self._lock:
            breaker = after_attempt(
                self._breaker, outcome.verdict, now, self._boot, self._random, outcome.retry_after_seconds
            )
            self._set_breaker(breaker)
        if self.hold is not None and outcome.verdict in SUCCESSES:
            self.set_hold(None)  # paid up, upgraded, renewed: nobody had to tell us
        if now - self._reported_at > _REPORT_SECONDS:
            self.report(now)

    def _set_breaker(self, state: BreakerState) -> None:
        if state != self._breaker:
            if state.is_closed != self._breaker.is_closed:
                log.warning("destination %d: the breaker is %s", self.id, "closed" if state.is_closed else "open")
            self._breaker = state
            self._state(breaker=json.dumps(state.to_json()))
            for wake in self.wakes:  # a lane may be waiting for as long as the other one's probe could have taken
                wake()

    def count_request(self, retry: bool) -> None:
        """One more attempt."""
        with self._lock:
            self._requests += 1
            self._retries += retry

    def report(self, now: float | None = None) -> None:
        """Tell the writer the counters."""
        with self._lock:
            requests, retries = self._requests, self._retries
            self._requests = self._retries = 0
            self._reported_at = self._clock() if now is None else now
        if requests:
            self._tell({"op": "requests", "destination": self.id, "requests": requests, "retries": retries})

    def note_next_try(self, seconds: float) -> None:
        """Tell people when it is tried again."""
        self._tell({"op": "next try", "destination": self.id, "seconds": seconds})

    def has_another_login(self, login: int) -> bool:
        """Whether it is on hold as a login was refused, and ``login`` (`Api.login_generation`) is a newer one.

        Whoever logs in tells the writer, and so us. This is for a login that could not, or came while the refusal was on
        its way and would be held by it.
        """
        return self.hold is not None and self._held_login is not None and login > max(self._held_login, 0)

    def set_hold(self, reason: str | None, login: int | None = None) -> None:
        """Stop sending there, but for a probe now and then, until a person does something; None goes on.

        Args:
            login: that was refused (`Api.generation_used`), where that is the reason.
        """
        if reason is not None and self.hold is None:
            self._probe_at = self._next_probe(self._clock())
        if reason != self.hold:
            log.warning("destination %d: %s", self.id, f"on hold: {reason}" if reason else "goes on")
        if reason is None or login is None:
            self._held_login = login
        else:  # the other lane may have been refused with a newer one
            self._held_login = max(login, login if self._held_login is None else self._held_login)
        if reason is None or reason != self.hold:  # the ledger may have a hold that one before us told
            self.hold = reason
            self._state(hold=reason)
        if reason is None:
            with self._lock:
                self._set_breaker(BreakerState())

    def _state(self, **state: Any) -> None:
        self._tell({"op": "destination", "destination": self.id, "state": state})
