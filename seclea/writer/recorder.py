"""Frames into ledger rows: what a client said becomes records with a place in a stream.

Rule 1  Everything here happens inside one ledger transaction of the caller. When that fails, `forget` and take the same
        frames again: nothing here is remembered that the ledger does not hold.
Rule 2  A frame at or below the ring's sequence in the ledger was taken before: it is passed over. So each frame is
        recorded exactly once, however often a ring is read.
Rule 3  Records without a payload get their place at once; those with one are reserved as Saving and get it, in order, when
        the payload is durable (`seal_payload`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
from collections.abc import Sequence
from typing import Any

from seclea.contract import Destination
from seclea.entities import ENTITY_TYPES, Kind, Project
from seclea.frames import (
    MAX_COUNT,
    MAX_KEYS_OF_SET,
    POINTS_HEAD,
    EntityFrame,
    FinishFrame,
    FrameType,
    KeysFrame,
    MetricsFrame,
    StreamFrame,
    TombstoneFrame,
    is_own_file,
    points_columns,
    points_struct,
    unpack,
    unpack_large,
)
from seclea.ledger.blobs import Spool, StoredPayload
from seclea.ledger.db import Ledger
from seclea.ledger.ends import Ends
from seclea.records import (
    BULK_KINDS,
    MAX_KEYS,
    Event,
    Lane,
    MetricBatch,
    RecordKind,
    chain_hash,
    idempotency_key,
    lane_of,
    pack_metrics,
    tombstone_body,
)
from seclea.writer.bodies import entity_body, finish_body
from seclea.writer.entity_rows import EntityRows
from seclea.writer.limits import checked_settings
from seclea.writer.stream import Stream

log = logging.getLogger(__name__)

MAX_BATCH_POINTS = 32_768  # about 1 MB on the wire
_POINTS = int(FrameType.POINTS)
_SETTINGS = "settings of the last client"  # a running client does not say them again to a new writer


class Recorder:
    """Takes frames of rings into the ledger.

    Attributes:
        payloads: (record, incoming name) that wait to be stored, to be taken by the writer after the commit.
        discarded: incoming files that no record needs, to be deleted after the commit.
        touched: destinations that have new work.
        sealed: entities' records that got their place, or never will: what waits behind them is the settler's.
        settings: limits and idle timeout that the last client asked for, also of a writer before us; None until then.
    """

    def __init__(self, ledger: Ledger, spool: Spool) -> None:
        self._ledger = ledger
        self._spool = spool
        self._entities = EntityRows(ledger)
        self._ends = Ends(ledger)
        self._rings: dict[bytes, dict[int, Stream]] = {}
        self._sequences: dict[bytes, int] = {}
        self._keys: dict[bytes, dict[int, tuple[str, ...]]] = {}
        self.payloads: list[tuple[int, str]] = []
        self.discarded: list[str] = []
        self.touched: set[int] = set()
        self.sealed: list[int] = []
        noted = ledger.meta(_SETTINGS)
        self.settings: dict[str, Any] | None = None
        with contextlib.suppress(ValueError):  # what an earlier version noted without a look
            self.settings = checked_settings(json.loads(noted)) if noted else None

    def forget(self) -> None:
        """Drop everything remembered: the transaction was rolled back."""
        self._rings.clear()
        self._sequences.clear()
        self._keys.clear()
        self.payloads.clear()
        self.discarded.clear()
        self.touched.clear()
        self.sealed.clear()

    def forget_streams(self) -> None:
        """Lanes moved without us, between two commits."""
        self._rings.clear()
        self._sequences.clear()

    def forget_ring(self, ring: bytes) -> None:
        """The ring is gone."""
        self._rings.pop(ring, None)
        self._sequences.pop(ring, None)
        self._keys.pop(ring, None)

    def take(self, ring: bytes, pid: int, frames: Sequence[tuple[int, int, bytes]]) -> None:
        """Record frames ``(type, sequence, payload)`` of one ring, in order."""
        streams = self._streams(ring, pid)
        taken = self._sequences[ring]
        series: list[bytes] = []  # log calls with the same names, one after the other
        head, size = b"", 0  # of those in it
        for frame_type, sequence, payload in frames:
            if sequence <= taken:
                continue
            if sequence != taken + 1:
                # The ring's own checks make this impossible; if it happens all the same, it must be seen.
                self._ledger.add_event(
                    "gap",
                    f"ring {ring.hex()}: frames {taken + 1} to {sequence - 1} are missing",
                    reason="gap",
                    count=max(sequence - taken - 1, 1),
                )
                log.error("ring %s: frames %d to %d are missing", ring.hex(), taken + 1, sequence - 1)
            taken = sequence
            if frame_type == _POINTS:
                if len(payload) != size or not payload.startswith(head):
                    self._take_series(ring, streams, series, taken - 1)
                    head, size = payload[: POINTS_HEAD.size], len(payload)
                series.append(payload)
                continue
            if series:
                self._take_series(ring, streams, series, taken - 1)
                size = 0
            try:
                if frame_type == FrameType.METRICS:  # touches the open batch only
                    self._take_metrics(streams, payload)
                elif frame_type == FrameType.KEYS:  # no record: the batch goes on
                    self._take_keys(ring, payload)
                else:
                    self._close_batches(streams)  # before the savepoint: what fails in it must not take them along
                    with self._ledger.savepoint():
                        self._take_frame(ring, streams, frame_type, payload)
            except Exception as error:
                self._leave_out(ring, streams, frame_type, payload, sequence, error)
        self._take_series(ring, streams, series, taken)
        self._sequences[ring] = taken
        self._ledger.set_ring_sequence(ring, taken)

    def _leave_out(
        self, ring: bytes, streams: dict[int, Stream], frame_type: int, payload: bytes, sequence: int, error: Exception
    ) -> None:
        """A frame that passed its checksum and still makes no sense: a bug of ours or of another version.

        Never a crash loop, never silence.
        """
        if _is_disk_trouble(error):
            raise error
        log.error(
            "ring %s: frame %d of type %d cannot be recorded", ring.hex(), sequence, frame_type, exc_info=error
        )  # fmt: skip
        self._ledger.add_event("unreadable", f"ring {ring.hex()} frame {sequence} type {frame_type}: {error}")
        self._leave_tombstone(ring, streams, _record_kind(frame_type, payload), str(error))

    def lose(self, ring: bytes, pid: int, count: int, reason: str, why: str) -> None:
        """A ring is over, and ``count`` log calls in all are in no record of it: a tombstone for those without one yet."""
        streams = self._streams(ring, pid)
        count -= self._ledger.dropped_of_ring(ring)
        if count >= MAX_COUNT:  # damage; that something is lost is all that it says
            count = 1
        if count > 0 and not streams:
            self._ledger.add_event("left out", f"ring {ring.hex()}: {why}", reason=reason, count=count)
        elif count > 0:
            # Of which stream they were died with the process; it is the run's, most likely.
            stream = max(streams.values(), key=lambda one: (one.run is not None, one.id))
            self._take_tombstone(ring, stream, TombstoneFrame(0, "metrics", count, reason, why))

    def close_batches(self) -> None:
        """Turn the open batches into records; before every commit."""
        for streams in self._rings.values():
            self._close_batches(streams)

    def _close_batches(self, streams: dict[int, Stream]) -> None:
        for stream in streams.values():
            if stream.batch is not None:
                self._close_batch(stream)

    # -- frames --------------------------------------------------------------------------------------------------

    def _streams(self, ring: bytes, pid: int) -> dict[int, Stream]:
        streams = self._rings.get(ring)
        if streams is None:
            self._sequences[ring] = self._ledger.ring_sequence(ring, pid)
            streams = {}
            for row in self._ledger.streams_of_ring(ring):
                streams[row["ring_index"]] = self._stream_of_row(row)
            self._rings[ring] = streams
        return streams

    def _stream_of_row(self, row: sqlite3.Row) -> Stream:
        sequence, _ = self._ledger.lane(row["id"], Lane.ORDERED)
        return Stream(row["id"], row["uuid"], row["destination"], row["project"], row["run"], row["rank"], sequence)

    def _take_frame(self, ring: bytes, streams: dict[int, Stream], frame_type: int, payload: bytes) -> None:
        if frame_type == FrameType.LARGE:
            inner, name = unpack_large(payload)
            if not is_own_file(name, ring):
                raise ValueError(f"a large frame in the file {name} of another process")
            with self._spool.open_incoming(name) as file:
                payload = file.read()
            self._take_frame(ring, streams, inner, payload)
            self.discarded.append(name)
            return
        frame = unpack(frame_type, payload)
        if isinstance(frame, MetricsFrame):
            self._append(streams[frame.index], frame)
        elif isinstance(frame, StreamFrame):
            streams[frame.index] = self._open_stream(ring, frame)
        elif isinstance(frame, EntityFrame):
            if frame.payload is not None and not is_own_file(frame.payload, ring):
                raise ValueError(f"a payload in the file {frame.payload} of another process")
            self._take_entity(streams[frame.index], frame)
        elif isinstance(frame, FinishFrame):
            self._take_finish(streams[frame.index], frame)
        elif isinstance(frame, TombstoneFrame):
            self._take_tombstone(ring, streams[frame.index], frame)
        else:
            raise ValueError(f"no frame of type {frame_type} stands here")

    def _take_metrics(self, streams: dict[int, Stream], payload: bytes) -> None:
        frame = unpack(FrameType.METRICS, payload)
        assert isinstance(frame, MetricsFrame)
        self._append(streams[frame.index], frame)

    def _take_series(self, ring: bytes, streams: dict[int, Stream], series: list[bytes], last: int) -> None:
        """Take log calls that all start with the same head and have the same length; empties ``series``.

        Args:
            last: the ring's sequence of the last of them, for messages.
        """
        try:
            while series:
                index, number = POINTS_HEAD.unpack_from(series[0])
                stream, keys = streams[index], self._key_sets(ring)[number]
                width = len(keys)
                if len(series[0]) != points_struct(width).size:
                    raise ValueError(f"{len(series[0])} bytes for {width} metrics")
                batch = stream.batch
                if batch is None or batch.count + width > MAX_BATCH_POINTS or len(batch.keys) + width > MAX_KEYS:
                    self._close_batch(stream)
                    batch = stream.batch = MetricBatch(stream.run or "", stream.rank, stream.sequence + 1)
                calls = max(1, (MAX_BATCH_POINTS - batch.count) // width)
                batch.extend(keys, list(zip(*points_columns(width)(b"".join(series[:calls])), strict=True)))
                stream.sequence = batch.last
                del series[:calls]
        except Exception as error:
            if _is_disk_trouble(error):
                raise
            rest = series[:]
            series.clear()
            if len(rest) == 1:
                self._leave_out(ring, streams, _POINTS, rest[0], last, error)
                return
            for place, payload in enumerate(rest, last - len(rest) + 1):
                self._take_series(ring, streams, [payload], place)

    def _key_sets(self, ring: bytes) -> dict[int, tuple[str, ...]]:
        known = self._keys.get(ring)
        if known is None:
            known = self._keys[ring] = self._ledger.key_sets(ring)
        return known

    def _take_keys(self, ring: bytes, payload: bytes) -> None:
        frame = unpack(FrameType.KEYS, payload)
        assert isinstance(frame, KeysFrame)
        if not frame.keys or len(set(frame.keys)) != len(frame.keys) or len(frame.keys) > MAX_KEYS_OF_SET:
            raise ValueError("a key set that is none")
        self._ledger.add_key_set(ring, frame.number, frame.keys)
        self._key_sets(ring)[frame.number] = frame.keys

    def _append(self, stream: Stream, frame: MetricsFrame) -> None:
        batch = stream.batch
        if batch is not None and (batch.count >= MAX_BATCH_POINTS or not batch.has_room(frame.metrics)):
            self._close_batch(stream)
            batch = None
        if batch is None:
            batch = stream.batch = MetricBatch(stream.run or "", stream.rank, stream.sequence + 1)
        batch.append(stream.sequence + 1, frame.step, frame.time_ns, frame.metrics)
        stream.sequence += 1

    def _close_batch(self, stream: Stream) -> None:
        batch, stream.batch = stream.batch, None
        if batch is None or batch.last < batch.first:
            return
        record = self._ledger.add_record(
            RecordKind.METRICS,
            stream.destination,
            stream.id,
            Lane.ORDERED,
            run=stream.run,
            points=batch.count,
            hold=self._entities.hold_of(stream.run),
        )
        self._seal(record, stream, RecordKind.METRICS, pack_metrics(batch), calls=batch.last - batch.first + 1)

    def _open_stream(self, ring: bytes, frame: StreamFrame) -> Stream:
        destination = self._ledger.destination(Destination(*frame.destination), frame.ca_bundle)
        if frame.limits is not None:
            try:
                said = checked_settings(frame.limits)
            except ValueError as error:  # the stream is none the worse
                log.error("ring %s: limits that are none: %s", ring.hex(), error)
            else:
                self.settings = said
                self._ledger.set_meta(_SETTINGS, json.dumps(said))
        row = self._ledger.find_entity(Kind.PROJECT, None, destination=destination, name=frame.project)
        fresh = None
        if row is None:
            fresh = Project(name=frame.project)
            self._entities.insert(fresh.to_json(), Kind.PROJECT, destination, None, None)
        project = row["uuid"] if row is not None else fresh.uuid if fresh else ""
        number = self._ledger.add_stream(frame.uuid, ring, frame.index, destination, project, frame.run, frame.rank)
        known = self._ledger.stream_row(number)
        if (known["ring"], known["ring_index"]) != (ring, frame.index):
            raise ValueError("a stream that another one is already")
        stream = Stream(number, frame.uuid, destination, project, frame.run, frame.rank, 0)
        stream.sequence, _ = self._ledger.lane(number, Lane.ORDERED)
        if fresh is not None:
            record = self._ledger.add_record(RecordKind.PROJECT, destination, number, Lane.ORDERED, entity=fresh.uuid)
            self._seal(record, stream, RecordKind.PROJECT, self._body(RecordKind.PROJECT, fresh.to_json(), project))
        return stream

    def _take_entity(self, stream: Stream, frame: EntityFrame) -> None:
        kind = Kind(frame.kind)
        if (frame.payload is not None) != (RecordKind(kind) in BULK_KINDS):
            raise ValueError(f"a {kind} {'with' if frame.payload else 'without'} a payload")
        entity = dict(frame.entity)
        ENTITY_TYPES[kind].from_json(entity)  # shape check
        if kind is Kind.TRAINING_RUN:  # also where another rank handed it over before
            self._ends.note_start(stream.id)
        if self._ledger.entity(entity["uuid"]) is not None:
            self._discard(frame.payload)  # the same thing again
            return
        run = stream.run if kind is Kind.MODEL_STATE else None
        if kind is Kind.MODEL_STATE and entity["sequence_num"] < 0:
            entity["sequence_num"] = self._ledger.next_number(kind, run=run)
        if kind is Kind.TRAINING_RUN and not entity["name"]:
            entity["name"] = f"Training Run {self._ledger.next_number(kind, project=stream.project) + 1}"
        twin = self._entities.twin(kind, entity, stream)
        if twin is not None:
            self._entities.insert(entity, kind, stream.destination, stream.project, run, same_as=twin)
            self._discard(frame.payload)
            return
        needs = self._entities.needs(kind, entity, stream)
        record_kind = RecordKind(kind)
        refusal = self._entities.insert_unique(entity, kind, stream, run)
        record = self._ledger.add_record(
            record_kind,
            stream.destination,
            stream.id,
            lane_of(record_kind),
            entity=entity["uuid"],
            run=stream.run,
            payload=frame.payload,
            reserved=self._payload_bytes(frame.payload),
            needs=needs,
            hold=None if refusal else next(filter(None, map(self._entities.hold_of, needs)), None),
        )
        if refusal:
            self._ledger.fail(record, Event.REFUSED, refusal)
            self._discard(frame.payload)
            self.sealed.append(record)
        elif frame.payload is not None:
            self.payloads.append((record, frame.payload))
        else:
            self._seal(record, stream, record_kind, self._body(record_kind, entity, stream.project))
            self.sealed.append(record)

    def _take_finish(self, stream: Stream, frame: FinishFrame) -> None:
        if stream.run is None:
            raise ValueError("a finish outside a run")
        record = self._ledger.add_record(
            RecordKind.FINISH,
            stream.destination,
            stream.id,
            Lane.ORDERED,
            run=stream.run,
            hold=self._entities.hold_of(stream.run),
        )
        lanes = []
        for row in self._ledger.streams_of_run(stream.run):
            # The finish record itself, Saving right now, is counted in its lane: it is the last of its stream.
            lanes.append((row["uuid"], row["lane"], row["sequence"]))
        self._seal(record, stream, RecordKind.FINISH, finish_body(frame.status, frame.time_ns, lanes))
        self._ends.note_run(stream.run, frame.status)

    def end_run(self, stream: int, status: str, time_ns: int, reason: str) -> None:
        """End a run in the place of the process that spoke in ``stream`` and is gone."""
        row = self._ledger.stream_row(stream)
        self._take_finish(self._stream_of_row(row), FinishFrame(row["ring_index"], status, time_ns))
        self._ends.note_run(row["run"], status, reason)

    def _take_tombstone(self, ring: bytes, stream: Stream, frame: TombstoneFrame) -> None:
        record = self._ledger.add_record(
            RecordKind.TOMBSTONE,
            stream.destination,
            stream.id,
            Lane.ORDERED,
            run=stream.run,
            hold=self._entities.hold_of(stream.run),
        )
        body = tombstone_body(frame.kind, frame.count, frame.reason, frame.detail)
        self._seal(record, stream, RecordKind.TOMBSTONE, body)
        if frame.reason == "dropped":
            self._ledger.add_dropped(ring, frame.count)
        self._ledger.add_event(
            "left out",
            f"{frame.count} {frame.kind}: {frame.reason} {frame.detail}".rstrip(),
            destination=stream.destination,
            # What was dropped says why in a few words of ours; what is damaged says it in a sentence.
            reason=frame.detail[:40] if frame.reason == "dropped" and frame.detail else frame.reason,
            count=frame.count,
        )

    def _leave_tombstone(self, ring: bytes, streams: dict[int, Stream], kind: str, why: str) -> None:
        if streams:
            stream = next(iter(streams.values()))
            self._close_batch(stream)
            self._take_tombstone(ring, stream, TombstoneFrame(0, kind, 1, "damaged", why[:500]))
        else:
            self._ledger.add_event("left out", f"ring {ring.hex()}: {why[:500]}", reason="damaged")

    def leave_stone(self, stream: sqlite3.Row, count: int, why: str) -> None:
        """A tombstone at the end of a stream, for ``count`` log calls that were lost with a damaged ledger."""
        self._take_tombstone(
            stream["ring"], self._stream_of_row(stream), TombstoneFrame(0, "metrics", count, "damaged", why)
        )

    # -- bodies and payloads -------------------------------------------------------------------------------------

    def _body(self, kind: RecordKind, entity: dict[str, Any], project: str) -> bytes:
        return entity_body(kind, entity, project, self._entities.resolve)

    def _payload_bytes(self, name: str | None) -> int:
        if name is None:
            return 0
        try:
            return self._spool.incoming(name).stat().st_size
        except OSError:
            return 0

    def _discard(self, payload: str | None) -> None:
        if payload is not None:
            self.discarded.append(payload)

    # -- places in the stream ------------------------------------------------------------------------------------

    def _seal(self, record: int, stream: Stream, kind: RecordKind, body: bytes, calls: int = 1) -> None:
        first, previous = self._ledger.lane(stream.id, Lane.ORDERED)
        first += 1
        self._place(
            record, stream.uuid, stream.id, Lane.ORDERED, kind, first, first + calls - 1, previous, body, len(body)
        )
        stream.sequence = first + calls - 1
        self.touched.add(stream.destination)

    def _place(
        self, record: int, uuid: bytes, stream: int, lane: Lane, kind: RecordKind, first: int, last: int,
        previous: bytes, body: bytes, size: int,
    ) -> None:  # fmt: skip
        digest = hashlib.sha256(body).digest()
        chain = chain_hash(previous, uuid, lane, first, last, kind, digest)
        key = idempotency_key(uuid, lane, first)
        self._ledger.seal(record, uuid, stream, lane, kind, first, last, key, body, digest, chain, size)

    def seal_payload(self, record: int, stored: StoredPayload | str) -> bool:
        """Give a record whose payload is durable its place; or fail it, when ``stored`` is the reason why it is not.

        Returns:
            False when something before it in its lane is still being saved: ask again later.
        """
        row = self._ledger.record_row(record)
        if row is None or row["status"] != "Saving":
            return True
        if not self._ledger.is_next_to_seal(record, row["stream"], row["lane"]):
            return False
        stream = self._ledger.stream_row(row["stream"])
        kind = RecordKind(row["kind"])
        entity_row = self._ledger.entity(row["entity"])
        assert entity_row is not None
        entity = json.loads(entity_row["json"])
        lane = Lane(row["lane"])
        sequence, previous = self._ledger.lane(row["stream"], lane)
        first = sequence + 1
        if isinstance(stored, StoredPayload) and stored.sha256 != entity["sha256"]:
            stored = f"its payload changed on the way: sha256 {stored.sha256} instead of {entity['sha256']}"
        if isinstance(stored, str):
            self._ledger.fail(record, Event.DAMAGED, stored)
            self._ledger.set_refused(row["entity"], True)
            self._ledger.add_event("damaged", f"{kind} {entity['name']!r}: {stored}")
            stone = self._ledger.add_record(
                RecordKind.TOMBSTONE,
                row["destination"],
                row["stream"],
                lane,
                run=row["run"],
                hold=self._entities.hold_of(row["run"]),
            )
            body = tombstone_body(kind, 1, "damaged", stored)
            place = (RecordKind.TOMBSTONE, first, first, previous, body, len(body))
            self._place(stone, stream["uuid"], row["stream"], lane, *place)
        else:
            body = entity_body(
                kind, entity, entity_row["project"], self._entities.resolve, stored.chunks, stored.sha256
            )
            self._ledger.add_chunks(record, stored.chunks)
            place = (kind, first, first, previous, body, len(body) + stored.size)
            self._place(record, stream["uuid"], row["stream"], lane, *place)
        self.sealed.append(record)
        if row["payload"]:
            self.discarded.append(row["payload"])
        self.touched.add(row["destination"])
        return True


def _is_disk_trouble(error: Exception) -> bool:
    """Whether it is not the frame that is at fault: then the transaction fails, and the frame is taken again."""
    if isinstance(error, OSError):
        return not isinstance(error, FileNotFoundError)
    return isinstance(error, MemoryError | sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


def _record_kind(frame_type: int, payload: bytes) -> str:
    """What a frame that cannot be recorded was to become, as far as can be told: a portal knows kinds of records only."""
    if frame_type == FrameType.ENTITY:
        with contextlib.suppress(ValueError):
            frame = unpack(frame_type, payload)
            if isinstance(frame, EntityFrame) and frame.kind in tuple(RecordKind):
                return frame.kind
    if frame_type in (FrameType.FINISH, FrameType.TOMBSTONE):
        return FrameType(frame_type).name.lower()
    return RecordKind.METRICS
