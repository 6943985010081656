"""What a figure was measured on, and how figures are shown."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Sequence
from importlib import metadata


def describe(*packages: str) -> str:
    """Machine and versions, in one line."""
    versions = []
    for name in packages:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},"
        f" sqlite {sqlite3.sqlite_version}, {', '.join(versions)}"
    )


def quantiles(nanoseconds: Sequence[int]) -> dict[str, float]:
    """p50, p99, p99.9 and the worst, in µs."""
    ordered = sorted(nanoseconds)
    last = len(ordered) - 1
    return {
        name: ordered[int(last * share)] / 1000
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1))
    }
