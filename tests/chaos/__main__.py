"""``python -m tests.chaos --kills N --seed S``: kill clients, writer and sender at random, then let the referee judge.

Row R1 of the scorecard, levels handed and delivered. Every choice comes from the seed; the instants at which processes
are hit do not (they are the machine's), so a failure names the seed and leaves the home in place.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.chaos.referee import Referee, read_notes

CLIENTS = 2
LONGEST_PAUSE_SECONDS = 0.35


class Chaos:
    """One campaign in one home."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.random = random.Random(seed)
        self.seed = seed
        self.stop = directory / "stop"
        self.clients: dict[int, Path] = {}
        self.lives = 0
        self.killed: Counter[str] = Counter()

    def start_client(self) -> None:
        """Fork a client: heavy imports are done already, so a life begins in milliseconds."""
        self.lives += 1
        notes = self.directory / f"notes-{self.lives:05d}"
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                from tests.chaos.client import live

                live(notes, self.stop, self.seed * 100_000 + self.lives)
                code = 0
            except BaseException as error:
                print(f"client {self.lives}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            finally:
                os._exit(code)
        self.clients[pid] = notes

    def kill_one(self) -> None:
        """Kill a client, the writer or the sender."""
        target = self.random.choice(("client", "client", "writer", "sender", "both"))
        if target == "client":
            pid = self.random.choice(sorted(self.clients))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            del self.clients[pid]
            self.killed["client"] += 1
            self.start_client()
            return
        pids = pipeline_pids(self.directory / "home")
        for name in ("writer", "sender") if target == "both" else (target,):
            for pid in pids.get(name, ()):
                try:
                    os.kill(pid, signal.SIGKILL)
                    self.killed[name] += 1
                except ProcessLookupError:
                    pass

    def run(self, kills: int) -> None:
        """Kill ``kills`` times, then let the clients that live finish."""
        for _ in range(CLIENTS):
            self.start_client()
        while self.killed.total() < kills:
            time.sleep(self.random.uniform(0.0, LONGEST_PAUSE_SECONDS))  # part of the fault, not a wait for a condition
            self.kill_one()
        self.stop.touch()
        for pid in list(self.clients):
            _, status = os.waitpid(pid, 0)
            if status:
                raise RuntimeError(f"a client ended with {status}")


def pipeline_pids(home: Path) -> dict[str, list[int]]:
    """Writers and senders of a home, found in /proc."""
    found: dict[str, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(home) in words and b"-m" in words:
                found.setdefault(words[words.index(b"-m") + 1].decode().removeprefix("seclea."), []).append(
                    int(entry.name)
                )
    return found


def deliver(timeout_seconds: float) -> str:
    """Have everything delivered by a fresh client; what is left, in words."""
    script = (
        f"from seclea import SecleaAI; r = SecleaAI('chaos').complete({timeout_seconds});"
        " print('' if r.done else f'pending {r.pending}, failed {r.failed}, held {r.held}: {r.reasons}')"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    return (result.stdout if result.returncode == 0 else result.stdout + result.stderr[-2000:]).strip()


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign; 0 when nothing was lost, duplicated or out of order."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="seclea-chaos-"))
    home = directory / "home"
    os.environ["SECLEA_HOME"] = str(home)
    # Before any fork: what clients need, so that a life starts at once.
    import sklearn.linear_model  # noqa: F401

    import seclea.client.seclea_ai
    import seclea.client.snapshot.models  # noqa: F401

    began = time.monotonic()
    chaos = Chaos(directory, options.seed)
    chaos.run(options.kills)
    left = deliver(120.0)
    token = subprocess.run(
        [sys.executable, "-m", "seclea", "token"], capture_output=True, text=True, check=True
    ).stdout.strip()
    url = json.loads((home / "portal" / "address.json").read_text("utf-8"))["url"]
    referee = Referee(url, token)
    lives = [told for path in sorted(directory.glob("notes-*")) if (told := read_notes(path)) is not None]
    wrong = [trouble for told in lives for trouble in referee.judge(told)]
    if left:
        wrong.append(f"not delivered: {left}")
    values, states = sum(told.values for told in lives), sum(len(told.states) for told in lives)
    subprocess.run([sys.executable, "-m", "seclea", "stop"], check=False, stdout=subprocess.DEVNULL)
    killed = ", ".join(f"{count} {name}" for name, count in sorted(chaos.killed.items()))
    print(f"seed {options.seed}: {chaos.killed.total()} kills ({killed}) in {time.monotonic() - began:.0f} s")
    print(f"{len(lives)} runs, {values} values and {states} states told; {len(wrong)} things wrong")
    for trouble in wrong[:20]:
        print(f"  {trouble}")
    if wrong:
        print(f"left in place: {directory}")
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
