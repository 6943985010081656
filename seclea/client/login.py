"""Logging in and out from the client; the sender keeps the login fresh in between."""

from __future__ import annotations

import contextlib
from typing import Any

from seclea.api.connect import open_api, open_auth
from seclea.client.credentials import Credentials
from seclea.contract import Destination, Home
from seclea.director import ask_until
from seclea.errors import LedgerError, PipelineError
from seclea.ledger.view import LedgerView
from seclea.processes.rendezvous import ask, prepare

__all__ = ["log_in", "log_out", "open_api"]

_RESUME_SECONDS = 5.0  # for a writer to start


def log_in(
    home: Home,
    destination: Destination,
    ca_bundle: str | None,
    credentials: Credentials,
    timeout_seconds: float,
) -> bool:
    """Get tokens, store them, and let what waited for them go on. False where a token file brought nothing new.

    Raises:
        AuthenticationError: wrong user name or password, or a token file that cannot be used.
        PortalUnavailable: the auth server does not answer.
    """
    prepare(home)
    auth = open_auth(home, destination, ca_bundle, timeout_seconds=timeout_seconds)
    if credentials.token_file is not None:
        if not auth.adopt(credentials.token_file):
            return False
    elif credentials.username is not None and credentials.password is not None:
        auth.authenticate(credentials.username, credentials.password)
    _resume(home)
    return True


def log_out(home: Home, destination: Destination, ca_bundle: str | None, timeout_seconds: float) -> tuple[bool, bool]:
    """Forget the login: whether there was one, and whether the auth server knows of its end (`AuthService.log_out`)."""
    return open_auth(home, destination, ca_bundle, timeout_seconds=timeout_seconds).log_out()


def _resume(home: Home) -> None:
    resume = {"op": "resume", "destination": None}
    with contextlib.suppress(PipelineError, LedgerError):
        if _unheard(home, resume) and _is_held(home):  # nobody there, and what waits would wait on
            ask_until(home, resume, _RESUME_SECONDS)


def _unheard(home: Home, message: dict[str, Any]) -> bool:
    try:
        return ask(home, message, 1.0) is None
    except PipelineError:  # it is there and does not answer: it may be the one before, that dies
        return True


def _is_held(home: Home) -> bool:
    with LedgerView(home.ledger) as view:
        return any(row["hold"] for row in view.destinations())
