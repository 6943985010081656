"""Payloads in and out: a base client's file cut into chunks, a list of chunks checked as a whole, a range served.

Rule 1  Bytes leave only after their chunk hashed to its name. A range's chunks are all checked before the first byte goes
        out, so that damage is an answer and not a torn download.
Rule 2  One chunk is in memory at a time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from sqlalchemy import Connection, insert, select

from seclea.portal.blobs import BlobStore
from seclea.portal.config import MEBIBYTE
from seclea.portal.creates import Payload, lengths_of
from seclea.portal.database import Database, now_ns
from seclea.portal.replies import Refusal, bad
from seclea.portal.tables import chunks, content_chunks
from seclea.portal.threads import in_thread, stopping

CUT_BYTES = 8 * MEBIBYTE  # a chunk of a file that came whole


def add_chunk(connection: Connection, organization_id: int, sha256: str, length: int) -> bool:
    """Note that the organisation has given us this chunk. True where it is new."""
    if lengths_of(connection, organization_id, [sha256]):
        return False
    connection.execute(
        insert(chunks).values(organization_id=organization_id, sha256=sha256, bytes=length, created_ns=now_ns())
    )
    return True


async def store_file(database: Database, blobs: BlobStore, organization_id: int, file: BinaryIO) -> Payload:
    """Cut a file into chunks and store them."""
    whole = hashlib.sha256()
    parts: list[tuple[str, int]] = []

    def store_next() -> tuple[str, int] | None:
        body = file.read(CUT_BYTES)
        if not body:
            return None
        whole.update(body)
        sha256 = hashlib.sha256(body).hexdigest()
        blobs.put(sha256, body)
        return sha256, len(body)

    while (part := await in_thread(store_next)) is not None:
        parts.append(part)

    def note(connection: Connection) -> None:
        for sha256, length in dict(parts).items():
            add_chunk(connection, organization_id, sha256, length)

    if parts:
        await database.write(note)
    return Payload(whole.hexdigest(), sum(length for _, length in parts), tuple(parts))


def check_whole(blobs: BlobStore, payload: Payload) -> None:
    """The chunks, one after the other, hash to the digest of the whole.

    Raises:
        Refusal: 400, they do not.
        DamagedBlob: one of them is not sound here.
    """
    whole = hashlib.sha256()
    for sha256, _ in payload.chunks:
        if stopping.is_set():
            raise Refusal(503, "The portal is being stopped.", headers={"Retry-After": "1"})
        whole.update(blobs.get(sha256))
    if whole.hexdigest() != payload.sha256:
        raise bad(f"The chunks make up {whole.hexdigest()}, not {payload.sha256}.", field="sha256")


# ---------------------------------------------------------------------------------------------------------- serving


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``start`` to ``end`` (not included) of a payload of ``size`` bytes."""

    start: int
    end: int
    size: int


_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")


def parse_range(header: str | None, size: int) -> Span | None:
    """The one range that a request asks for; None for all of it, which is also the answer to what is not understood.

    Raises:
        ValueError: it lies outside of the payload (416).
    """
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        length = int(match[2])
        if length == 0 or size == 0:
            raise ValueError("an empty range")
        return Span(max(size - length, 0), size, size)
    start = int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    if match[2] and int(match[2]) < start:
        return None
    if start >= size:
        raise ValueError("a range behind the end")
    return Span(start, end, size)


def chunks_of(connection: Connection, content_id: int) -> list[tuple[str, int]]:
    """A payload's chunks, in order."""
    rows = connection.execute(
        select(content_chunks.c.sha256, content_chunks.c.bytes)
        .where(content_chunks.c.content_id == content_id)
        .order_by(content_chunks.c.position)
    )
    return [(row.sha256, row.bytes) for row in rows]


def cut(parts: Sequence[tuple[str, int]], span: Span) -> list[tuple[str, int, int]]:
    """Which bytes of which chunks make up a span: (sha256, start, end)."""
    wanted, offset = [], 0
    for sha256, length in parts:
        start, end = max(span.start - offset, 0), min(span.end - offset, length)
        if start < end:
            wanted.append((sha256, start, end))
        offset += length
    return wanted


async def serve(blobs: BlobStore, wanted: Sequence[tuple[str, int, int]]) -> AsyncIterator[bytes]:
    """The bytes, every chunk checked before the first is given out.

    Raises:
        DamagedBlob: before anything was given out, unless the damage happens meanwhile.
    """
    first: bytes | None = None
    for sha256, _, _ in reversed(wanted):  # ends with the first one, which is then served without a second reading
        first = await in_thread(blobs.get, sha256)

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal first
        for sha256, start, end in wanted:
            body = first if first is not None else await in_thread(blobs.get, sha256)
            first = None
            yield body[start:end]

    return pieces()
