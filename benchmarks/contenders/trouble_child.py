"""One contender in one trouble, in a process of its own. What happened is written down step by step: it may never end.

python trouble_child.py CONTENDER CASE OPTIONS(JSON) DIRECTORY RESULT(file)
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from loggers import CONTENDERS, Contender, MlflowSync, Seclea, Wandb
from measuring import LogCall, descendants

CLOSED = "http://127.0.0.1:9"


class SecleaInTrouble(Seclea):
    """seclea, whose ledger says what it holds."""

    def finish(self) -> None:
        super().finish()
        self.client.flush(60)

    def found(self) -> int:
        home = Path(os.environ["SECLEA_HOME"])
        connection = sqlite3.connect(f"file:{home}/ledger.sqlite?mode=ro", uri=True)
        try:
            return int(connection.execute("SELECT sum(points) FROM records WHERE kind = 'metrics'").fetchone()[0] or 0)
        finally:
            connection.close()


class WandbOnline(Wandb):
    """wandb with a server that is down."""

    def open(self) -> LogCall:
        import wandb

        self._run = wandb.init(project="benchmark", dir=self.directory, mode="online")
        return lambda step, metrics: self._run.log(metrics)


class MlflowServer(MlflowSync):
    """MLflow with a server that is down."""

    def open(self) -> LogCall:
        import mlflow

        mlflow.set_tracking_uri(CLOSED)
        mlflow.set_experiment("benchmark")
        mlflow.start_run()
        return lambda step, metrics: mlflow.log_metric("loss", metrics["loss"], step=step)


MADE: dict[str, Any] = {
    **CONTENDERS,
    "seclea": SecleaInTrouble,
    "wandb online": WandbOnline,
    "mlflow http": MlflowServer,
}


class Diary:
    """What happened so far, in the result file at every moment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._facts: dict[str, Any] = {}

    def note(self, **facts: Any) -> None:
        self._facts |= facts
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(self._facts), "utf-8")
        fresh.replace(self._path)


def words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def fill_for(directory: Path, seconds: float) -> None:
    """Take all the room that is left; a process of its own gives it back."""
    filler = directory / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
    # The length of the trouble is what is measured against: it is a span of time, and not a wait for something.
    script = f"import os, time; time.sleep({seconds}); os.unlink({str(filler)!r})"
    subprocess.Popen([sys.executable, "-S", "-c", script], start_new_session=True)


def kill_helpers(contender: Contender) -> None:
    for pid in {*descendants(), *contender.helpers()}:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def main(name: str, case: str, options_text: str, directory: str, result: str) -> None:
    """Log, be hit in the middle, end."""
    options, diary = json.loads(options_text), Diary(Path(result))
    contender: Contender = MADE[name](Path(directory))
    diary.note(stage="import")
    contender.load()
    diary.note(stage="init")
    began = time.perf_counter()
    try:
        log = contender.open()
    except BaseException as error:
        diary.note(stage="init failed", init_error=words(error), init_seconds=time.perf_counter() - began)
        diary.note(last=time.monotonic())
        raise SystemExit(0) from None
    diary.note(stage="log", init_seconds=time.perf_counter() - began)
    accepted, raised, longest, first = 0, 0, 0.0, ""
    began = written = time.perf_counter()
    for step in range(options["steps"]):
        if step == options["hit_at"]:
            if case == "filled":
                fill_for(Path(directory), options["seconds"])
            elif case == "killed":
                kill_helpers(contender)
        start = time.perf_counter()
        try:
            log(step, {"loss": 1.0 / (step + 1)})
            accepted += 1
        except Exception as error:
            raised, first = raised + 1, first or words(error)
        end = time.perf_counter()
        longest = max(longest, end - start)
        if end - written > 0.5:
            written = end
            diary.note(accepted=accepted, raised=raised, first_error=first, longest_call=longest)
        if end - began > options["limit"]:
            break
        if options["pause"]:
            time.sleep(options["pause"])  # a training step
    diary.note(accepted=accepted, raised=raised, first_error=first, longest_call=longest, stage="finish")
    began = time.perf_counter()
    try:
        contender.finish()
    except Exception as error:
        diary.note(finish_error=words(error))
    diary.note(stage="count", finish_seconds=time.perf_counter() - began)
    try:
        diary.note(found=contender.found())
    except Exception as error:
        diary.note(found_error=words(error))
    diary.note(stage="exit", last=time.monotonic())


if __name__ == "__main__":
    main(*sys.argv[1:])
