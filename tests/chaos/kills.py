"""``python -m tests.chaos kills --kills N --seed S``: kill clients, writer, sender and portal at random; the referee judges.

Row R1 of the scorecard, and R29: no exception comes out of a logging call. A campaign is many rounds of about a hundred kills,
each in a home of its own, a few beside each other. A round ends in one of three ways, and is judged by what that leaves:
all that was *handed* over; all that was *durable*, once everybody is killed and the rings are removed; all that was
*delivered*, once nothing is left but the portal.

Every choice comes from the seed; the instants at which processes are hit do not (they are the machine's), so a finding names
round and seed (``--only ROUND`` repeats one) and its home stays in place.
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
from collections import Counter
from pathlib import Path
from typing import Any

from seclea.queues.layout import BEAT, TAIL
from tests.chaos import scene
from tests.chaos.processes import adopt_orphans, descendants_of, kill, wait_for
from tests.chaos.scene import Scene, import_first, isolated

CLIENTS = 2  # beside each other in a home
HOMES = 3  # beside each other: more than cores, as a start waits for disk now and then
KILLS_OF_A_ROUND = 100
ROUND_SECONDS = 600.0  # a round that takes longer hangs
PROGRESS = 500
FINDINGS = 10  # homes that are kept; then the campaign gives up

# Whom a strike hits at the same instant, and how often.
TARGETS = {
    ("client",): 14, ("child",): 6, ("writer",): 12, ("sender",): 16, ("portal",): 5, ("client", "writer"): 8,
    ("client", "sender"): 4, ("writer", "sender"): 14, ("sender", "portal"): 4,
    ("client", "child", "writer", "sender", "portal"): 12,
}  # fmt: skip
# And in which situation.
SITUATIONS = {"anywhere": 70, "newborn": 12, "stopping": 4, "paused": 3, "payload": 8, "committing": 10, "twice": 6}


class Round:
    """One home's campaign."""

    def __init__(self, scene: Scene, chance: random.Random, own_portal: bool) -> None:
        self.scene = scene
        self.random = chance
        self.killed: Counter[str] = Counter()
        self.situations: Counter[str] = Counter()
        self.portal_due = 0.0
        self.own_portal = own_portal

    def tend(self) -> None:
        """As many clients as there should be, and the own portal up again after a while."""
        scene = self.scene
        scene.reap()
        while len(scene.clients) < CLIENTS:
            scene.start_client()
        if self.own_portal and scene.portal_pid not in scene.who()["portal"]:
            now = time.monotonic()
            if not self.portal_due:
                self.portal_due = now + self.random.uniform(0.0, 0.4)
            elif now >= self.portal_due:
                self.portal_due = 0.0
                scene.start_portal()

    def pause(self) -> None:
        """Mostly short: much of what may go wrong does so within milliseconds of a start."""
        longest = self.random.choice((0.0, 0.005, 0.02, 0.05, 0.15, 0.3, 0.6))
        time.sleep(self.random.uniform(0.0, longest))  # part of the fault, not a wait for a condition

    def hit(self, roles: tuple[str, ...], number: int = signal.SIGKILL) -> None:
        """All of these roles at once; of clients one, or all where everybody is meant."""
        if "sender" in roles:  # the last to be started: hardly ever hit else
            wait_for(lambda: bool(self.scene.who()["sender"]), self.random.uniform(0.0, 0.3))
        who = self.scene.who()
        chosen: list[tuple[str, int]] = []
        for role in roles:
            pids = sorted(who[role])
            if role in ("client", "child") and len(roles) < 5:
                pids = [self.random.choice(pids)] if pids else []
            chosen += [(role, pid) for pid in pids]
        self.random.shuffle(chosen)
        for role, pid in chosen:
            if kill(pid, number) and number == signal.SIGKILL:
                self.killed[role] += 1
                self.scene.portal_was_killed = self.scene.portal_was_killed or pid == self.scene.portal_pid

    def strike(self) -> None:
        situation = self.random.choices(list(SITUATIONS), list(SITUATIONS.values()))[0]
        roles = self.random.choices(list(TARGETS), list(TARGETS.values()))[0]
        self.situations[situation] += 1
        getattr(self, f"_{situation}")(roles)
        self.tend()

    def _anywhere(self, roles: tuple[str, ...]) -> None:
        self.pause()
        self.hit(roles)

    def _twice(self, roles: tuple[str, ...]) -> None:
        """Again before anybody has got over it."""
        for _ in range(self.random.choice((2, 3))):
            self.hit(roles)
            time.sleep(self.random.uniform(0.0, 0.005))

    def _newborn(self, _roles: tuple[str, ...]) -> None:
        """A writer or sender that is just starting: in the recovery of what the one before it left."""
        role = self.random.choice(("writer", "writer", "sender"))
        for _ in range(self.random.randrange(1, 4)):
            before = set(self.scene.who()[role])
            self.hit((role,))
            new = functools.partial(lambda known: bool(set(self.scene.who()[role]) - known), before)
            if not wait_for(new, 0.5):
                return  # whoever starts one is dead as well, or waits
            time.sleep(self.random.uniform(0.0, 0.3))
            self.hit((role,))

    def _stopping(self, roles: tuple[str, ...]) -> None:
        """While it leaves in peace."""
        self.hit(("writer",), signal.SIGTERM)
        time.sleep(self.random.uniform(0.0, 0.1))
        self.hit(("writer", "sender") if roles == ("client",) else roles)

    def _paused(self, roles: tuple[str, ...]) -> None:
        """While all wait at a limit."""
        self.scene.limit(True)
        time.sleep(self.random.uniform(0.1, 0.6))
        self.hit(roles)
        self.tend()
        time.sleep(self.random.uniform(0.0, 0.2))
        self.hit(("writer",))
        self.scene.limit(False)

    def _committing(self, roles: tuple[str, ...]) -> None:
        """Right after the writer's sign of life (it then reads the rings, and commits), or after it has moved a cursor."""
        writers = self.scene.who()["writer"]
        home = self.scene.home
        rings = [path for root in (home.rings, home.shared_rings) if root.exists() for path in root.glob("*.ring")]
        word = self.random.choice((BEAT, TAIL, TAIL))
        before = {path: word_of(path, word) for path in rings}
        until = time.monotonic() + 0.3
        while all(word_of(path, word) == before[path] for path in rings) and time.monotonic() < until:
            pass
        until = time.monotonic() + self.random.uniform(0.0, self.random.choice((0.0, 0.005)))
        while time.monotonic() < until:
            pass
        self.killed["writer"] += sum(map(kill, writers))
        if "client" in roles:
            self.hit(("client",))

    def _payload(self, roles: tuple[str, ...]) -> None:
        """While one is written, or taken into the spool."""
        spool = self.scene.home.spool

        def there() -> bool:
            return any(path.is_file() for name in ("incoming", "making") for path in (spool / name).rglob("*"))

        try:
            wait_for(there, 0.3)
        except OSError:  # a directory went while it was read
            pass
        self.hit(self.random.choice((roles, ("client",), ("writer",), ("client", "writer"))))

    def await_a_flush(self) -> None:
        """Until one more client was told that what it had handed over is durable: now it must be."""

        def told() -> int:
            self.scene.reap()
            return sum(path.read_bytes().count(b'"durable"') for path in self.scene.clients.values())

        before = told()
        if wait_for(lambda: told() > before, 5.0):
            for pid in [*self.scene.clients, *self.scene.who()["writer"]]:
                kill(pid)

    def end(self, way: str) -> None:
        """Come to rest in one of the three ways, and be judged."""
        scene = self.scene
        if way == "delivered":
            scene.kill_all(*([scene.portal_pid] if self.random.random() < 0.5 else []))
            scene.judge(way)
            return
        if way == "durable":
            self.await_a_flush()
            scene.kill_all()
            for rings in (scene.home.rings, scene.home.shared_rings):
                shutil.rmtree(rings, ignore_errors=True)
        else:
            scene.stop_clients()
        scene.deliver()
        scene.judge(way)
        scene.stop(rings_were_lost=way == "durable")


def word_of(ring: Path, index: int) -> bytes:
    """A word of a ring's header, as it is now."""
    try:
        with ring.open("rb") as file:
            return os.pread(file.fileno(), 8, index * 8)
    except OSError:
        return b""


def play(seed: int, number: int, kills: int, directory: Path) -> dict[str, Any]:
    """One round, in this process; what came of it."""
    chance = random.Random(f"{seed} {number}")
    own_portal = chance.random() < 0.6
    way = chance.choice(("handed", "handed", "handed", "durable", "delivered" if own_portal else "durable"))
    began = time.monotonic()
    scene = Scene(directory, seed * 1_000 + number, own_portal=own_portal)
    this = Round(scene, chance, own_portal)
    try:
        this.tend()
        while this.killed.total() < kills:
            this.strike()
        this.end(way)
    finally:
        scene.close()
    lives = scene.told()
    return {
        "round": number,
        "level": way,
        "own portal": own_portal,
        "killed": this.killed,
        "situations": this.situations,
        "lives": len(lives),
        "values": sum(sum(told.least(way).values()) for told in lives),
        "states": sum(len(told.states) for told in lives),
        "datasets": sum(len(told.datasets) for told in lives),
        "seconds": time.monotonic() - began,
        "wrong": scene.wrong,
    }


class Campaign:
    """Rounds beside each other until there are enough kills."""

    def __init__(self, seed: int, kills: int, homes: int, of_a_round: int, findings: int, directory: str) -> None:
        self.seed = seed
        self.kills = kills
        self.homes = homes
        self.of_a_round = of_a_round
        self.most_findings = findings
        self.root = Path(tempfile.mkdtemp(prefix="s-kills-", dir=directory))
        self.running: dict[int, tuple[int, Path, float]] = {}
        self.next_round = 0
        self.planned = 0
        self.results: Counter[str] = Counter()
        self.killed: Counter[str] = Counter()
        self.situations: Counter[str] = Counter()
        self.levels: Counter[str] = Counter()
        self.findings: list[str] = []

    def begin(self, number: int, kills: int) -> None:
        directory = self.root / f"{number:04d}"
        directory.mkdir(mode=0o700)
        pid = isolated(lambda place: play(self.seed, number, kills, place), directory)
        self.running[pid] = (number, directory, time.monotonic() + ROUND_SECONDS)

    def end(self, pid: int, number: int, directory: Path, *, hung: bool = False) -> None:
        """Take a round's result, and remove its home unless something was found."""
        for left in descendants_of(pid):
            kill(left)
        result: dict[str, Any] = {}
        if (path := directory / "result.json").exists():
            result = json.loads(path.read_text("utf-8"))
        wrong = list(result.get("wrong", ()))
        if hung:
            wrong.append(f"hangs: not over within {ROUND_SECONDS:g} s")
        elif not result:
            wrong.append(f"the round itself failed: {(directory / 'scene.err').read_text('utf-8')[-3000:]}")
        self.killed.update(result.get("killed", {}))
        self.situations.update(result.get("situations", {}))
        self.results.update({name: result.get(name, 0) for name in ("lives", "values", "states", "datasets")})
        self.levels[result.get("level", "none")] += 1
        if wrong:
            self.findings.append(f"round {number} ({result.get('level')}), left in place: {directory}")
            self.findings += [f"  {one}" for one in wrong[:20]]
            print("\n".join(self.findings[-len(wrong[:20]) - 1 :]), flush=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)

    def run(self, only: int | None = None) -> None:
        began = time.monotonic()
        told = 0
        adopt_orphans()  # of a round that itself fails
        while self.running or self.planned < self.kills:
            if self.planned < self.kills and len(self.running) < self.homes and self.kept < self.most_findings:
                number = self.next_round if only is None else only
                kills = min(self.of_a_round, self.kills - self.planned)
                self.begin(number, kills)
                self.next_round += 1
                self.planned += kills
                continue
            if not self.running:
                break
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid in self.running:
                number, directory, _ = self.running.pop(pid)
                self.end(pid, number, directory)
            elif not pid:
                time.sleep(0.02)
            for late, (number, directory, deadline) in list(self.running.items()):
                if time.monotonic() > deadline:
                    family = [*descendants_of(late), late]
                    del self.running[late]
                    for one in family:
                        kill(one)
                    self.end(late, number, directory, hung=True)
            if self.killed.total() >= told + PROGRESS:
                told = self.killed.total()
                rate = told / (time.monotonic() - began) * 60
                print(f"  {told} kills, {rate:.0f} a minute, {self.kept} rounds with findings", flush=True)

    @property
    def kept(self) -> int:
        return sum(line.startswith("round") for line in self.findings)


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign; 0 when nothing was lost, duplicated, out of order, altered, hanging or left behind."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--homes", type=int, default=HOMES, help="beside each other")
    parser.add_argument("--only", type=int, metavar="ROUND", help="this round alone")
    parser.add_argument("--round-kills", type=int, default=KILLS_OF_A_ROUND, help="until a home is judged")
    parser.add_argument("--directory", default="/tmp", help="where homes are made; a short path, as sockets must have")
    parser.add_argument("--findings", type=int, default=FINDINGS, help="after so many homes with findings it gives up")
    parser.add_argument(
        "--wait", type=float, default=scene.END_SECONDS, help="seconds until what does not end has hung"
    )
    options = parser.parse_args(arguments)
    import_first()
    scene.END_SECONDS = scene.DELIVER_SECONDS = options.wait
    if options.only is not None:
        options.kills = min(options.kills, options.round_kills)
    began = time.monotonic()
    campaign = Campaign(
        options.seed, options.kills, options.homes, options.round_kills, options.findings, options.directory
    )
    campaign.run(options.only)
    seconds = time.monotonic() - began
    total = campaign.killed.total()
    by_role = ", ".join(f"{count} {name}" for name, count in sorted(campaign.killed.items()))
    print(f"seed {options.seed}: {total} kills ({by_role}) in {seconds:.0f} s, {total / seconds * 60:.0f} a minute")
    print("  strikes: " + ", ".join(f"{count} {name}" for name, count in sorted(campaign.situations.items())))
    print("  rounds judged: " + ", ".join(f"{count} {name}" for name, count in sorted(campaign.levels.items())))
    found = ", ".join(f"{campaign.results[name]} {name}" for name in ("lives", "values", "states", "datasets"))
    print(f"  told: {found}; {campaign.kept} rounds with things wrong")
    if campaign.findings:
        return 1
    shutil.rmtree(campaign.root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
