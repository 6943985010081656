"""``seclea.init``, ``seclea.log``, ``seclea.finish``: one current run, in the dialect of other trackers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seclea.api.tokens import Token
from seclea.client import joining
from seclea.client.seclea_ai import SecleaAI
from seclea.client.training_run import TrainingRun
from seclea.director import Progress
from seclea.entities import RunStatus
from seclea.errors import RunFinishedError

_current: TrainingRun | None = None  # that `init` started here (or in the process that forked this one)


def init(
    project: str | None = None,
    name: str | None = None,
    organization: str | None = None,
    params: Mapping[str, Any] | None = None,
    **client: Any,
) -> TrainingRun:
    """Start a run and make it the current one; a run of `init` before it is finished.

    The ranks of torchrun have one run together; a script that multiprocessing imports again in a child joins its parent's.

    Args:
        project, organization: as `SecleaAI`; without settings, the home's own portal and organization "local".
        name: of the run, "Training Run N" by default.
        params: hyperparameters.
        **client: further arguments of `SecleaAI` (platform_url, username, ...).
    """
    global _current
    if isinstance(client.get("password"), str):
        client["password"] = Token(client["password"])  # a crash reporter may show the locals of this frame
    if joining.repeats():
        return joining.repeated_run()
    if _current is not None:
        _current.finish()
    _current = SecleaAI(project, organization, **client).start_training_run(name, params=params)
    joining.publish(_current, of_init=True)
    return _current


def current_run() -> TrainingRun | None:
    """The run that `log` logs to: that of `init`, else the one that `SecleaAI` started last here, else the parent's.

    None when these are over, or this process has finished its part of them. A process has a parent's run when it was
    started while that one went on, by whatever way: fork, spawn, forkserver, another script.
    """
    return joining.current()


def log(metrics: Mapping[str, Any], step: int | None = None) -> None:
    """`TrainingRun.log` of the current run (`current_run`).

    Raises:
        RunFinishedError: there is no current run.
    """
    _current_run().log(metrics, step)


def finish(timeout: float = 60.0, status: str = RunStatus.FINISHED) -> Progress:
    """End the current run and wait until everything is delivered, for at most ``timeout`` seconds.

    In a process that joined its parent's run, only this process's part ends.

    Returns:
        What is done and what is left, and why.
    """
    return _current_run().finish(status, timeout=timeout)


def _current_run() -> TrainingRun:
    run = joining.current()
    if run is None:
        raise RunFinishedError(
            "There is no current run.",
            "Call seclea.init(project) first; a process joins the run that its parent has started before it.",
        )
    return run
