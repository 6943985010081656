"""How the processes of a job find the run that one of them started.

Rule 1  A run that starts is published for the children to come: in the environment (``SECLEA_RUN``: spawned processes,
        other scripts) and, because a forkserver that runs already does not see later changes of it, in the configuration
        that `multiprocessing` copies into each process object. A forked child has it in memory anyway.
Rule 2  The newest run that is not over is the published one. When it ends, the one before it is again, or what this
        process itself was given, or nothing: never a run that is over.
Rule 3  A child joins at its first log call, with a ring of its own; one that never logs costs nothing. It does not own the
        run, so it cannot end it.
Rule 4  Ranks of one `torchrun` have no parent with a run. They compute the same uuid from their launch, and rank 0 owns it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seclea.contract import Destination, Home
from seclea.director import Speaker
from seclea.errors import ConfigurationError
from seclea.processes.liveness import boot_id, identity_of
from seclea.settings import Settings

if TYPE_CHECKING:
    from seclea.client.training_run import TrainingRun

VARIABLE = "SECLEA_RUN"
_CONFIG = "seclea_run"  # in the configuration of multiprocessing's process objects
_LAUNCH = "TORCHELASTIC_RUN_ID"  # torchrun sets it for its ranks, not for itself
_MOST_ANCESTORS = 32

_published: list[TrainingRun] = []
_inherited: str | None = None  # what this process was given, read before it published anything
_joined: tuple[str, TrainingRun] | None = None
_launched = 0  # runs that this process shared with its launch so far


def publish(run: TrainingRun) -> None:
    """From now on children join this run."""
    global _inherited
    if not _published:
        _inherited = _given()
    _published.append(run)
    _announce()


def withdraw(run: TrainingRun) -> None:
    """The run is over."""
    if any(one is run for one in _published):
        _published[:] = [one for one in _published if one is not run]
        _announce()


def newest() -> TrainingRun | None:
    """The run that this process (or the one that forked it) published last and that is not over."""
    return _published[-1] if _published else None


def inherited() -> TrainingRun | None:
    """The run that the process which started this one had published; None where there is none (any more).

    Raises:
        ConfigurationError: ``SECLEA_RUN`` is set to something that cannot be read.
    """
    global _joined
    text = _inherited if _published else _given()
    if not text:
        return None
    if _joined is None or _joined[0] != text:
        run = _read(text)
        if run is None:
            return None
        _joined = text, run
    return _joined[1]


def is_importing_main() -> bool:
    """Whether multiprocessing is importing the user's main module in a spawned child right now.

    A run that the module starts at its top level is the parent's then, not another one.
    """
    process = sys.modules.get("multiprocessing.process")
    return process is not None and getattr(process.current_process(), "_inheriting", False)


def shared_uuid(destination: Destination, project: str) -> tuple[str, bool] | None:
    """The uuid of the next run of this launch, the same in all its ranks, and whether this is rank 0.

    None where the process is no rank of a `torchrun` on this machine.
    """
    global _launched
    process = sys.modules.get("multiprocessing.process")
    if _LAUNCH not in os.environ or (process is not None and process.parent_process() is not None):
        return None
    agent = _agent()
    if agent is None:
        return None
    facts = (
        *agent,
        os.environ[_LAUNCH],
        os.environ.get("TORCHELASTIC_RESTART_COUNT", ""),
        *(destination.platform_url, destination.auth_url, destination.organization, project),
        str(_launched),
    )
    _launched += 1
    value = int.from_bytes(hashlib.sha256("\0".join(facts).encode()).digest()[:16], "big")
    value = value & ~(0xF << 76) | 0x8 << 76  # version 8, "custom": RFC 9562, section 5.8
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    uuid = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    return uuid, os.environ.get("RANK", "0") == "0"


def _agent() -> tuple[str, str, str] | None:
    """What names the process that launched the ranks: the nearest ancestor that was not launched itself."""
    pid = os.getppid()
    for _ in range(_MOST_ANCESTORS):
        if pid <= 1:
            return None
        try:
            if f"\0{_LAUNCH}=".encode() not in b"\0" + Path(f"/proc/{pid}/environ").read_bytes():
                found = identity_of(pid)
                return str(found.pid), str(found.start_ticks), found.boot_id
            pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            return None
    return None


# -- the words ---------------------------------------------------------------------------------------------------------


def _announce() -> None:
    text = _describe(_published[-1]) if _published else _inherited or ""
    if text:
        os.environ[VARIABLE] = text
    else:
        os.environ.pop(VARIABLE, None)
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process()._config[_CONFIG] = text


def _given() -> str:
    process = sys.modules.get("multiprocessing.process")
    found = None if process is None else process.current_process()._config.get(_CONFIG)
    return os.environ.get(VARIABLE, "") if found is None else str(found)


def _describe(run: TrainingRun) -> str:
    speaker = run._speaker
    value = {
        "v": 1,
        "uuid": run.uuid,
        "name": run.name,
        "home": os.fsdecode(run._home.path),
        "project": speaker.project,
        "settings": speaker.settings.to_json(),
        "owner": run._owner,
        "boot": boot_id(),
    }
    return json.dumps(value, separators=(",", ":"))


def _read(text: str) -> TrainingRun | None:
    from seclea.client.training_run import TrainingRun

    try:
        value: Mapping[str, Any] = json.loads(text)
        if value["boot"] != boot_id():
            return None  # carried to another machine, whose home knows nothing of the run
        settings = Settings.from_json(value["settings"])
        destination = Destination(settings.platform_url, settings.auth_url, settings.organization)
        speaker = Speaker(destination, str(value["project"]), settings)
        return TrainingRun(
            Home(value["home"]), speaker, str(value["uuid"]), str(value["name"]), owner=int(value["owner"])
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{VARIABLE} cannot be read ({type(error).__name__}).", "seclea sets it for children; leave it as it is."
        ) from None
