"""``seclea.init``, ``seclea.log``, ``seclea.finish``: one current run, in the dialect of other trackers."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Mapping
from typing import Any

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
    if _current is None:
        raise RunFinishedError("There is no current run.", "Call seclea.init(project) first.")
    _current.log(metrics, step)


def finish(timeout: float = 60.0, status: str = RunStatus.FINISHED) -> Progress:
    """End the current run and wait until everything is delivered, for at most ``timeout`` seconds.

    Returns:
        What is done and what is left, and why.
    """
    global _current
    if _current is None:
        raise RunFinishedError("There is no current run.", "Call seclea.init(project) first.")
    run, _current = _current, None
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
