"""Whatever changes in a ledger without a commit is found, and named."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from seclea.contract import Destination
from seclea.errors import LedgerDamagedError, LedgerError
from seclea.ledger.anchor import Anchor, Moment, anchor_of, read_anchor
from seclea.ledger.check import check
from seclea.ledger.db import Ledger
from seclea.ledger.ends import Ends
from seclea.ledger.seals import tables
from seclea.ledger.view import LedgerView
from tests.unit.writer.client import Client, Desk, dataset


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A closed ledger with rows in every table that a home fills."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    desk, client = Desk(tmp_path), Client()
    session = client.stream()
    client.entity(session, dataset(b"rows"), desk.payload(b"rows"))
    index, _ = client.run()
    for step in range(5):
        client.log(index, step, loss=0.5)
        desk.take(client)
    client.leave_out(index, 3)
    desk.take(client)
    desk.store_payloads()
    with desk.ledger.transaction():
        desk.ledger.add_key_set(client.ring, 1, ["loss"])
        desk.ledger.note_trouble(1, "503", "away", of_destination=True)
        Ends(desk.ledger).note_run("a run", "failed", "its process was killed")
    desk.settle(1, "delivered", receipt={"sequence": 1})
    desk.ledger.close()
    return desk.home.ledger


def edit(path: Path, sql: str) -> None:
    editor = sqlite3.connect(path, isolation_level=None)
    editor.execute(sql)
    editor.close()


def test_a_ledger_that_nobody_touched_is_whole(path: Path) -> None:
    looked = check(path)
    assert (looked.wrong, looked.is_complete) == ([], True) and looked.rows > 20


@pytest.mark.parametrize("table", [one.name for one in tables()])
def test_a_change_of_any_column_of_any_table_is_found(path: Path, table: str, tmp_path: Path) -> None:
    (one,) = [one for one in tables() if one.name == table]
    with LedgerView(path) as view:
        kinds = {row["name"]: row["type"] for row in view._all(f"PRAGMA table_info({table})")}
        assert view._all(f"SELECT * FROM {table}"), "there is something to change"
    for column in (*one.columns, "seal"):
        copy = tmp_path / "copy" / "ledger.sqlite"
        shutil.copytree(path.parent, copy.parent, ignore=shutil.ignore_patterns("spool", "*.lock"), dirs_exist_ok=True)
        other = {"INTEGER": f"coalesce({column}, 0) + 77", "TEXT": f"coalesce({column}, '') || 'x'"}
        change = other.get(kinds[column], f"CAST(coalesce({column}, x'') || x'00' AS BLOB)")
        with_rules = sqlite3.connect(copy, isolation_level=None)
        with_rules.execute("PRAGMA ignore_check_constraints = ON")
        with_rules.execute(f"UPDATE {table} SET {column} = {change} WHERE rowid = (SELECT min(rowid) FROM {table})"
                           if one.has_rowid else f"UPDATE {table} SET {column} = {change}")  # fmt: skip
        with_rules.close()
        assert check(copy).wrong, f"{table}.{column}"
        shutil.rmtree(copy.parent)


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("DELETE FROM needs", "needs has 0 rows"),
        ("DELETE FROM records WHERE id = 3", "records has"),
        ("INSERT INTO losses (destination, reason, count, last_ns) VALUES (9, 'x', 1, 1)", "1 of 2 rows of losses"),
    ],
)
def test_a_row_that_is_gone_or_too_many_is_counted(path: Path, sql: str, words: str) -> None:
    edit(path, sql)
    assert any(words in one for one in check(path).wrong), check(path).wrong


def test_a_row_in_an_earlier_form_is_found(path: Path) -> None:
    ledger = Ledger(path)
    then = tuple(ledger._one("SELECT sequence, seal FROM rings"))  # type: ignore[arg-type]
    with ledger.transaction():
        ledger._connection.execute("UPDATE rings SET sequence = sequence + 1")
    ledger.close()
    assert check(path).wrong == []
    editor = sqlite3.connect(path, isolation_level=None)
    editor.execute("UPDATE rings SET sequence = ?, seal = ?", then)
    editor.close()
    assert "rows of rings are in an earlier form" in check(path).wrong


def test_what_a_savepoint_takes_back_is_not_counted(path: Path) -> None:
    ledger = Ledger(path)
    with ledger.transaction():
        with pytest.raises(RuntimeError), ledger.savepoint():
            ledger._connection.execute("DELETE FROM needs")
            raise RuntimeError
        ledger.set_meta("other", "1")
    with pytest.raises(RuntimeError), ledger.transaction():
        ledger._connection.execute("DELETE FROM events")
        raise RuntimeError
    ledger.close()
    assert check(path).wrong == []


def test_a_backup_that_is_put_back_is_behind_its_anchor_by_so_many_commits(path: Path) -> None:
    backup = path.read_bytes()
    ledger = Ledger(path)
    for number in range(3):
        with ledger.transaction():
            ledger.set_meta("later", str(number))
    ledger.close()
    path.write_bytes(backup)
    with pytest.raises(LedgerDamagedError, match="has lost its latest 3 commits"):
        check(path)
    with pytest.raises(LedgerDamagedError, match="has lost its latest 3 commits"):
        Ledger(path)


def test_another_home_s_ledger_is_told_apart(path: Path, tmp_path: Path) -> None:
    other = Ledger(tmp_path / "other.sqlite")
    for number in range(50):
        with other.transaction():
            other.set_meta("n", str(number))
    other.close()
    shutil.copy(tmp_path / "other.sqlite", path)
    with pytest.raises(LedgerDamagedError, match="is another one than this home had"):
        check(path)


def test_an_anchor_that_lags_or_is_gone_is_no_damage(path: Path) -> None:
    anchor = anchor_of(path)
    kept = anchor.read_bytes()
    ledger = Ledger(path)
    with ledger.transaction():
        ledger.set_meta("later", "1")
    ledger.close()
    anchor.write_bytes(kept)
    assert check(path).wrong == []
    anchor.unlink()
    assert check(path).wrong == []
    Ledger(path).close()
    assert read_anchor(anchor) is not None, "made again"


def test_of_two_slots_the_whole_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "ledger.anchor"
    anchor = Anchor(path)
    for number in (1, 2):
        anchor.write(Moment(b"l" * 16, number, bytes(32), 8))
    anchor.close()
    assert read_anchor(path) == Moment(b"l" * 16, 2, bytes(32), 8)
    data = bytearray(path.read_bytes())
    data[10] ^= 1  # in the slot of 2
    path.write_bytes(data)
    assert read_anchor(path) == Moment(b"l" * 16, 1, bytes(32), 8)
    path.write_bytes(b"no anchor")
    assert read_anchor(path) is None


def test_an_altered_record_is_never_given_to_the_sender(path: Path) -> None:
    with LedgerView(path) as view:
        assert view.record(2) is not None
    edit(path, "UPDATE records SET run = 'another' WHERE id = 2")
    with LedgerView(path) as view, pytest.raises(LedgerDamagedError, match="record 2 is not what was committed"):
        view.record(2)
    edit(path, "UPDATE records SET body = CAST(body || x'00' AS BLOB) WHERE id = 3")
    with LedgerView(path) as view, pytest.raises(LedgerDamagedError, match="record 3"):
        view.record(3)


def test_a_ledger_of_a_version_without_seals_is_sealed_once(tmp_path: Path) -> None:
    from seclea.ledger import migrations

    path = tmp_path / "ledger.sqlite"
    older = sqlite3.connect(path, isolation_level=None)
    older.executescript("".join(sql for number, sql in migrations.scripts() if number <= 7))
    older.execute("INSERT INTO destinations (platform_url, auth_url, organization) VALUES ('a', 'b', 'c')")
    older.execute("PRAGMA user_version = 7")
    older.execute(f"PRAGMA application_id = {migrations.APPLICATION_ID}")
    older.close()
    assert check(path).wrong == [], "it has none, and is opened"
    ledger = Ledger(path)
    assert ledger.destination(Destination("a", "b", "c")) == 1
    ledger.close()
    assert check(path).wrong == []
    edit(path, "UPDATE destinations SET organization = 'd'")
    assert check(path).wrong


def test_a_ledger_that_an_older_version_sealed_is_checked_as_that_one_did_and_sealed_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seclea.ledger import check as checking
    from seclea.ledger import db, migrations, seals

    known = migrations.scripts()
    later = "ALTER TABLE rings ADD COLUMN odd INTEGER NOT NULL DEFAULT 3; CREATE TABLE odd (id INTEGER PRIMARY KEY, seal BLOB);"
    for module in (migrations, seals, db, checking):
        monkeypatch.setattr(module, "scripts", lambda: [*known, (known[-1][0] + 1, later)])
    tables.cache_clear()
    try:
        assert check(path).wrong == []
        edit(path, "UPDATE rings SET pid = pid + 1")
        assert check(path).wrong, "also before it is migrated"
        edit(path, "UPDATE rings SET pid = pid - 1")
        migrations.migrate(editor := sqlite3.connect(path, isolation_level=None), str(path))
        editor.close()
        assert check(path).wrong == [], "killed between the migration and the new seals"
        Ledger(path).close()
        assert check(path).wrong == []
        edit(path, "UPDATE rings SET odd = 4")
        assert check(path).wrong
    finally:
        tables.cache_clear()


def test_a_check_that_has_no_time_says_so(path: Path) -> None:
    looked = check(path, 0.0)
    assert looked.wrong == [] or not looked.is_complete
    with pytest.raises(LedgerError, match="no ledger"):
        check(path.with_name("other.sqlite"))


@pytest.mark.parametrize("statements", [0, 3, 9])
def test_a_ledger_whose_maker_was_killed_is_no_damaged_one(tmp_path: Path, statements: int) -> None:
    path = tmp_path / "ledger.sqlite"
    code = f"""if True:
        import os, signal, sqlite3, sys
        from pathlib import Path
        from seclea.ledger import migrations
        path = Path({str(path)!r})
        maker = sqlite3.connect(path, isolation_level=None)
        maker.execute("PRAGMA page_size = 4096")
        maker.execute("PRAGMA auto_vacuum = INCREMENTAL")
        maker.execute("PRAGMA cache_spill = 1")
        maker.execute("PRAGMA cache_size = 1")  # pages go to the file, and what was there to the journal, at once
        seen = 0
        def count(_statement):
            global seen
            seen += 1
            if seen > {statements}:
                os.kill(os.getpid(), signal.SIGKILL)
        maker.set_trace_callback(count)
        migrations.migrate(maker, str(path))
        """
    subprocess.run([sys.executable, "-c", code], check=False)
    if not path.exists():
        path.touch()
    assert check(path).wrong == []
    Ledger(path).close()
    assert check(path).wrong == []
