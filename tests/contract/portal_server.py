"""A real portal process over real sockets, and a small client of the wire that shares no code with the pipeline."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

ROOT = Path(__file__).parents[2]


class PortalServer:
    """A portal of one data folder; `start` it as often as you like."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self.data = data
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None
        self.address: dict[str, Any] = {}
        self._sessions: list[requests.Session] = []

    def start(self, timeout: float = 30.0) -> PortalServer:
        self.log = self.data.with_name(self.data.name + ".log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT)
        wait_until(self._is_up, timeout, f"the portal did not start: {self.log.read_text()[-2000:]}")
        return self

    def command(self) -> list[str]:
        return [sys.executable, "-m", "seclea.portal", "--data", str(self.data), *self.arguments]

    def _is_up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the portal left with {self.process.returncode}: {self.log.read_text()[-2000:]}")
        try:
            self.address = json.loads((self.data / "address.json").read_text())
        except (FileNotFoundError, ValueError):
            return False
        return bool(self.address["pid"] == self.process.pid)

    @property
    def url(self) -> str:
        url: str = self.address["url"]
        return url

    def owner(self) -> Session:
        """A session over the unix socket."""
        session = Session("http://portal")
        session.mount("http://portal", UnixAdapter(self.address["socket"]))
        self._sessions.append(session)
        return session

    def tcp(self) -> Session:
        """A session over TCP, not logged in."""
        session = Session(self.url)
        self._sessions.append(session)
        return session

    def login(self, username: str, password: str = "correct horse") -> Session:
        session = self.tcp()
        reply = session.post("/api/token/obtain/", json={"username": username, "password": password})
        assert reply.status_code == 200, reply.text
        return session

    def add_member(self, username: str, organization: str, password: str = "correct horse") -> Session:
        """Make an organisation (unless it is there) and a user of it, logged in over TCP."""
        owner = self.owner()
        owner.post("/internal/organizations", json={"name": organization})
        made = owner.post(
            "/internal/users", json={"name": username, "password": password, "organization": organization}
        )
        assert made.status_code == 201, made.text
        return self.login(username, password)

    def stop(self, timeout: float = 10.0) -> int:
        assert self.process is not None
        self.close_sessions()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.close_sessions()

    def close_sessions(self) -> None:
        for session in self._sessions:
            session.close()
        self._sessions.clear()

    def close(self) -> None:
        self.close_sessions()
        if self.process is not None and self.process.poll() is None:
            self.kill()
        if self.address:
            Path(self.address["socket"]).unlink(missing_ok=True)  # of one that was killed


@contextlib.contextmanager
def running_portal(data: Path, *arguments: str) -> Iterator[PortalServer]:
    server = PortalServer(data, *arguments)
    try:
        yield server.start()
    finally:
        server.close()


class Session(requests.Session):
    """A session with a base address."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base
        self.trust_env = False

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        address = str(url) if str(url).startswith("http") else self.base + str(url)
        kwargs.setdefault("timeout", 30)
        return super().request(method, address, *args, **kwargs)


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("portal")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(self._path)


class _UnixPool(HTTPConnectionPool):
    def __init__(self, path: str) -> None:
        super().__init__("portal", maxsize=8)
        self._path = path

    def _new_conn(self) -> _UnixConnection:
        return _UnixConnection(self._path)


class UnixAdapter(HTTPAdapter):
    """requests over a unix socket."""

    def __init__(self, path: str) -> None:
        self._pool = _UnixPool(path)
        super().__init__(max_retries=urllib3.Retry(total=0))

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        return self._pool

    def close(self) -> None:
        self._pool.close()
        super().close()


# ------------------------------------------------------------------------------------------------------------ wire


class Stream:
    """One stream as docs/wire.md has it, written down a second time."""

    def __init__(self, session: Session, organization: str, stream: str | None = None) -> None:
        self.session = session
        self.organization = organization
        self.id = stream or str(uuid.uuid4())
        self.heads: dict[str, tuple[int, bytes]] = {}

    def headers(
        self, lane: str, kind: str, digest: bytes, *, count: int = 1, suffix: str = "", first: int | None = None
    ) -> dict[str, str]:
        """The headers of the next record; does not move the head."""
        sequence, chain = self.heads.get(lane, (0, bytes(32)))
        first = sequence + 1 if first is None else first
        last = first + count - 1
        after = hashlib.sha256(
            b"seclea-chain-v1\n"
            + chain
            + uuid.UUID(self.id).bytes
            + lane.encode()
            + b"\n"
            + struct.pack(">QQ", first, last)
            + kind.encode()
            + b"\n"
            + digest
        )
        self._next = (lane, last, after.digest())
        return {
            "Seclea-Stream": self.id,
            "Seclea-Lane": lane,
            "Seclea-Sequence": str(first) if count == 1 else f"{first}-{last}",
            "Seclea-Chain": after.hexdigest(),
            "Idempotency-Key": f"{uuid.UUID(self.id).hex}.{lane}.{first}{suffix}",
        }

    def advance(self) -> None:
        """Move the head over the record whose headers were made last."""
        lane, last, chain = self._next
        self.heads[lane] = (last, chain)

    def send(self, lane: str, kind: str, path: str, body: dict[str, Any]) -> requests.Response:
        """Send a JSON record and move on if it was taken."""
        raw = canonical(body)
        headers = self.headers(lane, kind, hashlib.sha256(raw).digest())
        reply = self.post(path, raw, headers)
        if reply.status_code == 201:
            self.advance()
        return reply

    def post(self, path: str, raw: bytes, headers: dict[str, str]) -> requests.Response:
        mark = "&" if "?" in path else "?"
        headers = {"Content-Type": "application/json", **headers}
        return self.session.post(f"{path}{mark}organization={self.organization}", data=raw, headers=headers)

    def send_metrics(
        self, run: str, calls: Sequence[dict[str, float]], *, rank: int = 0, step: int = 0
    ) -> requests.Response:
        """Send log calls as one batch and move on if it was taken."""
        sequence, _ = self.heads.get("ordered", (0, b""))
        raw = pack(run, sequence + 1, calls, rank=rank, step=step)
        headers = self.headers("ordered", "metrics", hashlib.sha256(raw).digest(), count=len(calls))
        reply = self.post("/collection/metrics", raw, {**headers, "Content-Type": "application/msgpack"})
        if reply.status_code == 201:
            self.advance()
        return reply


def canonical(body: Any) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def pack(run: str, first: int, calls: Sequence[dict[str, float]], *, rank: int = 0, step: int = 0) -> bytes:
    """A batch of metrics: one mapping per log call, steps counted from ``step``."""
    keys: list[str] = []
    columns: dict[str, Any] = {
        "sequence": array("I"),
        "key": array("H"),
        "step": array("q"),
        "time": array("q"),
        "value": array("d"),
    }
    for offset, call in enumerate(calls):
        for key, value in call.items():
            if key not in keys:
                keys.append(key)
            row = (offset, keys.index(key), step + offset, 1_700_000_000_000_000_000 + offset, value)
            for column, item in zip(columns.values(), row, strict=True):
                column.append(item)
    body = {"v": 1, "run": run, "rank": rank, "first": first, "last": first + len(calls) - 1, "keys": keys}
    packed: bytes = msgpack.packb(
        {**body, "count": len(columns["value"]), **{name: column.tobytes() for name, column in columns.items()}}
    )
    return packed


def upload(session: Session, organization: str, body: bytes, cut: int = 1 << 20) -> dict[str, Any]:
    """Put the chunks of a payload; what a create says of it."""
    chunks = []
    for start in range(0, len(body), cut):
        part = body[start : start + cut]
        name = hashlib.sha256(part).hexdigest()
        reply = session.put(f"/collection/chunks/{name}?organization={organization}", data=part)
        assert reply.status_code in (200, 201), reply.text
        chunks.append([name, len(part)])
    return {"chunks": chunks, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def wait_until(condition: Any, timeout: float, message: str) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.01)


def is_root() -> bool:
    return os.geteuid() == 0
