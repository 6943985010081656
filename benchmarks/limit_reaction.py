"""How long after a limit is crossed logging pauses, and how long after there is room again it goes on.

Part of ``python -m benchmarks limits``. The word that a client goes by stands in its ring; it is looked at from outside, in
the mapped file, every millisecond, so that looking wakes nobody. Crossed in two ways, at an instant that is known: an edit
of the RC file, and a disk (a small file system of its own, where one may be mounted) that something else fills.
"""

from __future__ import annotations

import mmap
import statistics
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seclea.queues.layout import PAUSED
from tests.pipeline import DEADLINE_SECONDS, PipelineHome, Script, WillingPortal, pipeline_home
from tests.small_disk import small_disk

_LOOK_SECONDS = 0.001

JOB = """
import select, sys, time
from seclea.director import pipeline as director
director._in_container = lambda: True   # its ring in the home
from seclea import SecleaAI
run = SecleaAI("Claims").start_training_run("long")
for step in range({calls}):
    run.log({{"loss": 1.0, "accuracy": 0.5}}, step)
print("started", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    step += 1
    run.log({{"loss": 1.0, "accuracy": 0.5}}, step)
    time.sleep(0.002)   # a job that computes between its calls
run.finish()
"""


class Paused:
    """The word of a client's ring that asks it to pause."""

    def __init__(self, ring: Path) -> None:
        with ring.open("rb") as file:
            self._memory = mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ)

    def seconds_until(self, paused: bool) -> float:
        """How long from now until it says so."""
        began = time.monotonic()
        while bool(struct.unpack_from("=Q", self._memory, 8 * PAUSED)[0]) != paused:
            if time.monotonic() - began > DEADLINE_SECONDS:
                raise TimeoutError(f"paused is not {paused} after {DEADLINE_SECONDS:g} s")
            time.sleep(_LOOK_SECONDS)  # between two looks at a word in memory that tells nobody of its change
        return time.monotonic() - began

    def close(self) -> None:
        """Let go of the ring."""
        self._memory.close()


def _rounds(home: PipelineHome, job: Script, rounds: int, cross: Callable[[], None], leave: Callable[[], None]) -> Any:
    assert job.hear() == "started"
    word = Paused(next(home.home.rings.glob("*.ring")))
    found: dict[str, list[float]] = {"paused_after": [], "resumed_after": []}
    try:
        word.seconds_until(False)
        for number in range(rounds):
            cross()
            found["paused_after"].append(word.seconds_until(True))
            # Apart by other parts of the writer's half second each time, or all rounds would fall into the same one.
            time.sleep(0.7 + 0.13 * (number % 7))
            leave()
            found["resumed_after"].append(word.seconds_until(False))
            time.sleep(0.7 + 0.17 * (number % 7))  # likewise
    finally:
        word.close()
    job.tell("")
    job.end()
    return {name: _summary(seconds) for name, seconds in found.items()}


def _summary(seconds: list[float]) -> dict[str, float]:
    return {"times": len(seconds), "median_s": round(statistics.median(seconds), 3), "max_s": round(max(seconds), 3)}


def by_edit(rounds: int) -> Any:
    """An edit of the RC file lowers the disk limit below what is in use, and raises it again."""
    portal = WillingPortal()
    try:
        with pipeline_home() as home:
            rc = home.user / ".seclearc"

            def limit(disk: str) -> None:
                rc.write_text(f'[limits]\ndisk = "{disk}"\nmin_free_disk = 0\n')

            limit("1GB")
            # Nobody to send to: what is in use stays in use. 20 MB of it are more than the least limit that can be set.
            job = home.script(JOB.format(calls=400_000))
            return _rounds(home, job, rounds, lambda: limit("16MB"), lambda: limit("1GB"))
    finally:
        portal.close()


def by_full_disk(rounds: int) -> Any:
    """Something else fills the disk of the home to the last byte, and makes room again."""
    try:
        with small_disk("bytes") as disk, pipeline_home() as home:
            home.path = disk.path / "home"
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("SECLEA_HOME", str(home.path))
                try:
                    job = home.script(JOB.format(calls=10), SECLEA_LIMITS_MIN_FREE_DISK="0B")
                    return _rounds(home, job, rounds, disk.fill, disk.free)
                finally:
                    for script in home.scripts:
                        script.close()
                    home.command("stop")
    except pytest.skip.Exception as reason:  # `small_disk` needs root: said in the figures, not passed over
        return {"skipped": str(reason)}


def reactions(rounds: int) -> dict[str, Any]:
    """Both ways, ``rounds`` times each: seconds until rings show a pause, and until they show its end."""
    return {"rc_edit": by_edit(rounds), "disk_filled": by_full_disk(rounds)}
