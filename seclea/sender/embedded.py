"""The home's own portal: found when it runs, started when it does not, told to stop when everything stops."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import socket
import subprocess
import threading
import time

from seclea.contract import Home
from seclea.processes.rendezvous import is_held, private_directory
from seclea.processes.spawn import spawn_detached

log = logging.getLogger(__name__)

_START_SECONDS = 30.0  # a cold start imports a web framework; a loaded machine takes its time
_LOOK_SECONDS = 0.05
_EXTRA = ("fastapi", "uvicorn", "sqlalchemy", "alembic", "jinja2", "jwt", "pwdlib")


def missing_parts() -> list[str]:
    """Packages of the portal extra that are not installed."""
    return [name for name in _EXTRA if importlib.util.find_spec(name) is None]


class EmbeddedPortal:
    """The portal of one home, behind its unix socket."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def is_up(self) -> bool:
        """Whether it answers right now."""
        return self._call("GET", "/internal/health") == 200

    def ensure(self, stopping: threading.Event) -> bool:
        """See that it runs; waits for its start. False when it does not come up."""
        with self._lock:
            if self.is_up():
                return True
            if self._child is None or self._child.poll() is not None:
                private_directory(self._home.portal)
                self._child = spawn_detached(
                    "seclea.portal",
                    [
                        "--data", os.fspath(self._home.portal),
                        "--socket", os.fspath(self._home.portal_socket),
                        "--embedded",
                        "--owner-lock", os.fspath(self._home.writer_lock),
                        "--logs", os.fspath(self._home.logs),
                    ],
                    self._home.logs / "portal.log",
                )  # fmt: skip
            deadline = time.monotonic() + _START_SECONDS
            while time.monotonic() < deadline and not stopping.is_set():
                if self.is_up():
                    return True
                if self._child.poll() is not None and not self.is_up():
                    log.error("the embedded portal ended with %d; see portal.log", self._child.returncode)
                    self._child = None
                    return False
                stopping.wait(_LOOK_SECONDS)
            return False

    def reap(self) -> None:
        """Let go of one that has ended. It may be another process that starts the next, and nobody else waits for ours."""
        if self._lock.acquire(blocking=False):  # else it is being started, and looked at
            try:
                if self._child is not None and self._child.poll() is not None:
                    log.info("the embedded portal ended with %d", self._child.returncode)
                    self._child = None
            finally:
                self._lock.release()

    def stop(self, timeout_seconds: float = 8.0) -> bool:
        """Have it leave, also while it is still starting; whether it is gone."""
        deadline = time.monotonic() + timeout_seconds
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                log.warning("the embedded portal takes its time to leave")
        lock = self._home.portal / "portal.lock"
        while is_held(lock):  # one that another process started
            if time.monotonic() > deadline:
                return False
            self._call("POST", "/internal/stop")  # nobody hears it while the portal is starting: asked again
            time.sleep(_LOOK_SECONDS)  # a poll with a deadline: a lock tells nobody of its end
        return True

    def make_organization(self, name: str) -> bool:
        """Make an organization there: the home's owner may name any."""
        return self._call("POST", "/internal/organizations", json.dumps({"name": name})) in (200, 201)

    def _call(self, method: str, path: str, body: str = "") -> int | None:
        """The status of a bare request over the unix socket; None when nobody answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(2.0)
            try:
                connection.connect(os.fspath(self._home.portal_socket))
                content = body.encode("utf-8")
                head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                head += f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
                connection.sendall(head.encode("ascii") + content)
                line = connection.recv(64).split(b" ", 2)
                return int(line[1])
            except (OSError, IndexError, ValueError):
                return None

    def address(self) -> str | None:
        """Its loopback address for browsers."""
        try:
            return str(json.loads((self._home.portal / "address.json").read_text("utf-8"))["url"])
        except (OSError, ValueError, KeyError):
            return None
