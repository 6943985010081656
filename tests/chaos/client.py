"""A client to be killed: logs, and after each call that returned notes it in a file of its own (one write, no buffer)."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any


def note(descriptor: int, **what: Any) -> None:
    """What the client was told. An appending write survives the death of the process that made it."""
    os.write(descriptor, json.dumps(what).encode() + b"\n")


def live(notes: Path, stop: Path, seed: int) -> None:
    """Log until killed, or until the file ``stop`` exists; then finish the run."""
    import numpy as np
    from sklearn.linear_model import LinearRegression

    from seclea import SecleaAI

    descriptor = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    client = SecleaAI("chaos")
    run = client.start_training_run(f"seed {seed}")
    note(descriptor, run=run.uuid)
    random = np.random.default_rng(seed)
    for number in itertools.count():
        run.log({"value": float(number)}, step=number)
        note(descriptor, value=number)
        if number % 4000 == 250:
            model = LinearRegression().fit(random.random((4, 2)), random.random(4))
            state = run.log_model_state(model, step=number)
            note(descriptor, state=state.uuid, sha256=state.sha256)
        if number % 64 == 0 and stop.exists():
            break
    run.finish()
    note(descriptor, finished=number + 1)
