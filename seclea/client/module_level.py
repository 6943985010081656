"""``seclea.init``, ``seclea.log``, ``seclea.finish``: one current run, in the dialect of other trackers.

Which run is current: the one of `init`; else the one that this process started last and that is not over; else the one that
it joins (see `joining`).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from seclea.client.joining import inherited, is_importing_main, newest
from seclea.client.seclea_ai import SecleaAI
from seclea.client.training_run import TrainingRun
from seclea.director import Progress, open_pipelines
from seclea.entities import RunStatus
from seclea.errors import RunFinishedError

_current: TrainingRun | None = None
_client: SecleaAI | None = None
_registered = False


def init(
    project: str | None = None,
    name: str | None = None,
    organization: str | None = None,
    params: Mapping[str, Any] | None = None,
    **client: Any,
) -> TrainingRun:
    """Start a run and make it the current one; a current run before it is finished.

    Args:
        project, organization: as `SecleaAI`; without settings, the home's own portal and organization "local".
        name: of the run, "Training Run N" by default.
        params: hyperparameters.
        **client: further arguments of `SecleaAI` (platform_url, username, ...).
    """
    global _current, _client, _registered
    if is_importing_main() and (joined := inherited()) is not None:
        _current = joined  # the top level of the parent's script, run again in a spawned child
        return joined
    if _current is not None:
        _current.finish()
    _client = SecleaAI(project, organization, **client)
    _current = _client.start_training_run(name, params=params)
    if not _registered:
        _registered = True
        atexit.register(_at_exit, os.getpid())
    return _current


def log(metrics: Mapping[str, Any], step: int | None = None) -> None:
    """`TrainingRun.log` of the current run.

    Raises:
        RunFinishedError: there is no current run.
    """
    (_current or _find()).log(metrics, step)


def current_run() -> TrainingRun:
    """The run that `log` logs to: of `init`, or the newest of this process, or the one that it joins as a child.

    Raises:
        RunFinishedError: there is none, or it is over.
        ConfigurationError: ``SECLEA_RUN`` is set to something that cannot be read.
    """
    return _current if _current is not None and _current._ended is None else _find()


def _find() -> TrainingRun:
    global _current
    found = newest()
    if found is None and (found := inherited()) is not None and found._ended is None:
        _current = found
    if found is None or found._ended is not None:
        raise RunFinishedError("There is no current run.", "Call seclea.init(project) first.")
    return found


def finish(timeout: float = 60.0, status: str = RunStatus.FINISHED) -> Progress:
    """End the current run and wait until everything is delivered, for at most ``timeout`` seconds.

    Returns:
        What is done and what is left, and why.
    """
    global _current
    run, _current = _current or _find(), None
    return run.finish(status, timeout=timeout)


def _at_exit(owner: int) -> None:
    """A script that ends without finish(): say how it ended, wait for nothing."""
    if _current is not None and os.getpid() == owner:
        # Python sets last_type for the exception that ended the script, also when a file is run.
        failed = getattr(sys, "last_type", None) is not None
        with contextlib.suppress(Exception):
            for pipeline in open_pipelines():
                pipeline.hurry()  # the exit of a job is not ours to delay
            _current.finish(RunStatus.FAILED if failed else RunStatus.FINISHED)
