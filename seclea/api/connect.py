"""The ways to a destination, put together: session, tokens, api."""

from __future__ import annotations

import math

from seclea.api.api import Api
from seclea.api.auth import AuthService
from seclea.api.session import Session
from seclea.api.tokens import TokenStore
from seclea.contract import Destination, Home

_CONNECT_SECONDS = 5.0
_READ_SECONDS = 30.0
_LOCK_SECONDS = 60.0  # for somebody else's refresh, which may take all its time


def open_auth(
    home: Home,
    destination: Destination,
    ca_bundle: str | None,
    *,
    timeout_seconds: float = _READ_SECONDS,
    within_seconds: float = math.inf,
) -> AuthService:
    """The login of a destination, with its tokens in the home's store."""
    session = Session(
        destination.auth_url,
        ca_bundle=ca_bundle,
        connect_timeout_seconds=min(_CONNECT_SECONDS, timeout_seconds),
        read_timeout_seconds=timeout_seconds,
        within_seconds=within_seconds,
    )
    return AuthService(session, TokenStore(home.tokens), lock_seconds=min(_LOCK_SECONDS, within_seconds))


def open_api(
    home: Home,
    destination: Destination,
    ca_bundle: str | None,
    *,
    timeout_seconds: float = _READ_SECONDS,
    within_seconds: float = math.inf,
) -> Api:
    """The way to a destination's portal, with sessions of its own; not to be shared between threads.

    Args:
        timeout_seconds: of each send and receive.
        within_seconds: of all that is asked together, from now on, a refresh of the login included.
    """
    if destination.is_local:
        session = Session("http://localhost", unix_socket=home.portal_socket, read_timeout_seconds=timeout_seconds)
        return Api(session, None, destination, local=True)
    session = Session(
        destination.platform_url,
        ca_bundle=ca_bundle,
        connect_timeout_seconds=min(_CONNECT_SECONDS, timeout_seconds),
        read_timeout_seconds=timeout_seconds,
        within_seconds=within_seconds,
    )
    auth = open_auth(home, destination, ca_bundle, timeout_seconds=timeout_seconds, within_seconds=within_seconds)
    return Api(session, auth, destination)
