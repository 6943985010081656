"""How a record is taken in: idempotency, place in the stream, chain and effect, in one transaction (docs/wire.md).

    known key     same body -> the first reply again; other body -> 422
    place         first is head + 1, else 409 "gap"
    chain         computed here from the body that came, else 409 "conflict"
    effect        what the kind of record does; may refuse
    head, record, reply   written with the effect, or not at all

Only creates that had an effect are remembered: a refusal may be another one tomorrow (a parent that has arrived, a right
that was granted), and the client says by a tombstone when it gives up.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from seclea.portal.bodies import INT64, is_uuid
from seclea.portal.database import now_ns
from seclea.portal.replies import Refusal, bad, dumps
from seclea.portal.tables import records, requests, streams
from seclea.records import CHAIN_START, Lane, RecordKind, chain_hash

_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_RANGE = re.compile(r"([0-9]{1,19})(?:-([0-9]{1,19}))?")

# Built once: building a statement costs five times as much as running it.
_AT_HEAD = (
    streams.c.organization_id == bindparam("organization"),
    streams.c.stream == bindparam("at_stream"),
    streams.c.lane == bindparam("at_lane"),
)
_FIND_HEAD = select(streams.c.sequence, streams.c.chain, streams.c.training_run_id).where(*_AT_HEAD)
_ADD_HEAD = insert(streams)
_MOVE_HEAD = (
    update(streams)
    .where(*_AT_HEAD)
    .values(
        sequence=bindparam("to_sequence"),
        chain=bindparam("to_chain"),
        training_run_id=bindparam("of_run"),
        updated_ns=bindparam("now"),
    )
)
_ADD_RECORD = insert(records)
_FIND_REQUEST = select(requests.c.digest, requests.c.status, requests.c.reply).where(
    requests.c.organization_id == bindparam("organization"), requests.c.key == bindparam("with_key")
)
_ADD_REQUEST = insert(requests)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record stands, as its headers say. ``chain`` is the hash after it."""

    stream: str
    lane: Lane
    first: int
    last: int
    chain: bytes


@dataclass(frozen=True, slots=True)
class Incoming:
    """A create before it is taken in.

    ``digest`` is sha256 of the body; ``raw`` the body itself, kept where the record stands in a stream. A tombstone that
    stands for a record names what the chain covers instead of itself (``chained_kind``, ``chained_digest``).
    """

    organization_id: int
    target: str
    kind: RecordKind
    digest: bytes
    key: str | None = None
    place: Place | None = None
    chained_kind: str | None = None
    chained_digest: bytes | None = None
    raw: bytes = b""

    @property
    def request_digest(self) -> bytes:
        """What tells two requests with one key apart."""
        return hashlib.sha256(self.target.encode() + b"\n" + self.digest).digest()


@dataclass(frozen=True, slots=True)
class Effected:
    """What a record did: the object to answer with, and the run that its stream thereby belongs to."""

    answer: dict[str, Any]
    training_run_id: int | None = None


Effect = Callable[[Connection], Effected]


@dataclass(frozen=True, slots=True)
class Taken:
    """The reply to a create, and whether it is the first one again."""

    status: int
    body: bytes
    replayed: bool = False


def read_key(headers: Mapping[str, str]) -> str | None:
    """The idempotency key, if there is one."""
    key = headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise bad("Idempotency-Key is 1 to 200 visible ASCII characters.", field="Idempotency-Key")
    return key


def read_place(headers: Mapping[str, str]) -> Place | None:
    """The place in a stream, if the record stands in one."""
    stream = headers.get("seclea-stream")
    if stream is None:
        return None
    if not is_uuid(stream):
        raise bad("Seclea-Stream is no uuid in canonical text.", field="Seclea-Stream")
    lane = headers.get("seclea-lane", "")
    if lane not in tuple(Lane):
        raise bad("Seclea-Lane is neither ordered nor bulk.", field="Seclea-Lane")
    match = _RANGE.fullmatch(headers.get("seclea-sequence", ""))
    if match is None:
        raise bad("Seclea-Sequence is neither n nor first-last.", field="Seclea-Sequence")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= INT64:
        raise bad("Seclea-Sequence starts at 1 and does not run backwards.", field="Seclea-Sequence")
    chain = headers.get("seclea-chain", "")
    if not re.fullmatch(r"[0-9a-f]{64}", chain):
        raise bad("Seclea-Chain is no 64 lower-case hex digits.", field="Seclea-Chain")
    if "idempotency-key" not in headers:
        raise bad("A record in a stream has an Idempotency-Key.", field="Idempotency-Key")
    return Place(stream, Lane(lane), first, last, bytes.fromhex(chain))


class Running:
    """Which keys are being taken in right now, in this process."""

    def __init__(self) -> None:
        self._keys: set[tuple[int, str]] = set()

    @contextmanager
    def hold(self, organization_id: int, key: str | None) -> Iterator[None]:
        """Hold the key; 409 while somebody else does."""
        if key is None:
            yield
            return
        entry = (organization_id, key)
        if entry in self._keys:
            raise Refusal(409, "The first request with this Idempotency-Key is still running.", code="running")
        self._keys.add(entry)
        try:
            yield
        finally:
            self._keys.discard(entry)


def replay(connection: Connection, incoming: Incoming) -> Taken | None:
    """The first reply, if the key is known.

    Raises:
        Refusal: 422, it came with another body.
    """
    if incoming.key is None:
        return None
    row = connection.execute(
        _FIND_REQUEST, {"organization": incoming.organization_id, "with_key": incoming.key}
    ).first()
    if row is None:
        return None
    if row.digest != incoming.request_digest:
        raise Refusal(422, "This Idempotency-Key was used with another body.", code="key_reused")
    return Taken(row.status, row.reply, replayed=True)


def take(connection: Connection, incoming: Incoming, effect: Effect, status: int = 201) -> Taken:
    """Take a record in. Runs in the writer's transaction.

    Raises:
        Refusal: nothing was changed.
    """
    known = replay(connection, incoming)
    if known is not None:
        return known
    place = incoming.place
    head = _head(connection, incoming.organization_id, place) if place is not None else None
    if place is not None:
        _check_place(incoming, place, head)
    effected = effect(connection)
    answer = effected.answer
    if place is not None:
        _advance(connection, incoming, place, head, effected)
        answer["receipt"] = {
            "stream": place.stream,
            "lane": str(place.lane),
            "sequence": place.last,
            "chain": place.chain.hex(),
        }
    body = dumps(answer)
    if incoming.key is not None:
        connection.execute(
            _ADD_REQUEST,
            {
                "organization_id": incoming.organization_id,
                "key": incoming.key,
                "digest": incoming.request_digest,
                "status": status,
                "reply": body,
                "created_ns": now_ns(),
            },
        )
    return Taken(status, body)


def _head(connection: Connection, organization_id: int, place: Place) -> Any | None:
    return (
        connection.execute(
            _FIND_HEAD, {"organization": organization_id, "at_stream": place.stream, "at_lane": str(place.lane)}
        )
        .mappings()
        .first()
    )


def _check_place(incoming: Incoming, place: Place, head: Any | None) -> None:
    if (incoming.chained_kind or incoming.kind) != RecordKind.METRICS and place.first != place.last:
        raise bad(
            "Only metrics (and what stands for them) cover more than one sequence number.", field="Seclea-Sequence"
        )
    expected = head["sequence"] + 1 if head is not None else 1
    if place.first != expected:
        raise Refusal(
            409,
            f"The stream's lane continues with {expected}, not {place.first}.",
            code="gap",
            stream=place.stream,
            lane=str(place.lane),
            expected=expected,
        )
    computed = chain_hash(
        head["chain"] if head is not None else CHAIN_START,
        bytes.fromhex(place.stream.replace("-", "")),
        str(place.lane),
        place.first,
        place.last,
        incoming.chained_kind or str(incoming.kind),
        incoming.chained_digest or incoming.digest,
    )
    if computed != place.chain:
        raise Refusal(
            409,
            f"The chain after {place.last} is not the one that follows from the body and the records before it.",
            code="conflict",
            sequence=place.first,
            sent=place.chain.hex(),
            computed=computed.hex(),
        )


def _advance(connection: Connection, incoming: Incoming, place: Place, head: Any | None, effected: Effected) -> None:
    now, lane, training_run_id = now_ns(), str(place.lane), effected.training_run_id
    is_metrics = incoming.kind is RecordKind.METRICS  # their bodies are kept with the batches
    if head is None:
        connection.execute(
            _ADD_HEAD,
            {
                "organization_id": incoming.organization_id,
                "stream": place.stream,
                "lane": lane,
                "sequence": place.last,
                "chain": place.chain,
                "training_run_id": training_run_id,
                "updated_ns": now,
            },
        )
    else:
        connection.execute(
            _MOVE_HEAD,
            {
                "organization": incoming.organization_id,
                "at_stream": place.stream,
                "at_lane": lane,
                "to_sequence": place.last,
                "to_chain": place.chain,
                "of_run": head["training_run_id"] or training_run_id,
                "now": now,
            },
        )
    connection.execute(
        _ADD_RECORD,
        {
            "organization_id": incoming.organization_id,
            "stream": place.stream,
            "lane": lane,
            "first": place.first,
            "last": place.last,
            "kind": str(incoming.kind),
            "chained_kind": incoming.chained_kind or str(incoming.kind),
            "digest": incoming.chained_digest or incoming.digest,
            "chain": place.chain,
            "object": None if is_metrics else effected.answer["uuid"],
            "body": None if is_metrics else incoming.raw,
            "body_bytes": len(incoming.raw),
            "created_ns": now,
        },
    )
