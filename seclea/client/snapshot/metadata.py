"""Metadata of a dataset: what the user says, checked against the columns, and what is found in the table itself."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from seclea.client.validation import check_params
from seclea.errors import DatasetError, UsageError

_AUTOMATIC = (
    "num_samples", "features", "categorical_features", "categorical_values", "framework",
    "outputs_info", "roles", "content_digest", "column_digests",
)  # fmt: skip
INHERITED = (
    "continuous_features", "outputs", "outputs_type", "favourable_outcome", "unfavourable_outcome", "index",
)  # fmt: skip
_COLUMN_LISTS = ("continuous_features", "outputs")
_TYPES = ("classification", "regression")
_FEW_CLASSES = 20  # whole numbers with more distinct values than this are no classes, unless the user says so
_MAX_SPLIT = 100  # characters of a label
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
    metadata = check_params(metadata, "metadata")  # a copy, of what JSON can hold
    found = {key: value for key, value in metadata.items() if key not in _AUTOMATIC}
    for key in _COLUMN_LISTS:
        if found.get(key) is not None:
            found[key] = _columns(key, found[key], columns)
    if found.get("index") is not None:
        named = _columns("index", found["index"], columns)
        found["index"] = named[0] if not isinstance(found["index"], list) else named
    _one_of(found, "outputs_type", _TYPES)
    _one_of(found, "dataset_type", ("tabular", "time_series"))
    split = found.get("split")
    if split is not None and (not isinstance(split, str) or not 0 < len(split.strip()) <= _MAX_SPLIT):
        raise UsageError(f'metadata["split"] is {split!r}.', f'Use a text of 1 to {_MAX_SPLIT} characters: "train".')
    for key in ("favourable_outcome", "unfavourable_outcome"):
        if isinstance(found.get(key), list):
            raise UsageError(f'metadata["{key}"] is a list.', "Name one value, or a dict of one for each output.")
    favourable, other = found.get("favourable_outcome"), found.get("unfavourable_outcome")
    if favourable is not None and type(favourable) is type(other) and favourable == other:
        raise UsageError(f"favourable_outcome and unfavourable_outcome are both {favourable!r}.", "They must differ.")
    return found


def inherit_metadata(
    own: Mapping[str, Any], parent: Mapping[str, Any], columns: Sequence[tuple[str, str, Any]]
) -> dict[str, Any]:
    """What the user says of a dataset, and of what is not said what holds for its parent.

    Names of columns that are gone are left out; new columns of fractions join the continuous features.

    Args:
        own: as `validate_metadata` gave it; None for a key there means that nothing holds.
        parent: the parent's metadata.
        columns: (role, name, Arrow values) of the dataset.
    """
    import pyarrow as pa

    names = {name for _, name, _ in columns}
    known = set(parent.get("features") or ())
    found = dict(own)
    for key in INHERITED:
        value = parent.get(key)
        if key in found or value is None:
            continue
        if key in _COLUMN_LISTS:
            value = [name for name in value if name in names]
            if key == "continuous_features":
                value += [
                    name
                    for role, name, values in columns
                    if role == "column" and name not in known and pa.types.is_floating(values.type)
                ]
        elif key == "index" and not set([value] if isinstance(value, str) else value) <= names:
            continue
        found[key] = value
    return found


def check_outcomes(user: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    """Outcomes that the user names must occur in the one output.

    Raises:
        DatasetError: one does not; the message says which values there are.
    """
    if len(info) != 1:
        return
    ((name, said),) = info.items()
    classes = said["classes"]
    for key in ("favourable_outcome", "unfavourable_outcome"):
        value = user.get(key)
        if value is None or classes is None or not isinstance(value, str | int | float | bool):
            continue
        if not any(value == known and isinstance(value, str) == isinstance(known, str) for known in classes):
            there = ", ".join(map(repr, classes[:10])) + (", …" if len(classes) > 10 else "")
            raise DatasetError(
                f'metadata["{key}"] is {value!r}, which is no value of {name!r}.', f"There are: {there}."
            )


def _columns(key: str, value: Any, columns: Sequence[str]) -> list[str]:
    names = [value] if isinstance(value, str) or (key == "index" and isinstance(value, int)) else value
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
    continuous = None if user.get("continuous_features") is None else set(user["continuous_features"])
    categorical = [
        (name, values)
        for name, values in data
        if (name not in continuous if continuous is not None else _is_categorical(values.type))
    ]
    listed: dict[str, list[Any]] = {}
    by_name = dict(data)
    outputs = [name for name in user.get("outputs") or () if name in by_name]
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
        "outputs_info": {name: _output_info(by_name[name], user.get("outputs_type")) for name in outputs},
        "split": user.get("split"),
        "framework": framework,
    }


def _output_info(values: Any, said: str | None) -> dict[str, Any]:
    """What is to be predicted: "classification" with its classes (None where there are too many), or "regression"."""
    import pyarrow as pa

    distinct = None if pa.types.is_floating(values.type) and said != "classification" else _distinct(values)
    few = distinct is not None and len(distinct) <= _FEW_CLASSES
    is_class = _is_categorical(values.type) or (pa.types.is_integer(values.type) and few)
    kind = said or ("classification" if is_class else "regression")
    return {"type": kind, "classes": distinct if kind == "classification" else None}


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
