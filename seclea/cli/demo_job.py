"""What the demo trains: two small, real models on scikit-learn's bundled breast-cancer table, each in its own process.

Beside logging, each job notes for itself what it logged (values, and digests that it computes on its own), so that the
reader has something to compare the portal with.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

from seclea import SecleaAI, TrainingRun
from seclea.entities import Dataset

STEPS = 1200
STATES = 4
BATCH_ROWS = 32


def has_torch() -> bool:
    """Whether PyTorch is installed; found without importing it."""
    import importlib.util

    return importlib.util.find_spec("torch") is not None


def write_table(path: Path) -> None:
    """scikit-learn's breast-cancer table as CSV: 569 rows, 30 features, one label."""
    from sklearn.datasets import load_breast_cancer

    load_breast_cancer(as_frame=True).frame.to_csv(path, index=False)


def train(kind: str, project: str, csv: str, dataset: Dataset, notes: str) -> None:
    """One training process: ``kind`` is "sgd", "mlp" or "torch". Writes what it logged to the file ``notes``."""
    import numpy as np
    import pandas as pd

    frame = pd.read_csv(csv)
    labels = frame.pop("target").to_numpy()
    features = frame.to_numpy()
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    note: dict[str, Any] = {"kind": kind, "curves": {"loss": [], "accuracy": []}, "states": []}
    learner: Any = _Torch() if kind == "torch" else _Sklearn(kind)
    with SecleaAI(project) as seclea:
        run = seclea.start_training_run(
            {"sgd": "Linear, SGD", "mlp": "Neural net, scikit-learn", "torch": "Neural net, PyTorch"}[kind],
            params={"steps": STEPS, "batch_rows": BATCH_ROWS, "seed": 7, "kind": kind},
            datasets=[dataset],
            model=learner.model,
        )
        note["run"] = run.uuid
        chosen = np.random.default_rng(7).integers(0, len(labels), size=(STEPS, BATCH_ROWS))
        for step in range(STEPS):
            rows = chosen[step]
            loss, accuracy = learner.step(features[rows], labels[rows])
            run.log({"loss": loss, "accuracy": accuracy}, step=step)
            note["curves"]["loss"].append(loss)
            note["curves"]["accuracy"].append(accuracy)
            if (step + 1) % (STEPS // STATES) == 0:
                _log_state(run, learner, step, note)
    Path(notes).write_text(json.dumps(note), "utf-8")


def _log_state(run: TrainingRun, learner: Any, step: int, note: dict[str, Any]) -> None:
    state = run.log_model_state(learner.model, step=step, final=step + 1 == STEPS)
    note["states"].append({"uuid": state.uuid, "step": step, "sha256": state.sha256, **learner.own_digests()})


class _Sklearn:
    """A linear model or a small net, trained batch by batch with ``partial_fit``."""

    def __init__(self, kind: str) -> None:
        from sklearn.linear_model import SGDClassifier
        from sklearn.neural_network import MLPClassifier

        self.model = (
            SGDClassifier(loss="log_loss", alpha=1e-3, random_state=7)
            if kind == "sgd"
            else MLPClassifier((16,), learning_rate_init=1e-3, random_state=7)
        )

    def step(self, features: Any, labels: Any) -> tuple[float, float]:
        """One batch; (log loss, accuracy) on it."""
        import numpy as np

        self.model.partial_fit(features, labels, classes=[0, 1])
        likely = self.model.predict_proba(features)[:, 1]
        kept = np.clip(likely, 1e-7, 1 - 1e-7)
        loss = -np.mean(labels * np.log(kept) + (1 - labels) * np.log(1 - kept))
        return float(loss), float(((likely > 0.5) == labels).mean())

    def own_digests(self) -> dict[str, Any]:
        """The sha256 that a stored pickle of this model must have, computed here."""
        return {"own_sha256": hashlib.sha256(pickle.dumps(self.model, protocol=5)).hexdigest()}


class _Torch:
    """A small net in PyTorch."""

    def __init__(self) -> None:
        import torch

        torch.manual_seed(7)
        torch.set_num_threads(1)
        self._torch = torch
        self.model = torch.nn.Sequential(torch.nn.Linear(30, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def step(self, features: Any, labels: Any) -> tuple[float, float]:
        """One batch; (log loss, accuracy) on it."""
        torch = self._torch
        wanted = torch.tensor(labels, dtype=torch.float32)
        self._optimizer.zero_grad()
        output = self.model(torch.tensor(features, dtype=torch.float32)).squeeze(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(output, wanted)
        loss.backward()
        self._optimizer.step()
        return loss.item(), ((output > 0).float() == wanted).float().mean().item()

    def own_digests(self) -> dict[str, Any]:
        """The sha256 of each tensor's bytes, computed here."""
        tensors = {
            name: hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest()
            for name, tensor in self.model.state_dict().items()
        }
        return {"tensors": tensors}
