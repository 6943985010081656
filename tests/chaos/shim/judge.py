"""Compares what a job of the sweep was told with what portal and ledger hold. Standard library only; nothing of seclea."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Told:
    """What a job was told. ``handed``: calls that returned; ``durable``: how many notes there were when flush said so."""

    run: str = ""
    values: list[int] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    states: list[tuple[str, str]] = field(default_factory=list)
    left_out: int = 0  # of metrics
    states_left_out: int = 0
    finished: bool = False
    is_durable: bool = False
    is_delivered: bool = False
    result: float | None = None
    raised: list[str] = field(default_factory=list)
    not_done: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)


def read_notes(path: Path) -> Told:
    """The notes of one job."""
    told = Told()
    for line in path.read_bytes().splitlines() if path.exists() else []:
        match json.loads(line):
            case {"run": run}:
                told.run = run
            case {"value": value}:
                told.values.append(value)
            case {"dataset": uuid}:
                told.datasets.append(uuid)
            case {"state": uuid, "sha256": sha256}:
                told.states.append((uuid, sha256))
            case {"left_out": count}:
                told.left_out += count
            case {"state_left_out": count}:
                told.states_left_out += count
            case {"finished": _}:
                told.finished = True
            case {"flush": _}:
                told.is_durable = True
                continue
            case {"complete": _}:
                told.is_delivered = True
                continue
            case {"result": result}:
                told.result = result
                continue
            case {"raised": what, "by": call}:
                told.raised.append(f"{call}: {what}")
                continue
            case {"not_done": call, "reasons": reasons}:
                told.not_done.append(f"{call}: {'; '.join(reasons)}")
                continue
            case {"slow": call, "seconds": seconds}:
                told.slow.append(f"{call} {seconds:g} s")
                continue
        told.is_durable = told.is_delivered = False  # something came after it
    return told


class Judge:
    """Reads the portal by HTTP."""

    def __init__(self, url: str, token: str, organization: str) -> None:
        self._url = url
        self._token = token
        self._organization = organization

    def read(self, path: str, **query: Any) -> bytes:
        """The body of a reply."""
        query["organization"] = self._organization
        address = f"{self._url}{path}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(address, headers={"Authorization": f"Bearer {self._token}"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            return bytes(reply.read())

    def json(self, path: str, **query: Any) -> Any:
        """The body of a reply, read."""
        return json.loads(self.read(path, **query))

    def judge(self, told: Told, *, was_killed: bool, lasts: bool) -> list[str]:
        """What is wrong; empty when nothing. A call in which the job was killed may have been handed over or not.

        Args:
            lasts: the fault may have outlasted the budget of a pause. Then values may be left out that a tombstone counts.
        """
        projects = self.json("/collection/projects", limit=1000)
        if not projects:
            nothing = not (told.values or told.datasets or told.run)
            return [] if nothing else ["the project is not there"]
        wrong = [] if len(projects) == 1 else [f"the project is there {len(projects)} times"]
        wrong += self._datasets(told, spare=int(was_killed))
        runs = self.json("/collection/training-runs", limit=1000)
        wanted = [told.run] if told.run else []
        found = [one["uuid"] for one in runs]
        if found != wanted and not (was_killed and not wanted and len(found) == 1):
            wrong.append(f"runs: {len(found)} found, {len(wanted)} told")
        if told.run in found:
            wrong += self._run(told, runs[found.index(told.run)], int(was_killed), lasts=lasts)
        return wrong

    def _datasets(self, told: Told, spare: int) -> list[str]:
        listed = self.json("/collection/datasets", limit=1000)
        uuids = [one["uuid"] for one in listed]
        wrong = [f"dataset {uuid} told, not there" for uuid in told.datasets if uuid not in uuids]
        if len(set(uuids)) != len(uuids) or len({one["name"] for one in listed}) != len(uuids):
            wrong.append("a dataset is there twice")
        if not len(told.datasets) <= len(uuids) <= len(told.datasets) + spare:
            wrong.append(f"datasets: {len(uuids)} found, {len(told.datasets)} told")
        made = self.json("/collection/dataset-transformations", limit=1000)
        if not max(0, len(told.datasets) - 1) <= len(made) <= max(0, len(told.datasets) - 1) + spare:
            wrong.append(f"transformations: {len(made)} found")
        return wrong

    def _run(self, told: Told, run: dict[str, Any], spare: int, *, lasts: bool) -> list[str]:
        wrong = []
        found = self.json(f"/collection/training-runs/{told.run}/metrics", key="value", points=100_000)
        values = [int(value) for value in found["values"]]
        expected = [*told.values, *range(len(told.values), len(told.values) + spare)]
        lost = sorted(set(told.values) - set(values))
        buried = sum(int(one["count"]) for one in found["tombstones"])
        if values not in (expected, told.values) and not (
            lasts and values == [one for one in told.values if one in values]
        ):
            wrong.append(f"values {'lost' if lost else 'twice, or out of order'}: {values} found, {told.values} told")
        if found["gaps"]:
            wrong.append(f"gaps: {found['gaps']}")
        # Counted in the process until its next call; after a kill nobody is left who knows.
        least = 0 if spare else told.left_out
        if not least <= buried - (len(lost) if lasts else 0) <= told.left_out + spare:
            wrong.append(f"tombstones for {buried}; {told.left_out} told, {len(lost)} values left out")
        listed = self.json("/collection/model-states", training_run=told.run, limit=1000)
        uuids = [one["uuid"] for one in listed]
        for uuid, sha256 in told.states:
            if uuids.count(uuid) != 1:
                wrong.append(f"state {uuid}: {uuids.count(uuid)} times")
            elif hashlib.sha256(self.read(f"/collection/model-states/{uuid}/content")).hexdigest() != sha256:
                wrong.append(f"state {uuid}: altered")
        if len(uuids) > len(told.states) + spare:
            wrong.append(f"states: {len(uuids)} found, {len(told.states)} told")
        if told.finished and run["status"] != "finished":
            wrong.append(f"the run is {run['status']}")
        return wrong


def judge_home(home: Path, others: list[Path], told: Told) -> list[str]:
    """What a home must not keep once everything was delivered and the pipeline has left, and what it must have said."""
    wrong = []
    ledger = home / "ledger.sqlite"
    if ledger.exists():
        with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
            if (said := connection.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
                wrong.append(f"the ledger is damaged: {said}")
            counted = dict(connection.execute("SELECT status, count(*) FROM records GROUP BY status"))
            if open_ones := {status: count for status, count in counted.items() if status != "Completed"}:
                wrong.append(f"not delivered: {open_ones}")
            bodies = connection.execute("SELECT body FROM records WHERE kind = 'tombstone'").fetchall()
            stones = [json.loads(body) for (body,) in bodies]
            buried = sum(stone["count"] for stone in stones if stone["kind"] == "model_state")
            if buried != told.states_left_out:
                wrong.append(f"tombstones for {buried} states, {told.states_left_out} told")
    for place in (*(home / "spool" / name for name in ("incoming", "making", "chunks")), home / "rings", *others):
        if left := [str(path.relative_to(place)) for path in place.rglob("*") if not path.is_dir()]:
            wrong.append(f"left in {place.name}: {left[:3]}")
    return wrong
