"""What background processes write down for people: one line per event in a file of the home, a few megabytes at most.

    2026-11-24T12:03:04.123Z warning sender 4242 destination 1: the breaker is open

Rule 1  Time is UTC, as that of several machines and of summer and winter can be compared. Level by reader: info is the
        user's story, warning is degraded but safe, error is data at risk. Nothing is configured: who reads chooses.
Rule 2  One event is one line, whatever a portal or a traceback put into it; what looks like a token is cut out.
Rule 3  A line goes out in one write to the end of the file, and a file that was put aside by another process is let go of:
        processes that come and go share it.
Rule 4  Logging fails nothing. What could not be written is counted, and said in the next line that can be.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from pathlib import Path

FILE_BYTES = 1 << 20
KEPT_FILES = 2  # older ones beside the current: three processes take 9 MiB at most
_LINE_BYTES = 16_384  # a longer line is cut
_NAMES = {"WARNING": "warning", "ERROR": "error", "CRITICAL": "error", "DEBUG": "debug", "INFO": "info"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Belt and braces: nothing here logs a token, but what others say may hold one.
_SECRET = re.compile(r"(?i)\b(bearer\s+)\S+|\beyJ[\w-]{6,}\.[\w-]+\.[\w-]*")


def one_line(text: str) -> str:
    """Text as part of a line: control characters are escaped, and what looks like a token is cut out."""
    text = _SECRET.sub(lambda found: f"{found[1] or ''}[cut out]", text)
    return _CONTROL.sub(
        lambda found: {"\n": "\\n", "\t": " ", "\r": "\\r"}.get(found[0], f"\\x{ord(found[0]):02x}"), text
    )


class LineFormatter(logging.Formatter):
    """An event as one line; ``process`` names the process in it."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        text = one_line(super().format(record))  # message, traceback
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        level = _NAMES.get(record.levelname, "info")
        return f"{moment}.{int(record.msecs):03d}Z {level} {self._process} {record.process} {text}"


class LogFile(logging.Handler):
    """A file that is put aside when it is large, ``PATH.1`` the latest, and shared by whoever writes it."""

    def __init__(self, path: Path, *, file_bytes: int = FILE_BYTES, kept_files: int = KEPT_FILES) -> None:
        super().__init__()
        self.path = path
        self.lost = 0
        self._file_bytes = file_bytes
        self._kept_files = kept_files
        self._descriptor = -1
        self._torn = False  # the file ends within a line

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; never raises."""
        try:
            line = self.format(record)
            if self.lost:
                line = f"{line} [{self.lost} lines before this could not be written]"
            self._write(line.encode("utf-8", "backslashreplace")[:_LINE_BYTES] + b"\n")
            self.lost = 0
        except Exception:  # the disk, or an object whose repr raises: not what we are here for
            self.lost += 1

    def _write(self, line: bytes) -> None:
        if self._descriptor < 0 or not self._is_current():
            self._open()
        if os.fstat(self._descriptor).st_size + len(line) > self._file_bytes:
            self._put_aside()
            self._open()
        if self._torn:
            line = b"\n" + line
        written = os.write(self._descriptor, line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError("no room for a whole line")

    def _is_current(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self.path))
        return False

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        opened = os.open(self.path, flags, 0o600)
        previous, self._descriptor = self._descriptor, opened
        if previous < 0:
            return
        # Where standard output and error were the old file, they follow: a crash is told where people look.
        for standard in (1, 2):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(standard), os.fstat(previous)):
                    os.dup2(opened, standard)
        os.close(previous)

    def _put_aside(self) -> None:
        for number in range(self._kept_files, 0, -1):
            older = self.path if number == 1 else self._older(number - 1)
            with contextlib.suppress(FileNotFoundError):
                os.replace(older, self._older(number))

    def _older(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def close(self) -> None:
        """Give the descriptor back."""
        with self.lock or contextlib.nullcontext():
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
        super().close()


def set_up_logging(directory: Path, name: str) -> None:
    """Send what this process logs to ``directory/NAME.log``: of others' packages what is a warning or worse."""
    handler = LogFile(directory / f"{name}.log")
    handler.setFormatter(LineFormatter(name))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("seclea").setLevel(logging.INFO)


def log_files(directory: Path, name: str) -> list[Path]:
    """The files of one process, the oldest first; with those that an earlier version kept."""
    found = {int(path.suffix[1:]): path for path in directory.glob(f"{name}.log.*") if path.suffix[1:].isdigit()}
    files = [found[number] for number in sorted(found, reverse=True)]
    current = directory / f"{name}.log"
    return [*files, current] if current.exists() else files
