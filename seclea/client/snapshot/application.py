"""What a model is for: binary, multiclass, multilabel, multioutput, regression, …

A model is asked first (what it learnt, its objective or loss, its last layer); where it cannot say, the outputs of its dataset
are looked at. What neither of them tells is "unknown": a guess would be a false record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seclea.client.snapshot import keras_models, torch_models
from seclea.client.snapshot.boosters import is_booster, xgboost_learner
from seclea.client.snapshot.frameworks import ancestor

UNKNOWN = "unknown"
CLASSIFICATION = ("binary", "multiclass", "multilabel", "multioutput")
REGRESSION = ("regression", "multioutput_regression")
APPLICATION_TYPES = (*CLASSIFICATION, *REGRESSION, "clustering", "outlier_detection", UNKNOWN)

_MAX_NESTED = 8  # estimators within estimators


def application_type(model: Any, outputs_info: Mapping[str, Any] | None = None) -> str:
    """One of `APPLICATION_TYPES`. Never fails: a model that cannot be recorded, or only its name, is as good as none.

    Args:
        model: fitted or not.
        outputs_info: the dataset's metadata of that name: of each output its type ("classification" or "regression") and
            its classes, null where there are too many. A model that says something else is believed.
    """
    by_data = _by_outputs(outputs_info or {})
    try:
        model = torch_models.unwrapped(model)
        framework, base = ancestor(type(model))
        if base is None:
            return by_data
        if framework == "keras":
            return _keras(model, by_data)
        if framework == "pytorch":
            return by_data
        if framework == "xgboost":
            return _xgboost(model, base, by_data)
        if framework == "lightgbm" and is_booster(base):
            return _lightgbm(model, by_data)
        return _estimator(model, by_data)
    except Exception:  # properties of a user's own class
        return by_data


# ------------------------------------------------------------------------------------------------------------------
# The dataset


def _by_outputs(outputs_info: Any) -> str:
    if not isinstance(outputs_info, Mapping) or not outputs_info:
        return UNKNOWN
    infos = [info for info in outputs_info.values() if isinstance(info, Mapping)]
    types = {info.get("type") for info in infos}
    if len(infos) != len(outputs_info) or not types <= {"classification", "regression"}:
        return UNKNOWN
    if types == {"regression"}:
        return REGRESSION[len(infos) > 1]
    if len(infos) > 1:
        return "multioutput"
    classes = infos[0].get("classes")
    return _by_classes(len(classes)) if isinstance(classes, list | tuple) else "multiclass"


def _by_classes(number: int) -> str:
    return "binary" if number <= 2 else "multiclass"


def _one_of(kinds: tuple[str, ...], by_data: str, otherwise: str = UNKNOWN) -> str:
    """What the data say, where it is of the kind that the model is known to be."""
    return by_data if by_data in kinds else otherwise


# ------------------------------------------------------------------------------------------------------------------
# scikit-learn's interface


def _estimator(model: Any, by_data: str, nested: int = 0) -> str:
    inner = _inner(model)
    if inner is not None and nested < _MAX_NESTED:
        return _estimator(inner, by_data, nested + 1)
    framework, base = ancestor(type(model))
    if framework == "xgboost" and base is not None:
        return _xgboost(model, base, by_data)
    kind = _estimator_type(model)
    if kind == "classifier" or (kind is None and hasattr(model, "classes_")):
        return _classifier(model, by_data)
    if kind == "regressor":
        return _regressor(model, by_data)
    return {"clusterer": "clustering", "outlier_detector": "outlier_detection"}.get(kind or "", by_data)


def _inner(model: Any) -> Any:
    """The estimator that decides: a pipeline's last step, a search's best, the regressor under a transformed target."""
    steps = getattr(model, "steps", None)
    if isinstance(steps, list) and steps:
        return steps[-1][1]
    return getattr(model, "best_estimator_", None) or getattr(model, "regressor_", None)


def _estimator_type(model: Any) -> str | None:
    kind = getattr(model, "_estimator_type", None)  # up to scikit-learn 1.5, and of others
    if kind is None and hasattr(model, "__sklearn_tags__"):
        kind = model.__sklearn_tags__().estimator_type
    return kind if isinstance(kind, str) else None


def _classifier(model: Any, by_data: str) -> str:
    classes = getattr(model, "classes_", None)
    if classes is None:
        return _one_of(CLASSIFICATION, by_data)
    binarizer = getattr(model, "label_binarizer_", None) or getattr(model, "_label_binarizer", None)
    if "multilabel" in str(getattr(binarizer, "y_type_", "")):
        return "multilabel"
    if isinstance(classes, list | tuple) and len(classes) and hasattr(classes[0], "__len__"):
        return _by_classes(len(classes[0])) if len(classes) == 1 else "multioutput"
    return _by_classes(len(classes))


def _regressor(model: Any, by_data: str) -> str:
    outputs = _outputs(model)
    return _one_of(REGRESSION, by_data, "regression") if outputs is None else REGRESSION[outputs > 1]


def _outputs(model: Any) -> int | None:
    """How many outputs a fitted regressor has; None where it does not say."""
    number = getattr(model, "n_outputs_", None)
    if number is not None:
        return int(number)
    if any(cls.__module__ == "sklearn.multioutput" for cls in type(model).__mro__):
        fitted = getattr(model, "estimators_", None)
        return None if fitted is None else len(fitted)
    for name in ("coef_", "dual_coef_", "_y", "y_train_"):
        shape = getattr(getattr(model, name, None), "shape", None)
        if shape is not None:
            if name.endswith("coef_"):  # (outputs, features); kernel ridge has (samples, outputs)
                return _rows(shape, 1 if name == "dual_coef_" and not hasattr(model, "support_") else 0)
            return _rows(shape, 1)
    return None


def _rows(shape: tuple[int, ...], axis: int) -> int:
    return shape[axis] if len(shape) > 1 else 1


# ------------------------------------------------------------------------------------------------------------------
# Boosters


def _xgboost(model: Any, base: type, by_data: str) -> str:
    kind = None if is_booster(base) else _estimator_type(model)
    learner = xgboost_learner(model, base)
    if not learner:
        if kind == "regressor":
            return _one_of(REGRESSION, by_data, "regression")
        return _one_of(CLASSIFICATION, by_data) if kind == "classifier" else by_data
    objective, sizes = str(learner["objective"]["name"]), learner["learner_model_param"]
    family = objective.partition(":")[0]
    outputs = int(sizes.get("num_target") or 1)
    if family == "binary":
        return "multilabel" if outputs > 1 else "binary"
    if family == "multi":
        return _by_classes(int(sizes["num_class"]))
    if kind == "classifier":  # with an objective of regression
        return _by_classes(int(model.n_classes_))
    if family in ("reg", "count", "survival"):
        return REGRESSION[outputs > 1]
    return by_data


_LIGHTGBM_REGRESSION = (
    *("regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie"),
)  # cross entropies are of probabilities, and ranks of nothing in our list


def _lightgbm(booster: Any, by_data: str) -> str:
    # Its parameters may hold any of several names for the objective, or none; its text always has the one that was used.
    lines = booster.model_to_string(num_iteration=1).splitlines()
    header = dict(line.split("=", 1) for line in lines[:20] if "=" in line)
    objective = header.get("objective", "").split(" ")[0]
    if objective == "binary":
        return "binary"
    if objective in ("multiclass", "multiclassova"):
        return _by_classes(int(header["num_class"]))
    return "regression" if objective in _LIGHTGBM_REGRESSION else by_data


# ------------------------------------------------------------------------------------------------------------------
# Keras

_KERAS_BINARY = ("binarycrossentropy", "binaryfocalcrossentropy", "bce", "hinge", "squaredhinge")
_KERAS_CLASSES = (
    *("categoricalcrossentropy", "sparsecategoricalcrossentropy", "categoricalfocalcrossentropy", "categoricalhinge"),
    *("categoricalgeneralizedcrossentropy",),
)
_KERAS_REGRESSION = (
    *("meansquarederror", "mse", "meanabsoluteerror", "mae", "meanabsolutepercentageerror", "mape"),
    *("meansquaredlogarithmicerror", "msle", "logcosh", "huber", "poisson"),
)


def _keras(model: Any, by_data: str) -> str:
    losses = keras_models.loss_names(model)
    several = list(losses.values()) if isinstance(losses, Mapping) else losses if isinstance(losses, list) else []
    outputs = keras_models.outputs(model)
    if len(outputs) > 1 or len(several) > 1:
        each = [_keras_family(loss) for loss in several] or [_keras_family(losses)]
        if all(family == "regression" for family in each):
            return "multioutput_regression"
        return "multioutput" if None not in each else _one_of(("multioutput", "multioutput_regression"), by_data)
    units, activation = outputs[0] if outputs else (None, None)
    family = _keras_family(several[0] if several else losses)
    if family is None:
        family = {"softmax": "classes", "sigmoid": "binary"}.get(activation or "")
    if family == "binary":
        if units is None:
            return _one_of(("binary", "multilabel"), by_data)
        return "binary" if units == 1 else "multilabel"
    if family == "classes":
        return _one_of(("binary", "multiclass"), by_data) if units is None else _by_classes(units)
    if family == "regression":
        return _one_of(REGRESSION, by_data, "regression") if units is None else REGRESSION[units > 1]
    return by_data


def _keras_family(loss: Any) -> str | None:
    name = str(loss).rpartition(".")[2].replace("_", "").lower()  # also of the function keras.losses.mean_squared_error
    if name in _KERAS_BINARY:
        return "binary"
    if name in _KERAS_CLASSES:
        return "classes"
    return "regression" if name in _KERAS_REGRESSION else None
