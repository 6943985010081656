"""Which framework a model is of, told by the classes that it derives from. No framework is imported here."""

from __future__ import annotations

import sys
from typing import Any

# (package, class): what a model of each framework derives from. Keras 3 on PyTorch makes modules of PyTorch, and the
# estimators of xgboost and lightgbm derive from scikit-learn's: the nearest ancestor decides.
_ANCESTORS = {
    ("sklearn", "BaseEstimator"): "sklearn",
    ("xgboost", "XGBModel"): "xgboost",
    ("xgboost", "Booster"): "xgboost",
    ("lightgbm", "LGBMModel"): "lightgbm",
    ("lightgbm", "Booster"): "lightgbm",
    ("catboost", "CatBoost"): "catboost",
    ("keras", "Model"): "keras",
    ("tf_keras", "Model"): "keras",
    ("torch", "Module"): "pytorch",
}


def ancestor(kind: type) -> tuple[str, type] | tuple[None, None]:
    """(framework, its class that ``kind`` derives from): the nearest one; Nones where there is none."""
    for cls in kind.__mro__:
        framework = _ANCESTORS.get((package(cls), cls.__name__))
        if framework is not None:
            return framework, cls
    return None, None


def package(kind: type) -> str:
    """The top package that a class is defined in."""
    return str(kind.__module__).partition(".")[0]


def qualified_name(kind: type) -> str:
    """Module and name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def version(base: type) -> str:
    """The version of the package that a framework's class belongs to, "" where it does not say."""
    return str(getattr(sys.modules.get(package(base)), "__version__", ""))


def identity(model: Any, base: type) -> dict[str, Any]:
    """What the metadata of every state says: the model's class, and the framework's version where there is one."""
    found = {"class": qualified_name(type(model))}
    if number := version(base):
        found["framework_version"] = number
    return found
