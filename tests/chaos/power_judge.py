"""Opens a home as it was when the power failed, and judges what recovery made of it by what had been told before.

Recovery is the product's own; the judgement reads tables and files with nothing of seclea but the form of a metrics body.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.unit.writer.chain import check_ledger

_SECONDS = 60.0


@dataclass(frozen=True)
class Told:
    """What a flush that returned has promised, and the length of the disk's log at that moment."""

    at: int
    run: str
    points: int
    payloads: list[tuple[str, str]]


def read_notes(path: Path) -> list[Told]:
    """All that was told, in order."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [Told(one["at"], one["run"], one["points"], one["payloads"]) for one in map(json.loads, lines)]


def recover_here(home: Path) -> float:
    """Recovery by the writer's own code, in this process, which must be thrown away afterwards; the seconds it took."""
    from seclea.contract import Home
    from seclea.processes.rendezvous import prepare
    from seclea.writer.waiting import open_writer

    logging.disable()  # of torn rings it says so, in every image
    began = time.monotonic()
    prepare(Home(home))
    writer = open_writer(Home(home))
    took = time.monotonic() - began
    deadline = time.monotonic() + _SECONDS
    writer.step()
    while writer.is_saving:
        if time.monotonic() > deadline:
            raise TimeoutError("payloads are saved again for ever")
        writer.step()
    writer.close()
    return took


def recover_by_processes(home: Path, environment: dict[str, str]) -> float:
    """The same by a client that finds this home, its writer and its sender; all of them gone afterwards."""
    code = (
        "import time; began = time.monotonic(); from seclea import SecleaAI; s = SecleaAI('Claims');"
        " s.start_training_run('next').log({'loss': 0.0}, step=0); assert s.flush(60), 'no flush';"
        " print(time.monotonic() - began)"
    )
    own = {**environment, "SECLEA_HOME": str(home)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=own, capture_output=True, text=True, timeout=_SECONDS * 2
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return float(done.stdout)
    finally:
        stop = [sys.executable, "-m", "seclea", "stop"]
        subprocess.run(stop, env=own, capture_output=True, timeout=_SECONDS, check=False)


def in_a_child(work: Any, *arguments: Any) -> tuple[float, list[str]]:
    """Seconds and wrongs that ``work`` gives in a forked child; its end by an error is a wrong, too."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            try:
                answer = work(*arguments)
            except BaseException:
                answer = 0.0, [traceback.format_exc()[-1500:]]
            with os.fdopen(writer, "w") as out:
                json.dump(answer, out)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    os.waitpid(child, 0)
    seconds, wrong = json.loads(text) if text else (0.0, ["the child died"])
    return seconds, wrong


def judge(home: Path, told: Told | None) -> list[str]:
    """What is wrong with a recovered home."""
    ledger = home / "ledger.sqlite"
    chunks = home / "spool" / "chunks"
    wrong: list[str] = []
    with contextlib.closing(sqlite3.connect(f"file:{quote(os.fsencode(ledger))}?mode=ro", uri=True)) as database:
        ask = database.execute
        checked = [row[0] for row in ask("PRAGMA integrity_check")]
        if checked != ["ok"]:
            return [f"the ledger is damaged: {checked[:3]}"]
        for sha256, size in ask("SELECT sha256, bytes FROM chunks"):
            path = chunks / sha256[:2] / sha256
            if not path.exists():
                wrong.append(f"a row names the chunk {sha256[:12]}, which is not there")
            elif (data := path.read_bytes()) and (len(data), hashlib.sha256(data).hexdigest()) != (size, sha256):
                wrong.append(f"the chunk {sha256[:12]} is not what its name says")
            elif not data and size:
                wrong.append(f"the chunk {sha256[:12]} is empty")
        open_chunks = ask(
            "SELECT c.sha256 FROM record_chunks c JOIN records r ON r.id = c.record WHERE r.status = 'Transmitting'"
            " AND c.sha256 NOT IN (SELECT sha256 FROM chunks)"
        ).fetchall()
        wrong += [f"an open record needs the chunk {sha256[:12]}, which no row counts" for (sha256,) in open_chunks]
        wrong += _lost(database, told) if told is not None else []
    try:
        check_ledger(ledger)
    except AssertionError as error:
        wrong.append(f"chains: {error!r}")
    return wrong


def _lost(database: sqlite3.Connection, told: Told) -> list[str]:
    from seclea.records import unpack_metrics

    wrong = []
    bodies = database.execute(
        "SELECT body FROM records WHERE kind = 'metrics' AND run = ? ORDER BY stream, first", (told.run,)
    ).fetchall()
    steps = [step for (body,) in bodies for step in unpack_metrics(body).step]
    if len(steps) < told.points:
        wrong.append(f"lost: {told.points} points were durable, {len(steps)} are there")
    if steps != list(range(len(steps))):
        wrong.append("points are twice there, or out of order")
    for uuid, sha256 in told.payloads:
        row = database.execute("SELECT id, status FROM records WHERE entity = ? AND first > 0", (uuid,)).fetchone()
        if row is None or row[1] not in ("Transmitting", "Completed"):
            wrong.append(f"lost: the payload of {uuid} was durable, its record is {row and row[1]}")
        else:
            pieces = database.execute("SELECT sha256 FROM record_chunks WHERE record = ?", (row[0],)).fetchall()
            if pieces != [(sha256,)]:
                wrong.append(f"lost: {uuid} names {len(pieces)} chunks, not {sha256[:12]}")
    return wrong
