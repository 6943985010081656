"""Which loggers and queues are measured: how they are called in the tables, where they run, what they do not guarantee."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from benchmarks.contest import Contender
from benchmarks.environments import (
    FIFO,
    MLFLOW,
    OWN,
    SWANLAB,
    TENSORBOARD,
    TORCH,
    TRACKIO,
    WANDB,
    ZMQ,
    Environment,
)


@dataclass(frozen=True, slots=True)
class Entrant:
    """A logger or a queue.

    Attributes:
        label: in the tables.
        caveat: what it does not guarantee when its call returns; empty for floors.
        records: how many it makes durable in the full run, chosen for a few seconds.
        finish_is_flush: only ending the run waits for what was logged.
    """

    label: str
    environment: Environment
    caveat: str = ""
    records: int = 0
    finish_is_flush: bool = False


LOGGERS = {
    "nothing": Entrant("(clocks and a call)", OWN),
    "msgpack": Entrant("msgpack alone", OWN),
    "msgpack + copy": Entrant("msgpack + copy", OWN),
    "seclea ring": Entrant("seclea, ring put alone", OWN, "what was put survives any kill"),
    "seclea.Queue": Entrant("seclea `Queue.put`", OWN, "what was put survives any kill"),
    "multiprocessing.Queue": Entrant(
        "`multiprocessing.Queue.put`", OWN, "a feeder thread sends later; a kill loses that, and can block others"
    ),
    "seclea": Entrant(
        "**seclea `run.log`**", OWN, "survives any kill when the call returns; power loss after a flush", 500_000
    ),
    "trackio": Entrant(
        "Trackio local", TRACKIO, "appends to a list; a thread writes it into sqlite every 0.5 s: a kill loses the list",
        40_000, True,
    ),
    "tensorboardX": Entrant("tensorboardX", TENSORBOARD, "queue and thread; buffered file, no fsync", 30_000),
    "swanlab": Entrant("SwanLab offline", SWANLAB, "thread with a queue; file without fsync", 30_000, True),
    "wandb": Entrant("wandb offline", WANDB, "sent to wandb-core, which buffers; no fsync", 15_000, True),
    "mlflow async": Entrant("MLflow async, sqlite", MLFLOW, "queue in memory: a kill loses it", 250),
    "mlflow sync": Entrant("MLflow sync, sqlite", MLFLOW, "nothing is lost: each call is a transaction", 250),
}  # fmt: skip


def torch_environment() -> Environment:
    """seclea's own environment where it has torch; else one of its own."""
    return Environment("", ("numpy", "psutil", "torch")) if find_spec("torch") is not None else TORCH


QUEUES = {
    "seclea.Queue": Entrant("**`seclea.queues.Queue`**", OWN, "what `put` returned for survives any kill"),
    "multiprocessing.Queue": Entrant("`multiprocessing.Queue`", OWN, "a feeder thread sends after `put` has returned"),
    "torch.multiprocessing.Queue": Entrant(
        "`torch.multiprocessing.Queue`", torch_environment(), "the same; arrays are tensors, moved into shared memory"
    ),
    "multiprocessing.Pipe": Entrant("`multiprocessing.Pipe`", OWN, "one writer at a time: several share a lock here"),
    "pyzmq": Entrant("pyzmq PUSH/PULL, ipc", ZMQ, "an I/O thread sends after `send` has returned"),
    "faster-fifo": Entrant("faster-fifo", FIFO, "bounded by a buffer of fixed size; a lock that a killed process keeps"),
}  # fmt: skip


def logging_contender(
    name: str, part: str, options: dict[str, Any], timeout_seconds: float = 180.0, rounds: int | None = None
) -> Contender:
    """A logger that runs one part of `logging_child`."""
    arguments = [name, part, json.dumps(options)]
    return Contender(name, LOGGERS[name].environment, "logging_child.py", arguments, timeout_seconds, rounds)
