"""A portal in the test's own process that takes records in as docs/wire.md says, written down once more.

It keeps what it was given, in order, so that a test can judge it: keys, places in the stream, chains, parents and chunks are
checked as the real portal does. `tests/contract/test_both_portals.py` holds the two to the same answers.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import threading
import uuid
from dataclasses import dataclass
from typing import Any

import msgpack

from tests.contract.fault_portal import CAPABILITIES, ORGANIZATION, Answer, Asked, FaultPortal

KINDS = {
    "projects": "project",
    "models": "model",
    "datasets": "dataset",
    "dataset-transformations": "dataset_transformation",
    "training-runs": "training_run",
    "model-states": "model_state",
    "metrics": "metrics",
    "tombstones": "tombstone",
    "finish": "finish",
}
_PARENTS = ("project", "model", "dataset", "training_run", "parent")


@dataclass(frozen=True)
class Taken:
    """A record that had its effect."""

    kind: str
    key: str
    stream: str
    lane: str
    first: int
    last: int
    body: Any
    digest: str
    parents: tuple[str, ...]

    @property
    def makes(self) -> str | None:
        """The uuid that is known from now on."""
        return self.body.get("uuid") if self.kind in KINDS.values() and self.kind != "tombstone" else None


class KeepingPortal(FaultPortal):
    """Answers what is scripted as scripted (`on`), and everything else as a portal does. ``taken``: records, in order."""

    def __init__(self, organization: str = "Acme") -> None:
        super().__init__()
        self.taken: list[Taken] = []
        self.chunks: dict[str, bytes] = {}
        self._organization = organization
        self._aliases: dict[str, str] = {}
        self._replies: dict[str, tuple[str, Answer]] = {}
        self._heads: dict[tuple[str, str], tuple[int, bytes]] = {}
        self._taking = threading.Lock()

    def answer_to(self, asked: Asked) -> Answer:
        answer = super().answer_to(asked)
        if answer.status != 404 or "nothing is scripted" not in str(answer.body):
            return answer
        place = asked.path.strip("/").split("/")
        with self._taking:
            if asked.path == "/api/capabilities":
                return Answer(200, CAPABILITIES)
            if asked.path == "/organization/":
                return Answer(200, [{"uuid": ORGANIZATION, "name": self._organization}])
            if place[:2] == ["collection", "chunks"]:
                return self._chunk(asked, place[-1])
            if asked.method == "GET" and len(place) == 2 and place[1] in KINDS:
                return self._list(KINDS[place[1]], asked)
            if asked.method == "POST" and place[-1] in KINDS:
                return self._create(asked, KINDS[place[-1]])
        return answer

    @property
    def entities(self) -> dict[str, Taken]:
        """What was made, by uuid."""
        return {str(one.makes): one for one in self.taken if one.makes is not None}

    def _chunk(self, asked: Asked, name: str) -> Answer:
        if asked.method == "POST":
            return Answer(200, [sha256 for sha256 in asked.json if sha256 not in self.chunks])
        if hashlib.sha256(asked.body).hexdigest() != name:
            return Answer(400, {"detail": "These bytes do not hash to the name."})
        known = name in self.chunks
        self.chunks[name] = asked.body
        return Answer(200 if known else 201, {})

    def _list(self, kind: str, asked: Asked) -> Answer:
        wanted = {name: values[0] for name, values in asked.query.items() if name != "organization"}
        return Answer(
            200,
            [
                one.body
                for one in self.taken
                if one.kind == kind and all(str(one.body.get(name)) == value for name, value in wanted.items())
            ],
        )

    def _create(self, asked: Asked, kind: str) -> Answer:
        raw = gzip.decompress(asked.body) if asked.headers.get("content-encoding") == "gzip" else asked.body
        body = msgpack.unpackb(raw) if kind == "metrics" else json.loads(raw)
        digest = hashlib.sha256(raw).hexdigest()
        key, stream, lane = (asked.headers[name] for name in ("idempotency-key", "seclea-stream", "seclea-lane"))
        if key in self._replies:
            first_digest, first = self._replies[key]
            if first_digest != asked.path + digest:
                return Answer(422, {"detail": "This key was used with another body.", "code": "key_reused"})
            return Answer(first.status, first.body, {"Idempotency-Replayed": "true"})
        begin, _, end = asked.headers["seclea-sequence"].partition("-")
        first_number, last_number = int(begin), int(end or begin)
        head, chain = self._heads.get((stream, lane), (0, bytes(32)))
        if first_number != head + 1:
            return Answer(409, {"detail": "a gap", "code": "gap", "expected": head + 1})
        stands_for = (body.get("stands_for") if kind == "tombstone" else None) or {"kind": kind, "digest": digest}
        after = hashlib.sha256(
            b"seclea-chain-v1\n"
            + chain
            + uuid.UUID(stream).bytes
            + lane.encode()
            + b"\n"
            + struct.pack(">QQ", first_number, last_number)
            + stands_for["kind"].encode()
            + b"\n"
            + bytes.fromhex(stands_for["digest"])
        ).digest()
        if after.hex() != asked.headers["seclea-chain"]:
            computed = {"sent": asked.headers["seclea-chain"], "computed": after.hex()}
            return Answer(409, {"detail": "another chain", "code": "conflict", "sequence": first_number, **computed})
        if kind == "tombstone" and type(body.get("count")) is not int:
            return Answer(400, {"detail": "A tombstone has a count."})
        parents = self._parents_of(asked, kind, body)
        known = self.entities.keys() | self._aliases.keys()
        for parent in parents:
            if parent not in known:
                return Answer(404, {"detail": f"no {parent}", "code": "missing_parent", "missing": parent})
        missing = [sha256 for sha256, _ in body.get("chunks", ()) if sha256 not in self.chunks]
        if missing:
            return Answer(409, {"detail": "chunks", "code": "missing_chunks", "missing": missing})
        self._heads[stream, lane] = (last_number, after)
        if stands_for.get("remote_id"):
            self._aliases[stands_for["uuid"]] = stands_for["remote_id"]
        self.taken.append(Taken(kind, key, stream, lane, first_number, last_number, body, digest, parents))
        receipt = {"stream": stream, "lane": lane, "sequence": last_number, "chain": after.hex()}
        reply = Answer(201, {"uuid": body.get("uuid"), "receipt": receipt})
        self._replies[key] = (asked.path + digest, reply)
        return reply

    def _parents_of(self, asked: Asked, kind: str, body: dict[str, Any]) -> tuple[str, ...]:
        if kind == "finish":
            return (asked.path.split("/")[-2],)
        if kind == "metrics":
            return (body["run"],)
        if kind == "tombstone":
            return ()
        named = [body.get(name) for name in _PARENTS]
        return tuple(one for one in (*named, *body.get("datasets", ())) if isinstance(one, str))
