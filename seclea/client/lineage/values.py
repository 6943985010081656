"""Values that a function depends on, as JSON: small ones as they are, large ones as a digest of their content.

An object with the key ``__kind__`` stands for what JSON has no word for: "set", "mapping" (keys that are no text), "object"
(class and attributes), "cycle", "digest" (too large to be kept), "withheld" (a secret by its name), "unverifiable".
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from seclea.entities import to_json_value
from seclea.errors import SecleaError

_PLAIN_BYTES = 4096  # as JSON; a larger value is kept as a digest
_MAX_ITEMS = 100_000  # of one container
_MAX_DEPTH = 12
_MAX_NODES = 50_000  # values looked at for one function; beyond, the rest is unverifiable
_PLAIN = (type(None), bool, int, float, str, bytes)
_SECRET = re.compile(r"(?i)passw|secret|token|api_?key|credential|private_?key")


class Described(NamedTuple):
    """A form that stands for a value: the same for values that are the same, whatever holds them."""

    form: Any


class Walker:
    """Describes values. ``special`` knows functions, classes and modules; what nobody knows is noted as unverifiable.

    Attributes:
        unverifiable: "name: type" of what is compared by its type only.
        libraries: top-level packages whose things occurred.
    """

    def __init__(self, special: Callable[[Any], Described | None]) -> None:
        self._special = special
        self._left = _MAX_NODES
        self._open: dict[int, int] = {}  # containers that we are inside of: a cycle becomes a number
        self.unverifiable: list[str] = []
        self.libraries: set[str] = set()

    def describe(self, value: Any, name: str) -> Any:
        """The JSON form of a value, at most a few kilobytes."""
        if _SECRET.search(name):
            return {
                "__kind__": "withheld",
                "type": _type_name(value),
            }  # by its name it is nobody's business; not in the fingerprint either
        form = self._form(value, name, 0)
        try:
            raw = json.dumps(form, sort_keys=True, ensure_ascii=False, allow_nan=False).encode(
                "utf-8", "backslashreplace"
            )
        except (TypeError, ValueError):
            return self._unknown(value, name)
        if len(raw) <= _PLAIN_BYTES:
            return form
        return {"__kind__": "digest", "sha256": hashlib.sha256(raw).hexdigest(), "type": _type_name(value)}

    def _form(self, value: Any, name: str, depth: int) -> Any:
        self._left -= 1
        if type(value) in _PLAIN:
            return to_json_value(value)
        if isinstance(value, enum.Enum):
            return {"enum": f"{_type_name(value)}.{value.name}"}
        known = self._special(value)
        if known is not None:
            return known.form
        content = _content_digest(value)
        if content is not None:
            return content
        if depth > _MAX_DEPTH or self._left < 0:
            return self._unknown(value, name)
        if id(value) in self._open:
            return {"__kind__": "cycle", "number": self._open[id(value)]}
        self._open[id(value)] = len(self._open)
        try:
            return self._container(value, name, depth)
        except Exception:  # objects of other people's making may raise anything when they are looked at
            return self._unknown(value, name)
        finally:
            del self._open[id(value)]

    def _container(self, value: Any, name: str, depth: int) -> Any:
        if isinstance(value, Mapping) and len(value) <= _MAX_ITEMS:
            items = [
                [self._form(key, name, depth + 1), self._form(item, f"{name}[{key!r:.40}]", depth + 1)]
                for key, item in value.items()
            ]
            kind = {} if type(value) is dict else {"type": _type_name(value)}
            if all(isinstance(key, str) for key, _ in items) and not kind:
                body = dict(items)
                return body if not any(key.startswith("__") for key in body) else {"__kind__": "dict", "items": items}
            return {"__kind__": "mapping", "items": items, **kind}
        if isinstance(value, list | tuple) and len(value) <= _MAX_ITEMS:
            return [self._form(item, f"{name}[{number}]", depth + 1) for number, item in enumerate(value)]
        if isinstance(value, set | frozenset) and len(value) <= _MAX_ITEMS:
            forms = [self._form(item, name, depth + 1) for item in value]
            return {"__kind__": "set", "items": sorted(forms, key=lambda form: json.dumps(form, sort_keys=True))}
        plain = _plain(value)
        if plain is not None:
            return plain
        return self._object(value, name, depth)

    def _object(self, value: Any, name: str, depth: int) -> Any:
        """An object by its class and attributes: a fitted scaler, a configuration, a dataclass."""
        if type(value).__module__.partition(".")[0] in ("seclea", "logging", "threading", "multiprocessing"):
            return {"__kind__": "object", "class": _type_name(value)}  # no part of what the function computes
        attributes = getattr(value, "__dict__", None)
        slots = [slot for cls in type(value).__mro__ for slot in _slots(cls) if hasattr(value, slot)]
        if not isinstance(attributes, dict) and not slots:
            return self._unknown(value, name)
        state = {**(attributes or {}), **{slot: getattr(value, slot) for slot in slots}}
        inner = {
            key: {"__kind__": "withheld", "type": _type_name(state[key])}
            if _SECRET.search(key)
            else self._form(state[key], f"{name}.{key}", depth + 1)
            for key in sorted(map(str, state))
            if key in state
        }
        return {"__kind__": "object", "class": self._form(type(value), name, depth + 1), "state": inner}

    def _unknown(self, value: Any, name: str) -> Any:
        self.unverifiable.append(f"{name}: {_type_name(value)}")
        return {"__kind__": "unverifiable", "type": _type_name(value)}


def _slots(cls: type) -> list[str]:
    slots = vars(cls).get("__slots__", ())
    return [slots] if isinstance(slots, str) else [slot for slot in slots if slot not in ("__dict__", "__weakref__")]


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _plain(value: Any) -> Any:
    """Dates, decimals, enums, numpy and pandas scalars: what entities can hold as it is. None for everything else."""
    try:
        form = to_json_value(value)
    except SecleaError:
        return None
    unknown = isinstance(form, dict) and ("__repr__" in form or "__callable__" in form)
    return None if unknown or form is None else form


def _content_digest(value: Any) -> Any:
    """Arrays, tensors and tables by a digest of what is in them; None for everything else."""
    root = type(value).__module__.partition(".")[0]
    if root == "numpy" and type(value).__name__ in ("ndarray", "MaskedArray", "matrix", "memmap"):
        return _array(value)
    if root == "torch" and callable(getattr(value, "detach", None)):
        try:
            return {**_array(value.detach().cpu().numpy()), "type": "torch.Tensor"}
        except (TypeError, RuntimeError):
            return None
    if root in ("pandas", "pyarrow", "polars") and (hasattr(value, "columns") or type(value).__name__ == "Series"):
        from seclea.client.snapshot.content import to_arrow
        from seclea.client.snapshot.digest import content_digest

        try:
            table, _ = to_arrow(value)
            return {"type": _type_name(value), "rows": table.num_rows, "content_digest": content_digest(table)}
        except (SecleaError, ImportError):
            return None
    if root == "pandas" and callable(getattr(value, "to_numpy", None)):  # an Index
        return {**_array(value.to_numpy()), "type": _type_name(value)}
    return None


def _array(value: Any) -> Any:
    form = {"type": "numpy.ndarray", "dtype": str(value.dtype), "shape": list(value.shape)}
    if value.dtype.hasobject:
        try:
            raw: Any = json.dumps(to_json_value(value.tolist()), sort_keys=True, allow_nan=False).encode()
        except (SecleaError, TypeError, ValueError):
            return None
    else:
        raw = memoryview(value.copy(order="C")).cast("B") if value.size else b""
    return {**form, "sha256": hashlib.sha256(raw).hexdigest()}
