"""Logging in from the client; the sender keeps the login fresh from then on."""

from __future__ import annotations

import contextlib

from seclea.api.connect import open_api, open_auth
from seclea.contract import Destination, Home
from seclea.director import ask_until
from seclea.errors import LedgerError, PipelineError
from seclea.ledger.view import LedgerView
from seclea.processes.rendezvous import ask, prepare

__all__ = ["log_in", "open_api"]

_RESUME_SECONDS = 5.0  # for a writer to start


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
    resume = {"op": "resume", "destination": None}
    with contextlib.suppress(PipelineError, LedgerError):
        if ask(home, resume, 1.0) is None and _is_held(home):  # nobody there, and what waits would wait on
            ask_until(home, resume, _RESUME_SECONDS)


def _is_held(home: Home) -> bool:
    with LedgerView(home.ledger) as view:
        return any(row["hold"] for row in view.destinations())
