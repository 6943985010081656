"""``python -m tests.chaos.start_rounds --processes N --rounds R --seed S``: N processes start at once, some are killed.

Row R21. Each round forks N clients of one home from an interpreter that has imported all. They begin together, find no writer,
and start one; who holds the start lock may be killed right then, beside the spawn, or right after it; new writers are killed
between their start, their lock, their socket and their first answer. The referee looks from outside: who holds the writer
lock (``/proc/locks``), what is in the ledger (by sqlite), whose processes are left.

Every choice comes from the seed; the instants are the machine's, so a finding names the round and leaves the home in place.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.chaos.processes import pipeline_pids

ROUND_SECONDS = 120.0  # for what takes a few on a quiet machine
_POINTS = ("lock", "spawn", "spawned", "free")  # where a client dies: see `die_at`


def die_at(point: str) -> None:
    """Have this process killed by itself at ``point`` of its next try to start a writer."""
    from seclea.processes import start

    def end(*_: object, **_named: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if point == "lock":  # it holds the start lock, and has looked once more
        start.spawn_detached = end  # type: ignore[assignment]
    elif point == "spawned":  # the writer is on its way with the lock, and nobody waits for it
        start._reap = end
    elif point == "spawn":  # beside the fork, wherever that is then
        spawn = start.spawn_detached

        def spawn_and_die(*given: object, **named: object) -> object:
            if os.fork() == 0:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(os.getppid(), signal.SIGKILL)
                os._exit(0)
            return spawn(*given, **named)  # type: ignore[arg-type]

        start.spawn_detached = spawn_and_die  # type: ignore[assignment]


def client(number: int, gate: int, notes: int, point: str) -> None:
    """Begin when the gate opens, log once, say so, and wait until the gate's other end is closed too."""
    from seclea import SecleaAI

    if point != "free":
        die_at(point)
    os.read(gate, 1)
    run = SecleaAI("starts").start_training_run(f"{os.getpid()}")
    run.log({"value": float(number)}, step=number)
    os.write(notes, json.dumps({"number": number, "run": run.uuid}).encode() + b"\n")
    run.finish()


class Rounds:
    """One campaign in one home."""

    def __init__(self, directory: Path, seed: int, processes: int) -> None:
        self.home = directory / "home"
        self.directory = directory
        self.random = random.Random(seed)
        self.processes = processes
        self.killed: Counter[str] = Counter()
        self.told: dict[str, int] = {}  # run → step, of clients that were told that it is handed over
        self.wrong: list[str] = []
        self.longest_seconds = 0.0

    def round(self, number: int) -> None:
        """Start all at once, kill some and the first writers, and look what has become of it."""
        if self.random.random() < 0.8:  # else there may be a writer still, about to leave
            self._kill_pipeline()
        notes = os.open(self.directory / "notes", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600)
        reading, writing = os.pipe()
        children = {}
        for one in range(self.processes):
            point = self.random.choice(_POINTS) if self.random.random() < 0.5 else "free"
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    os.close(writing)
                    os.dup2(os.open(self.directory / "errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
                    client(number * self.processes + one, reading, notes, point)
                    code = 0
                except BaseException as error:
                    print(f"client: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                finally:
                    os._exit(code)
            children[pid] = point
        os.close(reading)
        began = time.monotonic()
        os.close(writing)  # they are off
        writers = self.random.choice((0, 0, 1, 2))
        delay = self.random.uniform(0.0, 0.5)  # of the first writer's start: before its lock, its socket, its answer
        while children:
            self._look_at_lock(number)
            if writers and time.monotonic() - began > delay:
                for pid in pipeline_pids(self.home).get("writer", ()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        self.killed["writer"] += 1
                        writers -= 1
                        delay += self.random.uniform(0.0, 0.5)
                    break
            while children:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                point = children.pop(pid, "")
                if status == signal.SIGKILL and point not in ("", "free"):
                    self.killed[point] += 1
                elif status and point:
                    self.wrong.append(f"round {number}: a client ended with {status}")
            if time.monotonic() - began > ROUND_SECONDS:
                self.wrong.append(f"round {number}: {len(children)} clients hang")
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                break
            time.sleep(0.002)  # a poll with a deadline, of two hundred children
        with os.fdopen(notes, "rb") as file:
            file.seek(0)
            for line in file.read().splitlines():
                told = json.loads(line)
                self.told[told["run"]] = told["number"]
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)

    def _kill_pipeline(self) -> None:
        for pids in pipeline_pids(self.home).values():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _look_at_lock(self, number: int) -> None:
        holders = holders_of(self.home / "writer.lock")
        if len(holders) > 1:
            self.wrong.append(f"round {number}: the writer lock is held by {holders}")

    def settle(self) -> None:
        """One more client, which nobody kills: then everything that was told is in the ledger, once."""
        done = subprocess.run(
            [sys.executable, "-c", "from seclea import SecleaAI; r = SecleaAI('starts').flush(100); print(r.done)"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.stdout.strip() != "True":
            self.wrong.append(f"the last flush: {done.stdout}{done.stderr[-1000:]}")
        deadline = time.monotonic() + ROUND_SECONDS
        while (missing := self._missing()) and time.monotonic() < deadline:
            time.sleep(0.05)  # a poll with a deadline
        self.wrong += [f"run {run} lacks step {self.told[run]}" for run in sorted(missing)]
        writers = pipeline_pids(self.home).get("writer", [])
        if len(writers) != 1:
            self.wrong.append(f"writers at the end: {writers}")

    def _missing(self) -> set[str]:
        """Runs of which the one call is not in the ledger just once."""
        from seclea.records import unpack_metrics

        ledger = sqlite3.connect(f"file:{self.home / 'ledger.sqlite'}?mode=ro", uri=True, timeout=30)
        found: Counter[tuple[str, int]] = Counter()
        with contextlib.closing(ledger):
            for run, body in ledger.execute("SELECT run, body FROM records WHERE kind = 'metrics'"):
                found.update((run, step) for step in unpack_metrics(body).step)
        return {run for run, step in self.told.items() if found[run, step] != 1}

    def end(self) -> None:
        """`seclea stop` ends all; no lock is left held, no process, no ring."""
        subprocess.run([sys.executable, "-m", "seclea", "stop"], check=False, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10.0
        while (left := pipeline_pids(self.home)) and time.monotonic() < deadline:
            time.sleep(0.01)  # a poll with a deadline
        if left:
            self.wrong.append(f"left after stop: {left}")
        for name in ("start.lock", "writer.lock", "sender.lock"):
            if holders := holders_of(self.home / name):
                self.wrong.append(f"{name} is held by {holders}")
        if rings := list((self.home / "rings").glob("*")):
            self.wrong.append(f"rings left: {len(rings)}")


def holders_of(path: Path) -> list[int]:
    """Who holds a flock on a file, as the kernel says; a starter and its writer share one, which counts once."""
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        return []
    place = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}:{facts.st_ino}"
    found = set()  # the kernel shows a list in pieces, and one that changes meanwhile with lines twice
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if "->" not in words and place in words and "FLOCK" in words:
            found.add(int(words[4]))
    return sorted(found)


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign; 0 when there was always one writer and nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.start_rounds")
    parser.add_argument("--processes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no round after this")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="seclea-starts-"))
    # Nobody listens there: what matters here is that all is in the ledger.
    os.environ.update(SECLEA_HOME=str(directory / "home"), SECLEA_PLATFORM_URL="http://127.0.0.1:9")
    os.environ.update(SECLEA_IDLE_TIMEOUT_SECONDS="0")  # so that each round finds nobody
    import seclea.api.connect
    import seclea.client.login
    import seclea.client.seclea_ai  # noqa: F401  (so that a client begins within milliseconds)

    rounds = Rounds(directory, options.seed, options.processes)
    began = time.monotonic()
    done = 0
    for number in range(options.rounds):
        if time.monotonic() - began > options.seconds or rounds.wrong:
            break
        rounds.round(number)
        done += 1
    rounds.settle()
    rounds.end()
    killed = ", ".join(f"{count} {name}" for name, count in sorted(rounds.killed.items()))
    print(
        f"seed {options.seed}: {done} rounds of {options.processes} in {time.monotonic() - began:.0f} s, killed: {killed}"
    )
    print(
        f"{len(rounds.told)} calls told; the longest round {rounds.longest_seconds:.1f} s; {len(rounds.wrong)} things wrong"
    )
    for trouble in rounds.wrong[:20]:
        print(f"  {trouble}")
    if rounds.wrong:
        print(f"left in place: {directory}")
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
