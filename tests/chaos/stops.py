"""``python -m tests.chaos stops --rounds N --seed S --seconds T``: SIGSTOP for a while, at random instants; then SIGCONT.

Row R19. Writer, sender, portal and clients are stopped, alone and together, and sometimes another is killed meanwhile. While
somebody is stopped: the others' steps go on; nobody takes its lock or its ring; what a full ring means is what the settings say
(``wait``, or ``drop``, which is counted). Afterwards everything is delivered, once and in order.

Seconds in the suite; ``--seconds 600`` on demand.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.chaos.client import Life
from tests.chaos.processes import adopt_orphans, descendants_of, kill, state_of, wait_for
from tests.chaos.scene import END_SECONDS, Scene, import_first, isolated

GO_ON_SECONDS = 30.0  # for what takes milliseconds on a quiet machine
STOPS = 6
PACE_SECONDS = 0.004
FLOOD = 100  # calls between two looks whether to end


class Steady(Life):
    """Logs at a steady pace, and says at the end how long its calls took."""

    def live(self) -> None:
        try:
            self.begin()
            taken = []
            while not self.stop.exists():
                value = {"value": float(self.voice.first + self.voice.values)}
                before = time.perf_counter_ns()
                self.run.log(value, step=self.voice.values)
                taken.append(time.perf_counter_ns() - before)
                self.voice.told()
                time.sleep(PACE_SECONDS)  # the work of the job
            self.run.finish()
            self.note(finished=True, taken=sorted(taken))
        except BaseException as error:
            self.note(raised=f"{type(error).__name__}: {error}")
            raise


class Flood(Life):
    """Logs as fast as it can, until told to end."""

    def live(self) -> None:
        try:
            self.begin()
            while not (self.stop.exists() or self.stop.with_name("flood-ends").exists()):
                self.voice.log(FLOOD)
            self.run.finish()
            self.note(finished=True)
        except BaseException as error:
            self.note(raised=f"{type(error).__name__}: {error}")
            raise


class Stops:
    """One home's stops."""

    def __init__(self, scene: Scene, chance: random.Random, seconds: float) -> None:
        self.scene = scene
        self.random = chance
        self.seconds = seconds
        self.counts: Counter[str] = Counter()

    def pids(self, role: str) -> list[int]:
        """Those of a role, once there are any."""
        wait_for(lambda: bool(self.scene.who()[role]), GO_ON_SECONDS)
        pids = self.scene.who()[role]
        return [self.random.choice(pids)] if role == "client" else pids

    def stop(self, *roles: str, killed: str = "") -> None:
        """Stop them, look that all is well without them, and have them go on."""
        scene = self.scene
        time.sleep(self.random.uniform(0.0, 0.3))  # part of the fault, not a wait for a condition
        stopped = {pid: role for role in roles for pid in self.pids(role)}
        locks = {name: holder(scene.home.path / f"{name}.lock") for name in ("writer", "sender")}
        rings = set(self.rings())
        for pid in stopped:
            kill(pid, signal.SIGSTOP)
        self.counts.update(roles)
        if killed:
            for pid in self.pids(killed):
                self.counts[f"{killed} killed meanwhile"] += kill(pid)
        until = time.monotonic() + self.random.uniform(0.2, 1.0) * self.seconds
        went_on = self.go_on(set(stopped))
        while True:
            for name, before in locks.items():
                now = holder(scene.home.path / f"{name}.lock")
                if before in stopped and now != before:
                    scene.wrong.append(f"the {name} was stopped, and {now} took its lock meanwhile")
            scene.reap()
            if time.monotonic() > until:
                break
            time.sleep(0.02)
        if not went_on:
            scene.wrong.append(f"steps did not go on while {' and '.join(roles)} stood still")
        owned = [maps(pid) for pid, role in stopped.items() if role == "client"]
        for path in rings - set(self.rings()):
            if any(path in mapped for mapped in owned):
                scene.wrong.append(f"the ring {path} of a stopped client was removed")
        for pid in stopped:
            kill(pid, signal.SIGCONT)

    def rings(self) -> list[str]:
        home = self.scene.home
        return [str(path) for root in (home.rings, home.shared_rings) if root.exists() for path in root.iterdir()]

    def go_on(self, stopped: set[int]) -> bool:
        """Whether each client that is not stopped logs another 20 values."""
        marks = {
            notes: notes.stat().st_size + 20 * len('{"voice": "main", "value": 1000}')
            for pid, notes in self.scene.clients.items()
            if pid not in stopped
        }
        return wait_for(lambda: all(notes.stat().st_size > mark for notes, mark in marks.items()), GO_ON_SECONDS)

    def flood(self, when_full: str) -> None:
        """The writer stands still until a ring is full: what then happens is what the settings say."""
        scene = self.scene
        scene.limit(False, when_full)
        (scene.directory / "flood-ends").unlink(missing_ok=True)
        said = scene.errors.stat().st_size
        flood = scene.start_client(Flood)
        notes = scene.clients[flood]
        wait_for(lambda: b'"value"' in notes.read_bytes()[:2000], GO_ON_SECONDS)
        writers = self.pids("writer")
        for pid in writers:
            kill(pid, signal.SIGSTOP)
        if not wait_for(lambda: b"logging is paused" in scene.errors.read_bytes()[said:], END_SECONDS):
            scene.wrong.append("a full ring was not told")
        full = notes.stat().st_size
        if when_full == "drop" and not wait_for(lambda: notes.stat().st_size > full + 100_000, GO_ON_SECONDS):
            scene.wrong.append("calls waited at a full ring, though the settings say drop")
        if when_full == "wait" and notes.stat().st_size > full + 10_000:
            scene.wrong.append("calls went on at a full ring, though the settings say wait")
        (scene.directory / "flood-ends").touch()
        for pid in writers:
            kill(pid, signal.SIGCONT)

        def ended() -> bool:
            scene.reap()
            return flood not in scene.clients

        if not wait_for(ended, END_SECONDS):
            scene.wrong.append("a flood did not end after SIGCONT")
            kill(flood)
        scene.limit(False)
        self.counts[f"full ring, {when_full}"] += 1
        if when_full == "drop":
            scene.deliver()
            self.judge_dropped(notes)

    def judge_dropped(self, notes: Path) -> None:
        """Each call is there or counted, and what is there stands in order. Judged here, and not again with the others."""
        from tests.chaos.referee import read_notes

        told = read_notes(notes)
        referee = self.scene.referee()
        found = referee.curve(told.run)
        referee.close()
        values = found["values"]
        left_out = sum(one["count"] for one in found["tombstones"])
        if len(values) + left_out != told.voices["main"] or values != sorted(set(values)) or not left_out:
            self.scene.wrong.append(
                f"drop: {told.voices['main']} calls, {len(values)} values there, {left_out} counted as left out"
            )
        self.counts["calls left out and counted"] += left_out
        self.scene.judged_apart.add(told.run)


def holder(lock: Path) -> int:
    """The pid that holds a flock, as the kernel says; 0 for nobody."""
    try:
        inode = lock.stat().st_ino
    except OSError:
        return 0
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
            return int(words[4])
    return 0


def maps(pid: int) -> str:
    """What a process has mapped."""
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""


def play(seed: int, number: int, seconds: float, stops: int, directory: Path) -> dict[str, Any]:
    """One round, in this process."""
    chance = random.Random(f"stops {seed} {number}")
    scene = Scene(directory, seed * 1_000 + number, own_portal=chance.random() < 0.5)
    this = Stops(scene, chance, seconds)
    roles = ["writer", "sender", "portal", "client"]
    try:
        for _ in range(2):
            scene.start_client(Steady)
        wait_for(lambda: bool(scene.who()["portal"]), GO_ON_SECONDS)
        for role in chance.sample(roles, 4):
            this.stop(role)
        for _ in range(stops):
            some = chance.sample(roles, chance.choice((1, 1, 2, 3)))
            others = [role for role in ("writer", "sender") if role not in some]
            this.stop(*some, killed=chance.choice(["", *others]))
        this.flood("wait")
        this.flood("drop")
        scene.stop_clients()
        scene.deliver()
        scene.judge()
        scene.stop()
    finally:
        for pid in descendants_of(os.getpid()):
            if state_of(pid) == "T":
                kill(pid, signal.SIGCONT)
        scene.close()
    taken = sorted(ns for path in directory.glob("notes-*") for ns in _taken(path))
    return {"counts": this.counts, "taken": taken[:: max(1, len(taken) // 5000)], "wrong": scene.wrong}


def _taken(notes: Path) -> list[int]:
    found: list[int] = []
    for line in notes.read_bytes().splitlines():
        if b'"taken"' in line:
            found += json.loads(line)["taken"]
    return found


def main(arguments: list[str] | None = None) -> int:
    """Play the rounds; 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos stops", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="longest stop")
    parser.add_argument("--stops", type=int, default=STOPS, help="random ones of a round, after one of each role")
    options = parser.parse_args(arguments)
    import_first()
    adopt_orphans()
    root = Path(tempfile.mkdtemp(prefix="s-stops-", dir="/tmp"))
    began, found = time.monotonic(), 0
    counts: Counter[str] = Counter()
    taken: list[int] = []
    for number in range(options.rounds):
        directory = root / str(number)
        directory.mkdir(mode=0o700)
        pid = isolated(lambda place, n=number: play(options.seed, n, options.seconds, options.stops, place), directory)
        os.waitpid(pid, 0)
        wrong = [f"the round itself failed: {(directory / 'scene.err').read_text('utf-8')[-3000:]}"]
        if (path := directory / "result.json").exists():
            result = json.loads(path.read_text("utf-8"))
            wrong = result["wrong"]
            counts.update(result["counts"])
            taken += result["taken"]
        if wrong:
            found += 1
            print(
                "\n".join([f"round {number}, left in place: {directory}", *(f"  {one}" for one in wrong[:20])]),
                flush=True,
            )
        else:
            shutil.rmtree(directory, ignore_errors=True)
    said = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(f"seed {options.seed}: {options.rounds} rounds in {time.monotonic() - began:.0f} s: stopped {said}")
    if taken:
        taken.sort()
        last = taken[int(len(taken) * 0.999)] / 1000
        print(f"  log calls all the while: median {statistics.median(taken) / 1000:.1f} µs, p99.9 {last:.0f} µs")
    print(f"  {found} rounds with things wrong")
    if found:
        return 1
    shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
