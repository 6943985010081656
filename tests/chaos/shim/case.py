"""One case: a home, a job in it under a plan of faults, the end of the faults, and the verdict."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket

from tests.chaos import shim
from tests.chaos.shim import Control, Point
from tests.chaos.shim.judge import Judge, Told, judge_home, read_notes

JOB_SECONDS = 150.0  # a job that takes longer hangs: its own waits end after 20 s each, the rest is the machine
LEAVE_SECONDS = 20.0  # for all processes of a home that were told to leave
STOP_SECONDS = 0.3  # how long a stopped process stays so
_LOOK_SECONDS = 0.005


@dataclass
class Verdict:
    """What one case came to."""

    point: str = ""
    mode: str = ""
    fired: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)
    not_done: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    directory: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Portal:
    """Where the cases send to: a portal that lives through all of them, or (no address) each home's own."""

    def __init__(self, url: str = "", socket_path: str = "") -> None:
        self.url = url
        self.socket_path = socket_path

    @property
    def is_local(self) -> bool:
        return not self.url


class Case:
    """A directory with a home in it. The process that runs it was started with `shim.preload`, and forks the jobs."""

    def __init__(self, portal: Portal, number: int) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="shim-"))
        self.number = number
        self.portal = portal
        self.project = self.directory.name
        self.organization, self.organization_uuid, self.token = "local", "", ""
        self.home = self.directory / "home"
        for name in ("run", "user", "work"):
            (self.directory / name).mkdir(mode=0o700)
        from seclea.contract import Home

        self.places = Home(self.home)
        self.control = Control(self.directory / "control", self.home, self.directory / "run", self.places.shared_rings)
        self.job: Callable[[], None] | None = None  # another one than `tests.chaos.shim.job`
        self.on_look: Callable[[], None] = lambda: None  # called again and again while the job runs
        self._child = 0  # forked and not waited for yet
        if not portal.is_local:
            from seclea.api.tokens import Token, TokenStore

            self.organization = self.project  # of its own, so that all that it holds is this case's
            asked = {"name": self.organization}
            self.organization_uuid = ask_owner(portal.socket_path, "/internal/organizations", asked)["uuid"]
            self.home.mkdir(mode=0o700)
            self.token = ask_owner(portal.socket_path, "/internal/token")["access_token"]  # it lives for 15 minutes
            TokenStore(self.places.tokens).write(portal.url, Token(self.token), None, "owner")

    # -- processes -------------------------------------------------------------------------------------------------

    def fork(self, name: str, *, is_steered: bool) -> int:
        """A process that is a client of this home: ``live`` (the job) or ``finish`` of `tests.chaos.shim.job`."""
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            self._child = pid
            return pid
        code = 1
        try:
            output = os.open(self.directory / f"{name}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for descriptor in (1, 2):
                os.dup2(output, descriptor)
            for variable in [variable for variable in os.environ if variable.startswith(("SECLEA_", "LD_PRELOAD"))]:
                del os.environ[variable]
            os.environ.update(
                SECLEA_HOME=str(self.home),
                XDG_RUNTIME_DIR=str(self.directory / "run"),
                HOME=str(self.directory / "user"),
            )
            os.chdir(self.directory / "work")
            sys.executable = shim.interpreter()
            if is_steered:
                shim.attach(self.control.path, "client")
            code = self._be(name)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)

    def _be(self, name: str) -> int:
        from tests.chaos.shim import job

        if self.job is not None:
            self.job()
            return 0
        url = self.portal.url or "local"
        if name == "live":
            job.live(job.Notes(self.directory / "notes"), self.project, self.organization, url, self.number)
            if self.number == 0:
                (self.directory / "modules").write_text(" ".join(sorted(sys.modules)), "utf-8")
            return 0
        left = job.finish(self.project, self.organization, url)
        print(left, flush=True)
        return 2 if left else 0

    def wait(self, pid: int, seconds: float) -> int | None:
        """The child's exit code (negative: the signal), or None when it hangs; then it is killed. Lets stopped ones go on."""
        deadline = time.monotonic() + seconds
        stopped_at = 0.0
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self._child = 0
                return os.waitstatus_to_exitcode(status)
            now = time.monotonic()
            if now > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                self._child = 0
                return None
            self.on_look()
            if self.control.head.mode == shim.MODES["STOP"] and self.control.fired:
                stopped_at = stopped_at or now
                if now - stopped_at > STOP_SECONDS:
                    self.go_on()
            time.sleep(_LOOK_SECONDS)  # a poll with a deadline

    def go_on(self) -> None:
        """Wake whoever the plan stopped."""
        pid = self.control.pid
        if self.control.head.mode == shim.MODES["STOP"] and pid and pid in (self._child, *self.processes()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def processes(self) -> list[int]:
        """Writer, sender and portal of this home."""
        found = []
        wanted = os.fsencode(self.home)
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    if wanted in Path("/proc", entry, "cmdline").read_bytes():
                        found.append(int(entry))
        return found

    def kill_all(self) -> None:
        """kill -9 for all of the pipeline."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def gone(self, seconds: float) -> bool:
        """Wait until no process of the home is left; whether that came."""
        deadline = time.monotonic() + seconds
        while self.processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    # -- the case --------------------------------------------------------------------------------------------------

    def run(self, point: Point | None, mode: str, times: int = 1, *, power: bool = False) -> Verdict:
        """Run the job with a fault at ``point``; afterwards bring home and portal together, and judge.

        Args:
            power: after the job everything is killed, and where flush said "durable" its rings are removed too.
        """
        verdict = Verdict(str(point or ""), f"{mode}*{times}" if times > 1 else mode, directory=str(self.directory))
        began = time.monotonic()
        if point is not None:
            self.control.plan(point, mode, times)
        code = self.wait(self.fork("live", is_steered=True), JOB_SECONDS)
        self.control.end_of_faults()
        self.go_on()
        verdict.fired = self.control.fired
        told = read_notes(self.directory / "notes")
        verdict.raised, verdict.not_done, verdict.slow = told.raised, told.not_done, told.slow
        was_killed = point is not None and point.role == "client" and mode.startswith("KILL") and verdict.fired > 0
        wrong = verdict.wrong
        if code is None:
            wrong.append("the job hangs")
        elif code != (-signal.SIGKILL if was_killed else 0):
            wrong.append(f"the job ended with {code}: {self._said('live')}")
        elif not was_killed and told.result != sum(0.5 + value * 0.25 for value in range(24)):
            wrong.append(f"the job's result is {told.result}")
        if times == 1 and told.raised:
            wrong.append(f"one failed call, and the job was told: {told.raised}")
        if power:
            self._cut_power(told)
        code = self.wait(self.fork("finish", is_steered=False), JOB_SECONDS)
        if code != 0:
            wrong.append(f"afterwards: {code} {self._said('finish')}")
        wrong += self._judge(told, was_killed=was_killed, lasts=times > 1)
        self.stop(wrong, told)
        verdict.seconds = time.monotonic() - began
        return verdict

    def _cut_power(self, told: Told) -> None:
        deadline = time.monotonic() + LEAVE_SECONDS
        while self.processes() and time.monotonic() < deadline:  # the last act of a sender is to start a writer
            self.kill_all()
            time.sleep(_LOOK_SECONDS)
        if told.is_durable:
            shutil.rmtree(self.places.shared_rings, ignore_errors=True)
            shutil.rmtree(self.places.rings, ignore_errors=True)

    def _judge(self, told: Told, *, was_killed: bool, lasts: bool) -> list[str]:
        try:
            url, token, organization = self.portal.url, self.token, self.organization_uuid
            if self.portal.is_local:
                url = json.loads((self.home / "portal" / "address.json").read_text("utf-8"))["url"]
                socket_path = str(self.directory / "run" / "seclea" / f"{self.places.name}.portal.sock")
                token = ask_owner(socket_path, "/internal/token")["access_token"]
                organization = ask_owner(socket_path, "/internal/organizations", {"name": "local"})["uuid"]
            return Judge(url, token, organization).judge(told, was_killed=was_killed, lasts=lasts)
        except (OSError, KeyError, ValueError) as error:
            return [f"the portal cannot be read: {type(error).__name__}: {error}"]

    def stop(self, wrong: list[str], told: Told) -> None:
        """Have the pipeline leave, and look that nothing is left."""
        from seclea.errors import PipelineError
        from seclea.processes.rendezvous import ask

        here = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = str(self.directory / "run")  # where it listens, should there be no link to it
        with contextlib.suppress(PipelineError):
            ask(self.places, {"op": "stop", "portal": True}, 5.0)
        os.environ.pop("XDG_RUNTIME_DIR") if here is None else os.environ.update(XDG_RUNTIME_DIR=here)
        if not self.gone(LEAVE_SECONDS):
            wrong.append(f"still there: {self.processes()}")
            self.kill_all()
            self.gone(LEAVE_SECONDS)
        wrong += judge_home(self.home, [self.directory / "run", self.places.shared_rings], told)

    def _said(self, name: str) -> str:
        path = self.directory / f"{name}.out"
        return path.read_text("utf-8", "replace")[-600:] if path.exists() else ""

    def close(self, *, keep: bool) -> None:
        """Remove all of it, or leave the directory for whoever looks into a finding."""
        self.kill_all()
        if keep:
            (self.directory / "calls").write_text(
                "".join(f"{point} {kind}\n" for point, kind in self.control.calls()), "utf-8"
            )
        self.control.close()
        shutil.rmtree(self.places.shared_rings, ignore_errors=True)
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)


def ask_owner(socket_path: str, path: str, body: dict[str, str] | None = None) -> dict[str, str]:
    """Post to a portal as its owner."""
    connection = HTTPConnection("portal", timeout=30)
    connection.sock = socket(AF_UNIX, SOCK_STREAM)
    with contextlib.closing(connection):
        connection.sock.connect(socket_path)
        connection.request(
            "POST", path, json.dumps(body or {}), {"Host": "localhost", "Content-Type": "application/json"}
        )
        read: dict[str, str] = json.loads(connection.getresponse().read())
        return read


def warm_up(portal: Portal) -> None:
    """Import what a job needs, as a first job tells, so that a forked one begins in milliseconds."""
    import tests.chaos.shim.job  # noqa: F401

    case = Case(portal, 0)
    try:
        if wrong := case.run(None, "").wrong:
            raise RuntimeError(f"without any fault: {wrong}")
        for name in (case.directory / "modules").read_text("utf-8").split():
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    finally:
        case.close(keep=False)
