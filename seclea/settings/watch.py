"""Limits that are edited while something runs: the RC files are looked at again when they change."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seclea.errors import ConfigurationError
from seclea.settings.load import read_limits
from seclea.settings.values import Limits, Settings


class LimitsWatch:
    """The limits of one client as they are now: what environment and arguments said stays, the rest follows the files.

    Attributes:
        limits: in force. A wrong edit changes nothing.
        trouble: file, line, key and what would be right, while an edit is wrong; else None.
    """

    def __init__(self, limits: Limits, files: Sequence[str] = (), fixed: Iterable[str] = ()) -> None:
        self.limits = limits
        self.trouble: str | None = None
        self._files = tuple(map(Path, files))
        kept = frozenset(fixed)
        self._fixed = {name: value for name, value in limits.to_json().items() if name in kept}
        self._seen: Any = None

    @classmethod
    def of(cls, settings: Settings) -> LimitsWatch:
        """What a client with these settings goes by."""
        return cls(settings.limits, settings.limit_files, settings.fixed_limits)

    def look(self) -> bool:
        """Look at the files (one `stat` each); whether the limits or the trouble are others than before."""
        seen = tuple(map(_mark, self._files))
        if seen == self._seen or not self._files:
            return False
        self._seen = seen
        before = self.limits, self.trouble
        try:
            self.limits = replace(Limits(**read_limits(self._files)), **self._fixed)
            self.trouble = None
        except ConfigurationError as error:
            self.trouble = f"{error} The limits stay as they were."
        return (self.limits, self.trouble) != before


def _mark(path: Path) -> tuple[int, ...] | None:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino
