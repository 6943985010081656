"""Numbers by reason, from the ledger that the writer keeps."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from seclea.contract import Destination
from seclea.ledger import migrations, tallies
from seclea.ledger.db import Ledger
from seclea.ledger.view import LedgerView

SECOND = 1_000_000_000


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "ledger.sqlite")
    yield made
    made.close()


def event(ledger: Ledger, second: int, kind: str, detail: str = "") -> None:
    with ledger.transaction():
        ledger.add_event(kind, detail)
        ledger._connection.execute("UPDATE events SET time_ns = ? WHERE id = last_insert_rowid()", (second * SECOND,))


def test_what_was_left_out_is_summed_by_reason_destination_and_time(ledger: Ledger) -> None:
    with ledger.transaction():
        here = ledger.destination(Destination("https://here", "https://here", "Acme"))
        there = ledger.destination(Destination("https://there", "https://there", "Acme"))
        for count in (3, 4):
            ledger.add_event("left out", "metrics", destination=here, reason="paused", count=count)
        ledger.add_event("left out", "metrics", destination=there, reason="full", count=1)
        ledger.add_event("gap", "of a ring, which may be of any destination", reason="gap", count=2)
        ledger.add_event("refused", "is no loss: it is kept")
    assert [(one.reason, one.count) for one in tallies.left_out(ledger)] == [("paused", 7), ("gap", 2), ("full", 1)]
    assert {one.reason for one in tallies.left_out(ledger, there)} == {"gap", "full"}
    since = tallies.left_out_since
    assert [(one.reason, one.count) for one in since(ledger, None, 0)] == [("paused", 7), ("gap", 2), ("full", 1)]
    assert {one.reason for one in since(ledger, there, 0)} == {"gap", "full"}
    last_ns = max(one.last_ns for one in tallies.left_out(ledger))
    assert since(ledger, None, last_ns + 1) == []
    with ledger.transaction():
        ledger._connection.execute("DELETE FROM events")
    assert sum(one.count for one in tallies.left_out(ledger)) == 10, "the sums outlive the events"


def test_a_ledger_that_an_older_seclea_made_has_no_numbers_and_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_then = migrations.scripts()[:3]
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "scripts", lambda: of_then)
        older = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
        migrations.migrate(older, str(tmp_path))
        older.close()
    with LedgerView(tmp_path / "ledger.sqlite") as view:
        assert (tallies.left_out(view), tallies.attempts(view, 1)) == ([], [])
        assert tallies.troubled(view) == (0, 0)
