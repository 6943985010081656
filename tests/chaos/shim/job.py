"""A job of the sweep: one record of each kind, and after each call a note of what it was told (one write, no buffer)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VALUES = 24
PAUSE_SECONDS = 4.0  # budget of a pause: a fault that lasts longer becomes tombstones
WAIT_SECONDS = 20.0


class Notes:
    """What the job was told, in a file that no fault is planned for."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, **what: Any) -> None:
        os.write(self._descriptor, json.dumps(what).encode() + b"\n")

    def told(self, call: str, work: Callable[[], Any]) -> Any:
        """Do what a user's program would do; an exception is noted, and the program goes on."""
        began = time.monotonic()
        try:
            return work()
        except Exception as error:
            self(raised=f"{type(error).__name__}: {error}", by=call)
            return None
        finally:
            if (seconds := time.monotonic() - began) > 1.0:
                self(slow=call, seconds=round(seconds, 2))


def halve(df: Any) -> Any:
    """A transformation."""
    return df.assign(amount=df["amount"] / 2)


def settings() -> dict[str, Any]:
    """Of the job's client and of all that follow it in the same home."""
    return {"limits.wait_timeout_seconds": PAUSE_SECONDS, "limits.min_free_disk": "1MB"}


def live(notes: Notes, project: str, organization: str, url: str, number: int) -> None:
    """The whole job. ``number`` makes its content differ from that of others."""
    import numpy as np
    import pandas as pd
    from sklearn.linear_model import LinearRegression

    from seclea import DatasetTransformation, SecleaAI
    from seclea.director import open_pipelines

    table = pd.DataFrame({"amount": [1.0 + number, 2.0, 4.0], "paid": [0.0, 1.0, 1.0]})
    model = LinearRegression().fit(table[["amount"]].to_numpy(), table["paid"].to_numpy())
    weights = np.zeros(2)

    client = notes.told("SecleaAI", lambda: SecleaAI(project, organization, platform_url=url, settings=settings()))
    if client is None:
        notes(result=float(weights.sum()))
        return
    data = notes.told("upload_dataset", lambda: client.upload_dataset(table, "claims", metadata={}))
    if data is not None:
        notes(dataset=data.uuid)
        halved = notes.told(
            "upload_dataset",
            lambda: client.upload_dataset(
                halve(table), "halved", {}, [DatasetTransformation(halve, {"df": table}, {}, ["df"])]
            ),
        )
        if halved is not None:
            notes(dataset=halved.uuid)
    run = notes.told(
        "start_training_run",
        lambda: client.start_training_run("run", datasets=[] if data is None else [data], model=model),
    )
    if run is not None:
        notes(run=run.uuid)
    for value in range(VALUES):
        weights += np.array([0.5, value * 0.25])
        if run is not None:
            before = run  # the type checker forgets it in the lambda
            if notes.told("log", lambda: before.log({"value": float(value)}, step=value) or True):  # noqa: B023
                notes(value=value)
            if value == VALUES // 2:
                _state_and_flush(notes, client, run, model)
                if pipelines := list(open_pipelines()):
                    pipelines[0].leave_out(run._index, "metrics")  # as where a ring stays full
                    notes(left_out=1)
    if run is not None:
        notes.told("finish", run.finish)
        notes(finished=True)
    for call, wait in (("flush", client.flush), ("complete", client.complete)):
        reached = notes.told(call, lambda: wait(WAIT_SECONDS))  # noqa: B023
        if reached is not None and reached.done:
            notes(**{call: True})
        elif reached is not None:
            notes(not_done=call, reasons=reached.reasons)
    notes(result=float(weights.sum()))


def _state_and_flush(notes: Notes, client: Any, run: Any, model: Any) -> None:
    state = notes.told("log_model_state", lambda: run.log_model_state(model, step=1))
    if state is not None and "left_out" in state.metadata:
        notes(state_left_out=1)
    elif state is not None:
        notes(state=state.uuid, sha256=state.sha256)
    reached = notes.told("flush", lambda: client.flush(WAIT_SECONDS))
    if reached is not None and reached.done:
        notes(flush=True)


def finish(project: str, organization: str, url: str) -> str:
    """A later job of the same project: have all of the home delivered. What is left, in words."""
    from seclea import SecleaAI

    reached = SecleaAI(project, organization, platform_url=url, settings=settings()).complete(30.0)
    return (
        ""
        if reached.done
        else f"pending {reached.pending}, failed {reached.failed}, held {reached.held}: {reached.reasons}"
    )
