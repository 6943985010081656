"""Many batches of metrics in one request: each is a record with key, place and chain of its own, as if it had come alone.

A client that catches up after an outage has thousands of small batches. They are taken in order; the first that is not taken
ends the answer. What was taken stays, also where a later one is refused.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgpack

from seclea.portal.bodies import INT64, is_uuid
from seclea.portal.context import Portal
from seclea.portal.intake import Incoming, Place, Taken, read_key, take
from seclea.portal.replies import Refusal, bad, dumps
from seclea.portal.series import metrics, read_batch
from seclea.portal.threads import in_thread
from seclea.records import Lane, RecordKind

MOST = 1000  # batches in one request
_TARGET = "/collection/metrics"  # where each could have gone by itself: the same key there is the same request


@dataclass(frozen=True, slots=True)
class Sent:
    """One batch of the request."""

    key: str
    place: Place
    body: bytes


def read_many(body: bytes) -> list[Sent]:
    """The batches of a request's body (docs/wire.md).

    Raises:
        Refusal: 400.
    """
    try:
        value = msgpack.unpackb(body, raw=False, strict_map_key=True)
        stream, records = value["stream"], value["records"]
        if value["v"] != 1 or not isinstance(stream, str) or not is_uuid(stream) or not 0 < len(records) <= MOST:
            raise ValueError("version, stream or number of records")
        return [_sent(stream, *record) for record in records]
    except Refusal:
        raise
    except Exception as error:  # msgpack raises half a dozen types for bad input
        raise bad(f"The batches cannot be read: {error}") from None


def _sent(stream: str, first: int, last: int, chain: bytes, key: str, body: bytes) -> Sent:
    numbers = type(first) is int and type(last) is int and 1 <= first <= last <= INT64
    if not numbers or type(chain) is not bytes or len(chain) != 32 or type(body) is not bytes or type(key) is not str:
        raise ValueError("a record is first, last, chain, key and body")
    read_key({"idempotency-key": key})
    return Sent(key, Place(stream, Lane.ORDERED, first, last, chain), body)


async def take_many(portal: Portal, organization_id: int, sent: list[Sent]) -> list[dict[str, Any]]:
    """Take them in; ``{"status", "body"}`` of each up to the first that is not taken."""
    refused: Refusal | None = None
    works = []
    with ExitStack() as held:
        for one in sent:
            try:
                held.enter_context(portal.running.hold(organization_id, one.key))
                batch, summary, digest = await in_thread(read_batch, one.body)
                effect = metrics(organization_id, one.place, one.body, digest, batch, summary)
            except Refusal as refusal:
                refused = refusal
                break
            incoming = Incoming(organization_id, _TARGET, RecordKind.METRICS, digest, one.key, one.place, raw=one.body)
            works.append(partial(take, incoming=incoming, effect=effect))
        # At once and in this order to the one that writes, which commits what has come together.
        waiting = [asyncio.wrap_future(portal.database.submit(work)) for work in works]
        found: list[Taken | BaseException] = await asyncio.gather(*waiting, return_exceptions=True)
    answers: list[dict[str, Any]] = []
    for one_found in [*found, *([refused] if refused else [])]:
        if isinstance(one_found, Taken):
            answers.append({"status": one_found.status, "body": one_found.body.decode("utf-8")})
        elif isinstance(one_found, Refusal):
            return [*answers, {"status": one_found.status, "body": _said(one_found)}]
        elif not answers:
            raise one_found  # the portal's own trouble
        else:
            break
    return answers


def _said(refusal: Refusal) -> str:
    return dumps({"detail": refusal.detail, **refusal.more}).decode("utf-8")
