"""The same records for a portal that knows only the base interface: other bodies, in the words of older clients.

Such a portal may make its own ids; ``references`` says which of ours it knows by another one. What it has no place for
(metrics, finish, tombstones, chunks, chains, inputs, roles) is not sent to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from seclea.api.body import Part
from seclea.records import RecordKind, canonical_json

ReadChunk = Callable[[str], bytes]
References = Mapping[str, str]
HashOf = Callable[[str], str]

RUN_MARK = "seclea_uuid"  # in a run's metadata: our id, by which it is found again where the portal makes its own


class Dialect(Enum):
    """By what a base portal knows things; the generations of clients (PORTAL_API.md)."""

    BY_UUID = "newer"  # our uuids, the parent and a run's datasets as uuids
    BY_HASH = "older"  # uuids of its own, the parent and a run's datasets as hashes

    @property
    def other(self) -> Dialect:
        """The other one."""
        return Dialect.BY_HASH if self is Dialect.BY_UUID else Dialect.BY_UUID


# What is sent of each kind, beside the ids; an older portal would refuse a field that it does not know.
_JSON_FIELDS: Mapping[RecordKind, tuple[str, ...]] = {
    RecordKind.PROJECT: ("name", "description"),
    RecordKind.MODEL: ("name", "framework"),
    RecordKind.TRAINING_RUN: ("name", "params"),
    RecordKind.DATASET_TRANSFORMATION: ("name", "code_raw", "code_encoded", "order"),
}
KINDS = frozenset({*_JSON_FIELDS, RecordKind.DATASET, RecordKind.MODEL_STATE})


def json_fields(
    kind: RecordKind,
    body: Mapping[str, Any],
    organization: str,
    references: References,
    dialect: Dialect = Dialect.BY_UUID,
    hash_of: HashOf = str,
) -> dict[str, Any]:
    """The JSON of a project, model, training run or transformation, from its body in the extensions' form.

    Args:
        hash_of: our uuid of a dataset → its hash at the portal; asked only where the dialect wants it.
    """
    fields = {name: body[name] for name in _JSON_FIELDS[kind] if name in body}
    if dialect is Dialect.BY_UUID:
        fields["uuid"] = body["uuid"]
    if kind is not RecordKind.DATASET_TRANSFORMATION:
        fields["organization"] = organization
    for name in ("project", "model", "dataset"):
        if name in body:
            fields[name] = _known(body[name], references)
    if kind is RecordKind.TRAINING_RUN:
        by_hash = dialect is Dialect.BY_HASH
        fields["datasets"] = [
            hash_of(uuid) if by_hash else _known(uuid, references) for uuid in body.get("datasets", ())
        ]
        fields["metadata"] = {**body.get("metadata", {}), RUN_MARK: body["uuid"]}
    return fields


def form_parts(
    kind: RecordKind,
    body: Mapping[str, Any],
    references: References,
    chunks: Sequence[tuple[str, int]],
    read_chunk: ReadChunk,
    dialect: Dialect = Dialect.BY_UUID,
    hash_of: HashOf = str,
) -> list[Part]:
    """The multipart form of a dataset or model state; its file is read chunk by chunk while it is sent."""
    by_uuid = dialect is Dialect.BY_UUID
    if kind is RecordKind.DATASET:
        texts = {"project": _known(body["project"], references), "name": body["name"], "hash": body["hash"]}
        if parent := body.get("parent"):
            # Both, where either may be the one that the portal understands: the other it passes over without a word.
            texts |= {"parent": _known(parent, references)} if by_uuid else {}
            texts["parent_hash"] = hash_of(parent)
        elif body.get("parent_hash"):
            texts["parent_hash"] = body["parent_hash"]
        field, filename = "dataset", f"dataset.{body.get('format') or 'bin'}"
    else:
        texts = {name: _known(body[name], references) for name in ("project", "training_run")}
        texts |= {"sequence_num": str(body["sequence_num"]), "final_state": str(bool(body.get("final_state"))).lower()}
        field, filename = "state", f"state.{body.get('format') or 'bin'}"
    texts |= {"uuid": body["uuid"]} if by_uuid else {}
    parts = [Part(name, value.encode("utf-8")) for name, value in texts.items()]
    if kind is RecordKind.DATASET:
        parts.append(Part("metadata", canonical_json(body["metadata"]), content_type="application/json"))

    def content() -> Iterator[bytes]:
        for sha256, _ in chunks:
            yield read_chunk(sha256)

    size = sum(size for _, size in chunks)
    parts.append(Part(field, content, size, filename=filename, content_type="application/octet-stream"))
    return parts


def _known(uuid: Any, references: References) -> Any:
    return references.get(uuid, uuid) if isinstance(uuid, str) else uuid
