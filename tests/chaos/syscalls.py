"""``python -m tests.chaos.syscalls``: a fault at every system call of client, writer, sender and portal, one case per fault.

Rows R2, R5, R6, R8, R9. A first case without a fault lists the calls that touch the home, the rings, the runtime directory, a
socket or a pipe. Then each case lets one of them fail in one way (`shim.MODES`; ``ENOSPC*20``: that one and each of the next
nineteen that may fail so), in a home of its own, with a job that makes a record of each kind. Half of the jobs end by
``kill -9`` of everything, and where `flush` had said "durable" the rings are removed with it. Then a later job has all
delivered, and a judge that shares nothing with the library compares what the job was told with what portal and ledger hold.

Every choice comes from the seed. A finding names its point, mode and directory; ``--replay POINT --modes MODE`` has it again.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.chaos import shim
from tests.chaos.shim import Point
from tests.chaos.shim.case import JOB_SECONDS, Case, Portal, Verdict, warm_up
from tests.contract.portal_server import running_portal

LASTS = 20  # calls that fail one after the other where a fault lasts
_LASTING = ("ENOSPC", "EIO", "EMFILE", "ENOMEM")


@dataclasses.dataclass(frozen=True)
class Fault:
    """One case: which call fails, how, how often, and whether all is killed after the job."""

    point: Point | None
    mode: str
    times: int = 1
    power: bool = False

    def __str__(self) -> str:
        lasts = f"*{self.times}" if self.times > 1 else ""
        return f"{self.point} {self.mode}{lasts}{' power' if self.power else ''}"


def choose(
    calls: Sequence[tuple[Point, int]], roles: Sequence[str], modes: Sequence[str], sample: int, seed: int
) -> list[Fault]:
    """The faults of a sweep: all, or ``sample`` of them, as many of each name and mode as can be.

    The name is drawn first, then which of its calls: a ledger that is read a hundred times is no better a point than a
    rename that happens once.
    """
    rng = random.Random(seed)
    by_name: dict[tuple[str, str, str], tuple[int, int]] = {}
    for point, kind in calls:
        if point.role in roles:
            by_name[point[:3]] = (point.nth, kind | by_name.get(point[:3], (0, 0))[1])
    kinds = [
        (name, mode, times)
        for name, (_, kind) in sorted(by_name.items())
        for mode in modes
        if shim.applies(mode, kind)
        for times in ((1, LASTS) if mode in _LASTING else (1,))
    ]
    faults = []
    if sample == 0:
        for name, mode, times in kinds:
            for nth in range(1, by_name[name][0] + 1):
                faults.append(Fault(Point(*name, nth), mode, times, name[0] != "portal" and rng.random() < 0.5))
        return faults
    while len(faults) < sample:
        rng.shuffle(kinds)
        for name, mode, times in kinds[: sample - len(faults)]:
            nth = rng.randint(1, by_name[name][0])
            faults.append(Fault(Point(*name, nth), mode, times, name[0] != "portal" and rng.random() < 0.5))
    return faults


# ------------------------------------------------------------------------------------------------------------------
# Workers: processes that were started with the shim, each running one case after the other


def work(portal: Portal) -> int:
    """Run the faults that come in by lines, answer each with its verdict. The first answer lists the calls."""
    warm_up(portal)
    case = Case(portal, 1)
    verdict = case.run(None, "")
    calls = [[*point, kind] for point, kind in case.control.calls()]
    case.close(keep=bool(verdict.wrong))
    print(json.dumps({"calls": calls, "wrong": verdict.wrong}), flush=True)
    for number, line in enumerate(sys.stdin, start=2):
        point, mode, times, power = json.loads(line)
        case = Case(portal, number)
        verdict = Verdict(str(point), mode)
        try:
            verdict = case.run(Point(*point), mode, times, power=power)
        except Exception as error:  # of the harness; a finding, too
            verdict.wrong.append(f"the harness: {type(error).__name__}: {error}")
            verdict.directory = str(case.directory)
        finally:
            case.close(keep=bool(verdict.wrong))
        print(verdict.to_json(), flush=True)
    return 0


class Worker:
    """One worker process: takes lines, answers each with a verdict."""

    MODULE = "tests.chaos.syscalls"

    def __init__(self, arguments: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            [shim.interpreter(), "-m", self.MODULE, "--worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **shim.preload()},
        )

    def calls(self) -> list[tuple[Point, int]]:
        """The calls of a job without a fault.

        Raises:
            RuntimeError: something was wrong even so.
        """
        said = json.loads(self._hear())
        if said["wrong"]:
            raise RuntimeError(f"without any fault: {said['wrong']}")
        return [(Point(*point), kind) for *point, kind in said["calls"]]

    def run(self, fault: Fault) -> Verdict:
        """Have one case run."""
        return self.ask([fault.point, fault.mode, fault.times, fault.power])

    def ask(self, what: list[object]) -> Verdict:
        """The verdict on whatever the module's worker makes of this."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return Verdict(**json.loads(self._hear()))

    def _hear(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with {self.process.wait()}")
        return line

    def close(self) -> None:
        """Have it leave."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(JOB_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def workers(count: int, *, local: bool, kind: type[Worker] = Worker) -> Iterator[list[Worker]]:
    """Workers with a portal that all of them use, or (``local``) each home's own."""
    with contextlib.ExitStack() as stack:
        arguments: list[str] = []
        if not local:
            data = Path(tempfile.mkdtemp(prefix="shim-portal-"))
            stack.callback(shutil.rmtree, data, ignore_errors=True)
            portal = stack.enter_context(running_portal(data / "portal"))
            arguments = [portal.url, portal.address["socket"]]
        found: list[Worker] = []
        for _ in range(count):
            found.append(kind(arguments))
            stack.callback(found[-1].close)
        yield found


# ------------------------------------------------------------------------------------------------------------------


class Sweep:
    """Runs faults and counts."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.deadline = time.monotonic() + seconds if seconds else None
        self.met: Counter[tuple[str, str]] = Counter()
        self.missed = 0  # the call did not come that often this time
        self.raised: Counter[str] = Counter()
        self.not_done: Counter[str] = Counter()
        self.findings: list[Verdict] = []
        self.longest = 0.0
        self.names: set[str] = set()

    def run(self, hands: Sequence[Worker], faults: Sequence[Fault], *, say: bool = True) -> None:
        """Have all faults run by the workers."""
        left: queue.SimpleQueue[Fault] = queue.SimpleQueue()
        for fault in faults:
            left.put(fault)

        def hand(worker: Worker) -> None:
            while self.deadline is None or time.monotonic() < self.deadline:
                try:
                    fault = left.get_nowait()
                except queue.Empty:
                    return
                try:
                    verdict = worker.run(fault)
                except (OSError, ValueError, RuntimeError):  # it was ended
                    return
                self._note(fault, verdict, say)

        threads = [threading.Thread(target=hand, args=(worker,), daemon=True) for worker in hands]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _note(self, fault: Fault, verdict: Verdict, say: bool) -> None:
        assert fault.point is not None
        if verdict.fired:
            self.met[fault.point.role, fault.mode + ("*" if fault.times > 1 else "")] += 1
            self.names.add(":".join(fault.point[:3]))
        else:
            self.missed += 1
        self.raised.update(verdict.raised)
        self.not_done.update(verdict.not_done)
        self.longest = max(self.longest, verdict.seconds)
        if verdict.wrong:
            self.findings.append(verdict)
        if say and (verdict.wrong or verdict.raised or verdict.not_done or verdict.seconds > 25):
            print(f"{fault}: {verdict.seconds:.0f} s", *verdict.wrong, *verdict.raised, *verdict.not_done, *verdict.slow,
                  verdict.directory if verdict.wrong else "", sep="\n    ", flush=True)  # fmt: skip

    def report(self, seconds: float) -> str:
        """Figures."""
        lines = [
            f"{sum(self.met.values())} faults met at {len(self.names)} named calls, {self.missed} not met,"
            f" in {seconds:.0f} s; longest case {self.longest:.0f} s"
        ]
        for role in shim.ROLES:
            if counts := {mode: count for (of, mode), count in sorted(self.met.items()) if of == role}:
                lines.append(f"  {role}: " + ", ".join(f"{mode} {count}" for mode, count in counts.items()))
        lines += [f"  raised {count}x {what}" for what, count in self.raised.most_common(20)]
        lines.append(f"{len(self.findings)} cases with something wrong")
        return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Sweep; 0 when nothing was wrong in any case."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.syscalls")
    parser.add_argument("--process", default="all", help="client, writer, sender, portal or all (the first three)")
    parser.add_argument("--modes", default=",".join(shim.MODES), help="comma-separated")
    parser.add_argument("--sample", type=int, default=200, help="cases; 0: every call in every mode")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after so long")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--replay", help="this point only, as a finding names it")
    parser.add_argument("--times", type=int, default=1, help="with --replay: how many calls fail")
    parser.add_argument("--power", action="store_true", help="with --replay: kill everything after the job")
    parser.add_argument("--worker", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        return work(Portal(*options.worker))
    roles = ["client", "writer", "sender"] if options.process == "all" else options.process.split(",")
    modes = options.modes.split(",")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started ends with us
    began = time.monotonic()
    with workers(1 if options.replay else options.workers, local="portal" in roles) as hands:
        calls = [one.calls() for one in hands].pop()
        if options.replay:
            point = Point.parse(options.replay)
            faults = [Fault(point, mode, options.times, options.power) for mode in modes]
        else:
            faults = choose(calls, roles, modes, options.sample, options.seed)
        counted = Counter(point.role for point, _ in calls)
        print(f"seed {options.seed}: {dict(counted)} calls; {len(faults)} cases", flush=True)
        sweep = Sweep(options.seconds)
        with contextlib.suppress(KeyboardInterrupt, SystemExit):  # what was found until then
            sweep.run(hands, faults)
        print(sweep.report(time.monotonic() - began), flush=True)
    return 1 if sweep.findings else 0


if __name__ == "__main__":
    sys.exit(main())
