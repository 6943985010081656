"""The schema: numbered, readable ``.sql`` files, each applied once, in one transaction, forward only."""

from __future__ import annotations

import sqlite3
from importlib import resources

from seclea.errors import LedgerError, LedgerTooNewError

APPLICATION_ID = 0x5EC1EA01  # "SECLEA", version of the file kind; sqlite's header field


def scripts() -> list[tuple[int, str]]:
    """All migrations: number and SQL, in order from 1."""
    folder = resources.files("seclea.ledger") / "schema"
    found = sorted(
        (int(item.name[:4]), item.read_text("utf-8")) for item in folder.iterdir() if item.name[:4].isdigit()
    )
    return found


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the schema to this version, or leave it untouched.

    Raises:
        LedgerTooNewError: a newer seclea wrote it.
        LedgerError: another program's database.
    """
    application = _pragma(connection, "application_id")
    version = _pragma(connection, "user_version")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if tables and application != APPLICATION_ID:
        raise LedgerError(f"{path} is a database, but not a ledger of seclea.", "Move it away, or set SECLEA_HOME.")
    known = scripts()
    newest = known[-1][0]
    if version > newest:
        raise LedgerTooNewError(
            f"The ledger {path} has version {version}, this seclea knows {newest}; it is left untouched.",
            "Upgrade seclea, or set SECLEA_HOME to another directory.",
        )
    for number, sql in known:
        if number <= version:
            continue
        # executescript commits what is open; the script brings its own transaction so that a kill leaves all or nothing.
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{sql}\nPRAGMA user_version = {number};\n"
            f"PRAGMA application_id = {APPLICATION_ID - (1 << 32) if APPLICATION_ID >= 1 << 31 else APPLICATION_ID};\nCOMMIT;"
        )


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0]) & 0xFFFFFFFF
