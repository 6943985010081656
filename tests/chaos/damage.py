"""``python -m tests.chaos.damage --ledgers N --seed S``: damage ledgers at random; judge what a writer makes of them.

Row R10. Each case copies a home as a kill leaves it (its log beside it) with records delivered, pending, being saved, metrics
and payloads; damages its bytes; has `ledger_of` find and salvage it; and delivers what is left to a portal that checks keys,
places and chains. The judge knows the original by its dump, and what was damaged by the bytes that were changed:

    a change of content            is found and named (sqlite's own reading of the damaged files differs from the dump)
    a row none of whose bytes      is in the new ledger, as it was
    were changed
    what the portal takes          was recorded so, or is a tombstone; no metric point twice, no body altered
    what was whole and waited      is delivered, or says why not
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
import traceback
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from seclea.api.api import Api
from seclea.api.session import Session
from seclea.contract import Destination, Home
from seclea.errors import SecleaError
from seclea.ledger.blobs import Spool
from seclea.ledger.check import check
from seclea.ledger.db import Ledger
from seclea.ledger.view import LedgerView
from seclea.records import Lane, unpack_metrics
from seclea.sender.destination import DestinationState
from seclea.sender.lane import LaneWorker, Tools
from seclea.writer import damage
from seclea.writer.again import OPS, Again
from seclea.writer.settle import Settler
from tests.contract.fault_portal import Answer, Asked
from tests.contract.keeping_portal import KeepingPortal
from tests.unit.writer.client import Client, Desk, Model, dataset, state

PAGE = 4096
CASES_OF_ONE_BASE = 25
KINDS = (
    "one bit", "some bits", "many bits", "page zeroed", "pages swapped", "cut", "header", "log flipped", "log cut",
    "log deleted", "log foreign", "file removed",
)  # fmt: skip

Key = tuple[str, tuple[Any, ...]]  # table, primary key
Range = tuple[str, int, int]  # of a file: name, first byte, one after the last


class Portal(KeepingPortal):
    """A portal that also says how far it has a stream."""

    def answer_to(self, asked: Asked) -> Answer:
        if asked.path != "/collection/receipts":
            return super().answer_to(asked)
        stream = asked.query["stream"][0]
        with self._taking:
            heads = [(lane, head) for (one, lane), head in self._heads.items() if one == stream]
        return Answer(200, [{"lane": lane, "sequence": last, "chain": chain.hex()} for lane, (last, chain) in heads])

    def keep(self) -> dict[str, Any]:
        """What it knows, to be given to another (`know`)."""
        names = ("taken", "chunks", "_aliases", "_replies", "_heads")
        return {name: copy.copy(getattr(self, name)) for name in names}

    def know(self, kept: dict[str, Any]) -> None:
        """Know this, and nothing else."""
        for name, value in kept.items():
            setattr(self, name, copy.copy(value))


class Sending:
    """Both lanes of a ledger's destinations to a portal, and the writer's part of it, in this process."""

    def __init__(self, ledger: Ledger, home: Home, url: str) -> None:
        self.ledger = ledger
        self.settler = Settler(ledger)
        self.again = Again(ledger, self.settler)
        self.told: list[dict[str, Any]] = []
        self.ahead = 0.0
        self.workers: list[LaneWorker] = []
        self.apis: list[Api] = []
        for row in ledger.destinations():
            if row["platform_url"] != url:
                continue
            api = Api(Session(url), None, Destination(url, url, "Acme", row["id"]), local=True)
            status = DestinationState(
                row, self.told.append, lambda: True, lambda _: False, random.Random(1), self._clock
            )
            tools = Tools(
                api, Spool(home), lambda: LedgerView(home.ledger), self.told.append, random.Random(1), self._clock
            )
            self.apis.append(api)
            self.workers += [LaneWorker(status, lane, tools) for lane in Lane]

    def _clock(self) -> float:
        return time.monotonic() + self.ahead

    def run(self, turns: int = 60, records: int = 1 << 30) -> None:
        """Send until nothing moves any more, or so many records are settled."""
        idle = 0
        while turns and idle < 4 and records > 0:
            turns -= 1
            self.ahead += 40.0
            for worker in self.workers:
                for _ in range(200):
                    if worker.step() > 0 or len(self.told) >= records:
                        break
            moved = 0
            for message in self.told:
                with self.ledger.transaction():
                    (self.again if message["op"] in OPS else self.settler).apply(message)
                moved += message["op"] in OPS or message["op"] == "outcome"
                records -= message["op"] == "outcome"
            self.told.clear()
            idle = 0 if moved else idle + 1

    def close(self) -> None:
        for worker in self.workers:
            worker._close_view()
        for api in self.apis:
            api.close()


@dataclass
class Base:
    """A home as it was made, and all that is known of it."""

    path: Path
    portal: dict[str, Any]
    rows: dict[Key, dict[str, Any]]
    places: dict[Key, list[list[Range]]]  # copies of a row: the bytes that each is made of
    points: Counter[tuple[Any, ...]]
    bodies: dict[str, bytes] = field(default_factory=dict)  # entity → body


def make(directory: Path, rng: random.Random, portal: Portal, url: str) -> Base:
    """A home with a few hundred rows, some of them delivered; and the portal that has those."""
    desk = Desk(directory)
    desk.ledger._connection.execute("PRAGMA wal_autocheckpoint = 0")
    to = (url, url, "Acme")
    clients = [Client(destination=to) for _ in range(2)]
    taken = dict.fromkeys(range(len(clients)), 0)

    def take() -> None:
        for number, client in enumerate(clients):
            desk.take(client, taken[number] + 1)
            taken[number] = len(client.frames)
        if rng.random() < 0.8:
            desk.store_payloads()

    runs = []
    for client in clients:
        session = client.stream()
        content = rng.randbytes(rng.choice((300, 9000)))
        one = dataset(content, f"Claims {uuid.uuid4().hex[:6]}", metadata={"note": "x" * rng.choice((10, 6000))})
        client.entity(session, one, desk.payload(content))
        model = Model(name=f"M{uuid.uuid4().hex[:6]}", framework="sklearn")
        client.entity(session, model)
        take()
        index, run = client.run(model=model.uuid, datasets=(one.uuid,))
        runs.append((client, index, run))
    half = rng.randrange(2, 8)
    for turn in range(rng.randrange(10, 18)):
        for client, index, run in runs:
            for step in range(rng.choice((1, 3, 40, 400))):
                client.log(index, turn * 1000 + step, loss=rng.random(), **{f"m{step % 3}": rng.random()})
            if rng.random() < 0.3:
                weights = rng.randbytes(500)
                client.entity(index, state(weights, run.uuid, sequence_num=-1), desk.payload(weights))
        take()
        if turn == half:
            sending = Sending(desk.ledger, desk.home, url)
            sending.run(3, rng.randrange(5, 40))
            sending.close()
            if rng.random() < 0.5:
                desk.ledger.checkpoint()
    if rng.random() < 0.5:
        clients[0].finish(runs[0][1])
    take()
    desk.recorder.payloads.clear()
    copy_of = directory / "base"
    shutil.copytree(desk.home.path, copy_of, ignore=shutil.ignore_patterns("*.lock", "*-shm"))
    rows = dump(desk.home.ledger)
    base = Base(copy_of, portal.keep(), rows, {}, points_of(rows))
    base.bodies = {
        row["entity"]: row["body"] for (table, _), row in rows.items() if table == "records" and row["entity"] and row["body"]
    }  # fmt: skip
    for key, row in rows.items():
        base.places[key] = locate(copy_of, row)
        assert base.places[key], f"a row that is nowhere: {key}"
    desk.ledger.close()
    shutil.rmtree(desk.home.path)
    return base


def dump(path: Path) -> dict[Key, dict[str, Any]]:
    """All rows of all tables, as sqlite reads them."""
    found: dict[Key, dict[str, Any]] = {}
    look = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        look.row_factory = sqlite3.Row
        names = [row[0] for row in look.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        for name in sorted(names):
            if name.startswith("sqlite_") or name == "seals":
                continue
            primary = [row[1] for row in look.execute(f"PRAGMA table_info({name})") if row[5]]
            for row in look.execute(f"SELECT * FROM {name}"):
                found[name, tuple(row[one] for one in primary)] = dict(row)
    finally:
        look.close()
    return found


def locate(home: Path, row: dict[str, Any]) -> list[list[Range]]:
    """Where a row's bytes stand: its seal is its own, and ends its record or nearly so. One that goes on in other pages is
    taken to need all of each page that holds a part of it.
    """
    width = sum(_width(value) for value in row.values()) + 2 * len(row) + 16
    found = []
    for name in ("ledger.sqlite", "ledger.sqlite-wal"):
        data = _bytes(home, name)
        at = data.find(row["seal"])
        while at >= 0:
            if width <= PAGE - 35:
                found.append([(name, at - width, at + 24)])
            else:
                pages = {page_of(name, at)}
                large = max((value for value in row.values() if isinstance(value, str | bytes)), key=len)
                raw = large.encode() if isinstance(large, str) else large
                for start in range(0, len(raw) - 32, 200):
                    piece = raw[start : start + 32]
                    for one in ("ledger.sqlite", "ledger.sqlite-wal"):
                        if (there := _bytes(home, one).find(piece)) >= 0:
                            pages.add(page_of(one, there))
                found.append(
                    [(one, number * size + head, number * size + size + head) for one, number, size, head in pages]
                )
            at = data.find(row["seal"], at + 1)
    return found


def _width(value: Any) -> int:
    return len(value.encode() if isinstance(value, str) else value) if isinstance(value, str | bytes) else 8


_READ: dict[tuple[Path, str], bytes] = {}


def _bytes(home: Path, name: str) -> bytes:
    if (home, name) not in _READ:
        if len(_READ) > 2:
            _READ.clear()
        _READ[home, name] = (home / name).read_bytes() if (home / name).exists() else b""
    return _READ[home, name]


def page_of(name: str, at: int) -> tuple[str, int, int, int]:
    """(file, number, size, bytes before the first) of the page or frame that a byte stands in."""
    size, head = (PAGE + 24, 32) if name.endswith("-wal") else (PAGE, 0)
    return name, (at - head) // size, size, head


def points_of(rows: dict[Key, dict[str, Any]]) -> Counter[tuple[Any, ...]]:
    """All metric points that were recorded."""
    found: Counter[tuple[Any, ...]] = Counter()
    for (table, _), row in rows.items():
        if table == "records" and row["kind"] == "metrics" and row["body"] is not None:
            found.update(points_in(unpack_metrics(row["body"])))
    return found


def points_in(batch: Any) -> list[tuple[Any, ...]]:
    keys = [batch.keys[number] for number in batch.key]
    return [(batch.run, *one) for one in zip(keys, batch.step, batch.time, batch.value, strict=True)]


# -- damage ----------------------------------------------------------------------------------------------------------


def hurt(home: Path, kind: str, rng: random.Random, foreign: Path) -> list[Range]:
    """Damage the ledger of a home; the bytes that are not what they were."""
    file, log = home / "ledger.sqlite", home / "ledger.sqlite-wal"
    if kind.startswith("log") and (not log.exists() or log.stat().st_size < 100):
        kind = "some bits"
    match kind:
        case "one bit" | "some bits" | "many bits":
            target = log if log.exists() and rng.random() < 0.4 else file
            bits = {"one bit": 1, "some bits": rng.randrange(2, 20), "many bits": rng.randrange(20, 600)}[kind]
            return flip(target, [rng.randrange(target.stat().st_size) for _ in range(bits)], rng)
        case "log flipped":
            return flip(log, [rng.randrange(log.stat().st_size) for _ in range(rng.randrange(1, 10))], rng)
        case "header":
            return flip(file, [rng.randrange(100) for _ in range(rng.randrange(1, 12))], rng)
        case "page zeroed":
            pages = max(1, file.stat().st_size // PAGE)
            spans = []
            with file.open("r+b") as opened:
                for number in rng.sample(range(pages), min(pages, rng.randrange(1, 4))):
                    opened.seek(number * PAGE)
                    opened.write(bytes(PAGE))
                    spans.append((file.name, number * PAGE, (number + 1) * PAGE))
            return spans
        case "pages swapped":
            data = bytearray(file.read_bytes())
            pages = len(data) // PAGE
            if pages < 3:
                return []
            one, two = (number * PAGE for number in rng.sample(range(1, pages), 2))
            data[one : one + PAGE], data[two : two + PAGE] = data[two : two + PAGE], data[one : one + PAGE]
            file.write_bytes(data)
            return [(file.name, one, one + PAGE), (file.name, two, two + PAGE)]
        case "cut" | "log cut":
            target = log if kind == "log cut" else file
            size = target.stat().st_size
            left = rng.randrange(size)
            os.truncate(target, left)
            return [(target.name, left, size)]
        case "log deleted":
            size = log.stat().st_size
            log.unlink()
            return [(log.name, 0, size)]
        case "log foreign":
            size = log.stat().st_size
            shutil.copy(foreign / log.name, log)
            return [(log.name, 0, size)]
        case _:
            size = file.stat().st_size
            file.unlink()
            return [(file.name, 0, size)]


def flip(path: Path, places: list[int], rng: random.Random) -> list[Range]:
    """Flip a bit in each of these bytes."""
    data = bytearray(path.read_bytes())
    before = bytes(data)
    for place in places:
        data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return [(path.name, place, place + 1) for place in set(places) if data[place] != before[place]]


def is_whole(copies: list[list[Range]], changed: list[Range]) -> bool:
    """Whether none of the bytes of one of the copies was changed."""
    return any(
        all(
            end <= start or stop <= first or name != other for name, first, stop in one for other, start, end in changed
        )
        for one in copies
    )


# -- the judge -------------------------------------------------------------------------------------------------------


@dataclass
class Figures:
    """What a campaign came to."""

    ledgers: int = 0
    changed: int = 0
    named: int = 0
    whole: int = 0
    salvaged: int = 0
    damaged_rows: int = 0
    found_all_the_same: int = 0
    delivered: int = 0
    stones: int = 0
    waiting: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)


def judge(
    base: Base, home: Path, kind: str, changed: list[Range], figures: Figures, portal: Portal, url: str
) -> list[str]:
    """Have a damaged home recovered and its rest delivered; what is wrong with that."""
    wrong: list[str] = []
    # Swapped pages are whole, elsewhere: what goes on in another page is damaged, as it does not say that it moved.
    moved = kind == "pages swapped"
    whole = {
        key
        for key, copies in base.places.items()
        if (moved and any(len(one) == 1 for one in copies)) or is_whole(copies, changed)
    }
    differs = _differs(home, base)
    figures.ledgers += 1
    figures.kinds[kind] += 1
    figures.whole += len(whole)
    figures.damaged_rows += len(base.rows) - len(whole)
    caught: dict[str, dict[Key, dict[str, Any]]] = {}
    plain = damage.mend

    def looking(path: Path, found: Any) -> Any:
        caught["rows"] = dump(path)
        return plain(path, found)

    damage.mend = looking
    try:
        ledger, rescue = damage.ledger_of(Home(home))
    except SecleaError as error:
        figures.refusals[str(error).replace(str(home), "")[:60]] += 1
        return [f"it cannot be used: {error}"]
    finally:
        damage.mend = plain
    try:
        if differs:
            figures.changed += 1
            if rescue is None:
                wrong.append("a change of content was not found")
            else:
                figures.named += 1
        rows = caught.get("rows") if rescue is not None else dump(home / "ledger.sqlite")
        assert rows is not None
        for key in whole:
            then, now = base.rows[key], rows.get(key)
            if now is None or {**now, "seal": 0} != {**then, "seal": 0}:
                wrong.append(f"a whole row of {key[0]} {key[1]} was not salvaged: {now}"[:300])
            else:
                figures.salvaged += 1
        figures.found_all_the_same += len(rows.keys() & base.rows.keys() - whole)
        wrong += deliver(base, ledger, home, figures, portal, url, whole)
        wrong += [f"the new ledger is not whole: {one}" for one in check(home / "ledger.sqlite").wrong]
    finally:
        ledger.close()
    return wrong


def _differs(home: Path, base: Base) -> bool:
    look = Path(tempfile.mkdtemp(prefix="seclea-look-"))
    try:
        for name in ("ledger.sqlite", "ledger.sqlite-wal"):
            if (home / name).exists():
                shutil.copy(home / name, look / name)
        return dump(look / "ledger.sqlite") != base.rows
    except (sqlite3.Error, UnicodeDecodeError, IndexError, OverflowError):
        return True
    finally:
        shutil.rmtree(look)


def deliver(
    base: Base, ledger: Ledger, home: Path, figures: Figures, portal: Portal, url: str, whole: set[Key]
) -> list[str]:
    """Deliver what is left; what the portal holds that it must not, or lacks that was whole."""
    wrong = []
    portal.know(base.portal)
    before = len(portal.taken)
    sending = Sending(ledger, Home(home), url)
    try:
        sending.run()
    finally:
        sending.close()
    points: Counter[tuple[Any, ...]] = Counter()
    for number, one in enumerate(portal.taken):
        if one.kind == "metrics":
            body = {**one.body, "v": 1}
            points.update(points_in(unpack_metrics(msgpack.packb(body))))
        elif one.kind == "tombstone":
            figures.stones += number >= before
        elif one.makes is not None and number >= before:
            made = base.bodies.get(one.makes)
            if made is None or json.loads(made) != one.body:
                wrong.append(f"an altered {one.kind} was delivered")
        figures.delivered += number >= before
    if points - base.points:
        wrong.append(f"{(points - base.points).total()} metric points that were never logged, or twice")
    waits = {row["id"]: row for row in ledger._all("SELECT * FROM records WHERE status IN ('Saving', 'Transmitting')")}
    figures.waiting += len(waits)
    held = {row["id"] for row in ledger.destinations() if row["hold"]}  # where it goes was lost, and that is said
    for row in waits.values():
        if row["destination"] in held:
            continue
        before = [one for one in waits.values() if one["stream"] == row["stream"] and one["lane"] == row["lane"]]
        before = [one for one in before if one["position"] <= row["position"]]
        # Payloads are not stored here: what needs one that is to be saved waits for it, and its own are seen by themselves.
        needs = {need["entity"] for need in ledger._all("SELECT entity FROM needs WHERE record = ?", (row["id"],))}
        if (needs | {row["run"]}) & {one["entity"] for one in waits.values() if one["id"] != row["id"]}:
            continue
        if row["status"] == "Transmitting" and not any(one["hold"] or one["error"] for one in before):
            wrong.append(f"record {row['id']} ({row['kind']}) waits and nobody knows for what")
    trouble = {row["id"] for row in ledger.troubled()}
    for key in whole:
        row = base.rows[key]
        if key[0] != "records" or row["status"] != "Transmitting" or row["kind"] != "metrics" or row["hold"]:
            continue
        if row["body"] is None or row["id"] in waits or row["id"] in trouble:
            continue
        lost = Counter(points_in(unpack_metrics(row["body"]))) - points
        again = ledger.record_row(row["id"])
        if lost and not (again is not None and again["sent_again"]):
            wrong.append(f"{lost.total()} points of the whole record {row['id']} were not delivered")
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Damage ledgers; 0 when the judge finds nothing wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.damage")
    parser.add_argument("--ledgers", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one case of the seed")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    directory = Path(tempfile.mkdtemp(prefix="seclea-damage-"))
    os.environ["XDG_RUNTIME_DIR"] = str(directory)
    began = time.monotonic()
    figures, left = campaign(directory, options.ledgers, options.seed, options.only)
    print(f"seed {options.seed}: {figures.ledgers} damaged ledgers in {time.monotonic() - began:.0f} s")
    print("  " + ", ".join(f"{count} {kind}" for kind, count in sorted(figures.kinds.items())))
    print(f"  content changed in {figures.changed}, found and named {figures.named}")
    print(f"  whole rows {figures.whole}, salvaged {figures.salvaged}; damaged rows {figures.damaged_rows}, of which")
    print(f"  {figures.found_all_the_same} were found all the same (another copy, or damage beside their content)")
    print(
        f"  delivered afterwards {figures.delivered} records, of which {figures.stones} tombstones; waiting {figures.waiting}"
    )
    print(f"  {len(figures.wrong)} things wrong")
    for one in figures.wrong[:20]:
        print(f"    {one}")
    if figures.wrong:
        print(f"left in place: {', '.join(left[:5])}")
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    return 0


def campaign(directory: Path, ledgers: int, seed: int, only: int | None = None) -> tuple[Figures, list[str]]:
    """So many damaged ledgers; the figures, and the homes that something is wrong with."""
    figures = Figures()
    left: list[str] = []
    portal = Portal()
    url = portal.url
    base = foreign = None
    try:
        for number in range(ledgers):
            rng = random.Random(seed * 1_000_003 + number)
            if base is None or number % CASES_OF_ONE_BASE == 0:
                made = random.Random(seed * 7919 + number // CASES_OF_ONE_BASE)
                portal.know({"taken": [], "chunks": {}, "_aliases": {}, "_replies": {}, "_heads": {}})
                foreign = base.path if base is not None else None
                base = make(directory / f"base{number // CASES_OF_ONE_BASE}", made, portal, url)
                if foreign is None:
                    portal.know({"taken": [], "chunks": {}, "_aliases": {}, "_replies": {}, "_heads": {}})
                    foreign = make(directory / "foreign", random.Random(seed), portal, url).path
            if only is not None and number != only:
                continue
            assert foreign is not None
            home = directory / f"case{number}"
            shutil.copytree(base.path, home)
            kind = KINDS[number % len(KINDS)]
            try:
                changed = hurt(home, kind, rng, foreign)
                wrong = judge(base, home, kind, changed, figures, portal, url)
            except Exception:
                wrong = ["crash: " + traceback.format_exc(limit=-3)]
            figures.wrong += [f"case {number} ({kind}): {one}" for one in wrong]
            if wrong:
                left.append(str(home))
            else:
                shutil.rmtree(home)
    finally:
        portal.close()
    return figures, left


if __name__ == "__main__":
    sys.exit(main())
