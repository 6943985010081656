"""Compares what clients were told with what the portal holds. Standard library only; nothing of seclea."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Told:
    """What one client life was told: calls that returned."""

    run: str
    values: int = 0
    finished: bool = False
    states: list[tuple[str, str]] = field(default_factory=list)


def read_notes(path: Path) -> Told | None:
    """The notes of one life; None when it was killed before it had a run."""
    told: Told | None = None
    for line in path.read_bytes().splitlines():
        what = json.loads(line)
        if "run" in what:
            told = Told(what["run"])
            continue
        assert told is not None
        if "value" in what:
            assert what["value"] == told.values
            told.values += 1
        elif "state" in what:
            told.states.append((what["state"], what["sha256"]))
        elif "finished" in what:
            told.finished = True
    return told


class Referee:
    """Reads the portal by HTTP and judges."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token

    def _read(self, path: str, **query: Any) -> bytes:
        address = f"{self._url}{path}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(address, headers={"Authorization": f"Bearer {self._token}"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            return bytes(reply.read())

    def judge(self, told: Told) -> list[str]:
        """What is wrong with one run; empty when nothing.

        The call in which a client was killed may or may not have been handed over: at most one value and one state more
        than it was told.
        """
        wrong = []
        try:
            found = json.loads(self._read(f"/collection/training-runs/{told.run}/metrics", key="value"))
        except urllib.error.HTTPError as error:
            return [f"run {told.run}: {error.code}, {told.values} values told"] if told.values else []
        values = found["values"]
        if found.get("gaps"):
            wrong.append(f"run {told.run}: gaps {found['gaps']}")
        if len(values) not in (told.values, told.values + (not told.finished)):
            kind = "lost" if len(values) < told.values else "more than logged"
            wrong.append(f"run {told.run}: {kind}: {len(values)} values, {told.values} told")
        if values != [float(number) for number in range(len(values))]:
            wrong.append(f"run {told.run}: order broken or duplicated")
        listed = json.loads(self._read("/collection/model-states", training_run=told.run, limit=1000))
        uuids = [one["uuid"] for one in sorted(listed, key=lambda one: one["sequence_num"])]
        wanted = [uuid for uuid, _ in told.states]
        if uuids[: len(wanted)] != wanted or len(uuids) > len(wanted) + (not told.finished):
            wrong.append(f"run {told.run}: states {len(uuids)} found, {len(wanted)} told, or out of order")
        for uuid, sha256 in told.states:
            if uuid in uuids:
                content = self._read(f"/collection/model-states/{uuid}/content")
                if hashlib.sha256(content).hexdigest() != sha256:
                    wrong.append(f"state {uuid}: altered")
        return wrong
