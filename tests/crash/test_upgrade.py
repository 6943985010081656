"""R25: ledgers and portals of older versions are opened whole, whenever the migration is killed; newer ones are left untouched.

The golden files were made by running each version (``python -m tests.chaos.upgrade --make``); all kills and every version with
real processes: ``python -m tests.chaos.upgrade --syscalls --old-code``.
"""

import contextlib
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from seclea.errors import LedgerError, LedgerTooNewError
from seclea.ledger import migrations, spare
from seclea.ledger.check import check
from seclea.ledger.db import Ledger
from seclea.ledger.header import read_header
from seclea.portal.database import SCHEMA_VERSIONS, DatabaseTooNew
from tests.chaos import golden, upgrade
from tests.unit.writer.chain import check_ledger

VERSIONS = [number for number, _ in migrations.scripts()]
NEWEST = VERSIONS[-1]


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short path, as sockets need it."""
    path = Path(tempfile.mkdtemp(prefix="u-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def unpacked(version: int, directory: Path) -> Path:
    return golden.unpack(golden.ledger_file(version), directory / "home") / "ledger.sqlite"


def fingerprint(path: Path) -> dict[str, str]:
    """Every file of a database, by digest."""
    return {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in sorted(path.parent.glob(f"{path.name}*"))}


def schema_of(database: sqlite3.Connection) -> list[tuple[str, str]]:
    found = database.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").fetchall()
    return [(name, " ".join(sql.split())) for name, sql in found]


@pytest.mark.parametrize("version", VERSIONS)
def test_there_is_a_golden_ledger_of_each_version_and_its_script_has_not_changed_since(
    version: int, tmp_path: Path
) -> None:
    assert golden.ledger_file(version).exists(), f"a migration came without its golden ledger: {golden.HOW}"
    path = unpacked(version, tmp_path)
    assert golden.ledger_version(path) == version
    with contextlib.closing(sqlite3.connect(path)) as old, contextlib.closing(sqlite3.connect(":memory:")) as now:
        for number, sql in migrations.scripts()[:version]:
            assert number <= version
            now.executescript(sql)
        assert schema_of(old) == schema_of(now), "a script that has made ledgers is never edited: add another"


@pytest.mark.parametrize("version", SCHEMA_VERSIONS)
def test_there_is_a_golden_portal_of_each_version(version: str) -> None:
    assert golden.portal_file(version).exists(), f"a migration came without its golden portal: {golden.HOW}"


@pytest.mark.parametrize("version", VERSIONS)
def test_an_older_ledger_is_opened_with_every_row_as_it_was(version: int, tmp_path: Path) -> None:
    path = unpacked(version, tmp_path)
    before = upgrade.rows_of(path)
    statuses = {row[before["records"][0].index("status")] for row in before["records"][1]}
    assert statuses == {"Completed", "Failed", "Transmitting"}
    assert len(before["chunks"][1]) == 7 - 3, "states and datasets wait in the spool"
    ledger = Ledger(path)
    ledger.drop_spare()  # not by the start that migrated
    ledger.close()
    assert check(path).wrong == []
    assert golden.ledger_version(path) == NEWEST
    assert upgrade.what_changed(before, path) == []
    assert check_ledger(path) > 15
    copy = spare.spare_path(path, version)
    assert copy.exists() == (version != NEWEST), "a copy is kept of what was migrated, and of nothing else"
    if copy.exists():
        assert golden.ledger_version(copy) == version
        assert upgrade.rows_of(copy) == before
        assert copy.stat().st_mode & 0o777 == 0o600
        again = Ledger(path)
        again.drop_spare()
        again.close()
        assert not copy.exists(), "the next start has found the ledger sound"


def test_what_waited_in_the_first_version_is_delivered_by_todays_processes(short: Path) -> None:
    assert upgrade.deliver(1, short) == []


def test_a_migration_that_is_killed_at_any_statement_is_completed_by_the_next_start(tmp_path: Path) -> None:
    count, wrong = upgrade.kills("ledger", 1, tmp_path, every=4)
    assert count > 10 and wrong == []


def test_a_portals_migration_that_is_killed_at_any_statement_is_completed_by_the_next_start(tmp_path: Path) -> None:
    count, wrong = upgrade.kills("portal", SCHEMA_VERSIONS[0], tmp_path, every=2)
    assert count > 5 and wrong == []


def test_a_migration_that_is_no_transaction_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def migrate(connection: sqlite3.Connection, path: str) -> bool:
        for number, sql in migrations.scripts()[6:]:
            connection.executescript(f"{sql}\nPRAGMA user_version = {number};")
        return True

    monkeypatch.setattr(migrations, "migrate", migrate)
    with pytest.raises(LedgerError, match="duplicate column"):
        upgrade.kills("ledger", 6, tmp_path)


def no_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "_ROOM_BYTES", 1 << 60)


def too_large(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "LARGEST_BYTES", 1)


def in_the_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path.parent / f"{spare.spare_path(path, 1).name}.new").mkdir()


@pytest.mark.parametrize("trouble", [no_room, too_large, in_the_way])
def test_a_ledger_that_cannot_be_copied_is_migrated_all_the_same(
    trouble: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = unpacked(1, tmp_path)
    trouble(path, monkeypatch)  # type: ignore[operator]
    before = upgrade.rows_of(path)
    Ledger(path).close()
    assert golden.ledger_version(path) == NEWEST and upgrade.what_changed(before, path) == []
    assert not spare.spare_path(path, 1).exists()


# -- newer, and of others ------------------------------------------------------------------------------------------------


def in_the_log_only(path: Path, change: str) -> None:
    """Commit a change and leave it in the log, as a writer does that is killed."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA wal_autocheckpoint = 0")
    database.executescript(change)
    for suffix in ("", "-wal", "-shm"):
        shutil.copy(f"{path}{suffix}", f"{path}{suffix}.kept")
    database.close()
    for suffix in ("", "-wal", "-shm"):
        os.replace(f"{path}{suffix}.kept", f"{path}{suffix}")


def test_a_newer_ledger_is_refused_and_all_its_files_left_untouched(tmp_path: Path) -> None:
    path = unpacked(NEWEST, tmp_path)
    in_the_log_only(path, f"BEGIN; CREATE TABLE later (x); PRAGMA user_version = {NEWEST + 1}; COMMIT;")
    before = fingerprint(path)
    assert len(before) == 3
    with pytest.raises(LedgerTooNewError, match=f"version {NEWEST + 1}.*knows {NEWEST}.*untouched"):
        Ledger(path)
    assert fingerprint(path) == before


def test_a_database_of_another_program_and_its_log_are_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as foreign:
        foreign.execute("PRAGMA journal_mode = WAL")
    in_the_log_only(path, "CREATE TABLE mine (x)")
    before = fingerprint(path)
    with pytest.raises(LedgerError, match="not a ledger of seclea"):
        Ledger(path)
    assert fingerprint(path) == before


def test_what_a_newer_version_did_not_commit_does_not_count(tmp_path: Path) -> None:
    path = unpacked(NEWEST, tmp_path)
    in_the_log_only(path, f"BEGIN; CREATE TABLE later (x); PRAGMA user_version = {NEWEST + 1}; COMMIT;")
    log = path.with_name(f"{path.name}-wal")
    whole = log.read_bytes()
    header = read_header(path)
    assert header is not None and header.version == NEWEST + 1
    log.write_bytes(whole[:-1])  # its last frame, the one that commits, is cut
    header = read_header(path)
    assert header is not None and header.version == NEWEST
    log.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # or torn
    header = read_header(path)
    assert header is not None and header.version == NEWEST
    path.with_name(f"{path.name}-shm").unlink()
    ledger = Ledger(path)  # sqlite takes it the same way
    assert ledger._one("SELECT count(*) FROM sqlite_schema WHERE name = 'later'")[0] == 0  # type: ignore[index]
    ledger.close()


def test_what_has_no_header_is_left_to_sqlite(tmp_path: Path) -> None:
    assert read_header(tmp_path / "ledger.sqlite") is None
    for content in (b"", b"SQLite format 3\0", b"some notes of mine " * 500):
        (tmp_path / "ledger.sqlite").write_bytes(content)
        assert read_header(tmp_path / "ledger.sqlite") is None
    path = unpacked(NEWEST, tmp_path)
    wanted = read_header(path)
    for log in (b"", b"\0" * 100, b"\x37\x7f\x06\x82" + b"\xff" * 5000):
        path.with_name(f"{path.name}-wal").write_bytes(log)
        assert read_header(path) == wanted


def test_a_newer_portal_is_refused_and_left_untouched(tmp_path: Path) -> None:
    path = golden.unpack(golden.portal_file(SCHEMA_VERSIONS[-1]), tmp_path / "portal") / "portal.db"
    with contextlib.closing(sqlite3.connect(path)) as newer, newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    before = upgrade.rows_of(path)
    with pytest.raises(DatabaseTooNew, match="9999"):
        upgrade.migrate_portal(path)
    assert upgrade.rows_of(path) == before
