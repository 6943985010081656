"""What each kind of create does to the tables. Fields are checked first, outside the transaction; the effect is inside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, Table, and_, bindparam, insert, or_, select, update

from seclea.entities import Kind, RunStatus, new_uuid
from seclea.portal.accounts import Organization
from seclea.portal.bodies import (
    bool_field,
    int_field,
    is_uuid,
    object_field,
    sha256_text,
    text_field,
    uuid_field,
)
from seclea.portal.config import Limits
from seclea.portal.database import now_ns
from seclea.portal.intake import Effect, Effected
from seclea.portal.objects import (
    BY_KIND,
    DATASETS,
    MODEL_STATES,
    MODELS,
    PROJECTS,
    TRAINING_RUNS,
    TRANSFORMATIONS,
    Collection,
    Row,
    find_row,
    inputs_of_transformations,
    show_row,
)
from seclea.portal.replies import Refusal, already_exists, bad, missing_parent
from seclea.portal.tables import (
    chunks,
    content_chunks,
    contents,
    dataset_transformations,
    datasets,
    model_states,
    models,
    projects,
    training_run_datasets,
    training_runs,
    transformation_inputs,
)

Fields = Mapping[str, Any]
NAME = 250  # characters of names for which existing portals set no other limit
FRAMEWORK = 100
FORMAT = 100
IN_A_CREATE = 1000  # datasets that one run or transformation may name
IN_LIST = 500  # values per IN (...): engines limit their number
ROLES = ("train", "test", "validation")  # of a dataset in a run
RUNNING = str(RunStatus.RUNNING)
UNKNOWN = "unknown"  # a base client's run: nobody will say when it ends


@dataclass(frozen=True, slots=True)
class Payload:
    """A stored file: its chunks in order, its size and the digest of the whole."""

    sha256: str
    size: int
    chunks: tuple[tuple[str, int], ...]


def payload_field(fields: Fields, limits: Limits) -> Payload | None:
    """``chunks``, ``size`` and ``sha256`` of an extension create; None where it has no chunks."""
    listed = fields.get("chunks")
    if listed is None:
        return None
    if not isinstance(listed, list) or len(listed) > limits.chunks:
        raise bad(f"chunks is no list of at most {limits.chunks} [sha256, bytes].", field="chunks")
    parts: list[tuple[str, int]] = []
    for entry in listed:
        if not isinstance(entry, list) or len(entry) != 2 or type(entry[1]) is not int or entry[1] < 0:
            raise bad("chunks is no list of [sha256, bytes].", field="chunks")
        parts.append((sha256_text(entry[0], "chunks"), entry[1]))
    size = int_field(fields, "size")
    if size != sum(length for _, length in parts):
        raise bad("size is not the sum of the chunks' bytes.", field="size")
    return Payload(sha256_text(fields.get("sha256"), "sha256"), size, tuple(parts))


def check_chunks(connection: Connection, organization_id: int, payload: Payload) -> None:
    """Every chunk is here, as long as it is said to be."""
    lengths = dict(payload.chunks)
    here = lengths_of(connection, organization_id, list(lengths))
    missing = [sha256 for sha256 in lengths if sha256 not in here]
    if missing:
        raise Refusal(409, f"{len(missing)} chunks are not here yet.", code="missing_chunks", missing=missing)
    for sha256, length in payload.chunks:
        if here[sha256] != length:
            raise bad(f"Chunk {sha256} has {here[sha256]} bytes, not {length}.", field="chunks")


def lengths_of(connection: Connection, organization_id: int, names: Sequence[str]) -> dict[str, int]:
    """The bytes of those chunks that the organisation has given us."""
    found: dict[str, int] = {}
    for start in range(0, len(names), IN_LIST):
        rows = connection.execute(
            select(chunks.c.sha256, chunks.c.bytes).where(
                chunks.c.organization_id == organization_id, chunks.c.sha256.in_(names[start : start + IN_LIST])
            )
        )
        found.update((row.sha256, row.bytes) for row in rows)
    return found


def _add_content(connection: Connection, organization_id: int, payload: Payload | None) -> int | None:
    if payload is None:
        return None
    check_chunks(connection, organization_id, payload)
    content_id = _insert(
        connection,
        contents,
        {
            "organization_id": organization_id,
            "sha256": payload.sha256,
            "size": payload.size,
            "created_ns": now_ns(),
        },
    )
    if payload.chunks:
        connection.execute(
            insert(content_chunks),
            [
                {
                    "content_id": content_id,
                    "position": position,
                    "organization_id": organization_id,
                    "sha256": sha256,
                    "bytes": length,
                }
                for position, (sha256, length) in enumerate(payload.chunks)
            ],
        )
    return content_id


# ---------------------------------------------------------------------------------------------------------- helpers


# Built once: building a statement costs five times as much as running it.
_INSERTS = {
    table.name: insert(table)
    for table in (projects, models, datasets, dataset_transformations, training_runs, model_states, contents)
}


def _insert(connection: Connection, table: Table, values: Mapping[str, Any]) -> int:
    key = connection.execute(_INSERTS[table.name], dict(values)).inserted_primary_key
    assert key is not None
    return int(key[0])


class _Unique:
    """What may not be there twice, as sets of columns; looked for in one statement."""

    def __init__(self, collection: Collection, *sets: tuple[str, ...]) -> None:
        self._collection = collection
        self._sets = (("organization_id", "uuid"), *sets)
        columns = collection.table.c
        alike = [and_(*(columns[name] == bindparam(f"new_{name}") for name in names)) for names in self._sets]
        self._names = sorted({name for names in self._sets for name in names})
        self._find: Select[Any] = select(*(columns[name] for name in self._names)).where(or_(*alike)).limit(5)

    def check(self, connection: Connection, values: Mapping[str, Any]) -> None:
        """Refuse what is there, in the words of the base interface."""
        alike = connection.execute(self._find, {f"new_{name}": values[name] for name in self._names}).mappings().all()
        for names in self._sets:
            for row in alike:
                if all(row[name] == values[name] for name in names):
                    fields = ", ".join(name.removesuffix("_id") for name in names)
                    raise already_exists(str(self._collection.kind), fields, row["uuid"])


_UNIQUE = {
    PROJECTS.path: _Unique(PROJECTS, ("organization_id", "name")),
    MODELS.path: _Unique(MODELS, ("project_id", "name", "framework")),
    DATASETS.path: _Unique(DATASETS, ("project_id", "hash"), ("project_id", "name")),
    TRANSFORMATIONS.path: _Unique(TRANSFORMATIONS),
    TRAINING_RUNS.path: _Unique(TRAINING_RUNS),
    MODEL_STATES.path: _Unique(MODEL_STATES, ("training_run_id", "sequence_num")),
}


def _parent(connection: Connection, collection: Collection, organization: Organization, uuid: str) -> Row:
    row = find_row(connection, collection, (organization.id,), uuid)
    if row is None:
        raise missing_parent(str(collection.kind), uuid)
    return row


def _make(
    connection: Connection, collection: Collection, organization: Organization, values: dict[str, Any], **shown: Any
) -> tuple[int, dict[str, Any]]:
    """Add the row, unless it is there. ``shown`` is what the object's JSON has beside the columns."""
    values = {**values, "organization_id": organization.id, "created_ns": now_ns()}
    _UNIQUE[collection.path].check(connection, values)
    row_id = _insert(connection, collection.table, values)
    return row_id, collection.show({**values, **shown, "organization": organization.uuid})


# ---------------------------------------------------------------------------------------------------------- creates


def project(organization: Organization, fields: Fields) -> Effect:
    """Make a project."""
    values = {
        "uuid": uuid_field(fields, "uuid", required=False) or new_uuid(),
        "name": text_field(fields, "name", 250),
        "description": text_field(fields, "description", 5000, default=""),
    }

    def effect(connection: Connection) -> Effected:
        return Effected(_make(connection, PROJECTS, organization, values)[1])

    return effect


def model(organization: Organization, fields: Fields) -> Effect:
    """Make a model."""
    in_project = str(uuid_field(fields, "project"))
    values = {
        "uuid": uuid_field(fields, "uuid", required=False) or new_uuid(),
        "name": text_field(fields, "name", 100),
        "framework": text_field(fields, "framework", FRAMEWORK),
    }

    def effect(connection: Connection) -> Effected:
        of = _parent(connection, PROJECTS, organization, in_project)
        made = _make(connection, MODELS, organization, {**values, "project_id": of["id"]}, project=of["uuid"])
        return Effected(made[1])

    return effect


def dataset(organization: Organization, fields: Fields, payload: Payload | None) -> Effect:
    """Make a dataset."""
    in_project = str(uuid_field(fields, "project"))
    values = {
        "uuid": uuid_field(fields, "uuid", required=False) or new_uuid(),
        "name": text_field(fields, "name", 256),
        "hash": text_field(fields, "hash", 200),
        "metadata": object_field(fields, "metadata"),
        "intermediate": bool_field(fields, "intermediate"),
        "format": text_field(fields, "format", FORMAT, default=""),
    }
    parent = uuid_field(fields, "parent", required=False)
    parent_hash = text_field(fields, "parent_hash", 200, default="")

    def effect(connection: Connection) -> Effected:
        of = _parent(connection, PROJECTS, organization, in_project)
        above: Row | None = None
        if parent is not None:
            above = _parent(connection, DATASETS, organization, parent)
        elif parent_hash:
            above = _dataset_by_hash(connection, of["id"], parent_hash)
        _, made = _make(
            connection,
            DATASETS,
            organization,
            {
                **values,
                "project_id": of["id"],
                "parent_id": above["id"] if above else None,
                "content_id": _add_content(connection, organization.id, payload),
            },
            project=of["uuid"],
            parent=above["uuid"] if above else None,
            parent_hash=above["hash"] if above else None,
            size=payload.size if payload else None,
            sha256=payload.sha256 if payload else None,
        )
        return Effected(made)

    return effect


def _dataset_by_hash(connection: Connection, project_id: int, digest: str) -> Row:
    row = (
        connection.execute(select(datasets).where(datasets.c.project_id == project_id, datasets.c.hash == digest))
        .mappings()
        .first()
    )
    if row is None:
        raise missing_parent("dataset", digest)
    return row


_TRANSFORMATION_FIELDS = frozenset(
    {"uuid", "dataset", "inputs", "name", "code_raw", "code_encoded", "order", "organization"}
)


def _inputs(fields: Fields) -> list[str]:
    """The uuids of the datasets that a transformation was given, the primary parent first."""
    named = fields.get("inputs")
    if named is None or named == "":
        return []
    if not isinstance(named, list) or len(named) > IN_A_CREATE:
        raise bad(f"inputs is no list of at most {IN_A_CREATE} uuids.", field="inputs")
    if not all(isinstance(item, str) and is_uuid(item.lower()) for item in named):
        raise bad("inputs is no list of uuids.", field="inputs")
    return [item.lower() for item in named]


def transformation(organization: Organization, fields: Fields) -> Effect:
    """Make a dataset transformation. The code is text and stays text."""
    of_dataset = str(uuid_field(fields, "dataset"))
    named = _inputs(fields)
    rest = {name: value for name, value in fields.items() if name not in _TRANSFORMATION_FIELDS}
    values = {
        "uuid": uuid_field(fields, "uuid", required=False) or new_uuid(),
        "name": text_field(fields, "name", NAME),
        "code_raw": text_field(fields, "code_raw", 2**31, default=""),
        "code_encoded": text_field(fields, "code_encoded", 2**31, default=""),
        "order": int_field(fields, "order", default=0),
        "details": json.dumps(rest, separators=(",", ":"), ensure_ascii=False, allow_nan=False),
    }

    def effect(connection: Connection) -> Effected:
        of = _parent(connection, DATASETS, organization, of_dataset)
        given = [_parent(connection, DATASETS, organization, item) for item in named]
        row_id, made = _make(
            connection, TRANSFORMATIONS, organization, {**values, "dataset_id": of["id"]}, dataset=of["uuid"]
        )
        if given:
            connection.execute(
                insert(transformation_inputs),
                [
                    {"transformation_id": row_id, "position": position, "dataset_id": row["id"]}
                    for position, row in enumerate(given)
                ],
            )
        made["inputs"] = inputs_of_transformations(connection, [row_id]).get(row_id, [])
        return Effected(made)

    return effect


def _roles(fields: Fields, count: int) -> list[str | None]:
    """What each dataset of a run was for; None where nobody said."""
    roles = fields.get("dataset_roles")
    if roles is None or roles == "":
        return [None] * count
    if not isinstance(roles, list) or len(roles) != count:
        raise bad("dataset_roles is no list with one role for each of datasets.", field="dataset_roles")
    if not all(role is None or (isinstance(role, str) and role in ROLES) for role in roles):
        raise bad(f"dataset_roles: a role is one of {', '.join(ROLES)}, or null.", field="dataset_roles")
    return list(roles)


def training_run(organization: Organization, fields: Fields, *, opens_stream: bool = False) -> Effect:
    """Make a training run. A stream that begins with it (``opens_stream``) is the run's."""
    in_project = str(uuid_field(fields, "project"))
    of_model = uuid_field(fields, "model", required=False)
    named = fields.get("datasets") or []
    if not isinstance(named, list) or len(named) > IN_A_CREATE:
        raise bad(f"datasets is no list of at most {IN_A_CREATE} uuids (or hashes).", field="datasets")
    if not all(isinstance(item, str) and item for item in named):
        raise bad("datasets is no list of uuids (or hashes).", field="datasets")
    roles = _roles(fields, len(named))
    values = {
        "uuid": uuid_field(fields, "uuid", required=False) or new_uuid(),
        "name": text_field(fields, "name", NAME),
        "params": object_field(fields, "params"),
        "metadata": object_field(fields, "metadata"),
        "status": RUNNING if "started_ns" in fields else UNKNOWN,
        "started_ns": int_field(fields, "started_ns", default=now_ns()),
        "finished_ns": None,
        "ends": "[]",
    }

    def effect(connection: Connection) -> Effected:
        of = _parent(connection, PROJECTS, organization, in_project)
        trained = None if of_model is None else _parent(connection, MODELS, organization, of_model)
        used = [
            _parent(connection, DATASETS, organization, item.lower())
            if is_uuid(item.lower())
            else _dataset_by_hash(connection, of["id"], item)
            for item in named
        ]
        row_id, made = _make(
            connection,
            TRAINING_RUNS,
            organization,
            {**values, "project_id": of["id"], "model_id": trained["id"] if trained else None},
            project=of["uuid"],
            model=trained["uuid"] if trained else None,
        )
        if used:
            connection.execute(
                insert(training_run_datasets),
                [
                    {"training_run_id": row_id, "position": position, "dataset_id": row["id"], "role": role or ""}
                    for position, (row, role) in enumerate(zip(used, roles, strict=True))
                ],
            )
        made["datasets"] = [row["uuid"] for row in used]
        made["dataset_roles"] = roles
        return Effected(made, row_id if opens_stream else None)

    return effect


def model_state(organization: Organization, fields: Fields, payload: Payload | None) -> Effect:
    """Make a model state."""
    in_project = uuid_field(fields, "project", required=False)
    of_run = str(uuid_field(fields, "training_run"))
    sequence_num = int_field(fields, "sequence_num")
    if sequence_num is None:
        raise bad("sequence_num is required.", field="sequence_num")
    values = {
        "uuid": uuid_field(fields, "uuid", required=False) or new_uuid(),
        "sequence_num": sequence_num,
        "step": int_field(fields, "step", low=-(2**63)),
        "final_state": bool_field(fields, "final_state"),
        "format": text_field(fields, "format", FORMAT, default=""),
        "framework": text_field(fields, "framework", FRAMEWORK, default=""),
        "metadata": object_field(fields, "metadata"),
        "made_ns": int_field(fields, "created_ns", default=now_ns()),
    }

    def effect(connection: Connection) -> Effected:
        run = _parent(connection, TRAINING_RUNS, organization, of_run)
        if in_project is None:
            project_id, project_uuid = run["project_id"], uuid_of(connection, projects, run["project_id"])
        else:
            of = _parent(connection, PROJECTS, organization, in_project)
            project_id, project_uuid = of["id"], of["uuid"]
        _, made = _make(
            connection,
            MODEL_STATES,
            organization,
            {
                **values,
                "project_id": project_id,
                "training_run_id": run["id"],
                "content_id": _add_content(connection, organization.id, payload),
            },
            project=project_uuid,
            training_run=run["uuid"],
            size=payload.size if payload else None,
            sha256=payload.sha256 if payload else None,
        )
        return Effected(made, run["id"])

    return effect


def uuid_of(connection: Connection, table: Table, row_id: int) -> str:
    """The uuid of a row."""
    return str(connection.execute(select(table.c.uuid).where(table.c.id == row_id)).scalar_one())


# ------------------------------------------------------------------------------------------------- what ends a run


def finish(organization: Organization, run_uuid: str, fields: Fields) -> Effect:
    """End a run, and keep where each of its streams stood."""
    status = fields.get("status")
    if status not in (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.PREEMPTED):
        raise bad("status is none of finished, failed, preempted.", field="status")
    finished_ns = int_field(fields, "finished_ns", default=now_ns())
    ends = json.dumps(_ends(fields.get("streams") or []), separators=(",", ":"))

    def effect(connection: Connection) -> Effected:
        run = _parent(connection, TRAINING_RUNS, organization, run_uuid)
        connection.execute(
            update(training_runs)
            .where(training_runs.c.id == run["id"])
            .values(status=str(status), finished_ns=finished_ns, ends=ends)
        )
        return Effected(show_row(connection, TRAINING_RUNS, run["id"]), run["id"])

    return effect


def _ends(listed: Any) -> list[dict[str, Any]]:
    if not isinstance(listed, list) or len(listed) > 10_000:
        raise bad("streams is no list.", field="streams")
    ends = []
    for item in listed:
        if not isinstance(item, dict) or item.get("lane") not in ("ordered", "bulk"):
            raise bad("streams is no list of {stream, lane, sequence}.", field="streams")
        ends.append(
            {
                "stream": uuid_field(item, "stream"),
                "lane": item["lane"],
                "sequence": int_field(item, "sequence", default=0),
            }
        )
    return ends


def target_of(kind: str) -> Collection | None:
    """The collection that a kind of record makes objects of, if it does."""
    return BY_KIND.get(Kind(kind)) if kind in tuple(Kind) else None
