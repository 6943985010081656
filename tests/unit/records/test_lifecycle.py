"""The life of a record is one table; keys and chain are what docs/wire.md says."""

import itertools
import re
from pathlib import Path

import pytest

from seclea.errors import LedgerError
from seclea.records import (
    BULK_KINDS,
    TRANSITIONS,
    Event,
    Lane,
    RecordKind,
    Status,
    canonical_json,
    chain_hash,
    idempotency_key,
    lane_of,
    tombstone_body,
)
from tests.pipeline import ROOT
from tests.unit.writer.chain import link
from tests.unit.writer.client import Client, Desk

ENDS = {Status.COMPLETED, Status.FAILED}


def test_what_is_completed_changes_again_only_when_the_portal_has_lost_it() -> None:
    assert {event for status, event in TRANSITIONS if status is Status.COMPLETED} == {Event.LOST}
    assert TRANSITIONS[Status.COMPLETED, Event.LOST] is Status.TRANSMITTING


def test_only_a_person_brings_a_failed_record_back() -> None:
    back = {event for (status, event), after in TRANSITIONS.items() if status is Status.FAILED and after is not status}
    assert back == {Event.RETRIED}


def test_nothing_is_delivered_before_it_was_saved() -> None:
    assert {TRANSITIONS[key] for key in TRANSITIONS if key[0] is Status.SAVING} == {
        Status.SAVING, Status.TRANSMITTING, Status.FAILED,
    }  # fmt: skip


def test_every_status_can_be_reached_and_left() -> None:
    reached, more = {Status.SAVING}, True
    while more:
        more = bool(new := {after for (before, _), after in TRANSITIONS.items() if before in reached} - reached)
        reached |= new
    assert reached == set(Status)
    assert {before for before, _ in TRANSITIONS} == set(Status)


def test_a_hold_changes_no_status() -> None:
    assert {before for before, event in TRANSITIONS if event is Event.HELD} == {Status.SAVING, Status.TRANSMITTING}
    assert all(after is before for (before, event), after in TRANSITIONS.items() if event is Event.HELD)


@pytest.mark.parametrize(("status", "event"), list(itertools.product(Status, Event)))
def test_the_ledger_follows_the_table_and_refuses_everything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: Status, event: Event
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    desk = Desk(tmp_path)
    try:
        client = Client()
        client.stream()
        desk.take(client)
        desk.ledger._connection.execute("UPDATE records SET status = ?", (status,))
        if (status, event) in TRANSITIONS:
            assert desk.ledger._change(1, event) == TRANSITIONS[status, event]
            ((now, settled),) = desk.rows("status, settled_ns")
            assert now == TRANSITIONS[status, event]
            assert (settled is not None) == (now in ENDS)
        else:
            with pytest.raises(LedgerError, match=f"{status} and cannot be {event.value}"):
                desk.ledger._change(1, event)
            assert desk.rows("status") == [(status,)]
    finally:
        desk.ledger.close()


_ENDS_OF_RUNS = ("SET status = excluded.status, reason", "")  # how a run ended, which is no record


def test_no_other_file_changes_a_status() -> None:
    writes = re.compile(r"SET\s+(?:\w+ = [^,\"]+, )*status\s*=", re.IGNORECASE)
    found = [
        path
        for path in (ROOT / "seclea").rglob("*.py")
        if writes.search(path.read_text().replace(*_ENDS_OF_RUNS)) and "portal" not in path.parts
    ]
    assert [path.name for path in found] == ["db.py"]
    assert len(writes.findall((ROOT / "seclea/ledger/db.py").read_text())) == 1


def test_what_has_a_payload_goes_by_the_bulk_lane() -> None:
    assert {kind for kind in RecordKind if lane_of(kind) is Lane.BULK} == BULK_KINDS
    assert {RecordKind.DATASET, RecordKind.MODEL_STATE} == BULK_KINDS


def test_the_chain_is_that_of_the_documentation() -> None:
    stream, digest, previous = bytes(range(16)), bytes(range(32)), bytes(reversed(range(32)))
    for lane, kind, first, last in [("ordered", "metrics", 5, 900), ("bulk", "dataset", 2**40, 2**40)]:
        assert chain_hash(previous, stream, lane, first, last, kind, digest) == link(
            previous, stream, lane, first, last, kind, digest
        )
    # A vector, lest both be wrong in the same way.
    assert chain_hash(bytes(32), bytes(16), "ordered", 1, 1, "project", bytes(32)).hex() == (
        "49e95ece2062cefe3b47f2bbe8bce9ec2e58625fcb7351a81dd017a13ae079d6"
    )


def test_a_key_is_derived_from_the_place_alone() -> None:
    stream = bytes(range(16))
    assert idempotency_key(stream, "bulk", 7) == "000102030405060708090a0b0c0d0e0f.bulk.7"
    assert idempotency_key(stream, "bulk", 7, stands_for_record=True) == "000102030405060708090a0b0c0d0e0f.bulk.7.t"


def test_a_body_has_one_form_and_no_nan() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "ü"}) == '{"a":"ü","b":[1,2.5]}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_a_tombstone_says_what_how_many_and_why() -> None:
    assert tombstone_body("metrics", 3, "dropped", "paused") == (
        b'{"count":3,"detail":"paused","kind":"metrics","reason":"dropped","stands_for":null}'
    )
