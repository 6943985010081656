"""The ways to a destination, put together: session, tokens, api."""

from __future__ import annotations

from seclea.api.api import Api
from seclea.api.auth import AuthService
from seclea.api.session import Session
from seclea.api.tokens import TokenStore
from seclea.contract import Destination, Home

_CONNECT_SECONDS = 5.0
_READ_SECONDS = 30.0


def open_auth(
    home: Home, destination: Destination, ca_bundle: str | None, *, timeout_seconds: float = _READ_SECONDS
) -> AuthService:
    """The login of a destination, with its tokens in the home's store."""
    session = Session(
        destination.auth_url,
        ca_bundle=ca_bundle,
        connect_timeout_seconds=min(_CONNECT_SECONDS, timeout_seconds),
        read_timeout_seconds=timeout_seconds,
    )
    return AuthService(session, TokenStore(home.tokens))


def open_api(
    home: Home, destination: Destination, ca_bundle: str | None, *, timeout_seconds: float = _READ_SECONDS
) -> Api:
    """The way to a destination's portal, with sessions of its own; not to be shared between threads."""
    if destination.is_local:
        session = Session("http://localhost", unix_socket=home.portal_socket, read_timeout_seconds=timeout_seconds)
        return Api(session, None, destination, local=True)
    session = Session(
        destination.platform_url,
        ca_bundle=ca_bundle,
        connect_timeout_seconds=min(_CONNECT_SECONDS, timeout_seconds),
        read_timeout_seconds=timeout_seconds,
    )
    return Api(session, open_auth(home, destination, ca_bundle, timeout_seconds=timeout_seconds), destination)
