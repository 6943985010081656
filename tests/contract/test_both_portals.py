"""The portal of the tests and the real one, asked the same questions: a fake is worth what it has in common with the real."""

from __future__ import annotations

import gzip
import hashlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.fault_proxy import Trouble, fault_proxy
from tests.contract.keeping_portal import KeepingPortal
from tests.contract.portal_server import PortalServer, Session, Stream, canonical, pack, running_portal, upload


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalServer]:
    with running_portal(tmp_path_factory.mktemp("portal") / "data") as server:
        server.add_member("ann", "Acme").close()
        server.close_sessions()
        yield server


@pytest.fixture(params=["kept", "real"])
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    if request.param == "real":
        server = request.getfixturevalue("server")
        yield server.login("ann")
        server.close_sessions()
        return
    portal = KeepingPortal()
    session = Session(portal.url)
    try:
        yield session
    finally:
        session.close()
        portal.close()


@pytest.fixture
def stream(session: Session) -> Stream:
    (organization,) = session.get("/organization/").json()
    assert organization["name"] == "Acme"
    return Stream(session, organization["uuid"])


def project(stream: Stream) -> str:
    made = str(uuid.uuid4())
    body = {"uuid": made, "name": f"project {made}", "description": ""}
    assert stream.send("ordered", "project", "/collection/projects", body).status_code == 201
    return made


def run(stream: Stream) -> str:
    made = str(uuid.uuid4())
    body = {"uuid": made, "project": project(stream), "name": "Training Run 1", "model": None, "datasets": []}
    body |= {"params": {}, "metadata": {}, "started_ns": 1}
    assert stream.send("ordered", "training_run", "/collection/training-runs", body).status_code == 201
    return made


def dataset(of: str, payload: dict[str, Any]) -> dict[str, Any]:
    body = {"uuid": str(uuid.uuid4()), "project": of, "name": f"data {uuid.uuid4()}", "metadata": {"split": None}}
    return body | {"hash": uuid.uuid4().hex * 2, "parent": None, "intermediate": False, "format": "csv", **payload}


STONE = {"kind": "metrics", "count": 3, "reason": "dropped", "detail": "paused", "stands_for": None}


def test_capabilities_need_no_login_and_name_what_the_sender_uses(session: Session) -> None:
    found = session.get("/api/capabilities", cookies={}).json()
    wanted = {"streams", "chunks", "metrics", "tombstones", "finish", "receipts"}
    assert wanted <= set(found["extensions"])
    assert {"gzip", "identity"} <= set(found["encodings"])


def test_a_record_is_acknowledged_by_a_receipt_for_just_it(stream: Stream) -> None:
    reply = stream.send("ordered", "tombstone", "/collection/tombstones", STONE)
    sequence, chain = stream.heads["ordered"]
    receipt = {"stream": stream.id, "lane": "ordered", "sequence": sequence, "chain": chain.hex()}
    assert (reply.status_code, reply.json()["receipt"]) == (201, receipt)


def test_the_same_request_again_gets_the_first_reply_and_has_no_second_effect(stream: Stream) -> None:
    made = str(uuid.uuid4())
    raw = canonical({"uuid": made, "name": f"project {made}", "description": ""})
    headers = stream.headers("ordered", "project", hashlib.sha256(raw).digest())
    first = stream.post("/collection/projects", raw, headers)
    again = stream.post("/collection/projects", raw, headers)
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert again.headers["Idempotency-Replayed"] == "true"
    listed = stream.session.get(f"/collection/projects?organization={stream.organization}&name=project {made}").json()
    assert [one["uuid"] for one in listed] == [made]


def test_a_key_with_another_body_is_422(stream: Stream) -> None:
    raw, other = canonical(STONE), canonical({**STONE, "count": 4})
    headers = stream.headers("ordered", "tombstone", hashlib.sha256(raw).digest())
    assert stream.post("/collection/tombstones", raw, headers).status_code == 201
    assert stream.post("/collection/tombstones", other, headers).status_code == 422


@pytest.mark.parametrize("first", [1, 3])
def test_a_number_that_is_not_the_next_is_a_gap_that_names_the_next(stream: Stream, first: int) -> None:
    stream.send("ordered", "tombstone", "/collection/tombstones", STONE)
    raw = canonical(STONE)
    headers = stream.headers("ordered", "tombstone", hashlib.sha256(raw).digest(), first=first, suffix=".x")
    reply = stream.post("/collection/tombstones", raw, headers)
    assert (reply.status_code, reply.json()["code"], reply.json()["expected"]) == (409, "gap", 2)


def test_a_chain_that_does_not_follow_is_a_conflict_with_both_hashes(stream: Stream) -> None:
    raw = canonical(STONE)
    headers = stream.headers("ordered", "tombstone", hashlib.sha256(b"another").digest())
    reply = stream.post("/collection/tombstones", raw, headers)
    assert (reply.status_code, reply.json()["code"]) == (409, "conflict")
    assert reply.json()["sent"] == headers["Seclea-Chain"] != reply.json()["computed"]


def test_a_body_that_is_no_record_is_400_and_may_be_sent_right_under_the_same_key(stream: Stream) -> None:
    wrong = stream.send("ordered", "tombstone", "/collection/tombstones", {"kind": 7})
    assert wrong.status_code == 400
    assert stream.send("ordered", "tombstone", "/collection/tombstones", STONE).status_code == 201


@pytest.mark.parametrize("kind", ["model", "metrics", "finish"])
def test_a_child_before_its_parent_is_404_naming_it(stream: Stream, kind: str) -> None:
    parent = str(uuid.uuid4())
    if kind == "metrics":
        reply = stream.send_metrics(parent, [{"loss": 1.0}])
    elif kind == "finish":
        body: dict[str, Any] = {"status": "finished", "finished_ns": 2, "streams": []}
        reply = stream.send("ordered", "finish", f"/collection/training-runs/{parent}/finish", body)
    else:
        model = {"uuid": str(uuid.uuid4()), "project": parent, "name": "m", "framework": "f"}
        reply = stream.send("ordered", "model", "/collection/models", model)
    assert (reply.status_code, reply.json()["code"], reply.json()["missing"]) == (404, "missing_parent", parent)


def test_a_payload_whose_chunks_are_not_here_is_409_naming_them_and_taken_once_they_are(stream: Stream) -> None:
    content, made = b"a,b\n1,2\n", project(stream)
    name = hashlib.sha256(content).hexdigest()
    ask = f"/collection/chunks/missing?organization={stream.organization}"
    known = [] if not stream.session.post(ask, json=[name]).json() else [name]
    body = dataset(made, {"chunks": [["0" * 64, 5]], "size": 5, "sha256": "0" * 64})
    reply = stream.send("bulk", "dataset", "/collection/datasets", body)
    assert (reply.status_code, reply.json()["code"], reply.json()["missing"]) == (409, "missing_chunks", ["0" * 64])
    body = dataset(made, upload(stream.session, stream.organization, content))
    assert stream.session.post(ask, json=[name]).json() == []
    assert stream.send("bulk", "dataset", "/collection/datasets", body).status_code == 201
    put = stream.session.put(f"/collection/chunks/{name}?organization={stream.organization}", data=content)
    assert (put.status_code, known) == (200, known)


def test_a_chunk_under_a_wrong_name_is_400(stream: Stream) -> None:
    put = stream.session.put(f"/collection/chunks/{'0' * 64}?organization={stream.organization}", data=b"x")
    assert put.status_code == 400


def test_lanes_are_counted_apart_and_metrics_over_their_span(stream: Stream) -> None:
    made = run(stream)
    assert stream.send_metrics(made, [{"loss": 1.0}, {"loss": 0.5}]).json()["receipt"]["sequence"] == 4
    payload = upload(stream.session, stream.organization, b"weights")
    state = {"uuid": str(uuid.uuid4()), "project": None, "training_run": made, "sequence_num": 0, "step": 1}
    state |= {"final_state": False, "framework": "sklearn", "metadata": {}, "created_ns": 1, "format": "x", **payload}
    listed = stream.session.get(f"/collection/training-runs?organization={stream.organization}").json()
    state["project"] = next(one["project"] for one in listed if one["uuid"] == made)
    reply = stream.send("bulk", "model_state", "/collection/model-states", state)
    assert (reply.status_code, reply.json()["receipt"]["sequence"]) == (201, 1)


def test_a_packed_body_is_chained_by_what_is_in_it(stream: Stream) -> None:
    raw = pack(run(stream), 3, [{"loss": 1.0}])
    headers = stream.headers("ordered", "metrics", hashlib.sha256(raw).digest())
    headers |= {"Content-Type": "application/msgpack", "Content-Encoding": "gzip"}
    assert stream.post("/collection/metrics", gzip.compress(raw), headers).status_code == 201


def test_a_tombstone_keeps_the_place_and_the_chain_of_what_it_stands_for(stream: Stream) -> None:
    refused = hashlib.sha256(b"a body that was refused").digest()
    headers = stream.headers("ordered", "model", refused, suffix=".t")
    stands_for = {"kind": "model", "digest": refused.hex(), "uuid": str(uuid.uuid4()), "remote_id": None}
    stone = {"kind": "model", "count": 1, "reason": "refused", "detail": "", "stands_for": stands_for}
    assert stream.post("/collection/tombstones", canonical(stone), headers).status_code == 201
    stream.advance()
    assert stream.send("ordered", "tombstone", "/collection/tombstones", STONE).status_code == 201


def test_a_request_that_comes_byte_by_byte_is_the_same_request(stream: Stream) -> None:
    with fault_proxy(stream.session.base) as proxy:
        proxy.rule = lambda _: Trouble(piece_bytes=1)
        stream.session.base = proxy.url
        assert project(stream)
        assert stream.send("ordered", "tombstone", "/collection/tombstones", STONE).status_code == 201
        stream.session.close()
