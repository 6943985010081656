"""Columns of Python objects whose values pyarrow would change without a word: they are refused before it sees them.

It takes a text among bytes for bytes, cuts the time of day off where the first value is a date, counts a number among times as
microseconds and True among numbers as 1, drops nanoseconds, and stores a set in an order that differs from process to process.
"""

from __future__ import annotations

import datetime as dt
import decimal
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from seclea.errors import DatasetError


def refuse_mixed(frame: Any) -> None:
    """Look at each column and index level of objects in a pandas DataFrame.

    Raises:
        DatasetError: a column that mixes kinds of values, or holds what cannot be stored as it is.
    """
    for name, values in _object_columns(frame):
        trouble = _trouble(values)
        if trouble:
            hint = "Give each column values of one type: numbers, text, dates, categories."
            raise DatasetError(f"The table cannot be recorded: column {name!r} {trouble}.", hint)


def _object_columns(frame: Any) -> Iterator[tuple[str, list[Any]]]:
    pandas = sys.modules["pandas"]
    levels = [frame.index.get_level_values(number) for number in range(frame.index.nlevels)]
    columns = [
        (str(name), frame.iloc[:, number])  # of 2,000 columns, taking each out is most of what it costs
        for number, (name, dtype) in enumerate(zip(frame.columns, frame.dtypes, strict=True))
        if str(dtype) in ("object", "category")
    ]
    for name, column in [*columns, *((f"index {level.name or ''}".strip(), level) for level in levels)]:
        values: Any
        for values in (column, getattr(column.dtype, "categories", None)):
            if str(getattr(values, "dtype", "")) != "object":
                continue
            # pandas looks at them in C. Of dates it would not tell those with a time of day.
            if pandas.api.types.infer_dtype(values) not in ("string", "bytes", "integer", "boolean"):
                yield name, values.tolist()


_FAMILIES: dict[type, str] = {
    str: "text", bytes: "bytes", bytearray: "bytes", memoryview: "bytes", bool: "booleans", int: "numbers", float: "numbers",
    decimal.Decimal: "numbers", dt.datetime: "times", dt.date: "dates", dt.time: "times of day", dt.timedelta: "durations",
    list: "lists", tuple: "lists", dict: "dicts", set: "sets", frozenset: "sets",
}  # fmt: skip


def _family(kind: type) -> str:
    """What values of a type are called; empty for missing ones."""
    if kind is type(None) or kind.__name__ in ("NaTType", "NAType"):
        return ""
    if kind.__module__ == "numpy":
        name = kind.__name__.rstrip("_0123456789")
        named = {"bool": "booleans", "str": "text", "bytes": "bytes", "ndarray": "lists", "datetime": "times"}
        named |= dict.fromkeys(("int", "uint", "float", "longlong", "ulonglong"), "numbers") | {
            "timedelta": "durations"
        }
        return named.get(name, kind.__name__)
    return next((_FAMILIES[base] for base in kind.__mro__ if base in _FAMILIES), kind.__name__)


def _trouble(values: Sequence[Any]) -> str:
    families: dict[str, list[type]] = {}
    for kind in set(map(type, values)):
        families.setdefault(_family(kind), []).append(kind)
    families.pop("", None)
    if len(families) > 1 and "numbers" in families:  # a NaN among others is a missing value
        numbers = tuple(families["numbers"])
        if all(value != value for value in values if isinstance(value, numbers) and not isinstance(value, bool)):
            del families["numbers"]
    if len(families) > 1:
        return f"mixes {' and '.join(sorted(families))}"
    if "sets" in families:
        return "holds sets, which have no order"
    if "times" in families or "durations" in families:
        return _trouble_of_times(values, families)
    if "lists" in families:
        plain = (list, tuple)
        inner = [value for value in values if isinstance(value, plain) or str(getattr(value, "dtype", "")) == "object"]
        return _trouble(list(chain.from_iterable(inner))) if inner else ""
    if "dicts" in families:
        dicts = [value for value in values if isinstance(value, dict)]
        for key in dict.fromkeys(chain.from_iterable(dicts)):
            trouble = _trouble([value[key] for value in dicts if key in value])
            if trouble:
                return f"{trouble} under {key!r}"
    return ""


def _trouble_of_times(values: Sequence[Any], families: dict[str, list[type]]) -> str:
    kinds = tuple(chain.from_iterable(families.values()))
    there = [value for value in values if isinstance(value, kinds)]
    if len({value.tzinfo is None for value in there if isinstance(value, dt.datetime)}) > 1:
        return "mixes times with and without zone"
    if any(getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0) for value in there):
        return (
            "holds single values with nanoseconds (make it a column of times: pandas.to_datetime, pandas.to_timedelta)"
        )
    return ""
