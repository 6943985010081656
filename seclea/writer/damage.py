"""A damaged ledger at the start of a writer: found, moved aside whole, what is whole of it taken over, and told.

Rule 1  Only what is known to be ours is moved: a file of another program, or of a newer seclea, stays as it is.
Rule 2  A rescue that is killed is taken up where it was: `_PLAN` in the directory names what belongs there; while it stands the
        ledger in the home is not the new one. The new ledger takes its name last.
Rule 3  One rescue in `_AGAIN_SECONDS`: what cannot be mended must not fill the disk with copies; then the writer waits.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from seclea.contract import Home
from seclea.errors import LedgerDamagedError, LedgerError, LedgerTooNewError
from seclea.ledger.anchor import anchor_of, read_anchor
from seclea.ledger.blobs import sync_descriptor, sync_directory
from seclea.ledger.check import check
from seclea.ledger.db import Ledger
from seclea.ledger.mend import Mended, mend
from seclea.ledger.migrations import refuse_foreign, scripts
from seclea.ledger.salvage import Found, is_ours, salvage
from seclea.ledger.view import DAMAGE
from seclea.queues.ring import Consumer, RingDamaged
from seclea.records import Event
from seclea.writer.recorder import Recorder
from seclea.writer.settle import Settler

log = logging.getLogger(__name__)

START_SECONDS = 1.0  # of looking at the ledger before each start; what is left is looked at beside the work
_PLAN = "unfinished.json"
_AGAIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Rescue:
    """What a rescue came to: why, where the original lies, what was found of it, and what is still to be done."""

    why: str
    place: Path
    found: Found
    mended: Mended
    frames_lost: int = 0

    def words(self) -> str:
        """One line for people."""
        lost = self.found.words()
        if self.frames_lost:
            lost += f", {self.frames_lost} log calls"
        return f"{self.why} What was whole is in a new ledger; lost: {lost}. The original lies in {self.place}."


def suspect(home: Home, why: str) -> None:
    """Have the next writer salvage the ledger. Never fails: then it finds out by itself, or not yet."""
    try:
        home.suspicion.write_text(why, "utf-8")
    except OSError as error:
        log.error("%s (this cannot be noted: %s)", why, error)


def why_damaged(home: Home, seconds: float | None = START_SECONDS) -> str | None:
    """Why the ledger must be salvaged; None where nothing is known against it.

    Raises:
        LedgerError: it is of a newer seclea, or of another program: not ours to touch.
        OSError, sqlite3.Error: it cannot be looked at just now.
    """
    path = home.ledger
    if not path.exists() and (path.is_symlink() or read_anchor(anchor_of(path)) is None):
        return None  # the first start, or a link to nowhere
    try:
        if not path.exists():
            number = getattr(read_anchor(anchor_of(path)), "number", 0)
            return f"The ledger {path} is gone, with its {number} commits."
        if suspicion := _suspicion(home):
            return suspicion
        refuse_foreign(path)  # before any connection: closing one would fold in the log of a newer seclea's ledger
        looked = check(path, seconds)
    except LedgerDamagedError as error:
        if read_anchor(anchor_of(path)) is None or not path.is_file() or path.is_symlink():
            raise  # whose it is nobody knows
        return error.message
    except LedgerError as error:
        if _is_newer(error, path) or not path.is_file() or path.is_symlink() or not is_ours(path):
            raise
        return f"The ledger {path} is damaged: its header was altered."
    if looked.wrong:
        return f"The ledger {path} is damaged: {'; '.join(looked.wrong[:3])}."
    return None


def _suspicion(home: Home) -> str:
    try:
        return home.suspicion.read_text("utf-8")
    except (OSError, ValueError):
        return ""


def _is_newer(error: LedgerError, path: Path) -> bool:
    """Whether a ledger that says that it is of a newer version is: a flipped bit may say so too, and no anchor does then."""
    anchor = read_anchor(anchor_of(path))
    return isinstance(error, LedgerTooNewError) and (anchor is None or anchor.version > len(scripts()))


def ledger_of(home: Home, say: Callable[[str], None] = lambda _: None) -> tuple[Ledger, Rescue | None]:
    """The home's ledger, salvaged where it was damaged.

    Args:
        say: told why, before a salvage that may take a while.

    Raises:
        LedgerError, OSError, sqlite3.Error: it cannot be used (now); it is as it was, or lies aside whole.
    """
    plan = _unfinished(home)
    why = _why_of(plan) if plan is not None else why_damaged(home)
    if why is None:
        return Ledger(home.ledger), None
    if plan is None:
        latest = max((path.stat().st_mtime for path in home.damaged.glob("*")), default=0.0)
        if 0 <= time.time() - latest < _AGAIN_SECONDS:
            raise LedgerDamagedError(why, f"It was salvaged a moment ago already; see {home.damaged}.")
    log.error("%s", why)
    say(why)
    place = plan or _new_place(home)
    _move(home, place, why)
    rescue = _salvage(home, place, why)
    home.suspicion.unlink(missing_ok=True)
    ledger = Ledger(home.ledger)
    try:
        rescue = _finish(home, ledger, rescue)
    except BaseException:
        ledger.close()
        raise
    return ledger, rescue


def _unfinished(home: Home) -> Path | None:
    for plan in sorted(home.damaged.glob(f"*/{_PLAN}")):
        return plan.parent
    return None


def _why_of(place: Path) -> str:
    return str(json.loads((place / _PLAN).read_text("utf-8"))["why"])


def _new_place(home: Home) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for number in range(1, 100):
        place = home.damaged / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            place.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            continue
        sync_directory(home.damaged)
        return place
    raise LedgerDamagedError("There is no name left for a damaged ledger.", f"See {home.damaged}.")


def _files(home: Home) -> list[Path]:
    path = home.ledger
    return [Path(f"{path}-wal"), Path(f"{path}-shm"), anchor_of(path), path]


def _move(home: Home, place: Path, why: str) -> None:
    """Move the ledger's files into ``place``, or go on with that."""
    plan = place / _PLAN
    if not plan.exists():
        names = [path.name for path in _files(home) if path.exists()]
        draft = place / f"{_PLAN}.new"
        with draft.open("w", encoding="utf-8") as file:
            json.dump({"why": why, "files": names}, file)
            file.flush()
            sync_descriptor(file.fileno())
        os.rename(draft, plan)
        sync_directory(place)
    names = json.loads(plan.read_text("utf-8"))["files"]
    for path in _files(home):
        if path.name in names and not (place / path.name).exists() and path.exists():
            os.rename(path, place / path.name)
    sync_directory(place)
    sync_directory(home.path)


def _salvage(home: Home, place: Path, why: str) -> Rescue:
    fresh = home.path / "ledger.new"
    for path in (fresh, Path(f"{fresh}-journal"), *(path for path in _files(home) if path.exists())):
        path.unlink(missing_ok=True)  # of a rescue that was killed: no client has seen it
    found = salvage(place / home.ledger.name, fresh)
    mended = mend(fresh, found)
    os.chmod(fresh, 0o600)
    descriptor = os.open(fresh, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)
    os.rename(fresh, home.ledger)
    sync_directory(home.path)
    return Rescue(why, place, found, mended)


def _finish(home: Home, ledger: Ledger, rescue: Rescue) -> Rescue:
    """What needs the ledger's own words: rings, tombstones, the event; one transaction, after which the plan is done."""
    recorder, settler = Recorder(ledger, None), Settler(ledger)  # type: ignore[arg-type]
    with ledger.transaction():
        lost = _rings(home, ledger, rescue.found)
        frames = sum(lost.values())
        rescue = Rescue(rescue.why, rescue.place, rescue.found, rescue.mended, frames)
        for record in rescue.mended.altered:
            row = ledger.record_row(record)
            if row is None or row["status"] == "Failed":
                continue
            if row["status"] == "Transmitting":
                settler.give_up(row, f"damaged in the ledger; the original lies in {rescue.place}", Event.DAMAGED)
        told: set[bytes] = set()
        for before, successor in rescue.mended.continued:
            row = ledger.stream_row(successor)
            count = 0 if row["ring"] in told else lost.get(row["ring"], 0)
            told.add(row["ring"])
            old = ledger.stream_row(before)
            recorder.leave_stone(
                row, count, f"goes on for stream {old['uuid'].hex()}, whose end was lost with the ledger"
            )
        ledger.add_event("salvaged", rescue.words(), reason="damaged", count=frames)
        ledger.set_meta(DAMAGE, json.dumps([time.time_ns(), rescue.words(), str(rescue.place)]))
    (rescue.place / _PLAN).unlink()
    sync_directory(rescue.place)
    log.error("%s", rescue.words())
    return rescue


def _rings(home: Home, ledger: Ledger, found: Found) -> dict[bytes, int]:
    """Bring what the ledger knows of the rings up to what they say themselves; frames that are lost, by ring."""
    lost: dict[bytes, int] = {}
    if found.is_whole("rings"):
        return lost
    for directory in (home.rings, home.shared_rings):
        for path in sorted(directory.glob("*.ring")):
            try:
                ring = Consumer.attach(path)
            except (OSError, RingDamaged, MemoryError):
                continue
            try:
                taken = ledger.ring_sequence(ring.ring_id, ring.pid)
                committed = ring.committed
                if taken < committed:
                    ledger.set_ring_sequence(ring.ring_id, committed)
                    if found.lost_commits:
                        lost[ring.ring_id] = committed - taken
            finally:
                ring.close()
    return lost
