"""Replies as they come off the line: what trickles is given up, what is not the last word is passed over.

Rule 1  A timeout per receive does not end what sends one byte before each. So the whole reply, head and body, has one
        timeout plus the time that its bytes take at `MIN_BYTES_PER_SECOND`. What is checked is the time before each
        receive, so the end comes at most one timeout late.
Rule 2  Interim replies (102, 103) are passed over. http.client would take the first for the whole, and the portal's own
        reply, which comes after it, for that of the next request on the connection.
"""

from __future__ import annotations

import fcntl
import http
import http.client
import io
import select
import socket
import struct
import termios
import time
from typing import Any

MIN_BYTES_PER_SECOND = 512  # slower is an attack, or no line at all


class PacedResponse(http.client.HTTPResponse):
    """A reply read under such a limit, in the place of http.client's own."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._sock = sock

    def _read_status(self) -> tuple[str, int, str]:
        """Called by the base class, which passes over 100 itself."""
        while True:
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if not 100 < found[1] < 200 or found[1] == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return found
            http.client.parse_headers(self.fp)

    def begin(self) -> None:
        """Called by the connection, which closes the response where this fails."""
        timeout = self._sock.gettimeout()
        if timeout is not None:
            await_sent(self._sock, timeout)
            # At this point nothing has been read, so the buffer that is left behind is empty.
            self.fp = io.BufferedReader(_PacedReader(self.fp.detach(), timeout))
        super().begin()
        if self.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
            self.will_close = True  # we asked for no other protocol, and speak none


def await_sent(sock: socket.socket, timeout: float) -> None:
    """Wait until a reply begins, as long as the request still goes over the line.

    Raises:
        TimeoutError: nothing came, and nothing went, for ``timeout`` seconds.
    """
    waiting = select.poll()
    waiting.register(sock, select.POLLIN)
    before = unsent_bytes(sock)
    while not waiting.poll(1000 * timeout):
        left = unsent_bytes(sock)
        if left >= before:
            raise TimeoutError("timed out")
        before = left


def unsent_bytes(sock: socket.socket) -> int:
    """What the kernel has of what was sent, and the other end has not acknowledged; 0 where it does not say."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:
        return 0


class _PacedReader(io.RawIOBase):
    def __init__(self, inner: Any, timeout: float) -> None:
        self._inner = inner
        self._until = time.monotonic() + timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self._until:
            raise TimeoutError(f"the reply comes slower than {MIN_BYTES_PER_SECOND} bytes per second")
        count: int | None = self._inner.readinto(buffer)
        self._until += (count or 0) / MIN_BYTES_PER_SECOND
        return count

    def close(self) -> None:
        self._inner.close()
        super().close()
