"""The bodies on the wire, as docs/wire.md has them, from an entity's JSON form. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seclea.records import RecordKind, canonical_json

Chunks = Sequence[tuple[str, int]]


def entity_body(
    kind: RecordKind,
    entity: Mapping[str, Any],
    project: str,
    resolve: Callable[[str], str],
    chunks: Chunks = (),
    sha256: str = "",
) -> bytes:
    """The body of an entity's create.

    Args:
        entity: its JSON form (`Entity.to_json`), with the numbers that the writer gave.
        project: uuid of its project.
        resolve: our uuid of another entity → the uuid of what it turned out to be.
        chunks: (sha256, bytes) of its payload, in order; ``sha256`` of the whole.
    """
    payload = {"chunks": [list(chunk) for chunk in chunks], "size": sum(size for _, size in chunks), "sha256": sha256}
    common = {"uuid": entity["uuid"], "name": entity["name"]}
    match kind:
        case RecordKind.PROJECT:
            body = {**common, "description": entity["description"]}
        case RecordKind.MODEL:
            body = {**common, "project": project, "framework": entity["framework"]}
        case RecordKind.DATASET:
            parent = entity["parent"]
            body = {**common, "project": project, "metadata": entity["metadata"], "hash": entity["digest"]}
            body |= {"parent": resolve(parent) if parent else None, "intermediate": entity["intermediate"]}
            body |= {"format": entity["format"], **payload}
            if not parent and entity.get("parent_hash"):
                body["parent_hash"] = entity["parent_hash"]
        case RecordKind.DATASET_TRANSFORMATION:
            body = {**common, "dataset": resolve(entity["dataset"]), "order": entity["order"]}
            body["inputs"] = [resolve(uuid) for uuid in entity.get("inputs", ())]
            body |= {"code_raw": entity["code_raw"], "code_encoded": "", "details": entity["details"]}
        case RecordKind.TRAINING_RUN:
            model = entity["model"]
            body = {**common, "project": project, "model": resolve(model) if model else None}
            body |= {"datasets": [resolve(uuid) for uuid in entity["datasets"]], "params": entity["params"]}
            if entity.get("dataset_roles"):
                body["dataset_roles"] = [role or None for role in entity["dataset_roles"]]
            body |= {"metadata": entity["metadata"], "started_ns": entity["started_ns"]}
        case RecordKind.MODEL_STATE:
            kept = ("step", "final_state", "sequence_num", "format", "framework", "metadata", "created_ns")
            body = {"uuid": entity["uuid"], "project": project, "training_run": entity["training_run"]}
            body |= {key: entity[key] for key in kept} | payload
        case _:
            raise ValueError(f"{kind} is no entity")
    return canonical_json(body)


def finish_body(status: str, finished_ns: int, lanes: Sequence[tuple[bytes, str, int]]) -> bytes:
    """The body that ends a run; ``lanes`` are (stream, lane, last sequence)."""
    streams = [{"stream": uuid_text(stream), "lane": lane, "sequence": last} for stream, lane, last in lanes]
    return canonical_json({"status": status, "finished_ns": finished_ns, "streams": streams})


def uuid_text(value: bytes) -> str:
    """Sixteen bytes as a canonical uuid."""
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
