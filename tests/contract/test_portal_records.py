"""What a portal tells to somebody who checks it: bodies as they came, page after page, and to nobody else (S7, S13)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import sqlite3
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from seclea.export import Live, Portal
from seclea.verify import Check
from tests.contract.portal_server import PortalServer, Stream, canonical, running_portal
from tests.contract.test_portal_isolation import Side, fill


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side, PortalServer]]:
    with running_portal(tmp_path_factory.mktemp("portal") / "data") as server:
        acme, rival = server.add_member("ada", "Acme"), server.add_member("bob", "Rival")
        yield fill(acme, "acme's"), fill(rival, "rival's"), server


def records_of(side: Side, lane: str = "ordered", **query: Any) -> list[dict[str, Any]]:
    reply = side.session.get("/collection/records", params={"stream": side.stream.id, "lane": lane, **query})
    assert reply.status_code == 200, reply.text
    return list(reply.json()["records"])


def test_every_body_is_kept_as_it_came_and_makes_up_digest_and_chain(sides: tuple[Side, Side, PortalServer]) -> None:
    ours = sides[0]
    told = records_of(ours)
    assert [one["kind"] for one in told] == ["project", "model", "dataset_transformation", "training_run", "metrics"]
    for one in told:
        body = base64.b64decode(one["body"])
        assert hashlib.sha256(body).hexdigest() == one["digest"]
        assert one["body_bytes"] == len(body)
    assert base64.b64decode(told[0]["body"]) == canonical(
        {"uuid": ours.objects["projects"], "name": "acme's", "description": ""}
    )
    assert told[-1]["chain"] == ours.stream.heads["ordered"][1].hex()
    assert [one["object"] for one in told[:4]] == [
        ours.objects[kind] for kind in ("projects", "models", "dataset-transformations", "training-runs")
    ]
    assert [one["kind"] for one in records_of(ours, "bulk")] == ["dataset", "model_state"]


def test_what_a_record_made_is_told_where_no_object_shows_it(sides: tuple[Side, Side, PortalServer]) -> None:
    ours = sides[0]
    batch = records_of(ours)[-1]["rows"]
    assert (batch["run"], batch["count"], batch["keys"]) == (ours.objects["training-runs"], 1, ["loss"])
    dataset = records_of(ours, "bulk")[0]["rows"]
    assert [length for _, length in dataset["chunks"]] == [len(b"a table that only one of them has" + b"acme's")]


def test_pages_join_up(sides: tuple[Side, Side, PortalServer]) -> None:
    ours = sides[0]
    assert [one["first"] for one in records_of(ours, after=3)] == [4, 5]
    found, after = [], ""
    while True:
        page = ours.session.get("/collection/streams", params={"limit": 1, "after": after}).json()
        found += page["streams"]
        if page["next"] is None:
            break
        after = page["next"]
    assert [(one["stream"], one["lane"]) for one in found] == [(ours.stream.id, "bulk"), (ours.stream.id, "ordered")]
    assert [one["sequence"] for one in found] == [2, 5]


def test_where_the_records_of_an_object_stand_is_found(sides: tuple[Side, Side, PortalServer]) -> None:
    ours = sides[0]
    reply = ours.session.get("/collection/records", params={"object": ours.objects["datasets"]}).json()
    assert reply["records"] == [{"stream": ours.stream.id, "lane": "bulk", "first": 1, "last": 1, "kind": "dataset"}]


def test_streams_and_records_of_another_organization_do_not_exist(sides: tuple[Side, Side, PortalServer]) -> None:
    ours, theirs, server = sides
    get = ours.session.get
    assert get(f"/collection/records?stream={theirs.stream.id}").status_code == 404
    assert get(f"/collection/records?stream={theirs.stream.id}&organization={theirs.organization}").status_code == 404
    assert get(f"/collection/streams?organization={theirs.organization}").status_code == 404
    assert get(f"/collection/records?object={theirs.objects['projects']}").json()["records"] == []
    assert {one["stream"] for one in get("/collection/streams").json()["streams"]} == {ours.stream.id}
    assert server.tcp().get(f"/collection/records?stream={ours.stream.id}").status_code == 401
    assert server.tcp().get("/collection/streams").status_code == 401


def test_a_member_of_two_organizations_says_which(sides: tuple[Side, Side, PortalServer]) -> None:
    ours, theirs, server = sides
    owner = server.owner()
    assert owner.get("/collection/streams").status_code == 400
    copy = Stream(theirs.session, theirs.organization, ours.stream.id)  # the same stream id on the other side
    body = {"uuid": ours.objects["projects"], "name": "twin", "description": ""}
    assert copy.send("ordered", "project", "/collection/projects", body).status_code == 201
    query = f"/collection/records?stream={ours.stream.id}&organization="
    assert len(owner.get(query + ours.organization).json()["records"]) == 5
    assert len(owner.get(query + theirs.organization).json()["records"]) == 1


@pytest.mark.parametrize("query", ["", "stream=x", "lane=ordered", "object=x", "after=-1"])
def test_a_request_that_makes_no_sense_is_refused(sides: tuple[Side, Side, PortalServer], query: str) -> None:
    ours = sides[0]
    asked = f"{query}&stream={ours.stream.id}" if query.startswith("after") else query
    assert ours.session.get(f"/collection/records?{asked}").status_code == 400
    assert ours.session.get(f"/collection/records?stream={ours.stream.id}&lane=none").status_code == 400


def test_a_body_from_before_bodies_were_kept_is_told_as_none(sides: tuple[Side, Side, PortalServer]) -> None:
    _, theirs, server = sides
    with contextlib.closing(sqlite3.connect(server.data / "portal.db", timeout=30)) as base:
        base.execute(
            "UPDATE records SET body = NULL, body_bytes = NULL, object = NULL WHERE stream = ? AND first = 1",
            [theirs.stream.id],
        )
        base.commit()
    told = records_of(theirs)[0]
    assert (told["body"], told["body_bytes"], told["object"]) == (None, None, None)


def test_what_the_portal_had_already_is_no_gap_and_nothing_that_was_put_in(
    sides: tuple[Side, Side, PortalServer],
) -> None:
    """A base client made the model; ours is adopted, and the run goes by its own id of it."""
    _, _, server = sides
    owner = server.owner()
    organization = next(one["uuid"] for one in owner.get("/organization/").json() if one["name"] == "local")
    stream = Stream(owner, organization)
    project, ours, run = (str(uuid.uuid4()) for _ in range(3))
    assert stream.send(
        "ordered", "project", "/collection/projects", {"uuid": project, "name": "p", "description": ""}
    ).ok
    model = {"project": project, "name": "m", "framework": "f"}
    theirs = owner.post(f"/collection/models?organization={organization}", json=model).json()["uuid"]
    digest = hashlib.sha256(canonical({**model, "uuid": ours})).digest()
    stands_for = {"kind": "model", "digest": digest.hex(), "uuid": ours, "remote_id": theirs}
    stone = {"kind": "model", "count": 1, "reason": "adopted", "detail": "", "stands_for": stands_for}
    headers = stream.headers("ordered", "model", digest, suffix=".t")
    assert stream.post("/collection/tombstones", canonical(stone), headers).status_code == 201
    stream.advance()
    started = {
        "uuid": run,
        "project": project,
        "name": "r",
        "model": ours,
        "datasets": [],
        "params": {},
        "started_ns": 1,
    }
    assert stream.send("ordered", "training_run", "/collection/training-runs", started).ok
    token = owner.post("/internal/token").json()["access_token"]
    for runs in ([], [run]):
        report = Check(Live(Portal(server.url, token, "local"), None, runs=runs)).run().report()
        assert report["verdict"] == "complete", report["findings"]
        assert [one["level"] for one in report["findings"]] == ["note"]
        assert "no record made it that is here to be read" in report["findings"][0]["text"]
