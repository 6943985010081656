"""The schema: numbered, readable ``.sql`` files, each applied once, in one transaction, forward only."""

from __future__ import annotations

import sqlite3
from importlib import resources
from pathlib import Path

from seclea.errors import LedgerError, LedgerTooNewError
from seclea.ledger import spare
from seclea.ledger.header import read_header

APPLICATION_ID = 0x5EC1EA01  # "SECLEA", version of the file kind; sqlite's header field


def scripts() -> list[tuple[int, str]]:
    """All migrations: number and SQL, in order from 1."""
    folder = resources.files("seclea.ledger") / "schema"
    found = sorted(
        (int(item.name[:4]), item.read_text("utf-8")) for item in folder.iterdir() if item.name[:4].isdigit()
    )
    return found


def refuse_foreign(path: Path) -> None:
    """Look at a file that no connection has opened yet, and leave it untouched if it is not for this version.

    Raises:
        LedgerTooNewError: a newer seclea wrote it.
        LedgerError: another program's database.
        OSError: it cannot be read just now.
    """
    header = read_header(path)
    if header is not None:
        _check(path, header.application_id, header.version, is_empty=header.is_empty)


def _check(path: Path | str, application: int, version: int, *, is_empty: bool) -> None:
    if not is_empty and application != APPLICATION_ID:
        raise LedgerError(f"{path} is a database, but not a ledger of seclea.", "Move it away, or set SECLEA_HOME.")
    newest = scripts()[-1][0]
    if version > newest:
        raise LedgerTooNewError(
            f"The ledger {path} has version {version}, this seclea knows {newest}; it is left untouched.",
            "Upgrade seclea, or set SECLEA_HOME to another directory.",
        )


def migrate(connection: sqlite3.Connection, path: str) -> bool:
    """Bring the schema to this version, or leave it untouched. An older one is copied first, see `spare`.

    Returns:
        Whether it was of an older version.
    Raises:
        LedgerTooNewError: a newer seclea wrote it.
        LedgerError: another program's database.
    """
    version = _pragma(connection, "user_version")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    _check(path, _pragma(connection, "application_id"), version, is_empty=not tables)
    known = scripts()
    if 0 < version < known[-1][0]:
        spare.make(connection, Path(path), version)
    for number, sql in known:
        if number <= version:
            continue
        # executescript commits what is open; the script brings its own transaction so that a kill leaves all or nothing.
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{sql}\nPRAGMA user_version = {number};\n"
            f"PRAGMA application_id = {APPLICATION_ID - (1 << 32) if APPLICATION_ID >= 1 << 31 else APPLICATION_ID};\nCOMMIT;"
        )
    return 0 < version < known[-1][0]


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0]) & 0xFFFFFFFF
