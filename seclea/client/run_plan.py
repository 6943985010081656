"""What a training run says of itself when it starts: model, parameters, application type, datasets."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seclea.client.matching import UsedDataset
from seclea.client.validation import MODEL_NAME, check_name, check_params
from seclea.entities import Model, TrainingRun

UNKNOWN_FRAMEWORK = "unknown"  # of a model of which only the name is given; a portal takes no empty one


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run that nothing speaks against, and its model, to be handed over before it."""

    run: TrainingRun
    model: Model | None


def plan_run(
    name: str | None,
    params: Mapping[str, Any],
    metadata: Mapping[str, Any],
    datasets: Sequence[UsedDataset],
    model: Any,
) -> RunPlan:
    """Describe a run.

    Args:
        params, metadata: the user's, checked; parameters are the model's own where there are none.
        model: the model, its name, or None.
    Raises:
        UnknownModelError: a model that cannot be recorded.
    """
    entity, said = None, {}
    if isinstance(model, str):
        entity = Model(name=check_name("model", model, MODEL_NAME), framework=UNKNOWN_FRAMEWORK)
    elif model is not None:
        from seclea.client.snapshot.application import application_type
        from seclea.client.snapshot.models import describe_model  # loads nothing of the framework

        described = describe_model(model)
        entity = Model(name=check_name("model", described.name, MODEL_NAME), framework=described.framework)
        params = params or check_params(described.params)
        said = {"class": described.qualified_name, "application_type": application_type(model, _outputs(datasets))}
        if described.framework_version:
            said["framework_version"] = described.framework_version
        if unlike := _other_features(model, datasets):
            said["features_differ"] = unlike
    run = TrainingRun(
        name=name or "",
        model=entity.uuid if entity is not None else None,
        datasets=tuple(one.id for one in datasets),
        dataset_roles=tuple(one.role for one in datasets) if any(one.role for one in datasets) else (),
        at_portal=tuple(one.id for one in datasets if not one.here),
        params=dict(params),
        metadata={**said, **metadata},
        started_ns=time.time_ns(),
    )
    return RunPlan(run, entity)


def _other_features(model: Any, datasets: Sequence[UsedDataset]) -> str:
    """How the features that a fitted model tells of differ from those of its train dataset; empty where they do not."""
    train = next((one.metadata for one in datasets if one.role == "train"), None)
    try:
        count, names = int(model.n_features_in_), getattr(model, "feature_names_in_", None)
        names = None if names is None else [str(name) for name in names]
    except Exception:  # a model that does not tell, or not yet
        return ""
    roles = (train or {}).get("roles")
    there = (roles or {}).get("X") or [
        name for name in (train or {}).get("features") or () if name not in ((train or {}).get("outputs") or ())
    ]
    if not there or (names == there if names is not None else count == len(there)):
        return ""
    if names is not None and sorted(names) == sorted(there):
        return "the model was fitted on the same features in another order"
    strange = [name for name in names or () if name not in there]
    more = f", among them {strange[0]!r}, which is none of it" if strange else ""
    return f"the model was fitted on {count} features, its train dataset has {len(there)}{more}"


def _outputs(datasets: Sequence[UsedDataset]) -> Mapping[str, Any] | None:
    """What is to be predicted, as the training data says it."""
    for wanted in ("train", ""):
        for one in datasets:
            if one.role == wanted and (found := one.metadata.get("outputs_info")):
                return dict(found)
    return None
