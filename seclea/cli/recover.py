"""``seclea recover``: do by hand, or from cron, what the start of a writer does; or only look (``--check``).

Exit codes: 0 all is whole and delivered (or there is nothing); 1 something is damaged, was lost, or is left to be sent.
"""

from __future__ import annotations

import contextlib
import sys
import time

from seclea.cli.pipeline import complete_all, stop_all, this_home
from seclea.client.status import damage_of
from seclea.contract import Home
from seclea.errors import LedgerError, PipelineError
from seclea.ledger.blobs import Spool
from seclea.ledger.check import Looked, check
from seclea.ledger.view import LedgerView
from seclea.processes.rendezvous import ask, is_held, prepare
from seclea.processes.start import ensure_writer
from seclea.writer.damage import suspect, why_damaged

_START_SECONDS = 15.0


def recover(timeout_seconds: float, *, only_check: bool, home_path: str | None = None) -> int:
    """Look at a home; salvage what is damaged, take over what dead clients left, send what is left."""
    home = Home(home_path) if home_path else this_home()
    if not home.path.exists():
        print("Nothing was ever recorded here.")
        return 0
    if only_check:
        return _check(home)
    why = why_damaged(home, None)
    runs = is_held(home.writer_lock)
    if why is None and not runs and not _has_work(home):
        print("Nothing to recover: the ledger is whole, no ring is left, nothing is pending.")
        return 0
    before = damage_of(home)
    if why is not None:
        print(f"Found: {why}")
        if runs:
            with contextlib.suppress(PipelineError):
                ask(home, {"op": "damaged", "why": why})
        else:
            suspect(home, why)
    prepare(home)
    ensure_writer(home)
    now = _wait_for_rescue(home, before) if why is not None else damage_of(home)
    lost = now is not None and now != before
    if lost and now is not None:
        print(f"Salvaged: {now['words']}")
    elif why is not None:
        print(
            f"The ledger was not salvaged within {_START_SECONDS:g} s; see {home.logs / 'writer.log'}.", file=sys.stderr
        )
        return 1
    done = complete_all(timeout_seconds, home)
    if not runs and done == 0:
        stop_all(20.0, home)
    return 1 if lost else done


def _wait_for_rescue(home: Home, before: object) -> dict[str, str] | None:
    deadline = time.monotonic() + _START_SECONDS
    while (now := damage_of(home)) == before and time.monotonic() < deadline:
        time.sleep(0.05)  # a poll with a deadline
    return now


def _has_work(home: Home) -> bool:
    if any(True for directory in (home.rings, home.shared_rings) for _ in directory.glob("*.ring")):
        return True
    if not home.ledger.exists():
        return False
    with LedgerView(home.ledger) as view:
        return view.pending()[0] > 0


def _check(home: Home) -> int:
    """Look at everything and change nothing."""
    wrong: list[str] = []
    looked = Looked()
    if not home.ledger.exists():
        why = why_damaged(home)
        wrong += [why] if why else []
    else:
        try:
            looked = check(home.ledger)
            wrong += looked.wrong
        except LedgerError as error:
            wrong.append(str(error))
    chunks, bad = (0, []) if wrong else _spool(home)
    wrong += bad
    if not wrong:
        print(f"Whole: {looked.rows} rows of the ledger and {chunks} chunks of payloads are what was recorded.")
        return 0
    print("\n".join(["Damaged:", *(f"  {one}" for one in wrong)]), file=sys.stderr)
    print("The next job salvages what is whole, and so does `seclea recover`.", file=sys.stderr)
    return 1


def _spool(home: Home) -> tuple[int, list[str]]:
    if not home.ledger.exists():
        return 0, []
    spool, bad = Spool(home), []
    with LedgerView(home.ledger) as view:
        chunks = view.all_chunks()
    for sha256 in chunks:
        try:
            spool.read(sha256)
        except (LedgerError, OSError) as error:
            bad.append(str(error))
    return len(chunks), bad
