"""How bytes reach a portal: connections over TCP, TLS and unix sockets, as adapters of requests.

Rule 1  Nothing is tried twice here: every retry is the sender's decision (`Retry(total=0)`).
Rule 2  Connecting has a short timeout of its own; after that each send and each receive may take the longer one.
        (urllib3 would send the body under the connect timeout, so that a chunk of 8 MiB never passed a slow line.)
Rule 3  TLS 1.2 or newer, always verified.
Rule 4  A unix socket is only spoken to when its listener is a process of this user.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.poolmanager import PoolManager
from urllib3.util.retry import Retry
from urllib3.util.ssl_ import create_urllib3_context

from seclea.api.pace import PacedResponse

CONNECTIONS = 4  # kept alive per host: both lanes, a login, a look-up


def never_retry() -> Retry:
    """The adapter's retry policy: none, said for each cause. ``read=False`` hands errors through unwrapped."""
    return Retry(
        total=0,
        connect=0,
        read=False,
        redirect=0,
        status=0,
        other=0,
        respect_retry_after_header=False,
        raise_on_redirect=False,
        raise_on_status=False,
    )


class TcpAdapter(HTTPAdapter):
    """HTTP and HTTPS over TCP, directly or through a proxy."""

    def __init__(self, connect_timeout_seconds: float) -> None:
        self._pools = _tcp_pools(connect_timeout_seconds)
        super().__init__(pool_connections=2, pool_maxsize=CONNECTIONS, max_retries=never_retry())

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Called by the base class."""
        super().init_poolmanager(*args, ssl_context=_tls(), **kwargs)
        self._use_own_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Called by the base class."""
        manager = super().proxy_manager_for(proxy, ssl_context=_tls(), **kwargs)
        self._use_own_pools(manager)
        return manager

    def _use_own_pools(self, manager: PoolManager) -> None:
        manager.pool_classes_by_scheme = dict(self._pools)


class UnixAdapter(HTTPAdapter):
    """HTTP over one unix socket, whatever the address says."""

    def __init__(self, path: Path, connect_timeout_seconds: float) -> None:
        self._pool = _unix_pool(path, connect_timeout_seconds)
        super().__init__(max_retries=never_retry())

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        """Called by requests 2.32 and newer."""
        return self._pool

    def get_connection(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        """Called by requests 2.31."""
        return self._pool

    def close(self) -> None:
        """Drop the connections."""
        self._pool.close()
        super().close()


def _tls() -> ssl.SSLContext:
    context = create_urllib3_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _tcp_pools(connect_timeout_seconds: float) -> Mapping[str, type[HTTPConnectionPool]]:
    class Connection(HTTPConnection):
        response_class = PacedResponse

        def _new_conn(self) -> socket.socket:
            whole, self.timeout = self.timeout, connect_timeout_seconds
            try:
                sock = HTTPConnection._new_conn(self)  # not super(): TlsConnection borrows this
            finally:
                self.timeout = whole
            sock.settimeout(whole if isinstance(whole, int | float) else None)
            return sock

    class TlsConnection(HTTPSConnection):
        response_class = PacedResponse
        _new_conn = Connection._new_conn

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = TlsConnection

    return {"http": Pool, "https": TlsPool}


def _unix_pool(path: Path, connect_timeout_seconds: float) -> HTTPConnectionPool:
    class Connection(HTTPConnection):
        response_class = PacedResponse

        def _new_conn(self) -> socket.socket:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(connect_timeout_seconds)
                sock.connect(os.fspath(path))
                _check_peer(sock)
                sock.settimeout(self.timeout if isinstance(self.timeout, int | float) else None)
            except TimeoutError as error:
                sock.close()
                raise ConnectTimeoutError(self, f"no connection to {path}") from error
            except OSError as error:
                sock.close()
                raise NewConnectionError(self, f"no connection to {path}: {error}") from error
            except BaseException:
                sock.close()
                raise
            return sock

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    return Pool("localhost", maxsize=CONNECTIONS)


def _check_peer(sock: socket.socket) -> None:
    if not hasattr(socket, "SO_PEERCRED"):  # no Linux: the 0700 directory has to do
        return
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if uid != os.geteuid():
        raise PermissionError(f"the socket's listener is a process of another user (uid {uid})")
