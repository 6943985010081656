"""Logging in from the client; the sender keeps the login fresh from then on."""

from __future__ import annotations

import contextlib

from seclea.api.connect import open_api, open_auth
from seclea.contract import Destination, Home
from seclea.errors import PipelineError
from seclea.processes.rendezvous import ask, prepare

__all__ = ["log_in", "open_api"]


def log_in(
    home: Home, destination: Destination, ca_bundle: str | None, username: str, password: str, timeout_seconds: float
) -> None:
    """Get tokens, store them, and let what waited for them go on.

    Raises:
        AuthenticationError: wrong user name or password.
        PortalUnavailable: the auth server does not answer.
    """
    prepare(home)
    open_auth(home, destination, ca_bundle, timeout_seconds=timeout_seconds).authenticate(username, password)
    with contextlib.suppress(PipelineError):
        ask(home, {"op": "resume", "destination": None}, 1.0)  # nobody there: it resumes at the next start
