"""How a run reaches the processes that come after it: published when it starts, joined at their first log call.

Rule 1  A run is published in the environment (``SECLEA_RUN``) and, as a forkserver that already runs does not see later
        changes of that, with multiprocessing's process object, of whose settings every child gets a copy. Nothing of
        multiprocessing is replaced, and nothing of it is imported here.
Rule 2  One run is published at a time: that of `seclea.init`, else the one that `SecleaAI` started last. When it is over it
        is withdrawn, and what was there before is put back.
Rule 3  A child that joins opens nothing before it logs, and ends nothing but its own part.
Rule 4  While multiprocessing imports the script again in a child, to start a run is to join the parent's.
Rule 5  The ranks of one launch derive one uuid for a run, each for itself, and all hand the run over: the writer takes it
        once. The first rank of the machine ends it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seclea.client.training_run import TrainingRun
from seclea.client.validation import check_metrics
from seclea.contract import Destination, Home
from seclea.director import Progress, Speaker
from seclea.entities import ModelState, RunStatus
from seclea.errors import ConfigurationError, RunFinishedError
from seclea.processes.liveness import boot_id, identity_of
from seclea.settings import Settings

VARIABLE = "SECLEA_RUN"
_KEY = "seclea_run"  # in the settings of a process object of multiprocessing
_VERSION = 1

_lock = threading.RLock()
_started: list[TrainingRun] = []  # by `SecleaAI`, here or in the process that forked this one; not over
_of_init: TrainingRun | None = None
_before: str | None = None  # what was published before the first of these; None while there are none
_left: set[str] = set()  # runs of others whose part in this process is over
_joined: TrainingRun | None = None
_is_settled = False  # whether `_joined` stays what it is
_counts: dict[tuple[str, str, str], int] = {}  # runs that this rank has started
_is_child_of_rank = False


# ------------------------------------------------------------------------------------------------------------------
# Publishing


def publish(run: TrainingRun, *, of_init: bool = False) -> None:
    """Make ``run`` the one that this process's future children join."""
    global _of_init, _before
    with _lock:
        if _before is None:
            _before = _published()
        if of_init:
            if run in _started:
                _started.remove(run)
            _of_init = run
        else:
            _started.append(run)
        _show_current()


def withdraw(run: TrainingRun) -> None:
    """``run`` is over, or this process's part of it."""
    global _of_init
    with _lock:
        if _of_init is not None and _of_init.uuid == run.uuid:
            _of_init = None
        _started[:] = [one for one in _started if one.uuid != run.uuid]
        if run._owner != os.getpid():
            _left.add(run.uuid)
        _show_current()


def started(uuid: str) -> TrainingRun | None:
    """The run of this uuid, if this process started it and it is not over."""
    return next((run for run in (_of_init, *_started) if run is not None and run.uuid == uuid), None)


def started_here() -> list[tuple[TrainingRun, bool]]:
    """The runs that this process has to end and has not: (run, whether it is that of `seclea.init`)."""
    runs = ([(_of_init, True)] if _of_init is not None else []) + [(run, False) for run in _started]
    return [(run, of_init) for run, of_init in runs if run._owner == os.getpid() and run._ended is None]


def _own() -> TrainingRun | None:
    return _of_init or (_started[-1] if _started else None)


def _show_current() -> None:
    global _before
    run = _own()
    if run is not None:
        _show(_text_of(run))
        return
    text, _before = _published() if _before is None else _before, None
    _show("" if text and _read(text)["uuid"] in _left else text)


def _show(text: str) -> None:
    """Publish ``text``; empty: that there is no run."""
    if text:
        os.environ[VARIABLE] = text
    else:
        os.environ.pop(VARIABLE, None)
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process()._config[_KEY] = text


def _text_of(run: TrainingRun) -> str:
    speaker = run._speaker
    said = {
        "v": _VERSION,
        "uuid": run.uuid,
        "name": run.name,
        "home": os.fspath(run._home.path),
        "project": speaker.project,
        "settings": speaker.settings.to_json(),
        "launch": launch(),
        "boot": boot_id(),
    }
    return json.dumps(said, separators=(",", ":"))


def _read(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
        return {
            **said,
            "uuid": str(said["uuid"]),
            "home": str(said["home"]),
            "project": str(said["project"]),
            "boot": str(said["boot"]),
        }
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{VARIABLE}: holds no run of seclea.", "Unset it: only seclea sets it.") from None


# ------------------------------------------------------------------------------------------------------------------
# Joining


def current() -> TrainingRun | None:
    """The run that `seclea.log` logs to: that of `seclea.init`, else the last that was started here, else the parent's."""
    return _own() or joined()


def joined() -> TrainingRun | None:
    """The run of the process that started this one, if it had one and this process has not left it."""
    global _joined, _is_settled
    if _is_settled and _joined is not None and _joined._ended is None:
        return _joined
    text = _published()
    if not text:
        return None
    said = _read(text)
    if said["boot"] != boot_id():
        return None  # carried to another machine, whose home knows nothing of the run
    with _lock:
        if _joined is None or _joined.uuid != said["uuid"]:
            settings = Settings.from_json(said["settings"])
            destination = Destination(settings.platform_url, settings.auth_url, settings.organization)
            speaker = Speaker(destination, said["project"], settings)
            _joined = TrainingRun(Home(said["home"]), speaker, said["uuid"], str(said["name"]), owner=0)
        os.environ[VARIABLE] = text  # in a forkserver's child, for what it starts itself
        _is_settled = not repeats()
        return _joined


def _published() -> str:
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        text = process.current_process()._config.get(_KEY)
        if text is not None:
            return str(text)
    return os.environ.get(VARIABLE, "")


# ------------------------------------------------------------------------------------------------------------------
# A script that is imported again


def repeats() -> bool:
    """Whether multiprocessing imports the parent's script in this child right now (spawn, forkserver)."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and bool(getattr(process.current_process(), "_inheriting", False))


def repeated_run() -> TrainingRun:
    """What starting a run gives meanwhile: the parent's, or one that is the parent's as soon as there is one."""
    return joined() or _LaterRun()


class _LaterRun(TrainingRun):
    """Stands for the run that this process turns out to have when something is logged.

    Without any, nothing is recorded: what stands above the guard of a script, the process that was started by a person
    has recorded already.
    """

    def __init__(self) -> None:
        self.uuid = self.name = ""
        self._ended = None
        self._terminated = False
        self._templates = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return (_LaterRun, ())

    def _log_checked(self, metrics: Mapping[str, Any], step: int | None) -> None:
        run = current()
        if run is not None:
            run.log(metrics, step)
        else:
            check_metrics(metrics)
            self._say()

    def log_model_state(
        self, model: Any, step: int | None = None, *, final: bool = False, metadata: Mapping[str, Any] | None = None
    ) -> ModelState:
        run = current()
        if run is None:
            raise RunFinishedError("There is no run in this process.", "Move this below if __name__ == '__main__'.")
        return run.log_model_state(model, step, final=final, metadata=metadata)

    def finish(self, status: str = RunStatus.FINISHED, *, timeout: float | None = None) -> Progress:
        run = current()
        return Progress(True) if run is None else run.finish(status, timeout=timeout)

    def _end(self, how: str) -> None:
        pass

    def _say(self) -> None:
        global _is_said
        if not _is_said:
            _is_said = True
            print(
                f"seclea: process {os.getpid()} runs its parent's script again and has no run: what it logs is left out.",
                file=sys.stderr,
                flush=True,
            )


_is_said = False


# ------------------------------------------------------------------------------------------------------------------
# Ranks that nobody of ours has started


def shared_uuid(destination: Destination, project: str) -> str | None:
    """The uuid of the next run that all ranks of this launch start; None outside a launch, and in children of a rank."""
    of = launch()
    if of is None or _is_child_of_rank:
        return None
    inherited = _published() if _before is None else _before
    if inherited and _read(inherited).get("launch") == of:
        return None
    key = (destination.platform_url, destination.organization, project)
    with _lock:
        number = _counts[key] = _counts.get(key, 0) + 1
    # The script, because a wrapper may run two as one rank, the second after the first.
    digest = hashlib.sha256(json.dumps([of, *sys.argv[:1], *key, number]).encode()).hexdigest()
    # Version 8: made as its maker likes. Source: RFC 9562, section 5.8.
    return (
        f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-{'89ab'[int(digest[16], 16) & 3]}{digest[17:20]}-{digest[20:32]}"
    )


def is_first_rank() -> bool:
    """Whether this rank ends the run that it shares: the first of the machine, where the run does not reach further."""
    local = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
    return local == "0"


def launch() -> str | None:
    """What the ranks of one launch on one machine have in common, and no other launch has; None outside one.

    Of torchrun: its agent, the nearest process above that was not itself started as a rank. Of Slurm: the ``slurmstepd``
    that started this task; a task that is started through a shell has none, as the shell may start others after it.
    """
    environ = os.environ
    try:
        if "TORCHELASTIC_RUN_ID" in environ:
            words = [environ["TORCHELASTIC_RUN_ID"], environ.get("TORCHELASTIC_RESTART_COUNT", "")]
            pid = os.getppid()
            while b"TORCHELASTIC_RUN_ID=" in Path(f"/proc/{pid}/environ").read_bytes():
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        elif "SLURM_JOB_ID" in environ and "SLURM_STEP_ID" in environ:
            words = [environ["SLURM_JOB_ID"], environ["SLURM_STEP_ID"]]
            pid = os.getppid()
            if Path(f"/proc/{pid}/comm").read_text().strip() != "slurmstepd":
                return None
        else:
            return None
        above = identity_of(pid)
    except (OSError, ValueError, IndexError):  # no /proc, or that process is gone or another user's
        return None
    words += [str(above.pid), str(above.start_ticks), above.boot_id, str(above.namespace)]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32]


def _after_fork_in_child() -> None:
    global _lock, _is_settled, _is_child_of_rank
    _lock = threading.RLock()
    _is_settled = False
    _is_child_of_rank = _is_child_of_rank or bool(_counts)


os.register_at_fork(after_in_child=_after_fork_in_child)
