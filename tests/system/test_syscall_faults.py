"""R2, R5, R6, R8, R9, R18: faults at system calls (`tests/chaos/shim`): the tool, and a short seeded part of its sweeps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import clocks, shim
from tests.chaos.shim import Control, Point
from tests.chaos.shim.judge import Told, judge_home, read_notes
from tests.chaos.syscalls import Fault, Sweep, choose, workers

pytestmark = pytest.mark.xdist_group("syscalls")

WRITES = """
    import os, sys
    home = sys.argv[1]
    descriptor = os.open(home + "/file", os.O_RDWR | os.O_CREAT)
    for _ in range(3):
        try:
            print(os.write(descriptor, b"12345678"))
        except OSError as error:
            print(error.errno)
    os.close(descriptor)
    """


@pytest.fixture(autouse=True)
def _built() -> None:
    try:
        shim.build()
    except shim.CannotBuild as error:
        pytest.skip(str(error))


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    (tmp_path / "home").mkdir()
    made = Control(tmp_path / "control", tmp_path / "home", tmp_path / "run", tmp_path / "shm")
    try:
        yield made
    finally:
        made.close()


def run(control: Control, code: str) -> subprocess.CompletedProcess[str]:
    """A process under the control, as a writer."""
    home = control.path.parent / "home"
    environment = {**os.environ, **shim.preload(), "SHIM_CONTROL": str(control.path), "SHIM_ROLE": "writer"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(home)],
        capture_output=True, text=True, check=False, env=environment, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "times", "said", "size"),
    [
        ("ENOSPC", 1, ["8", "28", "8"], 16),
        ("EIO", 2, ["8", "5", "5"], 8),
        ("SHORT", 1, ["8", "4", "8"], 20),
        ("EINTR", 1, ["8", "8", "8"], 24),  # Python tries again
    ],
)
def test_the_planned_call_fails_and_no_other(
    control: Control, mode: str, times: int, said: list[str], size: int
) -> None:
    control.plan(Point("writer", "write", "home/file", 2), mode, times)
    done = run(control, WRITES)
    assert (done.stdout.split(), done.stderr) == (said, "")
    assert (control.path.parent / "home" / "file").stat().st_size == size
    assert control.fired == times


@pytest.mark.parametrize(("mode", "size"), [("KILL", 8), ("KILLED", 16)])
def test_a_process_is_killed_before_or_after_the_planned_call(control: Control, mode: str, size: int) -> None:
    control.plan(Point("writer", "write", "home/file", 2), mode)
    assert run(control, WRITES).returncode == -signal.SIGKILL
    assert (control.path.parent / "home" / "file").stat().st_size == size


def test_calls_are_listed_by_names_that_are_the_same_in_every_run(control: Control) -> None:
    run(control, WRITES.replace("/file", "/0123456789abcdef-f00d.new"))
    calls = [(point, kind) for point, kind in control.calls() if point.path.startswith("home/")]
    assert [str(point) for point, _ in calls] == [
        "writer:open:home/*.new:1",
        *(f"writer:write:home/*.new:{number}" for number in (1, 2, 3)),
        "writer:close:home/*.new:1",
    ]
    assert [shim.applies("ENOSPC", kind) for _, kind in calls] == [True, True, True, True, False]
    assert Point.parse(str(calls[1][0])) == calls[1][0]


def test_the_wall_clock_alone_moves(control: Control) -> None:
    code = "import time; print(time.time() - time.clock_gettime(time.CLOCK_MONOTONIC))"
    plain = float(run(control, code).stdout)
    control.set_clock("writer", -3600.0)
    control.set_clock("sender", 7200.0)
    assert float(run(control, code).stdout) - plain == pytest.approx(-3600.0, abs=60.0)


def test_the_judge_of_a_home_names_what_was_left(tmp_path: Path) -> None:
    (tmp_path / "spool" / "incoming").mkdir(parents=True)
    (tmp_path / "spool" / "incoming" / "payload").touch()
    assert judge_home(tmp_path, [], Told()) == ["left in incoming: ['payload']"]


def test_what_came_after_a_flush_is_not_durable(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.write_text('{"value": 0}\n{"flush": true}\n{"result": 1.0}\n', "utf-8")
    assert read_notes(notes).is_durable
    notes.write_text('{"value": 0}\n{"flush": true}\n{"value": 1}\n', "utf-8")
    assert not read_notes(notes).is_durable


# What the sweep found, each mended since.
FOUND = [
    Fault(Point("writer", "pwrite", "home/ledger.sqlite-shm", 5), "ENOSPC", 20, power=True),
    Fault(Point("writer", "opendir", "home/queues/settle", 2), "EMFILE"),
    Fault(Point("client", "rename", "home/spool/incoming/*", 2), "EIO"),
    Fault(Point("client", "close", "home/spool/making/*/*.pickle", 1), "EINTR", power=True),
    Fault(Point("client", "read", "home/tokens/*.json", 1), "EIO"),
]


@pytest.mark.timeout(300)
def test_whatever_call_fails_nothing_is_lost_or_sent_twice_and_the_job_ends_as_it_would() -> None:
    sweep = Sweep()
    with workers(2, local=False) as hands:
        calls = [one.calls() for one in hands].pop()
        roles = {point.role for point, _ in calls}
        sample = choose(calls, ("client", "writer", "sender"), list(shim.MODES), 4, seed=20)
        sweep.run(hands, [*FOUND, *(fault for fault in sample if fault.times == 1)], say=False)
    assert roles == {"client", "writer", "sender"}  # the shim was in all of them
    assert [(one.point, one.mode, one.wrong, one.directory) for one in sweep.findings] == []
    assert sum(sweep.met.values()) >= len(FOUND)


@pytest.mark.timeout(300)
def test_whatever_the_wall_clocks_do_meanwhile_order_and_content_are_the_same() -> None:
    assert clocks.main(["--cases", "2", "--first", "4", "--seed", "9"]) == 0


def test_a_sweep_is_the_same_for_the_same_seed() -> None:
    calls = [(Point("writer", "write", "home/a", nth), shim.WRITES) for nth in (1, 2, 3)]
    calls += [(Point("sender", "fsync", "home/b", 1), shim.SYNCS)]
    chosen = choose(calls, ["writer", "sender"], ["KILL", "EIO", "SHORT"], 5, seed=4)
    assert chosen == choose(calls, ["writer", "sender"], ["KILL", "EIO", "SHORT"], 5, seed=4)
    whole = choose(calls, ["writer"], ["KILL", "SHORT"], 0, seed=4)
    assert sorted((fault.point.nth, fault.mode) for fault in whole if fault.point) == [
        (nth, mode) for nth in (1, 2, 3) for mode in ("KILL", "SHORT")
    ]
