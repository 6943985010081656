"""Values that a function depends on, as JSON: small ones as they are, large ones as a digest of their content.

An object with the key ``__kind__`` stands for what JSON has no word for: "set", "mapping" (keys that are no text), "object"
(class and attributes), "cycle", "digest" (too large to be kept), "withheld" (a secret by its name), "unverifiable".
"""

from __future__ import annotations

import enum
import hashlib
import io
import json
import os
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from seclea.entities import to_json_value
from seclea.errors import SecleaError

_PLAIN_BYTES = 4096  # as JSON; a larger value is kept as a digest
_MAX_ITEMS = 100_000  # of one container
_MAX_DEPTH = 12
_MAX_NODES = 50_000  # values looked at for one function; beyond, the rest is unverifiable
_PLAIN = (type(None), bool, int, float, str, bytes)
_MAX_UNVERIFIABLE = 50  # that are named; of the rest only how many there are
_SECRET = re.compile(
    r"pass(word|wd|phrase)?$|passw|secret|credential|bearer|authori[sz]ation|connectionstring|^auth$|^pat$|pat$|^dsn$"
    r"|(api|access|private|account|signing|encryption|[a-z]*_?)key$|token$|^tokens$|sastoken|userpass"
)
_HARMLESS = re.compile(
    r"(primary|foreign|sort|group|join|index|column|merge|partition|unique|row)_?key$|^key$|^keys$|compat|^path$"
)
_LOGIN = re.compile(r"(?<=://)[^/\s]*@")  # user and password in an address
_QUERY = re.compile(r"(?i)([?&][^=&\s]*(?:key|token|secret|sig|password)[^=&\s]*=)[^&\s]+")


def is_secret(name: str) -> bool:
    """Whether a text of that name is nobody's business, however the name is written (db_password, authToken, X-Api-Key)."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().replace("-", "_")
    return any(
        _SECRET.search(part) for part in (words.replace("_", ""), *words.split("_")[-1:])
    ) and not _HARMLESS.search(words)


class Described(NamedTuple):
    """A form that stands for a value: the same for values that are the same, whatever holds them."""

    form: Any


class Walker:
    """Describes values. ``special`` knows functions, classes and modules; what nobody knows is noted as unverifiable.

    Attributes:
        libraries: top-level packages whose things occurred.
    """

    def __init__(self, special: Callable[[Any], Described | None], is_library: Callable[[str], bool]) -> None:
        self._special = special
        self._is_library = is_library
        self._left = _MAX_NODES
        self._open: dict[int, int] = {}  # containers that we are inside of: a cycle becomes a number
        self._unverifiable: dict[str, None] = {}
        self.libraries: set[str] = set()

    @property
    def unverifiable(self) -> list[str]:
        """ "name: type" of what is compared by its type only, sorted; at the end how many more there are."""
        named = sorted(self._unverifiable)
        more = len(named) - _MAX_UNVERIFIABLE
        return named if more <= 0 else [*named[:_MAX_UNVERIFIABLE], f"and {more} more"]

    def describe(self, value: Any, name: str) -> Any:
        """The JSON form of a value, at most a few kilobytes."""
        form = self._form(value, name, name, 0)
        try:
            raw = json.dumps(form, sort_keys=True, ensure_ascii=False, allow_nan=False).encode(
                "utf-8", "backslashreplace"
            )
        except (TypeError, ValueError):
            return self.unknown(value, name)
        if len(raw) <= _PLAIN_BYTES:
            return form
        return {"__kind__": "digest", "sha256": hashlib.sha256(raw).hexdigest(), "type": _type_name(value)}

    def unknown(self, value: Any, name: str, why: str = "") -> Any:
        """What stands for a value that cannot be compared by its content."""
        self._unverifiable[f"{name}: {why or _type_name(value)}"] = None
        return {"__kind__": "unverifiable", "type": _type_name(value)}

    def _form(self, value: Any, name: str, key: str, depth: int) -> Any:
        """``name`` is the path to a value for people, ``key`` its last part."""
        self._left -= 1
        if type(value) in _PLAIN:
            return self._plain_form(value, name, key)
        try:
            if isinstance(value, enum.Enum):
                return self._enum(value, name, depth)
            known = self._special(value)
            if known is not None:
                return known.form
            if value is os.environ:
                return self.unknown(value, name, "the environment")
            content = _content_digest(value)
            if content is not None:
                return content
            if depth > _MAX_DEPTH or self._left < 0 or isinstance(value, io.IOBase):
                return self.unknown(value, name)
            if id(value) in self._open:
                return {"__kind__": "cycle", "number": self._open[id(value)]}
            self._open[id(value)] = len(self._open)
            try:
                return self._container(value, name, depth)
            finally:
                del self._open[id(value)]
        except RecursionError:
            raise
        except Exception:  # objects of other people's making may raise anything when they are looked at
            return self.unknown(value, name)

    def _plain_form(self, value: Any, name: str, key: str) -> Any:
        if isinstance(value, str | bytes) and is_secret(key):
            self.unknown(value, name, "withheld, a secret by its name")
            return {"__kind__": "withheld", "type": _type_name(value)}
        if isinstance(value, str) and "://" in value:
            value = _QUERY.sub(r"\1***", _LOGIN.sub("***@", value))
        return to_json_value(value)

    def _enum(self, value: enum.Enum, name: str, depth: int) -> Any:
        form = {"enum": f"{_type_name(value)}.{value.name}", "value": self._form(value.value, name, name, depth + 1)}
        return form | self._own_class(value, name, depth)

    def _own_class(self, value: Any, name: str, depth: int) -> dict[str, Any]:
        """The class of an instance, where it is the user's: its methods are part of what the value does."""
        kind = type(value)
        return {} if self._is_library(kind.__module__) else {"class": self._form(kind, name, name, depth + 1)}

    def _container(self, value: Any, name: str, depth: int) -> Any:
        own = self._own_class(value, name, depth)
        if isinstance(value, Mapping) and len(value) <= _MAX_ITEMS:
            items = [
                [
                    self._form(key, name, name, depth + 1),
                    self._form(item, f"{name}[{key!r:.40}]", str(key), depth + 1),
                ]
                for key, item in value.items()
            ]
            if type(value) is dict and all(isinstance(key, str) and not key.startswith("__") for key, _ in items):
                names = [key for key, _ in items]  # their order can decide what a loop over them does
                return dict(items) if names == sorted(names) else {"__kind__": "dict", "items": items}
            made = getattr(value, "default_factory", None)
            factory = {} if made is None else {"factory": self._form(made, name, name, depth + 1)}
            return {"__kind__": "mapping", "items": items, "type": _type_name(value), **factory, **own}
        if isinstance(value, list | tuple | deque) and len(value) <= _MAX_ITEMS:
            forms = [self._form(item, f"{name}[{number}]", name, depth + 1) for number, item in enumerate(value)]
            kind = "" if type(value) is list else type(value).__name__
            return {"__kind__": kind or "sequence", "items": forms, **own} if own or kind else forms
        if isinstance(value, set | frozenset) and len(value) <= _MAX_ITEMS:
            forms = [self._form(item, name, name, depth + 1) for item in value]
            return {"__kind__": "set", "items": sorted(forms, key=lambda form: json.dumps(form, sort_keys=True)), **own}
        if isinstance(value, re.Pattern):
            return {"__kind__": "pattern", "pattern": to_json_value(value.pattern), "flags": value.flags}
        if isinstance(value, slice):
            return {
                "__kind__": "slice",
                "items": [self._form(part, name, name, depth + 1) for part in (value.start, value.stop, value.step)],
            }
        if type(value).__name__ == "CategoricalDtype":
            return {
                "__kind__": "categories",
                "ordered": bool(value.ordered),
                "items": self._form(list(value.categories), name, name, depth + 1),
            }
        plain = None if own or type(value).__name__ in ("Namespace", "SimpleNamespace") else _plain(value)
        if plain is not None:
            return plain
        return self._object(value, name, depth)

    def _object(self, value: Any, name: str, depth: int) -> Any:
        """An object by its class and attributes: a fitted scaler, a configuration, a dataclass."""
        if type(value).__module__.partition(".")[0] in ("seclea", "logging", "threading", "multiprocessing"):
            return {"__kind__": "object", "class": _type_name(value)}  # no part of what the function computes
        attributes = getattr(value, "__dict__", None)
        slots = [slot for cls in type(value).__mro__ for slot in _slots(cls) if hasattr(value, slot)]
        base = next((kind for kind in (int, float, str, bytes) if isinstance(value, kind)), None)
        if not isinstance(attributes, dict) and not slots and base is None:
            return self.unknown(value, name)
        state = {**(attributes or {}), **{slot: getattr(value, slot) for slot in slots}}
        if base is not None:
            state["__value__"] = base(value)
        inner = {
            key: self._form(state[key], f"{name}.{key}", key, depth + 1)
            for key in sorted(key for key in state if isinstance(key, str))
        }
        return {"__kind__": "object", "class": self._form(type(value), name, name, depth + 1), "state": inner}


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
    return None if form is None or _hides(form) else form


def _hides(form: Any) -> bool:
    """Whether a form has a description in the place of an object or function, however deep."""
    if isinstance(form, list):
        return any(map(_hides, form))
    return isinstance(form, dict) and ("__repr__" in form or "__callable__" in form or any(map(_hides, form.values())))


def _content_digest(value: Any) -> Any:
    """Arrays, tensors and tables by a digest of what is in them; None for everything else."""
    root = type(value).__module__.partition(".")[0]
    if root == "numpy" and type(value).__name__ in ("ndarray", "MaskedArray", "matrix", "memmap"):
        mask = getattr(value, "mask", None)
        form = _array(getattr(value, "data", value) if mask is not None else value)
        return form if mask is None or form is None else {**form, "mask": _array(value.mask)}
    if root == "torch" and callable(getattr(value, "detach", None)):
        return {**_array(value.detach().cpu().numpy()), "type": "torch.Tensor"}
    if root in ("pandas", "pyarrow", "polars") and (hasattr(value, "columns") or type(value).__name__ == "Series"):
        from seclea.client.snapshot.content import to_arrow
        from seclea.client.snapshot.digest import content_digest

        try:
            table, _ = to_arrow(value)
            return {"type": _type_name(value), "rows": table.num_rows, "content_digest": content_digest(table)}
        except (SecleaError, ImportError):
            return None
    if root == "pandas" and callable(getattr(value, "to_numpy", None)) and hasattr(value, "nlevels"):  # an Index
        form = _array(value.to_numpy())
        return None if form is None else {**form, "type": _type_name(value), "names": list(map(str, value.names))}
    return None


def _array(value: Any) -> Any:
    import numpy as np

    if not isinstance(value, np.ndarray):  # a mask that is one truth value
        return bool(value)
    form = {"type": "numpy.ndarray", "dtype": str(value.dtype), "shape": list(value.shape)}
    if value.dtype.hasobject:
        try:
            raw: Any = json.dumps(to_json_value(value.tolist()), sort_keys=True, allow_nan=False).encode()
        except (SecleaError, TypeError, ValueError):
            return None
    else:
        raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    return {**form, "sha256": hashlib.sha256(raw).hexdigest()}
