"""Logging in, staying logged in: one auth server, its tokens in the store (docs: `POST /api/token/...`).

Rule 1  A password is sent once and kept nowhere. What the auth server says is never quoted: it may repeat its input.
Rule 2  One refresh at a time on this machine, under the store's lock: whoever gets the lock second finds the new token
        in the store and uses that. A rotating refresh token is in the store before the lock is let go.
Rule 3  Age is a hint to refresh early. Only the portal's 401 says that a token is no good.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode

from seclea.api.reading import Reply
from seclea.api.session import Session
from seclea.api.tokens import LOGIN_HINT, Token, Tokens, TokenStore
from seclea.errors import AuthenticationError, PortalError, PortalUnavailable
from seclea.records import canonical_json

__all__ = ["LOGIN_HINT", "AuthService", "Token", "Tokens", "TokenStore"]

log = logging.getLogger(__name__)

_OBTAIN, _REFRESH, _VERIFY = "/api/token/obtain/", "/api/token/refresh/", "/api/token/verify/"
_JSON, _FORM = "application/json", "application/x-www-form-urlencoded"
_TRY_AS_FORM = frozenset({400, 415, 422})  # what servers that want a form say to JSON
_REFUSED = frozenset({400, 401, 403, 422})  # what servers say to a wrong password or a spent refresh token


class AuthService:
    """The login at the auth server that ``session`` speaks to, kept in ``store`` under the session's address."""

    def __init__(
        self,
        session: Session,
        store: TokenStore,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        lock_seconds: float = 60.0,
    ) -> None:
        self.auth_url = session.base_url
        self._session = session
        self._store = store
        self._now_ns = now_ns
        self._lock_seconds = lock_seconds
        self._handed: Token | None = None
        self._given_up = 0  # generation whose early refresh failed: not tried again before the portal says 401

    def __repr__(self) -> str:
        return f"AuthService({self.auth_url!r})"

    def authenticate(self, username: str, password: str) -> None:
        """Log in and keep the tokens.

        Raises:
            AuthenticationError: wrong user name or password.
            PortalUnavailable: the auth server cannot be reached or is not well.
            PortalError: it answers, but not as an auth server does.
        """
        secret = Token(password)
        del password
        fields: dict[str, str | Token] = {"username": username, "password": secret}
        reply = self._post(_OBTAIN, Token(canonical_json(_revealed(fields)).decode()), _JSON)
        if reply.status in _TRY_AS_FORM:
            reply = self._post(_OBTAIN, Token(urlencode(_revealed(fields))), _FORM)
        if reply.status in _REFUSED:
            raise AuthenticationError(
                f"{self._session.name} refused the login of {username!r}: wrong user name or password.",
                "Check both and try again.",
            )
        access = self._access_token(reply)
        self._write(access, reply.tokens.get("refresh_token"), username, reply)

    def refresh(self, stale: Token | None = None) -> Token:
        """A new access token; one that somebody else got meanwhile will do.

        Args:
            stale: the token that was refused; the last one that this object handed out by default.
        Raises:
            AuthenticationError: not logged in, or the login has expired: only a person can help.
            PortalUnavailable: the auth server cannot be reached; the old tokens are kept.
        """
        stale = stale or self._handed
        with self._store.lock(self.auth_url, self._lock_seconds):
            tokens = self._store.read(self.auth_url)
            if tokens is None:
                raise AuthenticationError(f"Not logged in to {self._session.name}.", LOGIN_HINT)
            if stale is not None and tokens.access != stale:
                self._handed = tokens.access
                return tokens.access
            if tokens.refresh is None:
                raise AuthenticationError(f"The login to {self._session.name} has expired.", LOGIN_HINT)
            reply = self._post(_REFRESH, Token("{}"), _JSON, {"refresh_token": tokens.refresh})
            if reply.status in _REFUSED:
                raise AuthenticationError(f"The login to {self._session.name} has expired.", LOGIN_HINT)
            access = self._access_token(reply)
            rotated = reply.tokens.get("refresh_token", tokens.refresh)
            try:
                self._write(access, rotated, tokens.username, reply)
            except OSError as error:
                # Not handed out: whoever works on with a token that is not in the store hides that the store is stuck.
                raise PortalUnavailable(f"The renewed login cannot be kept on disk: {error.strerror}.") from None
        self._handed = access
        return access

    def verify(self) -> bool:
        """Whether the auth server takes the access token as it is; False without a login.

        Raises:
            PortalUnavailable, PortalError: it did not say.
        """
        tokens = self._store.read(self.auth_url)
        if tokens is None:
            return False
        reply = self._post(_VERIFY, Token("{}"), _JSON, {"access_token": tokens.access})
        if reply.status in (401, 403):
            return False
        self._check(reply)
        return True

    def access_token(self) -> Token | None:
        """The access token to use now, renewed where it is old; None without a login. Asks nobody while it is young.

        Raises:
            AuthenticationError: the token file cannot be used.
        """
        tokens = self._store.read(self.auth_url)
        if tokens is None:
            self._handed = None
            return None
        self._handed = tokens.access
        worth_it = tokens.refresh is not None and tokens.generation != self._given_up
        if worth_it and tokens.is_ageing(self._now_ns()):
            try:
                return self.refresh(tokens.access)
            except (AuthenticationError, PortalUnavailable, PortalError) as error:
                # The old one may live a little longer. If it does not, the portal says so, and the 401 is acted on.
                self._given_up = tokens.generation
                log.info("early refresh failed: %s", error)
        return tokens.access

    def generation(self) -> int:
        """Changes with each new token; 0 without a login. A destination on hold for want of a login watches it."""
        return self._store.generation(self.auth_url)

    def forget(self) -> bool:
        """Log out here; whether there was a login."""
        self._handed = None
        return self._store.delete(self.auth_url)

    # ----------------------------------------------------------------------------------------------------------------

    def _post(self, path: str, body: Token, kind: str, cookies: Mapping[str, Token] | None = None) -> Reply:
        return self._session.request("POST", path, content=body, content_type=kind, cookies=cookies)

    def _access_token(self, reply: Reply) -> Token:
        self._check(reply)
        token = reply.tokens.get("access_token")
        if token is None:
            raise PortalError(f"{self._session.name} answers a login without a token.", "Check auth_url.")
        return token

    def _write(self, access: Token, refresh: Token | None, username: str | None, reply: Reply) -> None:
        expires_in = _expires_in(reply)
        self._store.write(self.auth_url, access, refresh, username, expires_in=expires_in, now_ns=self._now_ns())

    def _check(self, reply: Reply) -> None:
        if reply.status == 200:
            return
        if reply.status in (408, 425, 429) or reply.status >= 500:
            raise PortalUnavailable(
                f"{self._session.name} cannot take logins now (status {reply.status}).", "Try again."
            )
        raise PortalError(
            f"{self._session.name} does not answer as an auth server does (status {reply.status}).", "Check auth_url."
        )


def _expires_in(reply: Reply) -> float | None:
    try:
        seconds = reply.json().get("expires_in")
    except (PortalError, AttributeError):
        return None
    return float(seconds) if type(seconds) in (int, float) and 0 < seconds < 10 * 365 * 86_400 else None


def _revealed(fields: Mapping[str, str | Token]) -> dict[str, str]:
    return {name: value.reveal() if isinstance(value, Token) else value for name, value in fields.items()}
