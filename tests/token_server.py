"""An auth server and a portal that asks for its tokens, on two addresses, over real sockets.

Refresh tokens rotate and are refused the second time, without grace: whoever refreshes twice is logged out. Tokens live as
long as the test says, by the monotonic clock.
"""

from __future__ import annotations

import threading
import time
from urllib.parse import urlsplit

from tests.canary import CANARY
from tests.contract.fault_portal import Answer, Asked, FaultPortal
from tests.pipeline import WillingPortal

PASSWORDS = {"ada": f"ada-{CANARY}", "bob": f"bob-{CANARY}"}


class TokenServer(FaultPortal):
    """Gives out tokens with the canary in them."""

    def __init__(self, lifetime: float = 3600.0) -> None:
        self.lifetime = lifetime
        self.down = False
        self.refreshes = 0
        self._serial = 0
        self._good: dict[str, float] = {}  # access token → when it is over
        self._refresh: dict[str, str] = {}  # the one refresh token of a family → whose
        self._mutex = threading.Lock()
        super().__init__()
        self.on("POST", "/api/token/obtain/", self._obtain).on("POST", "/api/token/refresh/", self._renew)
        self.on("POST", "/api/token/logout/", self._end)

    def issue(self, username: str = "ada") -> dict[str, str]:
        """Tokens, as cookies."""
        with self._mutex:
            self._serial += 1
            access, refresh = f"access-{self._serial}-{CANARY}", f"refresh-{self._serial}-{CANARY}"
            self._good[access] = time.monotonic() + self.lifetime
            self._refresh[refresh] = username
        return {"access_token": access, "refresh_token": refresh}

    def takes(self, access: str | None) -> bool:
        """Whether it is a token that lives."""
        with self._mutex:
            return self._good.get(access or "", 0.0) > time.monotonic()

    def living(self) -> int:
        """How many access tokens live."""
        with self._mutex:
            return sum(end > time.monotonic() for end in self._good.values())

    def revoke_all(self) -> None:
        """Nobody is logged in any more."""
        with self._mutex:
            self._good.clear()
            self._refresh.clear()

    def _obtain(self, asked: Asked) -> Answer:
        fields = asked.json
        if self.down:
            return Answer(503, {"detail": "down"})
        if PASSWORDS.get(fields["username"]) != fields["password"]:
            return Answer(401, {"detail": "No"})
        return Answer(200, {"expires_in": self.lifetime}, cookies=self.issue(fields["username"]))

    def _renew(self, asked: Asked) -> Answer:
        if self.down:
            return Answer(503, {"detail": "down"})
        with self._mutex:
            username = self._refresh.pop(asked.cookies.get("refresh_token", ""), None)
        if username is None:
            return Answer(401, {"detail": "Token is invalid or expired"})
        self.refreshes += 1
        return Answer(200, {"expires_in": self.lifetime}, cookies=self.issue(username))

    def _end(self, asked: Asked) -> Answer:
        with self._mutex:
            self._good.pop(asked.cookies.get("access_token", ""), None)
            self._refresh.pop(asked.cookies.get("refresh_token", ""), None)
        return Answer(200, {"detail": "Logged out."})


class GuardedPortal(WillingPortal):
    """Takes everything from whoever has a token of ``tokens`` that lives; counts the others."""

    def __init__(self, tokens: TokenServer) -> None:
        self.tokens = tokens
        self.refused = 0
        super().__init__()

    def answer_to(self, asked: Asked) -> Answer:
        answer = super().answer_to(asked)
        if urlsplit(asked.path).path == "/api/capabilities" or self.tokens.takes(asked.cookies.get("access_token")):
            return answer
        self.asked.remove(asked)  # it was not taken
        self.refused += 1
        return Answer(401, {"detail": "The access token is not valid."})
