"""``python -m tests.chaos.failure_table``: every way to fail × the first, middle and last record of a dependency chain.

Rows R14, R15 and S14: what is lost, twice or out of order at the portal (nothing may be), how many requests it cost beyond
those of an undisturbed delivery, how long it took (virtual seconds), and what the user was told meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.chaos.failure_bench import Bench, Judgement, judge, virtual_time
from tests.chaos.failure_rows import ROWS, End, Row, nothing_left_changed
from tests.contract.fault_portal import Asked
from tests.contract.fault_proxy import Certificate, Trouble

PLACES = {"first": "project", "middle": "training_run", "last": "finish"}
UNDISTURBED = 16  # requests; checked by a test
HOUR_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One row at one record.

    Attributes:
        requests: beyond those of an undisturbed delivery; with those that never reached anything.
        held_requests: in the hour in which nobody set it right; None where nobody had to.
        seconds: virtual, from the beginning of the trouble (or from when it was set right) until all was delivered.
        told: what `complete` and `status` said meanwhile.
        failed: kinds that the portal refused. held: kinds that wait for one of those.
        stolen: requests that followed a redirect to another host.
    """

    judgement: Judgement
    requests: int
    held_requests: int | None
    seconds: float
    told: tuple[str, ...]
    failed: tuple[str, ...]
    held: tuple[str, ...]
    stolen: int


@contextlib.contextmanager
def certificates() -> Iterator[dict[str, Certificate] | None]:
    """A good one, one of an unknown authority, one for another host; None without openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="seclea-tls-") as name:
        found = {}
        for which, alternative in (
            ("good", "IP:127.0.0.1"),
            ("unknown", "IP:127.0.0.1"),
            ("other", "DNS:other.example"),
        ):
            chain, key = Path(name, f"{which}.pem"), Path(name, f"{which}.key")
            command = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30"
            command += f" -subj /CN={which} -addext subjectAltName={alternative} -keyout {key} -out {chain}"
            subprocess.run(command.split(), check=True, capture_output=True, timeout=30)
            found[which] = (chain, key)
        trusted = Path(name, "trusted.pem")  # the one for another host is of a known authority
        trusted.write_bytes(found["good"][0].read_bytes() + found["other"][0].read_bytes())
        found["trusted"] = (trusted, trusted)
        yield found


def run_cell(row: Row, kind: str, directory: Path, tls: dict[str, Certificate] | None = None) -> Cell:
    """Deliver a chain during which ``row`` happens when the record of ``kind`` is next."""
    with virtual_time() as clock, nothing_left_changed():
        bench = Bench(directory, clock, tls["good"], str(tls["trusted"][0])) if tls else Bench(directory, clock)
        bench.own.certificates = tls
        try:
            return _run(row, kind, bench)
        finally:
            bench.close()


def _run(row: Row, kind: str, bench: Bench) -> Cell:
    index = undisturbed_order().index(kind)
    bench.run_until(lambda: len(bench.portal.taken) == index)
    (key,) = (key for (key,) in bench.desk.rows("key", "kind = ?", kind))
    fired = 0

    def rule(asked: Asked) -> Trouble | None:
        nonlocal fired
        assert row.trouble is not None
        if row.only_record and asked.headers.get("idempotency-key") != key:
            return None
        trouble = row.trouble(bench, asked, fired)
        fired += 1
        return trouble

    began, before = bench.clock.now, bench.requests
    if row.begin is not None:
        row.begin(bench)
    if row.trouble is not None:
        bench.proxy.rule = rule
    held_requests = None
    if row.end is End.HELD:
        bench.run_until(lambda: bench.state.hold)
        held_from, held_before = bench.clock.now, bench.requests
        bench.run_until(lambda: bench.clock.now > held_from + HOUR_SECONDS)
        held_requests = bench.requests - held_before
    elif row.end is End.DELIVERED:
        hits = (lambda: fired) if row.trouble is not None else (lambda: bench.requests - before)
        bench.run_until(lambda: hits() >= row.times or bench.is_at_rest())
    if row.end is not End.REFUSED:
        bench.proxy.rule = lambda _: None
        if row.set_right is not None:
            row.set_right(bench)
    if row.end is End.HELD:
        began = bench.clock.now
        bench.resume()
    bench.run_until(bench.is_at_rest)
    rows = bench.desk.rows("kind, status", "kind <> 'tombstone'")
    return Cell(
        judge(bench),
        bench.requests - UNDISTURBED,
        held_requests,
        bench.clock.now - began,
        tuple(bench.words),
        tuple(name for name, status in rows if status == "Failed"),
        tuple(name for name, status in rows if status not in ("Failed", "Completed")),
        len(bench.thief.asked),
    )


@cache
def undisturbed_order() -> tuple[str, ...]:
    """The kinds in the order in which an undisturbed chain arrives."""
    with virtual_time() as clock, tempfile.TemporaryDirectory(prefix="seclea-table-") as name:
        bench = Bench(Path(name), clock)
        try:
            bench.run_until(bench.is_at_rest)
            assert (bench.requests, bench.words, judge(bench)) == (UNDISTURBED, [], Judgement(0, 0, 0))
            return tuple(one.kind for one in bench.portal.taken)
        finally:
            bench.close()


# ----------------------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 0 when nothing is lost, twice or out of order in any cell."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.failure_table")
    parser.add_argument("--markdown", action="store_true", help="as in docs/reliability.md")
    parser.add_argument("--every-record", action="store_true", help="at all seven records, not three")
    parser.add_argument("--row", help="only the rows in whose name this stands")
    options = parser.parse_args(arguments)
    kinds = list(undisturbed_order()) if options.every_record else list(PLACES.values())
    logging.getLogger("seclea").setLevel(logging.CRITICAL)  # what goes wrong here is meant to
    wrong = cells = 0
    print(
        "| failure | end | lost | twice | order | requests more | seconds | what the user was told |"
        if options.markdown
        else ""
    )
    if options.markdown:
        print("|---|---|---|---|---|---|---|---|")
    with certificates() as tls:
        for row in ROWS:
            if (options.row and options.row not in row.name) or (row.tls and tls is None):
                continue
            found = []
            for kind in kinds[:1] if row.only_first else kinds:
                cells += 1
                with tempfile.TemporaryDirectory(prefix="seclea-table-") as name:
                    os.environ["XDG_RUNTIME_DIR"] = name
                    try:
                        found.append(run_cell(row, kind, Path(name), tls if row.tls else None))
                    except AssertionError as error:
                        wrong += 1
                        print(f"{row.name}, {kind}: {error}")
            if not found:
                continue
            wrong += sum(cell.judgement != Judgement(0, 0, 0) for cell in found)
            print(_line(row, found, options.markdown), flush=True)
    print(f"\n{cells} cells, {wrong} with something lost, twice or out of order")
    return 1 if wrong else 0


def _line(row: Row, found: list[Cell], markdown: bool) -> str:
    def each(values: list[object]) -> str:
        return str(values[0]) if len(set(values)) == 1 else " / ".join(map(str, values))

    told = next((cell.told[0] for cell in found if cell.told), "nothing")
    told = re.sub(r"https?://127\.0\.0\.1:\d+", "http://portal", told)
    told = told if len(told) <= 110 else told[:107] + "..."
    columns = [
        row.name,
        row.end.value,
        each([cell.judgement.lost for cell in found]),
        each([cell.judgement.twice for cell in found]),
        each([cell.judgement.disordered for cell in found]),
        each([cell.requests for cell in found]),
        each([f"{cell.seconds:.0f}" for cell in found]),
        told.replace("|", "\\|"),
    ]
    return f"| {' | '.join(columns)} |" if markdown else "  ".join(columns)


if __name__ == "__main__":
    sys.exit(main())
