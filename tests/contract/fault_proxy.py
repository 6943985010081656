"""A TCP proxy that breaks what passes through it, request by request, in front of a scripted portal or the real one.

Rule 1  Each request is read whole before the proxy decides, by `FaultProxy.rule`, what becomes of it and of its reply. So
        a byte k can be hit exactly, and a reply be lost after the portal has certainly acted.
Rule 2  What takes its time on a line goes piece by piece. How long (`Trouble.delay_seconds`, `bytes_per_second`) is said
        to `FaultProxy.wait`, which sleeps; a test puts there what moves a virtual clock, or waits for something to
        happen. `Trouble.before_piece` says when the next piece of a reply goes.
Rule 3  `down`, `deaf` and `up` are the whole machine: refused connections, or ones that never come about.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.contract.fault_portal import Asked, unused_port

_RECEIVE_BYTES = 65536
_PACKET_BYTES = 1400
Certificate = tuple[Path, Path]


@dataclass(frozen=True)
class Trouble:
    """What becomes of one request and its reply. As it stands here: nothing in particular.

    Attributes:
        request_bytes: so many bytes of the request reach the portal, then both connections are reset.
        reply_bytes: the portal's whole reply is awaited; so many bytes of it reach the client (below zero: all
            but so many), then reset. 0: the reply is lost after the portal has acted.
        answer: bytes that the client gets in place of the portal's reply, after which the connection is closed.
        interim: bytes that the client gets before the reply.
        then: further bytes, sent when the client's next request is here (and in place of its reply).
        reaches_portal: whether the portal gets the request where the client gets an ``answer`` or nothing.
        silent: the client hears nothing until it hangs up (a half-open connection).
        piece_bytes: how many bytes go at once, of the request and of the reply; 0: all, or a packet's worth of them
            where `bytes_per_second` is set.
        delay_seconds: before each piece, of the request and of the reply.
        bytes_per_second: how fast each goes; 0: at once.
        before_piece: called before each piece of the reply.
    """

    request_bytes: int | None = None
    reply_bytes: int | None = None
    answer: bytes | None = None
    interim: bytes = b""
    then: bytes | None = None
    reaches_portal: bool = True
    silent: bool = False
    piece_bytes: int = 0
    delay_seconds: float = 0.0
    bytes_per_second: float = 0.0
    before_piece: Callable[[], None] | None = None


RESET = Trouble(request_bytes=0)
LOST = Trouble(reply_bytes=0)
SILENT = Trouble(silent=True)
Rule = Callable[[Asked], Trouble | None]


def http(status: int, body: bytes = b"", **headers: str) -> bytes:
    """A reply as bytes, after which the connection ends. ``headers``: underscores stand for hyphens."""
    given = {"Connection": "close", **{name.replace("_", "-"): value for name, value in headers.items()}}
    known = {name.lower() for name in given}
    if "content-type" not in known:
        given["Content-Type"] = "application/json"
    if "content-length" not in known and "transfer-encoding" not in known:
        given["Content-Length"] = str(len(body))
    lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class FaultProxy:
    """The proxy. ``asked`` holds every request that came, ``close`` leaves no thread and no socket.

    Attributes:
        rule: what becomes of a request.
        wait: lets the seconds pass that a piece takes on its way; returns at the latest when the proxy is closed.
    Args:
        portal: host and port of what is behind it.
        certificate: (chain, key) to speak TLS with; `certificate` may be changed, for connections from then on.
    """

    def __init__(self, portal: tuple[str, int], certificate: Certificate | None = None) -> None:
        self.portal = portal
        self.certificate = certificate
        self.rule: Rule = lambda _: None
        self.asked: list[Asked] = []
        self.troubled = 0
        self._gone = threading.Event()
        self.wait: Callable[[float], object] = self._gone.wait
        self._lock = threading.Lock()
        self._closed = threading.Condition(self._lock)  # a connection was
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._fillers: list[socket.socket] = []
        self._closing = False
        self._accepts = False
        self._is_up = threading.Event()
        self.port = unused_port()
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # To a number of our choice: Linux keeps such a port while the socket does not listen.
        self._listener.bind(("127.0.0.1", self.port))
        self.up()
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    # -- the machine ---------------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Take connections."""
        self._close_fillers()
        self._listener.listen(128)
        self._is_up.set()

    def down(self) -> None:
        """Reset what there is and refuse connections."""
        with self._closed:
            self._is_up.clear()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # on Linux: listens no more, and stays bound
        with self._closed:
            # Who is still in accept() would go on there if it listened again.
            assert self._closed.wait_for(lambda: not self._accepts, 10), "connections are still accepted"
        self.drop()

    def deaf(self) -> None:
        """Reset what there is; connections do not come about: a listener whose backlog is full answers no further SYN."""
        self.down()
        self._listener.listen(0)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)

    def drop(self) -> None:
        """Reset every connection; returns when they are gone, so that the next request finds none."""
        with self._closed:
            for connection in self._open:
                _reset(connection)
            assert self._closed.wait_for(lambda: not self._open, 10), "a connection does not end"

    def count(self, method: str, path: str) -> int:
        """Requests that came there."""
        return sum((asked.method, asked.path) == (method, path) for asked in self.asked)

    def close(self) -> None:
        """Leave nothing."""
        self._closing = True
        self._gone.set()
        self.down()
        self._is_up.set()
        self._acceptor.join()
        self._listener.close()
        self._close_fillers()
        for thread in self._threads:
            thread.join()

    def _close_fillers(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()

    # -- connections ---------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            with self._closed:
                self._accepts = False
                self._closed.notify_all()
            self._is_up.wait()
            if self._closing:
                return
            with self._closed:
                self._accepts = self._is_up.is_set()
            if not self._accepts:
                continue
            try:
                connection, _ = self._listener.accept()
            except OSError:
                continue  # down just now
            with self._lock:
                self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        ends = [client]
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*self.certificate)
                ends.append(context.wrap_socket(client, server_side=True))  # which takes the socket's descriptor away
                client = ends[-1]
                with self._lock:
                    self._open.add(client)
            portal = socket.socket()
            ends.append(portal)
            portal.connect(self.portal)
            portal.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open.add(portal)
            self._pass_on(client, portal)
        except OSError:
            pass  # one of the ends went away: so does the other
        finally:
            for end in ends:
                end.close()
            with self._closed:
                self._open.difference_update(ends)
                self._closed.notify_all()

    def _pass_on(self, client: socket.socket, portal: socket.socket) -> None:
        pending: bytes | None = None
        while True:
            request = _read_message(client, is_reply=False)
            if request is None:
                return
            asked = _parse(request)
            with self._lock:
                self.asked.append(asked)
            if pending is not None:
                client.sendall(pending)
                return
            trouble = self.rule(asked)
            if trouble is None:
                trouble = Trouble()
            else:
                self.troubled += 1
            if trouble.request_bytes is not None:
                portal.sendall(request[: trouble.request_bytes])
                _reset(portal, client)
                return
            reply: bytes | None = b""
            if trouble.reaches_portal:
                for piece in self._pieces(request, trouble):
                    portal.sendall(piece)
                reply = _read_message(portal, is_reply=True, has_body=asked.method != "HEAD")
            if trouble.silent:
                client.recv(1)
                return
            if reply is None:  # the portal went away
                _reset(client)
                return
            if trouble.answer is not None:
                reply = trouble.answer
            if trouble.reply_bytes is not None:
                client.sendall(reply[: trouble.reply_bytes])
                _reset(client, portal)
                return
            for piece in self._pieces(trouble.interim + reply, trouble):
                if trouble.before_piece is not None:
                    trouble.before_piece()
                client.sendall(piece)
            pending = trouble.then
            if trouble.answer is not None and pending is None:
                return

    def _pieces(self, message: bytes, trouble: Trouble) -> Iterator[bytes]:
        """The message piece by piece, each at its time."""
        rate = trouble.bytes_per_second
        size = trouble.piece_bytes or (_PACKET_BYTES if rate else max(len(message), 1))
        for start in range(0, len(message), size):
            piece = message[start : start + size]
            if seconds := trouble.delay_seconds + (len(piece) / rate if rate else 0.0):
                self.wait(seconds)
            yield piece


@contextlib.contextmanager
def fault_proxy(url: str, certificate: Certificate | None = None) -> Iterator[FaultProxy]:
    """A proxy in front of the portal at ``url``."""
    parts = urlsplit(url)
    proxy = FaultProxy((str(parts.hostname), int(parts.port or 80)), certificate)
    try:
        yield proxy
    finally:
        proxy.close()


# ------------------------------------------------------------------------------------------------------------------


def _reset(*connections: socket.socket) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):
            # A linger of zero sends RST instead of FIN when it is closed; the shutdown wakes whoever reads from it.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RD)


def _read_message(connection: socket.socket, *, is_reply: bool, has_body: bool = True) -> bytes | None:
    """One request or reply, head and body; None at the end of the connection."""
    read = b""
    while b"\r\n\r\n" not in read:
        received = connection.recv(_RECEIVE_BYTES)
        if not received:
            return None
        read += received
    head, _, body = read.partition(b"\r\n\r\n")
    headers = _headers(head)
    status = int(head.split(b" ", 2)[1]) if is_reply else 0
    if not has_body or status in (204, 304) or 100 <= status < 200:
        return read
    parts, size = [body], len(body)
    if "chunked" in headers.get("transfer-encoding", ""):
        while not b"".join(parts).endswith(b"0\r\n\r\n"):
            parts.append(connection.recv(_RECEIVE_BYTES))
    else:
        while size < int(headers.get("content-length", 0)):
            received = connection.recv(_RECEIVE_BYTES)
            if not received:
                return None
            parts.append(received)
            size += len(received)
    return head + b"\r\n\r\n" + b"".join(parts)


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _parse(request: bytes) -> Asked:
    head, _, body = request.partition(b"\r\n\r\n")
    method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    parts = urlsplit(target)
    return Asked(method, parts.path, parse_qs(parts.query), _headers(head), body)
