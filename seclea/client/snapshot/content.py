"""The content of a dataset: one table, whatever it came in, with its digests and the roles of its columns."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from seclea.client.snapshot.canonical import canonical_columns
from seclea.client.snapshot.digest import ColumnDigest, column_digests, digest_of, identity_digest, place_of
from seclea.client.snapshot.mixed import refuse_mixed
from seclea.errors import DatasetError, MissingExtraError, UsageError


@dataclass(frozen=True, slots=True)
class Content:
    """A table and what its digest is made of.

    Attributes:
        table: `pyarrow.Table`; of a table in memory it shares the memory wherever it can. None once it was let go.
        rows: how many there are.
        framework: what it came in: "pandas", "pyarrow", "polars", "csv".
        columns: digests, columns first, then index levels.
        digest: of the content, 64 hex digits.
        features, outputs: names of the columns with the roles X and y; both empty without roles.
    """

    table: Any
    rows: int
    framework: str
    columns: tuple[ColumnDigest, ...]
    digest: str
    features: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of the columns, without index levels."""
        return [column.name for column in self.columns if column.role == "column"]

    @property
    def parts(self) -> list[tuple[str, str, Any]]:
        """(role, name, Arrow values) of columns and index levels."""
        return [(role, name, values) for role, name, values, _ in canonical_columns(self.table)]

    @property
    def nulls(self) -> int:
        """Missing values in all columns (null, NaN, NaT)."""
        return sum(column.missing for column in self.columns if column.role == "column")

    def identity(self, split: str | None) -> str:
        """The digest that names the dataset with that label."""
        return identity_digest(self.digest, split, self.features, self.outputs)

    @property
    def has_roles(self) -> bool:
        """Whether it is known which columns are X and which y."""
        return bool(self.features or self.outputs)

    def with_roles(self, features: Sequence[str], outputs: Sequence[str]) -> Content:
        """The same table with these roles."""
        return replace(self, features=tuple(features), outputs=tuple(outputs))

    def let_go(self) -> Content:
        """Without the table itself: the digests stay."""
        return replace(self, table=None)


def content_of(table: Any, framework: str, shown: str, previous: Content | None = None) -> Content:
    """The content of an Arrow table.

    Args:
        shown: what to call it in messages.
        previous: content that is still in memory; columns that are the very same memory are not hashed again.
    Raises:
        DatasetError: it is empty, has a column twice, or a column that cannot be recorded.
    """
    names = [name for role, name, _, _ in canonical_columns(table) if role == "column"]
    refuse_duplicates(names, shown)
    if not names or not table.num_rows:
        raise DatasetError(f"{shown} is empty: {table.num_rows} rows, {len(names)} columns.")
    known = {} if previous is None else previous_digests(previous)
    columns = tuple(column_digests(table, known))
    return Content(table, table.num_rows, framework, columns, digest_of(table.num_rows, columns))


def previous_digests(content: Content) -> dict[Any, ColumnDigest]:
    """The digests of columns by where their memory lies."""
    found = {}
    for column, (_, _, values, field) in zip(content.columns, canonical_columns(content.table), strict=True):
        if (place := place_of(values, field)) is not None:
            found[place] = column
    return found


def memory_content(data: Any, shown: str = "The table", previous: Content | None = None) -> Content:
    """The content of a table in memory: pandas DataFrame or Series, Arrow table, or whatever offers one.

    Raises:
        DatasetError: it cannot be recorded as it is; the column is named.
        UsageError: it is no table.
        MissingExtraError: pyarrow is not installed.
    """
    return content_of(*to_arrow(data, shown), shown, previous)


def split_content(features: Any, outputs: Any, shown: str = "The table", previous: Content | None = None) -> Content:
    """The content of X and y side by side, with their roles.

    Raises:
        DatasetError: one cannot be recorded, they do not have the same rows, or share a name.
        UsageError: one is neither a DataFrame nor a Series.
    """
    left, framework = to_arrow(features, f"X of {shown}")
    right, _ = to_arrow(outputs, f"y of {shown}")
    joined = join(left, right, ("X", "y"), shown)
    return content_of(joined, framework, shown, previous).with_roles(column_names(left), column_names(right))


def column_names(table: Any) -> list[str]:
    """Names of the columns, without index levels."""
    return [name for role, name, _, _ in canonical_columns(table) if role == "column"]


def join(left: Any, right: Any, called: Sequence[str], shown: str) -> Any:
    """Two Arrow tables of the same rows by columns, with the index of the first.

    Raises:
        DatasetError: another number of rows, another index, or a name in both.
    """
    import pyarrow as pa

    first, second = called
    if left.num_rows != right.num_rows:
        raise DatasetError(
            f"{first} of {shown} has {left.num_rows} rows and {second} has {right.num_rows}.",
            "They must be the same rows.",
        )
    levels, others = _index(left), _index(right)
    if not _same_index(left, right):
        row = next((r for r in range(left.num_rows) if _labels(levels, r) != _labels(others, r)), 0)
        raise DatasetError(
            f"{first} and {second} of {shown} have different indexes: in row {row}"
            f" {_labels(levels, row)!r} and {_labels(others, row)!r}.",
            "Take both from the same rows, in the same order.",
        )
    added, there = set(column_names(right)), column_names(left)
    if both := added & set(there):
        raise DatasetError(f"{first} and {second} of {shown} both have the column {sorted(both)[0]!r}.", "Rename one.")
    new = [(field, right.column(number)) for number, field in enumerate(right.schema) if field.name in added]
    old = [(field, left.column(number)) for number, field in enumerate(left.schema)]
    place = len(there)  # before the index, which pandas puts last
    both_sides = [*old[:place], *new, *old[place:]]
    schema = pa.schema([field for field, _ in both_sides], left.schema.metadata)
    return pa.Table.from_arrays([values for _, values in both_sides], schema=schema)


def _same_index(left: Any, right: Any) -> bool:
    """Whether two tables have the same index, whatever its labels are held in."""
    mine, theirs = (
        [column[:4] for column in column_digests(table.select(_index_fields(table))) if column.role == "index"]
        for table in (left, right)
    )
    return mine == theirs


def _index_fields(table: Any) -> list[str]:
    columns = set(column_names(table))
    return [name for name in table.column_names if name not in columns]


def _index(table: Any) -> list[tuple[str, Any]]:
    import pyarrow as pa

    found = []
    for role, name, values, _ in canonical_columns(table):
        if role == "index":
            found.append((name, values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])))
    return found


def _labels(levels: list[tuple[str, Any]], row: int) -> Any:
    labels = [values[row].as_py() for _, values in levels]
    return row if not labels else labels[0] if len(labels) == 1 else tuple(labels)


# ------------------------------------------------------------------------------------------------------------------
# From what users have


def to_arrow(data: Any, shown: str = "The table") -> tuple[Any, str]:
    """The `pyarrow.Table` of a table in memory, and the name of the framework that it came from.

    Raises:
        DatasetError: it cannot be one; the column is named.
        UsageError: it is no table.
    """
    pa = need_pyarrow()
    series, frame = _pandas_types()
    framework = type(data).__module__.partition(".")[0]
    try:
        if isinstance(data, series) or (framework == "polars" and type(data).__name__ == "Series"):
            data = data.to_frame()
        if isinstance(data, frame):
            refuse_duplicates([str(name) for name in data.columns], shown)
            "".join(map(str, data.columns)).encode("utf-8")
            refuse_mixed(data)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that names which are no text become text: docs/digest.md says so
                return pa.Table.from_pandas(data), "pandas"
        if isinstance(data, pa.RecordBatch):
            data = pa.Table.from_batches([data])
        if framework == "polars" and type(data).__name__ == "DataFrame":
            _refuse_objects(data)
        if framework == "polars" and hasattr(data, "to_arrow") and hasattr(data, "columns"):
            data = data.to_arrow()  # as plain text: by the protocol it gives views, which older pyarrow cannot convert
        if (
            not isinstance(data, pa.Table)
            and type(data).__name__ != "LazyFrame"
            and hasattr(data, "__arrow_c_stream__")
        ):
            data = pa.table(data)
    except UnicodeEncodeError:
        where = _failing_column(data) if isinstance(data, frame) else ""
        raise DatasetError(
            f"{shown} cannot be recorded: a text or name has a lone surrogate{where}.", "Clean it first."
        ) from None
    except (pa.ArrowException, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        if isinstance(error, DatasetError):
            raise
        words = " ".join(str(word) for word in error.args)
        hint = "Give each column values of one type: numbers, text, dates, categories."
        if isinstance(data, frame) and "for column" not in words:
            words += _failing_column(data)
        raise DatasetError(f"{shown} cannot be recorded: {words}.", hint) from error
    if not isinstance(data, pa.Table):
        raise UsageError(
            f"{shown} cannot be a {type(data).__module__}.{type(data).__qualname__}.", _way_out(data, shown)
        )
    return data, framework


def _way_out(data: Any, shown: str) -> str:
    if type(data).__module__ == "numpy":
        if shown.startswith("y") or getattr(data, "ndim", 2) == 1:
            return 'Make it a Series with the rows\' index and a name: pd.Series(y, index=X.index, name="target").'
        return "Make it a DataFrame, which has names: pd.DataFrame(X, columns=[…], index=…)."
    if type(data).__name__ == "LazyFrame":
        return "Collect it first: df.collect()."
    if isinstance(data, str | os.PathLike | list | tuple):
        return "Read it first: only a whole dataset may be a path of a CSV file or a list of such paths."
    return "Pass a pandas DataFrame, an Arrow table, a path of a CSV file or a list of such paths."


def _failing_column(data: Any) -> str:
    import pyarrow as pa

    levels = [data.index.get_level_values(number) for number in range(data.index.nlevels)]
    columns = [(name, data.iloc[:, number]) for number, name in enumerate(data.columns)]
    for name, values in [*columns, *((level.name, level) for level in levels)]:
        try:
            pa.array(values, from_pandas=True)
        except Exception:  # whatever it is, it is the trouble
            return " (a label of the index)" if name is None else f" (column {str(name)!r})"
    return ""


def _refuse_objects(data: Any) -> None:
    """polars hands over the addresses of Python objects as if they were values."""
    for name, kind in getattr(data, "schema", {}).items():
        if "\0" in name:
            raise DatasetError(f"The column name {name!r} has a NUL, which polars cannot hand over.", "Rename it.")
        if "Object" in str(kind):
            raise DatasetError(
                f"Column {name!r} has the type {kind}, which cannot be recorded.",
                "Convert it to numbers, text, dates or categories first.",
            )


def _pandas_types() -> tuple[Any, Any]:
    """Series and DataFrame where the user has loaded pandas; else nothing is one of them."""
    pandas = sys.modules.get("pandas")
    return getattr(pandas, "Series", ()), getattr(pandas, "DataFrame", ())


def need_pyarrow() -> Any:
    """The module.

    Raises:
        MissingExtraError: it, or numpy, is not installed.
    """
    try:
        import numpy  # noqa: F401  (the digest needs it, and pyarrow can come without)
        import pyarrow
    except ImportError as error:
        raise MissingExtraError(
            f"Datasets need pyarrow and numpy ({error}).", "Install them: pip install 'seclea[datasets]'."
        ) from None
    return pyarrow


def refuse_duplicates(names: list[str], shown: str) -> None:
    """Raise DatasetError where a column's name stands twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DatasetError(f"{shown} has several columns named {', '.join(map(repr, twice[:5]))}.", "Rename them.")
