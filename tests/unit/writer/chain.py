"""The chain and the keys of docs/wire.md, written down a second time: nothing here is of the pipeline."""

import hashlib
import sqlite3
import struct
from pathlib import Path
from typing import Any

START = bytes(32)


def link(previous: bytes, stream: bytes, lane: str, first: int, last: int, kind: str, body_digest: bytes) -> bytes:
    text = b"seclea-chain-v1\n" + previous + stream + lane.encode() + b"\n" + struct.pack(">QQ", first, last)
    return hashlib.sha256(text + kind.encode() + b"\n" + body_digest).digest()


def check_ledger(path: Path) -> int:
    """Recompute every lane of a ledger from its bodies; the number of records that stand in one.

    A tombstone that stands for a record is in its place: it must leave sequence and chain as they are.
    """
    ledger = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    ledger.row_factory = sqlite3.Row
    checked = 0
    try:
        for lane in ledger.execute("SELECT l.*, s.uuid FROM lanes l JOIN streams s ON s.id = l.stream").fetchall():
            rows: list[Any] = ledger.execute(
                "SELECT * FROM records WHERE stream = ? AND lane = ? AND first IS NOT NULL ORDER BY first, id",
                (lane["stream"], lane["lane"]),
            ).fetchall()
            chain, next_number = START, 1
            for row in rows:
                prefix = f"{lane['uuid'].hex()}.{lane['lane']}.{row['first']}"
                if row["body"] is not None:
                    assert hashlib.sha256(row["body"]).digest() == row["digest"]
                if row["stands_for"] is not None:
                    assert (row["chain"], row["key"]) == (chain, prefix + ".t")
                    continue
                assert (row["first"], row["key"]) == (next_number, prefix)
                span = (row["first"], row["last"])
                chain = link(chain, lane["uuid"], lane["lane"], *span, row["kind"], row["digest"])
                assert row["chain"] == chain, f"record {row['id']}"
                next_number = row["last"] + 1
                checked += 1
            assert (lane["sequence"], lane["chain"]) == (next_number - 1, chain), "the lane's head"
    finally:
        ledger.close()
    return checked
