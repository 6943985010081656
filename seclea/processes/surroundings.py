"""What ends the background processes with the job, however detached they are: a container, a pid namespace, a Slurm job.

Nothing leaves its cgroup or pid namespace. So this is said once, at the start, with what to do about it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_HOST_PID_NAMESPACE = 0xEFFFFFFC  # inode of the machine's own. Source: Linux, include/linux/proc_ns.h
_CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv", "/.singularity.d")
_FLEETING = frozenset(
    {"overlay", "tmpfs", "ramfs", "aufs", "rootfs"}
)  # gone with the container, or with the machine's boot


def in_container(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether shared memory and processes are those of a container, not of the machine."""
    if "KUBERNETES_SERVICE_HOST" in environ or any(os.path.exists(path) for path in _CONTAINER_FILES):
        return True
    return _pid_namespace() not in (0, _HOST_PID_NAMESPACE)


def ends_with(environ: Mapping[str, str] = os.environ) -> str:
    """What the background processes will not outlive, in words; empty where they outlive the job."""
    if in_container(environ):
        return "this container"
    return "this Slurm job" if "SLURM_JOB_ID" in environ else ""


def notice(home: Path, environ: Mapping[str, str] = os.environ) -> str:
    """What to tell the user once, in a line; empty where there is nothing to say."""
    fleeting = _file_system(home)
    lost = f" Its home {home} is on {fleeting}, which may go as well: set SECLEA_HOME to a volume that stays."
    lost = lost if fleeting in _FLEETING else ""
    if ends := ends_with(environ):
        return (
            f"the background processes end with {ends}. seclea.complete() at the end of the job waits until all is"
            f" delivered; what is left goes on at the next start in the same home.{lost}"
        )
    return f"{home} is on {fleeting}: what is not delivered does not survive a reboot." if lost else ""


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _file_system(path: Path) -> str:
    """The type of the file system that holds ``path``; "" where unknown."""
    try:
        device = os.stat(path).st_dev
        place = f"{os.major(device)}:{os.minor(device)}"
        for line in Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines():
            if line.split(" ", 3)[2] == place:
                return line.partition(" - ")[2].split(" ", 1)[0]
    except (OSError, IndexError):
        pass
    return ""
