"""Metadata of a dataset: what the user says, checked against the columns, and what is found in the table itself."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from seclea.errors import DatasetError, UsageError

_AUTOMATIC = ("num_samples", "features", "categorical_features", "categorical_values", "framework")
_MAX_VALUES = 100  # of one category; a feature with more has too many to be listed
_MAX_CHARACTERS = 65_536  # of all listed values together: metadata travels with every dataset
_LOOK_ROWS = 10_000  # looked at first, to tell a text with many values quickly


def validate_metadata(metadata: Mapping[str, Any] | None, columns: Sequence[str]) -> dict[str, Any]:
    """The user's metadata in one form: `outputs` and `continuous_features` as lists. Keys that are not ours are kept.

    Args:
        columns: names of the columns and of the index levels.
    Raises:
        UsageError: no mapping, ``outcome_name``, a key that is no text, or a value that is not allowed.
        DatasetError: a name that is no column.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise UsageError(f"metadata must be a dict, not {type(metadata).__name__}.")
    for key in metadata:
        if not isinstance(key, str):
            raise UsageError(f"metadata has the key {key!r}, which is no text.", f"Use {str(key)!r}.")
    if "outcome_name" in metadata:
        raise UsageError('metadata has the key "outcome_name".', 'Use "outputs": a list of column names.')
    found = {key: value for key, value in metadata.items() if key not in _AUTOMATIC}
    for key in ("outputs", "continuous_features"):
        if found.get(key) is not None:
            found[key] = _columns(key, found[key], columns)
    if isinstance(found.get("index"), str):
        _columns("index", found["index"], columns)
    _one_of(found, "outputs_type", ("classification", "regression"))
    _one_of(found, "dataset_type", ("tabular", "time_series"))
    return found


def _columns(key: str, value: Any, columns: Sequence[str]) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if isinstance(names, Mapping | bytes) or not hasattr(names, "__iter__"):
        raise UsageError(f'metadata["{key}"] must be a list of column names, not {value!r}.')
    texts = [str(name) for name in names]
    for name in texts:
        if name not in columns:
            close = difflib.get_close_matches(name, columns, 1)
            known = ", ".join(columns[:20]) + (", …" if len(columns) > 20 else "")
            hint = f"Did you mean {close[0]!r}?" if close else f"Columns: {known}."
            raise DatasetError(f'metadata["{key}"] names {name!r}, which is no column.', hint)
    return texts


def _one_of(metadata: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> None:
    value = metadata.get(key)
    if value is not None and value not in allowed:
        raise UsageError(f'metadata["{key}"] is {value!r}.', f"Use {' or '.join(map(repr, allowed))}.")


def automatic_metadata(
    columns: Sequence[tuple[str, str, Any]], user: Mapping[str, Any], framework: str
) -> dict[str, Any]:
    """What the table says of itself, given (role, name, Arrow values) of its columns and what `validate_metadata` gave.

    Categorical are all but the continuous features where the user names those, else texts, categories and truth values.
    Values of a category are listed, sorted, up to 100 of them.
    """
    import pyarrow as pa

    data = [(name, values) for role, name, values in columns if role == "column"]
    index = [values for role, _, values in columns if role == "index"]
    continuous = user.get("continuous_features")
    categorical = [
        (name, values)
        for name, values in data
        if (name not in continuous if continuous is not None else _is_categorical(values.type))
    ]
    listed: dict[str, list[Any]] = {}
    budget = _MAX_CHARACTERS
    for name, values in categorical:
        distinct = _distinct(values)
        budget -= sum(len(str(value)) for value in distinct or ())
        if distinct is not None and budget >= 0:
            listed[name] = distinct
    is_series = any(pa.types.is_timestamp(level.type) or pa.types.is_date(level.type) for level in index)
    return {
        "num_samples": len(data[0][1]) if data else 0,
        "dataset_type": "time_series" if is_series else "tabular",
        "features": [name for name, _ in data],
        "categorical_features": [name for name, _ in categorical],
        "categorical_values": listed,
        "split": None,
        "framework": framework,
    }


def _is_categorical(kind: Any) -> bool:
    import pyarrow as pa

    is_a = pa.types
    text = is_a.is_string(kind) or is_a.is_large_string(kind) or str(kind) == "string_view"
    return bool(text or is_a.is_dictionary(kind) or is_a.is_boolean(kind))


def _distinct(values: Any) -> list[Any] | None:
    """The values that occur, sorted, without the missing ones; None where they are too many or have no order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        if len(pc.unique(values.slice(0, _LOOK_ROWS))) > _MAX_VALUES + 1:
            return None
        distinct = pc.unique(values)
        if pa.types.is_dictionary(distinct.type):
            distinct = pc.unique(distinct.cast(distinct.type.value_type))
        found = [value for value in distinct.to_pylist() if value is not None and value == value]
        return sorted(found) if len(found) <= _MAX_VALUES else None
    except (pa.ArrowException, TypeError):
        return None
