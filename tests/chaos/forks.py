"""``python -m tests.chaos forks --storms N --seed S``: children that fork children, ended in every way there is.

Rows R1 and R24. One job forks a crowd (fifty and more alive at once, three generations). Each logs a few values to the
job's run in a stream of its own, and ends by returning, ``os._exit``, exec, or ``kill -9`` by its own hand, while the writer
is killed now and then. Afterwards each voice's count is exact, no ring is left, and the writer holds no more descriptors, and
no more memory, than after the storm before.

Storms follow one another in one home. Choices come from the seed, the instants are the machine's; a finding leaves the home.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.client import Life, Voice
from tests.chaos.processes import adopt_orphans, kill, wait_for
from tests.chaos.scene import END_SECONDS, Scene, import_first, isolated

CHILDREN = 22  # of the job; each may have children, and these again
DEPTH = 3
MEMORY_SLACK = 16 << 20  # of a writer that lives on, over all storms
DESCRIPTORS_SLACK = 4
ENDS: dict[str, Callable[[], None]] = {
    "return": lambda: None,
    "os._exit": lambda: os._exit(7),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


class Storm(Life):
    """Forks a crowd, and waits until all of it has ended."""

    def live(self) -> None:
        try:
            self.begin()
            for _ in range(int(os.environ["CHILDREN"])):
                self.voice.log(1)
                self.fork(1)
            (self.stop.with_name(f"crowd-{os.getpid()}")).touch()
            for child in self.children:
                os.waitpid(child, 0)
            self.run.finish()
            self.note(finished=True)
        except BaseException as error:
            self.note(raised=f"{type(error).__name__}: {error}")
            raise

    def fork(self, generation: int) -> None:
        name = f"child {generation}.{len(self.children)} of {os.getpid()}"
        seed = self.random.random()
        if pid := os.fork():
            self.children.append(pid)
            return
        code = 1
        try:
            self.random, self.children = random.Random(seed), []
            voice = Voice(self, name)
            voice.log(self.random.randrange(5))
            if generation < DEPTH:
                for _ in range(self.random.randrange(4)):
                    self.fork(generation + 1)
            voice.log(self.random.randrange(3))
            # Nobody leaves before the whole crowd is there: all rings at once.
            crowd = self.stop.with_name(f"crowd-{self.job}")
            wait_for(crowd.exists, END_SECONDS)
            voice.log(self.random.randrange(3))
            if self.random.random() < 0.7:  # else orphans
                for child in self.children:
                    os.waitpid(child, 0)
            way = self.random.choice(list(ENDS))
            self.note(ended=way)
            ENDS[way]()
            code = 0
        except BaseException as error:
            self.note(raised=f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)

    @functools.cached_property
    def job(self) -> int:
        """The pid of the job, which its children inherit."""
        return os.getpid()

    def begin(self) -> None:
        assert self.job
        super().begin()


def measure(pid: int) -> tuple[int, int]:
    """Descriptors, and resident bytes."""
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return len(os.listdir(f"/proc/{pid}/fd")), resident


def storm(scene: Scene, chance: random.Random, kills: int) -> int:
    """One storm, the writer killed in it; the most children that were there at once."""
    job = scene.start_client(Storm)
    most = 0
    deadline = time.monotonic() + END_SECONDS
    left = kills
    while job in scene.clients:
        scene.reap()
        who = scene.who()
        most = max(most, len(who["child"]))
        if left and chance.random() < 0.2:
            left -= sum(map(kill, who["writer"]))
        if time.monotonic() > deadline:
            scene.wrong.append(f"a storm hangs: not over within {END_SECONDS:g} s; {len(who['child'])} children left")
            kill(job)
            break
        time.sleep(0.01)

    def quiet() -> bool:
        scene.reap()
        return not scene.who()["child"]

    if not wait_for(quiet, END_SECONDS):
        scene.wrong.append(f"children hang: {scene.who()['child']}")
    return most


def play(seed: int, storms: int, quiet_storms: int, directory: Path) -> dict[str, Any]:
    """All storms of a seed, in one home."""
    chance = random.Random(f"forks {seed}")
    scene = Scene(directory, seed, own_portal=True)
    most, killed, marks = 0, 0, []
    try:
        for _ in range(storms):
            kills = chance.randrange(1, 4)
            most = max(most, storm(scene, chance, kills))
            killed += kills
        # And now one writer that lives on, while storms pass.
        for _ in range(quiet_storms):
            most = max(most, storm(scene, chance, 0))
            scene.deliver()

            def no_rings() -> bool:
                return not [path for path in scene.leftovers(rings_were_lost=False) if "rings" in path]

            if not wait_for(no_rings, END_SECONDS):
                scene.wrong += scene.leftovers(rings_were_lost=False)
            marks.append((*scene.who()["writer"], *map(measure, scene.who()["writer"])))
        first, last = marks[0], marks[-1]
        if first[0] != last[0]:
            scene.wrong.append(f"the writer did not live on: {marks}")
        elif last[1][0] > first[1][0] + DESCRIPTORS_SLACK or last[1][1] > first[1][1] + MEMORY_SLACK:
            scene.wrong.append(f"the writer grows: (pid, (descriptors, resident bytes)) {marks}")
        scene.deliver()
        scene.judge()
        scene.stop()
    finally:
        scene.close()
    lives = scene.told()
    voices = sum(len(told.voices) for told in lives)
    values = sum(sum(told.voices.values()) for told in lives)
    return {"wrong": scene.wrong, "most": most, "killed": killed, "voices": voices, "values": values, "marks": marks}


def main(arguments: list[str] | None = None) -> int:
    """Let the storms pass; 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos forks", description=__doc__)
    parser.add_argument("--storms", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quiet", type=int, default=3, help="storms after these, in which nobody is killed by us")
    parser.add_argument("--children", type=int, default=CHILDREN, help="of a job")
    options = parser.parse_args(arguments)
    os.environ["CHILDREN"] = str(options.children)  # for the job
    import_first()
    adopt_orphans()
    directory = Path(tempfile.mkdtemp(prefix="s-forks-", dir="/tmp"))
    began = time.monotonic()
    os.waitpid(isolated(lambda place: play(options.seed, options.storms, options.quiet, place), directory), 0)
    if not (directory / "result.json").exists():
        print(f"the storms failed, left in place: {directory}\n{(directory / 'scene.err').read_text('utf-8')[-3000:]}")
        return 1
    result = json.loads((directory / "result.json").read_text("utf-8"))
    print(
        f"seed {options.seed}: {options.storms} storms with {result['killed']} kills of the writer,"
        f" then {options.quiet} without, in {time.monotonic() - began:.0f} s:"
        f" at most {result['most']} children at once, {result['voices']} voices told {result['values']} values"
    )
    for pid, (descriptors, resident) in result["marks"]:
        print(f"  writer {pid} after a storm: {descriptors} descriptors, {resident / 1e6:.1f} MB")
    print(f"  {len(result['wrong'])} things wrong")
    if result["wrong"]:
        print("\n".join([f"left in place: {directory}", *(f"  {one}" for one in result["wrong"][:20])]))
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
