"""The circuit breaker of one destination, as a value that outlives processes: the caller stores it.

    closed ──3 failures in a row──▶ open ──interval over, or another boot──▶ half-open ──success──▶ closed
                                     ▲                                          │
                                     └──────────────── failure ─────────────────┘

Rule 1  Closed lets everything pass (backoff paces the retries). Open lets nothing pass. Half-open lets one probe pass.
Rule 2  A probe is let pass by storing `Allow.state` *before* it is sent: until its outcome is known the others see an
        open breaker, and so does a sender that starts anew after a crash in mid-probe.
Rule 3  A failure is UNAVAILABLE or UNKNOWN. What proves that the portal works closes the breaker, also a refusal. WAIT
        and HOLD prove neither: they end a probe, and the next attempt is a probe again.
Rule 4  A time that the portal named (Retry-After) holds for all lanes and outlives processes, whatever the breaker says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from seclea.contract import Verdict

THRESHOLD = 3  # failures in a row; one lost packet or one restarted worker of the portal is no outage
FIRST_OPEN_SECONDS = 1.0  # doubles with each failed probe
LONGEST_OPEN_SECONDS = 60.0  # an outage that ends is noticed within a minute
LONGEST_ASKED_SECONDS = 3600.0  # a Retry-After beyond it was cut already (`replies.retry_after_seconds`)
PROBE_SECONDS = 45.0  # longest life of a probe without an outcome: connect 5 s, read 30 s, and room

_FAILURES = frozenset({Verdict.UNAVAILABLE, Verdict.UNKNOWN})
SUCCESSES = frozenset({Verdict.DELIVERED, Verdict.ADOPTED, Verdict.REFUSED, Verdict.GAP, Verdict.MISSING})


@dataclass(frozen=True, slots=True)
class BreakerState:
    """How a destination has behaved lately.

    Attributes:
        failures: in a row; from `THRESHOLD` on the breaker is not closed.
        open_until: monotonic seconds of this boot; None when closed, or half-open without an interval.
        boot_id: the boot that ``open_until`` and ``asked_until`` belong to.
        asked_until: before this nothing goes out, because the portal said so; on the same clock.
    """

    failures: int = 0
    open_until: float | None = None
    boot_id: str = ""
    asked_until: float | None = None

    @property
    def is_closed(self) -> bool:
        """Whether everything may pass."""
        return self.failures < THRESHOLD

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict, read back by `from_json`."""
        asked = {} if self.asked_until is None else {"asked_until": self.asked_until}
        return {"failures": self.failures, "open_until": self.open_until, "boot_id": self.boot_id, **asked}

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> BreakerState:
        """The state that `to_json` wrote. Anything malformed reads as a closed breaker: never wrong for long."""
        value = value if isinstance(value, Mapping) else {}
        failures, until, boot_id = value.get("failures"), value.get("open_until"), value.get("boot_id")
        if type(failures) is not int or failures < 0 or not isinstance(boot_id, str):
            return cls()
        asked = value.get("asked_until")
        return cls(failures, _seconds(until), boot_id, _seconds(asked))


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


@dataclass(frozen=True, slots=True)
class Allow:
    """Send now. ``state`` is to be stored before sending; ``probe`` means that this one request decides."""

    state: BreakerState
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing may be sent for ``seconds``."""

    seconds: float


def before_attempt(state: BreakerState, now: float, boot_id: str) -> Allow | Wait:
    """Whether a request may go now.

    Args:
        now: monotonic seconds since boot (CLOCK_BOOTTIME where there is one).
        boot_id: of this boot; a state from another one is half-open at once, as its clock means nothing here.
    """
    if state.asked_until is not None and state.boot_id == boot_id:
        left = state.asked_until - now
        if 0 < left <= LONGEST_ASKED_SECONDS:
            return Wait(left)
    if state.is_closed:
        return Allow(state)
    if state.open_until is not None and state.boot_id == boot_id:
        left = state.open_until - now
        # More than was ever set: a damaged state, or a clock that is not the one it was set by. Probe.
        if 0 < left <= max(LONGEST_OPEN_SECONDS, PROBE_SECONDS):
            return Wait(left)
    return Allow(replace(state, open_until=now + PROBE_SECONDS, boot_id=boot_id), probe=True)


def after_attempt(
    state: BreakerState,
    verdict: Verdict,
    now: float,
    boot_id: str,
    random: Random,
    retry_after_seconds: float | None = None,
) -> BreakerState:
    """The state after an attempt came to ``verdict``, with the portal's own wish where it has one.

    The interval is between half and the whole of its nominal length, so that many clients do not probe in step.
    """
    # What the other lane was told holds on, whatever this one met.
    asked = state.asked_until if state.boot_id == boot_id and (state.asked_until or now) > now else None
    if retry_after_seconds:
        asked = max(now + retry_after_seconds, asked or now)
    return replace(_after(state, verdict, now, boot_id, random), asked_until=asked)


def _after(state: BreakerState, verdict: Verdict, now: float, boot_id: str, random: Random) -> BreakerState:
    if verdict in SUCCESSES:
        return BreakerState(boot_id=boot_id)
    if verdict not in _FAILURES:
        return replace(state, open_until=None, boot_id=boot_id)
    failures = state.failures + 1
    if failures < THRESHOLD:
        return BreakerState(failures, None, boot_id)
    # The exponent is bounded before it is used: after a month of outage 2 ** failures is no float any more.
    nominal = min(LONGEST_OPEN_SECONDS, FIRST_OPEN_SECONDS * 2.0 ** min(failures - THRESHOLD, 32))
    return BreakerState(failures, now + nominal * random.uniform(0.5, 1.0), boot_id)
