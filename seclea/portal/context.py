"""What the routes share: one `Portal` per process, and how a request finds it."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from seclea.portal.accounts import Caller, Logins, Organization, Passwords, ensure_owner
from seclea.portal.blobs import BlobStore, FolderBlobs
from seclea.portal.bodies import is_uuid
from seclea.portal.config import PortalConfig
from seclea.portal.database import Database
from seclea.portal.intake import Effect, Incoming, Running, take
from seclea.portal.replies import Refusal, bad, not_found, raw_json

LINK_SECONDS = 5 * 60  # how long a one-time browser link is good


class Portal:
    """Database, blobs and accounts of one data folder."""

    def __init__(self, config: PortalConfig) -> None:
        self.config = config
        self.database = Database(config.database_path)
        self.blobs: BlobStore = FolderBlobs(config.data / "blobs")
        self.logins = Logins(config)
        self.passwords = Passwords()
        self.running = Running()
        self.links = Links()
        self.activity = Activity()
        self.url = ""  # known once the port is bound
        self.stop: Callable[[], None] = _not_served
        self.stay = not config.embedded
        self.owner: Caller = self.database.submit(ensure_owner).result()

    def browser_link(self) -> str:
        """A link that lets one browser in as the owner, once, within five minutes."""
        return f"{self.url}/open?code={self.links.make()}"

    async def reload_owner(self) -> None:
        """Look again at the owner's organisations, after one was added."""
        self.owner = await self.database.write(ensure_owner)

    def close(self) -> None:
        """Commit what is queued and close."""
        self.database.close()

    async def take(self, incoming: Incoming, effect: Effect) -> Response:
        """Take a record in and answer it. 201 is sent when it is durable."""
        taken = await self.database.write(lambda connection: take(connection, incoming, effect))
        return raw_json(taken.body, taken.status, {"Idempotency-Replayed": "true"} if taken.replayed else None)


def _not_served() -> None:
    raise RuntimeError("the portal is not being served")


@dataclass(slots=True)
class Activity:
    """When somebody last asked for something, for the embedded portal's idle exit."""

    last: float = 0.0
    open: int = 0

    def __post_init__(self) -> None:
        self.last = time.monotonic()

    def idle_seconds(self) -> float:
        """How long nobody has."""
        return 0.0 if self.open else time.monotonic() - self.last


class Links:
    """One-time codes that let a browser in. In memory: they die with the process."""

    def __init__(self) -> None:
        self._deadlines: dict[bytes, float] = {}

    def make(self) -> str:
        """A code that works once, for five minutes."""
        now = time.monotonic()
        self._deadlines = {code: deadline for code, deadline in self._deadlines.items() if deadline > now}
        code = secrets.token_urlsafe(32)
        self._deadlines[_digest(code)] = now + LINK_SECONDS
        return code

    def redeem(self, code: str) -> bool:
        """Whether the code is good; it is not any more afterwards."""
        return self._deadlines.pop(_digest(code), 0.0) > time.monotonic()


def _digest(code: str) -> bytes:
    return hashlib.sha256(code.encode("utf-8", "replace")).digest()


# ---------------------------------------------------------------------------------------------------------- requests


def portal_of(request: Request) -> Portal:
    """The portal that serves this request."""
    portal: Portal = request.app.state.portal
    return portal


def is_owner_socket(request: Request) -> bool:
    """Whether it came over the unix socket. `doors` sets the mark from the listening socket, never from the request."""
    return request.scope.get("seclea.door") == "unix"


def access_token_of(request: Request) -> str | None:
    """The access token that the request carries, as Bearer or cookie."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return request.cookies.get("access_token")


async def find_caller(request: Request) -> Caller | None:
    """Who asks, or None."""
    portal = portal_of(request)
    if is_owner_socket(request):
        return portal.owner
    token = access_token_of(request)
    session = portal.logins.session_of(token) if token else None
    if session is None:
        return None
    return await portal.database.read(lambda connection: portal.logins.caller(connection, session))


async def authenticate(request: Request) -> Caller:
    """Who asks.

    Raises:
        Refusal: 401.
    """
    caller = await find_caller(request)
    if caller is None:
        raise Refusal(
            401,
            "Authentication credentials were not provided or are not valid (any more).",
            headers={"WWW-Authenticate": "Bearer"},
            code="not_authenticated",
        )
    return caller


def scope_of(request: Request, caller: Caller, fields: dict[str, Any] | None = None) -> tuple[Organization, ...]:
    """The caller's organisations, narrowed to the one that the query (or the body) names."""
    named = request.query_params.get("organization") or (fields or {}).get("organization")
    if named is None or named == "":
        return caller.organizations
    if not isinstance(named, str) or not is_uuid(named.lower()):
        raise bad("organization is no valid uuid.", field="organization")
    narrowed = tuple(item for item in caller.organizations if item.uuid == named.lower())
    if not narrowed:
        raise not_found("There is no such organization.")
    return narrowed


def only_organization(scope: tuple[Organization, ...]) -> Organization:
    """The one organisation that a create without a project belongs to."""
    if len(scope) != 1:
        raise bad("Name the organization: ?organization=<uuid>.", field="organization")
    return scope[0]


def ids(scope: tuple[Organization, ...]) -> list[int]:
    """Their row ids."""
    return [item.id for item in scope]
