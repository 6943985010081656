"""How processes of one home find each other: private directories, lifelong locks, and a unix socket.

Rule 1  "Alive" means "holds the lock". Lock files are flocks in the home and are never unlinked.
Rule 2  Messages are a 4-byte length and a msgpack map, at most 1 MiB; a peer of another user is not spoken to.
Rule 3  Everything here has a timeout; a missed bell costs the listener's own timeout, nothing more.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Any

import msgpack
from filelock import FileLock, Timeout

from seclea.contract import PROTOCOL_VERSION, Home
from seclea.errors import PipelineError

MAX_MESSAGE_BYTES = 1 << 20
_LENGTH = struct.Struct(">I")


def private_directory(path: Path) -> Path:
    """Make ``path`` (and its parents) if needed and see that it is ours alone: a real directory, our uid, 0700.

    Raises:
        PipelineError: somebody else owns it, or it is a link.
    """
    for directory in (*reversed(path.parents), path) if not path.parent.is_dir() else (path,):
        try:
            os.mkdir(directory, 0o700)
            os.chmod(directory, 0o700)  # under a umask like 0777 nobody could enter it
        except FileExistsError:
            pass
        except OSError:  # a read-only file system refuses even what exists
            if not directory.is_dir():
                raise
    facts = os.lstat(path)
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise PipelineError(
            f"{path} is not a directory of this user.", "Remove it, or set SECLEA_HOME and XDG_RUNTIME_DIR elsewhere."
        )
    if stat.S_IMODE(facts.st_mode) & 0o077:
        os.chmod(path, 0o700)
    return path


def prepare(home: Home) -> None:
    """Make the home's directories."""
    spool = (home.spool, home.incoming, home.making, home.chunks)
    for path in (home.path, *spool, home.rings, home.queues, home.logs, home.runtime):
        private_directory(path)


def take_lock(path: Path, timeout_seconds: float = 0.0) -> FileLock | None:
    """Take a lifelong lock, or None when another process holds it. Dropped by the kernel at our death.

    Opened close-on-exec by Python; a bare fork inherits it, which is why nothing here forks without exec.
    """
    # filelock's own Unix lock is a flock, re-entrant within one FileLock object only.
    lock = FileLock(str(path), mode=0o600, timeout=timeout_seconds, thread_local=False, is_singleton=False)
    try:
        lock.acquire(timeout=timeout_seconds, poll_interval=0.005)
    except Timeout:
        return None
    return lock


def is_held(path: Path) -> bool:
    """Whether some process holds the lock at ``path``."""
    if not path.exists():
        return False
    lock = take_lock(path)
    if lock is None:
        return True
    lock.release()
    return False


# ------------------------------------------------------------------------------------------------------------------
# The socket


def listen(home: Home) -> socket.socket:
    """The writer's listening socket; only the holder of the writer lock may call this."""
    private_directory(home.runtime)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(home.socket)  # of a dead writer: the lock is ours
    previous = os.umask(0o177)
    try:
        listener.bind(os.fspath(home.socket))
    finally:
        os.umask(previous)
    listener.listen(512)
    listener.setblocking(False)
    # Not unlinked first: whoever looks finds the old one or the new one.
    unfinished = f"{home.socket_link}.new"
    with contextlib.suppress(OSError):  # a file system without links: then all must have the same runtime directory
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
        os.symlink(home.socket, unfinished)
        os.replace(unfinished, home.socket_link)
    return listener


def where_it_listens(home: Home) -> str:
    """The path of the writer's socket, which may lie in another runtime directory than ours would."""
    try:
        return os.readlink(home.socket_link)
    except OSError:
        return os.fspath(home.socket)


def is_same_user(connection: socket.socket) -> bool:
    """Whether the peer runs as our user (SO_PEERCRED; elsewhere the 0700 directory stands for it)."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", packed)
    return bool(uid == os.getuid())


def encode(message: dict[str, Any]) -> bytes:
    """A message as it stands on the socket."""
    body = msgpack.packb(message)
    return _LENGTH.pack(len(body)) + bytes(body)


class MessageBuffer:
    """Bytes in, whole messages out; of at most ``most_bytes`` each."""

    def __init__(self, most_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._bytes = bytearray()
        self._most_bytes = most_bytes

    def __len__(self) -> int:
        return len(self._bytes)

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that are complete now.

        Raises:
            ValueError: no message of ours; close the connection.
        """
        self._bytes += data
        messages = []
        while len(self._bytes) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._bytes)
            if length > self._most_bytes:
                raise ValueError(f"a message of {length} bytes")
            if len(self._bytes) < _LENGTH.size + length:
                break
            body = bytes(self._bytes[_LENGTH.size : _LENGTH.size + length])
            del self._bytes[: _LENGTH.size + length]
            try:
                message = msgpack.unpackb(body, raw=False)
            except Exception as error:  # msgpack raises half a dozen types for bad input
                raise ValueError(f"no msgpack: {error}") from None
            if not isinstance(message, dict):
                raise ValueError("no map")
            messages.append(message)
        return messages


def ring_bell(home: Home) -> bool:
    """Wake the writer; False when nobody listens. Never blocks, never raises."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
            connection.connect(where_it_listens(home))
    except BlockingIOError:
        return True  # its backlog is full: it has bells enough
    except OSError:  # also where this process has no descriptor left
        return False
    return True


def ask(home: Home, message: dict[str, Any], timeout_seconds: float = 5.0) -> dict[str, Any] | None:
    """Send one message to the writer and wait for its answer; None when nobody listens.

    Raises:
        PipelineError: it does not answer in time, speaks another protocol, or refused the message.
    """
    buffer = MessageBuffer()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_seconds)
        try:
            connection.connect(where_it_listens(home))
            if not is_same_user(connection):
                raise PipelineError(f"{where_it_listens(home)} belongs to another user.", "Remove it.")
            connection.sendall(encode({"v": PROTOCOL_VERSION, **message}))
            while True:
                data = connection.recv(65536)
                if not data:
                    return None  # it left while we asked
                for reply in buffer.feed(data):
                    if "error" in reply:
                        raise PipelineError(str(reply["error"]))
                    return reply
        except TimeoutError:
            raise PipelineError(
                f"The background writer of {home.path} did not answer within {timeout_seconds:g} s.",
                f"Look at {home.logs / 'writer.log'}.",
            ) from None
        except (ConnectionError, FileNotFoundError):
            return None
