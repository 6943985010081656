"""How old something is, whatever is done to the wall clock meanwhile.

Rule 1  Within one boot the time since boot decides: nobody sets it, and it goes on while the machine sleeps.
Rule 2  Across boots there is only the wall clock. One that says less than nothing was set back, and says nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True, slots=True)
class Instant:
    """A point in time as it can be told later, by another process too.

    Attributes:
        wall_ns: nanoseconds since 1970.
        boot_id: which boot ``up_ns`` counts from; empty where unknown.
        up_ns: nanoseconds since that boot.
    """

    wall_ns: int
    boot_id: str = ""
    up_ns: int = 0


NEVER = Instant(0)


def instant_now() -> Instant:
    """Now."""
    up_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else 0
    return Instant(time.time_ns(), _boot_id() if up_ns else "", up_ns)


def seconds_between(then: Instant, now: Instant) -> float | None:
    """Seconds from ``then`` to ``now``, None where nobody can tell."""
    if then.boot_id and then.boot_id == now.boot_id and now.up_ns >= then.up_ns:
        return (now.up_ns - then.up_ns) * 1e-9
    age_ns = now.wall_ns - then.wall_ns
    return age_ns * 1e-9 if age_ns >= 0 else None


@cache
def _boot_id() -> str:
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
