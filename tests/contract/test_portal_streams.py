"""Idempotency, streams, gaps, conflicts, chains, tombstones and receipts (docs/wire.md)."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import uuid
from collections.abc import Iterator

import pytest

from seclea.records import chain_hash
from tests.contract.portal_server import (
    PortalServer,
    Session,
    Stream,
    canonical,
    pack,
    running_portal,
    upload,
    wait_until,
)


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalServer]:
    with running_portal(tmp_path_factory.mktemp("portal") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def owner(portal: PortalServer) -> Session:
    return portal.owner()


@pytest.fixture(scope="module")
def organization(owner: Session) -> str:
    return str(owner.get("/organization/").json()[0]["uuid"])


@pytest.fixture
def stream(owner: Session, organization: str) -> Stream:
    return Stream(owner, organization)


@pytest.fixture
def project(stream: Stream) -> str:
    made = str(uuid.uuid4())
    assert stream.send("ordered", "project", "/collection/projects", project_body(made)).status_code == 201
    return made


def project_body(made: str) -> dict[str, object]:
    return {"uuid": made, "name": f"project {made}", "description": ""}


def start_run(stream: Stream, project: str) -> str:
    run = str(uuid.uuid4())
    body = {"uuid": run, "project": project, "name": "Training Run 1", "model": None, "datasets": [], "params": {}}
    reply = stream.send(
        "ordered", "training_run", "/collection/training-runs", {**body, "metadata": {}, "started_ns": 1}
    )
    assert reply.status_code == 201, reply.text
    return run


def digest_of(body: object) -> bytes:
    return hashlib.sha256(canonical(body)).digest()


def test_a_record_is_answered_with_its_object_and_a_receipt(stream: Stream) -> None:
    made = str(uuid.uuid4())
    reply = stream.send("ordered", "project", "/collection/projects", project_body(made))
    sequence, chain = stream.heads["ordered"]
    assert reply.status_code == 201 and reply.json()["uuid"] == made
    receipt = {"stream": stream.id, "lane": "ordered", "sequence": sequence, "chain": chain.hex()}
    assert reply.json()["receipt"] == receipt


def test_the_chain_written_down_here_is_the_chain_of_seclea(stream: Stream) -> None:
    digest = hashlib.sha256(b"body").digest()
    headers = stream.headers("bulk", "dataset", digest)
    ours = chain_hash(bytes(32), uuid.UUID(stream.id).bytes, "bulk", 1, 1, "dataset", digest)
    assert headers["Seclea-Chain"] == ours.hex()


def test_the_same_record_again_gets_the_first_reply_and_changes_nothing(owner: Session, stream: Stream) -> None:
    raw = canonical(project_body(str(uuid.uuid4())))
    headers = stream.headers("ordered", "project", hashlib.sha256(raw).digest())
    first = stream.post("/collection/projects", raw, headers)
    stream.advance()
    start_run(stream, first.json()["uuid"])  # the head moves on
    again = stream.post("/collection/projects", raw, headers)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(owner.get(f"/collection/projects?name={first.json()['name']}").json()) == 1


def test_the_same_key_with_another_body_is_refused_with_422(stream: Stream) -> None:
    raw = canonical(project_body(str(uuid.uuid4())))
    headers = stream.headers("ordered", "project", hashlib.sha256(raw).digest())
    assert stream.post("/collection/projects", raw, headers).status_code == 201
    other = stream.post("/collection/projects", canonical(project_body(str(uuid.uuid4()))), headers)
    assert other.status_code == 422


def test_a_key_without_a_stream_is_remembered_for_the_organization(owner: Session, organization: str) -> None:
    body = {"name": f"keyed {uuid.uuid4()}", "organization": organization}
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    first = owner.post("/collection/projects", json=body, headers=headers)
    again = owner.post("/collection/projects", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201) and again.json() == first.json()
    other = owner.post("/collection/projects", json={**body, "name": "other"}, headers=headers)
    assert other.status_code == 422
    bad = owner.post("/collection/projects", json=body, headers={"Idempotency-Key": "x" * 201})
    assert bad.status_code == 400


def test_a_refused_record_can_be_sent_again_once_its_parent_is_there(owner: Session, stream: Stream) -> None:
    project, model = str(uuid.uuid4()), str(uuid.uuid4())
    body = {"uuid": model, "project": project, "name": "m", "framework": "f"}
    early = stream.send("ordered", "model", "/collection/models", body)
    assert (early.status_code, early.json()["code"], early.json()["missing"]) == (404, "missing_parent", project)
    other = Stream(owner, stream.organization)
    assert other.send("ordered", "project", "/collection/projects", project_body(project)).status_code == 201
    assert stream.send("ordered", "model", "/collection/models", body).status_code == 201


def test_a_gap_is_refused_and_names_what_is_expected(stream: Stream, project: str) -> None:
    body = {"uuid": str(uuid.uuid4()), "project": project, "name": "m", "framework": "f"}
    raw = canonical(body)
    for first in (3, 1):  # too far, and a number that is taken under another key
        headers = stream.headers("ordered", "model", hashlib.sha256(raw).digest(), first=first, suffix=".x")
        reply = stream.post("/collection/models", raw, headers)
        assert (reply.status_code, reply.json()["code"], reply.json()["expected"]) == (409, "gap", 2)


def test_a_chain_that_does_not_follow_from_the_body_is_a_conflict(stream: Stream, project: str) -> None:
    raw = canonical({"uuid": str(uuid.uuid4()), "project": project, "name": "m", "framework": "f"})
    headers = stream.headers("ordered", "model", hashlib.sha256(b"another body").digest())
    reply = stream.post("/collection/models", raw, headers)
    assert (reply.status_code, reply.json()["code"]) == (409, "conflict")
    assert reply.json()["sent"] == headers["Seclea-Chain"] != reply.json()["computed"]
    wrong_kind = stream.headers("ordered", "project", hashlib.sha256(raw).digest())
    assert stream.post("/collection/models", raw, wrong_kind).json()["code"] == "conflict"
    right = stream.headers("ordered", "model", hashlib.sha256(raw).digest())
    assert stream.post("/collection/models", raw, right).status_code == 201


def test_the_chain_covers_a_packed_body_as_it_was_before(stream: Stream) -> None:
    import gzip

    raw = canonical(project_body(str(uuid.uuid4())))
    headers = stream.headers("ordered", "project", hashlib.sha256(raw).digest())
    reply = stream.post("/collection/projects", gzip.compress(raw), {**headers, "Content-Encoding": "gzip"})
    assert reply.status_code == 201


@pytest.mark.parametrize(
    "change",
    [
        {"Seclea-Stream": "x"},
        {"Seclea-Lane": "fast"},
        {"Seclea-Sequence": "0"},
        {"Seclea-Sequence": "3-2"},
        {"Seclea-Sequence": "99999999999999999999"},
        {"Seclea-Chain": "00"},
        {"Idempotency-Key": None},
        {"Idempotency-Key": "ä".encode("latin-1").decode("latin-1")},
    ],
)
def test_headers_that_cannot_be_read_are_refused_with_400(stream: Stream, change: dict[str, str | None]) -> None:
    raw = canonical(project_body(str(uuid.uuid4())))
    headers = {**stream.headers("ordered", "project", hashlib.sha256(raw).digest()), **change}
    kept = {name: value for name, value in headers.items() if value is not None}
    assert stream.post("/collection/projects", raw, kept).status_code == 400


def test_the_lanes_of_a_stream_are_counted_apart(owner: Session, stream: Stream, project: str) -> None:
    run = start_run(stream, project)
    body = {
        "uuid": str(uuid.uuid4()), "project": project, "training_run": run, "sequence_num": 0, "step": None,
        "final_state": False, "format": "", "framework": "", "metadata": {}, "created_ns": 1,
        **upload(owner, stream.organization, b"weights"),
    }  # fmt: skip
    reply = stream.send("bulk", "model_state", "/collection/model-states", body)
    assert (reply.status_code, reply.json()["receipt"]["sequence"]) == (201, 1)
    lanes = {item["lane"]: item for item in owner.get(f"/collection/receipts?stream={stream.id}").json()}
    assert lanes["ordered"]["sequence"] == 2 and lanes["bulk"]["counts"] == {"model_state": 1}
    assert lanes["bulk"]["training_run"] == run


def test_receipts_tell_heads_counts_points_and_tombstones(owner: Session, stream: Stream, project: str) -> None:
    run = start_run(stream, project)
    own = Stream(owner, stream.organization)
    assert own.send_metrics(run, [{"loss": 1.0, "acc": 0.5}] * 3).status_code == 201
    dropped = {"kind": "metrics", "count": 7, "reason": "dropped", "detail": "the disk was full", "stands_for": None}
    assert own.send("ordered", "tombstone", "/collection/tombstones", dropped).status_code == 201
    ends = [{"stream": own.id, "lane": "ordered", "sequence": 4}]
    end = {"status": "finished", "finished_ns": 5, "streams": ends}
    finished = own.send("ordered", "finish", f"/collection/training-runs/{run}/finish", end)
    assert (finished.status_code, finished.json()["status"]) == (201, "finished")
    sequence, chain = own.heads["ordered"]
    expected = {
        "stream": own.id, "lane": "ordered", "sequence": sequence, "chain": chain.hex(), "points": 6, "tombstones": 1,
        "counts": {"finish": 1, "metrics": 1, "tombstone": 1}, "training_run": run,
    }  # fmt: skip
    assert owner.get(f"/collection/receipts?stream={own.id}").json() == [expected]
    assert expected in owner.get(f"/collection/receipts?training_run={run}").json()
    assert owner.get(f"/collection/receipts?stream={uuid.uuid4()}").json() == []
    assert owner.get("/collection/receipts").status_code == 400


def test_a_tombstone_stands_for_a_refused_record_and_the_chain_reads_the_same(
    owner: Session, stream: Stream, project: str
) -> None:
    body = {"uuid": str(uuid.uuid4()), "project": project, "name": "x" * 101, "framework": "f"}
    refused = stream.send("ordered", "model", "/collection/models", body)
    assert refused.status_code == 400
    digest = digest_of(body)
    tombstone = {
        "kind": "model", "count": 1, "reason": "refused", "detail": refused.json()["detail"],
        "stands_for": {"kind": "model", "digest": digest.hex(), "uuid": body["uuid"], "remote_id": None},
    }  # fmt: skip
    headers = stream.headers("ordered", "model", digest, suffix=".t")
    reply = stream.post("/collection/tombstones", canonical(tombstone), headers)
    assert reply.status_code == 201, reply.text
    stream.advance()
    start_run(stream, project)  # the stream goes on
    (receipt,) = owner.get(f"/collection/receipts?stream={stream.id}").json()
    assert (receipt["tombstones"], receipt["sequence"]) == (1, 3)


def test_a_tombstone_stands_for_a_batch_of_metrics_over_all_its_numbers(
    owner: Session, stream: Stream, project: str
) -> None:
    run = start_run(stream, project)
    raw = pack(run, 3, [{"x" * 2000: 1.0}] * 5)
    digest = hashlib.sha256(raw).digest()
    headers = stream.headers("ordered", "metrics", digest, count=5)
    assert stream.post("/collection/metrics", raw, headers).status_code == 400
    stands_for = {"kind": "metrics", "digest": digest.hex(), "uuid": None, "remote_id": None}
    stone = {"kind": "metrics", "count": 5, "reason": "refused", "detail": "key too long", "stands_for": stands_for}
    headers = stream.headers("ordered", "metrics", digest, count=5, suffix=".t")
    assert headers["Seclea-Sequence"] == "3-7"
    assert stream.post("/collection/tombstones", canonical(stone), headers).status_code == 201
    stream.advance()
    assert stream.send_metrics(run, [{"x": 1.0}]).status_code == 201
    told = owner.get(f"/collection/training-runs/{run}/metrics?key=x").json()
    assert (told["gaps"], told["values"], told["tombstones"][0]["count"]) == ([], [1.0], 5)


def test_an_adopted_id_is_an_alias_of_the_object_that_was_there(owner: Session, stream: Stream) -> None:
    there = owner.post(
        "/collection/projects", json={"name": f"there {uuid.uuid4()}"}, params={"organization": stream.organization}
    )
    ours = str(uuid.uuid4())
    body = {"uuid": ours, "name": there.json()["name"], "description": ""}
    refused = stream.send("ordered", "project", "/collection/projects", body)
    assert (refused.status_code, refused.json()["uuid"]) == (400, there.json()["uuid"])
    tombstone = {
        "kind": "project", "count": 1, "reason": "adopted", "detail": "",
        "stands_for": {
            "kind": "project", "digest": digest_of(body).hex(), "uuid": ours, "remote_id": there.json()["uuid"],
        },
    }  # fmt: skip
    headers = stream.headers("ordered", "project", digest_of(body), suffix=".t")
    assert stream.post("/collection/tombstones", canonical(tombstone), headers).status_code == 201
    stream.advance()
    assert owner.get(f"/collection/projects/{ours}").json()["uuid"] == there.json()["uuid"]
    run = start_run(stream, ours)  # children may go on naming our id
    assert owner.get(f"/collection/training-runs/{run}").json()["project"] == there.json()["uuid"]
    assert [item["uuid"] for item in owner.get(f"/collection/training-runs?project={ours}").json()] == [run]


def test_an_adoption_of_what_is_not_there_is_refused(stream: Stream) -> None:
    digest = hashlib.sha256(b"x").digest()
    stands_for = {"kind": "dataset", "digest": digest.hex(), "uuid": str(uuid.uuid4()), "remote_id": str(uuid.uuid4())}
    body = {"kind": "dataset", "count": 1, "reason": "adopted", "detail": "", "stands_for": stands_for}
    reply = stream.post(
        "/collection/tombstones", canonical(body), stream.headers("bulk", "dataset", digest, suffix=".t")
    )
    assert (reply.status_code, reply.json()["code"]) == (404, "missing_parent")


def test_many_at_once_with_one_key_have_one_effect(portal: PortalServer, organization: str) -> None:
    name = f"race {uuid.uuid4()}"
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    replies: list[tuple[int, str]] = []
    start = threading.Barrier(8)

    def send() -> None:
        session = portal.owner()
        session.get("/api/capabilities")
        start.wait()
        reply = session.post(f"/collection/projects?organization={organization}", json={"name": name}, headers=headers)
        replies.append((reply.status_code, reply.json().get("uuid") or reply.json()["code"]))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, _ in replies} <= {201, 409}
    assert len({uuid_ for status, uuid_ in replies if status == 201}) == 1
    assert all(code == "running" for status, code in replies if status == 409)
    assert len(portal.owner().get("/collection/projects", params={"name": name}).json()) == 1


def test_a_key_whose_first_request_is_still_running_is_told_so(portal: PortalServer, organization: str) -> None:
    address, body = f"/collection/projects?organization={organization}", {"name": f"slow {uuid.uuid4()}"}
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    replies: list[tuple[int, str | None]] = []

    def send() -> None:
        reply = portal.owner().post(address, json=body, headers=headers)
        replies.append((reply.status_code, reply.json().get("code")))

    threads = [threading.Thread(target=send) for _ in range(3)]
    database = sqlite3.connect(portal.data / "portal.db", timeout=10, isolation_level=None)
    database.execute("BEGIN IMMEDIATE")  # the portal's own transaction has to wait for this one
    try:
        for thread in threads:
            thread.start()
        wait_until(lambda: len(replies) == 2, 8, "two of three should be answered while the third runs")
        assert replies == [(409, "running")] * 2
    finally:
        database.execute("ROLLBACK")
        database.close()
        for thread in threads:
            thread.join()
    assert replies[2] == (201, None)
    again = portal.owner().post(address, json=body, headers=headers)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")


def test_many_streams_at_once_keep_their_order(portal: PortalServer, organization: str, project: str) -> None:
    problems: list[str] = []

    def send() -> None:
        own = Stream(portal.owner(), organization)
        for _ in range(25):
            body = {"uuid": str(uuid.uuid4()), "project": project, "name": str(uuid.uuid4()), "framework": "f"}
            reply = own.send("ordered", "model", "/collection/models", body)
            if reply.status_code != 201:
                problems.append(reply.text)
        (receipt,) = own.session.get(f"/collection/receipts?stream={own.id}").json()
        if (receipt["sequence"], receipt["chain"]) != (25, own.heads["ordered"][1].hex()):
            problems.append(str(receipt))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


def test_metrics_and_tombstones_need_a_place_in_a_stream(owner: Session, organization: str) -> None:
    body = pack(str(uuid.uuid4()), 1, [{"loss": 1.0}])
    assert owner.post(f"/collection/metrics?organization={organization}", data=body).status_code == 400
    stone = {"kind": "metrics", "count": 1, "reason": "dropped", "detail": "", "stands_for": None}
    assert owner.post(f"/collection/tombstones?organization={organization}", json=stone).status_code == 400
