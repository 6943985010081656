"""PyTorch state as safetensors: modules, state dicts, and whatever nests tensors and plain values (optimizers).

Tensors go by a dotted name ("state.0.exp_avg"). Everything around them is JSON in the file's metadata under
"seclea.structure"; a state that is nothing but a flat dict of tensors has none, and reads as any safetensors file.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from seclea.client.snapshot import safetensors
from seclea.client.snapshot.safetensors import TensorInfo
from seclea.entities import to_json_value
from seclea.errors import UnknownModelError

STRUCTURE = "seclea.structure"  # JSON of the tree around the tensors
TIED = "seclea.tied"  # JSON {name: name under which the same tensor is stored}
_MAX_DEPTH = 64


def torch() -> Any:
    """PyTorch where the user has loaded it, else None. Never imports it."""
    module = sys.modules.get("torch")
    return module if hasattr(module, "nn") and hasattr(module, "Tensor") else None


def is_state(value: Any) -> bool:
    """Whether a dict holds at least one tensor, however deep."""
    loaded = torch()
    return loaded is not None and any(isinstance(leaf, loaded.Tensor) for leaf in _leaves(value, 0))


def _leaves(value: Any, depth: int) -> Iterator[Any]:
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        yield value
        return
    for item in value:
        yield from _leaves(item, depth + 1)


def write_state(state: Mapping[Any, Any], sink: safetensors.Sink) -> dict[str, Any]:
    """Write a state; returns what to say about it: how many tensors, parameters and bytes.

    Raises:
        UnknownModelError: a tensor without data on a device (meta), sparse, quantised, of a type that the format does
            not name, or a value that is neither tensor nor JSON; the message names it.
    """
    tree = _Tree()
    structure = tree.walk(state, ())
    metadata = {"format": "pt"}
    if tree.nested:
        metadata[STRUCTURE] = json.dumps(structure, separators=(",", ":"), allow_nan=False)
    if tree.tied:
        metadata[TIED] = json.dumps(tree.tied, separators=(",", ":"))
    tensors = list(tree.tensors.values())
    safetensors.write(sink, tensors, metadata)
    return {
        "tensors": len(tensors),
        "elements": sum(item.size // safetensors.ITEM_BYTES[item.dtype] for item in tensors),
        "bytes": sum(item.size for item in tensors),
        "tied": len(tree.tied),
    }


class _Tree:
    """Walks a state once: collects its tensors, and says as JSON what was around them."""

    def __init__(self) -> None:
        self.tensors: dict[str, TensorInfo] = {}
        self.tied: dict[str, str] = {}
        self.nested = False
        self._stored: dict[tuple[Any, ...], str] = {}

    def walk(self, value: Any, path: tuple[Any, ...]) -> Any:
        if len(path) > _MAX_DEPTH:
            raise UnknownModelError(f"The state is nested deeper than {_MAX_DEPTH} levels.", "Is it part of itself?")
        if isinstance(value, torch().Tensor):
            return {"__tensor__": self._add(value, path)}
        if isinstance(value, Mapping):
            if path or not all(type(key) is str for key in value):
                self.nested = True
            items = [(key, self.walk(item, (*path, key))) for key, item in value.items()]
            if all(type(key) is str and not key.startswith("__") for key, _ in items):
                return dict(items)
            return {"__items__": [[self._plain(key, path), item] for key, item in items]}
        self.nested = True
        if isinstance(value, list | tuple):
            inner = [self.walk(item, (*path, number)) for number, item in enumerate(value)]
            return {"__tuple__": inner} if isinstance(value, tuple) else inner
        return self._plain(value, path)

    def _plain(self, value: Any, path: tuple[Any, ...]) -> Any:
        if isinstance(value, tuple):  # as a key
            return {"__tuple__": [self._plain(item, path) for item in value]}
        form = to_json_value(value)
        described = isinstance(form, dict) and ("__repr__" in form or "__callable__" in form)
        # What became a text, or a dict of its fields, does not come back as what it was.
        fields = isinstance(form, dict) and not next(iter(form), "").startswith("__")
        if described or fields or (isinstance(form, str) and not isinstance(value, str)):
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise UnknownModelError(
                f"The state holds a {kind} at {_dotted(path)!r}: neither a tensor nor a plain value.",
                "Leave it out, or replace it by a tensor, number or text.",
            )
        return form

    def _add(self, tensor: Any, path: tuple[Any, ...]) -> str:
        name = base = _dotted(path)
        number = 1
        while name in self.tensors or name in self.tied or name == safetensors.METADATA:
            number += 1  # "a.b" as a key beside a dict "a" with "b"
            name = f"{base}#{number}"
        self.nested = self.nested or name != base
        info = _info(tensor, name)
        if info.size:
            place: tuple[Any, ...] = (
                str(tensor.device),
                tensor.data_ptr(),
                tensor.dtype,
                tensor.shape,
                tensor.stride(),
            )
            place += (tensor.is_conj(), tensor.is_neg())
            if (kept := self._stored.setdefault(place, name)) != name:
                self.tied[name] = kept
                return name
        self.tensors[name] = info
        return name


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in path)


def _info(tensor: Any, name: str) -> TensorInfo:
    """Check one tensor.

    Raises:
        UnknownModelError: it cannot be stored as it is.
    """
    hint = ""
    if hasattr(tensor, "materialize"):
        problem, hint = "has no values yet: its module is lazy", "Call the module on data first."
    elif tensor.device.type == "meta":
        problem, hint = "is on the meta device and has no values", "Materialise it first: module.to_empty(...)."
    elif tensor.is_quantized:
        problem, hint = "is quantised", "Store tensor.dequantize(), or int_repr() with its scale."
    elif tensor.layout is not torch().strided:
        problem, hint = f"is sparse ({tensor.layout})", "Store tensor.to_dense(), or its indices and values."
    elif _is_wrapper(tensor):
        problem, hint = f"is a {type(tensor).__qualname__}", "Gather it into plain tensors first (full_tensor())."
    else:
        dtype = safetensors.DTYPES.get(str(tensor.dtype).removeprefix("torch."))
        if dtype is not None:
            return TensorInfo(name, dtype, tuple(tensor.shape), lambda: _contents(tensor))
        problem, hint = f"is {tensor.dtype}, which safetensors does not name", "Convert it, for instance to float32."
    raise UnknownModelError(f"Tensor {name!r} {problem}.", hint)


def _is_wrapper(tensor: Any) -> bool:
    """Whether this is a subclass that holds its values in other tensors (DTensor and its like): no data of its own."""
    return type(tensor) is not torch().Tensor and hasattr(type(tensor), "__tensor_flatten__")


def _contents(tensor: Any) -> memoryview:
    """The tensor's bytes: its own memory where it is contiguous and on the CPU, else a copy of this one tensor."""
    tensor = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    size = tensor.numel() * tensor.element_size()
    if sys.byteorder == "big":
        word = tensor.element_size() // (2 if tensor.is_complex() else 1)
        raw = bytearray((ctypes.c_char * size).from_address(tensor.data_ptr()))
        return memoryview(b"".join(bytes(raw[at : at + word][::-1]) for at in range(0, size, word)))
    array = (ctypes.c_ubyte * size).from_address(tensor.data_ptr())
    array.owner = tensor  # the view keeps the array, the array the tensor
    return memoryview(array).cast("B")
