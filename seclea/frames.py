"""What a client says to the writer through its ring: the payload of each type of frame, in msgpack.

Rule 1  A ring is private to one client process; `Stream` frames number the streams that it speaks for (``index``), all
        other frames name that number.
Rule 2  A frame says only what the client knows. Sequence numbers in a stream, run names, numbers of states and the
        chain are the writer's, given in ring order, so they come out the same when a ring is read again.
Rule 3  A payload that is large stands in a file of the spool's ``incoming`` directory; the frame carries its name.
Rule 4  What `unpack` returns has the shape that a client gives it, whatever stood in the frame: a name or a count that no
        portal takes would have a whole batch refused.
Rule 5  Log calls with the same names again and again say the names once (KEYS), and then numbers only (POINTS: not msgpack,
        but a C struct in the machine's own byte order; a ring never leaves the machine).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any

import msgpack

from seclea.entities import RunStatus
from seclea.records import MAX_KEY_CHARACTERS, RecordKind

MAX_FRAME_BYTES = 64 * 1024  # larger values travel as files of their own
MAX_STREAMS = 65_536  # per ring
MAX_KEY_SETS = 256  # per ring; log calls with yet other names say them each time
MAX_KEYS_OF_SET = 512
MAX_COUNT = 1 << 48  # of things left out; more is damage, not a count
_MAX_NAME = 200  # bytes of a file's name: file systems refuse over 255, and that would be tried again for ever
_MAX_DETAIL = 10_000
POINTS_HEAD = struct.Struct("=II")  # stream index, number of the key set: the same in all calls of a series


class FrameType(IntEnum):
    """The type byte of a frame in a ring. 0 is the ring's own skip marker."""

    STREAM = 1
    ENTITY = 2
    METRICS = 3
    FINISH = 4
    TOMBSTONE = 5
    LARGE = 6  # another frame, whose body stands in a file
    KEYS = 7
    POINTS = 8


@dataclass(frozen=True, slots=True)
class StreamFrame:
    """From here on ``index`` means this stream: what one process says about one session or one run.

    Attributes:
        uuid: the stream's id, 16 bytes.
        destination: [platform_url, auth_url, organization].
        project: name of the project.
        run: uuid of the training run, None for the session's own stream.
        rank: of this process in the run.
        limits: of this client, JSON-ready (`settings.Limits`); None keeps what the writer has.
        ca_bundle: path of a PEM file for the portal's certificate.
    """

    index: int
    uuid: bytes
    destination: tuple[str, str, str]
    project: str
    run: str | None = None
    rank: int = 0
    limits: Mapping[str, Any] | None = None
    ca_bundle: str | None = None

    def pack(self) -> bytes:
        """The frame's payload."""
        fields = (self.index, self.uuid, self.destination, self.project, self.run, self.rank)
        return _pack((*fields, dict(self.limits) if self.limits else None, self.ca_bundle))


@dataclass(frozen=True, slots=True)
class EntityFrame:
    """An entity (its JSON form) and, for those with a payload, the name of its file in ``incoming``."""

    index: int
    kind: str
    entity: dict[str, Any]
    payload: str | None = None

    def pack(self) -> bytes:
        """The frame's payload."""
        return _pack((self.index, self.kind, self.entity, self.payload))


@dataclass(frozen=True, slots=True)
class MetricsFrame:
    """One log call."""

    index: int
    step: int
    time_ns: int
    metrics: dict[str, float]

    def pack(self) -> bytes:
        """The frame's payload."""
        return _pack((self.index, self.step, self.time_ns, self.metrics))


@dataclass(frozen=True, slots=True)
class KeysFrame:
    """From here on, ``number`` means these names of metrics, in this order."""

    index: int
    number: int
    keys: tuple[str, ...]

    def pack(self) -> bytes:
        """The frame's payload."""
        return _pack((self.index, self.number, self.keys))


@cache  # MAX_KEYS_OF_SET at most
def points_struct(count: int) -> struct.Struct:
    """A POINTS frame of ``count`` metrics: `POINTS_HEAD` as bytes, step, time_ns, and the values."""
    return struct.Struct(f"={POINTS_HEAD.size}sqq{count}d")


@cache
def points_columns(count: int) -> Callable[[bytes], Any]:
    """What takes several such frames apart, joined: an iterator of (step, time_ns, value, …)."""
    return struct.Struct(f"={POINTS_HEAD.size}xqq{count}d").iter_unpack


@dataclass(frozen=True, slots=True)
class FinishFrame:
    """The run of this stream ended: finished, failed or preempted."""

    index: int
    status: str
    time_ns: int

    def pack(self) -> bytes:
        """The frame's payload."""
        return _pack((self.index, self.status, self.time_ns))


@dataclass(frozen=True, slots=True)
class TombstoneFrame:
    """``count`` things of ``kind`` were left out here, and why."""

    index: int
    kind: str
    count: int
    reason: str
    detail: str = ""

    def pack(self) -> bytes:
        """The frame's payload."""
        return _pack((self.index, self.kind, self.count, self.reason, self.detail))


Frame = StreamFrame | EntityFrame | MetricsFrame | KeysFrame | FinishFrame | TombstoneFrame


def pack_large(frame_type: FrameType, name: str) -> bytes:
    """A frame whose body stands in the file ``name`` of ``incoming``."""
    return _pack((int(frame_type), name))


def unpack_large(payload: bytes) -> tuple[FrameType, str]:
    """Read what `pack_large` wrote.

    Raises:
        ValueError: malformed.
    """
    frame_type, name = _unpack(payload, 2)
    if not _is_file_name(name):
        raise ValueError("a large frame without a file name")
    if frame_type not in _IN_FILES:
        raise ValueError(f"a large frame of type {frame_type}")
    return FrameType(frame_type), name


def is_own_file(name: str, ring: bytes) -> bool:
    """Whether a file of ``incoming`` may be this ring's: its client begins each name with the ring's id."""
    return len(name) <= 32 or name.startswith(ring.hex())


def unpack(frame_type: int, payload: bytes) -> Frame:
    """The frame that a client packed.

    Raises:
        ValueError: the payload is not what the type says.
    """
    if frame_type == FrameType.METRICS:
        index, step, time_ns, metrics = _unpack(payload, 4)
        if not isinstance(metrics, dict) or not metrics or not all(map(_is_key, metrics)):
            raise ValueError("a log call with other names than metrics have")
        return MetricsFrame(index, step, time_ns, metrics)
    if frame_type == FrameType.KEYS:
        index, number, keys = _unpack(payload, 3)
        if not isinstance(keys, list) or not all(map(_is_key, keys)) or type(number) is not int:
            raise ValueError("a key set of another shape")
        return KeysFrame(index, number, tuple(keys))
    if frame_type == FrameType.STREAM:
        index, uuid, destination, project, run, rank, limits, ca_bundle = _unpack(payload, 8)
        _check(0 <= index < MAX_STREAMS and type(uuid) is bytes and len(uuid) == 16, "stream")
        _check(isinstance(destination, list) and len(destination) == 3, "destination")
        _check(all(type(text) is str for text in (project, *destination)), "project or destination")
        _check((run is None or type(run) is str) and type(rank) is int and 0 <= rank < 1 << 31, "run or rank")
        _check(limits is None or isinstance(limits, dict), "limits")
        _check(ca_bundle is None or type(ca_bundle) is str, "ca_bundle")
        return StreamFrame(index, uuid, tuple(destination), project, run, rank, limits, ca_bundle)
    if frame_type == FrameType.ENTITY:
        index, kind, entity, name = _unpack(payload, 4)
        _check(type(kind) is str and isinstance(entity, dict) and (name is None or _is_file_name(name)), "entity")
        return EntityFrame(index, kind, entity, name)
    if frame_type == FrameType.FINISH:
        index, status, time_ns = _unpack(payload, 3)
        _check(status in _STATUSES and type(time_ns) is int and 0 <= time_ns < 1 << 63, "status or time")
        return FinishFrame(index, status, time_ns)
    if frame_type == FrameType.TOMBSTONE:
        index, kind, count, reason, detail = _unpack(payload, 5)
        _check(kind in _KINDS and type(count) is int and 0 < count < MAX_COUNT and reason == "dropped", "tombstone")
        _check(type(detail) is str and len(detail) <= _MAX_DETAIL, "detail")
        return TombstoneFrame(index, kind, count, reason, detail)
    raise ValueError(f"unknown frame type {frame_type}")


_IN_FILES = frozenset({FrameType.STREAM, FrameType.ENTITY, FrameType.METRICS})
_STATUSES, _KINDS = tuple(RunStatus), tuple(RecordKind)


def _check(is_right: bool, what: str) -> None:
    if not is_right:
        raise ValueError(f"a {what} of another shape")


def _is_key(name: Any) -> bool:
    return type(name) is str and 0 < len(name) <= MAX_KEY_CHARACTERS and "\0" not in name


def _is_file_name(name: Any) -> bool:
    return type(name) is str and name.isascii() and name.isalnum() and len(name) <= _MAX_NAME


def _pack(value: tuple[Any, ...]) -> bytes:
    return bytes(msgpack.packb(value))


def _unpack(payload: bytes, length: int) -> list[Any]:
    try:
        value = msgpack.unpackb(payload, raw=False)
    except Exception as error:  # msgpack raises half a dozen types for bad input
        raise ValueError(f"no msgpack: {error}") from None
    if not isinstance(value, list) or len(value) != length or type(value[0]) is not int:
        raise ValueError("a frame of another shape")
    return value
