"""How a destination stands, in words that a person understands without knowing what a breaker is. Pure; times are passed in."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

_OPEN_FAILURES = 3  # in a row, from which on the breaker is not closed
_LONGEST_WISH_SECONDS = 3600.0  # of a portal; more was never kept: the clock was set back
_LONGEST_SECONDS = 60.0  # more was never set: the state is of another boot


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known of one destination.

    Attributes:
        hold, hold_ns: why nothing is sent there until a person does something, and since when.
        trouble, trouble_ns: what the latest attempt said, while none comes through, and since when.
        next_try_seconds: until the next attempt; None when it is not put off.
        failures: attempts in a row that did not come through.
        is_open: nothing passes the breaker just now.
    """

    hold: str | None = None
    hold_ns: int | None = None
    trouble: str | None = None
    trouble_ns: int | None = None
    next_try_seconds: float | None = None
    failures: int = 0
    is_open: bool = False

    @classmethod
    def of_row(cls, row: Mapping[str, Any], now_ns: int, now: float) -> Self:
        """From a destination's row, at ``now_ns`` (UTC) and ``now`` (monotonic seconds of this boot)."""
        breaker = json.loads(row["breaker"]) if row.get("breaker") else {}
        failures, until = int(breaker.get("failures") or 0), breaker.get("open_until")
        left = until - now if failures >= _OPEN_FAILURES and until is not None else 0.0
        left = left if left <= _LONGEST_SECONDS else 0.0
        is_open = left > 0
        if row.get("next_try_ns"):
            at = (row["next_try_ns"] - now_ns) / 1e9
            left = max(left, at if at <= _LONGEST_WISH_SECONDS else 0.0)
        return cls(
            hold=row.get("hold"),
            hold_ns=row.get("hold_ns"),
            trouble=row.get("trouble"),
            trouble_ns=row.get("trouble_ns"),
            next_try_seconds=left if left > 0 else None,
            failures=failures,
            is_open=is_open,
        )

    @property
    def is_failing(self) -> bool:
        """So many failures in a row that single probes find out when it is over."""
        return self.failures >= _OPEN_FAILURES

    def why_nothing_moves(self, now_ns: int) -> str:
        """Why nothing goes out just now, and when that is looked at again; empty when nothing is known to be wrong."""
        if self.hold:
            return f"on hold{_since(self.hold_ns, now_ns)}: {self.hold}"
        if not self.trouble:
            return ""
        said = self.trouble.rstrip(". ")
        if said[:3].isdigit():  # an HTTP status, and the portal's words
            text, said = f"the portal answers {said[:3]}", said[3:].strip()
        else:
            text = "no answer from the portal"
        text += _since(self.trouble_ns, now_ns)
        text += ", trying again" if self.next_try_seconds is None else f", next try in {span(self.next_try_seconds)}"
        return f"{text}: {said}" if said else text


def _since(ns: int | None, now_ns: int) -> str:
    return f" since {clock(ns, now_ns)}" if ns else ""


def clock(ns: int, now_ns: int) -> str:
    """A moment in local time: 12:03 today, with the date on another day."""
    there, now = (dt.datetime.fromtimestamp(one / 1e9).astimezone() for one in (ns, now_ns))
    return there.strftime("%H:%M" if there.date() == now.date() else "%d %b %H:%M")


def span(seconds: float) -> str:
    """A length of time in two units at most, rounded up to a whole second."""
    whole = max(int(-(-seconds // 1)), 0)
    for name, unit, below_name, below in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit} {name}" + (f" {rest} {below_name}" if rest else "")
    return f"{whole} s"


def records(count: int) -> str:
    """``1 record``, ``1,204 records``."""
    return f"{count:,} record{'' if count == 1 else 's'}"
