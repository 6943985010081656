"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
import sqlite3
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
