"""Logging in, staying logged in: one auth server, its tokens in the store (docs: `POST /api/token/...`).

Rule 1  A password is sent once and kept nowhere. What the auth server says is never quoted: it may repeat its input.
Rule 2  One refresh at a time on this machine, under the store's lock: whoever gets the lock second finds the new token
        in the store and uses that. A rotating refresh token is in the store before the lock is let go.
Rule 3  Age is a hint to refresh early. Only the portal's 401 says that a token is no good.
Rule 4  A renewed token that the disk has no room for is used from memory, and stored as soon as there is: delivering is
        what makes room. Until then the store has the one before it, which the auth server takes again (decision 0018).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from urllib.parse import urlencode

from seclea.api.age import Instant, instant_now
from seclea.api.reading import Reply
from seclea.api.session import Session
from seclea.api.token_file import read_token_file
from seclea.api.tokens import LOGIN_HINT, Token, Tokens, TokenStore, lifetime_of
from seclea.errors import AuthenticationError, PortalError, PortalUnavailable
from seclea.records import canonical_json

__all__ = ["LOGIN_HINT", "AuthService", "Token", "Tokens", "TokenStore"]

log = logging.getLogger(__name__)

_OBTAIN, _REFRESH, _VERIFY = "/api/token/obtain/", "/api/token/refresh/", "/api/token/verify/"
_LOGOUT = "/api/token/logout/"
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
        now: Callable[[], Instant] = instant_now,
        lock_seconds: float = 60.0,
    ) -> None:
        self.auth_url = session.base_url
        self._session = session
        self._store = store
        self._now = now
        self._lock_seconds = lock_seconds
        self._handed: Token | None = None
        self._unstored: Tokens | None = None  # got, and not in the store; with the generation of those they came from
        self._generation = 0  # of the tokens seen last
        self._given_up = 0  # generation whose early refresh failed: not tried again before the portal says 401

    def __repr__(self) -> str:
        return f"AuthService({self.auth_url!r})"

    def authenticate(self, username: str, password: str | Token) -> None:
        """Log in and keep the tokens.

        Raises:
            AuthenticationError: wrong user name or password.
            PortalUnavailable: the auth server cannot be reached or is not well, or the disk has no room for the tokens.
            PortalError: it answers, but not as an auth server does.
        """
        secret = password if isinstance(password, Token) else Token(password)
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
        with _no_room_is_an_outage():
            self._write(access, reply.tokens.get("refresh_token"), username, reply)

    def adopt(self, path: str | os.PathLike[str]) -> bool:
        """Take the tokens of a token file into the store; False where the store has had them already.

        Raises:
            AuthenticationError: the file cannot be used.
            PortalUnavailable: the disk has no room for the tokens.
        """
        handed = read_token_file(path, self.auth_url)
        with self._store.lock(self.auth_url, self._lock_seconds):  # ranks that start together read the file together
            try:
                known = self._store.read(self.auth_url)
            except AuthenticationError:  # whatever is there is about to be replaced
                known = None
            if known is not None and known.source == handed.source:
                return False
            with _no_room_is_an_outage():
                self._store.write(
                    self.auth_url,
                    handed.access,
                    handed.refresh,
                    handed.username,
                    expires_in=handed.expires_in,
                    now=self._now(),
                    obtained=handed.written,
                    source=handed.source,
                )
        return True

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
            tokens = self._tokens()
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
                self._unstored = None
            except OSError as error:
                log.warning("the renewed login is used, but cannot be stored yet: %s", error.strerror)
                now = self._now()
                expires_in = _expires_in(reply) or lifetime_of(access, now.wall_ns)
                self._unstored = replace(tokens, access=access, refresh=rotated, obtained=now, expires_in=expires_in)
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
        self._store_late()
        tokens = self._tokens()
        if tokens is None:
            self._handed = None
            return None
        self._handed = tokens.access
        worth_it = tokens.refresh is not None and tokens.generation != self._given_up
        if worth_it and tokens.is_ageing(self._now()):
            try:
                return self.refresh(tokens.access)
            except (AuthenticationError, PortalUnavailable, PortalError) as error:
                # The old one may live a little longer. If it does not, the portal says so, and the 401 is acted on.
                self._given_up = tokens.generation
                log.info("early refresh failed: %s", error)
        return tokens.access

    def generation(self) -> int:
        """Grows with each new token; 0 without a login. A destination on hold for want of a login watches it.

        Raises:
            AuthenticationError: the token file cannot be used.
        """
        return self._store.generation(self.auth_url)

    @property
    def generation_used(self) -> int:
        """The generation of what was handed out last: 0 without a login, -1 where the token file could not be used."""
        return self._generation

    def forget(self) -> bool:
        """Forget the login here; whether there was one."""
        self._handed = self._unstored = None
        return self._store.delete(self.auth_url)

    def log_out(self) -> tuple[bool, bool]:
        """Forget the login here, and tell the auth server, so that its tokens are good for nothing from now on.

        Returns:
            Whether there was a login, and whether the auth server knows of its end; a token that it does not know to be
            over lives until it expires.
        """
        if not self._store.directory.is_dir():
            return False, False
        told = False
        with self._store.lock(self.auth_url, self._lock_seconds):  # no refresh may bring it back meanwhile
            with contextlib.suppress(AuthenticationError, PortalUnavailable, PortalError):
                if (tokens := self._store.read(self.auth_url)) is not None:
                    cookies = {
                        "access_token": tokens.access,
                        **({"refresh_token": tokens.refresh} if tokens.refresh else {}),
                    }
                    told = self._post(_LOGOUT, Token("{}"), _JSON, cookies).status in (200, 204)
            return self.forget(), told

    # ----------------------------------------------------------------------------------------------------------------

    def _tokens(self) -> Tokens | None:
        """The tokens of the store, or those that could not be stored as long as the store has their predecessors."""
        self._generation = -1
        tokens = self._store.read(self.auth_url)
        self._generation = 0 if tokens is None else tokens.generation
        if self._unstored is not None and (tokens is None or tokens.generation != self._unstored.generation):
            self._unstored = None
        return self._unstored or tokens

    def _store_late(self) -> None:
        if self._unstored is None:
            return
        with contextlib.suppress(OSError, AuthenticationError, PortalUnavailable), self._store.lock(self.auth_url, 0):
            if (kept := self._tokens()) is not None and kept is self._unstored:
                self._store.write(
                    self.auth_url,
                    kept.access,
                    kept.refresh,
                    kept.username,
                    expires_in=kept.expires_in,
                    now=self._now(),
                    obtained=kept.obtained,
                )
                self._unstored = None

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
        written = self._store.write(self.auth_url, access, refresh, username, expires_in=expires_in, now=self._now())
        self._generation = written.generation

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


@contextlib.contextmanager
def _no_room_is_an_outage() -> Iterator[None]:
    """A job must not end because a login cannot be stored: what it logs waits, as for a portal that does not answer."""
    try:
        yield
    except OSError as error:
        raise PortalUnavailable(
            f"The login cannot be kept on disk: {error.strerror}.", "Make room, then log in again."
        ) from None


def _expires_in(reply: Reply) -> float | None:
    try:
        seconds = reply.json().get("expires_in")
    except (PortalError, AttributeError):
        return None
    return float(seconds) if type(seconds) in (int, float) and 0 < seconds < 10 * 365 * 86_400 else None


def _revealed(fields: Mapping[str, str | Token]) -> dict[str, str]:
    return {name: value.reveal() if isinstance(value, Token) else value for name, value in fields.items()}
