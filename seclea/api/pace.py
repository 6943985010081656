"""Replies that trickle are given up: a timeout per receive does not end what sends one byte before each.

The whole reply, head and body, has one timeout plus the time that its bytes take at `MIN_BYTES_PER_SECOND`. What is
checked is the time before each receive, so the end comes at most one timeout late.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any

MIN_BYTES_PER_SECOND = 512  # slower is an attack, or no line at all


class PacedResponse(http.client.HTTPResponse):
    """A reply read under such a limit, in the place of http.client's own."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        timeout = sock.gettimeout()
        if timeout is not None:
            # At this point nothing has been read, so the buffer that is left behind is empty.
            self.fp = io.BufferedReader(_PacedReader(self.fp.detach(), timeout))


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
