"""``python -m tests.chaos.power --images N --seed S --filesystem ext4|btrfs|xfs``: the power fails, N times.

Row R3 of the scorecard. A job runs on a logged disk (`power_disk`), so every write and flush of the file system is known.
From that log images are made of what a drive with a volatile cache may hold after a power loss:

- ``flush``: all up to a flush, and nothing after it;
- ``write``: all up to any write;
- ``torn``: all up to a flush, and of what follows any part, in which one write is there only in some of its sectors.

Each is mounted (the file system replays its journal), the home in it opened by the writer's own recovery, and compared
with what the job had been told to be durable before that instant. Some are opened by real processes. Every choice comes from
the seed; the log does not (it is the machine's), so a finding keeps log, notes and image.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import power_disk, power_judge
from tests.chaos.order_job import PLANTS
from tests.chaos.power_disk import SECTOR, Entry, Image, mounted
from tests.pipeline import ROOT, WillingPortal

PER_JOB = 1500  # images of one job's log
PROMISED_SECONDS = 2.0  # for a recovery


@dataclass(frozen=True)
class Case:
    """One instant of a power loss: entries up to ``whole`` are on the disk, and ``pieces`` of what follows, until ``end``."""

    kind: str
    whole: int
    end: int
    pieces: tuple[tuple[int, bytes], ...] = ()


def why_not(filesystem: str) -> str | None:
    """Why no disk can be logged here; None where it can."""
    if os.getuid() != 0:
        return "only root may mount a disk of its own"
    if not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        return "there is no /dev/fuse or no /dev/loop-control"
    if shutil.which(f"mkfs.{filesystem}") is None:
        return f"there is no mkfs.{filesystem}"
    kinds = Path("/proc/filesystems").read_text("ascii").split()
    if filesystem not in kinds or "fuse" not in kinds:
        return f"the kernel has no {filesystem} or no fuse"
    return None


def _repaired(filesystem: str, file: Path, error: OSError) -> bool:
    """Let ext4 mend what tearing its superblock in two sectors breaks, as a boot does; nothing of ours can help there."""
    if filesystem != "ext4" or error.errno not in (errno.EBADMSG, errno.EUCLEAN):
        return False
    done = subprocess.run(["fsck.ext4", "-f", "-y", os.fspath(file)], capture_output=True, check=False)
    return done.returncode in (0, 1)


class Campaign:
    """One job on one logged disk, and the images of it."""

    def __init__(self, base: Path, filesystem: str, seed: int) -> None:
        self.base = base
        self.filesystem = filesystem
        self.seed = seed
        self.random = random.Random(seed)
        self.log = base / "log"
        self.notes = base / "notes"
        self.environment: dict[str, str] = {}

    def run_job(self, rounds: int, plant: str = "") -> None:
        """The job, from mounting to unmounting. Raises RuntimeError with its words where it failed."""
        disk, fuse, place = self.base / "disk", self.base / "fuse", self.base / "mount"
        for directory in (fuse, place, self.base / "run", self.base / "user"):
            directory.mkdir(mode=0o700)
        power_disk.make_file_system(disk, self.filesystem)
        shutil.copy(disk, self.base / "start")
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.power", "--serve", str(disk), str(self.log), str(fuse)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        assert server.stdout is not None
        portal = WillingPortal() if self.seed % 3 else None  # else nothing is delivered and all is kept
        try:
            if server.stdout.readline() != b"serving\n":
                raise RuntimeError("the logged disk cannot be served")
            with mounted(fuse / "disk", place, self.filesystem):
                self._live(place / "home", portal.url if portal else "http://127.0.0.1:9", rounds, plant)
        finally:
            if portal is not None:
                portal.close()
            if server.poll() is None and os.path.ismount(fuse):
                power_disk.unmount(fuse)
            server.stdout.close()
            server.wait(30.0)
            disk.unlink()

    def _live(self, home: Path, url: str, rounds: int, plant: str) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
        in_container = {"KUBERNETES_SERVICE_HOST": "here"} if self.seed % 2 else {}  # rings on the disk
        self.environment = {
            **kept,
            **in_container,
            "HOME": str(self.base / "user"),
            "PYTHONPATH": str(ROOT),
            "SECLEA_HOME": str(home),
            "SECLEA_PLATFORM_URL": "http://127.0.0.1:9",
            "SECLEA_LIMITS_MIN_FREE_DISK": "0B",
            "SECLEA_PLANT": plant,
            "XDG_RUNTIME_DIR": str(self.base / "run"),
            "OMP_NUM_THREADS": "1",
        }
        arguments = [str(home), url, str(self.log), str(self.notes), str(self.seed), str(rounds)]
        job = [sys.executable, "-m", "tests.chaos.power_job", *arguments]
        try:
            done = subprocess.run(
                job, env=self.environment, cwd=self.base, capture_output=True, text=True, timeout=300, check=False
            )
            if done.returncode:
                raise RuntimeError(f"the job ended with {done.returncode}:\n{done.stderr[-3000:]}")
        finally:
            stop = [sys.executable, "-m", "seclea", "stop"]
            subprocess.run(stop, env=self.environment, capture_output=True, timeout=60, check=False)

    def cases(self, entries: list[Entry], count: int) -> list[Case]:
        """Instants, in the order of the log."""
        flushes = [number + 1 for number, entry in enumerate(entries) if entry.is_flush]
        found = [Case("flush", at, at) for at in self.random.sample(flushes, min(len(flushes), count // 3))]
        for number in range(count - len(found)):
            end = self.random.randint(1, len(entries))
            if number % 2:
                found.append(Case("write", end, end))
            else:
                found.append(self._torn(entries, flushes, end))
        return sorted(found, key=lambda case: case.whole)

    def _torn(self, entries: list[Entry], flushes: list[int], end: int) -> Case:
        place = bisect_right(flushes, end)  # a flush that has returned counts, also the very last
        whole = flushes[place - 1] if place else 0
        if self.random.random() < 0.5:  # all that the drive may have in its cache before the next flush
            end = flushes[place] - 1 if place < len(flushes) else len(entries)
        share = self.random.choice((0.2, 0.5, 0.9))
        kept = [entry for entry in entries[whole:end] if not entry.is_flush and self.random.random() < share]
        torn = self.random.randrange(len(kept)) if kept and self.random.random() < 0.7 else -1
        pieces: list[tuple[int, bytes]] = []
        for number, entry in enumerate(kept):
            if number != torn:
                pieces.append((entry.offset, entry.data))
                continue
            for start in range(0, len(entry.data), SECTOR):
                if self.random.random() < 0.5:
                    pieces.append((entry.offset + start, entry.data[start : start + SECTOR]))
        return Case("torn", whole, end, tuple(pieces))

    def try_cases(self, entries: list[Entry], cases: list[tuple[int, Case]], every: int, lane: int) -> Iterator[str]:
        """Make and judge images in this process; a line of JSON for each."""
        file, place = self.base / f"image{lane}", self.base / f"look{lane}"
        place.mkdir(exist_ok=True)
        prefix, done = Image(self.base / "start"), 0
        told = power_judge.read_notes(self.notes)
        for number, case in cases:
            while done < case.whole:
                if not entries[done].is_flush:
                    prefix.write(entries[done].offset, entries[done].data)
                done += 1
            image = prefix.copy() if case.pieces else prefix
            for offset, data in case.pieces:
                image.write(offset, data)
            image.save(file)
            at = entries[case.end - 1].end if case.end else 0
            last = next((one for one in reversed(told) if one.at <= at), None)
            whole = number % every == every - 1
            is_repaired = False
            try:
                try:
                    found = self._opened(file, place, last, whole)
                except OSError as error:
                    if (is_repaired := _repaired(self.filesystem, file, error)) is False:
                        raise
                    found = self._opened(file, place, last, whole)
                seconds, wrong = found
            except OSError as error:
                seconds, wrong = 0.0, [f"the image cannot be mounted: {error}"]
            if wrong:
                image.save(self.base / f"finding{number}")
            kind = f"{case.kind}{', by processes' * whole}{', after fsck' * is_repaired}"
            yield json.dumps(
                {"kind": kind, "number": number, "seconds": seconds, "wrong": wrong, "told": last is not None}
            )
        file.unlink(missing_ok=True)

    def _opened(
        self, file: Path, place: Path, told: power_judge.Told | None, by_processes: bool
    ) -> tuple[float, list[str]]:
        # Two lanes look at images of the same disk.
        options = "nouuid" if self.filesystem == "xfs" else ""
        with mounted(file, place, self.filesystem, options):
            return self._recovered(place / "home", told, by_processes=by_processes)

    def _recovered(self, home: Path, told: power_judge.Told | None, *, by_processes: bool) -> tuple[float, list[str]]:
        if by_processes:
            seconds = power_judge.recover_by_processes(home, {**self.environment, "SECLEA_PLANT": ""})
            return seconds, power_judge.judge(home, told)

        def work() -> tuple[float, list[str]]:
            seconds = power_judge.recover_here(home)
            return seconds, power_judge.judge(home, told)

        return power_judge.in_a_child(work)


@dataclass
class Figures:
    """What came of all images."""

    kinds: Counter[str]
    wrong: list[str]
    promised: int = 0
    longest: float = 0.0
    slow: int = 0

    def add(self, line: str) -> None:
        one = json.loads(line)
        self.kinds[one["kind"]] += 1
        self.promised += one["told"]
        if "processes" not in one["kind"]:
            self.longest = max(self.longest, one["seconds"])
            self.slow += one["seconds"] > PROMISED_SECONDS
        self.wrong += [f"image {one['number']} ({one['kind']}): {what}" for what in one["wrong"]]


def in_lanes(campaign: Campaign, count: int, lanes: int, every: int, figures: Figures) -> tuple[int, int]:
    """Judge ``count`` images in ``lanes`` processes; writes and flushes of the log."""
    entries = power_disk.read_log(campaign.log)
    cases = list(enumerate(campaign.cases(entries, count)))
    pipes: list[tuple[int, int]] = []
    for lane in range(lanes):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(reader)
                with os.fdopen(writer, "w", buffering=1) as out:
                    for line in campaign.try_cases(entries, cases[lane::lanes], every, lane):
                        print(line, file=out)
                code = 0
            finally:
                os._exit(code)
        os.close(writer)
        pipes.append((child, reader))
    for child, reader in pipes:
        with os.fdopen(reader) as lines:
            for line in lines:
                figures.add(line)
        _, status = os.waitpid(child, 0)
        if status:
            figures.wrong.append(f"a lane ended with {status}")
    flushes = sum(entry.is_flush for entry in entries)
    return len(entries) - flushes, flushes


def main(arguments: list[str] | None = None) -> int:
    """0 when nothing durable was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.power")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--filesystem", choices=("ext4", "btrfs", "xfs"), default="ext4")
    parser.add_argument("--rounds", type=int, default=24, help="flushes of a job")
    parser.add_argument("--lanes", type=int, default=2, help="images that are judged at once")
    parser.add_argument("--every", type=int, default=500, help="of so many images one is opened by real processes")
    parser.add_argument("--plant", choices=sorted(PLANTS), default="", help="with this bug planted into the writer")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        disk = power_disk.LoggedDisk(*map(Path, options.serve))
        print("serving", flush=True)
        disk.serve()
        return 0
    if (reason := why_not(options.filesystem)) is not None:
        print(f"cannot be done here: {reason}")
        return 1
    power_disk.seclude()
    import seclea.writer.waiting  # noqa: F401  (before any fork: what each recovery needs)

    base = Path(tempfile.mkdtemp(prefix="seclea-power-"))
    began, left, job = time.monotonic(), options.images, 0
    figures = Figures(Counter(), [])
    writes = flushes = 0
    while left > 0 and not figures.wrong:
        job += 1
        directory = base / str(job)
        directory.mkdir(mode=0o700)
        # In memory: the images are of a disk, and need none.
        power_disk.mount("images", directory, "tmpfs", "size=2g,mode=0700")
        campaign = Campaign(directory, options.filesystem, options.seed * 1000 + job)
        campaign.run_job(options.rounds, options.plant)
        more = in_lanes(campaign, min(left, PER_JOB), options.lanes, options.every, figures)
        writes, flushes, left = writes + more[0], flushes + more[1], left - PER_JOB
        if figures.wrong:
            shutil.copytree(directory, base / "finding", symlinks=True, ignore=shutil.ignore_patterns("run", "look*"))
        power_disk.unmount(directory)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(figures.kinds.items()))
    total = figures.kinds.total()
    print(
        f"{options.filesystem}, seed {options.seed}: {total} images ({kinds}) of {job} jobs in {time.monotonic() - began:.0f} s"
    )
    print(f"{writes} writes and {flushes} flushes logged; {figures.promised} images after something was told durable")
    print(f"recovery: longest {figures.longest:.2f} s, {figures.slow} over {PROMISED_SECONDS:g} s")
    print(f"{len(figures.wrong)} things wrong")
    for what in figures.wrong[:20]:
        print(f"  {what}")
    if figures.wrong:
        print(f"left in place: {base}")
        return 1
    shutil.rmtree(base)
    return 0


if __name__ == "__main__":
    sys.exit(main())
