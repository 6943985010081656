"""Keras models as `.keras` archives, and the variables of one as safetensors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seclea.client.snapshot import safetensors
from seclea.client.snapshot.files import PayloadFile, PayloadPath, Stored
from seclea.client.snapshot.frameworks import identity, package
from seclea.client.snapshot.parameters import callable_name, cause, plain, shortest
from seclea.errors import UnknownModelError

_MAX_DEPTH = 8  # of models within models
# What tells a layer's size and behaviour; of the rest of its configuration a record needs nothing.
_KEYS = (
    "batch_shape", "target_shape", "units", "filters", "kernel_size", "pool_size", "strides", "padding", "dilation_rate",
    "input_dim", "output_dim", "num_heads", "key_dim", "max_tokens", "axis", "rate", "dropout", "recurrent_dropout",
    "return_sequences", "activation", "recurrent_activation", "use_bias", "groups", "depth_multiplier", "size", "trainable",
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------
# Parameters


def parameters_of(model: Any) -> dict[str, Any]:
    """Layers (class, name, sizes), optimizer and losses. Works without ``get_config`` too: a subclass need not have one."""
    found: dict[str, Any] = {"layers": list(_layers(model, 0)), **_counts(model)}
    if optimizer := getattr(model, "optimizer", None):
        found["optimizer"] = {"class": type(optimizer).__name__, **_short(_config(optimizer))}
    if losses := loss_names(model):
        found["loss"] = losses
    return found


def _counts(model: Any) -> dict[str, int]:
    try:
        return {
            "parameters": int(model.count_params()),
            "trainable_parameters": sum(_elements(one) for one in model.trainable_variables),
        }
    except Exception:  # not built yet
        return {}


def _elements(variable: Any) -> int:
    count = 1
    for length in variable.shape:
        count *= int(length)
    return count


def _config(thing: Any) -> Mapping[str, Any]:
    try:
        return {name: plain(value) for name, value in thing.get_config().items()}
    except Exception:  # a user's own class, made of what Keras cannot write down
        return {}


def _short(config: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's settings: without what is not set, numbers as they were written, a schedule without its wrapping."""
    found = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and "class_name" in value:
            value = {"class": value["class_name"], **_short(value.get("config") or {})}
        if value is not None:
            found[name] = shortest(value) if isinstance(value, float) else value
    return found


def _layers(model: Any, depth: int) -> Iterator[dict[str, Any]]:
    for layer in getattr(model, "layers", ()):
        found: dict[str, Any] = {"class": type(layer).__name__, "name": str(getattr(layer, "name", ""))}
        config = _config(layer)
        found |= _reduced(config)
        inner = config.get("layer")  # of a wrapper: Bidirectional, TimeDistributed
        if isinstance(inner, Mapping) and "class_name" in inner:
            found["layer"] = {"class": inner["class_name"], **_reduced(inner.get("config") or {})}
        if getattr(layer, "layers", None) and depth < _MAX_DEPTH:
            found["layers"] = list(_layers(layer, depth + 1))
        yield found


def _reduced(config: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: _named(config[name]) for name in _KEYS if config.get(name) is not None}
    if found.get("trainable") is True:
        del found["trainable"]
    return found


def _named(value: Any) -> Any:
    """A serialised object by its name: a user's activation is {"class_name": "function", "config": "gelu", …}."""
    if isinstance(value, Mapping) and "class_name" in value:
        config = value.get("config")
        return config if isinstance(config, str) else value.get("registered_name") or value["class_name"]
    return value


def loss_names(model: Any) -> Any:
    """What the model was compiled to minimise: a name, or a list or dict of names for several outputs. None if nothing."""
    return _loss_name(getattr(model, "loss", None))


def _loss_name(loss: Any) -> Any:
    if loss is None or isinstance(loss, str):
        return loss
    if isinstance(loss, Mapping):
        return {str(name): _loss_name(one) for name, one in loss.items()}
    if isinstance(loss, list | tuple):
        return [_loss_name(one) for one in loss]
    if package(type(loss)) in ("keras", "tf_keras"):
        return type(loss).__name__
    return callable_name(loss) if hasattr(loss, "__qualname__") else type(loss).__name__


def outputs(model: Any) -> list[tuple[int | None, str]]:
    """(length of the last axis, activation) of each output; None and "" where that is not known. At least one."""
    try:
        tensors = list(model.outputs)
    except Exception:  # a subclass, or not built
        tensors = []
    if tensors:
        return [(tensor.shape[-1] if tensor.shape else None, _activation(_maker(tensor))) for tensor in tensors]
    last = next(reversed(getattr(model, "layers", None) or [None]))  # the last that a subclass made: mostly its output
    units = getattr(last, "units", None)
    return [(units if isinstance(units, int) else None, _activation(last))]


def _maker(tensor: Any) -> Any:
    return getattr(getattr(tensor, "_keras_history", None), "operation", None)


def _activation(layer: Any) -> str:
    found = getattr(layer, "activation", None)
    return str(getattr(found, "__name__", "")) if found is not None else type(layer).__name__.lower()  # a Softmax layer


# ------------------------------------------------------------------------------------------------------------------
# States


def store(model: Any, base: type, directory: str | os.PathLike[str]) -> Stored:
    """Store a built model: configuration, weights and the optimizer's state.

    Raises:
        UnknownModelError: not built yet, or of parts that Keras cannot write down.
    """
    name = type(model).__qualname__
    if not getattr(model, "built", True):
        raise UnknownModelError(
            f"The {name} is not built: it has no weights yet.", "Call it on data, fit it, or give it an Input."
        )
    metadata: dict[str, Any] = {**identity(model, base), **_counts(model)}
    if backend := _backend(base):
        metadata["backend"] = backend
    if optimizer := getattr(model, "optimizer", None):
        metadata["optimizer"] = type(optimizer).__name__
    expected = 8 * int(metadata.get("parameters") or 0) + (1 << 20)  # with what an optimizer keeps, often
    with PayloadPath(directory, ".keras", expected) as file:
        try:
            base.save(model, os.fspath(file.path))  # type: ignore[attr-defined]  # not a save of the user's own
        except MemoryError:
            raise
        except Exception as error:  # get_config of a user's layer may raise anything
            if isinstance(error, OSError) and error.errno is not None:  # h5py has others, which are about the model
                raise
            raise UnknownModelError(
                f"The {name} cannot be saved by Keras: {cause(error)}.",
                "Give its layers a get_config that says what they were made of, or record its weights: model.weights.",
            ) from error
    return Stored("keras", file, metadata)


def _backend(base: type) -> str:
    config = getattr(sys.modules.get(package(base)), "config", None)
    backend = getattr(config, "backend", None)
    return str(backend()) if callable(backend) else ""


def are_variables(value: Any) -> bool:
    """Whether this is a list of Keras variables, as ``model.weights`` gives it."""
    return isinstance(value, list | tuple) and bool(value) and all(_is_variable(item) for item in value)


def _is_variable(value: Any) -> bool:
    return any(cls.__name__ == "Variable" and package(cls) == "keras" for cls in type(value).__mro__)


def store_variables(variables: Sequence[Any], directory: str | os.PathLike[str]) -> Stored:
    """Store variables as safetensors, each under its path ("sequential/dense/kernel"); a path that was there gets "#2".

    Raises:
        UnknownModelError: a variable without values, or of a type that the format does not name.
    """
    keras: Any = sys.modules["keras"]
    tensors: dict[str, safetensors.TensorInfo] = {}
    for variable in variables:
        path = name = str(variable.path)
        number = 1
        while name in tensors:
            number += 1
            name = f"{path}#{number}"
        dtype = safetensors.DTYPES.get(str(variable.dtype))
        if dtype is None:
            raise UnknownModelError(
                f"The variable {path!r} is {variable.dtype}, which safetensors does not name.", "Convert it."
            )
        tensors[name] = safetensors.TensorInfo(
            name, dtype, tuple(int(length) for length in variable.shape), _reader(keras, variable)
        )
    with PayloadFile(directory, ".safetensors") as file:
        safetensors.write(file, tensors.values(), {"format": "np"})
    metadata: dict[str, Any] = {"tensors": len(tensors), "bytes": sum(item.size for item in tensors.values())}
    if number_of := getattr(keras, "__version__", None):
        metadata["framework_version"] = str(number_of)
    return Stored("safetensors", file, metadata)


def _reader(keras: Any, variable: Any) -> Any:
    def read() -> bytes:
        array = keras.ops.convert_to_numpy(variable.value)
        return bytes(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())

    return read
