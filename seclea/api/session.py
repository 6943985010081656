"""One portal (or auth server) over HTTP: requests with timeouts, bounded replies and errors that say what was sent.

Rule 1  A request is made once. Redirects are never followed, so a token goes to the address in the settings and nowhere
        else; a 3xx is a reply like any other.
Rule 2  No plain http except to this machine. Certificates are always verified; a private authority is a setting.
Rule 3  What the environment may decide is said: proxies (``HTTPS_PROXY``, ``NO_PROXY``; never for loopback) and,
        without a ``ca_bundle``, ``REQUESTS_CA_BUNDLE``. Not netrc.
Rule 4  Tokens and cookies are in no message, `repr` or traceback of ours: the errors of requests, which carry the
        request, are replaced, not chained.
"""

from __future__ import annotations

import http.client
import ipaddress
import math
import os
import ssl
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase
from requests.utils import get_environ_proxies, select_proxy
from urllib3 import exceptions as urllib3_errors
from urllib3.util.ssl_match_hostname import CertificateError

from seclea import __version__
from seclea.api.body import Body, Part
from seclea.api.reading import BadReply, Reply, read_reply
from seclea.api.tokens import Token
from seclea.api.transport import TcpAdapter, UnixAdapter
from seclea.contract import LOCAL
from seclea.errors import ConfigurationError, PortalUnavailable

__all__ = ["NoReply", "NotReached", "NotTrusted", "Part", "ProxyUnusable", "Reply", "ReplyLost", "Session"]


class NoReply(PortalUnavailable):
    """There is no (whole) reply. ``outcome_unknown``: whether the portal may have acted on the request."""

    outcome_unknown: ClassVar[bool] = False
    waiting_is_vain: ClassVar[bool] = False


class NotReached(NoReply):
    """Nothing was sent: no such host, refused, or no connection in time."""


class ReplyLost(NoReply):
    """The request, or a part of it, was sent; the reply did not come, or not whole."""

    outcome_unknown = True


class ProxyUnusable(NotReached):
    """The environment names a proxy that cannot be used as it is. Nothing was sent; waiting will not help."""

    waiting_is_vain = True


class NotTrusted(NoReply):
    """The portal's certificate could not be verified. Nothing was sent; waiting will not help."""

    waiting_is_vain = True


class Session:
    """Requests to one address over connections kept alive. For several threads; a forked child makes its own.

    Args:
        base_url: "https://portal.example.com", with a path where the portal has one; ignored with ``unix_socket``.
        unix_socket: the embedded portal's socket.
        ca_bundle: PEM file of the authority to trust instead of the usual ones.
        connect_timeout_seconds: until a connection stands.
        read_timeout_seconds: of each send and receive; `request` can set another.
        within_seconds: of all requests together, from now on; one that would begin later is not made.
        trust_env_proxies: whether proxies of the environment are used.
    Raises:
        ConfigurationError: no usable address, or plain http to another machine.
    """

    def __init__(
        self,
        base_url: str,
        *,
        unix_socket: Path | None = None,
        ca_bundle: str | None = None,
        connect_timeout_seconds: float = 5,
        read_timeout_seconds: float = 30,
        within_seconds: float = math.inf,
        trust_env_proxies: bool = True,
    ) -> None:
        self.base_url = "http://localhost" if unix_socket is not None else base_url.rstrip("/")
        self.name = f"the home's portal ({unix_socket})" if unix_socket is not None else self.base_url
        self._unix_socket = unix_socket
        self._connect_timeout = connect_timeout_seconds
        self._read_timeout = read_timeout_seconds
        self._until = time.monotonic() + within_seconds
        host = _checked_host(self.base_url)
        environ_bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        # Whether it is there is seen at each request: a sender that cannot be made would leave its other portals alone, too.
        self._verify: str | bool = ca_bundle or environ_bundle or True
        use_proxies = trust_env_proxies and unix_socket is None and not _is_loopback(host)
        self._proxies: dict[str, str] = dict(get_environ_proxies(self.base_url)) if use_proxies else {}
        self._http: requests.Session | None = None
        self._pid = 0

    def __repr__(self) -> str:
        return f"Session({self.name!r})"

    def close(self) -> None:
        """Drop the connections; the next request makes new ones."""
        if self._http is not None and self._pid == os.getpid():
            self._http.close()
        self._http = None

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        content: bytes | Token | None = None,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        files: Sequence[Part] | None = None,
        token: Token | None = None,
        cookies: Mapping[str, Token] | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """Make one request and read the whole reply, whatever its status.

        Args:
            path: starts with a slash; ids in it are the caller's to quote.
            json, content, files: the body, one of them; ``content`` may be a `Token` where it holds a secret.
            token: the access token, sent as a cookie; ``cookies`` are further ones.
            timeout: seconds of each send and receive, in place of the session's.
        Raises:
            NoReply: its ``outcome_unknown`` says whether something was sent.
            OSError, ValueError: reading a part of ``files`` failed.
        """
        body = Body(json, content, files)
        secrets = _Secrets({**(cookies or {}), **({"access_token": token} if token is not None else {})}, body)
        sent = dict(headers or {})
        if kind := content_type or body.content_type:
            sent["Content-Type"] = kind
        left = self._until - time.monotonic()
        if left <= 0:
            raise NotReached(f"{self.name} does not answer in time.")
        read_timeout = min(left, self._read_timeout if timeout is None else timeout)
        handled = sys.exc_info()[1]
        try:
            response = self._client().request(
                method,
                self.base_url + path,
                params=params,
                data=body.stream(),
                headers=sent,
                auth=secrets,
                timeout=read_timeout,  # the connections know their own for connecting
                allow_redirects=False,
                stream=True,
                verify=self._verify,
                proxies=self._proxies,
            )
            with response:
                return read_reply(response, method)
        except (requests.RequestException, urllib3_errors.HTTPError, OSError, BadReply) as error:
            problem = body.error or self._explain(error, handled)
        # Outside the handler: the new error has no context, which would carry the request and its cookies.
        raise problem

    def _client(self) -> requests.Session:
        if self._http is None or self._pid != os.getpid():
            # A connection inherited over a fork is the parent's: two processes would mix their bytes in it.
            http = _Http()
            http.trust_env = False
            http.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # tokens live in the store, not in a jar
            http.headers["User-Agent"] = f"seclea/{__version__}"
            http.headers["Accept-Encoding"] = "identity"  # replies are small, and a bomb needs an encoding
            if self._unix_socket is not None:
                http.mount("http://", UnixAdapter(self._unix_socket, self._connect_timeout))
            else:
                for scheme in ("http://", "https://"):
                    http.mount(scheme, TcpAdapter(self._connect_timeout))
            self._http, self._pid = http, os.getpid()
        return self._http

    def _explain(self, error: Exception, handled: BaseException | None) -> NoReply:
        causes = list(_causes(error, handled))

        def has(*kinds: type[BaseException]) -> bool:
            return any(isinstance(cause, kinds) for cause in causes)

        reason = next((_reason(cause) for cause in reversed(causes) if isinstance(cause, OSError)), "")
        # Looked at only where it can be the reason: reading it takes 20 ms. (requests has an OSError for one that is gone.)
        of_tls = self.base_url.startswith("https:") and (
            has(ssl.SSLError, urllib3_errors.SSLError) or type(error) is OSError
        )
        bundle_trouble = _bundle_trouble(self._verify) if of_tls else ""
        if has(ssl.SSLCertVerificationError, CertificateError) or bundle_trouble:
            why = bundle_trouble or reason or str(causes[-1])
            hint = "Set ca_bundle to the PEM file of its authority; verification is not switched off."
            return NotTrusted(f"The certificate of {self.name} cannot be verified: {why}.", hint)
        if has(*_OF_PROXIES):
            return self._explain_proxy(causes)
        if has(urllib3_errors.NewConnectionError, urllib3_errors.ConnectTimeoutError):
            # NewConnectionError is a ConnectTimeoutError, though no time has run out.
            if has(urllib3_errors.ConnectTimeoutError) and not has(urllib3_errors.NewConnectionError):
                reason = f"no connection within {self._connect_timeout:g} s"
            return NotReached(f"{self.name} cannot be reached: {reason or type(causes[-1]).__name__}.")
        if isinstance(error, BadReply):
            reason = str(error)
        elif has(urllib3_errors.ReadTimeoutError, TimeoutError):
            reason = "no reply in time"
        elif not reason:
            reason = next((words for kind, words in _BROKEN if has(kind)), type(causes[-1]).__name__)
        return ReplyLost(f"The reply of {self.name} did not come whole: {reason}.")

    def _explain_proxy(self, causes: Sequence[BaseException]) -> NoReply:
        proxy = select_proxy(self.base_url, self._proxies) or ""
        where = f"{self.name} cannot be reached through the proxy {_without_user(proxy)}"
        tunnel = next((str(cause) for cause in causes if str(cause).startswith("Tunnel connection failed")), "")
        if not proxy.startswith(("http://", "https://")) or any(isinstance(cause, ValueError) for cause in causes):
            return ProxyUnusable(f"{where}: it is no http:// or https:// address.", _PROXY_HINT)
        if " 407" in tunnel:
            return ProxyUnusable(f"{where}: it asks for a login (407).", _PROXY_HINT)
        words = [cause.strerror for cause in reversed(causes) if isinstance(cause, OSError) and cause.strerror]
        return NotReached(f"{where}: {tunnel or next(iter(words), 'it does not answer')}.")


# ------------------------------------------------------------------------------------------------------------------


class _Http(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Never: requests would read the whole body of a redirect before it does not follow it."""


class _Secrets(AuthBase):
    """Puts cookies and a secret body into the prepared request, where no frame and no `repr` shows them."""

    def __init__(self, cookies: Mapping[str, Token], body: Body) -> None:
        self._cookies = cookies
        self._body = body

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._cookies:
            request.headers["Cookie"] = "; ".join(f"{name}={value.reveal()}" for name, value in self._cookies.items())
        if self._body.secret is not None:
            request.prepare_body(self._body.secret.reveal().encode("utf-8"), None)
        return request


def _checked_host(url: str) -> str:
    if url == LOCAL:
        raise ConfigurationError('"local" is the home\'s own portal, which is reached through its unix socket.')
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(
            "The portal's address must be like https://portal.example.com, without user name, query or fragment."
        )
    if parts.scheme == "http" and not _is_loopback(host):
        raise ConfigurationError(
            f"{url} is plain http to another machine: everybody on the way could read the login.",
            f"Use https://{host}.",
        )
    return host


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bundle_trouble(verify: str | bool) -> str:
    """What is wrong with the file of the authorities, where something is."""
    if not isinstance(verify, str):
        return ""
    try:
        is_folder = os.path.isdir(verify)
        ssl.create_default_context(cafile=None if is_folder else verify, capath=verify if is_folder else None)
    except FileNotFoundError:
        return f"there is no {verify}"
    except OSError as error:  # of which an SSLError is one
        return f"{verify} holds no certificates" if isinstance(error, ssl.SSLError) else f"{verify}: {error.strerror}"
    return ""


def _without_user(address: str) -> str:
    scheme, mark, place = address.rpartition("://")
    return scheme + mark + place.rpartition("@")[2]


def _causes(error: BaseException, handled: BaseException | None) -> Iterator[BaseException]:
    """The errors inside an error, outermost first: requests and urllib3 wrap in arguments, reasons and contexts.

    Not ``handled``, what a caller was handling when it made the request: that says nothing about the request.
    """
    seen = {id(handled)}
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = (*current.args, getattr(current, "reason", None), current.__cause__, current.__context__)
        waiting += [item for item in inner if isinstance(item, BaseException)]


# Our own address was checked: what cannot be parsed or spoken to here is a proxy's.
_OF_PROXIES = (
    urllib3_errors.ProxyError,
    urllib3_errors.ProxySchemeUnknown,
    urllib3_errors.LocationParseError,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidProxyURL,
)
_PROXY_HINT = (
    "Set HTTPS_PROXY to http://user:password@host:port, or NO_PROXY to the portal's host, and start the job anew."
)
# What broken replies are, for people: these errors have no words, or only those of a library.
_BROKEN: tuple[tuple[type[BaseException], str], ...] = (
    (http.client.RemoteDisconnected, "the connection was closed before it began"),
    (urllib3_errors.InvalidChunkLength, "its chunks are damaged"),
    (http.client.IncompleteRead, "it was cut short"),
    (http.client.BadStatusLine, "it is no HTTP"),
    (http.client.HTTPException, "its head is too long, or no head"),
)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return error.strerror or ""
