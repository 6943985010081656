"""PyTorch modules, state dicts, and whatever nests tensors: stored as safetensors (docs/decisions/0008)."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from typing import Any

from seclea.client.snapshot.files import PayloadFile, Stored
from seclea.client.snapshot.parameters import CUT
from seclea.client.snapshot.torch_state import write_state

_MAX_MODULES = 50  # named in the parameters


def unwrapped(model: Any) -> Any:
    """The user's own module, out of DataParallel, DistributedDataParallel and torch.compile; anything else as it is."""
    while True:
        kind = type(model)
        if kind.__module__.startswith("torch.nn.parallel.") and "module" in model._modules:
            model = model.module
        elif kind.__module__.startswith("torch._dynamo.") and "_orig_mod" in model._modules:
            model = model._orig_mod
        else:
            return model


def parameters_of(module: Any) -> dict[str, Any]:
    """What can be said of any module: how many parameters it has, and the names and classes of its first modules."""
    total = trainable = uninitialized = 0
    for parameter in module.parameters():
        if hasattr(parameter, "materialize"):  # of a lazy module: without a shape until its first call
            uninitialized += 1
            continue
        total += parameter.numel()
        trainable += parameter.numel() if parameter.requires_grad else 0
    named = [f"{name}: {type(inner).__name__}" for name, inner in itertools.islice(_named(module), _MAX_MODULES)]
    found: dict[str, Any] = {"parameters": total, "trainable_parameters": trainable, "modules": named}
    if uninitialized:
        found["uninitialized_parameters"] = uninitialized
    if left := sum(1 for _ in _named(module)) - len(named):
        found[CUT] = {"modules": f"{left} more"}
    return found


def _named(module: Any) -> Any:
    return itertools.islice(module.named_modules(), 1, None)  # without the module itself


def store(state: Mapping[Any, Any], directory: str | os.PathLike[str]) -> Stored:
    """Store a state.

    Raises:
        UnknownModelError: a tensor or value that cannot be kept; the message names it.
    """
    with PayloadFile(directory, ".safetensors") as file:
        metadata = write_state(state, file)
    return Stored("safetensors", file, metadata)
