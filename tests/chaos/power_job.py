"""A job on a logged disk, which notes after each `flush` what it was told to be durable, and how long the disk's log was then.

``python -m tests.chaos.power_job HOME URL LOG NOTES SEED ROUNDS``. With ``SECLEA_PLANT`` the writer is one with a planted bug.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
from pathlib import Path

STOP_EVERY = 7  # rounds between two ends of the pipeline: in order, and by kill -9


def live(home: str, url: str, log: Path, notes: Path, seed: int, rounds: int) -> None:
    """Log metrics, datasets and states, and flush; now and then the writer leaves or dies."""
    import numpy as np
    from sklearn.linear_model import LinearRegression

    from seclea import SecleaAI
    from seclea.contract import Home
    from seclea.processes.rendezvous import ask
    from tests.chaos.order_job import started_writer
    from tests.pipeline import kill

    choose, numbers = random.Random(seed), np.random.default_rng(seed)
    descriptor = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with started_writer(home) if os.environ.get("SECLEA_PLANT") else contextlib.nullcontext():
        seclea = SecleaAI("Claims", organization="local", platform_url=url, auth_url=url)
        run = seclea.start_training_run("first")
        points = 0
        payloads: list[tuple[str, str]] = []
        for number in range(rounds):
            if choose.random() < 0.6:
                table = notes.with_name("claims.csv")
                rows = choose.choice((10, 2_000, 12_000))
                table.write_text("claim,paid\n" + "".join(f"{row},{row * number}.5\n" for row in range(rows)), "utf-8")
                dataset = seclea.upload_dataset(str(table), f"Claims {number}")
                payloads.append((dataset.uuid, dataset.sha256))
            for _ in range(choose.choice((1, 20, 400))):
                run.log({"loss": float(points)}, step=points)
                points += 1
            if choose.random() < 0.7:
                model = LinearRegression().fit(numbers.random((4, 2)), numbers.random(4))
                state = run.log_model_state(model, step=points)
                payloads.append((state.uuid, state.sha256))
            assert seclea.flush(timeout=60), "not durable within a minute"
            told = {"at": log.stat().st_size, "run": run.uuid, "points": points, "payloads": payloads}
            os.write(descriptor, json.dumps(told).encode() + b"\n")
            if number % STOP_EVERY == STOP_EVERY - 1 and not os.environ.get("SECLEA_PLANT"):
                if choose.random() < 0.5:
                    ask(Home(home), {"op": "stop"}, 30.0)
                else:
                    kill((ask(Home(home), {"op": "status"}, 30.0) or {}).get("writer"))
        run.finish()
        assert seclea.flush(timeout=60)
        told = {"at": log.stat().st_size, "run": run.uuid, "points": points, "payloads": payloads}
        os.write(descriptor, json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    live(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]))
