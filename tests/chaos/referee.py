"""Compares what clients were told with what the portal holds. Standard library only; nothing of seclea.

Three levels are judged, each by what may be lost before it counts: *handed* after kills of any process, *durable* after the
rings are gone too, *delivered* with nothing left but the portal. The call in which a client was killed may or may not have
been handed over: one more of each than was told is right, none of what was told may be missing.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import urllib.parse
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEVELS = ("handed", "durable", "delivered")
PAGE = 1000
VALUES_OF_A_VOICE = 1 << 20  # with a voice's number of 30 bits a float holds both


@dataclass
class Told:
    """What one client life was told: calls that returned, and waits that said "done".

    ``voices`` are the values told of each voice; ``levels`` the same as they stood when a wait told that level.
    """

    run: str
    voices: dict[str, int] = field(default_factory=dict)
    finished: bool = False
    states: list[tuple[str, str]] = field(default_factory=list)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    levels: dict[str, dict[str, int]] = field(default_factory=dict)
    begun: Counter[str] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)
    raised: list[str] = field(default_factory=list)

    def least(self, level: str) -> dict[str, int]:
        """How many values of each voice must be there once all below ``level`` is gone."""
        if level == "handed":
            return self.voices
        least: dict[str, int] = {}
        for above in LEVELS[LEVELS.index(level) :]:
            for voice, count in self.levels.get(above, {}).items():
                least[voice] = max(least.get(voice, 0), count)
        return least


def read_notes(path: Path) -> Told:
    """The notes of one life; ``run`` is empty when it was killed before it had one."""
    told = Told("")
    for line in path.read_bytes().splitlines():
        what = json.loads(line)
        if "value" in what:
            assert what["value"] == told.voices.get(what["voice"], 0), f"{path}: the client itself miscounted: {what}"
            told.voices[what["voice"]] = what["value"] + 1
        elif "level" in what:
            told.levels.setdefault(what["level"], {}).update(what["values"])
        elif "run" in what:
            told.run = what["run"]
        elif "state" in what:
            told.states.append((what["state"], what["sha256"]))
        elif "dataset" in what:
            told.datasets.append(what)
        elif "begun" in what:
            told.begun[what["begun"]] += 1
            told.names |= {what["name"]} if "name" in what else set()
        elif "raised" in what:
            told.raised.append(what["raised"])
        elif "finished" in what:
            told.finished = True
    return told


class Referee:
    """Reads the portal by HTTP and judges."""

    def __init__(self, url: str, token: str) -> None:
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        self._headers = {"Authorization": f"Bearer {token}"}

    def close(self) -> None:
        self._connection.close()

    def _read(self, path: str, **query: Any) -> bytes | None:
        """None for 404."""
        self._connection.request("GET", f"{path}?{urllib.parse.urlencode(query)}", headers=self._headers)
        reply = self._connection.getresponse()
        body = reply.read()
        if reply.status == 404:
            return None
        if reply.status != 200:
            raise RuntimeError(f"GET {path}: {reply.status} {body[:500]!r}")
        return body

    def _json(self, path: str, **query: Any) -> Any:
        body = self._read(path, **query)
        return None if body is None else json.loads(body)

    def list(self, kind: str, **query: Any) -> list[dict[str, Any]]:
        """All of a kind, oldest first, however many pages."""
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            self._connection.request(
                "GET",
                f"/collection/{kind}?{urllib.parse.urlencode({'limit': PAGE, **query, **cursor})}",
                headers=self._headers,
            )
            reply = self._connection.getresponse()
            body = reply.read()
            if reply.status != 200:
                raise RuntimeError(f"GET {kind}: {reply.status} {body[:500]!r}")
            found += json.loads(body)
            link = reply.getheader("Link")
            if link is None:
                return found
            cursor = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(link.split(">")[0].lstrip("<")).query))

    def curve(self, run: str) -> dict[str, Any]:
        """All values of a run, in the order of the streams, and what is missing or was left out."""
        return dict(self._json(f"/collection/training-runs/{run}/metrics", key="value"))

    # -- one life ------------------------------------------------------------------------------------------------

    def judge(self, told: Told, level: str = "handed") -> list[str]:
        """What is wrong with one life; empty when nothing."""
        wrong = [f"raised into the job: {one}" for one in told.raised]
        if told.run:
            run = self._json(f"/collection/training-runs/{told.run}")
            if run is None:
                if any(told.least(level).values()) or (level == "handed"):
                    wrong.append(f"lost: the run itself, {told.least(level)} told")
            else:
                wrong += self._status(told, run, level)
                wrong += self._values(told, level)
                wrong += self._states(told, level)
        if level == "handed":  # what a wait says of datasets is not noted one by one
            for dataset in told.datasets:
                wrong += self._dataset(dataset)
        return [f"run {told.run}: {one}" for one in wrong]

    def _status(self, told: Told, run: dict[str, Any], level: str) -> list[str]:
        """A run has finished if its client said so, and not else."""
        if told.finished and run["status"] != "finished" and level == "handed":
            return [f"finish was told, the portal says {run['status']!r}"]
        if run["status"] == "finished" and not (told.finished or told.begun["finish"]):
            return ["the portal says that it finished; nobody said so"]
        return []

    def _values(self, told: Told, level: str) -> list[str]:
        wrong = []
        least = told.least(level)
        found = self.curve(told.run)
        if found["gaps"] and level == "handed":
            wrong.append(f"gaps {found['gaps']}")
        if found["tombstones"]:
            wrong.append(f"left out {found['tombstones']}")
        heard: dict[int, list[int]] = {}
        for value in found["values"]:  # as they stand in the streams, one stream after the other
            voice_id, number = divmod(int(value), VALUES_OF_A_VOICE)
            heard.setdefault(voice_id, []).append(number)
        names = {number_of(voice): voice for voice in told.voices}
        for voice_id in names.keys() | heard.keys():
            # A voice whose very first call was cut may be there with one value, and was not told.
            voice = names.get(voice_id, f"voice {voice_id}, never told,")
            values, count, needed = heard.get(voice_id, []), told.voices.get(voice, 0), least.get(voice, 0)
            if len(values) < needed:
                wrong.append(f"{voice}: lost: {len(values)} values, {needed} told {level}")
            if len(values) > count + 1:
                wrong.append(f"{voice}: more than logged: {len(values)} values, {count} told")
            if values != list(range(len(values))):
                wrong.append(f"{voice}: twice, altered or out of order: {_where(values)}")
            if told.finished and voice == "main" and level == "handed" and len(values) != count:
                wrong.append(f"{voice}: {len(values)} values, {count} told when it had finished")
        return wrong

    def _states(self, told: Told, level: str) -> list[str]:
        wrong = []
        listed = sorted(self.list("model-states", training_run=told.run), key=lambda one: one["sequence_num"])
        uuids = [one["uuid"] for one in listed]
        wanted = [uuid for uuid, _ in told.states]
        if len(set(uuids)) != len(uuids):
            wrong.append("a state is there twice")
        if level == "handed":
            if uuids[: len(wanted)] != wanted:
                wrong.append(f"states lost or out of order: {len(uuids)} found, {len(wanted)} told")
            numbers = [one["sequence_num"] for one in listed]
            if numbers != list(range(numbers[0], numbers[0] + len(numbers)) if numbers else []):
                wrong.append(f"numbers of states {numbers}")
        if len(uuids) > told.begun["state"]:
            wrong.append(f"{len(uuids)} states, {told.begun['state']} begun")
        for uuid, sha256 in told.states:
            if uuid in uuids and self._digest("model-states", uuid) != sha256:
                wrong.append(f"state {uuid}: altered")
        return wrong

    def _dataset(self, told: dict[str, Any]) -> list[str]:
        found = self._json(f"/collection/datasets/{told['dataset']}")
        name = f"dataset {told['dataset']}"
        if found is None:
            return [f"lost: {name}"]
        wrong = []
        if found["hash"] != told["digest"] or self._digest("datasets", told["dataset"]) != told["sha256"]:
            wrong.append(f"{name}: altered")
        if told["parent"] is not None and (
            found["parent"] != told["parent"] or self._json(f"/collection/datasets/{told['parent']}") is None
        ):
            wrong.append(f"{name}: its parent {told['parent']} is not there")
        steps = self.list("dataset-transformations", dataset=told["dataset"])
        if len(steps) != told["steps"]:
            wrong.append(f"{name}: {len(steps)} steps, {told['steps']} told")
        return wrong

    def _digest(self, kind: str, uuid: str) -> str:
        return hashlib.sha256(self._read(f"/collection/{kind}/{uuid}/content") or b"").hexdigest()

    # -- all lives together --------------------------------------------------------------------------------------

    def judge_all(self, lives: list[Told]) -> list[str]:
        """What is there that nobody made, or twice."""
        wrong = []
        runs = [run["uuid"] for run in self.list("training-runs")]
        unnamed = sum(told.begun["run"] for told in lives) - sum(bool(told.run) for told in lives)
        strange = len(set(runs) - {told.run for told in lives})
        if len(set(runs)) != len(runs) or strange > unnamed:
            wrong.append(f"{len(runs)} runs, {strange} of them unknown, {unnamed} were cut while they began")
        tables = Counter(table["name"] for table in self.list("datasets"))
        known = set[str]().union(*(told.names for told in lives))
        wrong += [f"dataset {name!r} is there {count} times" for name, count in tables.items() if count > 1]
        wrong += [f"dataset {name!r}: nobody uploaded it" for name in tables if name not in known]
        return wrong


def number_of(voice: str) -> int:
    """A voice's number. Value ``n`` of it is logged as that number times ``VALUES_OF_A_VOICE``, plus ``n``."""
    return zlib.crc32(voice.encode()) & 0x3FFFFFFF


def _where(values: list[int]) -> str:
    at = next(index for index, value in enumerate(values) if value != index)
    return f"at {at}: {values[max(0, at - 2) : at + 3]}"
