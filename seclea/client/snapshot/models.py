"""A model as it is when the call is made: stored in a file and described before the call returns.

Frameworks are told by what is loaded already and by the classes that a model derives from; none is imported here.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seclea.client.snapshot.files import PayloadFile
from seclea.client.snapshot.torch_state import is_state, torch, write_state
from seclea.errors import UnknownModelError

SUPPORTED = "a fitted scikit-learn estimator, a PyTorch module, or a state_dict (a dict of tensors)"


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """A stored model state.

    Attributes:
        path: the file, for the writer to take over.
        format: "safetensors" or "pickle".
        framework: "pytorch", "sklearn", …
        model_name: the model's class.
        size, sha256: of the file.
        metadata: what is known of it; ``opaque`` is true where seclea stores the file but never loads it.
    """

    path: Path
    format: str
    framework: str
    model_name: str
    size: int
    sha256: str
    metadata: dict[str, Any]


def describe_model(model: Any) -> tuple[str, str]:
    """(class name, framework) of a model that can be recorded, fitted or not.

    Raises:
        UnknownModelError: a type that cannot be recorded.
    """
    loaded = torch()
    if loaded is not None and isinstance(model, loaded.nn.Module):
        return type(_unwrapped(model)).__name__, "pytorch"
    framework = _sklearn_framework(model)
    if framework is None or isinstance(model, type):
        raise _unknown(model)
    return type(model).__name__, framework


def snapshot_model(model: Any, directory: str | os.PathLike[str]) -> ModelSnapshot:
    """Store a model's state in a new file of ``directory`` (made if need be).

    Raises:
        UnknownModelError: a type that cannot be stored, an estimator that is not fitted, a tensor without values; the
            message says which.
        OSError: the disk is full. In every case nothing is left behind.
    """
    loaded = torch()
    if loaded is not None and isinstance(model, loaded.nn.Module):
        inner = _unwrapped(model)
        return _snapshot_torch(inner.state_dict(), type(inner).__name__, directory)
    if isinstance(model, Mapping) and is_state(model):
        return _snapshot_torch(model, "state_dict", directory)
    framework = _sklearn_framework(model)
    if framework is not None:
        return _snapshot_sklearn(model, framework, directory)
    raise _unknown(model)


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


# ------------------------------------------------------------------------------------------------------------------
# PyTorch


def _unwrapped(module: Any) -> Any:
    """The user's own module, out of DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        kind = type(module)
        if kind.__module__.startswith("torch.nn.parallel.") and "module" in module._modules:
            module = module.module
        elif kind.__module__.startswith("torch._dynamo.") and "_orig_mod" in module._modules:
            module = module._orig_mod
        else:
            return module


def _snapshot_torch(state: Mapping[Any, Any], name: str, directory: str | os.PathLike[str]) -> ModelSnapshot:
    with PayloadFile(directory, ".safetensors") as file:
        metadata = write_state(state, file)
    return ModelSnapshot(file.path, "safetensors", "pytorch", name, file.size, file.sha256, metadata)


# ------------------------------------------------------------------------------------------------------------------
# scikit-learn, and others that follow its interface


def _sklearn_framework(model: Any) -> str | None:
    """The framework of an estimator: the nearest class of a known one in its ancestry; None if it is no estimator."""
    ancestry = [cls.__module__.partition(".")[0] for cls in type(model).__mro__]
    is_estimator = any(
        cls.__name__ == "BaseEstimator" and cls.__module__.startswith("sklearn.") for cls in type(model).__mro__
    )
    if not is_estimator:
        return None
    return next((root for root in ancestry if root in ("sklearn", "xgboost", "lightgbm", "catboost")), "sklearn")


def _snapshot_sklearn(model: Any, framework: str, directory: str | os.PathLike[str]) -> ModelSnapshot:
    kind = type(model)
    _refuse_unfitted(model)
    with PayloadFile(directory, ".pickle") as file:
        try:
            pickle.Pickler(file, protocol=5).dump(model)
        except OSError:
            raise
        except Exception as error:  # a model's own __getstate__ or __reduce__ may raise anything
            raise UnknownModelError(
                f"The {kind.__qualname__} cannot be pickled: {type(error).__name__}: {error}.",
                "Lambdas, open files and functions defined in functions cannot be; use module-level functions.",
            ) from error
    metadata = {"opaque": True, "class": f"{kind.__module__}.{kind.__qualname__}"}
    if version := getattr(sys.modules.get(framework), "__version__", None):
        metadata["framework_version"] = str(version)
    return ModelSnapshot(file.path, "pickle", framework, kind.__name__, file.size, file.sha256, metadata)


def _refuse_unfitted(model: Any) -> None:
    validation: Any = sys.modules.get("sklearn.utils.validation")
    if validation is None:  # an estimator whose base class is loaded always has it
        return
    try:
        validation.check_is_fitted(model)
    except Exception as error:
        name = type(model).__qualname__
        if type(error).__name__ != "NotFittedError":
            raise UnknownModelError(f"The {name} is no complete estimator: {error}.") from error
        raise UnknownModelError(
            f"The {name} is not fitted: there is no state to record.", "Call fit or partial_fit first."
        ) from None
