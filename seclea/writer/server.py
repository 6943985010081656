"""The writer's side of the home's socket: bells, flushes, questions. One thread, non-blocking; nobody can hold it up."""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from seclea.contract import PROTOCOL_VERSION, Home
from seclea.processes.rendezvous import MessageBuffer, encode, is_same_user, listen

log = logging.getLogger(__name__)

_IDLE_SECONDS = 30.0  # a connection that says nothing for this long is closed
_MAX_CONNECTIONS = 900
_LOOK_SECONDS = 1.0  # between two looks whether the socket can still be found
_DEAF_SECONDS = 0.5  # out of descriptors: whoever knocks waits in the backlog meanwhile
_ANSWER_SECONDS = 30.0  # where the asker names no time of its own

# (message) -> the answer, or None when it has to wait: then it is asked again after every step.
Handler = Callable[[dict[str, Any]], dict[str, Any] | None]


@dataclass(slots=True)
class _Peer:
    connection: socket.socket
    heard_at: float
    buffer: MessageBuffer = field(default_factory=MessageBuffer)
    waiting: dict[str, Any] | None = None
    deadline: float = 0.0


class Server:
    """Listens on the home's socket and hands messages to ``handler``."""

    def __init__(self, home: Home, handler: Handler) -> None:
        self._home = home
        self._handler = handler
        self._selector = selectors.DefaultSelector()
        self._peers: dict[int, _Peer] = {}
        self.bells = 0
        self._deaf_until: float | None = None
        self._listen()

    def _listen(self) -> None:
        self._listener = listen(self._home)
        self._path = self._home.socket  # another one later, when the runtime directory goes at a logout
        self._next_look = time.monotonic() + _LOOK_SECONDS
        self._selector.register(self._listener, selectors.EVENT_READ)

    def stay_found(self) -> None:
        """Listen anew when the socket's file is gone, with the runtime directory of a login session perhaps."""
        now = time.monotonic()
        if now < self._next_look or self._deaf_until is not None:
            return
        self._next_look = now + _LOOK_SECONDS
        if not self._path.exists():
            log.warning("the socket %s is gone: listening anew", self._path)
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listen()

    def hand_over(self, handler: Handler) -> None:
        """From now on ``handler`` answers, also those who wait already."""
        self._handler = handler

    @property
    def is_asked(self) -> bool:
        """Whether somebody waits for an answer."""
        return any(peer.waiting for peer in self._peers.values())

    def poll(self, timeout_seconds: float) -> None:
        """Wait for at most ``timeout_seconds``, then handle what came."""
        if self._deaf_until is not None:
            timeout_seconds = min(timeout_seconds, _DEAF_SECONDS)
            if time.monotonic() >= self._deaf_until:
                self._deaf_until = None
                self._selector.register(self._listener, selectors.EVENT_READ)
        for key, _ in self._selector.select(timeout_seconds):
            if key.fileobj is self._listener:
                self._accept()
            else:
                self._read(self._peers[key.fd])
        now = time.monotonic()
        for peer in list(self._peers.values()):
            if peer.waiting is not None:
                self._answer(peer)
            elif now - peer.heard_at > _IDLE_SECONDS:
                self._drop(peer)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # out of descriptors: those who ring come again
                log.warning("a connection cannot be taken: %s", error)
                # The listener stays readable: without this pause we would ask again at once, for ever.
                with contextlib.suppress(KeyError):
                    self._selector.unregister(self._listener)
                self._deaf_until = time.monotonic() + _DEAF_SECONDS
                return
            self.bells += 1
            if len(self._peers) >= _MAX_CONNECTIONS or not is_same_user(connection):
                connection.close()
                continue
            connection.setblocking(False)
            self._peers[connection.fileno()] = _Peer(connection, time.monotonic())
            self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.connection.recv(65536)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._drop(peer)
            return
        peer.heard_at = time.monotonic()
        try:
            messages = peer.buffer.feed(data)
        except ValueError as error:
            log.warning("a malformed message: %s", error)
            self._drop(peer)
            return
        for message in messages:
            if message.get("v") != PROTOCOL_VERSION:
                self._send(peer, {"error": f"This writer speaks version {PROTOCOL_VERSION}, not {message.get('v')}."})
                continue
            peer.waiting = message
            peer.deadline = time.monotonic() + _seconds(message.get("timeout"))
            self._answer(peer)

    def _answer(self, peer: _Peer) -> None:
        assert peer.waiting is not None
        try:
            reply = self._handler(peer.waiting)
        except Exception as error:  # a bad question must not end the writer
            log.exception("a message cannot be handled: %r", peer.waiting.get("op"))
            reply = {"error": f"{type(error).__name__}: {error}"}
        if reply is None and time.monotonic() > peer.deadline:
            reply = {"timeout": True}
        if reply is not None:
            peer.waiting = None
            self._send(peer, reply)

    def _send(self, peer: _Peer, message: dict[str, Any]) -> None:
        try:
            peer.connection.settimeout(1.0)  # answers are small; a peer that does not read is not waited for
            peer.connection.sendall(encode(message))
            peer.connection.setblocking(False)
        except OSError:
            self._drop(peer)

    def _drop(self, peer: _Peer) -> None:
        self._peers.pop(peer.connection.fileno(), None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(peer.connection)
        peer.connection.close()

    def unbind(self) -> None:
        """Take no more connections; what was accepted is kept until `close`."""
        self._accept()
        with contextlib.suppress(KeyError):  # deaf just now
            self._selector.unregister(self._listener)
        self._deaf_until = None
        self._listener.close()
        for path in (self._path, self._home.socket_link):
            path.unlink(missing_ok=True)

    def bind_again(self) -> None:
        """Go on after `unbind`."""
        self._listen()

    def close(self) -> None:
        """Close everything."""
        for peer in list(self._peers.values()):
            self._drop(peer)
        self._selector.close()


def _seconds(timeout: object) -> float:
    """How long somebody waits for an answer; whatever a message says."""
    return min(timeout, 86_400.0) if isinstance(timeout, int | float) and timeout > 0 else _ANSWER_SECONDS
