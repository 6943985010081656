"""A home of its own with the real processes, for tests. After every test nothing of it may be left.

Where a portal is needed that answers as scripted, `tests.contract.fault_portal` stands in for it: it runs in the test's own
process and costs nothing to start. Nothing here sleeps for a time: `until` waits for a condition, with a deadline.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pytest

from seclea.api.tokens import Token, TokenStore
from seclea.client import joining
from seclea.contract import Home
from seclea.director import pipeline as director
from seclea.errors import PipelineError
from seclea.processes.rendezvous import ask
from tests import canary
from tests.contract.fault_portal import ORGANIZATION, Answer, Asked, FaultPortal, receipted

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_SECONDS = 30.0  # for what takes a fraction of a second on a quiet machine
CANARY = canary.CANARY  # stands in every secret of the tests; found anywhere, something leaked

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, seconds: float = DEADLINE_SECONDS) -> T:
    """Wait until ``condition`` gives something true, and give that."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds:g} s for: {what}"
        time.sleep(0.005)


def without_notice(errors: str) -> str:
    """What a job wrote, without the line that says what its pipeline will not outlive: a container, say."""
    words = ("seclea: the background processes end with ", "does not survive a reboot.\n")
    return "".join(
        line for line in errors.splitlines(True) if not (line.startswith(words[0]) or line.endswith(words[1]))
    )


def is_running(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def kill(*pids: int | None) -> None:
    """kill -9, and wait until they are gone."""
    for pid in filter(None, pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in filter(None, pids):
        until(lambda pid=pid: not is_running(pid), f"process {pid} to be gone")  # type: ignore[misc]


class Script:
    """A user's script in a process of its own, which may be told lines and tells lines."""

    def __init__(self, home: PipelineHome, code: str, environment: dict[str, str], directory: Path) -> None:
        self.path = directory / f"script{len(home.scripts)}.py"
        self.path.write_text(code, "utf-8")
        self._errors = self.path.with_suffix(".err")
        self.said = ""  # on standard output, as far as it was heard
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(self.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=directory,
                env=environment,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def errors(self) -> str:
        """What it wrote to standard error so far, but for what depends on the machine that the tests run on."""
        return without_notice(self.all_errors)

    @property
    def all_errors(self) -> str:
        """What it wrote to standard error so far."""
        return self._errors.read_text("utf-8")

    def tell(self, line: str = "") -> None:
        """Give its ``input()`` a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """The next line that it prints; its end is a failure (pytest's timeout covers silence)."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.said += line
        assert line, f"the script ended with {self.process.wait(10)}:\n{self.errors}"
        return line.rstrip("\n")

    def end(self, code: int | None = 0, seconds: float = DEADLINE_SECONDS) -> str:
        """Wait for its end; what it printed since it was last heard. ``code`` None: any."""
        try:
            if self.process.stdin is not None and self.process.stdin.closed:
                self.process.stdin = None
            output, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the script did not end within {seconds:g} s:\n{self.errors}") from None
        self.said += output
        if code is not None:
            assert self.process.returncode == code, f"ended with {self.process.returncode}:\n{self.errors}"
        return output

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


class PipelineHome:
    """A fresh home, the ways to look at it, and the scripts that log to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"
        self.user = root / "user"
        self.runtime = root / "run"
        for path in (self.work, self.user, self.runtime):
            path.mkdir(mode=0o700)
        self.path = root / "home"
        self.scripts: list[Script] = []
        self.said: list[tuple[str, str]] = []  # by commands
        # Bound and not listening: whoever connects is refused, and nobody else gets the port meanwhile.
        self._closed = socket.socket()
        self._closed.bind(("127.0.0.1", 0))
        self.closed_url = f"http://127.0.0.1:{self._closed.getsockname()[1]}"

    @property
    def home(self) -> Home:
        return Home(self.path)

    # -- starting things -----------------------------------------------------------------------------------------

    def environment(self, **extra: object) -> dict[str, str]:
        """For a user's script: this home, and no portal that answers unless ``SECLEA_PLATFORM_URL`` says otherwise."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
        return {
            **kept,
            "HOME": str(self.user),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "SECLEA_HOME": str(self.path),
            "SECLEA_PLATFORM_URL": self.closed_url,
            "XDG_RUNTIME_DIR": str(self.runtime),
            **{name: str(value) for name, value in extra.items()},
        }

    def script(self, *code: str, **environment: object) -> Script:
        """Start a script of these parts."""
        script = Script(self, "\n".join(map(textwrap.dedent, code)), self.environment(**environment), self.work)
        self.scripts.append(script)
        return script

    def run(self, *code: str, **environment: object) -> str:
        """Run a script to its end; what it printed."""
        return self.script(*code, **environment).end()

    def command(self, *arguments: str, text: str = "", **environment: object) -> subprocess.CompletedProcess[str]:
        """Run ``seclea ARGUMENTS`` to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "seclea", *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.work,
            env=self.environment(**environment),
        )
        self.said.append((f"what seclea {' '.join(arguments)} said", done.stdout + done.stderr))
        return done

    def log_in(self, url: str) -> None:
        """Put a login for ``url`` into the token store, as a person did before."""
        self.home.path.mkdir(mode=0o700, exist_ok=True)
        TokenStore(self.home.tokens).write(url, Token(f"access-{CANARY}"), Token(f"refresh-{CANARY}"), "ada")

    # -- looking -------------------------------------------------------------------------------------------------

    def live(self) -> dict[str, Any]:
        """What the writer says of itself; empty when none answers."""
        try:
            return ask(self.home, {"op": "status"}, 10.0) or {}
        except PipelineError:
            return {}

    def writer_pid(self) -> int:
        """The writer's pid, as soon as there is one."""
        return int(until(lambda: self.live().get("writer") or 0, "a writer"))

    def sender_pid(self) -> int:
        """The sender's pid, as soon as there is one."""
        return int(until(lambda: self.live().get("sender") or 0, "a sender"))

    def processes(self) -> dict[int, str]:
        """All processes whose command line names this home."""
        wanted = os.fsencode(self.path)
        found = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                with contextlib.suppress(OSError):
                    line = Path("/proc", entry, "cmdline").read_bytes()
                    if wanted in line:
                        found[int(entry)] = line.replace(b"\0", b" ").decode("utf-8", "replace").strip()
        return found

    def pids_of(self, module: str) -> list[int]:
        """The processes of this home that run ``module``."""
        return [pid for pid, line in self.processes().items() if f"-m {module} " in line]

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Ask the ledger, with nothing of seclea in between. Empty where there is none yet."""
        if not self.home.ledger.exists():
            return []
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(os.fsencode(self.home.ledger))}?mode=ro", uri=True, timeout=10)
        ) as ledger:
            try:
                return ledger.execute(sql, parameters).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return []
                raise

    def points(self) -> list[tuple[str, int, str, float]]:
        """All metric points in the ledger: (run, step, name, value), in the order of the streams."""
        from seclea.records import unpack_metrics

        found = []
        for (body,) in self.rows("SELECT body FROM records WHERE kind = 'metrics' ORDER BY stream, first"):
            batch = unpack_metrics(body)
            columns = zip(batch.step, batch.key, batch.value, strict=True)
            found += [(batch.run, step, batch.keys[key], value) for step, key, value in columns]
        return found

    def steps(self) -> list[int]:
        """The steps of all points in the ledger, sorted."""
        return sorted(step for _, step, _, _ in self.points())

    def finishes(self) -> dict[str, str]:
        """How each run ended, by its uuid."""
        found = self.rows("SELECT run, body FROM records WHERE kind = 'finish' ORDER BY id")
        assert len({run for run, _ in found}) == len(found), f"a run ended twice: {found}"
        return {run: json.loads(body)["status"] for run, body in found}

    def logs(self) -> str:
        """The ends of the log files, for a failure's message."""
        parts = []
        for path in sorted(self.home.logs.glob("*.log")) if self.home.logs.is_dir() else []:
            parts.append(f"--- {path.name}\n" + "\n".join(path.read_text("utf-8", "replace").splitlines()[-25:]))
        return "\n".join(parts)

    # -- the end -------------------------------------------------------------------------------------------------

    def close_clients_of_this_process(self) -> None:
        """As if the test's own process had ended: its rings into this home are closed, its runs are no more published."""
        while (run := joining._own()) is not None and run._home.path == self.home.path:
            joining.withdraw(run)
        for pipeline in list(director.open_pipelines()):
            if pipeline.home.path == self.home.path:
                pipeline.close()
                director._pipelines.pop(pipeline.home.path)

    def leaks(self) -> list[str]:
        """Where a secret stands that must not: files, command lines, environments, and what was printed."""
        secrets = canary.secrets_of(self.home.tokens)
        found = canary.in_files(self.root, secrets, without=[script.path for script in self.scripts])
        found += canary.in_files(self.home.shared_rings, secrets)
        ours = [pid for pid, line in self.processes().items() if " -m seclea." in line]
        found += canary.in_processes(ours, secrets)
        spoken = [*self.said, *((f"the output of {script.path.name}", script.said) for script in self.scripts)]
        return [*found, *(heading for heading, text in spoken if canary.named(text.encode(), secrets))]

    def close(self) -> None:
        """`seclea stop` is enough: no process, no shared memory, no socket and no secret is left."""
        try:
            for script in self.scripts:
                script.close()
            assert self.leaks() == []  # while the processes are there
            self.close_clients_of_this_process()
            drains = bool(self.live())  # without a writer nobody empties a ring
            if self.path.exists():
                stopped = self.command("stop")
                assert stopped.returncode == 0, f"seclea stop: {stopped.stdout}{stopped.stderr}\n{self.logs()}"
            # The locks are free a moment before the processes are gone.
            with contextlib.suppress(AssertionError):
                until(lambda: not self.processes(), "every process to be gone", 5.0)
            assert self.processes() == {}, f"left after seclea stop: {self.processes()}\n{self.logs()}"
            if drains:
                left = [*self.home.rings.glob("*"), *self.home.shared_rings.glob("*")]
                assert left == [], f"rings left after seclea stop: {left}"
                assert not self.home.shared_rings.exists()
            left = [path for path in self.runtime.rglob("*") if not path.is_dir()]
            assert left == [], f"left in the runtime directory: {left}"
            assert self.leaks() == []  # and what they wrote when they left
        finally:
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._closed.close()
            shutil.rmtree(self.home.shared_rings, ignore_errors=True)
            shutil.rmtree(self.root, ignore_errors=True)


@contextlib.contextmanager
def edited(path: Path) -> Iterator[sqlite3.Connection]:
    """A ledger that no writer has, to be changed as a writer changes it: sealed and committed."""
    from seclea.ledger.db import Ledger

    ledger = Ledger(path)
    try:
        with ledger.transaction():
            yield ledger._connection
    finally:
        ledger.close()


@contextlib.contextmanager
def pipeline_home() -> Iterator[PipelineHome]:
    """A home for one test. Its path is short, as socket paths must be."""
    with pytest.MonkeyPatch.context() as patch:
        home = PipelineHome(Path(tempfile.mkdtemp(prefix="s-", dir="/tmp")))
        # This process looks at the home (and may log to it) in the same surroundings as the scripts.
        for name in [name for name in os.environ if name.startswith("SECLEA_")]:
            patch.delenv(name)
        for name in ("HOME", "SECLEA_HOME", "SECLEA_PLATFORM_URL", "XDG_RUNTIME_DIR"):
            patch.setenv(name, home.environment()[name])
        patch.chdir(home.work)
        try:
            yield home
        finally:
            home.close()


class WillingPortal(FaultPortal):
    """A portal of the organization "local" that takes every record and chunk; `on` makes it do otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: dict[str, bytes] = {}
        self.extended()
        self.on("GET", "/organization/", Answer(200, [{"uuid": ORGANIZATION, "name": "local"}]))

    def answer_to(self, asked: Asked) -> Answer:
        answer = super().answer_to(asked)
        if answer.status != 404:
            return answer
        if asked.path == "/collection/chunks/missing":
            return Answer(200, [sha256 for sha256 in asked.json if sha256 not in self.chunks])
        if asked.path.startswith("/collection/chunks/"):
            self.chunks[asked.path.rpartition("/")[2]] = asked.body
            return Answer(201, {})
        if asked.path.endswith("/finish"):
            return receipted(asked)
        return answer

    def records(self) -> list[tuple[str, str]]:
        """(kind of path, idempotency key) of every record that came, in order."""
        asked = [one for one in self.asked if "idempotency-key" in one.headers]
        return [(one.path.split("/")[-1], one.headers["idempotency-key"]) for one in asked]

    def steps(self) -> list[int]:
        """The steps of all metric points that came, in order."""
        from seclea.records import unpack_metrics

        bodies = []
        for one in self.asked:
            if one.path == "/collection/metrics":
                packed = one.headers.get("content-encoding") == "gzip"
                bodies.append(gzip.decompress(one.body) if packed else one.body)
        return [step for body in bodies for step in unpack_metrics(body).step]
