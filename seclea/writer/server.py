"""The writer's side of the home's socket: bells, flushes, questions. One thread, non-blocking; nobody can hold it up.

Rule 1  Nobody is waited for: who does not read its answer is asked nothing more until it has, and one that says only half of
        a message is let go of after a while.
Rule 2  What strangers can make us keep is bounded: connections, the beginnings of messages, answers, lines in the log. At a
        bound the one goes that has been silent longest, so a newcomer is always heard.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from seclea.contract import PROTOCOL_VERSION, Home
from seclea.processes.rendezvous import MessageBuffer, encode, is_same_user, listen

log = logging.getLogger(__name__)

_IDLE_SECONDS = 30.0  # a connection that says nothing whole for this long is closed
_MAX_CONNECTIONS = 500  # with the rings of a large job, half of the descriptors that a process usually may have
_QUESTION_BYTES = 64 << 10  # one message; the largest that we send ourselves is a list of records
_UNFINISHED_BYTES = 1 << 20  # of all beginnings of messages together
_AHEAD = 8  # messages that a peer may send before it has its answers; ours wait for each
_TROUBLE_SECONDS = 10.0  # between two lines about messages that make no sense
_ERROR_CHARACTERS = 500  # of what we answer to one
_LOOK_SECONDS = 1.0  # between two looks whether the socket can still be found
_DEAF_SECONDS = 0.5  # out of descriptors: whoever knocks waits in the backlog meanwhile
_ANSWER_SECONDS = 30.0  # where the asker names no time of its own

# (message) -> the answer, or None when it has to wait: then it is asked again after every step.
Handler = Callable[[dict[str, Any]], dict[str, Any] | None]


@dataclass(slots=True)
class _Peer:
    connection: socket.socket
    heard_at: float
    buffer: MessageBuffer = field(default_factory=lambda: MessageBuffer(_QUESTION_BYTES))
    asked: deque[dict[str, Any]] = field(default_factory=deque)  # behind the one that waits
    waiting: dict[str, Any] | None = None
    deadline: float = 0.0
    answer: bytes = b""  # what it has yet to read


class Server:
    """Listens on the home's socket and hands messages to ``handler``."""

    def __init__(self, home: Home, handler: Handler) -> None:
        self._home = home
        self._handler = handler
        self._selector = selectors.DefaultSelector()
        self._peers: dict[int, _Peer] = {}
        self.bells = 0
        self._deaf_until: float | None = None
        self._next_trouble = 0.0
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
        return any(peer.waiting or peer.asked for peer in self._peers.values())

    def poll(self, timeout_seconds: float) -> None:
        """Wait for at most ``timeout_seconds``, then handle what came."""
        if self._deaf_until is not None:
            timeout_seconds = min(timeout_seconds, _DEAF_SECONDS)
            if time.monotonic() >= self._deaf_until:
                self._deaf_until = None
                self._selector.register(self._listener, selectors.EVENT_READ)
        for key, events in self._selector.select(timeout_seconds):
            if key.fileobj is self._listener:
                self._accept()
            elif (peer := self._peers.get(key.fd)) is not None and peer.connection is key.fileobj:
                self._write(peer) if events & selectors.EVENT_WRITE else self._read(peer)
        now = time.monotonic()
        for peer in list(self._peers.values()):
            if peer.waiting is None and peer.asked and not peer.answer:
                self._begin(peer)
            elif peer.waiting is not None:
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
            if not is_same_user(connection) or not self._has_place():
                connection.close()
                continue
            connection.setblocking(False)
            self._peers[connection.fileno()] = _Peer(connection, time.monotonic())
            self._selector.register(connection, selectors.EVENT_READ)

    def _has_place(self) -> bool:
        """Whether one more connection can be taken; the one that was silent longest goes for it, if none waits on us."""
        if len(self._peers) < _MAX_CONNECTIONS:
            return True
        silent = [peer for peer in self._peers.values() if peer.waiting is None and not peer.asked]
        if silent:
            self._drop(min(silent, key=lambda peer: peer.heard_at))
        return bool(silent)

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
        try:
            messages = peer.buffer.feed(data)
        except ValueError as error:
            self._say(f"a malformed message: {error}")
            self._drop(peer)
            return
        if messages:
            peer.heard_at = time.monotonic()
            peer.asked.extend(messages)
        if len(peer.asked) > _AHEAD:
            self._say("a peer asks without waiting for answers")
            self._drop(peer)
        elif peer.waiting is None and peer.asked:
            self._begin(peer)
        if len(peer.buffer):
            self._bound_beginnings()

    def _bound_beginnings(self) -> None:
        begun = sorted((peer for peer in self._peers.values() if len(peer.buffer)), key=lambda peer: peer.heard_at)
        left = sum(len(peer.buffer) for peer in begun)
        for peer in begun:
            if left <= _UNFINISHED_BYTES:
                return
            left -= len(peer.buffer)
            self._drop(peer)

    def _begin(self, peer: _Peer) -> None:
        """Take up a peer's next message."""
        message = peer.asked.popleft()
        if message.get("v") != PROTOCOL_VERSION:
            said = repr(message.get("v"))[:_ERROR_CHARACTERS]
            self._send(peer, {"error": f"This writer speaks version {PROTOCOL_VERSION}, not {said}."})
            return
        peer.waiting = message
        peer.deadline = time.monotonic() + _seconds(message.get("timeout"))
        self._answer(peer)

    def _answer(self, peer: _Peer) -> None:
        assert peer.waiting is not None
        try:
            reply = self._handler(peer.waiting)
        except Exception as error:  # a bad question must not end the writer
            self._say(f"a message cannot be handled: {peer.waiting.get('op')!r:.80}", error)
            reply = {"error": f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]}
        if reply is None and time.monotonic() > peer.deadline:
            reply = {"timeout": True}
        if reply is not None:
            peer.waiting = None
            self._send(peer, reply)

    def _send(self, peer: _Peer, message: dict[str, Any]) -> None:
        peer.answer = encode(message)
        self._write(peer)

    def _write(self, peer: _Peer) -> None:
        """Send what the peer takes; what is left goes when it has read that, and until then it is not read from."""
        try:
            peer.answer = peer.answer[peer.connection.send(peer.answer) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._drop(peer)
            return
        events = selectors.EVENT_WRITE if peer.answer else selectors.EVENT_READ
        if self._selector.get_key(peer.connection).events != events:
            self._selector.modify(peer.connection, events)

    def _say(self, what: str, error: Exception | None = None) -> None:
        """In the log; now and then, however many there are."""
        if (now := time.monotonic()) >= self._next_trouble:
            self._next_trouble = now + _TROUBLE_SECONDS
            log.warning("%s", what, exc_info=error)

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
