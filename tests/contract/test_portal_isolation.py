"""Two organisations on one portal: what belongs to the other does not exist (S7)."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.contract.portal_server import PortalServer, Session, Stream, canonical, running_portal, upload


@dataclass
class Side:
    """One organisation with an object of every kind."""

    session: Session
    organization: str
    stream: Stream
    objects: dict[str, str]


SECRET = b"a table that only one of them has"


def fill(session: Session, name: str) -> Side:
    organization = session.get("/organization/").json()[0]["uuid"]
    stream = Stream(session, organization)
    kinds = ("projects", "models", "datasets", "dataset-transformations", "training-runs", "model-states")
    made = {kind: str(uuid.uuid4()) for kind in kinds}

    def send(lane: str, kind: str, path: str, body: dict[str, object]) -> None:
        reply = stream.send(lane, kind, f"/collection/{path}", {"uuid": made[path], **body})
        assert reply.status_code == 201, reply.text

    send("ordered", "project", "projects", {"name": name, "description": ""})
    in_project = {"project": made["projects"]}
    send("ordered", "model", "models", {**in_project, "name": "m", "framework": "f"})
    payload = upload(session, organization, SECRET + name.encode())
    send("bulk", "dataset", "datasets", {**in_project, "name": "d", "hash": name, "metadata": {}, **payload})
    step = {"dataset": made["datasets"], "inputs": [made["datasets"]], "name": "s"}
    send("ordered", "dataset_transformation", "dataset-transformations", step)
    run = {"name": "r", "model": made["models"], "datasets": [made["datasets"]], "params": {}, "started_ns": 1}
    send("ordered", "training_run", "training-runs", {**in_project, **run})
    state = {"training_run": made["training-runs"], "sequence_num": 0, **payload}
    send("bulk", "model_state", "model-states", {**in_project, **state})
    assert stream.send_metrics(made["training-runs"], [{"loss": 1.0}]).status_code == 201
    return Side(session, organization, stream, made)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side, PortalServer]]:
    with running_portal(tmp_path_factory.mktemp("portal") / "data") as server:
        acme, rival = server.add_member("ada", "Acme"), server.add_member("bob", "Rival")
        yield fill(acme, "acme's"), fill(rival, "rival's"), server


def test_every_object_of_the_other_is_not_found(sides: tuple[Side, Side, PortalServer]) -> None:
    ours, theirs, _ = sides
    nothing = ours.session.get(f"/collection/projects/{uuid.uuid4()}")
    for path, made in theirs.objects.items():
        for query in ("", f"?organization={ours.organization}", f"?organization={theirs.organization}"):
            reply = ours.session.get(f"/collection/{path}/{made}{query}")
            assert reply.status_code == 404
            if not query:
                assert reply.json()["detail"] == nothing.json()["detail"]
        assert ours.session.get(f"/collection/{path}?organization={theirs.organization}").status_code == 404
        listed = ours.session.get(f"/collection/{path}").json()
        assert [item["uuid"] for item in listed] == [ours.objects[path]]
        assert all(item["organization"] == ours.organization for item in listed)


def test_curves_contents_receipts_and_pages_of_the_other_are_not_found(
    sides: tuple[Side, Side, PortalServer],
) -> None:
    ours, theirs, _ = sides
    run = theirs.objects["training-runs"]
    for path in (
        f"/collection/training-runs/{run}/metrics?key=loss",
        f"/collection/training-runs/{run}/metric-keys",
        f"/collection/datasets/{theirs.objects['datasets']}/content",
        f"/collection/model-states/{theirs.objects['model-states']}/content",
        f"/collection/lineage?training_run={run}",
        f"/collection/lineage?dataset={theirs.objects['datasets']}",
        f"/collection/lineage?model_state={theirs.objects['model-states']}",
        f"/collection/lineage?project={theirs.objects['projects']}",
        f"/transformations/{theirs.objects['dataset-transformations']}",
        f"/runs/{run}",
        f"/projects/{theirs.objects['projects']}",
        f"/datasets/{theirs.objects['datasets']}",
    ):
        assert ours.session.get(path).status_code == 404, path
        assert theirs.session.get(path).status_code == 200, path
    for query in (f"stream={theirs.stream.id}", f"training_run={run}"):
        assert ours.session.get(f"/collection/receipts?{query}").json() == []
        assert len(theirs.session.get(f"/collection/receipts?{query}").json()) == 2
    for path in ("model-states?training_run=", "dataset-transformations?training_run="):
        assert ours.session.get(f"/collection/{path}{run}").json() == []
    assert "rival" not in ours.session.get("/").text


def test_nothing_can_be_hung_below_an_object_of_the_other(sides: tuple[Side, Side, PortalServer]) -> None:
    ours, theirs, _ = sides
    own, foreign = ours.objects, theirs.objects
    address = f"?organization={ours.organization}"
    payload = {"chunks": [], "size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    dataset = {"project": own["projects"], "name": "n", "hash": "n", "metadata": {}, **payload}
    run = {"project": own["projects"], "name": "n", "datasets": [], "params": {}}
    for path, body in (
        ("models", {"project": foreign["projects"], "name": "n", "framework": "f"}),
        ("datasets", {**dataset, "parent": foreign["datasets"]}),
        ("datasets", {**dataset, "parent_hash": "rival's"}),
        ("training-runs", {**run, "model": foreign["models"]}),
        ("training-runs", {**run, "datasets": [foreign["datasets"]]}),
        ("training-runs", {**run, "datasets": ["rival's"]}),
        (
            "model-states",
            {"project": own["projects"], "training_run": foreign["training-runs"], "sequence_num": 9, **payload},
        ),
        ("dataset-transformations", {"name": "n", "dataset": foreign["datasets"]}),
        ("dataset-transformations", {"name": "n", "dataset": own["datasets"], "inputs": [foreign["datasets"]]}),
        (f"training-runs/{foreign['training-runs']}/finish", {"status": "failed"}),
    ):
        reply = ours.session.post(f"/collection/{path}{address}", json=body)
        assert (reply.status_code, reply.json().get("code")) == (404, "missing_parent"), (path, reply.text)
    assert theirs.session.get(f"/collection/training-runs/{foreign['training-runs']}").json()["status"] == "running"


def test_the_same_uuid_key_stream_and_chunk_of_the_other_are_in_nobodys_way(
    sides: tuple[Side, Side, PortalServer],
) -> None:
    ours, theirs, _ = sides
    copy = Stream(ours.session, ours.organization, theirs.stream.id)  # the same stream id, hence the same keys
    body = {"uuid": theirs.objects["projects"], "name": "rival's", "description": "ours"}
    reply = copy.send("ordered", "project", "/collection/projects", body)
    assert (reply.status_code, reply.json()["description"]) == (201, "ours")
    assert theirs.session.get(f"/collection/projects/{theirs.objects['projects']}").json()["description"] == ""
    name = hashlib.sha256(SECRET + b"rival's").hexdigest()
    missing = ours.session.post(f"/collection/chunks/missing?organization={ours.organization}", json=[name])
    assert missing.json() == [name]
    payload = {"chunks": [[name, len(SECRET) + 7]], "size": len(SECRET) + 7, "sha256": name}
    stolen = {"project": ours.objects["projects"], "name": "s", "hash": "s", "metadata": {}, **payload}
    reply = ours.session.post(f"/collection/datasets?organization={ours.organization}", data=canonical(stolen))
    assert (reply.status_code, reply.json()["code"]) == (409, "missing_chunks")


def test_a_member_of_two_organizations_says_which(sides: tuple[Side, Side, PortalServer]) -> None:
    _, _, server = sides
    owner = server.owner()  # a member of all
    assert owner.post("/collection/projects", json={"name": "whose?"}).status_code == 400
    ours = sides[0]
    made = owner.post("/collection/models", json={"project": ours.objects["projects"], "name": "x", "framework": "f"})
    assert (made.status_code, made.json()["organization"]) == (201, ours.organization)
