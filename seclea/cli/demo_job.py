"""What the demo trains: three small, real models on the data of `demo_steps`, each in its own process.

Beside logging, each job notes for itself what it logged (values, and digests that it computes on its own), so that the
reader has something to compare the portal with.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from seclea import SecleaAI, TrainingRun
from seclea.entities import Dataset

STEPS = 900  # of the models that learn batch by batch
TREES = 120
STATES = 3
BATCH_ROWS = 32
SEED = 7
NAMES = {"linear": "Linear", "trees": "Trees", "torch": "Neural net", "mlp": "Neural net"}  # by kind


def has_torch() -> bool:
    """Whether PyTorch is installed; found without importing it."""
    import importlib.util

    return importlib.util.find_spec("torch") is not None


def train(kind: str, project: str, csv: str, datasets: Mapping[str, Dataset], notes: str) -> None:
    """One training process: ``kind`` is a key of `NAMES`. Writes what it logged to the file ``notes``."""
    from seclea.cli.demo_steps import prepared

    _, (features, labels, *test) = prepared(csv)
    learner = _learner(kind, features.to_numpy(), labels.to_numpy())
    job = _Job(learner, test[0].to_numpy(), test[1].to_numpy())
    with SecleaAI(project) as seclea:
        run = seclea.start_training_run(NAMES[kind], params=learner.params, datasets=datasets, model=learner.model)
        for step in range(learner.steps):
            loss, accuracy = learner.step(step)
            job.log(run, {"loss": loss, "accuracy": accuracy}, step)
            if (step + 1) % (learner.steps // STATES) == 0:
                job.log(run, job.tested(), step)
                job.log_state(run, step, final=step + 1 == learner.steps)
    told = {"name": NAMES[kind], "run": run.uuid, "curves": job.curves, "states": job.states}
    Path(notes).write_text(json.dumps(told), "utf-8")


class _Learner(Protocol):
    """A model that is trained step by step."""

    model: Any
    params: dict[str, Any]
    steps: int

    def step(self, number: int) -> tuple[float, float]:
        """Learn; (log loss, accuracy) on what was learned from."""

    def probabilities(self, features: Any) -> Any:
        """Of label 1, for rows of shape (rows, features)."""

    def own_digests(self) -> dict[str, Any]:
        """What the stored file must be, computed here."""


class _Job:
    """Logs, and notes what was logged."""

    def __init__(self, learner: _Learner, features: Any, labels: Any) -> None:
        self._learner = learner
        self._features, self._labels = features, labels
        self.curves: dict[str, dict[str, list[Any]]] = defaultdict(lambda: {"steps": [], "values": []})
        self.states: list[dict[str, Any]] = []

    def log(self, run: TrainingRun, metrics: dict[str, float], step: int) -> None:
        run.log(metrics, step=step)
        for key, value in metrics.items():
            self.curves[key]["steps"].append(step)
            self.curves[key]["values"].append(value)

    def tested(self) -> dict[str, float]:
        """How good the model is on the rows that it was not trained on."""
        from sklearn.metrics import roc_auc_score

        likely = self._learner.probabilities(self._features)
        loss, accuracy = _scores(likely, self._labels)
        auc = float(roc_auc_score(self._labels, likely))
        return {"test_loss": loss, "test_accuracy": accuracy, "test_auc": auc}

    def log_state(self, run: TrainingRun, step: int, *, final: bool) -> None:
        state = run.log_model_state(self._learner.model, step=step, final=final)
        own = self._learner.own_digests()
        self.states.append({"uuid": state.uuid, "step": step, "sha256": state.sha256, **own})


def _scores(likely: Any, labels: Any) -> tuple[float, float]:
    """(log loss, accuracy) of probabilities."""
    import numpy as np

    kept = np.clip(likely, 1e-7, 1 - 1e-7)
    loss = -np.mean(labels * np.log(kept) + (1 - labels) * np.log(1 - kept))
    return float(loss), float(((likely > 0.5) == labels).mean())


# ------------------------------------------------------------------------------------------------------------------


def _learner(kind: str, features: Any, labels: Any) -> _Learner:
    made: Callable[[Any, Any], _Learner] = _LEARNERS[kind]
    return made(features, labels)


class _Sklearn:
    """What the estimators have in common."""

    model: Any

    def probabilities(self, features: Any) -> Any:
        return self.model.predict_proba(features)[:, 1]

    def own_digests(self) -> dict[str, Any]:
        """The sha256 that a stored pickle of this model must have."""
        return {"own_sha256": hashlib.sha256(pickle.dumps(self.model, protocol=5)).hexdigest()}


class _ByBatch(_Sklearn):
    """An estimator with ``partial_fit``."""

    steps = STEPS

    def __init__(self, features: Any, labels: Any) -> None:
        self._features, self._labels = features, labels
        self._batches = _batches(len(labels))

    def step(self, number: int) -> tuple[float, float]:
        rows = self._batches[number]
        features, labels = self._features[rows], self._labels[rows]
        self.model.partial_fit(features, labels, classes=[0, 1])
        return _scores(self.probabilities(features), labels)


class _Linear(_ByBatch):
    """Logistic regression by stochastic gradient descent."""

    def __init__(self, features: Any, labels: Any) -> None:
        from sklearn.linear_model import SGDClassifier

        super().__init__(features, labels)
        self.params = {"steps": STEPS, "batch": BATCH_ROWS, "alpha": 1e-3, "seed": SEED}
        self.model = SGDClassifier(loss="log_loss", alpha=1e-3, random_state=SEED)


class _Mlp(_ByBatch):
    """A small net in scikit-learn."""

    def __init__(self, features: Any, labels: Any) -> None:
        from sklearn.neural_network import MLPClassifier

        super().__init__(features, labels)
        self.params = {"steps": STEPS, "batch": BATCH_ROWS, "hidden": 16, "learning_rate": 1e-3, "seed": SEED}
        self.model = MLPClassifier((16,), learning_rate_init=1e-3, random_state=SEED)


class _Trees(_Sklearn):
    """Boosted trees; a step is one tree more."""

    steps = TREES

    def __init__(self, features: Any, labels: Any) -> None:
        from sklearn.ensemble import GradientBoostingClassifier

        self.params = {"trees": TREES, "depth": 2, "learning_rate": 0.1, "seed": SEED}
        self.model = GradientBoostingClassifier(max_depth=2, learning_rate=0.1, warm_start=True, random_state=SEED)
        self._features, self._labels = features, labels

    def step(self, number: int) -> tuple[float, float]:
        self.model.set_params(n_estimators=number + 1).fit(self._features, self._labels)
        return _scores(self.probabilities(self._features), self._labels)


class _TorchNet:
    """A small net in PyTorch."""

    model: Any
    steps = STEPS

    def __init__(self, features: Any, labels: Any) -> None:
        import torch

        torch.manual_seed(SEED)
        torch.set_num_threads(1)
        self._torch = torch
        self.params = {"steps": STEPS, "batch": BATCH_ROWS, "hidden": 16, "learning_rate": 1e-3, "seed": SEED}
        columns = features.shape[1]
        self.model = torch.nn.Sequential(torch.nn.Linear(columns, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self._features = torch.tensor(features, dtype=torch.float32)
        self._labels = torch.tensor(labels, dtype=torch.float32)
        self._batches = _batches(len(labels))

    def step(self, number: int) -> tuple[float, float]:
        rows = self._batches[number]
        wanted = self._labels[rows]
        self._optimizer.zero_grad()
        output = self.model(self._features[rows]).squeeze(1)
        loss: Any = self._torch.nn.functional.binary_cross_entropy_with_logits(output, wanted)
        loss.backward()
        self._optimizer.step()
        return loss.item(), ((output > 0).float() == wanted).float().mean().item()

    def probabilities(self, features: Any) -> Any:
        torch = self._torch
        with torch.no_grad():
            return torch.sigmoid(self.model(torch.tensor(features, dtype=torch.float32))).squeeze(1).double().numpy()

    def own_digests(self) -> dict[str, Any]:
        """The sha256 of each tensor's bytes."""
        tensors = {
            name: hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest()
            for name, tensor in self.model.state_dict().items()
        }
        return {"tensors": tensors}


_LEARNERS: dict[str, Any] = {"linear": _Linear, "trees": _Trees, "torch": _TorchNet, "mlp": _Mlp}


def _batches(rows: int) -> Any:
    """Row numbers for each step, shape (STEPS, BATCH_ROWS)."""
    import numpy as np

    return np.random.default_rng(SEED).integers(0, rows, size=(STEPS, BATCH_ROWS))
