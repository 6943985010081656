"""What the pages show, read from the tables."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Table, func, select, union

from seclea.portal import lineage
from seclea.portal.health import health_of
from seclea.portal.lineage import Direction
from seclea.portal.objects import (
    DATASETS,
    MODEL_STATES,
    PROJECTS,
    TRAINING_RUNS,
    TRANSFORMATIONS,
    Collection,
    find_row,
    show_list,
    show_row,
)
from seclea.portal.receipts import read_receipts
from seclea.portal.series import list_keys
from seclea.portal.steps import columns_of, names_of, read_step, read_steps, verdict_of, way_to
from seclea.portal.tables import (
    dataset_transformations,
    datasets,
    model_states,
    models,
    organizations,
    training_run_datasets,
    training_runs,
    transformation_inputs,
)
from seclea.portal.tables import projects as project_rows

ROWS = 500  # of a list on a page
STEPS = 100  # whose source stands on a dataset's page: the last ones
WAYS = 20  # datasets of a run whose way from the raw data is written out
SHOWN_APART = frozenset(  # metadata with a place of its own on a dataset's page
    {"features", "categorical_features", "categorical_values", "outputs_info", "column_digests", "roles", "split",
     "num_samples", "framework", "content_digest", "dataset_type"}
)  # fmt: skip


def projects(connection: Connection, scope: list[int]) -> list[dict[str, Any]]:
    """Every project with what is in it, the one worked on last first."""
    rows = connection.execute(
        select(project_rows, organizations.c.name.label("organization"))
        .join(organizations, organizations.c.id == project_rows.c.organization_id)
        .where(project_rows.c.organization_id.in_(scope))
    ).all()
    runs, tables, kinds = (_per_project(connection, table, scope) for table in (training_runs, datasets, models))
    running = _per_project(connection, training_runs, scope, training_runs.c.status == "running")
    found = [
        {
            "uuid": row.uuid,
            "name": row.name,
            "description": row.description,
            "organization": row.organization,
            "runs": runs.get(row.id, (0, 0))[0],
            "running": running.get(row.id, (0, 0))[0],
            "datasets": tables.get(row.id, (0, 0))[0],
            "models": kinds.get(row.id, (0, 0))[0],
            "last_ns": max(row.created_ns, *(counted.get(row.id, (0, 0))[1] for counted in (runs, tables, kinds))),
        }
        for row in rows
    ]
    return sorted(found, key=lambda item: -item["last_ns"])


def _per_project(connection: Connection, table: Table, scope: list[int], *where: Any) -> dict[int, tuple[int, int]]:
    """How many a project has, and when the last one came."""
    rows = connection.execute(
        select(table.c.project_id, func.count(), func.max(table.c.created_ns))
        .where(table.c.organization_id.in_(scope), *where)
        .group_by(table.c.project_id)
    )
    return {row[0]: (row[1], row[2]) for row in rows}


def _list(connection: Connection, collection: Collection, scope: list[int], **query: str) -> list[dict[str, Any]]:
    return show_list(connection, collection, scope, query, limit=ROWS, newest_first=True)[0]


def project(connection: Connection, scope: list[int], uuid: str) -> dict[str, Any] | None:
    """A project's runs and datasets, newest first."""
    row = find_row(connection, PROJECTS, scope, uuid)
    if row is None:
        return None
    runs = _list(connection, TRAINING_RUNS, scope, project=uuid)
    states: dict[str, int] = dict(
        connection.execute(
            select(training_runs.c.uuid, func.count())
            .join(model_states, model_states.c.training_run_id == training_runs.c.id)
            .where(training_runs.c.project_id == row["id"])
            .group_by(training_runs.c.uuid)
        )
        .tuples()
        .all()
    )
    named = select(models.c.uuid, models.c.name).where(models.c.organization_id == row["organization_id"])
    names: dict[str, str] = dict(connection.execute(named).tuples().all())
    for run_shown in runs:
        run_shown["states"] = states.get(run_shown["uuid"], 0)
        run_shown["model_name"] = names.get(run_shown["model"], "")
    tables = _list(connection, DATASETS, scope, project=uuid, intermediate="false")
    between = _list(connection, DATASETS, scope, project=uuid, intermediate="true")
    above = [table["parent"] for table in [*tables, *between] if table["parent"]]
    titled = select(datasets.c.uuid, datasets.c.name).where(
        datasets.c.organization_id == row["organization_id"], datasets.c.uuid.in_(above)
    )
    titles: dict[str, str] = dict(connection.execute(titled).tuples().all())
    for table in [*tables, *between]:
        table["parent_name"] = titles.get(table["parent"], "")
    return {
        "project": show_row(connection, PROJECTS, row["id"]),
        "runs": runs,
        "datasets": tables,
        "between": between,
        "rows": ROWS,
    }


def run(connection: Connection, scope: list[int], uuid: str) -> dict[str, Any] | None:
    """A run with its parameters, states, datasets and what the portal holds of its streams."""
    row = find_row(connection, TRAINING_RUNS, scope, uuid)
    if row is None:
        return None
    shown = show_row(connection, TRAINING_RUNS, row["id"])
    model = connection.execute(select(models.c.name, models.c.framework).where(models.c.id == row["model_id"])).first()
    used = connection.execute(
        select(datasets.c.uuid, datasets.c.name, training_run_datasets.c.role)
        .join(training_run_datasets, training_run_datasets.c.dataset_id == datasets.c.id)
        .where(training_run_datasets.c.training_run_id == row["id"])
        .order_by(training_run_datasets.c.position)
    ).all()
    graph = lineage.of_run(connection, row, Direction.UP)
    return {
        "run": shown,
        "project": show_row(connection, PROJECTS, row["project_id"]),
        "model": model,
        "datasets": used,
        "ways": [{"role": item.role, "way": way_to(graph, item.uuid)} for item in used[:WAYS]],
        "verdict": verdict_of(graph),
        "keys": list_keys(connection, row["id"]),
        "states": _list(connection, MODEL_STATES, scope, training_run=uuid),
        "receipts": read_receipts(connection, scope, None, shown["uuid"]),
        "health": health_of(connection, row),
    }


def dataset(connection: Connection, scope: list[int], uuid: str) -> dict[str, Any] | None:
    """A dataset with the way from the origin to it, its children and the runs that used it."""
    row = find_row(connection, DATASETS, scope, uuid)
    if row is None:
        return None
    shown = show_row(connection, DATASETS, row["id"])
    graph = lineage.of_dataset(connection, row, Direction.UP)
    names = names_of(graph)
    way = way_to(graph, shown["uuid"])
    wanted = [edge["transformation"] for part in way for edge in part["steps"]][-STEPS:]
    found = read_steps(connection, row["organization_id"], wanted, names)
    for part in way:
        part["steps"] = [found.get(edge["transformation"], edge) for edge in part["steps"]]
    return {
        "dataset": shown,
        "project": show_row(connection, PROJECTS, row["project_id"]),
        "way": way,
        "verdict": verdict_of(graph),
        "children": _children(connection, row["id"]),
        "runs": _runs_on(connection, row["id"]),
        "columns": columns_of(shown["metadata"]),
        "metadata": {name: item for name, item in shown["metadata"].items() if name not in SHOWN_APART},
    }


def _children(connection: Connection, row_id: int) -> list[Any]:
    """What was made from a dataset, as its parent or as one of the inputs of a step."""
    columns = (datasets.c.id, datasets.c.uuid, datasets.c.name, datasets.c.intermediate)
    made_from = (
        select(*columns)
        .join(dataset_transformations, dataset_transformations.c.dataset_id == datasets.c.id)
        .join(transformation_inputs, transformation_inputs.c.transformation_id == dataset_transformations.c.id)
        .where(transformation_inputs.c.dataset_id == row_id, datasets.c.id != row_id)
    )
    both = union(select(*columns).where(datasets.c.parent_id == row_id), made_from)
    return list(connection.execute(both.order_by("id").limit(ROWS)).all())


def _runs_on(connection: Connection, row_id: int) -> list[Any]:
    return list(
        connection.execute(
            select(training_runs.c.uuid, training_runs.c.name, training_runs.c.status, training_run_datasets.c.role)
            .join(training_run_datasets, training_run_datasets.c.training_run_id == training_runs.c.id)
            .where(training_run_datasets.c.dataset_id == row_id)
            .order_by(training_runs.c.id.desc())
            .limit(ROWS)
        ).all()
    )


def transformation(connection: Connection, scope: list[int], uuid: str) -> dict[str, Any] | None:
    """A step: its source, what it was given and what it changed."""
    row = find_row(connection, TRANSFORMATIONS, scope, uuid)
    if row is None:
        return None
    shown = show_row(connection, TRANSFORMATIONS, row["id"])
    named = {shown["dataset"], *shown["inputs"]}
    titled = select(datasets.c.uuid, datasets.c.name, datasets.c.project_id).where(
        datasets.c.organization_id == row["organization_id"], datasets.c.uuid.in_(named)
    )
    found = connection.execute(titled).all()
    project_id = next(item.project_id for item in found if item.uuid == shown["dataset"])
    return {
        "step": read_step(shown, {item.uuid: item.name for item in found}),
        "project": show_row(connection, PROJECTS, project_id),
    }
