"""Whether anybody answers at an address, asked within a fraction of a second: the start of a job waits for no portal."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

from seclea.errors import PortalUnavailable

REACH_SECONDS = 0.2  # a connection to the other side of the world takes as long
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def require_answer(url: str) -> None:
    """Nothing where somebody answers, or may.

    Raises:
        PortalUnavailable: nobody does, within a fraction of a second.
    """
    if not answers(url):
        raise PortalUnavailable(f"{url} does not answer.")


def answers(url: str, seconds: float = REACH_SECONDS, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether ``url`` takes a connection within ``seconds``, the look-up of its name included.

    Where a proxy stands between, or the address is none, nobody knows before it was asked: True.
    """
    if any(name.lower() in _PROXIES and value for name, value in environ.items()):
        return True
    try:
        place = urlsplit(url)
        port = place.port or (443 if place.scheme == "https" else 80)
    except ValueError:  # no address; whoever asks it says what is wrong with it
        return True
    found = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError, ValueError), socket.create_connection((place.hostname, port), seconds):
            connected.append(True)
        found.set()

    connected: list[bool] = []
    try:
        # A resolver that does not answer cannot be told to give up: it is left to itself.
        threading.Thread(target=connect, name="seclea-reach", daemon=True).start()
    except RuntimeError:  # no more threads for this user
        return True
    found.wait(seconds)
    return bool(connected)
