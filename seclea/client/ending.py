"""What a process says of its runs when it comes to its end: how it ends, where Python tells; it waits for nothing.

Rule 1  A run of `seclea.init` ends with its process: finished, or failed when an exception or a code other than 0 ends it. A
        run of `SecleaAI` that nobody has finished fails in that case; else nothing is claimed of it.
Rule 2  Each ring of the process says that the process ends in order. A process that is killed does not come here; the
        writer tells the one from the other (`seclea.writer.ends`).
Rule 3  Python does not tell an ``atexit`` function of a ``sys.exit(3)``. So `sys.exit` is wrapped once a run is started: the
        exception carries a witness, which sees whether it was caught or ended the process. What raises `SystemExit` by itself
        (``exit()`` of an interactive session) is not seen.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from seclea.client import joining
from seclea.director import open_pipelines
from seclea.entities import RunStatus
from seclea.queues.temporary import call_at_exit

_TERMINATED = 128 + 15  # how a script says that it ends because of a SIGTERM
_watching = 0  # the process whose end is watched
_exit_code: object = None  # of the `sys.exit` that ends this process


def watch() -> None:
    """See to the runs of this process when it ends."""
    global _watching
    if _watching == os.getpid():
        return
    first = not _watching
    _watching = os.getpid()
    if first:  # a forked child has inherited both
        atexit.register(_at_exit)
        if sys.exit is _plain_exit:  # else somebody else has wrapped it, and may put it back
            setattr(sys, "exit", _exit)  # noqa: B010  (an assignment that mypy would refuse)
    call_at_exit(_at_exit)


class _Witness:
    """Goes with a `SystemExit`. When that ends the process, no Python code runs any more as it is thrown away."""

    def __init__(self, code: object) -> None:
        self._code = code

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # an exception may travel to another process

    def __del__(self, _frame: Callable[[int], Any] = sys._getframe) -> None:
        global _exit_code
        try:
            _frame(1)
        except ValueError:
            _exit_code = self._code


_plain_exit = sys.exit


def _exit(status: Any = None, /) -> NoReturn:
    """Exit the interpreter by raising SystemExit(status)."""
    error = SystemExit() if status is None else SystemExit(*status) if type(status) is tuple else SystemExit(status)
    if threading.current_thread() is threading.main_thread():
        with contextlib.suppress(Exception):
            vars(error)["seclea"] = _Witness(error.code)
    raise error


def _status() -> RunStatus:
    """How this process ends."""
    # Python sets last_value for the exception that ended a script, and in an interactive session for any; a child of
    # multiprocessing is still raising its own.
    last = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
    error = last or sys.exc_info()[1]
    if error is not None and not isinstance(error, SystemExit):
        return RunStatus.FAILED
    code = _exit_code if error is None else error.code
    if code == _TERMINATED:
        return RunStatus.PREEMPTED
    return RunStatus.FINISHED if code in (None, 0) else RunStatus.FAILED


def _at_exit() -> None:
    with contextlib.suppress(Exception):
        status = _status()
        for pipeline in open_pipelines():
            pipeline.hurry()  # the exit of a job is not ours to delay
        for run, of_init in joining.started_here():
            if of_init or status != RunStatus.FINISHED:
                run.finish(status)
        for pipeline in open_pipelines():
            pipeline.say_end()
