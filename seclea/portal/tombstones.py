"""Tombstones: what is not in a stream, and why. One that was adopted makes the client's id an alias (docs/wire.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert

from seclea.entities import Kind
from seclea.portal.bodies import int_field, sha256_text, text_field, uuid_field
from seclea.portal.creates import target_of
from seclea.portal.database import now_ns
from seclea.portal.intake import Effect, Effected, Place
from seclea.portal.objects import Collection, find_row
from seclea.portal.replies import bad, missing_parent
from seclea.portal.tables import aliases, tombstones
from seclea.records import RecordKind

REASONS = ("dropped", "refused", "held", "adopted", "damaged")


@dataclass(frozen=True, slots=True)
class StandsFor:
    """The record that a tombstone stands for: what the chain covers, and the two ids."""

    kind: str
    digest: bytes
    uuid: str | None
    remote_id: str | None


@dataclass(frozen=True, slots=True)
class Tombstone:
    """``count`` things of ``kind`` that are not in the stream."""

    kind: str
    count: int
    reason: str
    detail: str
    stands_for: StandsFor | None
    stands_for_json: str | None

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Tombstone:
        """Read and check the body."""
        kind, reason = fields.get("kind"), fields.get("reason")
        if kind not in tuple(RecordKind):
            raise bad(f"kind is none of {', '.join(RecordKind)}.", field="kind")
        if reason not in REASONS:
            raise bad(f"reason is none of {', '.join(REASONS)}.", field="reason")
        count = int_field(fields, "count")
        if count is None:
            raise bad("count is required.", field="count")
        stands_for = _stands_for(fields.get("stands_for"))
        if reason == "adopted" and (
            stands_for is None or not stands_for.uuid or not stands_for.remote_id or target_of(stands_for.kind) is None
        ):
            raise bad("An adopted record names the object it stands for: kind, uuid and remote_id.", field="stands_for")
        text = json.dumps(fields["stands_for"], separators=(",", ":"), ensure_ascii=False) if stands_for else None
        return cls(str(kind), count, str(reason), text_field(fields, "detail", 10_000, default=""), stands_for, text)

    def effect(self, organization_id: int, place: Place) -> Effect:
        """Keep it where the record would be."""

        def effect(connection: Connection) -> Effected:
            connection.execute(
                insert(tombstones).values(
                    organization_id=organization_id,
                    stream=place.stream,
                    lane=str(place.lane),
                    sequence=place.first,
                    kind=self.kind,
                    count=self.count,
                    reason=self.reason,
                    detail=self.detail,
                    stands_for=self.stands_for_json,
                    created_ns=now_ns(),
                )
            )
            uuid = self.stands_for.uuid if self.stands_for else None
            if self.reason == "adopted" and self.stands_for is not None:
                _adopt(connection, organization_id, self.stands_for)
            return Effected({"uuid": uuid, "kind": self.kind, "count": self.count, "reason": self.reason})

        return effect


def _stands_for(value: Any) -> StandsFor | None:
    if value is None:
        return None
    if not isinstance(value, dict) or value.get("kind") not in tuple(RecordKind):
        raise bad("stands_for is neither null nor {kind, digest, uuid, remote_id}.", field="stands_for")
    return StandsFor(
        value["kind"],
        bytes.fromhex(sha256_text(value.get("digest"), "digest")),
        uuid_field(value, "uuid", required=False),
        uuid_field(value, "remote_id", required=False),
    )


def _adopt(connection: Connection, organization_id: int, record: StandsFor) -> None:
    collection: Collection | None = target_of(record.kind)
    assert collection is not None and record.uuid and record.remote_id
    target = find_row(connection, collection, (organization_id,), record.remote_id)
    if target is None:
        raise missing_parent(record.kind, record.remote_id)
    if find_row(connection, collection, (organization_id,), record.uuid) is None:
        connection.execute(
            insert(aliases).values(
                organization_id=organization_id,
                uuid=record.uuid,
                kind=str(Kind(record.kind)),
                target=target["uuid"],
                created_ns=now_ns(),
            )
        )
