"""Many batches of metrics in one request: each is a record of its own (docs/wire.md)."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from tests.contract.portal_server import PortalServer, Session, Stream, pack, running_portal


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalServer]:
    with running_portal(tmp_path_factory.mktemp("portal") / "data") as server:
        yield server


class Many:
    """A run with batches that are made, and sent together."""

    def __init__(self, owner: Session, organization: str) -> None:
        self.owner = owner
        self.organization = organization
        self.stream = Stream(owner, organization)
        project = owner.post(
            "/collection/projects", json={"name": str(uuid.uuid4()), "organization": organization}
        ).json()
        made = owner.post(
            f"/collection/training-runs?organization={organization}",
            json={"project": project["uuid"], "name": "r", "started_ns": 1},
        )
        self.run: str = made.json()["uuid"]

    def make(self, calls: int = 3, run: str = "") -> list[Any]:
        """The next batch: first, last, chain, key, body."""
        first = self.stream.heads.get("ordered", (0, b""))[0] + 1
        body = pack(run or self.run, first, [{"loss": float(first + number)} for number in range(calls)])
        headers = self.stream.headers("ordered", "metrics", hashlib.sha256(body).digest(), count=calls)
        self.stream.advance()
        chain = bytes.fromhex(headers["Seclea-Chain"])
        return [first, first + calls - 1, chain, headers["Idempotency-Key"], body]

    def send(self, batches: list[Any], **changes: Any) -> Any:
        value = {"v": 1, "stream": self.stream.id, "records": batches, **changes}
        return self.owner.post(
            f"/collection/metric-batches?organization={self.organization}",
            data=msgpack.packb(value),
            headers={"Content-Type": "application/msgpack"},
        )

    def head(self) -> Any:
        (told,) = self.owner.get(f"/collection/receipts?stream={self.stream.id}").json()
        return told["sequence"], bytes.fromhex(told["chain"]), told["points"]


@pytest.fixture
def many(portal: PortalServer) -> Many:
    owner = portal.owner()
    return Many(owner, str(owner.get("/organization/").json()[0]["uuid"]))


def statuses(reply: Any) -> list[int]:
    assert reply.status_code == 200, reply.text
    return [answer["status"] for answer in reply.json()]


def test_each_has_the_receipt_that_it_would_have_had_alone(many: Many) -> None:
    records = [many.make() for _ in range(20)]
    reply = many.send(records)
    assert statuses(reply) == [201] * 20
    for record, answer in zip(records, reply.json(), strict=True):
        receipt = json.loads(answer["body"])["receipt"]
        assert (receipt["sequence"], receipt["chain"]) == (record[1], record[2].hex())
    assert many.head() == (60, records[-1][2], 60)


def test_the_same_again_gets_the_same_answers_and_alone_too(many: Many) -> None:
    records = [many.make() for _ in range(3)]
    first = many.send(records)
    assert many.send(records).json() == first.json()
    alone = records[1]
    headers = {
        "Seclea-Stream": many.stream.id, "Seclea-Lane": "ordered", "Seclea-Sequence": f"{alone[0]}-{alone[1]}",
        "Seclea-Chain": alone[2].hex(), "Idempotency-Key": alone[3], "Content-Type": "application/msgpack",
    }  # fmt: skip
    reply = many.stream.post("/collection/metrics", alone[4], headers)
    assert reply.status_code == 201 and reply.headers["Idempotency-Replayed"] == "true"
    assert many.head()[2] == 9


def test_the_first_that_is_not_taken_ends_the_answer_and_what_was_taken_stays(many: Many) -> None:
    records = [many.make() for _ in range(5)]
    records[2][4] = records[2][4][:-1] + b"\x7f"  # its chain does not follow from that
    reply = many.send(records)
    assert statuses(reply) == [201, 201, 409]
    assert '"code":"conflict"' in reply.json()[-1]["body"]
    assert many.head()[0] == 6


def test_a_batch_that_cannot_be_read_and_one_of_no_run_are_refused_by_themselves(many: Many) -> None:
    records = [many.make() for _ in range(3)]
    records[1][4] = b"no batch"
    assert statuses(many.send(records)) == [201, 400]
    lost = Many(many.owner, many.organization)
    reply = lost.send([lost.make(), lost.make(run=str(uuid.uuid4())), lost.make()])
    assert statuses(reply) == [201, 404]
    assert '"code":"missing_parent"' in reply.json()[-1]["body"]


def test_a_gap_says_what_is_expected(many: Many) -> None:
    records = [many.make() for _ in range(3)]
    reply = many.send(records[1:])
    assert statuses(reply) == [409]
    assert '"expected":1' in reply.json()[0]["body"]


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2}, {"stream": "x"}, {"records": []}, {"records": 3}, {"records": [[1]]}, {"records": [[1] * 5] * 1001},
        {"records": [[0, 1, bytes(32), "k", b""]]}, {"records": [[2, 1, bytes(32), "k", b""]]},
        {"records": [[1, 1, b"", "k", b""]]}, {"records": [[1, 1, bytes(32), "", b""]]},
        {"records": [[1, 1, bytes(32), "k", "text"]]}, {"records": [[True, 1, bytes(32), "k", b""]]},
        {"records": [[1, 2**63, bytes(32), "k", b""]]},
    ],
)  # fmt: skip
def test_what_is_no_list_of_batches_is_refused_whole(many: Many, changes: dict[str, Any]) -> None:
    assert many.send([many.make()], **changes).status_code == 400


def test_nobody_else_may_add_to_a_stream(portal: PortalServer, many: Many) -> None:
    stranger = portal.add_member("eve", "Others")
    records = [many.make()]
    value = {"v": 1, "stream": many.stream.id, "records": records}
    address = f"/collection/metric-batches?organization={many.organization}"
    assert stranger.post(address, data=msgpack.packb(value)).status_code in (403, 404)
    assert portal.tcp().post(address, data=msgpack.packb(value)).status_code == 401
    assert many.owner.get(f"/collection/receipts?stream={many.stream.id}").json() == []
