"""What a person sees while it is waited: a bar on a terminal with rich, else plain lines; nothing for the first second.

Rule 1  Nothing here may fail what waits: a standard error that is closed, full or of another encoding shows nothing.
Rule 2  Lines are seconds apart, further as it lasts, and the end is one line. Where nothing was shown, no end is either.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from seclea.client.pace import Pace
from seclea.director import Progress
from seclea.director.outlook import records, span
from seclea.settings import format_size

SILENT_SECONDS = 1.0
_UNKNOWN_SECONDS = 5.0  # so long it says nothing of a time left that it does not know
_LINES = ((30.0, 5.0), (120.0, 10.0), (float("inf"), 30.0))  # until so long: one line every so many seconds


class Face(Protocol):
    """One way to show it."""

    def show(self, text: str, share: float, seconds: float) -> None:
        """Show ``text`` and how much is done (0 to 1), after ``seconds`` of waiting."""

    def end(self, text: str) -> None:
        """Show the end."""


class Showing:
    """What is shown of one wait. ``see`` at every look, ``end`` once."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._began = clock()
        self._pace = Pace()
        self._face: Face | None = None
        self._first: Progress | None = None

    @property
    def seconds(self) -> float:
        """Since the wait began."""
        return self._clock() - self._began

    @property
    def is_shown(self) -> bool:
        """Whether there has been anything to see."""
        return self._face is not None

    def see(self, progress: Progress) -> None:
        """Progress of the delivery."""
        self._pace.see(self._clock(), progress)
        if self._first is None:  # a progress that is not done is false
            self._first = progress
        sent = max(progress.delivered_bytes - self._first.delivered_bytes, 0)
        self._show(self._line(progress), sent / max(sent + progress.pending_bytes, 1))

    def say(self, text: str) -> None:
        """Something else that is waited for."""
        self._show(text, 0.0)

    def _show(self, text: str, share: float) -> None:
        if self.seconds >= SILENT_SECONDS:
            with contextlib.suppress(Exception):
                self._face = self._face or _face(self._stream)
                self._face.show(text, share, self.seconds)

    def _line(self, progress: Progress) -> str:
        text = f"{records(progress.pending)} left ({format_size(progress.pending_bytes)})"
        pace = self._pace
        if pace.records_per_second and not progress.waits_for:
            rate = pace.records_per_second
            shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
            return f"{text}, {shown} records/s, {format_size(round(pace.bytes_per_second))}/s, {pace.time_left()}"
        why = progress.waits_for or (pace.time_left() if self.seconds >= _UNKNOWN_SECONDS else "")
        return f"{text}; {why}" if why else text

    def end(self, progress: Progress) -> None:
        """The last line, where there was one before."""
        if self._face is None:
            return
        took = span(self.seconds)
        if progress.done and progress.pending == 0:
            first = progress if self._first is None else self._first
            count, size = progress.delivered - first.delivered, progress.delivered_bytes - first.delivered_bytes
            text = f"all is delivered: {records(count)} ({format_size(size)}) in {took}"
        else:
            text = f"after {took}: {what_is_left(progress)}"
        with contextlib.suppress(Exception):
            self._face.end(text)

    def leave(self, text: str) -> None:
        """The last line of a wait that was broken off; also where nothing was shown yet."""
        with contextlib.suppress(Exception):
            (self._face or _Lines(self._stream)).end(text)

    def close(self) -> None:
        """Give the terminal back, whatever happened."""
        with contextlib.suppress(Exception):
            if isinstance(self._face, _Bar):
                self._face.stop()


def what_is_left(progress: Progress) -> str:
    """Counts by kind, with the reasons."""
    if progress.done:
        return "all is durable"
    parts = [str(one) for one in progress.left]
    return "; ".join(parts[:4] + ([f"and {len(parts) - 4} more"] if len(parts) > 4 else [])) or "nothing is known yet"


def _face(stream: TextIO | None) -> Face:
    if stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        with contextlib.suppress(ImportError):
            return _Bar(stream)
    return _Lines(stream)


class _Lines:
    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._next = 0.0

    def show(self, text: str, share: float, seconds: float) -> None:
        if seconds >= self._next:
            self._next = seconds + next(every for until, every in _LINES if seconds < until)
            self.end(text)

    def end(self, text: str) -> None:
        if self._stream is not None:
            encoding = getattr(self._stream, "encoding", None) or "ascii"
            line = f"seclea: {text}\n".encode(encoding, "backslashreplace").decode(encoding)
            self._stream.write(line)
            self._stream.flush()


class _Bar:
    """Without a thread of its own, and without a hand on the user's sys.stdout."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self._lines = _Lines(stream)
        self._bar: Any = Progress(
            TextColumn("seclea", table_column=Column(min_width=6)),
            BarColumn(bar_width=None, table_column=Column(min_width=8, max_width=12)),
            TextColumn(
                "{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1), markup=False
            ),
            expand=True,
            console=Console(file=stream),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
        )
        self._task = self._bar.add_task("", total=1.0)
        self._bar.start()

    def show(self, text: str, share: float, seconds: float) -> None:
        self._bar.update(self._task, description=text, completed=share, refresh=True)

    def end(self, text: str) -> None:
        self.stop()
        self._lines.end(text)

    def stop(self) -> None:
        self._bar.stop()
