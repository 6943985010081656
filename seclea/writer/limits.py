"""The limits of the home: what is used, and whether logging pauses. The decision is pure; `measure` looks at the machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from seclea.frames import FrameType
from seclea.settings import Limits

_LOG_CALLS = frozenset({int(FrameType.POINTS), int(FrameType.METRICS), int(FrameType.KEYS)})

_GROWTH = 4  # bytes of ledger and its log for one byte of a frame; of metrics it is a little over two
_ROWS_BYTES = 16 << 10  # more for a frame that is no log call: rows, entries of indices, pages that are written whole
_LEAST_FRAMES = 64 << 10  # bytes of frames worth a transaction


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes in use: memory (rings, and resident memory of writer and sender), disk (ledger, spool), and what is free.

    Attributes:
        rings: the part of ``memory`` that the rings are.
        reserved: promised on the disk and not written yet; not part of ``disk``.
    """

    memory: int
    disk: int
    free_disk: int
    rings: int = 0
    reserved: int = 0

    def to_json(self) -> dict[str, int]:
        """A JSON-ready dict."""
        return {
            "memory_bytes": self.memory,
            "ring_bytes": self.rings,
            "disk_bytes": self.disk,
            "reserved_bytes": self.reserved,
            "free_disk_bytes": self.free_disk,
        }


def margin(limits: Limits) -> int:
    """Bytes of disk kept for what is written also at a limit: outcomes, events, the sqlite log."""
    return min(1 << 20, limits.disk // 16)


def frames_that_fit(room: int, limits: Limits) -> int:
    """Bytes of frames that may be taken from the rings with ``room`` bytes of disk; 0 when it is too little to begin."""
    fit = (room - margin(limits)) // _GROWTH
    return fit if fit >= _LEAST_FRAMES else 0


def rows_of(frames: Iterable[tuple[int, int, bytes]]) -> int:
    """Bytes of ledger and its log that these frames may take, at the very most."""
    return sum(_GROWTH * len(payload) + (0 if kind in _LOG_CALLS else _ROWS_BYTES) for kind, _, payload in frames)


def room_to_resume(limits: Limits) -> int:
    """Bytes of disk that must be free under the limit before logging resumes: enough for more than one transaction."""
    return 2 * (margin(limits) + _GROWTH * _LEAST_FRAMES)


def fits(size: int, room: int, others: Iterable[int]) -> bool:
    """Whether a payload may be written with ``room`` bytes of disk.

    Each stands there twice while it is cut into chunks, so room for the largest is kept. One that is alone may have all
    the room: what it takes too much then is less than itself, and soon given back.
    """
    largest = max(others, default=0)
    return size + max(size, largest) <= room or (not largest and size <= room)


def limits_from(value: Mapping[str, Any] | None) -> Limits:
    """The limits in what a client sent; defaults for what it did not say."""
    known = {name: value[name] for name in Limits.__dataclass_fields__ if value and name in value}
    return Limits(**known)


def checked_settings(value: Any) -> dict[str, Any]:
    """What a client said of its limits and idle timeout, as a dict of its own.

    Raises:
        ValueError: something that cannot be one; the writer would stumble over it at every look.
    """
    if not isinstance(value, Mapping):
        raise ValueError("no map")
    said = dict(value)
    for name, default in {**Limits().to_json(), "idle_timeout_seconds": 60.0}.items():
        one = said.get(name, default)
        kinds = (int, float) if type(default) is float else (type(default),)
        is_right = type(one) in kinds and (type(one) is str or 0 <= one < 2**62)
        if not is_right or (name == "resume_below" and not 0 < one <= 1):
            raise ValueError(f"{name} cannot be {one!r:.80}")
    for name in ("files", "fixed"):
        if not all(type(one) is str and "\0" not in one for one in said.get(name) or ()):
            raise ValueError(f"{name} is no list of texts")
    return said


def pause_reason(usage: Usage, limits: Limits, paused: bool) -> str | None:
    """Why logging has to pause now, or None. Once paused it takes ``resume_below`` of a limit to go on."""
    share = limits.resume_below if paused else 1.0
    if usage.memory >= limits.memory * share:
        return f"memory: {usage.memory / 1e6:.0f} MB of {limits.memory / 1e6:.0f} MB are in use"
    if usage.disk >= limits.disk * share:
        return f"disk: {usage.disk / 1e6:.0f} MB of {limits.disk / 1e6:.0f} MB are in use"
    wanted_free = limits.min_free_disk / share if paused else limits.min_free_disk
    if usage.free_disk <= wanted_free:
        return f"free disk: {usage.free_disk / 1e6:.0f} MB are left, {limits.min_free_disk / 1e6:.0f} MB stay free"
    return None


def resident_bytes(pids: Iterable[int]) -> int:
    """Resident memory of these processes without what they share (mapped rings count once, by themselves)."""
    total = 0
    for pid in pids:
        try:
            facts = psutil.Process(pid).memory_info()
        except psutil.Error:
            continue
        total += facts.rss - getattr(facts, "shared", 0)
    return total


def file_bytes(*paths: Path) -> int:
    """Bytes of these files; missing ones count nothing."""
    total = 0
    for path in paths:
        try:
            total += os.stat(path).st_size
        except OSError:
            continue
    return total


def free_bytes(path: Path) -> int:
    """Bytes that an ordinary user may still write there."""
    return int(psutil.disk_usage(os.fspath(path)).free)
