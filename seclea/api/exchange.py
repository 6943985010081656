"""One request and what it came to, logged in: the verdict of `replies.classify`, after at most one refresh.

Rule 1  A 401 is answered by one refresh and the same request once more. A 403 too, but once per login: what the next
        token may not do either, a person has to grant.
Rule 2  Nobody asks a portal for something that needs a login without one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from seclea.api.auth import LOGIN_HINT, AuthService, Token
from seclea.api.reading import Reply
from seclea.api.replies import NOT_JSON, classify, outcome_of
from seclea.api.session import Session
from seclea.contract import Outcome, Verdict
from seclea.errors import AuthenticationError, PortalError, PortalUnavailable
from seclea.records import RecordKind


class Exchange:
    """Requests through ``session`` with the login of ``auth``; without ``auth`` for a portal that asks for none."""

    def __init__(self, session: Session, auth: AuthService | None) -> None:
        self._session = session
        self._auth = auth
        self._forbidden_with: Token | None = None  # with this token a 403 has been answered by a refresh already

    def call(
        self, method: str, path: str, *, kind: RecordKind | None = None, login: bool = True, **request: Any
    ) -> tuple[Outcome, Reply | None]:
        """Make a request; its verdict, and the reply if there was one.

        Args:
            kind: of the record that is sent (`replies.classify`).
            login: whether a login belongs to it; else it goes without.
            request: further arguments of `Session.request`.
        Raises:
            LedgerError, OSError, ValueError: a part of the body could not be read.
        """
        token: Token | None = None
        try:
            if login and self._auth is not None:
                token = self._auth.access_token()
                if token is None:
                    return Outcome(Verdict.HOLD, 401, f"Not logged in to {self._session.name}. {LOGIN_HINT}"), None
            reply = self._session.request(method, path, token=token, **request)
            renewed = self._renewed(reply, token)
            if renewed is not None:
                token = renewed
                reply = self._session.request(method, path, token=token, **request)
            if reply.status == 403:
                self._forbidden_with = token
        except (PortalError, PortalUnavailable, AuthenticationError) as error:
            return outcome_of(error), None
        body = json_of(reply)
        outcome = classify(reply.status, reply.headers, body, kind, text=text_of(reply) if body is NOT_JSON else "")
        return _without(outcome, token), reply

    def login_generation(self) -> int:
        """Of the login that there is now: grows with each renewal; 0 without one, -1 with one that cannot be read."""
        try:
            return 0 if self._auth is None else self._auth.generation()
        except AuthenticationError:
            return -1

    def generation_used(self) -> int:
        """The same, of the login that the last request had."""
        return 0 if self._auth is None else self._auth.generation_used

    def _renewed(self, reply: Reply, token: Token | None) -> Token | None:
        """Another token to try once more with, where the reply is worth it."""
        if self._auth is None or token is None:
            return None
        if reply.status == 401:
            return self._auth.refresh(token)
        if reply.status == 403 and token != self._forbidden_with:
            try:
                return self._auth.refresh(token)
            except (AuthenticationError, PortalUnavailable, PortalError):
                return None  # the token is still good, it only may not do this: wait for the right
        return None


def json_of(reply: Reply) -> Any:
    """The body as JSON, `NOT_JSON` where it is none."""
    try:
        return reply.json()
    except PortalError:
        return NOT_JSON


def text_of(reply: Reply) -> str:
    """The beginning of the body as text."""
    return reply.body[:4096].decode("utf-8", "replace")


def _without(outcome: Outcome, token: Token | None) -> Outcome:
    """The outcome, with the token blotted out where a server repeated it."""
    if token is None or token.reveal() not in outcome.detail:
        return outcome
    return replace(outcome, detail=outcome.detail.replace(token.reveal(), str(token)))
