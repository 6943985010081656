"""Start a process that outlives its parent: fork and exec of ``python -m MODULE``, in a session of its own.

Never a bare fork (the parent may hold CUDA, threads or locks), never multiprocessing's spawn (it would import the user's
``__main__``).
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import seclea

# What a background process needs from the environment; nothing else of the job's (secrets, CUDA, LD_PRELOAD) travels.
_KEPT = (
    "HOME",
    "LANG",
    "LC_ALL",
    "PATH",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "LD_LIBRARY_PATH",  # some interpreters do not start without it
)


_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def child_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for a background process: only what it needs, and the way to this very seclea."""
    kept = {name: environ[name] for name in _KEPT if name in environ}
    # A source checkout, or a notebook that changed sys.path: the child must find the same package, whatever its cwd.
    kept["PYTHONPATH"] = str(Path(seclea.__file__).resolve().parent.parent)
    kept["PYTHONUNBUFFERED"] = "1"
    return kept


def spawn_detached(
    module: str, arguments: Sequence[str], log_path: Path, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start ``python -m module arguments…`` in its own session, with its output appended to ``log_path``.

    The caller need not wait for it. The working directory is ``/``, so that the job's may vanish.
    """
    descriptor = _open_log(log_path)
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd="/",
            env=child_environment(),
            start_new_session=True,
            umask=0o077,
            close_fds=True,
            pass_fds=tuple(pass_fds),
        )
    finally:
        os.close(descriptor)


def _open_log(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        # The process is what makes itself heard when the disk is full; it must not need room there to start.
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)  # the umask may have been anything
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
