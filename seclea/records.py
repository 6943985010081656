"""How entities travel: records, their lifecycle, the hash chain and the bodies on the wire (docs/wire.md).

Rule 1  A record's status changes by `TRANSITIONS` only, and only the writer changes it.
Rule 2  A record's sequence, chain and body are fixed in the transaction that makes it Transmitting, before any attempt.
Rule 3  The chain covers the body's digest, so a body can be dropped after its receipt and the chain still be checked.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from typing import Any, Self

import msgpack

CHAIN_START = bytes(32)  # h_0 of every stream and lane
_CHAIN_DOMAIN = b"seclea-chain-v1\n"


class Lane(StrEnum):
    """The two ordered lanes of a stream: small things, and things with a payload."""

    ORDERED = "ordered"
    BULK = "bulk"


class RecordKind(StrEnum):
    """What a record carries: the six kinds of entity, and what happens to a run."""

    PROJECT = "project"
    DATASET = "dataset"
    DATASET_TRANSFORMATION = "dataset_transformation"
    MODEL = "model"
    TRAINING_RUN = "training_run"
    MODEL_STATE = "model_state"
    METRICS = "metrics"
    FINISH = "finish"
    TOMBSTONE = "tombstone"


BULK_KINDS = frozenset({RecordKind.DATASET, RecordKind.MODEL_STATE})


class Status(StrEnum):
    """Where a record is on its way to the portal."""

    SAVING = "Saving"
    TRANSMITTING = "Transmitting"
    FAILED = "Failed"
    COMPLETED = "Completed"


class Event(StrEnum):
    """What can happen to a record."""

    SAVED = "saved"  # payload durable, sequence and chain given
    DAMAGED = "damaged"  # the payload is lost or altered
    DELIVERED = "delivered"  # the portal's receipt is here
    KEPT_LOCALLY = "kept locally"  # a base-only portal has no place for it
    REFUSED = "refused"  # the portal refused it for good
    HELD = "held"  # its parent was refused
    RETRIED = "retried"  # a person asked to send it again
    REPLACED = "replaced"  # its place is taken by a tombstone: another record goes in its stead
    LOST = "lost"  # the portal acknowledged it, and asks for it again


TRANSITIONS: dict[tuple[Status, Event], Status] = {
    (Status.SAVING, Event.SAVED): Status.TRANSMITTING,
    (Status.SAVING, Event.DAMAGED): Status.FAILED,
    (Status.SAVING, Event.REFUSED): Status.FAILED,  # by the writer, before the portal could
    (Status.SAVING, Event.HELD): Status.SAVING,
    (Status.TRANSMITTING, Event.DAMAGED): Status.FAILED,
    (Status.TRANSMITTING, Event.DELIVERED): Status.COMPLETED,
    (Status.TRANSMITTING, Event.KEPT_LOCALLY): Status.COMPLETED,
    (Status.TRANSMITTING, Event.REFUSED): Status.FAILED,
    (Status.TRANSMITTING, Event.HELD): Status.TRANSMITTING,  # with a reason in ``hold``
    (Status.TRANSMITTING, Event.REPLACED): Status.FAILED,  # held behind what is sent again
    (Status.FAILED, Event.REPLACED): Status.FAILED,
    (Status.FAILED, Event.RETRIED): Status.TRANSMITTING,
    (Status.COMPLETED, Event.LOST): Status.TRANSMITTING,
}


def lane_of(kind: RecordKind) -> Lane:
    """The lane that a record of this kind goes by."""
    return Lane.BULK if kind in BULK_KINDS else Lane.ORDERED


def canonical_json(value: Any) -> bytes:
    """The one JSON form of a JSON-ready value: UTF-8, sorted keys, no spaces, no NaN.

    Raises:
        ValueError: a NaN or infinity that was not tagged (`entities.to_json_value`).
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def chain_hash(previous: bytes, stream: bytes, lane: str, first: int, last: int, kind: str, digest: bytes) -> bytes:
    """The chain after a record. ``previous`` and ``digest`` are 32 bytes, ``stream`` 16. Source: docs/wire.md, "Chain"."""
    return hashlib.sha256(
        b"".join(
            (
                _CHAIN_DOMAIN,
                previous,
                stream,
                lane.encode("ascii"),
                b"\n",
                first.to_bytes(8, "big"),
                last.to_bytes(8, "big"),
                kind.encode("ascii"),
                b"\n",
                digest,
            )
        )
    ).digest()


def idempotency_key(stream: bytes, lane: str, first: int, *, stands_for_record: bool = False) -> str:
    """The key under which the portal remembers a record. Derived, so it is the same at every attempt for ever."""
    return f"{stream.hex()}.{lane}.{first}" + (".t" if stands_for_record else "")


def tombstone_body(
    kind: str, count: int, reason: str, detail: str = "", stands_for: Mapping[str, Any] | None = None
) -> bytes:
    """The body of a tombstone: ``count`` things of ``kind`` that are not in the stream, and why (docs/wire.md)."""
    return canonical_json(
        {
            "kind": kind,
            "count": count,
            "reason": reason,
            "detail": detail,
            "stands_for": dict(stands_for) if stands_for else None,
        }
    )


# ------------------------------------------------------------------------------------------------------------------
# Metrics

_COLUMNS = (("sequence", "I"), ("key", "H"), ("step", "q"), ("time", "q"), ("value", "d"))
MAX_KEY_CHARACTERS = 1000  # of a metric's name, which has no NUL either: what databases keep
MAX_KEYS = 65_536  # per batch: the key column is <u2


class MetricBatch:
    """A run's metric points as columns, as they stand on the wire. Grows by `append`; cheap to pack.

    Columns are `array.array`: ``sequence`` uint32 (offset from ``first``: which log call), ``key`` uint16 (index into
    ``keys``), ``step`` int64, ``time`` int64 (ns since 1970 UTC), ``value`` float64.
    """

    __slots__ = ("_index", "first", "key", "keys", "last", "rank", "run", "sequence", "step", "time", "value")

    def __init__(self, run: str, rank: int, first: int) -> None:
        self.run = run
        self.rank = rank
        self.first = first
        self.last = first - 1
        self.keys: list[str] = []
        self._index: dict[str, int] = {}
        self.sequence, self.key = array("I"), array("H")
        self.step, self.time, self.value = array("q"), array("q"), array("d")

    @property
    def count(self) -> int:
        """Points in the batch."""
        return len(self.value)

    def has_room(self, metrics: Mapping[str, float]) -> bool:
        """Whether the keys of one more log call can be numbered."""
        return len(self.keys) + len(metrics) <= MAX_KEYS

    def append(self, sequence: int, step: int, time_ns: int, metrics: Mapping[str, float]) -> None:
        """Add one log call, whose number in the stream is ``sequence`` (the one after `last`)."""
        offset = sequence - self.first
        index = self._index
        points = len(self.value)
        try:
            for name, value in metrics.items():
                number = index.get(name)
                if number is None:
                    number = index[name] = len(self.keys)
                    self.keys.append(name)
                self.sequence.append(offset)
                self.key.append(number)
                self.step.append(step)
                self.time.append(time_ns)
                self.value.append(value)
        except BaseException:
            # Something that no column can hold: the points before it are as they were. A name too many does no harm.
            self._cut(points)
            raise
        self.last = sequence

    def extend(self, keys: Sequence[str], columns: Sequence[Sequence[Any]]) -> None:
        """Add log calls that all have these ``keys``, from the one after `last` on.

        Args:
            columns: their steps, their times in ns, and for each key its values; all of the same length.
        """
        steps, times, *values = columns
        calls, width, index = len(steps), len(keys), self._index
        for name in keys:
            if name not in index:
                index[name] = len(self.keys)
                self.keys.append(name)
        numbers = array("H", [index[name] for name in keys])
        offsets = range(self.last + 1 - self.first, self.last + 1 - self.first + calls)
        points = len(self.value)
        try:
            if width == 1:
                self.sequence.extend(offsets)
                self.step.extend(steps)
                self.time.extend(times)
                self.value.extend(values[0])
            else:
                self.sequence.extend(_repeated("I", offsets, width))
                self.step.extend(_repeated("q", steps, width))
                self.time.extend(_repeated("q", times, width))
                self.value.extend(_interleaved(values))
            self.key.extend(numbers * calls)
        except BaseException:
            self._cut(points)
            raise
        self.last += calls

    def _cut(self, points: int) -> None:
        for column, _ in _COLUMNS:
            del getattr(self, column)[points:]


def _repeated(code: str, values: Sequence[int], width: int) -> array[int]:
    """Each of the values ``width`` times."""
    found = array(code, bytes(array(code).itemsize * len(values) * width))
    once = array(code, values)
    for place in range(width):
        found[place::width] = once
    return found


def _interleaved(columns: Sequence[Sequence[float]]) -> array[float]:
    """The first of each column, then the second of each, and so on."""
    width = len(columns)
    found = array("d", bytes(8 * width * len(columns[0])))
    for place, values in enumerate(columns):
        found[place::width] = array("d", values)
    return found


def pack_metrics(batch: MetricBatch) -> bytes:
    """The body of `POST /collection/metrics`."""
    body: dict[str, Any] = {
        "v": 1,
        "run": batch.run,
        "rank": batch.rank,
        "first": batch.first,
        "last": batch.last,
        "keys": batch.keys,
        "count": batch.count,
    }
    for name, _ in _COLUMNS:
        body[name] = _little_endian(getattr(batch, name)).tobytes()
    return bytes(msgpack.packb(body))


def unpack_metrics(body: bytes) -> MetricBatch:
    """Read what `pack_metrics` wrote.

    Raises:
        ValueError: it is no well-formed batch; the message says what is wrong.
    """
    try:
        value = msgpack.unpackb(body, raw=False, strict_map_key=True)
    except Exception as error:  # msgpack raises half a dozen types for bad input
        raise ValueError(f"no msgpack map: {error}") from None
    if not isinstance(value, dict) or value.get("v") != 1:
        raise ValueError("no metrics batch of version 1")
    for name in ("first", "last", "count", "rank"):
        if type(value.get(name)) is not int or not 0 <= value[name] < 2**53:
            raise ValueError(f"{name} is no whole number of zero or more")
    keys = value.get("keys")
    if not isinstance(value.get("run"), str) or not isinstance(keys, list) or len(keys) > MAX_KEYS:
        raise ValueError("run or keys are missing")
    if not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
        raise ValueError("keys are not distinct texts")
    batch = MetricBatch(value["run"], value["rank"], value["first"])
    batch.last = value["last"]
    batch.keys = keys
    batch._index = {key: number for number, key in enumerate(keys)}
    for name, code in _COLUMNS:
        column = array(code)
        raw = value.get(name)
        if not isinstance(raw, bytes) or len(raw) != value["count"] * column.itemsize:
            raise ValueError(f"column {name} does not have {value['count']} entries")
        column.frombytes(raw)
        setattr(batch, name, _little_endian(column))
    if batch.first < 1 or batch.last < batch.first:
        raise ValueError("first and last are no range")
    if batch.count:
        if max(batch.key) >= len(keys):
            raise ValueError("a point has no key")
        if max(batch.sequence) > batch.last - batch.first:
            raise ValueError("a point lies outside first..last")
        if any(a > b for a, b in zip(batch.sequence, batch.sequence[1:], strict=False)):
            raise ValueError("points are not in order")
    return batch


def _little_endian(column: array[Any]) -> array[Any]:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column


# ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """An entity's (or a batch of metrics') way to the portal, as the ledger keeps it."""

    id: int
    kind: RecordKind
    status: Status
    destination: int
    stream: bytes
    lane: Lane
    first: int
    last: int
    key: str
    body: bytes
    digest: bytes
    chain: bytes
    entity: str | None = None
    run: str | None = None
    size: int = 0
    retries: int = 0
    hold: str | None = None
    error: str | None = None
    stands_for: str | None = None
    chunks: tuple[tuple[str, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict, read back by `from_json`: digests as hexadecimal, the stream as a uuid, the body as base64."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        return found | {
            "kind": str(self.kind),
            "status": str(self.status),
            "lane": str(self.lane),
            "stream": _uuid_text(self.stream),
            "body": base64.b64encode(self.body).decode("ascii"),
            "digest": self.digest.hex(),
            "chain": self.chain.hex(),
            "chunks": [[sha256, size] for sha256, size in self.chunks],
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The record that `to_json` wrote. Keys that this version does not know are left out.

        Raises:
            ValueError: no object, a field is missing or malformed; the field is named.
        """
        if not isinstance(value, Mapping):
            raise ValueError("Record: no object")
        found = {}
        for item in fields(cls):
            if item.name not in value:
                if item.default is MISSING:
                    raise ValueError(f"Record.{item.name} is missing")
                continue
            try:
                found[item.name] = _READ[item.name](value[item.name])
            except (ValueError, TypeError, AttributeError) as error:
                raise ValueError(f"Record.{item.name} cannot be {value[item.name]!r:.80}") from error
        if found["last"] < found["first"]:
            raise ValueError(f"Record.last cannot be {found['last']}: first is {found['first']}")
        return cls(**found)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    value.encode("utf-8")  # no lone surrogate
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _sha256(value: Any) -> bytes:
    """32 bytes, or none where the record has not taken its place yet."""
    found = bytes.fromhex(_text(value))
    if found.hex() != value or len(found) not in (0, 32):
        raise ValueError
    return found


def _uuid_text(value: bytes) -> str:  # the module `uuid` takes milliseconds to import
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _uuid(value: Any) -> bytes:
    found = bytes.fromhex(_text(value).replace("-", ""))
    if len(found) != 16 or _uuid_text(found) != value:
        raise ValueError
    return found


def _base64(value: Any) -> bytes:
    found = base64.b64decode(_text(value), validate=True)
    if base64.b64encode(found).decode("ascii") != value:
        raise ValueError
    return found


def _chunks(value: Any) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, list | tuple) or not all(_sha256(sha256) for sha256, _ in value):
        raise ValueError
    return tuple((sha256, _count(size)) for sha256, size in value)


_READ: dict[str, Callable[[Any], Any]] = {
    "id": _count, "kind": RecordKind, "status": Status, "destination": _count, "stream": _uuid, "lane": Lane, "first": _count,
    "last": _count, "key": _text, "body": _base64, "digest": _sha256, "chain": _sha256, "entity": _text_or_none,
    "run": _text_or_none, "size": _count, "retries": _count, "hold": _text_or_none, "error": _text_or_none,
    "stands_for": _text_or_none, "chunks": _chunks,
}  # fmt: skip
