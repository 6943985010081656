"""``seclea logs``: what writer, sender and portal of a home have written down, in one order of time."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from seclea.contract import Home
from seclea.errors import UsageError
from seclea.logs import log_files
from seclea.settings import home_directory

NAMES = ("writer", "sender", "portal")
LEVELS = ("info", "warning", "error")
_LOOK_SECONDS = 0.2
_HEAD = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (\w+) ")


def show_logs(names: Sequence[str], lines: int, level: str, *, follow: bool) -> int:
    """Print the last ``lines`` of these logs (all by default); with ``follow`` also what comes, until Ctrl-C."""
    if unknown := set(names) - set(NAMES):
        raise UsageError(f"There is no log of {sorted(unknown)[0]!r}.", f"Name some of {', '.join(NAMES)}.")
    if level not in LEVELS:
        raise UsageError(f"There is no level {level!r}.", f"It is one of {', '.join(LEVELS)}.")
    directory = Home(home_directory().path).logs
    names = names or NAMES
    followed = [_Followed(directory / f"{name}.log") for name in names] if follow else []
    try:
        found = sorted(
            (moment, text) for name in names for moment, text in _dated(_lines(log_files(directory, name)), level)
        )
        for _, text in deque(found, lines) if lines else ():
            print(text, flush=follow)
        if not found and not follow:
            print(f"Nothing is logged in {directory}.")
        with contextlib.suppress(KeyboardInterrupt):  # how one ends to follow
            while follow:
                for one in followed:
                    for _, text in _dated(one.new_lines(), level):
                        print(text, flush=True)
                time.sleep(_LOOK_SECONDS)  # a poll: a file tells nobody that it grew
    finally:
        for one in followed:
            one.close()
    return 0


def _lines(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="backslashreplace") as file:
            yield from (line.rstrip("\n") for line in file)


def _dated(lines: Iterable[str], level: str) -> Iterator[tuple[str, str]]:
    """Lines from this level on, with their time. What is no line of a log (a crash) goes with the one before it."""
    wanted = LEVELS[LEVELS.index(level) :]
    moment = ""
    for line in lines:
        head = _HEAD.match(line)
        if head is not None:
            moment = head[1]
            if head[2] not in wanted:
                continue
        if line:
            yield moment, line


class _Followed:
    """The end of a file that is put aside and begun anew now and then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rest = b""
        self._file = self._open()
        if self._file is not None:
            self._file.seek(0, os.SEEK_END)  # what is there is shown already

    def _open(self) -> IO[bytes] | None:
        with contextlib.suppress(FileNotFoundError):
            return self._path.open("rb")
        return None

    def new_lines(self) -> Iterator[str]:
        """What came since the last look, whole lines."""
        yield from self._read()
        with contextlib.suppress(FileNotFoundError):
            if self._file is None or not os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path)):
                yield from self._read()  # what came before it was put aside
                self.close()
                self._file = self._open()
                yield from self._read()

    def _read(self) -> Iterator[str]:
        if self._file is not None:
            *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
            yield from (line.decode("utf-8", "backslashreplace") for line in lines)

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()
            self._file = None
