"""The project that `tests.chaos.tamper` tampers with: made by the real pipeline in a home of its own, delivered, at rest.

Two runs of two streams each (a forked child logs to both), datasets with lineage, states, a tombstone of each run, and a
model that the portal had already (adopted).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from seclea import DatasetTransformation, SecleaAI

PROJECT = "Tampered"


def make(calls: int = 20) -> None:
    """Record everything; `SECLEA_HOME` says where."""
    import pandas as pd
    from sklearn.linear_model import SGDClassifier

    frame = pd.DataFrame({"a": [0.5, None, 1.5, 2.0] * 4, "b": [3.0, 1.0, 4.0, 1.5] * 4, "y": [0, 1, 0, 1] * 4})
    seclea = SecleaAI(PROJECT)
    about = {"outputs": ["y"], "outputs_type": "classification"}
    raw = seclea.upload_dataset(frame, "Raw", metadata=about)
    clean = fill(frame, 0.0)
    steps = [
        DatasetTransformation(fill, {"df": frame}, {"value": 0.0}),
        DatasetTransformation(double, {"df": "inherit"}),
    ]
    done = seclea.upload_dataset(double(clean), "Clean", metadata={}, transformations=steps)
    for number in range(2):
        model = SGDClassifier(alpha=0.1 * (number + 1)).fit(clean[["a", "b"]], clean["y"])
        run = seclea.start_training_run(
            f"Run {number}", params={"alpha": 0.1 * (number + 1)}, datasets=[raw, done], model=model
        )
        for step in range(calls):
            run.log({"loss": 1 / (step + 1), "accuracy": step / calls}, step=step)
        for _ in range(3 + number):
            run._pipeline.leave_out(run._index, "metrics")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for step in range(calls):
                    run.log({"of_child": float(step)}, step=step)
                seclea.flush(30)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        run.log_model_state(model, step=calls)
        run.finish()
        result = seclea.complete(60)
        assert result.done, result.reasons
        if not number:
            keep_copies(Path(os.environ["SECLEA_HOME"]))


def keep_copies(home: Path) -> None:
    """Of ledger and portal as they are now: what an earlier backup would be."""
    for name, path in (("ledger", home / "ledger.sqlite"), ("portal", home / "portal" / "portal.db")):
        with (
            contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as now,
            contextlib.closing(sqlite3.connect(home / f"older-{name}.db")) as copy,
        ):
            now.backup(copy)


def fill(df, value):  # type: ignore[no-untyped-def]
    return df.fillna(value)


def double(df):  # type: ignore[no-untyped-def]
    return df.assign(a=df["a"] * 2)


if __name__ == "__main__":
    Path(os.environ["SECLEA_HOME"]).mkdir(mode=0o700, parents=True, exist_ok=True)
    make()
