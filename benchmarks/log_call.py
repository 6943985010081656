"""What does a log call cost, and how many records become durable per second? Beside msgpack + copy, and wandb offline.

    python -m benchmarks log_call [--peer wandb]

Each contender runs in a fresh process. ``--peer wandb`` makes an environment for it (never in the lock) and may take a
minute. Figures: µs per call in a tight loop and paced (1 ms sleep between calls); durable records per second from the
first call to the end of the flush; CPU seconds of the whole process tree per 100,000 records.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.machine import describe

TIGHT, PACED = 20_000, 2_000
DURABLE = 300_000

_COMMON = """
import json, os, resource, sys, time
def measure(log, count, pause):
    taken = []
    clock = time.perf_counter_ns
    for number in range(count):
        if pause:
            time.sleep(pause)
        value = 1.0 / (number + 1)
        before = clock()
        log(number, value)
        taken.append(clock() - before)
    ordered = sorted(taken)
    last = len(ordered) - 1
    return {name: ordered[int(last * share)] / 1000 for name, share in (("p50", .5), ("p99", .99), ("p99.9", .999), ("max", 1))}
"""

_MSGPACK = """
import msgpack
buffer = memoryview(bytearray(1 << 22))
place = 0
def log(number, value):
    global place
    body = msgpack.packb((0, number, time.time_ns(), {"loss": value}))
    if place + len(body) > len(buffer):
        place = 0
    buffer[place : place + len(body)] = body
    place += len(body)
measure(log, 2000, 0)
result = {"tight": measure(log, TIGHT, 0), "paced": measure(log, PACED, 0.001)}
print(json.dumps(result))
"""

_SECLEA = """
import psutil
from seclea import SecleaAI
began = time.perf_counter()
client = SecleaAI("benchmark", platform_url="http://127.0.0.1:9")  # a closed port: recording, not sending
run = client.start_training_run("bench")
init = time.perf_counter() - began
log = lambda number, value: run.log({"loss": value}, step=number)
measure(log, 2000, 0)
client.flush(60)
result = {"init": init, "tight": measure(log, TIGHT, 0), "paced": measure(log, PACED, 0.001)}
client.flush(60)
def cpu():
    own = time.process_time()
    for name in ("writer", "sender"):
        pid = client.status()[name]["pid"]
        if pid:
            own += sum(psutil.Process(pid).cpu_times()[:2])
    return own
before_cpu, before = cpu(), time.perf_counter()
for number in range(DURABLE):
    run.log({"loss": 0.5}, step=number)
handed = time.perf_counter() - before
assert client.flush(120).done
taken = time.perf_counter() - before
status = client.status()
result["durable_per_second"] = DURABLE / taken
result["handed_per_second"] = DURABLE / handed
result["cpu_per_100k"] = (cpu() - before_cpu) / DURABLE * 1e5
result["writer_and_sender_mb"] = sum(psutil.Process(status[n]["pid"]).memory_info().rss for n in ("writer", "sender")) / 1e6
print(json.dumps(result))
"""

_WANDB = """
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
import wandb
began = time.perf_counter()
run = wandb.init(project="benchmark", dir=os.environ["BENCH_DIR"])
init = time.perf_counter() - began
log = lambda number, value: run.log({"loss": value})
measure(log, 200, 0)
result = {"init": init, "tight": measure(log, TIGHT // 4, 0), "paced": measure(log, PACED // 2, 0.001)}
run.finish()
run = wandb.init(project="benchmark", dir=os.environ["BENCH_DIR"])
count = DURABLE // 15
usage = lambda: sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
before_cpu, before = usage(), time.perf_counter()
for number in range(count):
    run.log({"loss": 0.5})
run.finish()
result["durable_per_second"] = count / (time.perf_counter() - before)
result["cpu_per_100k"] = (usage() - before_cpu) / count * 1e5
print(json.dumps(result))
"""


def contender(python: str, script: str, **environment: str) -> dict[str, Any]:
    """Run one contender in a process of its own."""
    source = _COMMON + f"TIGHT, PACED, DURABLE = {TIGHT}, {PACED}, {DURABLE}\n" + textwrap.dedent(script)
    done = subprocess.run(
        [python, "-c", source], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def peer_python(name: str) -> str:
    """An environment with a peer in it, made once per machine."""
    place = Path(tempfile.gettempdir()) / f"seclea-bench-{os.getuid()}-{name}"
    python = place / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", name], check=True)
    return str(python)


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks log_call")
    parser.add_argument("--peer", action="append", choices=["wandb"], default=[])
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="seclea-bench-"))
    results = {}
    try:
        results["msgpack + copy"] = contender(sys.executable, _MSGPACK)
        results["seclea"] = contender(sys.executable, _SECLEA, SECLEA_HOME=str(directory / "home"))
        subprocess.run(
            [sys.executable, "-m", "seclea", "stop"],
            env={**os.environ, "SECLEA_HOME": str(directory / "home")}, check=False, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for peer in options.peer:
            results[f"{peer} offline"] = contender(peer_python(peer), _WANDB, BENCH_DIR=str(directory))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(describe("seclea", "msgpack"))
    print(
        f"{'':16} {'tight p50':>10} {'p99':>8} {'p99.9':>8} {'paced p50':>10} {'p99':>8} {'durable/s':>10} {'CPU s/100k':>10}"
    )
    for name, one in results.items():
        durable = f"{one['durable_per_second']:,.0f}" if "durable_per_second" in one else "-"
        cpu = f"{one['cpu_per_100k']:.2f}" if "cpu_per_100k" in one else "-"
        tight, paced = one["tight"], one["paced"]
        print(
            f"{name:16} {tight['p50']:>10.2f} {tight['p99']:>8.1f} {tight['p99.9']:>8.1f} {paced['p50']:>10.1f}"
            f" {paced['p99']:>8.1f} {durable:>10} {cpu:>10}"
        )
    ours, floor = results["seclea"], results["msgpack + copy"]
    tight, paced = (ours[how]["p50"] / floor[how]["p50"] for how in ("tight", "paced"))
    print(f"ratio to msgpack + copy: tight {tight:.1f}, paced {paced:.1f}")
    print(f"init {ours['init'] * 1000:.0f} ms; writer and sender {ours['writer_and_sender_mb']:.0f} MB")
    for name, one in results.items():
        if name.endswith("offline"):
            tight, paced = (ours[how]["p50"] / one[how]["p50"] for how in ("tight", "paced"))
            durable = ours["durable_per_second"] / one["durable_per_second"]
            print(f"ratio to {name}: tight {tight:.3f}, paced {paced:.3f}, durable {durable:.0f} x")
    if options.json:
        options.json.write_text(json.dumps({"machine": describe("seclea", "msgpack"), **results}, indent=2), "utf-8")
    return 0
