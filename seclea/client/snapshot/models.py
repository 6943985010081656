"""A model as it is when the call is made: described, and stored in a file, before the call returns.

Frameworks are told by the classes that a model derives from (`frameworks`); none is imported here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seclea.client.snapshot import boosters, keras_models, sklearn_models, torch_models
from seclea.client.snapshot.files import Stored
from seclea.client.snapshot.frameworks import ancestor, qualified_name, version
from seclea.client.snapshot.parameters import asked, parameters
from seclea.client.snapshot.torch_state import is_state
from seclea.errors import UnknownModelError

SUPPORTED = (
    "a fitted scikit-learn estimator, a booster or estimator of xgboost or lightgbm, a Keras model or its weights, "
    "a PyTorch module, or a state_dict (a dict of tensors)"
)
MAX_NAME = 100  # characters that a portal takes


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What kind of model it is, fitted or not.

    Attributes:
        name: its class, at most 100 characters.
        framework: "sklearn", "xgboost", "lightgbm", "catboost", "pytorch" or "keras": that of the nearest class in its
            ancestry that seclea knows.
        qualified_name: its class with the module.
        framework_version: "" where the framework does not say.
        params: what it was made with, as plain values; at most 256 KiB as JSON (`parameters`).
    """

    name: str
    framework: str
    qualified_name: str
    framework_version: str
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """A stored model state.

    Attributes:
        path: the file, for the writer to take over.
        format: "safetensors", "pickle", "xgboost-ubj", "lightgbm-text" or "keras" (docs/decisions/0014).
        framework: as in `ModelDescription`.
        model_name: the model's class; "state_dict" and "weights" where there is none.
        size, sha256: of the file.
        metadata: what is known of it; ``opaque`` is true where loading the file runs code that it brings.
    """

    path: Path
    format: str
    framework: str
    model_name: str
    size: int
    sha256: str
    metadata: dict[str, Any]


def describe_model(model: Any) -> ModelDescription:
    """Name, framework and parameters of a model that can be recorded, fitted or not.

    Raises:
        UnknownModelError: a type that cannot be recorded.
    """
    model, framework, base = _known(model)
    return ModelDescription(
        name=_name(model),
        framework=framework,
        qualified_name=qualified_name(type(model)),
        framework_version=version(base),
        params=parameters(asked(lambda: _parameters(model, framework, base))),
    )


def snapshot_model(model: Any, directory: str | os.PathLike[str]) -> ModelSnapshot:
    """Store a model's state in a new file of ``directory`` (made if need be).

    Raises:
        UnknownModelError: a type that cannot be stored, a model that is not fitted or built, a tensor without values; the
            message says which.
        OSError: the disk is full. In every case nothing is left behind.
    """
    if isinstance(model, Mapping) and is_state(model):
        return _snapshot(torch_models.store(model, directory), "pytorch", "state_dict")
    if keras_models.are_variables(model):
        return _snapshot(keras_models.store_variables(model, directory), "keras", "weights")
    model, framework, base = _known(model)
    return _snapshot(_store(model, framework, base, directory), framework, _name(model))


def _known(model: Any) -> tuple[Any, str, type]:
    """(model without wrappers, its framework, the framework's class that it derives from)."""
    framework, base = ancestor(type(model))
    if framework == "pytorch":
        model = torch_models.unwrapped(model)
        framework, base = ancestor(type(model))
    if framework is None or base is None:
        raise _unknown(model)
    return model, framework, base


def _name(model: Any) -> str:
    name = type(model).__name__
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"


def _parameters(model: Any, framework: str, base: type) -> Mapping[Any, Any]:
    if framework == "pytorch":
        return torch_models.parameters_of(model)
    if framework == "keras":
        return keras_models.parameters_of(model)
    if framework == "xgboost":
        return boosters.xgboost_parameters(model, base)
    if framework == "lightgbm":
        return boosters.lightgbm_parameters(model, base)
    return sklearn_models.parameters_of(model)


def _store(model: Any, framework: str, base: type, directory: str | os.PathLike[str]) -> Stored:
    if framework == "pytorch":
        return torch_models.store(model.state_dict(), directory)
    if framework == "keras":
        return keras_models.store(model, base, directory)
    if framework == "xgboost":
        return boosters.store_xgboost(model, base, directory)
    if framework == "lightgbm":
        return boosters.store_lightgbm(model, base, directory)
    return sklearn_models.store(model, base, directory)


def _snapshot(stored: Stored, framework: str, name: str) -> ModelSnapshot:
    form, file, metadata = stored
    return ModelSnapshot(file.path, form, framework, name, file.size, file.sha256, metadata)


def _unknown(model: Any) -> UnknownModelError:
    hint = f"Supported: {SUPPORTED}."
    if isinstance(model, type):
        return UnknownModelError(f"{model.__qualname__} is a class, not a model.", "Pass the trained instance.")
    if isinstance(model, Mapping):
        return UnknownModelError(
            f"A {type(model).__qualname__} without any tensor cannot be recorded as a state.", hint
        )
    return UnknownModelError(
        f"A {type(model).__module__}.{type(model).__qualname__} cannot be recorded as a model state.", hint
    )
