"""Running a portal: one per data folder, at two doors, until told to stop or, embedded, until nobody needs it.

Rule 1  Whoever holds ``portal.lock`` (a flock, never unlinked) is the portal of the folder. Only the holder touches the
        database, the socket and ``address.json``.
Rule 2  The order of leaving: stop accepting, take the address away, finish what is open, close the database, then the lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import resource
import secrets
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import filelock
import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from seclea.errors import SecleaError
from seclea.portal.app import create_app
from seclea.portal.config import PortalConfig
from seclea.portal.context import Portal
from seclea.portal.doors import App, Door
from seclea.portal.threads import stopping

logger = logging.getLogger(__name__)

SOCKET_BYTES = 107  # longest path of a unix socket
STOP_SECONDS = 1  # for requests in flight, once told to stop
HANDOVER_SECONDS = 3.0  # how long to wait for a portal that is leaving
OWNER_LOOK_SECONDS = 2.0  # between two looks at the owner's lock, when idle


class AlreadyServed(SecleaError):
    """Another portal serves this folder."""


def serve(config: PortalConfig, announce: Callable[[Portal], None] | None = None) -> None:
    """Serve until told to stop; ``announce`` is called once it accepts.

    Raises:
        AlreadyServed: another portal serves the folder.
        SecleaError: the folder, the socket or the port cannot be used.
    """
    os.umask(0o077)  # whatever is made here is the owner's alone, whichever library makes it
    with contextlib.suppress(OSError, ValueError):  # a core would hold the signing key
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    if config.data.stat().st_uid != os.getuid():
        raise SecleaError(f"{config.data} belongs to another user.")
    os.chmod(config.data, 0o700)
    held = hold_folder(config)
    held.__enter__()
    _held.append(held)
    _remove(config.address_path)
    with contextlib.ExitStack() as stack:
        socket_path = config.socket or default_socket(config.data)
        owner_socket = stack.enter_context(_bind_unix(socket_path))
        port_socket = stack.enter_context(_bind_tcp(config.host, config.port))
        app = create_app(config)
        portal: Portal = app.state.portal
        stack.callback(portal.close)
        host, port = port_socket.getsockname()[:2]
        portal.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        asyncio.run(_run(app, portal, owner_socket, port_socket, socket_path, announce))


# For as long as this process lives: whoever waits for the folder to be free waits until the process is gone.
_held: list[contextlib.AbstractContextManager[None]] = []


@contextlib.contextmanager
def hold_folder(config: PortalConfig) -> Iterator[None]:
    """Hold the folder's lock. Waits a little for a portal that is just starting or leaving: it shows no address."""
    lock = filelock.FileLock(config.lock_path, timeout=0, mode=0o600)
    deadline = time.monotonic() + HANDOVER_SECONDS
    while True:
        try:
            lock.acquire()
            break
        except filelock.Timeout:
            if config.address_path.exists() or time.monotonic() > deadline:
                raise AlreadyServed(
                    f"Another portal serves {config.data}.", f"Its address is in {config.address_path}."
                ) from None
            time.sleep(0.05)  # a poll with a deadline: whoever holds the lock is about to write its address, or to die
    try:
        yield
    finally:
        lock.release()


# ---------------------------------------------------------------------------------------------------------- sockets


def default_socket(data: Path) -> Path:
    """In the data folder; where that path is too long for a socket, in a folder of the user's own in /tmp."""
    path = data.resolve() / "portal.sock"
    if len(os.fsencode(path)) <= SOCKET_BYTES:
        return path
    name = hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"seclea-{os.getuid()}" / f"portal-{name}.sock"


@contextlib.contextmanager
def _bind_unix(path: Path) -> Iterator[socket.socket]:
    if len(os.fsencode(path)) > SOCKET_BYTES:
        raise SecleaError(f"The path of the socket is longer than {SOCKET_BYTES} bytes: {path}", "Choose --socket.")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = os.lstat(path.parent)
    if about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise SecleaError(f"{path.parent}, the folder of the socket, is not this user's alone (0700).")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _answers(path):
            raise AlreadyServed(f"Somebody else answers at {path}.")
        _remove(path)
        listener.bind(str(path))
        os.chmod(path, 0o600)
        yield listener
    finally:
        listener.close()
        _remove(path)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


@contextlib.contextmanager
def _bind_tcp(host: str, port: int) -> Iterator[socket.socket]:
    listener: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise SecleaError(f"Port {port} of {host} cannot be used: {error.strerror}.", "Choose --port.") from None
    with listener:
        yield listener


class OwnerProtocol(AutoHTTPProtocol):  # type: ignore[valid-type, misc]  # chosen at run time: httptools or h11
    """HTTP for the unix socket, spoken with processes of the same user (or root) alone."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Look who it is before reading a byte."""
        super().connection_made(transport)
        peer: socket.socket = transport.get_extra_info("socket")
        _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        if uid not in (os.getuid(), 0):
            logger.warning("a process of user %d was turned away from the owner's socket", uid)
            transport.abort()


# ---------------------------------------------------------------------------------------------------------- running


class _Server(uvicorn.Server):
    """Signals are handled once, for both doors."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


def _server(app: App, protocol: Any) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=STOP_SECONDS,
            h11_max_incomplete_event_size=64 * 1024,
            backlog=512,
        )
    )


async def _run(
    app: Any,
    portal: Portal,
    owner_socket: socket.socket,
    port_socket: socket.socket,
    socket_path: Path,
    announce: Callable[[Portal], None] | None,
) -> None:
    servers = (_server(Door(app, portal, "unix"), OwnerProtocol), _server(Door(app, portal, "tcp"), AutoHTTPProtocol))

    def stop() -> None:
        _remove(portal.config.address_path)
        stopping.set()
        for server in servers:
            server.should_exit = True

    portal.stop = stop
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    signal.signal(signal.SIGHUP, _ignore)
    running = [
        asyncio.create_task(server.serve(sockets=[listener]))
        for server, listener in zip(servers, (owner_socket, port_socket), strict=True)
    ]
    while not all(server.started for server in servers) and not any(task.done() for task in running):
        await asyncio.sleep(0.002)  # a poll: uvicorn tells nobody that it has started
    write_address(portal, socket_path)
    logger.info("the portal of %s is at %s", portal.config.data, portal.url)
    if announce is not None:
        announce(portal)
    watch = asyncio.create_task(_leave_when_idle(portal))
    try:
        await asyncio.gather(*running)
    finally:
        stop()
        watch.cancel()


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """SIGHUP: the terminal's end is not ours."""


def write_address(portal: Portal, socket_path: Path) -> None:
    """Tell where the portal is, all at once and to the owner alone."""
    path = portal.config.address_path
    body = json.dumps({"url": portal.url, "pid": os.getpid(), "socket": str(socket_path)}).encode()
    part = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(body)
    os.rename(part, path)


async def _leave_when_idle(portal: Portal) -> None:
    """Embedded: leave once nobody asked for anything for a while and the pipeline's writer does not live."""
    timeout = portal.config.idle_timeout_seconds
    while True:
        await asyncio.sleep(min(max(timeout / 4, 0.05), OWNER_LOOK_SECONDS))
        if portal.stay or portal.activity.idle_seconds() < timeout or owner_lives(portal.config.owner_lock):
            continue
        logger.info("nobody needs the portal of %s; it leaves", portal.config.data)
        portal.stop()
        return


def owner_lives(lock: Path | None) -> bool:
    """Whether somebody holds the lock. Taken shared and given back at once; only asked for when idle."""
    if lock is None:
        return False
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)  # gives the lock back too
    return False


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        pass
