"""Find the home's writer, or start it without waiting for it.

Rule 1  Whoever finds nobody listening takes the start lock, looks again, and starts one writer. The locked descriptor is
        handed to the new process, which lets go of it when it listens: so the lock says "one is on its way", the
        starter need not wait, and a starter that is killed leaves nothing locked.
Rule 2  A newcomer's ring exists before it asks. A writer that leaves takes the start lock, unbinds, and looks at the rings;
        after it has let go of the lock it looks once more, and starts a successor for whoever came meanwhile. So nobody
        is lost who found the lock held and went on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import threading
import time
from typing import NamedTuple

from seclea.contract import Home
from seclea.errors import PipelineError
from seclea.processes.rendezvous import ask, prepare, ring_bell
from seclea.processes.spawn import spawn_detached

_ANSWER_SECONDS = 1.0
_LOOK_SECONDS = 0.02
_STDERR = 2


class Started(NamedTuple):
    """What `ensure_writer` did: ``found`` a listening writer, and the pid of one that it ``started`` (0: none)."""

    found: bool
    started: int = 0


def take_start_lock(home: Home) -> int | None:
    """The start lock as a locked descriptor, or None when somebody holds it. Give back by `os.close`.

    A flock on a descriptor of our own, the same kernel lock that filelock takes: filelock cannot hand one over.
    """
    descriptor = os.open(home.start_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if descriptor <= _STDERR:  # closed in this process; in the writer, which gets it under its number, they are not
        low, descriptor = descriptor, fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _STDERR + 1)
        os.close(low)
    try:
        os.fchmod(descriptor, 0o600)  # the umask may have been anything
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def ensure_writer(home: Home) -> Started:
    """See that a writer is there or on its way; waits for neither.

    Raises:
        PipelineError: the process cannot be started.
    """
    if ring_bell(home):
        return Started(found=True)
    try:
        prepare(home)
        lock = take_start_lock(home)
    except OSError as error:
        raise _not_started(home, error) from error
    if lock is None:
        return Started(found=False)  # on its way
    try:
        if ring_bell(home):
            return Started(found=True)
        child = spawn_detached(
            "seclea.writer",
            ["--home", os.fspath(home.path), "--start-lock", str(lock)],
            home.logs / "writer.log",
            pass_fds=(lock,),
        )
    except OSError as error:
        raise _not_started(home, error) from error
    finally:
        os.close(lock)
    _reap(child)
    return Started(found=False, started=child.pid)


def _not_started(home: Home, error: OSError) -> PipelineError:
    return PipelineError(
        f"The background writer of {home.path} cannot be started: {error}.", "What was logged waits in the home."
    )


def replace_writer(home: Home, timeout_seconds: float = 5.0) -> None:
    """After the writer died: see that another one lives, not only that somebody listens.

    A process that was killed lets go of its descriptors one by one. Its lifeline may be cut while its socket still takes
    connections, so a bell that rings proves nothing; an answer does.

    Raises:
        PipelineError: the process cannot be started.
    """
    deadline = time.monotonic() + timeout_seconds
    while not ensure_writer(home).started and time.monotonic() < deadline:
        with contextlib.suppress(PipelineError):  # it does not answer: it may be the one that died
            if ask(home, {"op": "status"}, _ANSWER_SECONDS) is not None:
                return
        time.sleep(_LOOK_SECONDS)  # a poll with a deadline: the new writer tells nobody that it listens


def _reap(child: subprocess.Popen[bytes]) -> None:
    # A writer that ends before its starter would stay a zombie; this thread waits for it and never holds up an exit.
    try:
        threading.Thread(target=child.wait, name="seclea-reaper", daemon=True).start()
    except RuntimeError:  # no more threads for this user, or the interpreter is at its end
        child.returncode = 0  # let go of; or a warning would say that it still runs
