"""A client to be killed: does what jobs do, and notes each call that returned (one appending write, no buffer).

What it notes: calls that have returned (a value, a state, a dataset: *handed*), what a wait told (*durable*, *delivered*),
what it is about to begin, and what was raised. An appending write survives the death of the process that made it.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.referee import VALUES_OF_A_VOICE, number_of

WAIT_SECONDS = 2.0  # for flush and complete in the middle of kills; what they then say counts only if it is "done"


def double(df: Any) -> Any:
    """The step from one dataset to the next."""
    return df * 2.0


class Life:
    """One process's life from start to stop, every choice by its seed."""

    def __init__(self, notes: Path, stop: Path, seed: int, portal: str = "") -> None:
        """``portal``: address of one with a login; else the embedded one."""
        self.notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.stop = stop
        self.seed = seed
        self.portal = portal
        self.random = random.Random(seed)
        self.children: list[int] = []

    def note(self, **what: Any) -> None:
        os.write(self.notes, json.dumps(what).encode() + b"\n")

    def live(self) -> None:
        """Log until killed, until the file ``stop`` exists, or until a life of its own length is over."""
        try:
            self.begin()
            self.threads = [
                threading.Thread(target=self.speak, args=(Voice(self, f"thread {number}"), self.random.random()))
                for number in range(self.random.choice((0, 0, 0, 1, 2)))
            ]
            for thread in self.threads:
                thread.start()
            length = self.random.choice((50, 200, 10_000))
            for _ in range(length):
                if self.stop.exists():
                    break
                self.voice.log(self.random.choice((1, 1, 2, 5, 20)))
                self.odd()
                self.nap(self.random)
            self.end()
        except BaseException as error:
            self.note(raised=f"{type(error).__name__}: {error}")
            raise

    def begin(self) -> None:
        """Open a run, in one of seven cases with a dataset that it uses."""
        from seclea import SecleaAI

        self.note(begun="run")
        where = {"organization": "Acme", "platform_url": self.portal} if self.portal else {}
        self.client = SecleaAI("chaos", **where)
        used = [self.upload()] if self.random.random() < 0.15 else []
        self.run = self.client.start_training_run(f"seed {self.seed}", datasets=used)
        self.note(run=self.run.uuid)
        self.voice = Voice(self, "main")

    def nap(self, chance: random.Random) -> None:
        time.sleep(chance.uniform(0.001, 0.015))  # the work of the job

    def speak(self, voice: Voice, seed: float) -> None:
        """A thread that logs beside the first one, 100 times."""
        chance = random.Random(seed)
        try:
            for _ in range(100):
                if self.stop.exists():
                    break
                voice.log(chance.choice((1, 3)))
                self.nap(chance)
        except BaseException as error:
            self.note(raised=f"{type(error).__name__}: {error}")
            raise

    def odd(self) -> None:
        """Now and then something else than a value."""
        chance = self.random.random()
        if chance < 0.06:
            self.store_state()
        elif chance < 0.09:
            self.upload()
        elif chance < 0.14:
            self.fork(1)
        elif chance < 0.2:
            self.wait("durable", self.client.flush)
        elif chance < 0.21:
            self.wait("delivered", self.client.complete)

    def wait(self, level: str, wait: Callable[[float], Any]) -> None:
        """What was handed over before the wait has reached the level, if it says so."""
        told = {self.voice.name: self.voice.values}
        if wait(WAIT_SECONDS).done:
            self.note(level=level, values=told)

    def store_state(self) -> None:
        import numpy as np
        from sklearn.linear_model import LinearRegression

        model = LinearRegression()
        model.coef_ = np.random.default_rng(self.random.getrandbits(32)).random(self.random.choice((4, 1_000, 100_000)))
        model.intercept_ = 0.0
        self.note(begun="state")
        state = self.run.log_model_state(model, step=self.voice.values)
        self.note(state=state.uuid, sha256=state.sha256)

    def upload(self) -> Any:
        """A small table, in one of three cases with what it was made from."""
        import numpy as np
        import pandas as pd

        from seclea import DatasetTransformation

        key = self.random.getrandbits(40)
        raw = pd.DataFrame(np.random.default_rng(key).random((20, 3)), columns=["a", "b", "c"])
        name = f"table {self.seed} {key:x}"
        dataset = self._upload(raw, name, [])
        if self.random.random() < 0.33:
            step = DatasetTransformation(double, data_kwargs={"df": raw}, outputs=["df"])
            dataset = self._upload(double(raw), f"{name} doubled", [step])
        return dataset

    def _upload(self, table: Any, name: str, steps: list[Any]) -> Any:
        self.note(begun="dataset", name=name)
        made = self.client.upload_dataset(table, name, {}, steps or None)
        self.note(dataset=made.uuid, digest=made.digest, sha256=made.sha256, parent=made.parent, steps=len(steps))
        return made

    def fork(self, generation: int) -> None:
        """A child that speaks for the run in a stream of its own, and ends in one of the ways there are."""
        name = f"child {generation} {len(self.children)} of {os.getpid()}"
        seed = self.random.random()
        if pid := os.fork():
            self.children.append(pid)
            return  # who dies first is left to chance; orphans are the harness's
        code = 1
        try:
            chance = self.random = random.Random(seed)
            self.children = []
            voice = Voice(self, name)
            for _ in range(chance.randrange(12)):
                voice.log(1)
                time.sleep(chance.uniform(0.0, 0.003))
            if generation < 3 and chance.random() < 0.25:
                self.fork(generation + 1)
            code = 0
        except BaseException as error:
            self.note(raised=f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)

    def end(self) -> None:
        """Finish, or go without a word."""
        for thread in self.threads:
            thread.join()
        if self.stop.exists() or self.random.random() < 0.7:
            self.note(begun="finish")
            self.run.finish()
            self.note(finished=True)
        for child in self.children:  # as a job does; a writer that it started is a child as well, and lives on
            os.waitpid(child, 0)


class Voice:
    """Counts 0, 1, 2, … in the run, with its own number in each value, and notes each call that returned."""

    def __init__(self, life: Life, name: str) -> None:
        self.life = life
        self.name = name
        self.first = number_of(name) * VALUES_OF_A_VOICE
        self.values = 0

    def log(self, count: int) -> None:
        for _ in range(count):
            self.life.run.log({"value": float(self.first + self.values)}, step=self.values)
            self.told()

    def told(self) -> None:
        """The call has returned."""
        self.life.note(voice=self.name, value=self.values)
        self.values += 1
