"""Is that process still the same one? A pid alone never says: pids are used again, within minutes on a busy machine.

A lock that the process holds for life is better evidence than anything here; see `rendezvous` and the rings.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_GONE = frozenset({b"Z", b"X", b"x"})  # dead, though perhaps not yet reaped


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, told apart from every other that had or will have its pid on this machine.

    Attributes:
        pid: as seen in ``namespace``.
        start_ticks: clock ticks from boot to its start (``/proc/<pid>/stat``, field 22); 0 where unknown.
        boot_id: differs after every boot; empty where unknown.
        namespace: inode of its pid namespace; 0 where unknown.
    """

    pid: int
    start_ticks: int
    boot_id: str
    namespace: int

    def to_json(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "start_ticks": self.start_ticks,
            "boot_id": self.boot_id,
            "namespace": self.namespace,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything that `to_json` did not make."""
        return cls(int(fields["pid"]), int(fields["start_ticks"]), str(fields["boot_id"]), int(fields["namespace"]))


def identity_of(pid: int | None = None) -> ProcessIdentity:
    """The identity of a process of our own namespace, by default of this one.

    Raises:
        ProcessLookupError: there is no such process (any more).
    """
    pid = os.getpid() if pid is None else pid
    start_ticks = _start_ticks(pid)
    if start_ticks is None:
        raise ProcessLookupError(f"no process {pid}")
    return ProcessIdentity(pid, start_ticks, boot_id(), _namespace())


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether that very process runs. A zombie does not.

    A process of another pid namespace cannot be seen from here and counts as alive, unless the machine was booted
    since: nothing of it may be taken away on this evidence.
    """
    if identity.boot_id and identity.boot_id != boot_id():
        return False
    if identity.namespace and identity.namespace != _namespace():
        return True
    start_ticks = _start_ticks(identity.pid)
    return start_ticks is not None and identity.start_ticks in (0, start_ticks)


def open_pidfd(identity: ProcessIdentity) -> int | None:
    """A descriptor that polls readable once the process ends; None where the system has none, or it has ended.

    The identity is looked at again after opening, so the descriptor never stands for a later process.
    """
    if not hasattr(os, "pidfd_open") or identity.namespace not in (0, _namespace()):
        return None
    try:
        descriptor = os.pidfd_open(identity.pid)
    except OSError:
        return None
    if is_alive(identity):
        return descriptor
    os.close(descriptor)
    return None


def _start_ticks(pid: int) -> int | None:
    """None when there is no such process; 0 where only that it exists can be known (no ``/proc``)."""
    if pid <= 0:
        return None
    try:
        # The name in parentheses may hold spaces and ")".
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in _GONE else int(fields[19])
    except (OSError, IndexError, ValueError):
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except PermissionError:
        return 0
    except (OSError, OverflowError):
        return None
    return 0


def boot_id() -> str:
    """What names this boot of the machine: monotonic clocks and pids compare only within it. Empty where unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
