"""``python -m tests.chaos.recover_million --records N``: how long a start takes with so many pending records; its memory.

A start, a full check, and a salvage after one page was zeroed, each in a process of its own; printed: seconds, CPU seconds,
and the most memory that the process had.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from seclea.contract import Destination, Home
from seclea.ledger.check import check
from seclea.ledger.db import Ledger
from seclea.processes.rendezvous import prepare
from seclea.records import Lane, MetricBatch, RecordKind, chain_hash, idempotency_key, pack_metrics
from seclea.writer.damage import ledger_of

_AT_ONCE = 5000


def make(home: Home, records: int) -> None:
    """A ledger with so many pending batches of one point."""
    prepare(home)
    ledger = Ledger(home.ledger)
    stream_uuid, run = os.urandom(16), "11111111-1111-4111-8111-111111111111"
    with ledger.transaction():
        destination = ledger.destination(Destination("https://portal", "https://auth", "Acme"))
        stream = ledger.add_stream(stream_uuid, os.urandom(16), 0, destination, run, run, 0)
    chain, lane, kind = bytes(32), Lane.ORDERED, RecordKind.METRICS
    for start in range(1, records + 1, _AT_ONCE):
        with ledger.transaction():
            for first in range(start, min(start + _AT_ONCE, records + 1)):
                batch = MetricBatch(run, 0, first)
                batch.append(first, first, first, {"loss": 0.5})
                body = pack_metrics(batch)
                digest = hashlib.sha256(body).digest()
                chain = chain_hash(chain, stream_uuid, lane, first, first, kind, digest)
                record = ledger.add_record(kind, destination, stream, lane, run=run, points=1)
                key = idempotency_key(stream_uuid, lane, first)
                ledger.seal(record, stream_uuid, stream, lane, kind, first, first, key, body, digest, chain, len(body))
    ledger.close()


def measure(what: str, path: Path) -> None:
    """One measurement, in this process."""
    home = Home(path)
    began, cpu = time.monotonic(), time.process_time()
    said = ""
    if what == "check":
        looked = check(home.ledger)
        said = f"{looked.rows} rows, wrong: {looked.wrong}"
    else:
        ledger, rescue = ledger_of(home)
        said = f"pending {ledger.pending()[0]}" + (f", lost: {rescue.found.words()}" if rescue is not None else "")
        ledger.close()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{what}: {time.monotonic() - began:.1f} s ({time.process_time() - cpu:.1f} s CPU), {most:.0f} MiB; {said}",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> int:
    """Make, start, check, damage, salvage."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.recover_million")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "HOME"), help="for its own child processes")
    options = parser.parse_args(arguments)
    if options.measure:
        measure(options.measure[0], Path(options.measure[1]))
        return 0
    directory = Path(tempfile.mkdtemp(prefix="seclea-million-"))
    home = Home(directory / "home")
    make(home, options.records)
    size = home.ledger.stat().st_size
    print(f"{options.records} pending records, {size / 1e6:.0f} MB", flush=True)
    code = 0
    for what in ("start", "check", "salvage"):
        if what == "salvage":
            with home.ledger.open("r+b") as file:
                file.seek(size // 4096 // 2 * 4096)
                file.write(bytes(4096))
            home.suspicion.write_text("A page was zeroed.", "utf-8")
        command = [sys.executable, "-m", "tests.chaos.recover_million", "--measure", what, str(home.path)]
        code |= subprocess.run(command, check=False).returncode
    shutil.rmtree(directory, ignore_errors=True)
    return int(code != 0)


if __name__ == "__main__":
    sys.exit(main())
