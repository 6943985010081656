"""What can be set, and what each value may be."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, Self, cast

LOCAL = "local"
WhenFull = Literal["wait", "raise", "drop"]

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of "512MB" (decimal), "1.5GiB" (binary) or "1024B".

    Raises:
        ValueError: anything else; a bare number in text is refused too, its unit may have been forgotten.
    """
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f"{text!r} is no size")
    return int(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit


def format_size(count: int) -> str:
    """Bytes for people, "512MB" or "1.5GB"; read back by `parse_size` with a loss below one percent."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.4g}{name}" if count < 1000 * unit else f"{count // unit}{name}"
    return f"{count}B"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What seclea may take. Sizes in bytes; ranges are checked by `load`.

    Attributes:
        memory: rings, segments, resident memory of writer and sender; 64MB or more, these two alone take most of it.
        disk: ledger and spool; 16MB or more.
        min_free_disk: what stays free for others.
        resume_below: the part of a limit (0.1 to 0.95) below which logging resumes after a pause.
        when_full: what a log call does while logging is paused.
        wait_timeout_seconds: budget of one pause episode, not of one call; 0 to a week.
    """

    memory: int = 512 * 10**6
    disk: int = 10 * 10**9
    min_free_disk: int = 10**9
    resume_below: float = 0.8
    when_full: WhenFull = "wait"
    wait_timeout_seconds: float = 300.0

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict, read back by `from_json`."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The limits that `to_json` wrote; keys that this version does not know are left out."""
        return cls(**{item.name: value[item.name] for item in fields(cls) if item.name in value})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one client is set up. ``platform_url`` "local" is the home's own portal; ``auth_url`` empty means the same.

    ``project`` is None until somebody names one; ``ca_bundle`` is a PEM file for portals with their own authority;
    ``idle_timeout_seconds`` (0 to a day) is how long the background processes stay without work. ``limit_files`` are the RC
    files whose ``[limits]`` hold also when they are edited later, but for ``fixed_limits``, which something stronger set.
    """

    project: str | None = None
    organization: str = LOCAL
    platform_url: str = LOCAL
    auth_url: str = ""
    ca_bundle: str | None = None
    idle_timeout_seconds: float = 60.0
    limits: Limits = field(default_factory=Limits)
    limit_files: tuple[str, ...] = field(default=(), compare=False)  # where the values came from is not what they are
    fixed_limits: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not self.auth_url:
            object.__setattr__(self, "auth_url", self.platform_url)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict, read back by `from_json`."""
        return {item.name: getattr(self, item.name) for item in fields(self)} | {"limits": self.limits.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The settings that `to_json` wrote; keys that this version does not know are left out."""
        known = {item.name: value[item.name] for item in fields(cls) if item.name in value}
        lists = {name: tuple(value.get(name) or ()) for name in ("limit_files", "fixed_limits")}
        return cls(**known | lists | {"limits": Limits.from_json(value.get("limits") or {})})


class Origin(NamedTuple):
    """Where a value came from: ``where`` is "path:line", "SECLEA_X" or the argument's name; empty for a default."""

    kind: Literal["default", "file", "environment", "argument"]
    where: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.where}".rstrip()


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings, and per dotted key ("limits.memory") the origin of its value."""

    settings: Settings
    origins: dict[str, Origin]


# ------------------------------------------------------------------------------------------------------------------
# What a value may be. Each reader returns the value or raises ValueError with what is wrong and what would be right.


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("must be text that is not empty")
    return value


def _url(value: Any) -> str:
    text = _text(value).strip().rstrip("/")
    if text == LOCAL:
        return text
    match = re.fullmatch(r"https?://([^/?#\s]+)(/[^?#\s]*)?", text, re.IGNORECASE)
    if match is None:
        raise ValueError('must be "local" or an address such as "https://portal.example.com"')
    if "@" in match[1]:
        raise ValueError("must not hold a user name or password; use `seclea login`")
    return text


def _path(value: Any) -> str:
    return os.path.abspath(os.path.expanduser(_text(value)))


def _size(least: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        try:
            count = parse_size(value) if isinstance(value, str) else value
        except ValueError:
            count = None
        if type(count) is not int:
            raise ValueError('must be a size such as "512MB", "1.5GiB" or a whole number of bytes')
        if not least <= count < 2**62:
            raise ValueError(f"must be {format_size(least)} or more")
        return count

    return read


def _number(least: float, most: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not least <= number <= most:  # also NaN
            raise ValueError(f"must be a number from {least:g} to {most:g}")
        return number

    return read


def _when_full(value: Any) -> str:
    if value not in ("wait", "raise", "drop"):
        raise ValueError('must be "wait", "raise" or "drop"')
    return cast(str, value)


READERS: dict[str, Callable[[Any], Any]] = {
    "project": _text,
    "organization": _text,
    "platform_url": _url,
    "auth_url": _url,
    "ca_bundle": _path,
    "idle_timeout_seconds": _number(0, 86_400),
    "limits.memory": _size(64 * 10**6),
    "limits.disk": _size(16 * 10**6),
    "limits.min_free_disk": _size(0),
    "limits.resume_below": _number(0.1, 0.95),
    "limits.when_full": _when_full,
    "limits.wait_timeout_seconds": _number(0, 7 * 86_400),
}
KEYS = tuple(READERS)
