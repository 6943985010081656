"""Checks what seclea recorded, without seclea: standard library only, written from docs/wire.md alone; copy it anywhere.

    python -I verify.py --export PATH      (a directory or zip that `seclea export` wrote)
    seclea verify [RUN …]                  (the same checks, on ledger and portal as they stand)

Three sides tell the same story: the ledger's rows and receipts, the portal's records with their bodies, and the objects that
the portal shows. Bodies hash to digests, digests make up chains, chains end in heads, and what is shown is what the bodies
say. Whoever can rewrite a whole portal can make a chain that fits: against that stand the ledger, and heads kept elsewhere
(`--write-heads`, `--heads`).

Exit codes: 0 complete; 3 pending: the ledger has what the portal has not yet; 4 gap: something is missing, and a tombstone
or a number says so; 5 altered: something contradicts what was recorded; 1 could not be checked; 2 wrong use.
"""

import argparse
import base64
import hashlib
import json
import math
import os
import re
import sys
import zipfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NOTE, PENDING, GAP, ALTERED = range(4)
VERDICTS, EXIT_CODES = ("complete", "pending", "gap", "altered"), (0, 3, 4, 5)
Place = tuple[str, str]  # stream and lane
Json = dict[str, Any]
BROKEN = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RecursionError,
)  # of what cannot be read

PATHS = {
    "project": "projects", "model": "models", "dataset": "datasets", "dataset_transformation": "dataset-transformations",
    "training_run": "training-runs", "model_state": "model-states",
}  # fmt: skip
LISTED = {**PATHS, "metrics": "metrics", "tombstone": "tombstones"}
REFERENCES = ("project", "model", "dataset", "parent", "training_run", "datasets", "inputs")  # fields of uuids
FILE: Json = {"size": None, "sha256": None, "format": ""}
SHOWN: dict[str, Json] = {  # what an object shows of its body, and what it shows where the body says nothing
    "project": {"name": "", "description": ""},
    "model": {"project": None, "name": "", "framework": ""},
    "dataset": {"project": None, "name": "", "hash": "", "parent": None, "intermediate": False, "metadata": {}, **FILE},
    "dataset_transformation": {"dataset": None, "inputs": [], "name": "", "code_raw": "", "code_encoded": "", "order": 0},
    "training_run": {"project": None, "model": None, "name": "", "datasets": [], "params": {}, "metadata": {}},
    "model_state": {"project": None, "training_run": None, "sequence_num": None, "step": None, "final_state": False,
                    "framework": "", "metadata": {}, **FILE},
}  # fmt: skip
UNSAID = {"uuid", "organization", "created_ns", "parent_hash", "project"}  # shown, and no client's words
FROM_BODY = {"dataset_transformation": ("details",), "training_run": ("started_ns",), "model_state": ("created_ns",)}


class CannotCheck(Exception):
    """What a person has to put right first, in words that say how."""


# ------------------------------------------------------------------------------------------------------------------
# The wire: chain and bodies


def chain_after(previous: bytes, place: Place, first: int, last: int, kind: str, digest: str) -> bytes:
    stream, lane = bytes.fromhex(place[0].replace("-", "")), place[1].encode()
    numbers = first.to_bytes(8, "big") + last.to_bytes(8, "big")
    head = b"seclea-chain-v1\n" + previous + stream + lane + b"\n" + numbers + kind.encode() + b"\n"
    return hashlib.sha256(head + bytes.fromhex(digest)).digest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same, 1 and 1.0 and true told apart."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def unpack(data: bytes, at: int = 0) -> tuple[Any, int]:
    """The msgpack value at a place, of the types that stand in metrics, and where it ends."""
    mark, at = data[at], at + 1

    def number(size: int, *, signed: bool = False) -> int:
        nonlocal at
        at += size
        return int.from_bytes(data[at - size : at], "big", signed=signed)

    def values(count: int) -> list[Any]:
        nonlocal at
        found = []
        for _ in range(count):
            value, at = unpack(data, at)
            found.append(value)
        return found

    if mark < 0x80 or mark >= 0xE0:
        return (mark if mark < 0x80 else mark - 256), at
    if mark < 0x90 or mark in (0xDE, 0xDF):
        pairs = values(2 * (mark & 15 if mark < 0x90 else number(2 << (mark - 0xDE))))
        return dict(zip(pairs[::2], pairs[1::2], strict=True)), at
    if mark < 0xA0 or mark in (0xDC, 0xDD):
        return values(mark & 15 if mark < 0xA0 else number(2 << (mark - 0xDC))), at
    if 0xCC <= mark <= 0xD3:
        return number(1 << (mark & 3), signed=mark >= 0xD0), at
    if mark < 0xC0 or mark in (0xD9, 0xDA, 0xDB, 0xC4, 0xC5, 0xC6):
        is_text = mark < 0xC0 or mark >= 0xD9
        size = mark & 31 if mark < 0xC0 else number(1 << (mark - (0xD9 if is_text else 0xC4)))
        raw, at = data[at : at + size], at + size
        return (raw.decode("utf-8") if is_text else raw), at
    raise ValueError(f"msgpack has {mark:#x} where metrics have nothing like it")


def read_batch(body: bytes) -> tuple[Json, list[list[Any]]]:
    """A batch of metrics; for each key: points, smallest and largest finite value, first and last step, points not finite."""
    batch, _ = unpack(body)
    columns: list[Any] = [array(code, batch[name]) for name, code in (("key", "H"), ("step", "q"), ("value", "d"))]
    if sys.byteorder == "big":
        for column in columns:
            column.byteswap()
    rows: list[tuple[list[int], list[float]]] = [([], []) for _ in batch["keys"]]
    for number, step, value in zip(*columns, strict=True):
        rows[number][0].append(step)
        rows[number][1].append(value)
    summary: list[list[Any]] = []
    for steps, values in rows:
        finite = [one for one in values if math.isfinite(one)]
        low, high = (min(finite), max(finite)) if finite else (None, None)
        ends = (steps[0], steps[-1]) if steps else (None, None)
        summary.append([len(values), low, high, *ends, len(values) - len(finite)])
    return batch, summary


# ------------------------------------------------------------------------------------------------------------------
# An export


class Export:
    """A directory or zip of JSON lines, with payloads under their sha256. `seclea.export.Live` answers the same questions."""

    def __init__(self, path: str) -> None:
        self.name, self._zip, self.damaged = path, None, list[str]()
        try:
            if os.path.isdir(path):
                self._names = {one.relative_to(path).as_posix() for one in Path(path).rglob("*") if one.is_file()}
            else:
                self._zip = zipfile.ZipFile(path)
                self._names = set(self._zip.namelist())
            with self._open("export.json") as file:
                self.about: Json = json.load(file)
            if self.about["format"] != "seclea-export" or self.about["version"] != 1:
                raise CannotCheck(
                    f"{path} is an export of version {self.about['version']}. → use the verify.py of its seclea"
                )
            self._check_files()
        except (OSError, zipfile.BadZipFile, *BROKEN) as error:
            raise CannotCheck(
                f"{path} is no export of seclea, or half of one ({error}). → seclea export, again"
            ) from None

    def _open(self, name: str) -> Any:
        return self._zip.open(name) if self._zip else open(os.path.join(self.name, name), "rb")

    def _pieces(self, name: str) -> Iterator[bytes]:
        with self._open(name) as file:
            while piece := file.read(1 << 20):
                yield piece

    def _check_files(self) -> None:
        files = self.about["files"]
        for name in sorted({*files, *self._names} - {"export.json"}):
            digest = hashlib.sha256()
            if name not in files or name not in self._names:
                self.damaged.append(f"{name} is " + ("missing" if name in files else "no file of this export"))
                continue
            for piece in self._pieces(name):
                digest.update(piece)
            if digest.hexdigest() != files[name]:
                self.damaged.append(f"{name} is not as it was exported: it hashes to {digest.hexdigest()[:16]}…")

    def lines(self, name: str) -> Iterator[Json]:
        """The lines of a file; none where there is none."""
        if name in self._names:
            with self._open(name) as file:
                for number, line in enumerate(file, 1):
                    try:
                        yield json.loads(line)
                    except ValueError:
                        self.damaged.append(f"{name} line {number} is no JSON")

    def more(self, _uuid: str) -> list[Json]:
        return []  # all streams of an export are read

    def content(self, _kind: str, shown: Json) -> Iterator[bytes]:
        if f"content/{shown['sha256']}" not in self._names:
            raise ValueError("is not in the export")
        return self._pieces(f"content/{shown['sha256']}")


# ------------------------------------------------------------------------------------------------------------------
# The checks


@dataclass
class Finding:
    """Something to be said, and of what. ``live``: it may be of what came while we looked."""

    level: int
    text: str
    stream: str | None = None
    object: str | None = None
    live: bool = False


@dataclass
class Said:
    """What a record's body says of an object."""

    kind: str
    fields: Json
    stream: str
    where: str
    rows: Json | None = None


@dataclass
class Counts:
    records: int = 0
    points: int = 0
    tombstones: int = 0


@dataclass
class Check:
    """All checks of one source; ``findings`` and `report` say how they turned out."""

    source: Any
    content: bool = False
    anchors: dict[Place, list[tuple[int, str]]] = field(default_factory=dict)  # heads that somebody kept

    def __post_init__(self) -> None:
        self.findings: list[Finding] = []
        self.said: dict[str, Said] = {}
        self.recorded: dict[str, Said] = {}  # the same, of the ledger's rows
        self.alias: dict[str, str] = {}  # ids of objects that the portal had already, under another
        self.ends: dict[str, list[Json]] = {}  # by run: bodies of finish
        self.keys: dict[tuple[str, str], list[int]] = {}  # by run and key: points, first and last step
        self.runs_of: dict[str, str | None] = {}  # by stream
        self.counts: dict[str, Counts] = {}  # by stream
        self.unread = 0  # records whose bodies the portal has not kept
        about = self.source.about
        self.has_records = "records" in about["extensions"]
        self.has_portal = about["portal"] is not None and (
            "records" in about["extensions"] or "receipts" in about["extensions"]
        )
        self.theirs: dict[Place, Json] = {}
        self.ours: dict[Place, Json] = {}

    def find(
        self, level: int, text: str, stream: str | None = None, of: str | None = None, *, live: bool = False
    ) -> None:
        self.findings.append(Finding(level, text, stream, of, live))

    def run(self) -> "Check":
        """Check everything."""
        for side, heads in (("ledger", self.ours), ("portal", self.theirs)):
            self._guarded(f"{side}/heads.jsonl", self._heads, side, heads)
        wanted = set(self.source.about["runs"])
        self._lanes({*self.ours, *self.theirs, *(() if wanted else self.anchors)})
        asked: set[str] = set()
        while new := sorted(set().union(*map(self._reach, wanted)) - asked if wanted else ()):
            asked |= set(new)
            for head in [one for uuid in new for one in self.source.more(uuid) if self._is_head(one)]:
                self.theirs[head["stream"], head["lane"]] = head
            self._lanes({place for place in self.theirs if place[0] not in self.counts})
        if self.has_portal:
            for kind, path in PATHS.items():
                self._guarded(f"portal/{path}.jsonl", self._objects, kind, asked if wanted else None)
            self._guarded("portal/metric-keys.jsonl", self._metric_keys, wanted)
        if self.source.about["ledger"]:
            self._guarded("ledger/entities.jsonl", self._entities)
        self._guarded("the ends of runs", self._finishes)
        for name in self.source.damaged:
            self.find(ALTERED, name)
        return self

    def _guarded(self, name: str, check: Callable[..., None], *values: Any, stream: str | None = None) -> None:
        """Do a check; what is not even of the right form was not written by seclea."""
        try:
            check(*values)
        except BROKEN as error:
            self.find(ALTERED, f"{name} cannot be read: {type(error).__name__}: {error}", stream, live=True)

    def _heads(self, side: str, heads: dict[Place, Json]) -> None:
        for head in self.source.lines(f"{side}/heads.jsonl"):
            if self._is_head(head):
                heads[head["stream"], head["lane"]] = head

    def _is_head(self, head: Json) -> bool:
        """A stream's name becomes part of a file's name: it is one of ours, or it is not looked at."""
        if head["sequence"] is None:
            self.find(ALTERED, f"rows of stream {head['stream']} ({head['lane']}) that has no head", head["stream"])
            return False
        form = re.fullmatch(r"[0-9a-f-]{36}", str(head["stream"])) and isinstance(head["sequence"], int)
        if form and head["lane"] in ("ordered", "bulk"):
            return True
        self.find(ALTERED, f"a head of no stream: {head}")
        return False

    # -- lanes ---------------------------------------------------------------------------------------------------

    def _lanes(self, places: Iterable[Place]) -> None:
        for place in sorted(places):
            head, own = self.theirs.get(place), self.ours.get(place)
            runs = {one.get("training_run") for one in (head, own) if one is not None}
            run = next(iter(runs - {None}), self.runs_of.get(place[0]))
            self.runs_of[place[0]] = run
            self.counts.setdefault(place[0], Counts())
            if len(runs - {None}) > 1:
                self.find(
                    ALTERED,
                    f"the stream is of run {own and own['training_run']} in the ledger, of another here",
                    place[0],
                )
            self._guarded(f"lane {place[1]}", self._lane, place, head, own, stream=place[0])

    def _lane(self, place: Place, head: Json | None, own: Json | None) -> None:
        rows, stones = self._rows(place, own)
        at, chain = 0, bytes(32)
        anchors = dict(self.anchors.get(place, ()))
        stood: set[int] = set()
        for record in self.source.lines(f"portal/{place[0]}.{place[1]}.jsonl") if self.has_portal else ():
            where = f"{place[1]} {record['first']} ({record['kind']})"
            if record["first"] != at + 1:
                what = "is missing" if record["first"] > at + 1 else "stands there twice"
                self.find(ALTERED, f"{place[1]} {at + 1}: {what}, the next record is {record['first']}", place[0])
            after = chain_after(chain, place, record["first"], record["last"], record["chained_kind"], record["digest"])
            if after.hex() != record["chain"]:
                self.find(
                    ALTERED,
                    f"{where}: the chain does not follow from the records before it",
                    place[0],
                    record["object"],
                )
            body = base64.b64decode(record["body"], validate=True) if record["body"] is not None else None
            row, stone = rows.get(record["first"]), stones.get(record["first"])
            if own is not None and record["last"] <= own["sequence"]:
                self._against_ledger(place, where, record, body, row, stone, rows, stood)
            if body is None and record["body_bytes"] is None:
                ours = stone if record["kind"] == "tombstone" and stone else row
                body = ours["body"] if ours else None
                self.unread += body is None
            self._body(place, where, record, body)
            at, chain = record["last"], bytes.fromhex(record["chain"])
            stood.add(record["first"])
            if at in anchors and anchors.pop(at) != record["chain"]:
                self.find(ALTERED, f"{where}: its chain is not that of the head that was kept", place[0])
        if head is not None and self.has_records and (at, chain.hex()) != (head["sequence"], head["chain"]):
            self.find(ALTERED, f"{place[1]}: the head is {head['sequence']}, and its records end at {at}", place[0])
        if head is None and at:
            self.find(ALTERED, f"{place[1]}: records to {at}, and no head", place[0])
        if head is not None and not self.has_records:
            at = head["sequence"]
            last = next((row for row in rows.values() if row["last"] == at), None)
            if last is not None and last["chain"] != head["chain"]:
                self.find(ALTERED, f"{place[1]} {at}: the portal's head has another chain than the ledger", place[0])
        for sequence in anchors:
            level = GAP if not self.has_records and sequence <= at else ALTERED
            self.find(
                level,
                f"{place[1]}: {sequence} was its head once, and is not here (now {at}): cut, or put back",
                place[0],
            )
        if head is not None and self.has_records:
            self._tables(place, head)
        if own is None and self.source.about.get("own"):
            words = f"{place[1]}: the ledger does not know it: begun anew, or an older copy of it was put back"
            self.find(ALTERED, words, place[0])
        if own is not None:
            self._beyond(place, at, chain.hex() if self.has_records else "", head, own, rows, stones)

    def _tables(self, place: Place, head: Json) -> None:
        """What the portal counts in its tables, by itself: a row that no record made is one too many."""
        seen = self.counts[place[0]]
        if place[1] == "ordered" and head.get("points", seen.points) != seen.points:
            self.find(
                ALTERED,
                f"the portal counts {head['points']} points, the records have {seen.points}",
                place[0],
                live=True,
            )
        if "stones" in head and head["stones"] != head["tombstones"]:  # a receipt does not count the rows
            self.find(
                ALTERED,
                f"{place[1]}: {head['stones']} tombstones are kept, {head['tombstones']} came",
                place[0],
                live=True,
            )

    def _rows(self, place: Place, own: Json | None) -> tuple[dict[int, Json], dict[int, Json]]:
        """The ledger's rows by sequence, each checked by itself, the chain as far as it is whole; what stands for some."""
        rows: dict[int, Json] = {}
        stones: dict[int, Json] = {}
        if own is None:
            return rows, stones
        previous: tuple[int, bytes] = 0, bytes(32)
        for told in self.source.lines(f"ledger/{place[0]}.{place[1]}.jsonl"):
            row = {**told}
            if row["first"] is None:
                held = f", {row['hold']}" if row["hold"] else ""
                level = PENDING if row["status"] == "Saving" else GAP
                self.find(
                    level,
                    f"{place[1]}: a {row['kind']} has no place yet ({row['status']}{held})",
                    place[0],
                    row["entity"],
                )
                continue
            where = f"ledger {place[1]} {row['first']} ({row['kind']})"
            body = base64.b64decode(row["body"], validate=True) if row["body"] is not None else None
            key = f"{place[0].replace('-', '')}.{place[1]}.{row['first']}" + (
                ".t" if row["stands_for"] is not None else ""
            )
            said = [place[1], row["first"], row["last"], row["kind"], row["key"]]
            sealed = [bytes.fromhex(place[0].replace("-", "")), *(str(one).encode() for one in said)]
            sealed += [bytes.fromhex(row["digest"]), bytes.fromhex(row["chain"])]
            wrong = [
                (sha256(b"\n".join(sealed)) != row["row_hash"], "the row does not hash to its row hash"),
                (body is not None and sha256(body) != row["digest"], "its body does not hash to its digest"),
                (row["key"] != key, f"its key is {row['key']}"),
            ]
            if row["stands_for"] is not None:
                stones[row["first"]] = row
            else:
                rows[row["first"]] = row
                after = chain_after(previous[1], place, row["first"], row["last"], row["kind"], row["digest"]).hex()
                wrong.append((row["first"] == previous[0] + 1 and after != row["chain"], "the chain does not follow"))
                previous = row["last"], bytes.fromhex(row["chain"])
            if body is not None and row["kind"] == "metrics" and not wrong[1][0]:
                batch, _ = unpack(body)
                wrong.append(
                    (batch["count"] != row["points"] or batch["run"] != row["run"], "points or run are not its body's")
                )
            wrong.append((not self._is_receipt(place, row), f"its receipt is for something else: {row['receipt']}"))
            for is_so, words in wrong:
                if is_so:
                    self.find(ALTERED, f"{where}: {words}", place[0], row["entity"])
            row["body"] = None if row["kind"] == "metrics" else body
            if row["kind"] in PATHS:
                fields = json.loads(body) if body is not None and not wrong[1][0] else {"uuid": row["entity"]}
                if fields["uuid"] != row["entity"]:
                    self.find(ALTERED, f"{where}: it is noted as of {row['entity']}", place[0], fields["uuid"])
                self.recorded[fields["uuid"]] = Said(row["kind"], fields, place[0], where)
        if rows and previous[0] == own["sequence"] and previous[1].hex() != own["chain"]:
            self.find(ALTERED, f"ledger {place[1]}: the head's chain is not that of the last record", place[0])
        if previous[0] > own["sequence"]:
            self.find(
                ALTERED, f"ledger {place[1]}: records go on to {previous[0]}, the head is {own['sequence']}", place[0]
            )
        return rows, stones

    def _is_receipt(self, place: Place, row: Json) -> bool:
        if row["status"] != "Completed" or row["receipt"] in ('{"local_only":true}', "{}"):
            return row["status"] != "Completed" or row["receipt"] is not None
        wanted = {"stream": place[0], "lane": place[1], "sequence": row["last"], "chain": row["chain"]}
        return same({**wanted, **json.loads(row["receipt"] or "null")}, wanted)

    def _against_ledger(
        self, place: Place, where: str, record: Json, body: bytes | None, row: Json | None, stone: Json | None,
        rows: dict[int, Json], stood: set[int],
    ) -> None:  # fmt: skip
        stands = stone is not None or (record["kind"] == "tombstone" and record["chained_kind"] != "tombstone")
        for ours, name in ((row, "chained_kind"), (stone if stands else None, "kind")):
            if ours is None:
                continue
            digest = record["digest"] if ours is row else sha256(body or b"")
            if (ours["last"], ours["kind"], ours["digest"], ours["chain"]) != (
                record["last"],
                record[name],
                digest,
                record["chain"],
            ):
                self.find(
                    ALTERED,
                    f"{where}: the portal has another than the ledger ({ours['digest'][:12]}…)",
                    place[0],
                    ours["entity"],
                )
        if row is None and not stone:
            # The ledger thins delivered metrics and tombstones, the oldest first; everything else it keeps.
            older = [one for one in rows.values() if one["first"] < record["first"] and one["first"] in stood]
            kept = [one for one in older if one["kind"] in ("metrics", "tombstone") and one["status"] == "Completed"]
            plain = [one for one in kept if one["reopened_ns"] is None and one["first"] not in self._successors(rows)]
            if plain or record["kind"] not in ("metrics", "tombstone"):
                self.find(ALTERED, f"{where}: the ledger has lost it", place[0], record["object"])

    @staticmethod
    def _successors(rows: dict[int, Json]) -> set[int]:
        again = {row["sent_again"] for row in rows.values()} - {None}
        return {row["first"] for row in rows.values() if row["id"] in again}

    def _beyond(
        self,
        place: Place,
        at: int,
        chain: str,
        head: Json | None,
        own: Json,
        rows: dict[int, Json],
        stones: dict[int, Json],
    ) -> None:
        """What only one side has."""
        if head is not None and head.get("before", head["sequence"]) > own["sequence"]:
            words = f"{place[1]}: the portal has records to {head['sequence']}, the ledger to {own['sequence']}"
            self.find(ALTERED, f"{words}: an older copy of the ledger was put back, or its tail cut", place[0])
        if at == own["sequence"] and chain and chain != own["chain"]:
            self.find(ALTERED, f"{place[1]} {at}: ledger and portal have heads of different chains", place[0])
        covered, later = at, [row for row in rows.values() if row["first"] > at]
        for row in later:
            where = f"{place[1]} {row['first']} ({row['kind']})"
            stone = stones.get(row["first"])
            if row["first"] > covered + 1:
                # What no portal has a place for is thinned here, too, when the disk is full.
                level = ALTERED if self.has_portal else GAP
                self.find(level, f"{place[1]} {covered + 1}: in neither ledger nor portal", place[0])
            covered = row["last"]
            counts = self.counts[place[0]]
            last = stone or row
            local = last["receipt"] == '{"local_only":true}'
            if not self.has_portal or local:
                counts.records, counts.points = counts.records + 1, counts.points + row["points"]
                if row["status"] == "Completed" and row["body"] is not None and row["kind"] in PATHS:
                    fields = json.loads(row["body"])
                    self.said[fields["uuid"]] = Said(row["kind"], fields, place[0], where)
            if local or (not self.has_portal and last["status"] == "Completed"):
                continue
            if last["status"] == "Completed":
                words = f"{where}: the portal gave a receipt and does not have it: cut, or an older copy put back"
                self.find(ALTERED, words, place[0], row["entity"])
            elif last["status"] == "Failed":
                self.find(GAP, f"{where}: refused: {last['error']}", place[0], row["entity"])
            else:
                why = last["hold"] or last["error"] or "on its way"
                self.find(PENDING, f"{where}: not at the portal yet: {why}", place[0], row["entity"])
        if max(covered, at) < own["sequence"]:
            level = ALTERED if self.has_portal else NOTE
            self.find(
                level,
                f"{place[1]} {max(covered, at) + 1} to {own['sequence']}: neither in the ledger nor at the portal",
                place[0],
            )

    # -- bodies --------------------------------------------------------------------------------------------------

    def _body(self, place: Place, where: str, record: Json, body: bytes | None) -> None:
        """A record's body against its digest, its row and its request; what it says is kept for the objects."""
        counts, kind, rows = self.counts[place[0]], record["kind"], record["rows"]
        counts.records += 1

        def altered(words: str) -> None:
            self.find(ALTERED, f"{where}: {words}", place[0], record["object"])

        if body is None:
            if record["body_bytes"] is not None:
                altered("its body is gone")
            return
        if record["body_bytes"] not in (None, len(body)):
            altered(f"its body has {len(body)} bytes, {record['body_bytes']} came")
        if kind == "metrics":
            self._batch(place, record, body, altered)
            return
        try:
            fields = json.loads(body)
        except ValueError:
            altered("its body does not hash to its digest, and is no JSON")
            return
        target, made = f"/collection/{LISTED.get(kind)}", fields.get("uuid")
        stands_for = fields.get("stands_for") if kind == "tombstone" else None
        if kind == "finish":
            made, target = (
                record["object"],
                f"/collection/training-runs/{record['object'] or self.runs_of[place[0]]}/finish",
            )
        if kind == "tombstone":
            counts.tombstones += 1
            made = stands_for and stands_for["uuid"]
        chained = (stands_for["kind"], stands_for["digest"]) if stands_for else (kind, sha256(body))
        if chained != (record["chained_kind"], record["digest"]):
            altered("its body does not hash to its digest")
        if record["body_bytes"] is not None and record["object"] != made:
            altered(f"it is noted as of {record['object']}, and is of {made}")
        if record["request"] != sha256(f"{target}\n".encode() + hashlib.sha256(body).digest()):
            altered("its body or path is not what was asked for under its key")
        if kind in PATHS:
            self.said[fields["uuid"]] = Said(kind, fields, place[0], where, rows)
            if "chunks" in fields and record["object"] and (rows is None or not same(rows["chunks"], fields["chunks"])):
                altered("the chunks of its payload are not those that were sent")
        elif kind == "finish":
            self.ends.setdefault(str(made or self.runs_of[place[0]]), []).append(fields)
            if record["object"] and (
                rows is None or not any(same(rows["ends"], one["streams"]) for one in self.ends[made])
            ):
                altered("the ends of streams that the portal keeps are not those that it was told")
        else:
            self._tombstone(place, where, fields, rows, altered)

    def _tombstone(self, place: Place, where: str, fields: Json, rows: Json | None, altered: Any) -> None:
        of = fields["stands_for"] or {}
        kept = {**(rows or {})}
        alias = kept.pop("alias", None)
        if not same(kept, {**fields, "stands_for": fields["stands_for"]}):
            altered("the tombstone that the portal keeps is not the one that came")
        if fields["reason"] == "adopted":
            target = self.alias.get(of["remote_id"], of["remote_id"])
            self.alias[of["uuid"]] = target
            if alias != [of["kind"], target] and of["uuid"] not in self.said:
                altered(f"{of['uuid']} is known as {alias}, not as {target}")
            return
        many = f"{fields['count']} {fields['kind']}"
        self.find(GAP, f"{where}: {many} not here: {fields['reason']}: {fields['detail']}", place[0], of.get("uuid"))

    def _batch(self, place: Place, record: Json, body: bytes, altered: Any) -> None:
        if sha256(body) != record["digest"]:
            altered("the points' body does not hash to its digest")
        if record["request"] != sha256(b"/collection/metrics\n" + hashlib.sha256(body).digest()):
            altered("its body is not what was asked for under its key")
        batch, summary = read_batch(body)
        told = {name: batch[name] for name in ("run", "first", "last", "rank", "count", "keys")}
        if (batch["first"], batch["last"]) != (record["first"], record["last"]):
            altered(f"its body says {batch['first']} to {batch['last']}")
        wanted = {**told, "summary": summary, "digest": record["digest"]}
        for name, value in (record["rows"] or {"batch": None}).items():
            if not same(value, wanted.get(name)):
                altered(f"the portal keeps {name} {value!r:.80}, the points say {wanted.get(name)!r:.80}")
        if batch["run"] != self.runs_of[place[0]]:
            altered(f"its points are of run {batch['run']}, the stream is of {self.runs_of[place[0]]}")
        self.counts[place[0]].points += batch["count"]
        for key, (count, _, _, first, last, _) in zip(batch["keys"], summary, strict=True):
            if count:
                known = self.keys.setdefault((batch["run"], key), [0, first, last])
                known[:] = [known[0] + count, min(known[1], first), max(known[2], last)]

    # -- objects -------------------------------------------------------------------------------------------------

    def _objects(self, kind: str, wanted: set[str] | None) -> None:
        """What the portal shows of a kind against what the bodies say: each field, nothing more, nothing less."""
        named = {uuid for said in self.said.values() for uuid in self._references(said)} | set(self.alias.values())
        seen: set[str] = set()
        for shown in self.source.lines(f"portal/{PATHS[kind]}.jsonl"):
            uuid = shown["uuid"]
            if wanted is not None and not {uuid, shown.get("training_run"), shown.get("dataset")} & wanted:
                continue
            if uuid in seen:
                self.find(ALTERED, f"{self._name(kind, shown)}: is shown twice", of=uuid, live=True)
            seen.add(uuid)
            said = self.said.get(uuid)
            if said is None or said.kind != kind:
                self._unexplained(kind, shown, uuid in named)
            else:
                self._guarded(self._name(kind, shown), self._compare, kind, shown, said)
        for uuid, said in self.said.items():
            if said.kind == kind and uuid not in seen and (wanted is None or uuid in wanted):
                words = f"{self._name(kind, said.fields)}: {said.where} made it, and the portal does not show it"
                self.find(ALTERED, words, said.stream, uuid, live=True)

    @staticmethod
    def _name(kind: str, fields: Json) -> str:
        return f"{kind.replace('_', ' ')} {fields.get('name') or fields.get('sequence_num')!r} ({fields['uuid']})"

    def _unexplained(self, kind: str, shown: Json, is_named: bool) -> None:
        words = f"{self._name(kind, shown)}: no record made it"
        of = shown.get("training_run") or shown.get("dataset") or shown["uuid"]
        if not self.has_records or self.unread or is_named:
            self.find(NOTE, f"{words} that is here to be read: it cannot be checked", of=of)
        else:
            self.find(ALTERED, f"{words}: it was put in, or came from a client that keeps no streams", of=of, live=True)

    def _compare(self, kind: str, shown: Json, said: Said) -> None:
        fields = said.fields
        expected: Json = {name: fields.get(name, default) for name, default in SHOWN[kind].items()}
        expected |= {name: fields[name] for name in FROM_BODY.get(kind, ()) if name in fields}
        for name in REFERENCES:
            if name in expected:
                expected[name] = self._resolved(expected[name])
        if kind == "dataset" and expected["parent"] is None and fields.get("parent_hash"):
            expected["parent"] = shown["parent"] if shown["parent_hash"] == fields["parent_hash"] else None
        if kind == "dataset_transformation" and said.rows and not same(said.rows["inputs"], expected["inputs"]):
            words = f"{self._name(kind, fields)}: inputs are kept as {_short(said.rows['inputs'])}"
            self.find(
                ALTERED, f"{words}, and {said.where} says {_short(expected['inputs'])}", said.stream, shown["uuid"]
            )
        made = self.said.get(str(expected.get("dataset")))
        if made is not None:  # docs/wire.md: the project stands in the query, and it is the dataset's
            expected["project"] = self._resolved(made.fields.get("project"))
        if kind == "dataset_transformation" and not expected["inputs"]:
            parent = self._resolved(made.fields.get("parent")) if made else None
            expected["inputs"] = [parent] if parent else []
        if kind == "training_run":
            expected["dataset_roles"] = fields.get("dataset_roles") or [None] * len(expected["datasets"])
            ends = [[one["status"], one["finished_ns"]] for one in self.ends.get(shown["uuid"], ())]
            ends = ends or [["running" if "started_ns" in fields else "unknown", None]]
            now = [shown.get("status"), shown.get("finished_ns")]
            expected |= dict(zip(("status", "finished_ns"), now if now in ends else ends[-1], strict=True))
        for name in [*expected, *sorted(shown.keys() - expected.keys() - UNSAID)]:
            if not same(shown.get(name), expected.get(name)):
                where = f"{self._name(kind, {**fields, 'uuid': shown['uuid']})}: {name}"
                words = f"{where} is {_short(shown.get(name))}, and {said.where} says {_short(expected.get(name))}"
                self.find(ALTERED, words, said.stream, shown["uuid"], live=True)
        if self.content and kind in ("dataset", "model_state") and shown.get("sha256"):
            self._payload(kind, shown, said)

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.alias.get(one, one) for one in value]
        return self.alias.get(value, value)

    def _payload(self, kind: str, shown: Json, said: Said) -> None:
        digest, size = hashlib.sha256(), 0
        try:
            for piece in self.source.content(kind, shown):
                digest.update(piece)
                size += len(piece)
            words = (
                ""
                if (digest.hexdigest(), size) == (said.fields["sha256"], said.fields["size"])
                else "hashes to another digest"
            )
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            words = str(error)
        if words:
            self.find(
                ALTERED,
                f"{self._name(kind, {**said.fields, 'uuid': shown['uuid']})}: its content {words}",
                said.stream,
                shown["uuid"],
            )

    def _metric_keys(self, runs: set[str]) -> None:
        counted = {
            (one["training_run"], one["key"]): [one["count"], one["first_step"], one["last_step"]]
            for one in self.source.lines("portal/metric-keys.jsonl")
        }
        for run, key in sorted({*counted, *self.keys}, key=str):
            told, kept = self.keys.get((run, key)), counted.get((run, key))
            if told != kept and (not runs or run in runs) and self.has_records:
                words = f"metric {key!r}: the portal counts {kept} (points, first and last step), its points say {told}"
                self.find(ALTERED, words, of=run, live=True)

    def _entities(self) -> None:
        """What the ledger keeps of entities against the bodies of their records."""
        kept = {one["uuid"]: one for one in self.source.lines("ledger/entities.jsonl")}
        for uuid in sorted(self.recorded.keys() - kept.keys()):
            said = self.recorded[uuid]
            self.find(ALTERED, f"{said.where}: the ledger has lost its entity {uuid}", said.stream, uuid)
        for uuid, one in kept.items():
            if (said_of := self.recorded.get(uuid)) is None:
                if one["same_as"] is None and not self.source.about["runs"]:
                    self.find(ALTERED, f"ledger: the {one['kind']} {one['name']!r} ({uuid}) has no record", of=uuid)
                continue
            told, body = json.loads(one["json"]), said_of.fields
            own = {"name": one["name"], "hash": one["digest"], "project": one["project"], "training_run": one["run"]}
            own |= {"framework": one["framework"], "sequence_num": one["sequence_num"]}
            wrong = [
                name
                for name, value in told.items()
                if name in body and name not in REFERENCES and not same(value, body[name])
            ]
            wrong += [name for name, value in own.items() if name in body and value not in (None, body[name])]
            wrong += [name for name in ("digest",) if "hash" in body and told.get(name) != body["hash"]]
            wrong += [name for name in ("kind",) if one["kind"] != said_of.kind]
            columns = ("name", "digest", "framework", "sequence_num")
            wrong += [
                name
                for name in columns
                if not one["refused"] and one[name] != (told.get(name) if told.get(name) != "" else None)
            ]
            of_stream = {head["project"] for place, head in self.ours.items() if place[0] == said_of.stream}
            twins = {uuid: other["same_as"] or uuid for uuid, other in kept.items()}
            if "project" in body and body["project"] not in {twins.get(project, project) for project in of_stream}:
                wrong.append("project of its stream")
            if wrong:
                words = f"ledger: {said_of.kind} {uuid}: {', '.join(sorted(set(wrong)))} not as in its record"
                self.find(ALTERED, words, said_of.stream, uuid)

    def _finishes(self) -> None:
        """Each stream goes as far as it went when its run ended."""
        for run, ends in self.ends.items():
            for end in (one for finish in ends for one in finish["streams"]):
                place = end["stream"], end["lane"]
                here = max(
                    (heads[place]["sequence"] for heads in (self.theirs, self.ours) if place in heads), default=0
                )
                if here < end["sequence"]:
                    words = f"{place[1]}: ends at {here}; it went on to {end['sequence']} when the run ended"
                    self.find(GAP, words, place[0], run)

    # -- verdicts ------------------------------------------------------------------------------------------------

    def _references(self, said: Said) -> list[str]:
        found: list[str] = []
        for name in REFERENCES:
            value = said.fields.get(name)
            found += value if isinstance(value, list) else [value] if value else []
        return [self.alias.get(one, one) for one in found]

    def _reach(self, run: str) -> set[str]:
        """A run, its states, and what they were made from."""
        made: dict[str, list[str]] = {}
        for uuid, said in self.said.items():
            if (of := said.fields.get("training_run") or said.fields.get("dataset")) and isinstance(of, str):
                made.setdefault(self.alias.get(of, of), []).append(uuid)
        found, todo = {run}, [run]
        while todo:
            uuid = todo.pop()
            said_of = self.said.get(uuid)
            new = {*(self._references(said_of) if said_of else ()), *made.get(uuid, ())} - found
            found |= new
            todo += new
        return found

    def forgive(self) -> None:
        """More came in all the while: what may be of that is no contradiction yet."""
        for one in self.findings:
            if one.live and one.level == ALTERED:
                one.level, one.text = NOTE, f"{one.text} (records come in; look again when they do not)"

    def report(self) -> Json:
        """Everything that was found, by run and by session stream; the worst is the verdict."""
        runs = {uuid for uuid, said in self.said.items() if said.kind == "training_run"}
        runs |= {run for run in self.runs_of.values() if run is not None}
        wanted = set(self.source.about["runs"])
        told: set[int] = set()
        parts: Json = {"runs": [], "sessions": []}
        units = [("runs", str(run)) for run in sorted(map(str, runs)) if not wanted or run in wanted]
        units += [("sessions", one) for one in sorted(self.runs_of) if self.runs_of[one] is None]
        for name, uuid in units:
            streams = [one for one, run in self.runs_of.items() if run == uuid] if name == "runs" else [uuid]
            reach = self._reach(uuid) if name == "runs" else set()
            found = [
                one for one in self.findings
                if one.stream in streams or (one.object is not None and self.alias.get(one.object, one.object) in reach)
            ]  # fmt: skip
            told |= set(map(id, found))
            said = self.said.get(uuid)
            counts = [self.counts[one] for one in streams]
            parts[name].append({
                "uuid": uuid, "name": said.fields.get("name") if said else None, **_verdict(found),
                "streams": sorted(map(str, streams)),
                "records": sum(one.records for one in counts), "points": sum(one.points for one in counts),
                "tombstones": sum(one.tombstones for one in counts),
            })  # fmt: skip
        rest = [one for one in self.findings if id(one) not in told]
        if self.unread:
            rest.append(
                Finding(
                    NOTE, f"{self.unread} records are from before the portal kept bodies: only their chain was checked"
                )
            )
        about = self.source.about
        if not self.has_portal:
            rest.append(Finding(NOTE, "only the ledger was checked: " + (
                "the portal keeps no streams (base interface)" if about["portal"] else "without a portal")))  # fmt: skip
        elif not self.has_records:
            rest.append(
                Finding(
                    NOTE, "this portal does not tell records (an older seclea): heads and objects were checked only"
                )
            )
        everything = [*self.findings, *rest]
        kept = {name: about.get(name) for name in ("portal", "organization", "made_ns")}
        return {**_verdict(everything), **kept, **parts, "rest": _verdict(rest), "content": self.content}


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text)} characters, sha256 {sha256(text.encode())[:8]})"


def _verdict(findings: list[Finding]) -> Json:
    worst = max((one.level for one in findings), default=NOTE)
    unique = {(one.level, one.text): one for one in findings}.values()
    listed = [{"level": ("note", *VERDICTS[1:])[one.level], "text": one.text, "stream": one.stream, "object": one.object}
              for one in sorted(unique, key=lambda one: -one.level)]  # fmt: skip
    return {"verdict": VERDICTS[worst], "findings": listed}


# ------------------------------------------------------------------------------------------------------------------
# The command


def _counted(part: Json) -> str:
    return f"{part['records']} records" + (f", {part['points']} points" if part["points"] else "")


def lines_of(report: Json, most: int = 20) -> Iterator[str]:
    """A report as text."""

    def of(part: Json) -> Iterator[str]:
        for one in part["findings"][:most]:
            yield f"    {one['level']:<8} {one['text']}"
        if len(part["findings"]) > most:
            yield f"    and {len(part['findings']) - most} more (--json)"

    for one in report["runs"]:
        left = f", {one['tombstones']} tombstones" if one["tombstones"] else ""
        yield f"{one['verdict']:<9} run {one['name'] or '?'} ({one['uuid']}): {_counted(one)}{left}"
        yield from of(one)
    for one in report["sessions"]:
        yield f"{one['verdict']:<9} session {one['uuid']}: {_counted(one)}"
        yield from of(one)
    if report["rest"]["findings"]:
        yield "besides:"
        yield from of(report["rest"])
    yield f"verified: {report['verdict']}" + ("" if report["content"] else " (contents were not read: --content)")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What both ways to call it understand."""
    parser.add_argument("run", nargs="*", metavar="RUN", help="uuids of runs; everything by default")
    parser.add_argument("--export", metavar="PATH", help="check an export, without ledger or portal")
    parser.add_argument("--heads", metavar="FILE", help="heads that were kept: each must still be there")
    parser.add_argument("--write-heads", metavar="FILE", help="keep the heads of now, for yourself or a notary")
    parser.add_argument(
        "--content", action="store_true", help="read the contents of datasets and states too, and hash them"
    )
    parser.add_argument("--json", action="store_true", help="everything, as JSON")


def read_heads(path: str) -> dict[Place, list[tuple[int, str]]]:
    """Heads that `--write-heads` kept."""
    try:
        kept = json.loads(Path(path).read_text("utf-8"))
        if kept["format"] != "seclea-heads" or kept["version"] != 1:
            raise CannotCheck(f"{path} is of version {kept['version']}. → use the verify.py of its seclea")
        found: dict[Place, list[tuple[int, str]]] = {}
        for one in kept["heads"]:
            found.setdefault((one["stream"], one["lane"]), []).append((int(one["sequence"]), one["chain"]))
        return found
    except (OSError, *BROKEN) as error:
        raise CannotCheck(f"{path} holds no heads that `seclea verify --write-heads` kept: {error}") from None


def verify(source: Any, options: argparse.Namespace) -> tuple[Check, Json]:
    """Check a source as the options say."""
    anchors = read_heads(options.heads) if options.heads else {}
    check = Check(source, options.content, anchors).run()
    return check, check.report()


def conclude(check: Check, report: Json, options: argparse.Namespace) -> int:
    """Print, keep heads where that is asked for; the exit code."""
    if options.write_heads:
        heads = check.theirs if check.theirs else check.ours
        kept = [{name: one[name] for name in ("stream", "lane", "sequence", "chain")} for one in heads.values()]
        text = json.dumps({"format": "seclea-heads", "version": 1, "heads": kept}, indent=1)
        try:
            Path(options.write_heads).write_text(text + "\n", "utf-8")
        except OSError as error:
            raise CannotCheck(f"The heads cannot be kept: {error}. → another place") from None
    print(json.dumps(report, indent=1) if options.json else "\n".join(lines_of(report)))
    return EXIT_CODES[VERDICTS.index(report["verdict"])]


def main(arguments: list[str] | None = None) -> int:
    """Check an export."""
    parser = argparse.ArgumentParser(prog="verify.py", description="Check an export of seclea.")
    add_options(parser)
    options = parser.parse_args(arguments)
    if not options.export:
        parser.error("--export PATH is needed here; `seclea verify` checks a home's ledger and its portal.")
    try:
        source = Export(options.export)
        if options.run:
            known = {
                one["training_run"] for side in ("portal", "ledger") for one in source.lines(f"{side}/heads.jsonl")
            }
            if unknown := sorted(set(options.run) - known):
                raise CannotCheck(
                    f"There is no run {unknown[0]} in {options.export}. → without RUN all that are there are named"
                )
            source.about["runs"] = options.run
        return conclude(*verify(source, options), options)
    except CannotCheck as error:
        print(f"verify: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
