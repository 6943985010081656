"""xgboost and lightgbm: boosters and the classes that wrap them like estimators.

What is stored is the booster, in the framework's own format: UBJSON for xgboost, text for lightgbm. Both are data and run
nothing. What a wrapper knows beside its booster (lightgbm's class labels) is in the metadata.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from seclea.client.snapshot import sklearn_models
from seclea.client.snapshot.files import PayloadFile, Stored
from seclea.client.snapshot.frameworks import identity
from seclea.client.snapshot.parameters import cause, plain, shortest
from seclea.errors import UnknownModelError

_NO_TREES = "Train it first: a booster without a round has nothing to record."

# Of xgboost's configuration: second names of a parameter, and what it works out by itself.
_ALIASES = {"alpha": "reg_alpha", "lambda": "reg_lambda", "eta": "learning_rate", "gamma": "min_split_loss"}
_DERIVED_GROUPS = ("generic_param", "learner_model_param", "gbtree_model_param", "hist_train_param")
_DERIVED = {*_ALIASES.values(), "updater", "updater_seq", "sparse_threshold", "refresh_leaf", "max_row_perbatch"}


def is_booster(base: type) -> bool:
    """Whether a model is a booster itself, no wrapper."""
    return base.__name__ == "Booster"


# ------------------------------------------------------------------------------------------------------------------
# xgboost


def xgboost_parameters(model: Any, base: type) -> Mapping[Any, Any]:
    """A wrapper's parameters that are set, or a booster's configuration without what xgboost works out by itself."""
    if not is_booster(base):
        params = sklearn_models.parameters_of(model)
        return {name: value for name, value in params.items() if value is not None}
    return _booster_parameters(model)


def xgboost_learner(model: Any, base: type) -> dict[str, Any]:
    """The learner's configuration of a booster, or of a wrapper's; empty where there is none yet."""
    try:
        booster = model if is_booster(base) else model.get_booster()
        return dict(json.loads(booster.save_config())["learner"])
    except Exception:  # not fitted
        return {}


def _booster_parameters(booster: Any) -> dict[str, Any]:
    learner = json.loads(booster.save_config())["learner"]
    general = learner["generic_param"]
    found: dict[str, Any] = {
        "booster": learner["learner_train_param"]["booster"],
        "objective": learner["objective"]["name"],
        "device": general["device"],
        "seed": _number(general["seed"]),
        "num_boost_round": booster.num_boosted_rounds(),
    }
    if classes := _number(learner["learner_model_param"]["num_class"]):
        found["num_class"] = classes
    if metrics := [item["name"] for item in learner.get("metrics", ())]:
        found["eval_metric"] = metrics
    for group in _groups(learner):
        for name, value in group.items():
            if name not in _DERIVED:
                found.setdefault(name, _number(value))
    if attributes := booster.attributes():
        found["attributes"] = attributes
    return found


def _groups(node: Any) -> Iterator[dict[str, Any]]:
    """The groups of parameters in a configuration, however deep."""
    for name, inner in node.items() if isinstance(node, dict) else ():
        if isinstance(inner, dict):
            if name.endswith("_param") and name not in _DERIVED_GROUPS:
                yield inner
            yield from _groups(inner)


def _number(text: Any) -> Any:
    """What xgboost wrote as text. Its numbers have 32 bits, but for a few that it writes with 17 digits."""
    for read in (int, float):
        try:
            value = read(text)
        except (TypeError, ValueError):
            continue
        return shortest(value) if isinstance(value, float) and len(text) <= 14 else value
    return text


def _rounds(booster: Any) -> int:
    try:
        return int(booster.num_boosted_rounds())
    except Exception:  # a booster that has seen no data does not even know its features
        return 0


def store_xgboost(model: Any, base: type, directory: str | os.PathLike[str]) -> Stored:
    """Store a booster, or a fitted wrapper's, as UBJSON.

    Raises:
        UnknownModelError: not fitted, or without any round.
    """
    if is_booster(base):
        booster = model
    else:
        sklearn_models.refuse_unfitted(model)
        booster = model.get_booster()
    rounds = _rounds(booster)
    if not rounds:
        raise UnknownModelError(f"The {type(model).__qualname__} has no trees yet.", _NO_TREES)
    metadata = {**identity(model, base), "rounds": rounds, "features": booster.num_features()}
    if (best := booster.attr("best_iteration")) is not None:
        metadata["best_iteration"] = int(best)
    if not is_booster(base):
        metadata |= _of_wrapper(model, ("n_classes_", "n_features_in_"))
    # Not save_model: that adds and removes an attribute of the user's booster, and a full disk is no OSError there.
    with PayloadFile(directory, ".ubj") as file:
        file.write(_written(model, lambda: booster.save_raw("ubj")))
    return Stored("xgboost-ubj", file, metadata)


# ------------------------------------------------------------------------------------------------------------------
# lightgbm


def lightgbm_parameters(model: Any, base: type) -> Mapping[Any, Any]:
    """A booster's ``params``, or a wrapper's ``get_params``."""
    return dict(model.params) if is_booster(base) else sklearn_models.parameters_of(model)


def store_lightgbm(model: Any, base: type, directory: str | os.PathLike[str]) -> Stored:
    """Store a booster, or a fitted wrapper's, as lightgbm's text: up to the best iteration where training stopped early.

    Raises:
        UnknownModelError: not fitted, or without any tree.
    """
    if is_booster(base):
        booster = model
    else:
        sklearn_models.refuse_unfitted(model)
        booster = model.booster_
    trees = booster.num_trees()
    if not trees:
        raise UnknownModelError(f"The {type(model).__qualname__} has no trees yet.", _NO_TREES)
    metadata = {**identity(model, base), "trees": trees, "features": booster.num_feature()}
    if booster.best_iteration > 0:
        metadata["best_iteration"] = booster.best_iteration
    if not is_booster(base):
        metadata |= _of_wrapper(model, ("classes_", "n_classes_", "n_features_in_", "objective_", "best_score_"))
    with PayloadFile(directory, ".txt") as file:
        file.write(_written(model, booster.model_to_string).encode("utf-8"))
    return Stored("lightgbm-text", file, metadata)


# ------------------------------------------------------------------------------------------------------------------


def _of_wrapper(model: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """What a wrapper learnt beside its booster. The labels of classes are all there: without them it predicts numbers."""
    found = {name: _attribute(model, name) for name in names}
    return {
        name: value.tolist() if hasattr(value, "tolist") else plain(value)
        for name, value in found.items()
        if value is not None
    }


def _attribute(model: Any, name: str) -> Any:
    try:
        return getattr(model, name)
    except Exception:  # a regressor has no classes, and lightgbm raises errors of its own
        return None


def _written(model: Any, write: Any) -> Any:
    try:
        return write()
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise UnknownModelError(f"The {type(model).__qualname__} cannot be stored: {cause(error)}.") from error
