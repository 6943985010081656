"""The peers' own environments: made when first needed, outside the checkout, never in the lock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_INSTALL_SECONDS = 900.0
_VERSIONS = """
import importlib.metadata as m, json, sys
print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python with the packages that one group of contenders needs.

    Attributes:
        name: of its folder; empty for seclea's own ``.venv``.
        packages: as pip takes them. The plain names are those whose versions are reported.
    """

    name: str
    packages: tuple[str, ...] = ()


# numpy is the work of the training steps, psutil finds the processes to measure; each environment has both.
_MEASURING = ("numpy", "psutil")
OWN = Environment("", ("numpy", "psutil", "msgpack"))
WANDB = Environment("wandb", (*_MEASURING, "wandb"))
TRACKIO = Environment("trackio", (*_MEASURING, "trackio"))
TENSORBOARD = Environment("tensorboard", (*_MEASURING, "tensorboardX"))
SWANLAB = Environment("swanlab", (*_MEASURING, "swanlab"))
MLFLOW = Environment("mlflow", (*_MEASURING, "mlflow"))
ZMQ = Environment("zmq", (*_MEASURING, "pyzmq"))
FIFO = Environment("fifo", (*_MEASURING, "faster-fifo"))
TORCH = Environment("torch", (*_MEASURING, "torch==2.13.0"))  # the one build that a folder of wheels may hold
PLOT = Environment("plot", ("matplotlib",))


class Unavailable(Exception):
    """An environment could not be made."""


def folder() -> Path:
    """Where the environments are: ``$SECLEA_BENCH_HOME``, else the user's cache."""
    given = os.environ.get("SECLEA_BENCH_HOME")
    if given:
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "seclea-bench"


def python_of(environment: Environment) -> str:
    """The interpreter of an environment, which is made where it is missing.

    Raises:
        Unavailable: pip said no; the end of its words is in the message.
    """
    if not environment.name:
        return sys.executable
    place = folder() / environment.name
    python, stamp = place / "bin" / "python", place / "seclea-bench.json"
    wanted = json.dumps(environment.packages)
    if python.exists() and stamp.exists() and stamp.read_text("utf-8") == wanted:
        return str(python)
    print(f"bench: making {place} with {' '.join(environment.packages)}", file=sys.stderr, flush=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(place)],
        [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q", *environment.packages],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"{environment.name}: {error}") from error
        if done.returncode:
            raise Unavailable(f"{environment.name}: {done.stderr.strip()[-500:]}")
    stamp.write_text(wanted, "utf-8")
    return str(python)


def versions_of(environment: Environment) -> dict[str, str]:
    """What is installed of the packages that the environment is for; empty when it cannot be asked."""
    names = [package.split("==")[0] for package in environment.packages]
    try:
        done = subprocess.run(
            [python_of(environment), "-c", _VERSIONS, *names], capture_output=True, text=True, check=True, timeout=60
        )
    except (Unavailable, OSError, subprocess.SubprocessError):
        return {}
    found: dict[str, str] = json.loads(done.stdout)
    return found
