"""A job that logs five times as much as fits: what is used meanwhile, against each limit, and what the job feels of it.

    python -m benchmarks limits [--json FILE] [--plot FILE.png] [--quick] [--rounds N]

The portal (scripted, over a real socket) takes nothing at first, and all from the first pause on plus ``--outage`` seconds. The
job does steps of about a millisecond of arithmetic and 10 log calls of eight metrics. Usage is looked at
from outside every 20 ms: sizes of ledger, log and spool; rings; resident memory of writer and sender without what they share.
Then a limit is crossed again and again at a known instant (`limit_reaction`): how soon logging pauses, and resumes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.environments import PLOT, Unavailable, python_of
from benchmarks.limit_reaction import reactions
from benchmarks.machine import describe
from seclea.client.status import status
from tests.contract.fault_portal import Answer
from tests.pipeline import PipelineHome, WillingPortal, pipeline_home

DISK, MEMORY = 16_000_000, 128_000_000
BURST = 10
RESUME_BELOW = 0.7
_SAMPLE_SECONDS = 0.02

JOB = """
import json, time
from seclea import SecleaAI
client = SecleaAI("Claims")
run = client.start_training_run("long")
clock = time.monotonic
print("started", flush=True)
names = "abcdefgh"
steps, calls, x = [], [], 1.0
for step in range({steps}):
    begun = clock()
    for _ in range(20_000):
        x = x * 1.000001
    for _ in range({burst}):
        before = clock()
        run.log({{name: x + place for place, name in enumerate(names)}}, step)
        calls.append(round(clock() - before, 7))
    steps.append((begun, clock()))
run.finish()
print(json.dumps([steps, calls]), flush=True)
"""

DRAWING = """
import json, sys
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
found = json.load(open(sys.argv[1]))
figure, axes = plt.subplots(2, 1, sharex=True, figsize=(9, 6))
seconds = [one[0] for one in found["samples"]]
for axis, column, limit, name in ((axes[0], 1, found["disk_limit"], "disk"), (axes[1], 2, found["memory_limit"], "memory")):
    axis.plot(seconds, [one[column] / 1e6 for one in found["samples"]], linewidth=0.8, label=name)
    axis.axhline(limit / 1e6, color="red", linewidth=1, label="limit")
    for begin, end in found["pauses"]:
        axis.axvspan(begin, end, color="orange", alpha=0.25, linewidth=0)
    axis.set_ylabel("MB")
    axis.legend(loc="lower right")
axes[1].set_xlabel("seconds; logging is paused where it is orange")
figure.tight_layout()
figure.savefig(sys.argv[2], dpi=110)
"""


def look(home: PipelineHome) -> tuple[int, int]:
    """(disk, memory) in use, from outside."""
    disk = 0
    for path in [*home.path.glob("ledger.sqlite*"), *home.home.spool.rglob("*")]:
        try:
            disk += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    memory = 0
    for directory in (home.home.rings, home.home.shared_rings):
        memory += sum(path.stat().st_size for path in directory.glob("*.ring"))
    for module in ("seclea.writer", "seclea.sender"):
        for pid in home.pids_of(module):
            try:
                facts = psutil.Process(pid).memory_info()
            except psutil.Error:
                continue
            memory += facts.rss - facts.shared
    return disk, memory


def measure(steps: int, outage_seconds: float) -> dict[str, Any]:
    """All figures of one job."""
    portal = WillingPortal()
    samples: list[tuple[float, int, int, bool]] = []
    try:
        with pipeline_home() as home:
            (home.user / ".seclearc").write_text(
                f"[limits]\ndisk = {DISK}\nmemory = {MEMORY}\nmin_free_disk = 0\nresume_below = {RESUME_BELOW}\n"
            )
            home.log_in(portal.url)
            scripts = dict(portal._scripts)
            for key in scripts:
                portal.on(*key, Answer(503, {"detail": "later"}, {"Retry-After": "1"}))
            job = home.script(JOB.format(steps=steps, burst=BURST), SECLEA_PLATFORM_URL=portal.url)
            assert job.hear() == "started"
            began, over = time.monotonic(), threading.Event()
            said: list[str] = []
            listener = threading.Thread(target=lambda: (said.append(job.hear()), over.set()))
            listener.start()
            willing_at = None
            total = steps * BURST * 8
            while not over.is_set() or home.rows("SELECT 1 FROM records WHERE status = 'Transmitting' LIMIT 1"):
                disk, memory = look(home)
                paused = bool(home.live().get("paused"))
                now = time.monotonic() - began
                samples.append((round(now, 3), disk, memory, paused))
                if paused and willing_at is None:
                    willing_at = now + outage_seconds
                if scripts and willing_at is not None and now >= willing_at:
                    for key, script in scripts.items():
                        portal.on(*key, *script)
                    scripts = {}
                over.wait(_SAMPLE_SECONDS)
            listener.join()
            job.end()
            delivered = sum(n for (n,) in home.rows("SELECT points FROM totals WHERE kind = 'metrics'"))
            left = status(home.home)
    finally:
        portal.close()
    steps_seen, calls = json.loads(said[0])
    pauses = spans(samples)
    times: dict[bool, list[float]] = {False: [], True: []}
    outside: list[float] = []
    for number, (begun, ended) in enumerate(steps_seen):
        # A pause is seen a moment after the rings show it.
        inside = any(begun < began + end and ended > began + begin - 0.5 for begin, end in pauses)
        times[inside].append(ended - begun)
        if not inside:
            outside += calls[number * BURST : (number + 1) * BURST]
    return {
        "machine": describe("seclea"),
        "disk_limit": DISK,
        "memory_limit": MEMORY,
        "logged_points": total,
        "delivered_points": delivered,
        "left_out": left["left_out"],
        "pauses_by_reason": left["pauses"]["by_reason"],
        "disk_peak": max(one[1] for one in samples),
        "memory_peak": max(one[2] for one in samples),
        "disk_at_the_end": samples[-1][1],
        "step_outside_pauses": spread(times[False]),
        "step_in_pauses": spread(times[True]),
        "log_call_outside_pauses": spread(outside),
        "resumed_after_seconds": [resumed_after(samples, *pause) for pause in pauses],
        "pauses": pauses,
        "samples": samples,
    }


def spread(seconds: list[float]) -> dict[str, float]:
    """Milliseconds at the quantiles that are asked for."""
    if len(seconds) < 2:
        return {"count": len(seconds)}
    ordered = sorted(seconds)
    at = {name: ordered[min(len(ordered) - 1, int(len(ordered) * share))] for name, share in
          (("p99", 0.99), ("p99.9", 0.999))}  # fmt: skip
    values = {"p50": statistics.median(ordered), **at, "max": ordered[-1]}
    return {"count": len(ordered), **{name: round(1000 * value, 4) for name, value in values.items()}}


def spans(samples: list[tuple[float, int, int, bool]]) -> list[tuple[float, float]]:
    """(begin, end) of each pause, as it was seen from outside."""
    found: list[tuple[float, float]] = []
    begun = None
    for seconds, _, _, paused in samples:
        if paused and begun is None:
            begun = seconds
        elif not paused and begun is not None:
            found.append((begun, seconds))
            begun = None
    return found if begun is None else [*found, (begun, samples[-1][0])]


def resumed_after(samples: list[tuple[float, int, int, bool]], begin: float, end: float) -> float:
    """Seconds from the look at which usage was below what logging resumes at, to the end of the pause."""
    below = [at for at, disk, _, _ in samples if begin <= at <= end and disk < RESUME_BELOW * DISK]
    return round(end - below[0], 3) if below else 0.0


def main(arguments: list[str]) -> int:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(prog="./dev bench limits")
    parser.add_argument("--json", type=Path, help="write all figures and samples there")
    parser.add_argument("--plot", type=Path, help="draw usage against the limits there (PNG)")
    parser.add_argument("--quick", action="store_true", help="a fifth of it")
    parser.add_argument("--outage", type=float, default=3.0, help="seconds from the first pause on without a portal")
    parser.add_argument(
        "--rounds", type=int, help="how often a limit is crossed to see when logging pauses (10; 0: not)"
    )
    options = parser.parse_args(arguments)
    rounds = options.rounds if options.rounds is not None else 3 if options.quick else 10
    # 168 bytes of ledger for a call of eight metrics
    steps = 5 * DISK // 168 // BURST // (5 if options.quick else 1)
    found = measure(steps, options.outage)
    found["reactions"] = reactions(rounds) if rounds else {}
    print(json.dumps({name: value for name, value in found.items() if name != "samples"}, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found), "utf-8")
    if options.plot and options.json:
        try:
            python = python_of(PLOT)
        except Unavailable as error:
            print(f"no plot: {error}", file=sys.stderr)
            return 0
        subprocess.run([str(python), "-c", DRAWING, str(options.json), str(options.plot)], check=True, timeout=120)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
