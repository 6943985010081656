"""The objects that people look at: how each kind is found, filtered and shown.

Every look-up takes the row ids of the caller's organisations; without them nothing is found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, Table, and_, bindparam, exists, or_, select

from seclea.entities import Kind
from seclea.portal.bodies import INT64, bool_field, int_field, is_uuid
from seclea.portal.replies import bad
from seclea.portal.tables import (
    aliases,
    contents,
    dataset_transformations,
    datasets,
    model_states,
    models,
    organizations,
    projects,
    training_run_datasets,
    training_runs,
    transformation_inputs,
)

Row = Mapping[Any, Any]  # a row by column names
_parents = datasets.alias("parents")


@dataclass(frozen=True, slots=True)
class Collection:
    """One kind of object: its path, its table, the query that shows it and the columns that a list may be filtered by."""

    kind: Kind
    path: str
    table: Table
    query: Select[Any]
    filters: Mapping[str, Callable[[str], Any]]
    show: Callable[[Row], dict[str, Any]]


def _equals(column: Any) -> Callable[[str], Any]:
    return lambda value: column == value


def _whole(column: Any) -> Callable[[str], Any]:
    return lambda value: column == int_field({column.name: value}, column.name, low=-INT64)


def _yes_or_no(column: Any) -> Callable[[str], Any]:
    return lambda value: column.is_(bool_field({column.name: value}, column.name))


def _reference(kind: str, column: Any, table: Table) -> Callable[[str], Any]:
    """A filter by another object's uuid, which may be an alias of it."""

    def condition(value: str) -> Any:
        value, target = value.lower(), table.alias()
        if not is_uuid(value):
            raise bad(f"{kind} is no valid uuid.", field=kind)
        known_as = select(aliases.c.target).where(
            aliases.c.organization_id == target.c.organization_id, aliases.c.uuid == value
        )
        named = or_(target.c.uuid == value, target.c.uuid.in_(known_as))
        return exists().where(and_(target.c.id == column, named))

    return condition


def _show_common(row: Row, *names: str) -> dict[str, Any]:
    return {"uuid": row["uuid"], "organization": row["organization"], **{name: row[name] for name in names}}


def _show_project(row: Row) -> dict[str, Any]:
    return _show_common(row, "name", "description", "created_ns")


def _show_model(row: Row) -> dict[str, Any]:
    return _show_common(row, "project", "name", "framework", "created_ns")


def _show_dataset(row: Row) -> dict[str, Any]:
    return {
        **_show_common(
            row, "project", "name", "hash", "parent", "parent_hash", "format", "size", "sha256", "created_ns"
        ),
        "intermediate": bool(row["intermediate"]),
        "metadata": json.loads(row["metadata"]),
    }


def _show_transformation(row: Row) -> dict[str, Any]:
    details = json.loads(row["details"])
    known = _show_common(row, "dataset", "name", "code_raw", "code_encoded", "order", "created_ns")
    known["inputs"] = []  # `_with_lists` says which
    return {**{name: value for name, value in details.items() if name not in known}, **known}


def _show_run(row: Row) -> dict[str, Any]:
    return {
        **_show_common(row, "project", "model", "name", "status", "started_ns", "finished_ns", "created_ns"),
        "params": json.loads(row["params"]),
        "metadata": json.loads(row["metadata"]),
    }


def _show_state(row: Row) -> dict[str, Any]:
    return {
        **_show_common(row, "project", "training_run", "sequence_num", "step", "format", "framework", "size", "sha256"),
        "final_state": bool(row["final_state"]),
        "metadata": json.loads(row["metadata"]),
        "created_ns": row["made_ns"],
    }


def _query(table: Table, *more: Any) -> Select[Any]:
    return select(table, organizations.c.uuid.label("organization"), *more).join(
        organizations, organizations.c.id == table.c.organization_id
    )


PROJECTS = Collection(
    Kind.PROJECT, "projects", projects, _query(projects), {"name": _equals(projects.c.name)}, _show_project
)
MODELS = Collection(
    Kind.MODEL,
    "models",
    models,
    _query(models, projects.c.uuid.label("project")).join(projects, projects.c.id == models.c.project_id),
    {
        "project": _reference("project", models.c.project_id, projects),
        "name": _equals(models.c.name),
        "framework": _equals(models.c.framework),
    },
    _show_model,
)
DATASETS = Collection(
    Kind.DATASET,
    "datasets",
    datasets,
    _query(
        datasets,
        projects.c.uuid.label("project"),
        _parents.c.uuid.label("parent"),
        _parents.c.hash.label("parent_hash"),
        contents.c.size,
        contents.c.sha256,
    )
    .join(projects, projects.c.id == datasets.c.project_id)
    .outerjoin(_parents, _parents.c.id == datasets.c.parent_id)
    .outerjoin(contents, contents.c.id == datasets.c.content_id),
    {
        "project": _reference("project", datasets.c.project_id, projects),
        "hash": _equals(datasets.c.hash),
        "name": _equals(datasets.c.name),
        "parent": _reference("parent", datasets.c.parent_id, datasets),
        "intermediate": _yes_or_no(datasets.c.intermediate),
    },
    _show_dataset,
)


def _of_run(value: str) -> Any:
    """The older client asks for the transformations of all datasets of a run."""
    inner = training_run_datasets.c
    return exists().where(
        and_(
            inner.dataset_id == dataset_transformations.c.dataset_id,
            _reference("training_run", inner.training_run_id, training_runs)(value),
        )
    )


def _of_input(value: str) -> Any:
    """The transformations that were given a dataset; where a base client named none, that is the parent."""
    inner, own = transformation_inputs.c, dataset_transformations.c
    named = _reference("input", inner.dataset_id, datasets)(value)
    parent = _reference("input", datasets.c.parent_id, datasets)(value)
    names_some = exists().where(inner.transformation_id == own.id)
    return or_(exists().where(and_(inner.transformation_id == own.id, named)), and_(~names_some, parent))


TRANSFORMATIONS = Collection(
    Kind.DATASET_TRANSFORMATION,
    "dataset-transformations",
    dataset_transformations,
    _query(dataset_transformations, datasets.c.uuid.label("dataset")).join(
        datasets, datasets.c.id == dataset_transformations.c.dataset_id
    ),
    {
        "dataset": _reference("dataset", dataset_transformations.c.dataset_id, datasets),
        "input": _of_input,
        "training_run": _of_run,
        "name": _equals(dataset_transformations.c.name),
        "project": _reference("project", datasets.c.project_id, projects),
    },
    _show_transformation,
)
TRAINING_RUNS = Collection(
    Kind.TRAINING_RUN,
    "training-runs",
    training_runs,
    _query(training_runs, projects.c.uuid.label("project"), models.c.uuid.label("model"))
    .join(projects, projects.c.id == training_runs.c.project_id)
    .outerjoin(models, models.c.id == training_runs.c.model_id),
    {
        "project": _reference("project", training_runs.c.project_id, projects),
        "model": _reference("model", training_runs.c.model_id, models),
        "name": _equals(training_runs.c.name),
        "status": _equals(training_runs.c.status),
    },
    _show_run,
)
MODEL_STATES = Collection(
    Kind.MODEL_STATE,
    "model-states",
    model_states,
    _query(
        model_states,
        projects.c.uuid.label("project"),
        training_runs.c.uuid.label("training_run"),
        contents.c.size,
        contents.c.sha256,
    )
    .join(projects, projects.c.id == model_states.c.project_id)
    .join(training_runs, training_runs.c.id == model_states.c.training_run_id)
    .outerjoin(contents, contents.c.id == model_states.c.content_id),
    {
        "project": _reference("project", model_states.c.project_id, projects),
        "training_run": _reference("training_run", model_states.c.training_run_id, training_runs),
        "sequence_num": _whole(model_states.c.sequence_num),
    },
    _show_state,
)
COLLECTIONS: dict[str, Collection] = {
    item.path: item for item in (PROJECTS, MODELS, DATASETS, TRANSFORMATIONS, TRAINING_RUNS, MODEL_STATES)
}
BY_KIND: dict[Kind, Collection] = {item.kind: item for item in COLLECTIONS.values()}


# --------------------------------------------------------------------------------------------------------- look-ups


# Built once: building a statement costs five times as much as running it.
_SCOPE: Any = bindparam("scope", expanding=True)
_FIND = {
    item.path: select(item.table).where(
        item.table.c.organization_id.in_(_SCOPE), item.table.c.uuid == bindparam("with_uuid")
    )
    for item in COLLECTIONS.values()
}
_FIND_ALIAS = select(aliases.c.target).where(
    aliases.c.organization_id.in_(_SCOPE),
    aliases.c.uuid == bindparam("with_uuid"),
    aliases.c.kind == bindparam("of_kind"),
)


def find_row(connection: Connection, collection: Collection, scope: Sequence[int], uuid: str) -> Row | None:
    """The object's own row by uuid or alias."""
    statement, values = _FIND[collection.path], {"scope": scope, "with_uuid": uuid}
    row = connection.execute(statement, values).mappings().first()
    if row is None:
        target = connection.execute(_FIND_ALIAS, {**values, "of_kind": str(collection.kind)}).scalar()
        if target is not None:
            row = connection.execute(statement, {**values, "with_uuid": target}).mappings().first()
    return row


def show_one(connection: Connection, collection: Collection, scope: Sequence[int], uuid: str) -> dict[str, Any] | None:
    """The object as JSON, by uuid or alias."""
    row = find_row(connection, collection, scope, uuid)
    return None if row is None else show_row(connection, collection, row["id"])


def show_row(connection: Connection, collection: Collection, row_id: int) -> dict[str, Any]:
    """The object as JSON, by row id."""
    row = connection.execute(collection.query.where(collection.table.c.id == row_id)).mappings().one()
    return _with_lists(connection, collection, [row])[0]


def show_rows(connection: Connection, collection: Collection, condition: Any) -> list[dict[str, Any]]:
    """All objects that fit, as JSON; the condition says whose."""
    rows = connection.execute(collection.query.where(condition).order_by(collection.table.c.id)).mappings().all()
    return _with_lists(connection, collection, rows)


def show_list(
    connection: Connection,
    collection: Collection,
    scope: Sequence[int],
    query: Mapping[str, str],
    *,
    after: int = 0,
    limit: int,
    newest_first: bool = False,
) -> tuple[list[dict[str, Any]], int | None]:
    """A page of objects, oldest first, and the cursor of the next page."""
    table = collection.table
    statement = collection.query.where(table.c.organization_id.in_(scope), table.c.id > after)
    for name, condition in collection.filters.items():
        if name in query:
            statement = statement.where(condition(query[name]))
    statement = statement.order_by(table.c.id.desc() if newest_first else table.c.id).limit(limit + 1)
    rows = connection.execute(statement).mappings().all()
    following = rows[limit - 1]["id"] if len(rows) > limit else None
    return _with_lists(connection, collection, rows[:limit]), following


def _with_lists(connection: Connection, collection: Collection, rows: Sequence[Any]) -> list[dict[str, Any]]:
    shown = [collection.show(row) for row in rows]
    row_ids = [row["id"] for row in rows]
    if collection is TRAINING_RUNS:
        of_run = datasets_of_runs(connection, row_ids)
        for item, row_id in zip(shown, row_ids, strict=True):
            used = of_run.get(row_id, [])
            item["datasets"] = [uuid for uuid, _ in used]
            item["dataset_roles"] = [role for _, role in used]
    if collection is TRANSFORMATIONS:
        of_step = inputs_of_transformations(connection, row_ids)
        for item, row_id in zip(shown, row_ids, strict=True):
            item["inputs"] = of_step.get(row_id, [])
    return shown


def datasets_of_runs(connection: Connection, run_ids: Iterable[int]) -> dict[int, list[tuple[str, str | None]]]:
    """The uuids of each run's datasets with their roles, in their order."""
    rows = connection.execute(
        select(training_run_datasets.c.training_run_id, datasets.c.uuid, training_run_datasets.c.role)
        .join(datasets, datasets.c.id == training_run_datasets.c.dataset_id)
        .where(training_run_datasets.c.training_run_id.in_(list(run_ids)))
        .order_by(training_run_datasets.c.training_run_id, training_run_datasets.c.position)
    )
    of_run: dict[int, list[tuple[str, str | None]]] = {}
    for run_id, uuid, role in rows:
        of_run.setdefault(run_id, []).append((uuid, role or None))
    return of_run


def inputs_of_transformations(connection: Connection, row_ids: Iterable[int]) -> dict[int, list[str]]:
    """The uuids of each transformation's inputs, in their order; the dataset's parent where none were named."""
    wanted = list(row_ids)
    of_step: dict[int, list[str]] = {}
    named = (
        select(transformation_inputs.c.transformation_id, datasets.c.uuid)
        .join(datasets, datasets.c.id == transformation_inputs.c.dataset_id)
        .where(transformation_inputs.c.transformation_id.in_(wanted))
        .order_by(transformation_inputs.c.transformation_id, transformation_inputs.c.position)
    )
    for step_id, uuid in connection.execute(named):
        of_step.setdefault(step_id, []).append(uuid)
    if left := [row_id for row_id in wanted if row_id not in of_step]:
        own = dataset_transformations.c
        parents = (
            select(own.id, _parents.c.uuid)
            .join(datasets, datasets.c.id == own.dataset_id)
            .join(_parents, _parents.c.id == datasets.c.parent_id)
            .where(own.id.in_(left))
        )
        of_step.update({step_id: [uuid] for step_id, uuid in connection.execute(parents)})
    return of_step
