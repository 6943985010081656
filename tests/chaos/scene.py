"""A home with its clients, pipeline and portal, to do things to. Every process in it is a descendant of the one that made it.

Clients are forked from it: what they import is there already. An own portal (of some scenes) is forked too, and is the code of
``python -m seclea.portal``; writer, sender and embedded portal are started by seclea itself.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seclea.contract import Home
from tests.chaos.client import Life
from tests.chaos.processes import adopt_orphans, children_of, descendants_of, kill, module_of, start, state_of, wait_for
from tests.chaos.referee import LEVELS, Referee, Told, read_notes

USER, PASSWORD = "tester", "correct horse battery"
END_SECONDS = 60.0  # a client that is told to stop, or a command, has hung after this
DELIVER_SECONDS = 60.0
PORTS = range(20_000, 32_000)  # below those that the kernel gives to whoever connects


def import_first() -> None:
    """What clients and portals need, so that a life begins in milliseconds. One thread only: it is to be forked."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import sklearn.linear_model  # noqa: F401

    import seclea.cli.pipeline
    import seclea.client.lineage.chain
    import seclea.client.seclea_ai
    import seclea.client.snapshot.models
    import seclea.portal.app
    import seclea.portal.cli
    import seclea.portal.serve  # noqa: F401


class Scene:
    """One home. Make it in a process of its own (`isolated`): it changes environment and directory."""

    def __init__(self, directory: Path, seed: int, *, own_portal: bool = False) -> None:
        adopt_orphans()
        self.directory = directory
        self.seed = seed
        self.home = Home(directory / "home")
        self.errors = directory / "clients.err"
        self.stop_file = directory / "stop"
        self.lives = 0
        self.clients: dict[int, Path] = {}
        self.portal_pid = 0
        self.portal_was_killed = False  # it may go on to accept for a moment
        self.url = ""
        self.wrong: list[str] = []
        self.judged_apart: set[str] = set()  # runs
        for name in [name for name in os.environ if name.startswith("SECLEA_")]:
            del os.environ[name]
        for name in ("work", "run"):
            (directory / name).mkdir(mode=0o700)
        os.environ |= {
            "SECLEA_HOME": str(self.home.path), "HOME": str(directory), "XDG_RUNTIME_DIR": str(directory / "run"),
        }  # fmt: skip
        os.chdir(directory / "work")
        self.limit(False)
        if own_portal:
            self._make_portal()

    def limit(self, paused: bool, when_full: str = "wait") -> None:
        """Ask for more free disk than there is (logging pauses), or for none."""
        part = self.directory / "work" / ".part"
        least = "900TB" if paused else "1MB"
        part.write_text(f'[limits]\nmin_free_disk = "{least}"\nwhen_full = "{when_full}"\n', "utf-8")
        part.rename(part.with_name(".seclearc"))

    # -- portals -------------------------------------------------------------------------------------------------

    def _make_portal(self) -> None:
        chance = random.Random(self.seed)
        while True:
            self._port = chance.choice(PORTS)
            with contextlib.suppress(OSError), socket.socket() as probe:
                probe.bind(("127.0.0.1", self._port))
                break
        self.url = f"http://127.0.0.1:{self._port}"
        self.start_portal()
        data = str(self.directory / "portal")
        self.run("org add", lambda: _portal(["org", "add", "Acme", "--data", data]))
        add = ["user", "add", USER, "--organization", "Acme", "--data", data, "--password-stdin"]
        self.run("user add", lambda: _portal(add, PASSWORD))

        def log_in() -> None:
            from seclea import SecleaAI
            from seclea.errors import PortalUnavailable

            client = SecleaAI("chaos", "Acme", platform_url=self.url)
            while True:  # within the time that `run` gives
                with contextlib.suppress(PortalUnavailable):
                    return client.login(USER, PASSWORD)

        self.run("login", log_in)

    def start_portal(self) -> None:
        """Start (again) the own portal; returns when it accepts."""

        def serve() -> None:
            from seclea.portal import cli

            logs = self.directory / "portal-logs"
            if cli.run(["--data", str(self.directory / "portal"), "--port", str(self._port), "--logs", str(logs)]):
                raise SystemExit("the portal does not start")

        self.portal_pid = start(serve, self.errors)
        self.portal_was_killed = False

        if not wait_for(self._accepts, END_SECONDS):
            raise RuntimeError(f"the portal does not start; see {self.errors}")

    def _accepts(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self._port), 1.0).close()
            return True
        return False

    def see_that_the_portal_is_up(self) -> None:
        """Start an own portal that was killed, also if it is still dying."""
        if self.url and (self.portal_was_killed or not self._accepts()):
            kill(self.portal_pid)
            wait_for(lambda: state_of(self.portal_pid) in ("", "Z"), END_SECONDS)
            self.reap()
            self.start_portal()

    def referee(self) -> Referee:
        """One that reads this scene's portal."""
        if self.url:
            self.see_that_the_portal_is_up()
            body = json.dumps({"username": USER, "password": PASSWORD}).encode()
            request = urllib.request.Request(
                f"{self.url}/api/token/obtain/", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as reply:
                cookies = [value for name, value in reply.getheaders() if name.lower() == "set-cookie"]
            token = next(one.split(";")[0].partition("=")[2] for one in cookies if one.startswith("access_token="))
            return Referee(self.url, token)
        path = self.directory / "token"

        def ask() -> None:
            from seclea.cli.pipeline import portal_token

            path.write_text(portal_token(self.home), "utf-8")

        self.run("token", ask)
        address = json.loads((self.home.portal / "address.json").read_text("utf-8"))["url"]
        return Referee(address, path.read_text("utf-8"))

    # -- processes -----------------------------------------------------------------------------------------------

    def start_client(self, kind: type[Life] = Life) -> int:
        """One more client, with the next seed."""
        self.lives += 1
        notes = self.directory / f"notes-{self.lives:05d}"
        notes.touch()
        pid = start(lambda: kind(notes, self.stop_file, self.seed * 100_000 + self.lives, self.url).live(), self.errors)
        self.clients[pid] = notes
        return pid

    def reap(self) -> None:
        """Wait for all that ended; a client ends with 0 or by our hand."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            notes = self.clients.pop(pid, None)
            if notes is not None and status not in (0, signal.SIGKILL):
                self.wrong.append(f"client {notes.name} ended with {status}; see {self.errors}")

    def who(self) -> dict[str, list[int]]:
        """Everybody who lives, by role: client, child (of one), writer, sender, portal."""
        found: dict[str, list[int]] = {name: [] for name in ("client", "child", "writer", "sender", "portal")}
        for pid in descendants_of(os.getpid()):
            if state_of(pid) in ("", "Z", "X"):
                continue
            if pid in self.clients:
                found["client"].append(pid)
            elif pid == self.portal_pid:
                found["portal"].append(pid)
            else:
                found.setdefault(module_of(pid) or "child", []).append(pid)
        return found

    def run(self, what: str, work: Callable[[], None], seconds: float = 0.0) -> bool:
        """Do something in a process of its own; whether it ended well in time. Else it is wrong."""
        seconds = seconds or END_SECONDS
        pid = start(work, self.errors)
        deadline = time.monotonic() + seconds
        while True:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                if status:
                    self.wrong.append(f"{what} ended with {status}; see {self.errors}")
                return not status
            if time.monotonic() > deadline:
                self.wrong.append(f"{what} hangs: not done within {seconds:g} s")
                kill(pid)
                os.waitpid(pid, 0)
                return False
            time.sleep(0.005)

    # -- the end -------------------------------------------------------------------------------------------------

    def stop_clients(self) -> None:
        """Have them end by themselves; who does not has hung."""
        self.stop_file.touch()

        def ended() -> bool:
            self.reap()
            who = self.who()
            return not who["client"] and not who["child"]

        if not wait_for(ended, END_SECONDS):
            for pid in [*self.who()["client"], *self.who()["child"]]:
                name = self.clients[pid].name if pid in self.clients else f"a child, pid {pid}"
                self.wrong.append(f"hangs: {name} did not end within {END_SECONDS:g} s\n{_stack(pid)}")
                kill(pid)
            wait_for(ended, END_SECONDS)

    def kill_all(self, *spared: int) -> None:
        """Everybody at once, and those who were just being started."""

        def none_left() -> bool:
            self.reap()
            left = [pid for pids in self.who().values() for pid in pids if pid not in spared]
            self.portal_was_killed = self.portal_was_killed or self.portal_pid in left
            return not [kill(pid) for pid in left]

        if not wait_for(none_left, END_SECONDS):
            self.wrong.append("processes come again and again though all are killed")

    def deliver(self) -> None:
        """Have everything delivered by a fresh client."""
        self.see_that_the_portal_is_up()
        path = self.directory / "left"

        def complete() -> None:
            from seclea import SecleaAI

            where = {"organization": "Acme", "platform_url": self.url} if self.url else {}
            left = SecleaAI("chaos", **where).complete(DELIVER_SECONDS)
            path.write_text("" if left.done else f"pending {left.pending}, {left}", "utf-8")

        if self.run("complete", complete, DELIVER_SECONDS + END_SECONDS) and (left := path.read_text("utf-8")):
            self.wrong.append(f"not delivered: {left}")

    def told(self) -> list[Told]:
        """What all lives were told."""
        return [read_notes(path) for path in sorted(self.directory.glob("notes-*"))]

    def judge(self, level: str = "handed") -> None:
        """Let the referee judge all lives."""
        assert level in LEVELS
        referee = self.referee()
        lives = self.told()
        for life in lives:
            if life.run not in self.judged_apart:
                self.wrong += referee.judge(life, level)
        if level != "delivered":
            self.wrong += referee.judge_all(lives)
        referee.close()

    def stop(self, *, rings_were_lost: bool = False) -> None:
        """``seclea stop``; afterwards nobody and nothing is left."""

        def no_zombies() -> bool:
            self.reap()
            return not [pid for pid in descendants_of(os.getpid()) if state_of(pid) == "Z"]

        if not wait_for(no_zombies, 10.0):
            self.wrong.append("zombies are left: " + ", ".join(map(_family, descendants_of(os.getpid()))))

        def stop_all() -> None:
            from seclea.cli.pipeline import stop_all

            with contextlib.redirect_stdout(io.StringIO()):
                if stop_all(30.0, self.home):
                    raise SystemExit("seclea stop failed")

        self.run("stop", stop_all)
        if self.portal_pid:
            kill(self.portal_pid, signal.SIGTERM)

        def nobody() -> bool:
            self.reap()
            return not any(self.who().values())

        if not wait_for(nobody, 10.0):
            self.wrong.append(f"left after seclea stop: { {name: pids for name, pids in self.who().items() if pids} }")
        self.wrong += self.leftovers(rings_were_lost)

    def leftovers(self, rings_were_lost: bool) -> list[str]:
        """Files that nobody needs any more. What a client wrote whose ring was taken away is kept for an hour."""
        home = self.home
        places = {
            "damaged ledgers, which a kill does not make": [home.damaged],
            "rings": [home.rings, home.shared_rings],
            "spool": [home.chunks] if rings_were_lost else [home.incoming, home.making, home.chunks],
            "runtime directory": [self.directory / "run"],
        }
        found = []
        for name, roots in places.items():
            left = [path for root in roots if root.exists() for path in root.rglob("*") if not path.is_dir()]
            if left:
                some = ", ".join(str(path.relative_to(path.parents[1])) for path in left[:5])
                found.append(f"left in the {name}: {some} ({len(left)})")
        return found

    def close(self) -> None:
        """Whatever is left is ended and removed, but for the directory."""
        self.kill_all()
        shutil.rmtree(self.home.shared_rings, ignore_errors=True)


def _portal(arguments: list[str], said: str = "") -> None:
    from seclea.portal import cli

    sys.stdin = io.StringIO(said)
    with contextlib.redirect_stdout(io.StringIO()):
        if cli.main(arguments):
            raise SystemExit(f"seclea portal {arguments[0]} {arguments[1]} failed")


def _family(pid: int) -> str:
    """A process and its children, for a message."""
    return f"{pid} {module_of(pid)} {state_of(pid)} (children {children_of(pid)})"


def _stack(pid: int) -> str:
    """Where a process stands, as far as py-spy or the kernel says."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return f"  {Path(f'/proc/{pid}/wchan').read_text()} {Path(f'/proc/{pid}/syscall').read_text()}"
    return ""


def isolated(work: Callable[[Path], dict[str, Any]], directory: Path) -> int:
    """Fork a process for a scene in ``directory``; what ``work`` gives is written there, as ``result.json``."""

    def all_of_it() -> None:
        os.setsid()
        result = work(directory)
        part = directory / "result.part"
        part.write_text(json.dumps(result), "utf-8")
        part.rename(directory / "result.json")

    return start(all_of_it, directory / "scene.err")
