"""A model's parameters as plain values, few enough to travel with a run.

Numbers, NaN, dates and small numpy values stay what they are (`seclea.entities.to_json_value` gives their JSON form). A model
within a model becomes the name of its class, a function its qualified name, a large array its type and shape.
"""

from __future__ import annotations

import datetime as dt
import decimal
import functools
import itertools
import json
import struct
from collections.abc import Mapping
from typing import Any

from seclea.client.snapshot.frameworks import package, qualified_name
from seclea.entities import to_json_value

MAX_BYTES = 256 << 10  # of all parameters as JSON
CUT = "seclea.cut"  # the parameter that says what was left out
_MARKER_BYTES = 16 << 10  # kept free for it
_MAX_MARKERS = 50
_MAX_TEXT = 4096  # characters
_MAX_ITEMS = 1000  # of one list or array
_MAX_DEPTH = 16
_MAX_REPR = 200  # characters

_SCALARS = (bool, int, float, str)
_VALUES = (dt.date, dt.time, dt.timedelta, decimal.Decimal)


def parameters(found: Mapping[Any, Any]) -> dict[str, Any]:
    """Plain values of everything in ``found``, together at most 256 KiB as JSON.

    What does not fit is left out, the largest first, of lists their end; the value of "seclea.cut" then names it.
    """
    return _bounded({_key(name): plain(value) for name, value in found.items()})


def asked(ask: Any) -> Mapping[Any, Any]:
    """What a model answers about its parameters; where its own code fails, a description must not stop the training."""
    try:
        return dict(ask())
    except Exception as error:  # a user's get_params or get_config may raise anything
        return {"unavailable": cause(error)}


def cause(error: Exception) -> str:
    """Type and message of a framework's error, without the stack traces and examples that some put in."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    text = " ".join(itertools.takewhile(bool, lines))
    for word in ("Stack trace:", "Example:"):
        text = text.partition(word)[0].rstrip()
    return f"{type(error).__name__}: {text[:300]}".rstrip(".: ")


def shortest(value: float) -> float:
    """The shortest number that is the same as ``value`` in 32 bits: 0.3 for 0.30000001192092896."""
    try:
        bits = struct.pack("f", value)
    except OverflowError:
        return value
    return next(
        (short for digits in range(1, 9) if struct.pack("f", short := float(f"{value:.{digits}g}")) == bits), value
    )


def plain(value: Any, _depth: int = 0) -> Any:
    """A value without objects that only its framework understands."""
    try:
        return _plain(value, _depth)
    except Exception:  # a property or a __len__ of the user's object
        return qualified_name(type(value))


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        return f"{value[:_MAX_TEXT]}… ({len(value)} characters)"
    if value is None or isinstance(value, _SCALARS):
        return value
    if isinstance(value, _VALUES):
        return value
    if isinstance(value, complex):
        return str(value)
    if isinstance(value, bytes | bytearray):
        return bytes(value) if len(value) <= _MAX_TEXT else f"{len(value)} bytes"
    if depth >= _MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return _plain_mapping(value, depth)
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    if isinstance(value, list | tuple):
        items = [plain(item, depth + 1) for item in value[:_MAX_ITEMS]]
        return items if len(value) <= _MAX_ITEMS else [*items, f"… {len(value) - _MAX_ITEMS} more"]
    if callable(getattr(value, "get_params", None)):  # an estimator, or a kernel: deep parameters say the rest
        return qualified_name(value) if isinstance(value, type) else type(value).__name__
    if callable(value):
        return callable_name(value)
    if (shape := getattr(value, "shape", None)) is not None:
        if package(type(value)) == "numpy" and value.size <= _MAX_ITEMS:
            return value
        what = f"{qualified_name(type(value))} of shape {tuple(shape)}"
        return f"{what}, {value.dtype}" if hasattr(value, "dtype") else what
    if package(type(value)) == "scipy" and hasattr(value, "dist"):  # what a random search draws from
        given = [*map(repr, value.args), *(f"{name}={item!r}" for name, item in value.kwds.items())]
        return f"scipy.stats.{value.dist.name}({', '.join(given)})"[:_MAX_REPR]
    if package(type(value)) == "sklearn":  # splitters and the like: their repr is their parameters
        return repr(value)[:_MAX_REPR]
    return qualified_name(type(value))


def _plain_mapping(value: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
    kept: dict[Any, Any] = {}
    for key, item in value.items():
        if len(kept) == _MAX_ITEMS:
            kept[CUT] = f"{len(value) - _MAX_ITEMS} more"
            break
        kept[key if key is None or isinstance(key, _SCALARS) else _key(key)] = plain(item, depth + 1)
    return kept


def callable_name(value: Any) -> str:
    """The name of a function, class or object that can be called."""
    if isinstance(value, functools.partial):
        return f"functools.partial({callable_name(value.func)})"
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if not isinstance(name, str):
        return qualified_name(type(value))
    module = getattr(value, "__module__", None) or package(type(value))  # a numpy ufunc has no module
    return f"{module}.{name}"


def _key(name: Any) -> str:
    return str.__str__(name) if isinstance(name, str) else str(plain(name))


def _bounded(params: dict[str, Any]) -> dict[str, Any]:
    sizes = {name: _json_bytes(name) + _json_bytes(value) + 4 for name, value in params.items()}
    total = sum(sizes.values())
    if total <= MAX_BYTES - 2:
        return params
    room = MAX_BYTES - _MARKER_BYTES
    kept, cut = dict(params), {}
    for name in sorted(sizes, key=lambda name: -sizes[name])[:_MAX_MARKERS]:
        if total <= room:
            break
        value = kept.pop(name)
        total -= sizes[name]
        cut[name[:100]] = f"{sizes[name]} bytes left out"
        if isinstance(value, list) and (shorter := _beginning(value, room - total - _json_bytes(name) - 8)):
            kept[name] = shorter
            sizes[name] = _json_bytes(name) + _json_bytes(shorter) + 4
            total += sizes[name]
            cut[name[:100]] = f"{len(value) - len(shorter)} of {len(value)} left out"
    dropped = 0
    while total > room:
        name = next(reversed(kept))
        total -= sizes[name]
        del kept[name]
        dropped += 1
    if dropped:
        cut["others"] = f"{dropped} parameters left out"
    return {**{name: kept[name] for name in params if name in kept}, CUT: cut}


def _beginning(items: list[Any], size: int) -> list[Any]:
    """As many of the first items as take ``size`` bytes as JSON."""
    for number, item in enumerate(items):
        size -= _json_bytes(item) + 2
        if size < 0:
            return items[:number]
    return items


def _json_bytes(value: Any) -> int:
    return len(json.dumps(to_json_value(value)))
