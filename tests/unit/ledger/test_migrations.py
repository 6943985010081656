"""The schema goes forward, whole or not at all, and never touches what is not its own."""

import hashlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from seclea.contract import Destination
from seclea.errors import LedgerDamagedError, LedgerError, LedgerFullError, LedgerTooNewError
from seclea.ledger import migrations
from seclea.ledger.db import Ledger
from seclea.ledger.view import LedgerView
from tests.pipeline import ROOT

DESTINATION = Destination("https://portal", "https://auth", "Acme")


def made(path: Path) -> Path:
    ledger = Ledger(path)
    with ledger.transaction():
        ledger.destination(DESTINATION)
    ledger.close()
    return path


def fingerprint(path: Path) -> dict[str, str]:
    """Every file of a database, by digest."""
    return {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in sorted(path.parent.iterdir())}


def test_a_new_ledger_is_set_up_to_survive_power_loss(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    facts = {name: ledger._one(f"PRAGMA {name}")[0] for name in  # type: ignore[index]
             ("journal_mode", "synchronous", "foreign_keys", "auto_vacuum", "application_id", "user_version")}  # fmt: skip
    assert facts == {
        "journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "auto_vacuum": 2,
        "application_id": migrations.APPLICATION_ID, "user_version": len(migrations.scripts()),
    }  # fmt: skip
    assert (tmp_path / "ledger.sqlite").stat().st_mode & 0o777 == 0o600
    ledger.close()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["ledger.anchor", "ledger.sqlite"], "closing folds the log into the file"


def test_an_existing_ledger_is_opened_with_what_is_in_it(tmp_path: Path) -> None:
    ledger = Ledger(made(tmp_path / "ledger.sqlite"))
    assert [row["organization"] for row in ledger.destinations()] == ["Acme"]
    ledger.close()


def test_migrations_are_numbered_from_one_without_a_hole() -> None:
    assert [number for number, _ in migrations.scripts()] == list(range(1, len(migrations.scripts()) + 1))


def test_a_ledger_of_a_newer_seclea_is_refused_and_left_untouched(tmp_path: Path) -> None:
    path = made(tmp_path / "ledger.sqlite")
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 999")
    newer.close()
    before = fingerprint(path)
    with pytest.raises(LedgerTooNewError) as caught:
        Ledger(path)
    message = str(caught.value)
    assert str(path) in message and "version 999" in message and "untouched" in message and "Upgrade" in message
    assert fingerprint(path) == before


def test_a_database_of_another_program_is_refused_and_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE records (mine INTEGER)")
    foreign.close()
    before = fingerprint(path)
    with pytest.raises(LedgerError, match=r"not a ledger of seclea.*SECLEA_HOME") as caught:
        Ledger(path)
    assert type(caught.value) is LedgerError
    assert fingerprint(path) == before


def test_a_file_that_is_no_database_is_refused_and_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"some notes of mine " * 500)
    before = fingerprint(path)
    with pytest.raises(LedgerDamagedError, match=r"is damaged: file is not a database.*`seclea recover`"):
        Ledger(path)
    assert fingerprint(path) == before


DIES = """
import os, sqlite3, sys
from seclea.ledger import migrations

class Connection(sqlite3.Connection):
    left = int(sys.argv[2])
    def count(self, sql):
        type(self).left -= 1
        if type(self).left < 0:
            os._exit(73)

connection = sqlite3.connect(sys.argv[1], isolation_level=None, factory=Connection)
connection.execute("PRAGMA journal_mode = WAL")
connection.set_trace_callback(connection.count)
migrations.migrate(connection, sys.argv[1])
"""


@pytest.mark.parametrize("statements", [4, 8, 15, 25])
def test_a_migration_that_is_killed_leaves_all_or_nothing(tmp_path: Path, statements: int) -> None:
    path = tmp_path / "ledger.sqlite"
    killed = subprocess.run(
        [sys.executable, "-c", DIES, str(path), str(statements)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert killed.returncode == 73, "it was not in the middle"
    look = sqlite3.connect(path)
    tables = look.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    version = look.execute("PRAGMA user_version").fetchone()[0]
    look.close()
    assert (tables, version) == (0, 0)
    made(path)  # and the next one does it


def test_a_view_of_a_ledger_that_is_just_being_made_says_so(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with pytest.raises(LedgerError, match="no ledger"):
        LedgerView(path)
    sqlite3.connect(path).close()
    path.touch()
    with pytest.raises(LedgerError, match="being made"):
        LedgerView(path)


def test_a_view_cannot_write(tmp_path: Path) -> None:
    with (
        LedgerView(made(tmp_path / "ledger.sqlite")) as view,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        view._connection.execute("DELETE FROM destinations")


def test_a_transaction_that_fails_leaves_nothing_and_a_savepoint_only_its_part(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    with pytest.raises(RuntimeError), ledger.transaction():
        ledger.destination(DESTINATION)
        raise RuntimeError
    assert ledger.destinations() == []
    with ledger.transaction():
        ledger.set_meta("kept", "1")
        with pytest.raises(RuntimeError), ledger.savepoint():
            ledger.set_meta("kept", "2")
            raise RuntimeError
    assert ledger.meta("kept") == "1"
    ledger.close()


def test_a_full_disk_is_an_error_of_its_own_and_nothing_was_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    pages = ledger._one("PRAGMA page_count")[0]  # type: ignore[index]
    ledger._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(LedgerFullError, match="is full"), ledger.transaction():
        ledger.set_meta("much", "x" * 100_000)
    assert ledger.meta("much") is None
    ledger._connection.execute("PRAGMA max_page_count = 100000")
    with ledger.transaction():
        ledger.set_meta("much", "x" * 100_000)
    ledger.close()
