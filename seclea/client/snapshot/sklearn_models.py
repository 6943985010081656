"""scikit-learn estimators, and others that follow its interface: stored as pickles (docs/decisions/0007)."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Mapping
from typing import Any

from seclea.client.snapshot.files import PayloadFile, Stored
from seclea.client.snapshot.frameworks import identity
from seclea.errors import LoggingPaused, TooLargeError, UnknownModelError


def parameters_of(model: Any) -> Mapping[Any, Any]:
    """What ``get_params`` answers: of the estimator and, as "step__name", of those in it."""
    return dict(model.get_params(deep=True))


def store(model: Any, base: type, directory: str | os.PathLike[str]) -> Stored:
    """Store a fitted estimator.

    Args:
        base: the framework's class that it derives from.
    Raises:
        UnknownModelError: not fitted, or it cannot be pickled.
    """
    kind = type(model)
    refuse_unfitted(model)
    with PayloadFile(directory, ".pickle") as file:
        try:
            pickle.Pickler(file, protocol=5).dump(model)
        except (OSError, MemoryError, LoggingPaused, TooLargeError):  # the file's, not the model's
            raise
        except Exception as error:  # a model's own __getstate__ or __reduce__ may raise anything
            raise UnknownModelError(
                f"The {kind.__qualname__} cannot be pickled: {type(error).__name__}: {error}.",
                "Lambdas, open files and functions defined in functions cannot be; use module-level functions.",
            ) from error
    return Stored("pickle", file, {"opaque": True, **identity(model, base)})


def refuse_unfitted(model: Any) -> None:
    """Raise UnknownModelError for an estimator that has learnt nothing yet."""
    is_fitted = getattr(model, "is_fitted", None)  # catboost's, whose models are no estimators to scikit-learn
    if callable(is_fitted) and not is_fitted():
        raise not_fitted(model)
    validation: Any = sys.modules.get("sklearn.utils.validation")
    if validation is None or callable(is_fitted):  # an estimator whose base class is loaded always has it
        return
    try:
        validation.check_is_fitted(model)
    except Exception as error:
        if type(error).__name__ == "NotFittedError":
            raise not_fitted(model) from None
        raise UnknownModelError(f"The {type(model).__qualname__} is no complete estimator: {error}.") from error


def not_fitted(model: Any) -> UnknownModelError:
    """The error for an estimator without a state."""
    return UnknownModelError(
        f"The {type(model).__qualname__} is not fitted: there is no state to record.", "Call fit or partial_fit first."
    )
