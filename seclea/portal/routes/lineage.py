"""Lineage: what a thing was made from, and what was made from it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from seclea.portal import lineage
from seclea.portal.bodies import uuid_field
from seclea.portal.context import authenticate, ids, portal_of, scope_of
from seclea.portal.lineage import Direction
from seclea.portal.objects import DATASETS, MODEL_STATES, PROJECTS, TRAINING_RUNS, Row, find_row
from seclea.portal.replies import bad, json_reply, not_found

router = APIRouter()
_ASKED = {
    "dataset": (DATASETS, lineage.of_dataset),
    "training_run": (TRAINING_RUNS, lineage.of_run),
    "model_state": (MODEL_STATES, lineage.of_state),
}


@router.get("/collection/lineage")
async def read_lineage(request: Request) -> Response:
    """The graph around a dataset, run or state, or of a whole project."""
    caller = await authenticate(request)
    scope = ids(scope_of(request, caller))
    query = request.query_params
    graph = await portal_of(request).database.read(_reader(scope, query))
    if graph is None:
        raise not_found()
    return json_reply(graph)


def _reader(scope: list[int], query: QueryParams) -> Any:
    """The work of the database; what is wrong with the question is said before."""
    named = [name for name in _ASKED if query.get(name)]
    in_project = uuid_field(query, "project", required=False)
    if len(named) > 1 or not (named or in_project):
        raise bad("Name one of dataset, model_state and training_run, or a project.", field="dataset")
    asked = str(uuid_field(query, named[0])) if named else None
    try:
        direction = Direction(query.get("direction") or "both")
    except ValueError:
        raise bad("direction is none of up, down and both.", field="direction") from None

    def read(connection: Connection) -> dict[str, Any] | None:
        project: Row | None = None
        if in_project is not None:
            project = find_row(connection, PROJECTS, scope, in_project)
            if project is None:
                return None
        if asked is None:
            assert project is not None
            return lineage.of_project(connection, project)
        collection, graph_of = _ASKED[named[0]]
        row = find_row(connection, collection, scope, asked)
        if row is None or (project is not None and row["project_id"] != project["id"]):
            return None
        return graph_of(connection, row, direction)

    return read
