"""``python -m tests.chaos.tamper --edits N --seed S``: edit ledger, portal and exports at random; `seclea.verify` must see it.

Row S13. One edit at a time, of a small project that the real pipeline made (`tamper_project`): a value of any column of any
table, a row deleted, put in, or swapped with another, a tail cut, an older copy put back, a blob changed or swapped, a line of
an export. Everything is put back before the next. Columns that no client's words stand in (`OUTSIDE`) are edited as well, and
counted apart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from seclea import verify
from seclea.cli.verify import _altered_rows
from seclea.contract import Home
from seclea.export import CannotRead, LedgerFile, Live, Portal, write_export
from tests.contract.portal_server import ROOT, PortalServer

# What no client said, so that no record can contradict it: "table.column", "table" for all of its columns and rows.
OUTSIDE = {
    "portal": {
        # accounts
        "organizations", "users", "memberships", "sessions", "refresh_tokens", "alembic_version",
        # the portal's own clock, numbers and notes
        "projects.created_ns", "models.created_ns", "datasets.created_ns", "dataset_transformations.created_ns",
        "training_runs.created_ns", "model_states.created_ns", "chunks", "contents.created_ns",
        "content_chunks.organization_id",
        "requests", "streams.updated_ns", "records.created_ns", "metric_batches.id", "metric_batches.created_ns",
        "tombstones.created_ns", "aliases.created_ns", "contents.organization_id", "contents insert",
        # of one thing: nothing is before or after it
        "transformation_inputs.position", "content_chunks.position",
    },
    "ledger": {
        # the pipeline's own work: nothing of it is evidence
        "meta", "destinations", "rings", "key_sets", "needs", "chunks", "record_chunks", "totals", "events", "losses",
        "attempts", "run_ends", "sqlite_sequence", "streams.ring", "streams.ring_index", "streams.rank", "records.created_ns",
        "records.settled_ns", "records.retries", "records.size", "records.reserved", "records.position", "records.dismissed_ns",
        "entities.content", "entities.remote_id", "entities.refused",
        "records delete (oldest of its lane)",  # the ledger does that itself, with what was delivered
    },
}  # fmt: skip


class Tampering:
    """One project, its pristine copies, and ways to change it."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory, self.random = directory, random.Random(seed)
        self.home = directory / "home"
        environment = {
            **os.environ,
            "SECLEA_HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(directory),
            "HOME": str(directory),
        }
        for name in [name for name in environment if name.startswith("SECLEA_") and name != "SECLEA_HOME"]:
            del environment[name]
        for command in (["tests.chaos.tamper_project"], ["seclea", "stop"]):
            done = subprocess.run(
                [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
        self.paths = {"ledger": self.home / "ledger.sqlite", "portal": self.home / "portal" / "portal.db"}
        self.server = PortalServer(self.home / "portal", "--socket", str(directory / "p.sock")).start()
        self.portal = self._log_in()
        for name in self.paths:
            self._keep_pristine(name)
        self.kept = {"portal": Remembered(self.live()), "ledger": Remembered(self.live())}
        self.export = directory / "export"
        write_export(self.live(), str(self.export), content=True)
        self.heads = {
            (one["stream"], one["lane"]): [(one["sequence"], one["chain"])]
            for one in self.live().lines("portal/heads.jsonl")
        }

    def close(self) -> None:
        self.server.close()

    def _pristine(self, name: str) -> Path:
        return self.directory / f"pristine-{name}.db"

    def _keep_pristine(self, name: str) -> None:
        now, copy = sqlite3.connect(self.paths[name]), sqlite3.connect(self._pristine(name))
        with contextlib.closing(now), contextlib.closing(copy):
            now.backup(copy)

    def _log_in(self) -> Portal:
        token = self.server.owner().post("/internal/token").json()["access_token"]
        return Portal(self.server.url, token, "local")

    def live(self) -> Live:
        """Ledger and portal as they are now."""
        return Live(self.portal, LedgerFile(str(self.paths["ledger"])), 1, own=True)

    # -- looking -------------------------------------------------------------------------------------------------

    def look(self, side: str, *, content: bool = False) -> tuple[str, list[str]]:
        """The verdict of the edited side against the other, and what is called altered."""
        try:
            if side == "export":
                source: Any = verify.Export(str(self.export))
            else:
                source = Mixed(self.live(), self.kept["ledger" if side == "portal" else "portal"], side)
            found = verify.Check(source, content).run()
            if side == "ledger":  # as `seclea verify` does (seclea/cli/verify.py)
                for said in _altered_rows(Home(self.home)):
                    found.find(verify.ALTERED, said)
            report = found.report()
        except (CannotRead, verify.CannotCheck) as error:
            return "cannot be read", [str(error)]
        except Exception as error:  # it must say what is wrong with anything
            return f"crashed by {type(error).__name__}: {error}", []
        return report["verdict"], [one["text"] for one in report["findings"] if one["level"] == "altered"]

    def check_untouched(self) -> None:
        """Nothing is left of any edit, and nobody cries wolf."""
        self.portal = self._log_in()  # tokens live for minutes; the login is to be there after an edit is undone
        self._keep_pristine("portal")
        for side in ("portal", "ledger", "export"):
            verdict, altered = self.look(side, content=True)
            if (verdict, altered) != ("gap", []):  # the tombstones
                raise RuntimeError(f"untouched, the {side} is {verdict}: {altered}")

    # -- edits of a database -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def edited(self, side: str, edit: Callable[[sqlite3.Connection], None]) -> Iterator[None]:
        """Edit a database, and put it back."""
        with contextlib.closing(sqlite3.connect(self.paths[side], timeout=30)) as base:
            base.execute("PRAGMA foreign_keys = OFF")
            base.execute("PRAGMA ignore_check_constraints = ON")
            edit(base)
            base.commit()
            yield
            with contextlib.closing(sqlite3.connect(self._pristine(side))) as pristine:
                pristine.backup(base)

    def tables(self, side: str) -> dict[str, list[str]]:
        """The columns of every table."""
        with contextlib.closing(sqlite3.connect(self._pristine(side))) as base:
            names = [
                row[0] for row in base.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
            ]
            return {name: [row[1] for row in base.execute(f"PRAGMA table_info({name})")] for name in names}

    def random_edit(self, side: str) -> tuple[str, Callable[[sqlite3.Connection], None]] | None:
        """What is edited, as "table.column" or "table" and a word, and the edit; None where there is nothing to edit."""
        table, columns = self.random.choice(sorted(self.tables(side).items()))
        kind = self.random.choice(("value", "value", "value", "value", "delete", "insert", "swap"))
        with contextlib.closing(sqlite3.connect(self._pristine(side))) as base:
            keyed = "rowid" if _has_rowid(base, table) else None
            rows = base.execute(f'SELECT {keyed or "NULL"}, {_quoted(columns)} FROM "{table}"').fetchall()
        if not rows:
            return None
        row = self.random.choice(rows)
        where, values = _where(columns, row)
        if kind == "delete":
            oldest = (
                side == "ledger"
                and table == "records"
                and row is min(rows, key=lambda one: _lane_order(columns, one, row))
            )
            return f"{table} delete" + (" (oldest of its lane)" if oldest else ""), lambda base: _do(
                base, f'DELETE FROM "{table}" WHERE {where}', values
            )
        if kind == "insert":
            return self._insertion(table, columns, row[1:])
        column = self.random.choice(columns)
        place = columns.index(column) + 1
        if kind == "swap":
            others = [one for one in rows if not _alike(one[place], row[place])]
            if not others:
                return None
            other = self.random.choice(others)
            where_other, values_other = _where(columns, other)

            def swap(base: sqlite3.Connection) -> None:
                temporary = other[place] if column not in _unique_columns(base, table) else _stand_in(other[place])
                _do(base, f'UPDATE "{table}" SET "{column}" = ? WHERE {where}', [temporary, *values])
                _do(base, f'UPDATE "{table}" SET "{column}" = ? WHERE {where_other}', [row[place], *values_other])
                if temporary != other[place]:
                    _do(base, f'UPDATE "{table}" SET "{column}" = ? WHERE "{column}" = ?', [other[place], temporary])

            return f"{table}.{column} swap", swap
        new = self._other(row[place], [one[place] for one in rows])
        if _alike(new, row[place]):
            return None
        update = f'UPDATE "{table}" SET "{column}" = ? WHERE {where}'
        return f"{table}.{column}", lambda base: _do(base, update, [new, *values])

    def _insertion(
        self, table: str, columns: list[str], row: tuple[Any, ...]
    ) -> tuple[str, Callable[[sqlite3.Connection], None]]:
        new = dict(zip(columns, row, strict=True))
        for name, value in new.items():  # another thing of the same kind, beside what is there
            if name in ("uuid", "stream") and isinstance(value, str):
                new[name] = self._other(value, [])
            elif name in ("name", "hash", "key", "sha256") and isinstance(value, str):
                new[name] = value[:-1] + self.random.choice("abcdef0123456789") + "0"
            elif name in ("id", "position", "first", "last", "sequence", "sequence_num") and isinstance(value, int):
                new[name] = value + 1000
            elif isinstance(value, bytes) and name == "uuid":
                new[name] = self._other(value, [])
        if table == "entities":
            new["uuid"] = self._other(new["uuid"], [])
        statement = f'INSERT INTO "{table}" ({_quoted(columns)}) VALUES ({", ".join("?" * len(columns))})'
        return f"{table} insert", lambda base: _do(base, statement, list(new.values()))

    def _other(self, value: Any, others: list[Any]) -> Any:
        """Another value of the same look: now and then that of another row."""
        different = [one for one in others if not _alike(one, value) and one is not None]
        if different and self.random.random() < 0.3:
            return self.random.choice(different)
        if value is None:
            return self.random.choice(different) if different else self.random.choice((1, "x"))
        if isinstance(value, int):
            return 1 - value if value in (0, 1) else value + self.random.choice((-1, 1, 7, 1000))
        if isinstance(value, float):
            return value * 1.5 + 1
        if isinstance(value, bytes):
            place = self.random.randrange(len(value)) if value else 0
            return (
                value[:place] + bytes([value[place] ^ 1 << self.random.randrange(8)]) + value[place + 1 :]
                if value
                else b"x"
            )
        return self._other_text(value)

    def _other_text(self, value: str) -> str:
        with contextlib.suppress(ValueError):
            if isinstance(found := json.loads(value), dict | list):
                return json.dumps(self._other_json(found), separators=(",", ":"))
        digits = [place for place, letter in enumerate(value) if letter in "0123456789abcdef"]
        if len(value) >= 32 and digits:
            place = self.random.choice(digits)
            other = self.random.choice([one for one in "0123456789abcdef" if one != value[place]])
            return value[:place] + other + value[place + 1 :]
        return self.random.choice([value + "x", value[:-1], value.swapcase() + " "]) if value else "x"

    def _other_json(self, value: Any) -> Any:
        if isinstance(value, dict) and value:
            key = self.random.choice(sorted(value))
            if self.random.random() < 0.2:
                return {name: one for name, one in value.items() if name != key}
            return {**value, key: self._other_json(value[key])}
        if isinstance(value, list) and value:
            place = self.random.randrange(len(value))
            return [*value[:place], self._other_json(value[place]), *value[place + 1 :]]
        if isinstance(value, bool):
            return not value
        if isinstance(value, int | float):
            return value + 1
        return {"added": 1} if isinstance(value, dict) else ["added"] if isinstance(value, list) else f"{value or ''}x"

    # -- edits of other things -----------------------------------------------------------------------------------

    def cut_tail(self, side: str) -> Callable[[sqlite3.Connection], None]:
        """The last records of a lane away, and the head moved back so that all else fits."""
        with contextlib.closing(sqlite3.connect(self._pristine(side))) as base:
            records = base.execute(
                "SELECT stream, lane, first, last, chain FROM records ORDER BY stream, lane, first"
            ).fetchall()
        lanes = sorted({one[:2] for one in records})
        lane = self.random.choice([one for one in lanes if sum(record[:2] == one for record in records) > 1])
        kept = [one for one in records if one[:2] == lane]
        last = kept[self.random.randrange(len(kept) - 1)]

        def cut(base: sqlite3.Connection) -> None:
            _do(base, "DELETE FROM records WHERE stream = ? AND lane = ? AND first > ?", [*lane, last[3]])
            heads = "streams" if side == "portal" else "lanes"
            _do(
                base,
                f"UPDATE {heads} SET sequence = ?, chain = ? WHERE stream = ? AND lane = ?",
                [last[3], last[4], *lane],
            )
            if side == "portal" and lane[1] == "ordered":
                for table in ("metric_batches", "tombstones"):
                    column = "first" if table == "metric_batches" else "sequence"
                    base.execute(f"DELETE FROM {table} WHERE stream = ? AND {column} > ?", [lane[0], last[3]])

        return cut

    def older_copy(self, side: str) -> Callable[[sqlite3.Connection], None]:
        """What was there before the second run."""

        def put_back(base: sqlite3.Connection) -> None:
            with contextlib.closing(sqlite3.connect(self.home / f"older-{side}.db")) as older:
                older.backup(base)
            if side == "portal":  # we stay logged in
                base.execute("ATTACH ? AS pristine", [str(self._pristine(side))])
                base.execute("INSERT OR REPLACE INTO sessions SELECT * FROM pristine.sessions")
                base.commit()
                base.execute("DETACH pristine")

        return put_back

    @contextlib.contextmanager
    def blob_edited(self) -> Iterator[None]:
        """A blob of the portal with a byte changed, cut, gone, or with the bytes of another."""
        blobs = sorted(path for path in (self.home / "portal" / "blobs").glob("*/*") if path.is_file())
        path, other = self.random.sample(blobs, 2)
        before = path.read_bytes()
        how = self.random.choice(("change", "cut", "delete", "swap"))
        if how == "delete":
            path.unlink()
        else:
            path.write_bytes({"change": self._other(before, []), "cut": before[:-1], "swap": other.read_bytes()}[how])
        yield
        path.write_bytes(before)

    @contextlib.contextmanager
    def export_edited(self, name: str) -> Iterator[str]:
        """A file of the export with something else in it; every other time its digest in export.json is put right, too."""
        path = self.export / name
        about = self.export / "export.json"
        before, listed = path.read_bytes(), about.read_bytes()
        lines = before.splitlines(keepends=True) if name.endswith(".jsonl") else []
        how = self.random.choice(("byte", "delete", "swap", "value", "value", "file")) if len(lines) > 1 else "byte"
        new: bytes | None = self._other(before, [])
        place = self.random.randrange(len(lines)) if lines else 0
        if how == "delete":
            new = b"".join(lines[:place] + lines[place + 1 :])
        elif how == "swap":
            other = self.random.choice([one for one in range(len(lines)) if one != place])
            lines[place], lines[other] = lines[other], lines[place]
            new = b"".join(lines)
        elif how == "value":
            lines[place] = json.dumps(self._other_json(json.loads(lines[place]))).encode() + b"\n"
            new = b"".join(lines)
        elif how == "file":
            new = None
        repaired = self.random.random() < 0.5 and how in ("delete", "value") and "records" in _what(name)
        path.unlink() if new is None else path.write_bytes(new)
        if repaired and new is not None:
            told = json.loads(listed)
            told["files"][name] = verify.sha256(new)
            about.write_text(json.dumps(told), "utf-8")
        yield f"{_what(name)} {how}{', digest put right' if repaired else ''}"
        path.write_bytes(before)
        about.write_bytes(listed)


class Remembered:
    """A source's answers, kept: what one side said before the other was edited."""

    def __init__(self, source: Live) -> None:
        self.about, self._source = source.about, source
        self._kept: dict[str, list[Any]] = {}

    def lines(self, name: str) -> list[Any]:
        if name not in self._kept:
            self._kept[name] = list(self._source.lines(name))
        return self._kept[name]


class Mixed:
    """The edited side as it is now, the other as it was."""

    def __init__(self, now: Live, before: Remembered, side: str) -> None:
        self.about, self.damaged, self._now, self._before, self._side = now.about, list[str](), now, before, side
        self.more, self.content = now.more, now.content

    def lines(self, name: str) -> Iterable[Any]:
        return (self._now if name.startswith(self._side) else self._before).lines(name)


def _what(name: str) -> str:
    """Of a file of an export, what it is: streams have names of their own."""
    folder, _, rest = name.partition("/")
    return f"{folder} records" if len(rest) > 43 and folder != "content" else "content" if folder == "content" else name


def _quoted(columns: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)


def _where(columns: list[str], row: tuple[Any, ...]) -> tuple[str, list[Any]]:
    if row[0] is not None:
        return "rowid = ?", [row[0]]
    return " AND ".join(f'"{name}" IS ?' for name in columns), list(row[1:])


def _lane_order(columns: list[str], row: tuple[Any, ...], like: tuple[Any, ...]) -> tuple[bool, bool, int]:
    """First those of the same lane that the ledger thins, by sequence."""
    one, other = (dict(zip(columns, values[1:], strict=True)) for values in (row, like))
    return (
        (one["stream"], one["lane"]) != (other["stream"], other["lane"]),
        one["kind"] not in ("metrics", "tombstone"),
        one["first"],
    )


def _has_rowid(base: sqlite3.Connection, table: str) -> bool:
    try:
        base.execute(f'SELECT rowid FROM "{table}" LIMIT 1')
    except sqlite3.OperationalError:
        return False
    return True


def _unique_columns(base: sqlite3.Connection, table: str) -> set[str]:
    found = {row[1] for row in base.execute(f'PRAGMA table_info("{table}")') if row[5]}
    for index in base.execute(f'PRAGMA index_list("{table}")').fetchall():
        if index[2]:
            found |= {row[2] for row in base.execute(f'PRAGMA index_info("{index[1]}")')}
    return found


def _stand_in(value: Any) -> Any:
    return value + 10**9 if isinstance(value, int) else b"\xff" * 16 if isinstance(value, bytes) else "stand-in"


def _do(base: sqlite3.Connection, sql: str, values: list[Any]) -> None:
    base.execute(sql, values)


def _alike(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


# ------------------------------------------------------------------------------------------------------------------


def is_outside(side: str, what: str) -> bool:
    """Whether an edit is of what no client's words stand in."""
    name = what.split(" ")[0]
    return (
        what in OUTSIDE.get(side, ())
        or name in OUTSIDE.get(side, ())
        or name.partition(".")[0] in OUTSIDE.get(side, ())
    )


def one_edit(tampering: Tampering) -> tuple[str, str, str, list[str]] | None:
    """One edit: side, what, verdict, findings; None where the database does not take it (a constraint), or nothing changed."""
    kind = tampering.random.choices(("portal", "ledger", "export", "blob", "tail", "older"), (40, 25, 20, 5, 6, 1))[0]
    if kind == "blob":
        with tampering.blob_edited():
            return ("blob", "blob", *tampering.look("portal", content=True))
    if kind == "export":
        name = tampering.random.choice(
            sorted(json.loads((tampering.export / "export.json").read_text("utf-8"))["files"])
        )
        with tampering.export_edited(name) as what:
            return ("export", what, *tampering.look("export", content=True))
    if kind in ("tail", "older"):
        side = tampering.random.choice(("portal", "ledger"))
        edit = tampering.cut_tail(side) if kind == "tail" else tampering.older_copy(side)
        with tampering.edited(side, edit):
            return (side, f"{kind} of it", *tampering.look(side))
    if (found := tampering.random_edit(kind)) is None:
        return None
    what, edit = found
    try:
        with tampering.edited(kind, edit):
            return (kind, what, *tampering.look(kind))
    except sqlite3.IntegrityError:
        return None


def campaign(tampering: Tampering, edits: int) -> tuple[Counter[str], list[str], Counter[str]]:
    """Edit so many times: counts, what was not seen though it must be, and what was not seen outside of the promise."""
    counts: Counter[str] = Counter()
    missed: list[str] = []
    outside: Counter[str] = Counter()
    while counts["edits"] < edits:
        if counts["edits"] % 50 == 0:
            tampering.check_untouched()
        done = one_edit(tampering)
        if done is None:
            continue
        side, what, verdict, _ = done
        seen = verdict in ("altered", "cannot be read")
        part = "outside" if is_outside(side, what) else "content"
        counts += Counter(("edits", part, side, *((f"{part} seen",) if seen else ())))
        counts["unreadable"] += verdict == "cannot be read"
        if not seen and part == "content":
            missed.append(f"{side}: {what} ({verdict})")
        elif not seen:
            outside[f"{side}: {what}"] += 1
    tampering.check_untouched()
    return counts, missed, outside


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign; 0 when every edit of content was seen."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.tamper")
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="st-", dir="/tmp"))
    began = time.monotonic()
    tampering = Tampering(directory, options.seed)
    try:
        counts, missed, outside = campaign(tampering, options.edits)
    finally:
        tampering.close()
    by_side = ", ".join(f"{counts[side]} {side}" for side in ("portal", "ledger", "export", "blob"))
    print(f"seed {options.seed}: {counts['edits']} edits ({by_side}) in {time.monotonic() - began:.0f} s")
    print(
        f"content: {counts['content seen']} of {counts['content']} seen;"
        f" {counts['unreadable']} of all made the portal unreadable"
    )
    print(f"outside of the promise: {counts['outside seen']} of {counts['outside']} seen")
    for what, count in sorted(outside.items()):
        print(f"  not seen, and no client's words: {what} ({count})")
    for what, count in sorted(Counter(missed).items()):
        print(f"  NOT SEEN: {what} ({count})")
    if missed:
        print(f"left in place: {directory}")
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
