"""Rows of a damaged ledger, read from its pages without sqlite: whatever of a row's own bytes is whole is found.

Rule 1  Nothing in the file is believed. No tree is walked and no index or schema asked: each page is looked at for cells, and
        a cell is a row when its seal says so (seals.py). So damage to a page costs what stands in it, and nothing else.
Rule 2  The file is not open in sqlite in this process (closing a plain descriptor drops sqlite's locks), and is not written.
Rule 3  Of the write-ahead log each page's latest image counts. Checksums of its frames are not needed: rows prove themselves.
Source: SQLite documentation, "Database File Format".
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE_BYTES = 4096  # of every ledger (`Ledger`)
_WAL_HEADER, _FRAME_HEADER = 32, 24
_TABLE_LEAF, _TABLE_INTERIOR, _INDEX_LEAF, _INDEX_INTERIOR = 13, 5, 10, 2
_LEAST_LOCAL = (PAGE_BYTES - 12) * 32 // 255 - 23
_MOST_LOCAL = {True: PAGE_BYTES - 35, False: (PAGE_BYTES - 12) * 64 // 255 - 23}  # of a table's cell, of an index's
_LARGEST_ROW = 1 << 28
_MOST_COLUMNS = 100
_INT_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


@dataclass(frozen=True, slots=True)
class Image:
    """A page as it stands in the file (``frame`` -1) or in a frame of the log.

    ``until``: the last frame of its transaction, for what it refers to; None: it is the latest, and so is that.
    """

    number: int
    frame: int
    data: bytes
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """A row as it stands in a page: its rowid (None in a table without), and its values. ``pages`` hold the rest of it."""

    rowid: int | None
    values: list[Any]
    pages: tuple[int, ...]


class Pages:
    """The pages of a database file and its write-ahead log. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = _open(path)
        self._log = _open(Path(f"{path}-wal"))
        self.count = os.fstat(self._file).st_size // PAGE_BYTES if self._file is not None else 0
        self._frames: dict[int, list[int]] = {}  # by page, in order
        self._ends: list[int] = []  # frames that end a transaction
        self._read_log()

    def __enter__(self) -> Pages:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in (self._file, self._log):
            if descriptor is not None:
                os.close(descriptor)

    def _read_log(self) -> None:
        if self._log is None:
            return
        whole = (os.fstat(self._log).st_size - _WAL_HEADER) // (_FRAME_HEADER + PAGE_BYTES)
        heads = [os.pread(self._log, 16, self._at(frame)) for frame in range(whole)]
        # What was written before the log began anew has other salts. One of the first four places may be damaged.
        votes = Counter([os.pread(self._log, 8, 16), *(head[8:16] for head in heads[:3])])
        salts = votes.most_common(1)[0][0]
        last = max((frame for frame, head in enumerate(heads) if head[8:16] == salts), default=-1)
        self._ends = [frame for frame, head in enumerate(heads[: last + 1]) if head[4:8] != bytes(4)]
        for frame, head in enumerate(heads[: last + 1]):
            self._frames.setdefault(int.from_bytes(head[:4], "big"), []).append(frame)

    def _at(self, frame: int) -> int:
        return _WAL_HEADER + frame * (_FRAME_HEADER + PAGE_BYTES)

    def image(self, number: int, frame: int, until: int | None = None) -> Image:
        """One image of a page."""
        if frame < 0:
            data = os.pread(self._file, PAGE_BYTES, (number - 1) * PAGE_BYTES) if self._file is not None else b""
        else:
            assert self._log is not None
            data = os.pread(self._log, PAGE_BYTES, self._at(frame) + _FRAME_HEADER)
        return Image(number, frame, data.ljust(PAGE_BYTES, b"\0"), until)

    def current(self) -> Iterator[Image]:
        """The latest image of each page that is in use, as far as the list of free pages can be read."""
        free = self._free()
        for number in self._numbers():
            if number not in free:
                yield self._latest(number)

    def images(self) -> Iterator[Image]:
        """All images of all pages, also earlier ones and of pages that are free."""
        for number in range(1, self.count + 1):
            yield self.image(number, -1, -1 if number in self._frames else None)
        for number, frames in self._frames.items():
            for frame in frames[:-1]:
                place = bisect_left(self._ends, frame)
                yield self.image(number, frame, self._ends[place] if place < len(self._ends) else frame)
            yield self._latest(number)

    def _numbers(self) -> Iterator[int]:
        yield from range(1, self.count + 1)
        yield from sorted(number for number in self._frames if number > self.count)

    def _latest(self, number: int) -> Image:
        return self.image(number, self._frames.get(number, [-1])[-1])

    def _free(self) -> set[int]:
        first = self._latest(1).data
        trunk, found = int.from_bytes(first[32:36], "big"), set[int]()
        while trunk and trunk not in found and len(found) <= self.count + len(self._frames):
            found.add(trunk)
            data = self._latest(trunk).data
            leaves = int.from_bytes(data[4:8], "big")
            if leaves > PAGE_BYTES // 4 - 2:
                break
            found.update(int.from_bytes(data[8 + 4 * at : 12 + 4 * at], "big") for at in range(leaves))
            trunk = int.from_bytes(data[:4], "big")
        return found

    # -- rows ------------------------------------------------------------------------------------------------------

    def cells(self, image: Image) -> tuple[list[Cell], bool]:
        """Cells of a page that holds rows; and whether it was as a page has to be (also one that holds none)."""
        data, start = image.data, 100 if image.number == 1 else 0
        kind = data[start]
        if kind == _TABLE_INTERIOR:
            return [], True
        if kind not in (_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR):
            return [], False
        head = start + (12 if kind == _INDEX_INTERIOR else 8)
        count = int.from_bytes(data[start + 3 : start + 5], "big")
        if head + 2 * count > PAGE_BYTES:
            return [], False
        found = []
        for place in range(count):
            at = int.from_bytes(data[head + 2 * place : head + 2 * place + 2], "big")
            cell = self.cell(image, at + (4 if kind == _INDEX_INTERIOR else 0), has_rowid=kind == _TABLE_LEAF)
            if cell is not None:
                found.append(cell)
        return found, len(found) == count

    def anywhere(self, image: Image) -> Iterator[Cell]:
        """Whatever in a page could be a cell, wherever it begins."""
        for at in range(PAGE_BYTES - 8):
            for has_rowid in (True, False):
                if (cell := self.cell(image, at, has_rowid=has_rowid)) is not None:
                    yield cell

    def cell(self, image: Image, at: int, *, has_rowid: bool) -> Cell | None:
        """The cell at this place of a page; None where there can be none."""
        data = image.data
        try:
            size, at = _varint(data, at)
            rowid = None
            if has_rowid:
                rowid, at = _varint(data, at)
                rowid -= (rowid >> 63) << 64
            if not 2 <= size <= _LARGEST_ROW:
                return None
            local = _local(size, _MOST_LOCAL[has_rowid])
            if at + local + (4 if local < size else 0) > PAGE_BYTES:
                return None
            head_end, place = _varint(data, at)
            if not 2 <= head_end <= min(size, 3 * _MOST_COLUMNS):
                return None
            if at + head_end > PAGE_BYTES:  # a row of ours begins with all of its head
                return None
            types, end = [], at + head_end
            total = head_end
            while place < end:
                one, place = _varint(data, place)
                if one in (10, 11):
                    return None
                types.append(one)
                total += _bytes_of(one)
            if place != end or total != size:
                return None
        except IndexError:
            return None
        payload, pages = data[at : at + local], tuple[int, ...]()
        if local < size:
            rest = self._overflow(image, int.from_bytes(data[at + local : at + local + 4], "big"), size - local)
            if rest is None:
                return None
            payload, pages = payload + rest[0], rest[1]
        try:
            return Cell(rowid, _values(payload, head_end, types), pages)
        except UnicodeDecodeError:
            return None

    def _overflow(self, image: Image, number: int, size: int) -> tuple[bytes, tuple[int, ...]] | None:
        parts, pages = list[bytes](), list[int]()
        while size > 0:
            if (
                number == 0
                or len(pages) > _LARGEST_ROW // PAGE_BYTES
                or (number > self.count and number not in self._frames)
            ):
                return None
            frames = self._frames.get(number, [])
            if image.until is not None:
                frames = frames[: bisect_right(frames, image.until)]
            data = self.image(number, frames[-1] if frames else -1).data
            pages.append(number)
            parts.append(data[4 : 4 + size])
            size -= PAGE_BYTES - 4
            number = int.from_bytes(data[:4], "big")
        return b"".join(parts), tuple(pages)


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value = byte & 0x7F
    for place in range(at + 1, at + 8):
        byte = data[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9


def _local(size: int, most: int) -> int:
    if size <= most:
        return size
    surplus = _LEAST_LOCAL + (size - _LEAST_LOCAL) % (PAGE_BYTES - 4)
    return surplus if surplus <= most else _LEAST_LOCAL


def _bytes_of(serial: int) -> int:
    if serial >= 12:
        return (serial - 12) // 2
    return 8 if serial == 7 else _INT_BYTES.get(serial, 0)


def _values(payload: bytes, at: int, types: list[int]) -> list[Any]:
    values: list[Any] = []
    for one in types:
        size = _bytes_of(one)
        raw = payload[at : at + size]
        at += size
        if one >= 12:
            values.append(raw.decode("utf-8") if one & 1 else raw)
        elif one == 0:
            values.append(None)
        elif one in (8, 9):
            values.append(one - 8)
        else:  # no column of ours is a float (7): it will not fit its seal
            values.append(int.from_bytes(raw, "big", signed=True))
    return values
