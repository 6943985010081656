"""Checks of what users pass, at the call: names, metrics, steps, parameters. numpy and torch are never imported here."""

from __future__ import annotations

import dataclasses
import json
import operator
import reprlib
import sys
from collections.abc import Mapping
from typing import Any

from seclea.entities import from_json_value, to_json_value
from seclea.errors import MetricError, SecleaError, TooLargeError, UsageError
from seclea.records import MAX_KEY_CHARACTERS

# Lengths that portals accept (characters).
DATASET_NAME = 256
PROJECT_NAME = 250
RUN_NAME = 250
MODEL_NAME = 100
FRAMEWORK_NAME = 100

MAX_PARAMS_BYTES = 1 << 20  # as JSON
_SHOWN_BITS = 128  # of a whole number in a message; from 4300 digits on Python refuses to write one
_SHOWN_BYTES = 1000  # of a name in a message

# Types whose values are numbers, whichever they are; numpy's scalars join once the first of each came (never imported here).
plain_types: set[type] = {float, int, bool}


def check_name(what: str, name: Any, limit: int) -> str:
    """The name of a thing (``what``: "dataset", "project", …), as it is.

    Raises:
        UsageError: no text, blank, longer than ``limit`` characters, or with a character that cannot be stored.
    """
    if not isinstance(name, str):
        raise UsageError(f"The {what} name must be text, not {type(name).__name__}.")
    if not name.strip():
        raise UsageError(f"The {what} name is empty.")
    if len(name) > limit:
        raise UsageError(f"The {what} name has {len(name)} characters; at most {limit} are possible.", "Shorten it.")
    if "\0" in name or not _is_unicode(name):
        raise UsageError(f"The {what} name {name!r} has a character that cannot be stored.", "Remove it.")
    return str(name)


def _shown(value: Any) -> str:
    """How a message names a value: as Python writes it, of a long one the beginning and the end."""
    if isinstance(value, bytes | bytearray):
        value = bytes(value[:_SHOWN_BYTES])  # all of it would be made into text first
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS:
        return f"a number of {value.bit_length()} bits"
    return reprlib.repr(value)


def _as_text(key: Any) -> str:
    is_short = isinstance(key, float) or (isinstance(key, int) and key.bit_length() <= _SHOWN_BITS)
    return f"Use {str(key)!r}." if is_short else "Use text."


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def check_metrics(metrics: Any) -> dict[str, float]:
    """What `log` was called with, as a dict of its own.

    Raises:
        MetricError: no dict, empty, a key that is no text, or a value that is no number; the key is named.
    """
    try:
        return _checked_metrics(metrics)
    except SecleaError:
        raise
    except Exception as error:  # whatever a user's own class raises when it is looked at
        raise MetricError(
            f"The metrics cannot be read: {type(error).__name__}.", 'For instance {"loss": 0.3}.'
        ) from error


def _checked_metrics(metrics: Any) -> dict[str, float]:
    if not isinstance(metrics, Mapping):
        raise MetricError(
            f"Metrics must be a dict of names and numbers, not {type(metrics).__name__}.", 'For instance {"loss": 0.3}.'
        )
    if not metrics:
        raise MetricError("There is no metric in the dict.", 'For instance {"loss": 0.3}.')
    found = {}
    for key, value in metrics.items():
        if type(key) is not str or not (0 < len(key) <= MAX_KEY_CHARACTERS and key.isascii() and "\0" not in key):
            key = _metric_key(key)
        found[key] = value if type(value) is float else metric_value(key, value)
    return found


def _metric_key(key: Any) -> str:
    if not isinstance(key, str):
        raise MetricError(f"A metric's name must be text, not {_shown(key)} ({type(key).__name__}).", _as_text(key))
    if not key or len(key) > MAX_KEY_CHARACTERS or "\0" in key or not _is_unicode(key):
        hint = f"Use text of 1 to {MAX_KEY_CHARACTERS} characters, without NUL."
        raise MetricError(f"{key[:40]!r} cannot be the name of a metric.", hint)
    return str.__str__(key)  # a subclass: an enum of texts, numpy.str_


def metric_value(key: str, value: Any) -> float:
    """A metric's value as a float. NaN and infinities are values too.

    Args:
        value: int, float or bool; a scalar, or an array or tensor of one element, of any library.
    Raises:
        MetricError: anything else; the message names key and type and says what to do.
    """
    if isinstance(value, int | float):
        if type(value) not in plain_types:
            _learn(value)  # numpy's float64 is a float
        try:
            return float(value)
        except OverflowError:
            raise MetricError(f"Metric {key!r} is too large for a 64-bit float.", "Log its logarithm.") from None
    if not isinstance(value, str | bytes | bytearray | Mapping | list | tuple | set | type | None):
        plain = _scalar(value)
        if plain is not None:
            return plain
    raise MetricError(f"Metric {key!r} is {_described(value)}, not a number.", _way_out(value))


def _scalar(value: Any) -> float | None:
    if getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M", "c"):  # times have an item() that is an int
        return None
    try:
        if _learn(value):
            return float(value)  # its item() may be no Python number: longdouble's is not
        item = getattr(value, "item", None)
        if callable(item):
            plain = item()
            return float(plain) if isinstance(plain, int | float) else None
        return float(value)  # Decimal, Fraction, and what else knows how
    except Exception:  # each library raises its own for an array of many
        return None


def _learn(value: Any) -> bool:
    """Whether it is one of numpy's own scalars that are numbers; from then on its type is plain."""
    numpy = sys.modules.get("numpy")
    kind = type(value)
    if numpy is None or kind.__module__ != "numpy" or not isinstance(value, numpy.generic):
        return False
    if value.dtype.kind not in "biuf":
        return False
    plain_types.add(kind)
    return True


def _described(value: Any) -> str:
    if value is None:
        return "None"
    shape = getattr(value, "shape", None)
    suffix = f" of shape {tuple(shape)}" if isinstance(shape, tuple) and shape else ""
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"a {name}{suffix}"


def _way_out(value: Any) -> str:
    if value is None:
        return 'Leave it out, or log float("nan").'
    if isinstance(value, Mapping):
        return 'Log its items under names of their own, such as "loss/train".'
    if isinstance(value, str | bytes | bytearray):
        return "Convert it with float(...), or record texts as params of the run."
    if isinstance(value, complex) or getattr(getattr(value, "dtype", None), "kind", "") == "c":
        return "Log its real and imaginary parts, or abs(value)."
    if hasattr(value, "mean") or isinstance(value, list | tuple | set):
        return "Reduce it to one number, for instance its mean."
    return "Convert it with float(...)."


def check_step(step: Any) -> int:
    """A step: a whole number that fits 64 bits.

    Raises:
        MetricError: anything else.
    """
    try:
        if isinstance(step, bool):
            raise TypeError
        number = operator.index(step)
    except Exception:
        is_whole = type(step) is float and step == step // 1 and abs(step) < 2**63
        hint = f"Use int(step): {int(step)}." if is_whole else ""
        shown = _shown(step) if type(step) in (bool, float, str, type(None)) else "a value"
        raise MetricError(f"step must be a whole number, not {shown} ({type(step).__name__}).", hint) from None
    if not -(2**63) <= number < 2**63:
        raise MetricError(f"step {_shown(number)} does not fit 64 bits.")
    return number


def check_params(params: Any, what: str = "params") -> dict[str, Any]:
    """Parameters (or other metadata) as they are now: a copy of its own, of values that have a JSON form.

    It is not tagged yet: `Entity.to_json` does that, once.

    Args:
        params: a mapping with names as keys, an `argparse.Namespace`, a dataclass instance, or None for nothing.
    Raises:
        UsageError: another type, a key that is no text, nested too deep.
        TooLargeError: more than 1 MiB as JSON.
    """
    try:
        return _checked_params(params, what)
    except SecleaError:
        raise
    except Exception as error:  # whatever a user's own class raises when it is looked at
        raise UsageError(f"{what} cannot be read: {type(error).__name__}.", "Pass a dict of plain values.") from error


def _checked_params(params: Any, what: str) -> dict[str, Any]:
    if any(cls.__module__ == "argparse" for cls in type(params).__mro__):  # importing it costs 10 ms
        params = vars(params)
    elif dataclasses.is_dataclass(params) and not isinstance(params, type):
        params = {item.name: getattr(params, item.name) for item in dataclasses.fields(params)}
    if params is None:
        return {}
    if not isinstance(params, Mapping):
        raise UsageError(f"{what} must be a dict, not {type(params).__name__}.")
    for key, value in params.items():
        if not isinstance(key, str):
            raise UsageError(f"{what} has the key {_shown(key)}, which is no text.", _as_text(key))
        if _raw_bytes(value) > MAX_PARAMS_BYTES:  # before it is made into a list of Python numbers
            raise _too_large(what, f"{_shown(key)} alone has {_raw_bytes(value)} bytes")
    if _is_too_many(params):  # a small structure that refers to its parts again and again can be huge as JSON
        raise _too_large(what, "they are more as JSON")
    form = to_json_value({str.__str__(key): value for key, value in params.items()})
    size = len(json.dumps(form, ensure_ascii=False).encode("utf-8"))
    if size > MAX_PARAMS_BYTES:
        raise _too_large(what, f"they are {size} bytes as JSON")
    found: dict[str, Any] = from_json_value(form)
    return found


def _is_too_many(value: Any) -> bool:
    """Whether it has more items than `MAX_PARAMS_BYTES`, each counted as often as it would be written."""
    count, left = 0, [(value, 0)]
    while left:
        item, depth = left.pop()
        if isinstance(item, dict):
            item = [*item.keys(), *item.values()]
        if isinstance(item, list | tuple | set | frozenset) and depth <= 64:  # deeper is refused elsewhere
            count += len(item)
            if count > MAX_PARAMS_BYTES:
                return True
            left += [(part, depth + 1) for part in item if not isinstance(part, int | float | str)]
    return False


def _raw_bytes(value: Any) -> int:
    try:
        size = getattr(value, "nbytes", 0)
    except Exception:  # of a user's own class
        return 0
    return size if isinstance(size, int) else 0


def _too_large(what: str, why: str) -> TooLargeError:
    hint = "Record tables with upload_dataset and weights with log_model_state."
    return TooLargeError(f"{what} may take {MAX_PARAMS_BYTES} bytes; {why}.", hint)
