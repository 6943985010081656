"""A portal that answers what it is told to, over real sockets: TCP, TLS or a unix socket.

Replies are scripted per method and path; the last one of a script repeats. Nothing here waits for time to pass: faults are
a reset, a body cut short, an answer that never comes (until the portal is closed), or a reply lost after the commit.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

CAPABILITIES = {
    "version": "1",
    "extensions": ["chunks", "metrics", "receipts", "streams", "tombstones", "finish", "content"],
    "encodings": ["gzip", "identity"],
    "limits": {"body_bytes": 1 << 24, "chunk_bytes": 1 << 24, "chunks": 65536},
}
LISTS = ("projects", "models", "datasets", "dataset-transformations", "model-states", "training-runs")
ORGANIZATION = "01900000-0000-7000-8000-0000000000aa"


class Fault(Enum):
    """What happens instead of an answer."""

    NONE = "answer"
    RESET = "reset before a byte of the answer"
    TRUNCATED = "the body stops half way"
    LOST = "acted upon, then reset"
    STALLED = "no answer until the portal is closed"


@dataclass(frozen=True)
class Answer:
    """One scripted reply. ``body``: bytes as they are, anything else as JSON. ``act`` runs first, with the request."""

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)
    fault: Fault = Fault.NONE
    act: Callable[[Asked], None] | None = None


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def cookies(self) -> dict[str, str]:
        pairs = (item.partition("=") for item in self.headers.get("cookie", "").split("; ") if item)
        return {name: value for name, _, value in pairs}


Script = Answer | Callable[[Asked], Answer]


def page(title: str = "Please log in") -> Answer:
    """The page of a captive portal: 200, and nothing of ours."""
    return Answer(200, f"<html><title>{title}</title></html>".encode(), {"Content-Type": "text/html"})


def receipted(asked: Asked) -> Answer:
    """What a portal of the extensions answers to a record: the object, and the receipt for just this record."""
    receipt = {
        "stream": asked.headers["seclea-stream"],
        "lane": asked.headers["seclea-lane"],
        "sequence": int(asked.headers["seclea-sequence"].rpartition("-")[2]),
        "chain": asked.headers["seclea-chain"],
    }
    is_json = asked.headers["content-type"] == "application/json"
    uuid = asked.json.get("uuid") if is_json and "content-encoding" not in asked.headers else None
    return Answer(201, {"uuid": uuid, "receipt": receipt})


class FaultPortal:
    """The server. `on` writes scripts, `asked` holds what came; `close` leaves no thread and no socket."""

    def __init__(self, unix_socket: Path | None = None, certificate: tuple[Path, Path] | None = None) -> None:
        self.asked: list[Asked] = []
        self.connections = 0  # that were accepted, ever
        self.closing = threading.Event()
        self.unix_socket = unix_socket
        self._scripts: dict[tuple[str, str], list[Script]] = {}
        self._lock = threading.Lock()
        self._server = _UnixServer(self, unix_socket) if unix_socket else _Server(self)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.tls = context
        scheme = "https" if certificate is not None else "http"
        self.url = "http://localhost" if unix_socket else f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def on(self, method: str, path: str, *script: Script) -> FaultPortal:
        """What to answer there, in order; the last one for ever."""
        with self._lock:
            self._scripts[method, path] = list(script)
        return self

    def extended(self) -> FaultPortal:
        """Speak the extensions, and acknowledge every record that has no other script."""
        self.on("GET", "/api/capabilities", Answer(200, CAPABILITIES))
        for name in LISTS:
            self.on("GET", f"/collection/{name}", Answer(200, []))
        for name in ("projects", "models", "datasets", "dataset-transformations", "training-runs", "model-states"):
            self.on("POST", f"/collection/{name}", receipted)
        for name in ("metrics", "tombstones"):
            self.on("POST", f"/collection/{name}", receipted)
        return self

    def base_only(self) -> FaultPortal:
        """Be an older deployment: no capabilities, no streams, lists that are empty."""
        self.on("GET", "/api/capabilities", Answer(404, {"detail": "Not found."}))
        self.on("GET", "/organization/", Answer(200, [{"uuid": ORGANIZATION, "name": "Acme"}]))
        for name in LISTS:
            self.on("GET", f"/collection/{name}", Answer(200, []))
        return self

    def count(self, method: str, path: str) -> int:
        """Requests that came there."""
        return sum(asked.method == method and asked.path == path for asked in self.asked)

    def last(self, method: str, path: str) -> Asked:
        """The latest request there."""
        return next(asked for asked in reversed(self.asked) if (asked.method, asked.path) == (method, path))

    def answer_to(self, asked: Asked) -> Answer:
        with self._lock:
            self.asked.append(asked)
            script = self._scripts.get((asked.method, asked.path))
            if not script:
                return Answer(404, {"detail": f"nothing is scripted for {asked.method} {asked.path}"})
            step = script.pop(0) if len(script) > 1 else script[0]
        return step if isinstance(step, Answer) else step(asked)

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.drop_connections()
        self._server.server_close()  # joins the handlers
        self._thread.join()


@contextmanager
def fault_portal(
    unix_socket: Path | None = None, certificate: tuple[Path, Path] | None = None
) -> Iterator[FaultPortal]:
    portal = FaultPortal(unix_socket, certificate)
    try:
        yield portal
    finally:
        portal.close()


def unused_port() -> int:
    """A port where nobody listens (until somebody else takes it)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ------------------------------------------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    tls: ssl.SSLContext | None = None

    def __init__(self, portal: FaultPortal, address: Any = ("127.0.0.1", 0)) -> None:
        self.portal = portal
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = self.socket.accept()
        with self._open_lock:
            self.portal.connections += 1
            self._open.add(connection)
        return connection, address

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.tls is not None:
            with self._open_lock:
                self._open.discard(request)
            try:
                request = self.tls.wrap_socket(request, server_side=True)  # in the handler's thread
            except OSError:
                request.close()
                return
            with self._open_lock:
                self._open.add(request)
        try:
            super().finish_request(request, client_address)
        finally:
            with self._open_lock:
                self._open.discard(request)
            if self.tls is not None:
                request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away

    def drop_connections(self) -> None:
        with self._open_lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


class _UnixServer(_Server):
    address_family = socket.AF_UNIX

    def __init__(self, portal: FaultPortal, path: Path) -> None:
        super().__init__(portal, str(path))

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "localhost", 0

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, _ = super().get_request()
        return connection, ("unix", 0)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: apart, they would wait for each other's acknowledgement
    server: _Server

    def do_request(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, parts.path, parse_qs(parts.query), headers, self.rfile.read(length))
        answer = self.server.portal.answer_to(asked)
        if answer.act is not None:
            answer.act(asked)
        if answer.fault is Fault.STALLED:
            self.server.portal.closing.wait(60)
            self.close_connection = True
        elif answer.fault in (Fault.RESET, Fault.LOST):
            self._reset()
        else:
            self._answer(answer)

    do_GET = do_POST = do_PUT = do_HEAD = do_request

    def _answer(self, answer: Answer) -> None:
        is_raw = isinstance(answer.body, bytes)
        body = answer.body if is_raw else json.dumps(answer.body).encode()
        headers = {"Content-Type": "application/octet-stream" if is_raw else "application/json", **answer.headers}
        self.send_response(answer.status)
        for name, value in headers.items():
            self.send_header(name, value)
        for name, value in answer.cookies.items():
            self.send_header("Set-Cookie", f"{name}={value}; HttpOnly; Path=/; SameSite=Lax")
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if answer.fault is Fault.TRUNCATED:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        if self.connection.family == socket.AF_INET:
            # Closing with a linger of zero sends RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass
