"""Whose file it is and of which version, found out without sqlite.

A connection that is closed folds the write-ahead log into the file and deletes the log, however little was asked of it. A
ledger that is to be left untouched must therefore not even be opened. Read before any connection of this process is open:
closing a plain descriptor later would drop sqlite's locks.
Source: SQLite documentation, "Database File Format", sections 1.3 (header), 1.6 (b-tree pages) and 4 (the WAL).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_MAGIC = b"SQLite format 3\0"
_WAL_MAGIC = 0x377F0682  # the lowest bit: checksums over big-endian words
_WAL_HEADER = struct.Struct(">8I")
_FRAME_HEADER = struct.Struct(">6I")
_NEEDED_BYTES = 112  # of page one: the file's header and that of the first b-tree page
_INTERIOR = 5  # kind of a page that only points to others


class Header(NamedTuple):
    """What stands in page one. ``is_empty``: there is no table yet."""

    application_id: int
    version: int
    is_empty: bool


def read_header(path: Path) -> Header | None:
    """The header as a connection would see it: of the file, or of the log's last commit. None: no sqlite database (yet).

    Raises:
        OSError: it cannot be read just now.
    """
    try:
        with path.open("rb") as file:
            page = file.read(_NEEDED_BYTES)
    except FileNotFoundError:
        return None
    if len(page) < _NEEDED_BYTES or not page.startswith(_MAGIC):
        return None
    try:
        log = path.with_name(f"{path.name}-wal").read_bytes()
    except FileNotFoundError:
        log = b""
    # The checksums take their time: they are computed only where the log could say something else than the file.
    pages = [found for found, _ in _first_pages(log, check=False)]
    if any(_parse(found) != _parse(page) for found in pages):
        for found, is_committed in _first_pages(log, check=True):
            page = found if is_committed else page
    return _parse(page)


def _parse(page: bytes) -> Header:
    version, application = (int.from_bytes(page[place : place + 4], "big") for place in (60, 68))
    return Header(application, version, page[100] != _INTERIOR and page[103:105] == b"\0\0")


def _first_pages(log: bytes, *, check: bool) -> Iterator[tuple[bytes, bool]]:
    """Beginnings of page one in the log, in order, and whether a commit in the log covers each."""
    if len(log) < _WAL_HEADER.size:
        return
    magic, _, page_bytes, _, *salts, first, second = _WAL_HEADER.unpack_from(log)
    if magic & ~1 != _WAL_MAGIC or not 512 <= page_bytes <= 65536:
        return
    order = ">" if magic & 1 else "<"
    sums = _sum(log[:24], (0, 0), order)
    if check and sums != (first, second):
        return
    waiting: list[bytes] = []
    step = _FRAME_HEADER.size + page_bytes
    for place in range(_WAL_HEADER.size, len(log) - step + 1, step):
        number, committed, *frame_salts, first, second = _FRAME_HEADER.unpack_from(log, place)
        if frame_salts != salts:
            return  # of a log that was written here before
        content = log[place + _FRAME_HEADER.size : place + step]
        if check:
            sums = _sum(content, _sum(log[place : place + 8], sums, order), order)
            if sums != (first, second):
                return
        if number == 1:
            waiting.append(content[:_NEEDED_BYTES])
        if committed or not check:
            yield from ((page, True) for page in waiting)
            waiting.clear()
    yield from ((page, False) for page in waiting)


def _sum(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    """SQLite's checksum of a log, gone on with."""
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
