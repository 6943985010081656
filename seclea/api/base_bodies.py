"""The same records for a portal that knows only the base interface: other bodies, in the words of older clients.

Such a portal may make its own ids; ``references`` says which of ours it knows by another one. What it has no place for
(metrics, finish, tombstones, chunks, chains) is not sent to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from seclea.api.body import Part
from seclea.records import RecordKind, canonical_json

ReadChunk = Callable[[str], bytes]
References = Mapping[str, str]

# What is sent of each kind, beside the ids; an older portal would refuse a field that it does not know.
_JSON_FIELDS: Mapping[RecordKind, tuple[str, ...]] = {
    RecordKind.PROJECT: ("uuid", "name", "description"),
    RecordKind.MODEL: ("uuid", "name", "framework"),
    RecordKind.TRAINING_RUN: ("uuid", "name", "params", "metadata"),
    RecordKind.DATASET_TRANSFORMATION: ("uuid", "name", "code_raw", "code_encoded", "order"),
}
KINDS = frozenset({*_JSON_FIELDS, RecordKind.DATASET, RecordKind.MODEL_STATE})


def json_fields(kind: RecordKind, body: Mapping[str, Any], organization: str, references: References) -> dict[str, Any]:
    """The JSON of a project, model, training run or transformation, from its body in the extensions' form."""
    fields = {name: body[name] for name in _JSON_FIELDS[kind] if name in body}
    if kind is not RecordKind.DATASET_TRANSFORMATION:
        fields["organization"] = organization
    for name in ("project", "model", "dataset"):
        if name in body:
            fields[name] = _known(body[name], references)
    if kind is RecordKind.TRAINING_RUN:
        fields["datasets"] = [_known(uuid, references) for uuid in body.get("datasets", ())]
    return fields


def form_parts(
    kind: RecordKind,
    body: Mapping[str, Any],
    references: References,
    chunks: Sequence[tuple[str, int]],
    read_chunk: ReadChunk,
) -> list[Part]:
    """The multipart form of a dataset or model state; its file is read chunk by chunk while it is sent."""
    if kind is RecordKind.DATASET:
        texts = {"project": _known(body["project"], references), "name": body["name"], "hash": body["hash"]}
        if body.get("parent"):
            texts["parent"] = _known(body["parent"], references)
        field, filename = "dataset", f"dataset.{body.get('format') or 'bin'}"
    else:
        texts = {name: _known(body[name], references) for name in ("project", "training_run")}
        texts |= {"sequence_num": str(body["sequence_num"]), "final_state": str(bool(body.get("final_state"))).lower()}
        field, filename = "state", f"state.{body.get('format') or 'bin'}"
    texts["uuid"] = body["uuid"]
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
