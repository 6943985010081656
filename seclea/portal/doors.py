"""The two doors: the owner's unix socket and the TCP port. Plain ASGI, around the whole application.

Rule 1  The mark "seclea.door" is set here from the listening socket that a server was started with. Nothing in a request
        can set it; an application without a door is a TCP one.
Rule 2  At the TCP door a request names a host that is ours (DNS rebinding), and a change asked for by a browser comes
        from our own pages (other ports of one host share its cookies).
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from seclea.portal.config import PortalConfig
from seclea.portal.context import Portal
from seclea.portal.replies import Refusal, dumps

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # with "no-referrer" our own forms would say "Origin: null"
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", _POLICY.encode()),
)


class Door:
    """One of the two ways in."""

    def __init__(self, app: App, portal: Portal, door: str) -> None:
        self._app = app
        self._portal = portal
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        asked = headers.get(b"x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else secrets.token_hex(8)
        scope["seclea.door"] = self._door
        scope["seclea.request_id"] = request_id
        started = False

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    *(pair for pair in _HEADERS if pair[0] not in own),
                    *(() if own & {b"cache-control", b"etag"} else ((b"cache-control", b"no-store"),)),
                ]
            await send(message)

        activity = self._portal.activity
        activity.open += 1
        try:
            refusal = None if self._door == "unix" else refuse(self._portal.config, scope, headers)
            if refusal is not None:
                await _answer(send_with_headers, refusal.status, refusal.body(request_id))
                return
            await self._app(scope, receive, send_with_headers)
        except Exception:
            logger.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"])
            if started:
                raise  # the connection is torn, so that nobody takes half a reply for a whole one
            await _answer(
                send_with_headers, 500, {"detail": "The portal failed; its log says how.", "request_id": request_id}
            )
        finally:
            activity.open -= 1
            activity.last = time.monotonic()


def refuse(config: PortalConfig, scope: Scope, headers: dict[bytes, str]) -> Refusal | None:
    """Why a request at the TCP door is turned away before anything looks at it."""
    host = headers.get(b"host", "")
    name = _host_name(host)
    restricted = config.is_loopback or config.allowed_hosts
    if name is None or (restricted and name not in LOOPBACK_NAMES and name not in config.allowed_hosts):
        return Refusal(400, "This portal is not reached by that host name.", code="wrong_host")
    origin = headers.get(b"origin")
    if scope["method"] not in SAFE and origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return Refusal(403, "A change may only be asked for by the portal's own pages.", code="wrong_origin")
    return None


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


async def _answer(send: Send, status: int, body: dict[str, Any]) -> None:
    content = dumps(body)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
