"""Judges a trace by a disk that keeps only what was synced. Knows the home's layout and its tables; nothing of seclea's code.

The disk is the worst that POSIX allows: bytes of a file are there once an fsync that began after their write has returned; a
name is there once its directory was synced after it was made, and only while the names of all directories above it are.
At every sync of the ledger the database is put together from synced bytes alone and read. From then on it holds:

Rule 1  Whatever a row names stood there, whole and with all its names, before the first byte of that commit was written.
Rule 2  A chunk or an incoming file is unlinked only after a synced commit that no longer needs it.
Rule 3  A ring's cursor moves only up to what a synced commit has taken in.
Rule 4  A file takes its final name by a rename only after its bytes were synced.
Rule 5  "Durable" is said only of what a synced commit holds; a login is told only when the token file is whole.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.order_trace import MARK, Call

_SYNCS = ("fsync", "fdatasync")
_WRITES = ("write", "writev", "pwrite64", "pwritev")


@dataclass
class Inode:
    """A file or directory. ``changes`` counts writes; ``synced`` says up to which of them it is on the disk."""

    is_directory: bool = False
    changes: int = 0
    synced: int = 0
    now: bytearray | None = None  # content of the database's files, nothing of others
    kept: bytes = b""


@dataclass
class Name:
    """An entry of a directory, on the disk or not yet."""

    inode: Inode
    is_kept: bool = False


@dataclass
class Committed:
    """What the database on the disk says."""

    chunks: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)  # incoming files that rows wait for
    rings: dict[str, int] = field(default_factory=dict)
    points: int = 0
    payloads: int = 0  # records that have theirs


class Judge:
    """Fed with a trace; ``wrong`` holds every violation, ``seen`` counts what was looked at."""

    def __init__(self, root: str, home: str) -> None:
        self.wrong: list[str] = []
        self.seen: Counter[str] = Counter()
        self._root = root
        self._home = home
        self._ledger = f"{home}/ledger.sqlite"
        self._log = f"{self._ledger}-wal"
        self._spool = f"{home}/spool"
        self._names = {root: Name(Inode(is_directory=True), is_kept=True)}
        self._committed = Committed()
        self._begun: dict[int, tuple[int, list[Name], bytes]] = {}  # what a sync that is going on will have kept
        self._lacking: set[str] | None = None  # files that were not whole when the commit's first byte was written

    def judge(self, trace: Iterable[tuple[str, Call]]) -> Judge:
        """Look at all of it."""
        for moment, call in trace:
            self.see(moment, call)
        return self

    def see(self, moment: str, call: Call) -> None:
        """One instant of one call."""
        if call.name.startswith(("access", "faccessat")):
            if moment == "begin" and call.paths[0].startswith(MARK):
                self._hear(*call.paths[0].removeprefix(MARK).split("/"))
            return
        if call.returned < 0 or not any(path.startswith(self._root) for path in call.paths):
            return
        if moment == "begin":
            self._before(call)
        else:
            self._after(call)

    # -- calls ---------------------------------------------------------------------------------------------------

    def _before(self, call: Call) -> None:
        path = call.paths[0]
        if call.name in _WRITES:
            self._write(path, call)
        elif call.name in _SYNCS and (name := self._names.get(path)) is not None:
            entries = [entry for where, entry in self._names.items() if os.path.dirname(where) == path]
            self._begun[call.number] = name.inode.changes, entries, bytes(name.inode.now or b"")
        elif call.name.startswith("rename"):
            self._rename(path, call.paths[1])
        elif call.name.startswith("unlink"):
            self._unlink(path)

    def _after(self, call: Call) -> None:
        path = call.paths[0]
        if call.name.startswith(("open", "creat")):
            if path not in self._names and ("O_CREAT" in call.flags or call.name == "creat"):
                self._names[path] = Name(Inode(now=bytearray() if path.startswith(self._ledger) else None))
            if "O_TRUNC" in call.flags and path in self._names:
                self._change(path)
        elif call.name.startswith("mkdir"):
            self._names[path] = Name(Inode(is_directory=True))
            self.seen["directories made"] += 1
        elif call.name in ("ftruncate", "fallocate"):
            self._change(path)
            if call.name == "ftruncate" and path in self._names and (now := self._names[path].inode.now) is not None:
                del now[call.offset :]
                now.extend(bytes(max(0, call.offset - len(now))))
        elif call.name in _SYNCS and call.number in self._begun:
            self._sync(path, *self._begun.pop(call.number))
        elif call.name.startswith("unlink"):
            self._names.pop(path, None)

    def _change(self, path: str) -> None:
        if path in self._names:
            self._names[path].inode.changes += 1

    def _write(self, path: str, call: Call) -> None:
        if path == self._log and self._lacking is None:
            self._lacking = {where for where in self._names if not self._is_whole(where)}
        self._change(path)
        if path in self._names and (now := self._names[path].inode.now) is not None:
            now.extend(bytes(max(0, call.offset - len(now))))
            now[call.offset : call.offset + len(call.data)] = call.data

    def _sync(self, path: str, changes: int, entries: list[Name], content: bytes) -> None:
        name = self._names.get(path)
        if name is None:
            return
        name.inode.synced = max(name.inode.synced, changes)
        for entry in entries:
            entry.is_kept = True
        self.seen["syncs"] += 1
        name.inode.kept = content
        if path in (self._log, self._ledger):
            self._commit()

    def _rename(self, source: str, target: str) -> None:
        name = self._names.get(source)
        if name is not None:
            in_ring = "/rings/" in target or "/queues/" in target or "/incoming/" in target or target.endswith(".sock")
            if not in_ring and name.inode.changes != name.inode.synced:
                self._say(
                    f"rule 4: {self._short(source)} took its name {self._short(target)} before its bytes were synced"
                )
            self.seen["renames"] += 1
            self._names[target] = Name(name.inode)
            del self._names[source]

    def _unlink(self, path: str) -> None:
        name = os.path.basename(path)
        if path.startswith(f"{self._spool}/chunks/"):
            self.seen["chunks deleted"] += 1
            if name in self._committed.chunks:
                self._say(f"rule 2: the chunk {name[:12]} was deleted, and the database on the disk names it")
        elif path.startswith(f"{self._spool}/incoming/"):
            self.seen["incoming files deleted"] += 1
            if name in self._committed.waiting:
                self._say(f"rule 2: the incoming file {name} was deleted, and a row on the disk waits for it")

    # -- the database on the disk ----------------------------------------------------------------------------------

    def _commit(self) -> None:
        self._committed = self._read()
        self.seen["commits"] += 1
        lacking, self._lacking = self._lacking or set(), None
        files = {sha256: f"{self._spool}/chunks/{sha256[:2]}/{sha256}" for sha256 in self._committed.chunks}
        for sha256, path in files.items():
            if path not in self._names:
                self._say(f"rule 1: a row on the disk names the chunk {sha256[:12]}, which is not there")
            elif path in lacking or not self._is_whole(path):
                self._say(f"rule 1: a row on the disk names the chunk {sha256[:12]}: {self._missing(path)}")
        for path in (self._ledger, self._log):
            if self._committed.points and not all(self._above(path)):
                self._say(f"rule 1: the name of {self._short(path)} is not synced: {self._missing(path)}")

    def _read(self) -> Committed:
        found = Committed()
        with tempfile.TemporaryDirectory(prefix="order-") as directory:
            copy = Path(directory) / "ledger.sqlite"
            for suffix in ("", "-wal", "-journal"):
                if (name := self._names.get(f"{self._ledger}{suffix}")) is not None and name.inode.kept:
                    copy.with_name(copy.name + suffix).write_bytes(name.inode.kept)
            with contextlib.closing(sqlite3.connect(copy)) as database:
                if not database.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'events'").fetchone()[0]:
                    return found  # its first migration is yet to come
                ask = database.execute
                found.chunks = {sha256 for (sha256,) in ask("SELECT sha256 FROM chunks")}
                found.waiting = {name for (name,) in ask("SELECT payload FROM records WHERE status = 'Saving'")}
                found.rings = {ring.hex(): number for ring, number in ask("SELECT id, sequence FROM rings")}
                found.points = ask("SELECT coalesce(sum(points), 0) FROM records WHERE kind = 'metrics'").fetchone()[0]
                found.payloads = ask("SELECT count(DISTINCT record) FROM record_chunks").fetchone()[0]
        return found

    # -- what processes say ------------------------------------------------------------------------------------------

    def _hear(self, word: str, *values: str) -> None:
        self.seen[f"heard: {word}"] += 1
        there = self._committed
        if word == "ring" and there.rings.get(values[0], 0) < int(values[1]):
            taken = there.rings.get(values[0], 0)
            self._say(f"rule 3: a ring's cursor moves to {values[1]}; on the disk it was taken over up to {taken}")
        if word == "durable":
            points, payloads = map(int, values)
            if there.points < points or there.payloads < payloads:
                held = f"{there.points} points and {there.payloads} payloads"
                self._say(
                    f"rule 5: {points} points and {payloads} payloads were said to be durable; on the disk are {held}"
                )
        if word == "login" and not self._is_whole(path := f"{self._home}/tokens/{values[0]}"):
            self._say(f"rule 5: a login was told to be kept: {self._missing(path)}")

    # -- whole or not ------------------------------------------------------------------------------------------------

    def _above(self, path: str) -> Iterable[bool]:
        """Whether the names of a path, and of all directories up to the root, are on the disk."""
        while path.startswith(f"{self._root}/"):
            yield path not in self._names or self._names[path].is_kept
            path = os.path.dirname(path)

    def _is_whole(self, path: str) -> bool:
        name = self._names.get(path)
        return name is not None and name.inode.changes == name.inode.synced and all(self._above(path))

    def _missing(self, path: str) -> str:
        """Why a file would not be there after a power loss, in words."""
        name = self._names.get(path)
        if name is None:
            return f"{self._short(path)} is not there"
        if name.inode.changes != name.inode.synced:
            return f"the bytes of {self._short(path)} are not synced"
        where = path
        while where.startswith(f"{self._root}/"):
            if where in self._names and not self._names[where].is_kept:
                return f"the name {self._short(where)} is not synced"
            where = os.path.dirname(where)
        return f"{self._short(path)} became whole only after the commit had begun"

    def _short(self, path: str) -> str:
        return path.removeprefix(f"{self._root}/")

    def _say(self, what: str) -> None:
        if what not in self.wrong:
            self.wrong.append(what)
