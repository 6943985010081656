"""Lineage as a graph: from which data, by which steps, which runs and states came to be.

Rule 1  What is asked for, everything above it and everything below it; edges between these and to nothing else.
Rule 2  One query for each level of datasets, a fixed number for all the rest. A cycle ends the walk, it does not repeat it.
Rule 3  No more than `NODES` and `EDGES`, the nearest first; what was left out is counted in ``truncated``.

Nothing here needs the scope again after the first look-up: a create can only name objects of its own organisation.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Select, bindparam, case, func, select, union

from seclea.portal.creates import IN_LIST
from seclea.portal.objects import Row
from seclea.portal.tables import (
    dataset_transformations,
    datasets,
    model_states,
    models,
    projects,
    training_run_datasets,
    training_runs,
    transformation_inputs,
)

NODES = 5000  # of one answer: more than a page can draw, less than what makes a portal slow
EDGES = 20_000
WORD = 300  # characters of a text that a client may have made as long as it liked
READ_BYTES = 4 * 1024 * 1024  # of one object's JSON that is opened for the few words that a node or edge shows of it


class Direction(StrEnum):
    """Which way from the thing asked for."""

    UP = "up"
    DOWN = "down"
    BOTH = "both"

    @property
    def goes_up(self) -> bool:
        """To what it was made from."""
        return self is not Direction.DOWN

    @property
    def goes_down(self) -> bool:
        """To what was made from it."""
        return self is not Direction.UP


@dataclass(slots=True)
class _Found:
    """The row ids of the graph, in the order in which they were met, and how many more there would have been."""

    datasets: dict[int, None] = field(default_factory=dict)
    runs: dict[int, None] = field(default_factory=dict)
    states: dict[int, None] = field(default_factory=dict)
    left_out: int = 0

    @property
    def room(self) -> int:
        return NODES - len(self.datasets) - len(self.runs) - len(self.states)

    def add(self, to: dict[int, None], row_ids: Iterable[int]) -> list[int]:
        """Take in those that are new; which these were."""
        new = [row_id for row_id in dict.fromkeys(row_ids) if row_id not in to]
        taken = new[: max(0, self.room)]
        to.update(dict.fromkeys(taken))
        self.left_out += len(new) - len(taken)
        return taken


# ----------------------------------------------------------------------------------------------------- what is asked


def of_dataset(connection: Connection, row: Row, direction: Direction) -> dict[str, Any]:
    """What a dataset was made from; what was made from it, the runs on any of these and their states."""
    found = _Found()
    found.add(found.datasets, [row["id"]])
    if direction.goes_down:
        below = [row["id"], *_walk(connection, found, _BELOW, [row["id"]])]
        found.add(found.runs, _ids(connection, _RUNS_ON, below))
        _add_states(connection, found)
    if direction.goes_up:
        _walk(connection, found, _ABOVE, [row["id"]])
    return _graph(connection, found)


def of_run(connection: Connection, row: Row, direction: Direction) -> dict[str, Any]:
    """The datasets of a run and what these were made from; its states."""
    found = _Found()
    found.add(found.runs, [row["id"]])
    if direction.goes_up:
        _add_trained_on(connection, found, row["id"])
    if direction.goes_down:
        _add_states(connection, found)
    return _graph(connection, found)


def of_state(connection: Connection, row: Row, direction: Direction) -> dict[str, Any]:
    """A state, its run, and the data of that run. Nothing is below a state."""
    found = _Found()
    found.add(found.states, [row["id"]])
    if direction.goes_up:
        found.add(found.runs, [row["training_run_id"]])
        _add_trained_on(connection, found, row["training_run_id"])
    return _graph(connection, found)


def of_project(connection: Connection, row: Row) -> dict[str, Any]:
    """Everything in a project, and what its data was made from elsewhere."""
    found = _Found()
    for to, table in ((found.datasets, datasets), (found.runs, training_runs)):
        inside = table.c.project_id == row["id"]
        taken = select(table.c.id).where(inside).order_by(table.c.id).limit(max(0, found.room))
        found.add(to, connection.execute(taken).scalars())
        total = connection.execute(select(func.count()).select_from(table).where(inside)).scalar_one()
        found.left_out += total - len(to)
    found.add(found.datasets, _ids(connection, _TRAINED_ON, list(found.runs)))
    _walk(connection, found, _ABOVE, list(found.datasets))
    _add_states(connection, found)
    return _graph(connection, found)


def _add_trained_on(connection: Connection, found: _Found, run_id: int) -> None:
    used = found.add(found.datasets, _ids(connection, _TRAINED_ON, [run_id]))
    _walk(connection, found, _ABOVE, used)


def _add_states(connection: Connection, found: _Found) -> None:
    """The states of the runs, the newest of each run first."""
    own = model_states.c
    for part in _parts(list(found.runs)):
        of_runs = own.training_run_id.in_(part)
        room = max(0, found.room)
        newest = select(own.id).where(of_runs).order_by(own.sequence_num.desc(), own.id).limit(room)
        taken = found.add(found.states, connection.execute(newest).scalars())
        total = connection.execute(select(func.count()).select_from(model_states).where(of_runs)).scalar_one()
        found.left_out += total - len(taken)


# ------------------------------------------------------------------------------------------------------------- walks


_LEVEL: Any = bindparam("level", expanding=True)
_step_of = transformation_inputs.join(
    dataset_transformations, dataset_transformations.c.id == transformation_inputs.c.transformation_id
)
_ABOVE: Any = union(
    select(datasets.c.parent_id).where(datasets.c.id.in_(_LEVEL), datasets.c.parent_id.is_not(None)),
    select(transformation_inputs.c.dataset_id)
    .select_from(_step_of)
    .where(dataset_transformations.c.dataset_id.in_(_LEVEL)),
)
_BELOW: Any = union(
    select(datasets.c.id).where(datasets.c.parent_id.in_(_LEVEL)),
    select(dataset_transformations.c.dataset_id)
    .select_from(_step_of)
    .where(transformation_inputs.c.dataset_id.in_(_LEVEL)),
)
_RUNS_ON: Any = (
    select(training_run_datasets.c.training_run_id)
    .where(training_run_datasets.c.dataset_id.in_(_LEVEL))
    .distinct()
    .order_by(training_run_datasets.c.training_run_id)
)
_TRAINED_ON: Any = (
    select(training_run_datasets.c.dataset_id)
    .where(training_run_datasets.c.training_run_id.in_(_LEVEL))
    .order_by(training_run_datasets.c.training_run_id, training_run_datasets.c.position)
)


def _parts(row_ids: Sequence[int]) -> list[Sequence[int]]:
    return [row_ids[start : start + IN_LIST] for start in range(0, len(row_ids), IN_LIST)]


def _ids(connection: Connection, statement: Any, row_ids: Sequence[int]) -> list[int]:
    found: list[int] = []
    for part in _parts(row_ids):
        found += connection.execute(statement, {"level": part}).scalars()
    return found


def _walk(connection: Connection, found: _Found, statement: Any, level: Sequence[int]) -> list[int]:
    """Level by level until nothing new comes; the new ones."""
    met: list[int] = []
    while level and found.room > 0:
        level = found.add(found.datasets, sorted(_ids(connection, statement, level)))
        met += level
    if level:  # no room: the next level is only counted
        found.add(found.datasets, _ids(connection, statement, level))
    return met


# ------------------------------------------------------------------------------------------------------------- graph


def _rows(connection: Connection, statement: Select[Any], column: Any, row_ids: Iterable[int]) -> list[Row]:
    rows: list[Row] = []
    for part in _parts(list(row_ids)):
        rows += connection.execute(statement.where(column.in_(part))).mappings()
    return rows


def _opened(column: Any) -> Any:
    """A JSON text, unless it is so long that reading it would take the time of all others."""
    return case((func.length(column) <= READ_BYTES, column), else_="{}").label(column.name)


def _graph(connection: Connection, found: _Found) -> dict[str, Any]:
    tables = _rows(connection, _DATASETS, datasets.c.id, found.datasets)
    runs = _rows(connection, _RUNS, training_runs.c.id, found.runs)
    states = _rows(connection, _STATES, model_states.c.id, found.states)
    uuids = {row["id"]: row["uuid"] for row in tables}
    run_uuids = {row["id"]: row["uuid"] for row in runs}
    edges = _made(connection, tables, uuids)
    for row in _rows(connection, _USES, training_run_datasets.c.training_run_id, found.runs):
        if row["dataset_id"] in uuids:
            run = run_uuids[row["training_run_id"]]
            edges.append({"from": uuids[row["dataset_id"]], "to": run, "kind": row["role"] or "used"})
    for row in states:
        if row["training_run_id"] in run_uuids:
            edges.append({"from": run_uuids[row["training_run_id"]], "to": row["uuid"], "kind": "state"})
    nodes = [*map(_dataset, tables), *map(_run, runs), *map(_state, states)]
    graph: dict[str, Any] = {"nodes": nodes, "edges": edges[:EDGES]}
    if left_out := found.left_out + len(edges[EDGES:]):
        graph["truncated"] = left_out
    return graph


_DATASETS = select(
    datasets.c.id,
    datasets.c.uuid,
    datasets.c.name,
    datasets.c.hash,
    datasets.c.parent_id,
    datasets.c.intermediate,
    datasets.c.format,
    datasets.c.created_ns,
    _opened(datasets.c.metadata),
    projects.c.uuid.label("project"),
).join(projects, projects.c.id == datasets.c.project_id)
_RUNS = (
    select(
        training_runs.c.id,
        training_runs.c.uuid,
        training_runs.c.name,
        training_runs.c.status,
        training_runs.c.started_ns,
        _opened(training_runs.c.metadata),
        models.c.name.label("model"),
        projects.c.uuid.label("project"),
    )
    .join(projects, projects.c.id == training_runs.c.project_id)
    .outerjoin(models, models.c.id == training_runs.c.model_id)
)
_STATES = select(
    model_states.c.id,
    model_states.c.uuid,
    model_states.c.training_run_id,
    model_states.c.sequence_num,
    model_states.c.step,
    model_states.c.final_state,
    projects.c.uuid.label("project"),
).join(projects, projects.c.id == model_states.c.project_id)
_USES = select(training_run_datasets).order_by(
    training_run_datasets.c.training_run_id, training_run_datasets.c.position
)
_STEPS = select(
    dataset_transformations.c.id,
    dataset_transformations.c.uuid,
    dataset_transformations.c.dataset_id,
    dataset_transformations.c.name,
    dataset_transformations.c.order,
    _opened(dataset_transformations.c.details),
).order_by(dataset_transformations.c.dataset_id, dataset_transformations.c.order, dataset_transformations.c.id)
_INPUTS = select(transformation_inputs).order_by(
    transformation_inputs.c.transformation_id, transformation_inputs.c.position
)


def _dataset(row: Row) -> dict[str, Any]:
    told = json.loads(row["metadata"])
    roles = told.get("roles")
    return {
        "uuid": row["uuid"],
        "kind": "dataset",
        "project": row["project"],
        "name": row["name"],
        "hash": row["hash"],
        "intermediate": bool(row["intermediate"]),
        "split": _word(told.get("split")),
        "num_samples": _number(told.get("num_samples")),
        "format": row["format"],
        "roles": isinstance(roles, dict) and bool(roles.get("X") or roles.get("y")),
        "created_ns": row["created_ns"],
    }


def _run(row: Row) -> dict[str, Any]:
    told = json.loads(row["metadata"])
    return {
        "uuid": row["uuid"],
        "kind": "training_run",
        "project": row["project"],
        "name": row["name"],
        "status": row["status"],
        "model": row["model"],
        "application_type": _word(told.get("application_type")),
        "started_ns": row["started_ns"],
    }


def _state(row: Row) -> dict[str, Any]:
    return {
        "uuid": row["uuid"],
        "kind": "model_state",
        "project": row["project"],
        "name": f"State {row['sequence_num']}",
        "sequence_num": row["sequence_num"],
        "final_state": bool(row["final_state"]),
        "step": row["step"],
    }


def _word(value: Any) -> str | None:
    return value[:WORD] if isinstance(value, str) and value else None


def _number(value: Any) -> int | None:
    return value if type(value) is int else None


def _made(connection: Connection, tables: Sequence[Row], uuids: dict[int, str]) -> list[dict[str, Any]]:
    """The edges between datasets: a step's inputs to its output; a parent of which no step says how is one too."""
    steps = _rows(connection, _STEPS, dataset_transformations.c.dataset_id, uuids)
    inputs: dict[int, list[int]] = defaultdict(list)
    for row in _rows(connection, _INPUTS, transformation_inputs.c.transformation_id, [step["id"] for step in steps]):
        inputs[row["transformation_id"]].append(row["dataset_id"])
    parents = {row["id"]: row["parent_id"] for row in tables}
    edges: list[dict[str, Any]] = []
    told: set[tuple[int, int]] = set()
    for step in steps:
        parent, made = parents[step["dataset_id"]], step["dataset_id"]
        given = inputs.get(step["id"]) or ([] if parent is None else [parent])
        details = json.loads(step["details"]).get("details")
        details = details if isinstance(details, dict) else {}
        argument = _arguments(details, len(given))
        for position, source in enumerate(given):
            told.add((source, made))
            if source in uuids:
                edges.append(
                    {
                        "from": uuids[source],
                        "to": uuids[made],
                        "kind": "transformation",
                        "transformation": step["uuid"],
                        "name": step["name"],
                        "position": position,
                        "order": step["order"],
                        "verdict": _word(details.get("verdict")),
                        "argument": argument(position, uuids[source]),
                    }
                )
    edges += [
        {"from": uuids[parent], "to": uuids[made], "kind": "parent"}
        for made, parent in parents.items()
        if parent in uuids and (parent, made) not in told
    ]
    return edges


def _arguments(details: dict[str, Any], given: int) -> Callable[[int, str], str | None]:
    """The name of the argument that an input was passed as: by its uuid, or by its place where that is an alias."""
    arguments = details.get("arguments")
    data = arguments.get("data") if isinstance(arguments, dict) else None
    listed = [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []

    def argument(position: int, uuid: str) -> str | None:
        for item in listed:
            if item.get("dataset") == uuid:
                return _word(item.get("name"))
        return _word(listed[position].get("name")) if len(listed) == given else None

    return argument
