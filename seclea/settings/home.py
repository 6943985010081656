"""The home directory of the pipeline: on a disk of this machine, owned by this user.

Where it lies is not a setting, it says which pipeline the
settings are for. `home_directory` computes it and makes nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from seclea.errors import ConfigurationError


class HomeChoice(NamedTuple):
    """A home, and why it is not the usual place: a sentence to tell the user once, empty where it is."""

    path: Path
    reason: str = ""


# sqlite's WAL and mmapped rings need one kernel's page cache: other machines write to these behind its back.
_NETWORK_TYPES = frozenset(
    """
    nfs nfs4 cifs smb smb2 smb3 smbfs ncpfs afs auristorfs coda 9p ceph lustre gpfs mmfs beegfs fhgfs glusterfs
    pvfs2 orangefs panfs wekafs gfs2 ocfs2 fuse.sshfs fuse.ceph fuse.ceph-fuse fuse.glusterfs fuse.juicefs fuse.s3fs
    fuse.gcsfuse fuse.rclone fuse.davfs fuse.smbnetfs fuse.dfuse fuse.mfs fuse.seaweedfs fuse.goofys fuse.mount-s3
    """.split()  # noqa: SIM905  (forty quoted words read worse)
)
_FALLBACKS = ("/var/tmp", "/tmp")  # noqa: S108  (a directory of our own in it, owner checked)


def home_directory(environ: Mapping[str, str] | None = None) -> HomeChoice:
    """Where ledger, spool and logs lie: SECLEA_HOME, else $XDG_STATE_HOME/seclea, else ~/.local/state/seclea.

    On a network file system, or where it cannot be written, a directory of this user under /var/tmp that is named for
    the path. Makes nothing. The answer given back as SECLEA_HOME is the answer again.

    Raises:
        ConfigurationError: SECLEA_HOME is no directory that this user can write.
    """
    environ = os.environ if environ is None else environ
    chosen = environ.get("SECLEA_HOME", "").strip()
    state = environ.get("XDG_STATE_HOME", "")
    if chosen:
        wanted = os.path.abspath(os.path.expanduser(chosen))
    elif os.path.isabs(state):  # the XDG specification: a relative one is ignored
        wanted = os.path.join(state, "seclea")
    elif (user := user_home(environ)) is not None:
        wanted = str(user / ".local/state/seclea")
    else:
        return _fallback("~/.local/state/seclea", "this user has no home directory")
    problem = _unwritable(wanted)
    if chosen and problem:
        raise ConfigurationError(f"SECLEA_HOME: {wanted} cannot be used: {problem}.", "Name a directory of your own.")
    mounts = _mounts()
    network = _file_system(wanted, mounts)
    if network in _NETWORK_TYPES and not _is_fallback(wanted):
        return _fallback(wanted, f"{wanted} is on a network file system ({network})", mounts)
    return _fallback(wanted, f"{wanted} cannot be used: {problem}", mounts) if problem else HomeChoice(Path(wanted))


def user_home(environ: Mapping[str, str]) -> Path | None:
    if os.path.isabs(home := environ.get("HOME", "")):
        return Path(home)
    try:
        import pwd

        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except (ImportError, KeyError):  # a container that runs as a number
        return None


def _existing(path: str) -> str:
    path = os.path.realpath(path)
    while not os.path.lexists(path) and path != "/":
        path = os.path.dirname(path)
    return path


def _unwritable(path: str) -> str:
    try:
        nearest = _existing(path)
        if not os.path.isdir(nearest):
            return f"{nearest} is no directory"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        return str(error)
    return "" if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} is not writable"


def _mounts() -> str:
    try:
        return Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # no Linux: taken as local
        return ""


def _file_system(path: str, mounts: str) -> str:
    """The type of the file system that holds ``path`` (or will: its nearest existing parent), "" where unknown."""
    path = _existing(path)
    best, found = -1, ""
    for line in mounts.splitlines():
        parts = line.split(" ")
        if len(parts) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), parts[1])
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(
            point
        ) >= best:  # a later one lies on top
            best, found = len(point), parts[2]
    return found


def _own_directory(base: str) -> str:
    return os.path.join(base, f"seclea-{os.getuid()}")


def _is_fallback(path: str) -> bool:
    return any(path.startswith(_own_directory(base) + "/") for base in _FALLBACKS)


def _fallback(wanted: str, reason: str, mounts: str | None = None) -> HomeChoice:
    mounts = _mounts() if mounts is None else mounts
    name = hashlib.sha256(os.fsencode(wanted)).hexdigest()[:16]
    usable = [base for base in _FALLBACKS if not _unwritable(base) and _is_ours(_own_directory(base))]
    local = [base for base in usable if _file_system(base, mounts) not in _NETWORK_TYPES]
    for base in local or usable:
        path = Path(_own_directory(base), name)
        return HomeChoice(path, f"{reason}; using {path} instead.")
    return HomeChoice(Path(wanted), f"{reason}, and neither of {', '.join(_FALLBACKS)} is usable.")


def _is_ours(path: str) -> bool:
    """Whether ``path`` is free or a directory of this user: in /var/tmp somebody else may have been first."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return True
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
