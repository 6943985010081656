"""What the pages show, read from the tables."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Table, func, select

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
from seclea.portal.tables import datasets, model_states, models, organizations, training_run_datasets, training_runs
from seclea.portal.tables import projects as project_rows

ROWS = 500  # of a list on a page


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
    tables = _list(connection, DATASETS, scope, project=uuid)
    titled = select(datasets.c.uuid, datasets.c.name).where(datasets.c.organization_id == row["organization_id"])
    titles: dict[str, str] = dict(connection.execute(titled).tuples().all())
    for table in tables:
        table["parent_name"] = titles.get(table["parent"], "")
    return {"project": show_row(connection, PROJECTS, row["id"]), "runs": runs, "datasets": tables, "rows": ROWS}


def run(connection: Connection, scope: list[int], uuid: str) -> dict[str, Any] | None:
    """A run with its parameters, states, datasets and what the portal holds of its streams."""
    row = find_row(connection, TRAINING_RUNS, scope, uuid)
    if row is None:
        return None
    shown = show_row(connection, TRAINING_RUNS, row["id"])
    model = connection.execute(select(models.c.name, models.c.framework).where(models.c.id == row["model_id"])).first()
    used = connection.execute(
        select(datasets.c.uuid, datasets.c.name)
        .join(training_run_datasets, training_run_datasets.c.dataset_id == datasets.c.id)
        .where(training_run_datasets.c.training_run_id == row["id"])
        .order_by(training_run_datasets.c.position)
    ).all()
    return {
        "run": shown,
        "project": show_row(connection, PROJECTS, row["project_id"]),
        "model": model,
        "datasets": used,
        "keys": list_keys(connection, row["id"]),
        "states": _list(connection, MODEL_STATES, scope, training_run=uuid),
        "receipts": read_receipts(connection, scope, None, shown["uuid"]),
    }


def dataset(connection: Connection, scope: list[int], uuid: str) -> dict[str, Any] | None:
    """A dataset with its parent, children, the steps that led to it and the runs that used it."""
    row = find_row(connection, DATASETS, scope, uuid)
    if row is None:
        return None
    parent = connection.execute(
        select(datasets.c.uuid, datasets.c.name).where(datasets.c.id == row["parent_id"])
    ).first()
    children = connection.execute(
        select(datasets.c.uuid, datasets.c.name).where(datasets.c.parent_id == row["id"]).order_by(datasets.c.id)
    ).all()
    used_by = connection.execute(
        select(training_runs.c.uuid, training_runs.c.name, training_runs.c.status)
        .join(training_run_datasets, training_run_datasets.c.training_run_id == training_runs.c.id)
        .where(training_run_datasets.c.dataset_id == row["id"])
        .order_by(training_runs.c.id.desc())
    ).all()
    steps = _list(connection, TRANSFORMATIONS, scope, dataset=uuid)
    return {
        "dataset": show_row(connection, DATASETS, row["id"]),
        "project": show_row(connection, PROJECTS, row["project_id"]),
        "parent": parent,
        "children": children,
        "runs": used_by,
        "steps": sorted(steps, key=lambda step: step["order"]),
        "metadata": json.loads(row["metadata"]),
    }
