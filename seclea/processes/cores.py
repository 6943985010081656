"""No image of a process's memory on disk: it would hold tokens (docs/decisions/0018)."""

from __future__ import annotations

import contextlib
import resource

_FILTER = "/proc/self/coredump_filter"


def leave_no_core() -> None:
    """From here on this process, and what it starts, leave no core dump when they crash.

    A limit of zero is for cores that the kernel writes and for the usual collectors, which look at it. The kernel itself does
    not where cores go into a pipe; so the filter leaves out all memory that is ours.
    """
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), open(_FILTER, "w", encoding="ascii") as file:  # Linux
        file.write("0")
