"""Where two tables differ, in words: the first thing that a person would point at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from seclea.client.snapshot.canonical import canonical_columns, plain
from seclea.client.snapshot.content import Content
from seclea.client.snapshot.digest import ColumnDigest
from seclea.entities import Dataset

ROWS = "\0rows"  # in the place of a column's name: it is the rows that differ
_CHUNK = 65_536  # rows of nested values compared at a time


class Difference(NamedTuple):
    """``words`` end a sentence; ``columns`` are the names that differ, first the one that the words are about."""

    words: str
    columns: tuple[str, ...] = ()


def difference(wanted: Content, given: Content, wanted_is: str, given_is: str) -> Difference | None:
    """Where two contents differ; None where they are the same. Roles are not looked at.

    Args:
        wanted, given: with their tables.
        wanted_is, given_is: what to call each: "the dataset", "the chain".
    """
    if wanted.digest == given.digest:
        return None
    found = _names(wanted.names, given.names, wanted_is, given_is)
    if found is None and wanted.rows != given.rows:
        found = Difference(f"{given_is} has {given.rows} rows, {wanted_is} has {wanted.rows}", (ROWS,))
    if found is not None:
        return found
    pairs = list(zip(_columns(wanted), _columns(given), strict=True))
    differing = [(mine, theirs) for mine, theirs in pairs if mine.digest != theirs.digest]
    columns = tuple(mine.name for mine, _ in differing)
    for mine, theirs in differing:
        if mine.type != theirs.type:
            words = f"column {mine.name!r} is {theirs.type} in {given_is} and {mine.type} in {wanted_is}"
            return Difference(words, (mine.name, *(name for name in columns if name != mine.name)))
    found = _swapped(differing, wanted_is)
    if found is not None:
        return found
    rows = _index(wanted, given, wanted_is, given_is)
    if rows is not None and (not differing or rows.columns):
        return rows
    for mine, _ in differing:
        cell = _cell(wanted, given, mine.name, wanted_is, given_is)
        if cell is not None:
            return Difference(cell + _more(len(columns)), columns)
    return rows or Difference("they differ in a way that has no words: the digests are not the same", columns)


def nearest(given: Content, known: Iterable[Dataset]) -> tuple[Dataset, str] | None:
    """The known dataset that a table is likeliest to be a changed copy of, and how the table differs from it."""
    here = {column.name: column.digest for column in given.columns if column.role == "column"}
    best: tuple[tuple[int, int, bool], Dataset, dict[str, str]] | None = None
    for dataset in known:
        columns = _column_digests(dataset)
        same = sum(columns.get(name) == digest for name, digest in here.items())
        alike = sum(name in columns for name in here)
        if dataset.metadata.get("num_samples") != given.rows and list(here) != list(columns):
            alike = 0  # neither rows nor columns of it
        score = (same, alike, not dataset.intermediate)
        if (same or alike) and (best is None or score > best[0]):
            best = score, dataset, columns
    if best is None:
        return None
    _, dataset, columns = best
    rows = dataset.metadata.get("num_samples")
    if rows != given.rows:
        return dataset, f"has {given.rows} rows instead of {rows}"
    parts = []
    if missing := [name for name in columns if name not in here]:
        parts.append(f"lacks {_listed(missing)}")
    if added := [name for name in here if name not in columns]:
        parts.append(f"has {_listed(added)} more")
    if changed := [name for name in here if columns.get(name, here[name]) != here[name]]:
        parts.append(f"has other values in {_listed(changed)}")
    if not parts:
        parts.append("has its columns in another order" if list(here) != list(columns) else "has another index")
    return dataset, " and ".join(parts)


def _column_digests(dataset: Dataset) -> dict[str, str]:
    """Of the columns, by name; of a dataset that somebody else described perhaps none."""
    listed = dataset.metadata.get("column_digests")
    if not isinstance(listed, list):
        return {}
    return {one[1]: one[3] for one in listed if isinstance(one, list) and len(one) == 4 and one[0] == "column"}


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _more(columns: int) -> str:
    return f" ({columns} columns differ)" if columns > 1 else ""


def _columns(content: Content) -> list[ColumnDigest]:
    return [column for column in content.columns if column.role == "column"]


def _names(wanted: list[str], given: list[str], wanted_is: str, given_is: str) -> Difference | None:
    if wanted == given:
        return None
    missing = [name for name in wanted if name not in given]
    added = [name for name in given if name not in wanted]
    if missing or added:
        parts = [f"lacks the columns {_listed(missing)}" if missing else "", f"has {_listed(added)}" if added else ""]
        return Difference(f"{given_is} {' and '.join(part for part in parts if part)}", (*missing, *added))
    at = next(number for number, pair in enumerate(zip(wanted, given, strict=True)) if pair[0] != pair[1])
    return Difference(
        f"the columns stand in another order: column {at} is {given[at]!r} in {given_is} and {wanted[at]!r} in {wanted_is}"
    )


def _swapped(differing: list[tuple[ColumnDigest, ColumnDigest]], wanted_is: str) -> Difference | None:
    by_digest = {theirs.digest: theirs.name for _, theirs in differing}
    for mine, theirs in differing:
        other = by_digest.get(mine.digest)
        if other is not None and any(one.name == other and one.digest == theirs.digest for one, _ in differing):
            words = (
                f"the columns {mine.name!r} and {other!r} are swapped: each has the values of the other in {wanted_is}"
            )
            return Difference(words, (mine.name, other))
    return None


# ------------------------------------------------------------------------------------------------------------------
# Rows and cells


def _levels(content: Content) -> list[Any]:
    """The index levels; of a default index the row numbers."""
    import numpy as np
    import pyarrow as pa

    found = [values for role, _, values, _ in canonical_columns(content.table) if role == "index"]
    return found or [pa.array(np.arange(content.rows, dtype="i8"))]


def _label(levels: list[Any], row: int) -> Any:
    labels = tuple(values[row].as_py() for values in levels)
    return labels[0] if len(labels) == 1 else labels


def _index(wanted: Content, given: Content, wanted_is: str, given_is: str) -> Difference | None:
    """The first row whose label differs; ``columns`` is not empty where the rows are the same in another order."""
    mine, theirs = _levels(wanted), _levels(given)
    digests = [[column.digest for column in content.columns if column.role == "index"] for content in (wanted, given)]
    if digests[0] == digests[1]:
        return None
    names = [[column.name for column in content.columns if column.role == "index"] for content in (wanted, given)]
    for one, other in zip(mine, theirs, strict=False):
        if one.type != other.type:
            return Difference(f"the index is {other.type} in {given_is} and {one.type} in {wanted_is}", (ROWS,))
    row = min(
        (row for pair in zip(mine, theirs, strict=False) if (row := _first_unlike(*pair)) is not None), default=None
    )
    if row is None or len(mine) != len(theirs):
        return Difference(
            f"the index is {names[1] or 'the default'} in {given_is} and {names[0] or 'the default'} in {wanted_is}"
        )
    words = f"row {row} is {_label(theirs, row)!r} in {given_is} and {_label(mine, row)!r} in {wanted_is}"
    order = "stand in another order" if _sorted(mine) == _sorted(theirs) else "(by their index) are others"
    return Difference(f"the rows {order}: {words}", (ROWS,))


def _first_unlike(mine: Any, theirs: Any) -> int | None:
    mine, theirs = _chunked(mine), _chunked(theirs)
    return 0 if mine.type != theirs.type else _first(plain(mine), plain(theirs))


def _sorted(levels: list[Any]) -> Any:
    import pyarrow as pa

    table = pa.table({str(number): _chunked(values) for number, values in enumerate(levels)})
    try:
        return table.sort_by([(name, "ascending") for name in table.column_names])
    except pa.ArrowException:  # labels that have no order
        return table


def _chunked(values: Any) -> Any:
    import pyarrow as pa

    return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])


def _cell(wanted: Content, given: Content, name: str, wanted_is: str, given_is: str) -> str | None:
    mine, theirs = _values(wanted, name), _values(given, name)
    row = _first(mine, theirs)
    if row is None:
        return None
    label = _label(_levels(wanted), row)
    at = f"row {row}" if label == row else f"row {row} (index {label!r})"
    mine, theirs = _values(wanted, name, as_told=True), _values(given, name, as_told=True)
    return f"column {name!r}, {at}: {_shown(theirs[row])} in {given_is} and {_shown(mine[row])} in {wanted_is}"


def _values(content: Content, name: str, *, as_told: bool = False) -> Any:
    """A column in its one plain type, or (for people) as it came."""
    for role, one, values, _ in canonical_columns(content.table):
        if role == "column" and one == name:
            return _chunked(values) if as_told else plain(_chunked(values))
    raise KeyError(name)


def _shown(scalar: Any) -> str:
    value = scalar.as_py()
    text = "missing" if value is None or value != value else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _first(mine: Any, theirs: Any) -> int | None:
    """The first row in which two columns of one type differ, missing being equal to missing."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        if pa.types.is_floating(mine.type):
            one, other = (column.to_numpy() for column in (mine, theirs))
            differs = ~((one == other) | (np.isnan(one) & np.isnan(other)))
        else:
            missing = pc.not_equal(pc.is_null(mine), pc.is_null(theirs))
            differs = pc.or_(missing, pc.fill_null(pc.not_equal(mine, theirs), False)).to_numpy()
        rows = np.flatnonzero(differs)
        return int(rows[0]) if len(rows) else None
    except pa.ArrowException:  # no comparison for nested types
        for start in range(0, len(mine), _CHUNK):
            pairs = zip(mine.slice(start, _CHUNK).to_pylist(), theirs.slice(start, _CHUNK).to_pylist(), strict=True)
            for number, (one_value, other_value) in enumerate(pairs):
                if repr(one_value) != repr(other_value):
                    return start + number
        return None
