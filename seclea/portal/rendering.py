"""Templates: Jinja2 with autoescape, and how times, sizes and digests read."""

from __future__ import annotations

import datetime as dt
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """A page."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(size=size, moment=moment, iso=iso, duration=duration, value=value, count=count)
    return environment


def size(number: int | None) -> str:
    """Bytes for people."""
    if number is None:
        return "–"
    amount, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{number} B" if unit == "B" else f"{amount:.1f} {unit}"


def count(number: int, word: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _instant(ns: int) -> dt.datetime | None:
    try:
        return dt.datetime.fromtimestamp(ns / 1e9, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return None


def iso(ns: int) -> str:
    """RFC 3339, for ``<time datetime>``."""
    instant = _instant(ns)
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ") if instant else ""


def moment(ns: int) -> str:
    """UTC, until the page's script says it in local time."""
    instant = _instant(ns)
    return instant.strftime("%d %b %Y, %H:%M UTC") if instant else "–"


def duration(start_ns: int, end_ns: int | None) -> str:
    """How long it took."""
    if end_ns is None or end_ns < start_ns:
        return "–"
    seconds = (end_ns - start_ns) // 1_000_000_000
    hours, minutes = seconds // 3600, seconds // 60 % 60
    if seconds < 60:
        return f"{(end_ns - start_ns) / 1e9:.1f} s"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds % 60:02d} s"


def value(item: Any) -> str:
    """A parameter or a piece of metadata, as it was sent."""
    if isinstance(item, dict) and len(item) == 1 and next(iter(item)).startswith("__"):
        return str(next(iter(item.values())))
    if isinstance(item, str):
        return item
    return json.dumps(item, ensure_ascii=False)
