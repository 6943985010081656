"""Creates at a portal that knows only the base interface, in the dialect that it understands.

Rule 1  Which dialect that is, its answers say: a uuid of its own in place of ours means hashes from then on; a refusal is
        tried once in the other dialect, until one of them is known to be right.
Rule 2  What is sent names the portal's ids. A parent or dataset that only the portal may have is looked up there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from seclea.api import base_bodies
from seclea.api.base_bodies import Dialect, ReadChunk
from seclea.api.exchange import Exchange, json_of, text_of
from seclea.api.lookup import Asker
from seclea.api.reading import Reply
from seclea.api.replies import is_duplicate, outcome_of
from seclea.contract import Outcome, Verdict
from seclea.entities import Kind
from seclea.errors import AuthenticationError, PortalError, PortalUnavailable
from seclea.records import Record, RecordKind


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a create needs to know beside the record.

    Attributes:
        scope: the query.
        references: our uuid → the portal's, where they differ.
        hashes: our uuid of a dataset → its hash, as far as we know it ourselves.
    """

    organization: str
    scope: Mapping[str, str]
    references: Mapping[str, str]
    hashes: Mapping[str, str]
    read_chunk: ReadChunk | None


class _NotThere(Exception):
    """A dataset that is named is not at the portal: its uuid or hash."""


class BasePortal:
    """One base-only portal; remembers its dialect. Not shared between threads."""

    def __init__(self, exchange: Exchange, asker: Asker) -> None:
        self._exchange = exchange
        self._asker = asker
        self._dialect = Dialect.BY_UUID
        self._is_sure = False

    def create(self, record: Record, path: str, around: Surroundings) -> tuple[Outcome, Reply | None]:
        """Send one record; what came of it, in the dialect that the portal understands if it understands one."""
        body = json.loads(record.body)
        hashes = dict(around.hashes)
        hash_of = self._hash_of(hashes, around)
        try:
            if record.kind is RecordKind.DATASET and body.get("parent_hash") and not body.get("parent"):
                body["parent"] = self._by_hash(body["parent_hash"], hashes, around)
            if record.kind is RecordKind.TRAINING_RUN:
                named = body.get("datasets", ())
                body["datasets"] = [one if "-" in one else self._by_hash(one, hashes, around) for one in named]
            first = self._create(record, path, body, around, self._dialect, hash_of)
            if self._is_sure or not _is_refused(*first):
                self._learn(first[0], body["uuid"], self._dialect, tried_first=True)
                return first
            other = self._dialect.other
            second = self._create(record, path, body, around, other, hash_of)
            if _is_refused(*second):
                return first
            self._learn(second[0], body["uuid"], other, tried_first=False)
            return second
        except _NotThere as lacking:
            words = f"the portal does not have the dataset {lacking} (yet)"
            return Outcome(Verdict.MISSING, detail=words, missing=(str(lacking),)), None
        except (PortalError, PortalUnavailable, AuthenticationError) as error:
            return outcome_of(error), None

    def _learn(self, outcome: Outcome, uuid: str, dialect: Dialect, *, tried_first: bool) -> None:
        if outcome.verdict is not Verdict.DELIVERED or outcome.remote_id is None:
            return
        if tried_first and dialect is Dialect.BY_UUID and outcome.remote_id != uuid:
            # An older portal, most likely: it passed over our uuid. Not sure: it may want uuids in other places.
            self._dialect = Dialect.BY_HASH
        elif not tried_first or outcome.remote_id == uuid:
            self._dialect, self._is_sure = dialect, True

    def _create(
        self,
        record: Record,
        path: str,
        body: Mapping[str, Any],
        around: Surroundings,
        dialect: Dialect,
        hash_of: Callable[[str], str],
    ) -> tuple[Outcome, Reply | None]:
        kind, references = record.kind, around.references
        if kind not in (RecordKind.DATASET, RecordKind.MODEL_STATE):
            fields = base_bodies.json_fields(kind, body, around.organization, references, dialect, hash_of)
            return self._exchange.call("POST", path, params=around.scope, json=fields, kind=kind)
        assert around.read_chunk is not None, "a portal without chunks needs the payload itself"
        parts = base_bodies.form_parts(kind, body, references, record.chunks, around.read_chunk, dialect, hash_of)
        return self._exchange.call("POST", path, params=around.scope, files=parts, kind=kind)

    def _by_hash(self, digest: str, hashes: dict[str, str], around: Surroundings) -> str:
        """The portal's uuid of a dataset that we know by its hash only; noted in ``hashes``."""
        for item in self._asker.find(Kind.DATASET, **around.scope, hash=digest):
            if item.get("hash") == digest and isinstance(item.get("uuid"), str):
                hashes[item["uuid"]] = digest
                return str(item["uuid"])
        raise _NotThere(digest)

    def _hash_of(self, known: dict[str, str], around: Surroundings) -> Callable[[str], str]:
        """Our uuid of a dataset → its hash; the portal is asked for one that only it has."""

        def hash_of(uuid: str) -> str:
            if uuid not in known:
                found = self._asker.get(Kind.DATASET, around.references.get(uuid, uuid), **around.scope)
                if found is None or not isinstance(found.get("hash"), str):
                    raise _NotThere(uuid)
                known[uuid] = found["hash"]
            return known[uuid]

        return hash_of


def _is_refused(outcome: Outcome, reply: Reply | None) -> bool:
    """Refused, and not because it is there already."""
    if outcome.verdict is not Verdict.REFUSED:
        return False
    return reply is None or not is_duplicate(reply.status, json_of(reply), text_of(reply))
