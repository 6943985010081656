"""Five programs as users write them: with `seclea.multiprocessing` for their import they do the same, and through our rings.

Which queue carried what is seen from outside: an audit hook in each of a program's processes notes the rings that it opens.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from tests.pipeline import ROOT, PipelineHome, WillingPortal, until

pytest.importorskip("torch")
pytestmark = [pytest.mark.torch, pytest.mark.timeout(180)]

PROGRAMS = Path(__file__).with_name("programs")
ORIGINAL, OURS = "import torch.multiprocessing as mp", "import seclea.multiprocessing as mp"

# Python runs this before each program and in each spawned child.
HOOK = """
import os, sys
seen = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
def hook(event, arguments):
    if event == "open" and "/queue-" in (path := str(arguments[0])) and ".ring" in path:
        os.write(seen, f"{os.getpid()} {path}\\n".encode())
sys.addaudithook(hook)
"""


def run_program(home: PipelineHome, name: str, imports: str, **environment: object) -> str:
    """What the program prints; ``seen`` beside it gets the rings of queues that its processes opened."""
    code = (PROGRAMS / f"{name}.py").read_text()
    assert code.count(ORIGINAL) == 1
    (home.work / "sitecustomize.py").write_text(HOOK)
    path = f"{ROOT}:{home.work}"
    return home.run(
        code.replace(ORIGINAL, imports), PYTHONPATH=path, SEEN=home.work / "seen", OMP_NUM_THREADS=1, **environment
    )


def rings_between_processes(home: PipelineHome) -> dict[str, int]:
    """For each ring of a queue that more than one process opened: its queue's directory and how many did."""
    seen: dict[str, set[str]] = {}
    if (home.work / "seen").exists():
        for line in (home.work / "seen").read_text().splitlines():
            pid, path = line.split(" ", 1)
            seen.setdefault(path.partition(".ring")[0], set()).add(pid)
    return {path: len(pids) for path, pids in seen.items() if len(pids) > 1}


STEPS = {
    "hogwild": [*range(5), *range(100, 105)],
    "ddp": [*range(4), *range(100, 104)],
    "loader": sorted([*range(16), *range(16), 100, 101]),
    "tasks": list(range(50)),
    "failing": [0, 1],
}
RINGS = {"hogwild": 2, "ddp": 2, "loader": 8, "tasks": 2, "failing": 1}  # at least: a ring for each producing process


@pytest.mark.parametrize("name", STEPS)
def test_a_program_does_the_same_with_our_import(home: PipelineHome, portal: WillingPortal, name: str) -> None:
    home.log_in(portal.url)
    before = run_program(home, name, ORIGINAL, SECLEA_PLATFORM_URL=portal.url)
    assert before.rstrip().endswith("True"), "everything was delivered"
    assert rings_between_processes(home) == {}
    assert sorted(portal.steps()) == STEPS[name], "children join their parent's run, whoever starts them"

    after = run_program(home, name, OURS, SECLEA_PLATFORM_URL=portal.url)
    assert after == before
    assert len(rings_between_processes(home)) >= RINGS[name]
    assert sorted(portal.steps()) == sorted(2 * STEPS[name])
    runs = home.rows("SELECT uuid FROM entities WHERE kind = 'training_run'")
    assert len(runs) == 2, "one of each program"
    if name == "ddp":  # nothing but torch.distributed says the rank
        ranks = home.rows("SELECT rank, count(*) FROM streams WHERE run IS NOT NULL GROUP BY rank ORDER BY rank")
        assert ranks == [(0, 4), (1, 2)], "rank 0 of each, and the processes that started them"
    assert not any(Path(path).parent.exists() for path in rings_between_processes(home)), "no queue is left"


def test_what_a_program_logs_is_in_the_homes_own_portal(home: PipelineHome) -> None:
    output = run_program(home, "tasks", OURS, SECLEA_PLATFORM_URL="local")
    assert output.rstrip().endswith("True"), "everything was delivered"
    with contextlib.closing(sqlite3.connect(home.home.portal / "portal.db", timeout=10)) as portal:
        runs = portal.execute("SELECT name, status FROM training_runs").fetchall()
        calls = portal.execute(
            "SELECT sum(last - first + 1), count(DISTINCT stream) FROM records WHERE kind = 'metrics'"
        ).fetchone()
    assert runs == [("tasks", "finished")]
    assert calls[0] == 50
    assert 1 <= calls[1] <= 2, "one worker may have been faster"


def test_the_originals_queues_are_there_for_who_wants_them(home: PipelineHome, portal: WillingPortal) -> None:
    home.log_in(portal.url)
    output = run_program(home, "tasks", OURS, SECLEA_PLATFORM_URL=portal.url, SECLEA_QUEUE=0)
    assert output.rstrip().endswith("True")
    assert rings_between_processes(home) == {}
    until(lambda: sorted(portal.steps()) == STEPS["tasks"], "the records")
