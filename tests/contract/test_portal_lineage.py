"""Lineage at the portal: what the creates keep of it, and the graph that is read back (docs/lineage.md, docs/wire.md)."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select

from seclea.portal import lineage
from seclea.portal.database import make_engine, migrate
from seclea.portal.lineage import Direction
from seclea.portal.objects import PROJECTS, find_row
from seclea.portal.steps import way_to
from seclea.portal.tables import datasets
from tests.contract.lineage_made import Made, big, claims
from tests.contract.portal_server import PortalServer, Session, Stream, running_portal

EMPTY = {"chunks": [], "size": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalServer]:
    with running_portal(tmp_path_factory.mktemp("portal") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def client(portal: PortalServer) -> Session:
    return portal.add_member("ada", "Acme")


@pytest.fixture(scope="module")
def job(client: Session) -> tuple[Made, dict[str, str]]:
    return claims(client)


@pytest.fixture
def made(client: Session) -> Made:
    return Made(client, f"p {uuid.uuid4()}")


def read(client: Session, **query: str) -> dict[str, Any]:
    reply = client.get("/collection/lineage", params=query)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def names(graph: dict[str, Any]) -> set[str]:
    return {node["name"] for node in graph["nodes"]}


def pairs(graph: dict[str, Any]) -> set[tuple[str, str, str]]:
    of = {node["uuid"]: node["name"] for node in graph["nodes"]}
    return {(of[edge["from"]], of[edge["to"]], edge["kind"]) for edge in graph["edges"]}


# ----------------------------------------------------------------------------------------------------------- creates


def test_the_inputs_of_a_transformation_are_kept_in_their_order_and_filtered_by(client: Session, made: Made) -> None:
    first, second, joined = (made.dataset(name) for name in ("a", "b", "c"))
    step = made.step("join_regions", joined, [second, first])
    shown = client.get(f"/collection/dataset-transformations/{step}").json()
    assert shown["inputs"] == [second, first] and shown["details"]["verdict"] == "reproduced"
    for given in (first, second):
        listed = client.get(f"/collection/dataset-transformations?input={given}").json()
        assert [(item["uuid"], item["inputs"]) for item in listed] == [(step, [second, first])]
    assert client.get(f"/collection/dataset-transformations?input={joined}").json() == []


def test_the_parent_counts_as_the_one_input_of_a_base_clients_transformation(client: Session, made: Made) -> None:
    parent = made.dataset("raw")
    child = made.dataset("clean", parent)
    body = {"name": "clean", "code_raw": "def clean(df): ...", "code_encoded": "gASV", "dataset": child, "order": 0}
    reply = client.post("/collection/dataset-transformations", json=body)
    assert (reply.status_code, reply.json()["inputs"]) == (201, [parent])
    listed = client.get(f"/collection/dataset-transformations?input={parent}").json()
    assert [(item["uuid"], item["inputs"]) for item in listed] == [(reply.json()["uuid"], [parent])]
    orphan = client.post("/collection/dataset-transformations", json={**body, "dataset": parent})
    assert orphan.json()["inputs"] == []


def test_an_input_may_be_named_by_an_alias(client: Session, made: Made) -> None:
    real, output, alias = made.dataset("raw"), made.dataset("clean"), str(uuid.uuid4())
    stands_for = {"kind": "dataset", "digest": "0" * 64, "uuid": alias, "remote_id": real}
    tombstone = {"kind": "dataset", "count": 1, "reason": "adopted", "detail": "", "stands_for": stands_for}
    stream = Stream(client, made.organization)
    digest = bytes.fromhex(stands_for["digest"])
    headers = stream.headers("bulk", "dataset", digest, suffix=".t")
    reply = client.post(f"/collection/tombstones?organization={made.organization}", json=tombstone, headers=headers)
    assert reply.status_code == 201, reply.text
    step = made.step("impute", output, [alias])
    assert client.get(f"/collection/dataset-transformations/{step}").json()["inputs"] == [real]
    assert client.get(f"/collection/dataset-transformations?input={alias}").json()[0]["uuid"] == step
    assert names(read(client, dataset=alias)) == {"raw", "clean"}


@pytest.mark.parametrize("inputs", ["x", 1, {}, [1], [None], ["no uuid"], [str(uuid.uuid4())] * 1001])
def test_inputs_that_are_no_list_of_uuids_are_refused(client: Session, made: Made, inputs: Any) -> None:
    body = {"name": "s", "dataset": made.dataset("d"), "inputs": inputs}
    reply = client.post("/collection/dataset-transformations", json=body)
    assert (reply.status_code, reply.json()["field"]) == (400, "inputs")


def test_an_unknown_input_is_a_missing_parent_and_keeps_nothing(client: Session, made: Made) -> None:
    known, unknown = made.dataset("d"), str(uuid.uuid4())
    body = {"name": "s", "dataset": known, "inputs": [known, unknown]}
    reply = client.post("/collection/dataset-transformations", json=body)
    assert (reply.status_code, reply.json()["code"], reply.json()["missing"]) == (404, "missing_parent", unknown)
    assert client.get(f"/collection/dataset-transformations?dataset={known}").json() == []


def test_what_a_run_used_each_dataset_for_is_kept(client: Session, made: Made) -> None:
    train, test, extra = (made.dataset(name) for name in ("train", "test", "extra"))
    run = made.run("r", [(train, "train"), (test, "test"), (extra, None), (train, "validation")])
    for shown in (
        client.get(f"/collection/training-runs/{run}").json(),
        client.get("/collection/training-runs", params={"project": made.project}).json()[0],
    ):
        assert shown["datasets"] == [train, test, extra, train]
        assert shown["dataset_roles"] == ["train", "test", None, "validation"]
    base = client.post("/collection/training-runs", json={"project": made.project, "name": "b", "datasets": [train]})
    assert (base.status_code, base.json()["dataset_roles"]) == (201, [None])


@pytest.mark.parametrize("roles", ["train", [], ["train", "test"], ["other"], [1], [["train"]], [""], {}])
def test_roles_of_another_length_or_value_are_refused(client: Session, made: Made, roles: Any) -> None:
    body = {"project": made.project, "name": "r", "datasets": [made.dataset("d")], "dataset_roles": roles}
    reply = client.post("/collection/training-runs", json=body)
    assert (reply.status_code, reply.json()["field"]) == (400, "dataset_roles")


def test_an_extension_create_names_its_parent_by_the_identity(client: Session, made: Made) -> None:
    parent = made.dataset("raw")
    identity = client.get(f"/collection/datasets/{parent}").json()["hash"]
    child = made.dataset("clean", parent_hash=identity)
    shown = client.get(f"/collection/datasets/{child}").json()
    assert (shown["parent"], shown["parent_hash"]) == (parent, identity)
    body = {"project": made.project, "name": "x", "hash": "x", "metadata": {}, "parent_hash": "f" * 64, **EMPTY}
    reply = client.post("/collection/datasets", json=body)
    assert (reply.status_code, reply.json()["code"], reply.json()["missing"]) == (404, "missing_parent", "f" * 64)


def test_datasets_are_listed_with_or_without_the_intermediate_ones(
    client: Session, job: tuple[Made, dict[str, str]]
) -> None:
    address = f"/collection/datasets?project={job[0].project}&intermediate="
    steps = {item["name"] for item in client.get(address + "true").json()}
    rest = {item["name"] for item in client.get(address + "false").json()}
    assert steps == {"claims clean-impute", "claims clean-drop_correlated"}
    assert "claims clean" in rest and not steps & rest
    assert client.get(address + "perhaps").status_code == 400


# ------------------------------------------------------------------------------------------------------------- graph


def test_a_dataset_has_everything_above_and_below_it(client: Session, job: tuple[Made, dict[str, str]]) -> None:
    made, known = job
    above = {"claims-2026.csv", "claims clean-impute", "claims clean-drop_correlated"}
    below = {"claims train", "claims test", "claims with regions", "claims encoded"}
    below |= {f"Training Run {number}" for number in (1, 2, 3)} | {f"State {number}" for number in range(5)}
    up = read(client, dataset=known["clean"], direction="up")
    assert names(up) == above | {"claims clean"}
    assert names(read(client, dataset=known["clean"], direction="down")) == below | {"claims clean"}
    both = read(client, dataset=known["clean"], project=made.project)
    assert names(both) == above | below | {"claims clean"}
    assert len([node for node in both["nodes"] if node["kind"] == "model_state"]) == 9
    assert "regions.csv" not in names(both) and "truncated" not in both


def test_a_state_leads_back_to_the_raw_data_and_nowhere_else(client: Session, job: tuple[Made, dict[str, str]]) -> None:
    made, known = job
    state = made.states[known["second"]][2]
    graph = read(client, model_state=state)
    chain = ["claims-2026.csv", "claims clean-impute", "claims clean-drop_correlated", "claims clean"]
    assert names(graph) == {*chain, "claims train", "claims test", "Training Run 2", "State 2"}
    assert pairs(graph) == {
        *((one, other, "transformation") for one, other in pairwise(chain)),
        ("claims clean", "claims train", "transformation"),
        ("claims clean", "claims test", "transformation"),
        ("claims train", "Training Run 2", "train"),
        ("claims test", "Training Run 2", "test"),
        ("Training Run 2", "State 2", "state"),
    }
    assert names(read(client, model_state=state, direction="down")) == {"State 2"}


def test_a_run_has_its_data_above_and_its_states_below(client: Session, job: tuple[Made, dict[str, str]]) -> None:
    _, known = job
    assert names(read(client, training_run=known["third"], direction="down")) == {"Training Run 3", "State 0"}
    up = read(client, training_run=known["third"], direction="up")
    assert {"regions.csv", "claims-2026.csv", "claims encoded"} <= names(up)
    assert ("claims encoded", "Training Run 3", "used") in pairs(up)
    assert "State 0" not in names(up)


def test_nodes_and_edges_say_what_the_pages_show(client: Session, job: tuple[Made, dict[str, str]]) -> None:
    made, known = job
    graph = read(client, project=made.project)
    nodes = {node["uuid"]: node for node in graph["nodes"]}
    dataset = client.get(f"/collection/datasets/{known['train']}").json()
    shown = nodes[known["train"]]
    assert (shown["kind"], shown["hash"], shown["project"]) == ("dataset", dataset["hash"], made.project)
    assert (shown["intermediate"], shown["split"], shown["num_samples"]) == (False, "train", 455)
    assert (shown["format"], shown["roles"]) == ("parquet", False)
    run = nodes[known["second"]]
    assert (run["status"], run["model"], run["application_type"]) == ("finished", "RandomForestClassifier", "binary")
    state = nodes[made.states[known["second"]][4]]
    assert (state["sequence_num"], state["final_state"], state["step"]) == (4, True, 400)
    edges = [edge for edge in graph["edges"] if edge.get("transformation") == known["join"]]
    assert [(edge["from"], edge["argument"], edge["position"]) for edge in edges] == [
        (known["clean"], "df", 0),
        (known["regions"], "regions", 1),
    ]
    assert {(edge["name"], edge["verdict"], edge["to"]) for edge in edges} == {
        ("join_regions", "reproduced", known["joined"])
    }


def test_a_parent_of_which_no_step_tells_is_an_edge_all_the_same(client: Session, made: Made) -> None:
    raw = made.dataset("raw")
    told = made.dataset("told", raw)
    made.dataset("untold", raw)
    made.step("impute", told, [raw])
    assert pairs(read(client, project=made.project)) == {
        ("raw", "told", "transformation"),
        ("raw", "untold", "parent"),
    }


def test_a_cycle_ends(client: Session, made: Made) -> None:
    one, other = made.dataset("one"), made.dataset("other")
    made.step("there", other, [one])
    made.step("back", one, [other])
    made.step("stay", one, [one])
    for query in ({"dataset": one}, {"dataset": other}, {"project": made.project}):
        graph = read(client, **query)
        assert names(graph) == {"one", "other"}
        assert len(graph["edges"]) == 3


def test_the_graph_of_a_project_reaches_the_origin_in_another_one(client: Session, made: Made) -> None:
    there = Made(client, f"source {uuid.uuid4()}")
    raw = there.dataset("raw")
    clean = there.chain("clean", raw, ["impute", "scale"])
    made.run("r", [(made.chain("features", clean, ["encode"]), "train")])
    graph = read(client, project=made.project)
    assert {"raw", "clean", "features", "r"} <= names(graph)
    assert {node["project"] for node in graph["nodes"] if node["name"] in ("raw", "clean")} == {there.project}
    assert {"features", "r"} <= names(read(client, dataset=raw))
    assert client.get(f"/collection/lineage?dataset={raw}&project={made.project}").status_code == 404


@pytest.mark.parametrize(
    "query",
    ["", "dataset=x", "direction=up", "dataset={0}&training_run={0}", "dataset={0}&direction=left", "project=1"],
)
def test_a_question_that_names_nothing_is_refused(client: Session, query: str) -> None:
    assert client.get(f"/collection/lineage?{query.format(uuid.uuid4())}").status_code == 400


def test_an_answer_that_is_cut_says_how_much_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_portal(tmp_path / "data") as server:
        made, _ = big(server.owner())
        whole = read(server.owner(), project=made.project)
        server.stop()
    assert len(whole["nodes"]) == 530 and "truncated" not in whole
    engine = make_engine(tmp_path / "data" / "portal.db", readonly=True)
    with engine.connect() as connection:
        row = find_row(connection, PROJECTS, [1, 2], made.project)
        assert row is not None
        for most in (1, 150, 231, 300):
            monkeypatch.setattr(lineage, "NODES", most)
            graph = lineage.of_project(connection, row)
            assert len(graph["nodes"]) == most
            left = 530 - most if most > 230 else 230 - most  # states are known of once there is room for their runs
            assert graph["truncated"] == left
        origin = (
            connection.execute(select(datasets).where(datasets.c.name == "exposures-2022.parquet")).mappings().one()
        )
        for direction in Direction:
            monkeypatch.setattr(lineage, "NODES", 5000)
            whole = lineage.of_dataset(connection, origin, direction)
            monkeypatch.setattr(lineage, "NODES", 7)
            graph = lineage.of_dataset(connection, origin, direction)
            assert len(graph["nodes"]) == min(7, len(whole["nodes"]))
            assert ("truncated" in graph) == (len(whole["nodes"]) > 7)
            assert graph.get("truncated", 0) <= len(whole["nodes"]) - len(graph["nodes"])
            near = {edge["to"] for edge in whole["edges"] if edge["from"] == origin["uuid"]}
            assert {node["uuid"] for node in graph["nodes"]} <= {origin["uuid"], *near}
        monkeypatch.setattr(lineage, "NODES", 5000)
        monkeypatch.setattr(lineage, "EDGES", 100)
        graph = lineage.of_project(connection, row)
        assert (len(graph["edges"]), graph["truncated"]) == (100, 556 - 100)
    engine.dispose()


def test_a_big_project_is_read_with_a_handful_of_queries(tmp_path: Path) -> None:
    """200 datasets, 30 runs and 300 states: the number of statements does not grow with them."""
    with running_portal(tmp_path / "data") as server:
        made, _ = big(server.owner())
        small = Made(server.owner(), "small", organization=made.organization)
        small.run("r", [(small.dataset("d"), None)], states=1)
        server.stop()
    engine = make_engine(tmp_path / "data" / "portal.db", readonly=True)
    told: list[int] = []

    def count(*_: Any) -> None:
        told[-1] += 1

    for project in (small.project, made.project):
        with engine.connect() as connection:
            row = find_row(connection, PROJECTS, [1, 2], project)
            assert row is not None
            told.append(0)
            event.listen(connection, "before_cursor_execute", count)
            lineage.of_project(connection, row)
    engine.dispose()
    assert told[1] <= told[0] + 2 <= 20  # the two look-ups of steps and inputs that the small one has no need of


# ----------------------------------------------------------------------------------------------------------- hostile

ODD = [
    None,
    True,
    7,
    -1.5,
    "",
    "x" * 5000,
    [],
    {},
    [[]],
    [None, 1, "a", {}],
    {"a": None},
    "<script>",
    "\u202e",
    {"name": ["x"]},
]


def test_details_of_any_shape_are_kept_shown_and_never_a_failure(client: Session, made: Made) -> None:
    raw = made.dataset("raw")
    clean = made.dataset("clean", raw, metadata={"num_samples": "many", "split": [1], "roles": "both"})
    body = {"dataset": clean, "inputs": [raw], "name": "s"}
    for field in ("function", "source", "captured", "helpers", "unverifiable", "arguments", "outputs", "split", "verdict",
                  "output", "before", "after", "changes", "versions"):  # fmt: skip
        for value in ODD:
            for details in ({field: value}, {field: {"data": value, "kwargs": value, "added": value, "file": value}}):
                reply = client.post("/collection/dataset-transformations", json={**body, "details": details})
                assert (reply.status_code, reply.json()["details"]) == (201, details)
    for value in ODD:
        reply = client.post("/collection/dataset-transformations", json={**body, "details": value})
        assert reply.status_code == 201
    for step in client.get(f"/collection/dataset-transformations?dataset={clean}").json():
        page = client.get(f"/transformations/{step['uuid']}")
        assert page.status_code == 200 and "<script>" not in page.text, step
    assert client.get(f"/datasets/{clean}").status_code == 200
    graph = read(client, dataset=clean)
    assert names(graph) == {"raw", "clean"}
    assert all(edge["verdict"] is None or len(edge["verdict"]) <= lineage.WORD for edge in graph["edges"])
    node = next(node for node in graph["nodes"] if node["name"] == "clean")
    assert (node["num_samples"], node["split"], node["roles"]) == (None, None, False)


def test_metadata_of_any_shape_has_a_page(client: Session, made: Made) -> None:
    names = ("num_samples", "features", "categorical_features", "categorical_values", "outputs_info", "roles", "split",
             "column_digests", "framework", "dataset_type", "content_digest")  # fmt: skip
    for name in names:
        for number, value in enumerate(
            [*ODD, {"X": ["a"], "y": "b"}, [{"a": ["x"]}, {"a": 1}], [["column", "a", "int64", "0"]]]
        ):
            dataset = made.dataset(f"{name} {number}", metadata={name: value})
            page = client.get(f"/datasets/{dataset}")
            assert page.status_code == 200 and "<script>" not in page.text.replace("<script src", ""), (name, value)
    assert client.get(f"/projects/{made.project}").status_code == 200


def test_a_way_goes_along_the_primary_parents_and_ends_at_a_cycle() -> None:
    def edge(source: str, made: str, step: str, position: int = 0, order: int = 0) -> dict[str, Any]:
        kind = {"kind": "transformation", "transformation": step, "position": position, "order": order}
        return {"from": source, "to": made, **kind}

    nodes = [{"uuid": name, "kind": "dataset", "name": name} for name in "abcd"]
    edges = [edge("d", "c", "join", 1), edge("b", "c", "join"), edge("b", "c", "twice", order=1), edge("a", "b", "s")]
    graph = {"nodes": nodes, "edges": edges}
    told = [
        (
            part["dataset"]["uuid"],
            [step["transformation"] for step in part["steps"]],
            [node["uuid"] for node in part["others"]],
        )
        for part in way_to(graph, "c")
    ]
    assert told == [("a", [], []), ("b", ["s"], []), ("c", ["join", "twice"], ["d"])]
    edges.append(edge("c", "a", "back"))
    assert [part["dataset"]["uuid"] for part in way_to(graph, "c")] == ["a", "b", "c"]


# ---------------------------------------------------------------------------------------------------------- migration


def test_a_database_of_the_first_schema_keeps_its_data(tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config

    from seclea.portal import database

    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    engine = make_engine(data / "portal.db", readonly=False)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    ids = {name: str(uuid.uuid4()) for name in ("organization", "project", "raw", "clean", "step", "run")}
    old = sqlite3.connect(data / "portal.db")
    old.execute("INSERT INTO organizations VALUES (1, ?, 'local', 1)", (ids["organization"],))
    old.execute("INSERT INTO users VALUES (1, ?, 'local', NULL, NULL, 1)", (str(uuid.uuid4()),))
    old.execute("INSERT INTO memberships VALUES (1, 1, 'owner', 1)")
    old.execute("INSERT INTO projects VALUES (1, 1, ?, 'p', '', 1)", (ids["project"],))
    for row, name, parent in ((1, "raw", None), (2, "clean", 1)):
        values = (row, ids[name], name, name, parent)
        old.execute("INSERT INTO datasets VALUES (?, 1, ?, 1, ?, ?, '{}', ?, 0, '', NULL, 1)", values)
    old.execute("INSERT INTO dataset_transformations VALUES (1, 1, ?, 2, 's', 'code', '', 0, '{}', 1)", (ids["step"],))
    values = (ids["run"],)
    old.execute(
        "INSERT INTO training_runs VALUES (1, 1, ?, 1, NULL, 'r', '{}', '{}', 'finished', 1, 2, '[]', 1)", values
    )
    old.execute("INSERT INTO training_run_datasets (training_run_id, position, dataset_id) VALUES (1, 0, 2)")
    old.commit()
    old.close()
    with running_portal(data) as server:
        owner = server.owner()
        assert owner.get(f"/collection/datasets/{ids['clean']}").json()["parent"] == ids["raw"]
        step = owner.get(f"/collection/dataset-transformations/{ids['step']}").json()
        assert (step["code_raw"], step["inputs"]) == ("code", [ids["raw"]])
        run = owner.get(f"/collection/training-runs/{ids['run']}").json()
        assert (run["datasets"], run["dataset_roles"]) == ([ids["clean"]], [None])
        assert pairs(read(owner, training_run=ids["run"])) == {
            ("raw", "clean", "transformation"),
            ("clean", "r", "used"),
        }
        server.stop()
    engine = make_engine(data / "portal.db", readonly=False)
    migrate(engine)  # nothing is left to do
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall() == []
    engine.dispose()
