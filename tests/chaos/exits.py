"""``python -m tests.chaos.exits --exits N``: how long a training process takes to end, beside one that does not use seclea.

Each exit is that of a forked child of one interpreter: from its last statement to the moment that its parent can reap it,
with ``atexit`` and all of Python's own end. What counts is how long it waits: time on a processor, and in line for one, is
taken off. States: nothing of seclea; a pipeline that has just been started; 100,000 calls just made; the same and a portal
that hangs; 50,000 calls pending and the writer stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.processes import pipeline_pids
from tests.contract.fault_portal import ORGANIZATION, Answer, Fault, FaultPortal

LONGEST_SECONDS = 0.2  # that an exit may wait, beside one without seclea
STATES = ("plain", "fresh", "busy", "hanging", "stopped")
_CALLS = 100_000
_CALLS_OF_A_RING = 50_000  # more would wait for room, as at any limit


def trainer(state: str, home: Path, writing: int) -> None:
    """Do what a job does in ``state``, and say when the last statement was reached."""
    if state != "plain":
        import seclea

        run = seclea.init("exits")
        run.log({"loss": 0.0})
        if state != "fresh":
            for pid in pipeline_pids(home).get("writer", ()) if state == "stopped" else ():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            for step in range(_CALLS if state != "stopped" else _CALLS_OF_A_RING):
                run.log({"loss": 1.0}, step=step)
    os.write(writing, struct.pack("dd", time.monotonic(), worked(os.getpid())))


def worked(pid: int) -> float:
    """Seconds that a process has run, or stood in line for a processor: what a busy machine costs, not a wait of ours."""
    runs, stands, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    return (int(runs) + int(stands)) / 1e9


def one_exit(state: str, home: Path) -> tuple[float, float]:
    """Seconds from a trainer's last statement to its end, and those of them in which it waited."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        trainer(state, home, writing)
        sys.exit()  # in the child the whole of Python's end follows, not an `os._exit`
    os.close(writing)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    ended, in_all = time.monotonic(), worked(pid)
    _, status = os.waitpid(pid, 0)
    began, before = struct.unpack("dd", os.read(reading, 16))
    os.close(reading)
    if status:
        raise RuntimeError(f"a trainer ended with {status} ({state})")
    for other in pipeline_pids(home).get("writer", ()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(other, signal.SIGCONT)
    return ended - began, max(0.0, ended - began - (in_all - before))


def main(arguments: list[str] | None = None) -> int:
    """Measure; 1 when an exit waits longer than is promised (its median, beside that without seclea)."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.exits")
    parser.add_argument("--exits", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the order of the states")
    options = parser.parse_args(arguments)
    me = os.getpid()
    directory = Path(tempfile.mkdtemp(prefix="seclea-exits-"))
    home = directory / "home"
    took: dict[str, list[tuple[float, float]]] = {state: [] for state in STATES}
    # Served by a process of its own: a fork of one with threads is not what a trainer is.
    reading, writing = os.pipe()
    portal_pid = os.fork()
    if portal_pid == 0:
        portal = FaultPortal().extended()
        portal.on("GET", "/organization/", Answer(200, [{"uuid": ORGANIZATION, "name": "local"}]))
        portal.on("POST", "/collection/projects", Answer(fault=Fault.STALLED))
        os.write(writing, portal.url.encode())
        os.close(writing)
        signal.pause()
        os._exit(0)
    os.close(writing)
    url = os.read(reading, 200).decode()
    os.close(reading)
    os.environ.update(SECLEA_HOME=str(home), SECLEA_PLATFORM_URL="http://127.0.0.1:9")
    try:
        from seclea.api.tokens import Token, TokenStore
        from seclea.contract import Home

        home.mkdir(0o700)
        TokenStore(Home(home).tokens).write(url, Token("a"), Token("b"), "ada")
        for _ in range(options.exits):
            for state in random.Random(options.seed).sample(STATES, len(STATES)):
                os.environ["SECLEA_PLATFORM_URL"] = url if state == "hanging" else "http://127.0.0.1:9"
                took[state].append(one_exit(state, home))
                sys.stdout.flush()
    finally:
        if os.getpid() == me:  # else it is a trainer that comes to its end
            os.kill(portal_pid, signal.SIGKILL)
            os.waitpid(portal_pid, 0)
            subprocess.run([sys.executable, "-m", "seclea", "stop"], check=False, stdout=subprocess.DEVNULL)
    plain = statistics.median(waited for _, waited in took["plain"])
    wrong = 0
    for state, exits in took.items():
        middle = statistics.median(waited for _, waited in exits)
        late = middle - plain > LONGEST_SECONDS
        wrong += late
        longest = max(waited for _, waited in exits)
        wall = statistics.median(seconds for seconds, _ in exits)
        said = f"{state:8} waited {middle * 1e3:6.1f} ms (median), {longest * 1e3:6.1f} ms at most"
        print(f"{said}; {wall * 1e3:6.1f} ms in all; {len(exits)} exits" + ("  TOO LONG" if late else ""))
    shutil.rmtree(directory, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
