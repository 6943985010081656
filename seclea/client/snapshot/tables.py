"""A table as it is when the call is made: stored in a file, digested and described, before the call returns."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seclea.client.snapshot.canonical import CATEGORICAL, canonical_columns
from seclea.client.snapshot.csvs import copy_csv, read_csv
from seclea.client.snapshot.digest import content_digest
from seclea.client.snapshot.files import PayloadFile
from seclea.client.snapshot.metadata import automatic_metadata, validate_metadata
from seclea.errors import DatasetError, MissingExtraError, UsageError

_ROW_GROUP_ROWS = 1 << 20  # a table with rows appended keeps its first row groups byte for byte


@dataclass(frozen=True, slots=True)
class TableSnapshot:
    """A stored table.

    Attributes:
        path: the file, for the writer to take over.
        format: "parquet" or "csv".
        size, sha256: of the file.
        digest: of the content, 64 hex digits (docs/digest.md).
        metadata: what the table says of itself, and over it what the user says.
    """

    path: Path
    format: str
    size: int
    sha256: str
    digest: str
    metadata: dict[str, Any]


def snapshot_table(
    data: Any, directory: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None
) -> TableSnapshot:
    """Store a table in a new file of ``directory`` (made if need be).

    Args:
        data: pandas DataFrame or Series, Arrow table (or anything that offers one: polars, …), path of a CSV file or a
            list of such paths with the same columns, which are stored one after the other.
    Raises:
        DatasetNotFoundError: a file does not exist.
        DatasetError: a table that cannot be recorded as it is; the message names file, column or byte.
        UsageError: metadata that is wrong, or data of another type.
        MissingExtraError: pyarrow is not installed.
        OSError: the disk is full. In every case nothing is left behind.
    """
    _need_pyarrow()
    if isinstance(data, str | os.PathLike):
        return _snapshot_csv([data], directory, metadata)
    if isinstance(data, list | tuple):
        if not data or not all(isinstance(item, str | os.PathLike) for item in data):
            raise UsageError("A list as dataset must hold paths of CSV files, one or more.", "Or pass a DataFrame.")
        return _snapshot_csv(list(data), directory, metadata)
    table, framework = to_arrow(data)
    # All that can be refused is refused before the file is made.
    described = _describe(table, metadata, framework, "The table")
    digest = content_digest(table)
    with PayloadFile(directory, ".parquet") as file:
        _write_parquet(table, file)
    return TableSnapshot(file.path, "parquet", file.size, file.sha256, digest, described)


def _snapshot_csv(
    paths: list[Any], directory: str | os.PathLike[str], metadata: Mapping[str, Any] | None
) -> TableSnapshot:
    with PayloadFile(directory, ".csv") as file:
        copied = copy_csv(paths, file)
        file.flush()
        table = read_csv(file.path, copied)
        described = _describe(table, metadata, "csv", copied.shown)
        digest = content_digest(table)
    return TableSnapshot(file.path, "csv", file.size, file.sha256, digest, described)


def to_arrow(data: Any) -> tuple[Any, str]:
    """The `pyarrow.Table` of a table in memory, and the name of the framework that it came from.

    Raises:
        DatasetError: it cannot be one; the column is named.
        UsageError: it is no table.
    """
    pa = _need_pyarrow()
    series, frame = _pandas_types()
    if isinstance(data, series):
        data = data.to_frame()
    framework = type(data).__module__.partition(".")[0]
    try:
        if isinstance(data, frame):
            _refuse_duplicates([str(name) for name in data.columns])
            return pa.Table.from_pandas(data), "pandas"
        if isinstance(data, pa.RecordBatch):
            data = pa.Table.from_batches([data])
        if framework == "polars" and hasattr(data, "to_arrow") and hasattr(data, "columns"):
            data = data.to_arrow()  # as plain text: by the protocol it gives views, which older pyarrow cannot convert
        if not isinstance(data, pa.Table) and hasattr(data, "__arrow_c_stream__"):
            data = pa.table(data)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, DatasetError):
            raise
        words = " ".join(str(word) for word in error.args)
        hint = "Give each column values of one type: numbers, text, dates, categories."
        raise DatasetError(f"The table cannot be recorded: {words}.", hint) from error
    if not isinstance(data, pa.Table):
        raise UsageError(
            f"A dataset cannot be a {type(data).__module__}.{type(data).__qualname__}.",
            "Pass a pandas DataFrame, an Arrow table, a path of a CSV file or a list of such paths.",
        )
    return data, framework


def _pandas_types() -> tuple[Any, Any]:
    """Series and DataFrame where the user has loaded pandas; else nothing is one of them."""
    pandas = sys.modules.get("pandas")
    return getattr(pandas, "Series", ()), getattr(pandas, "DataFrame", ())


def _need_pyarrow() -> Any:
    try:
        import numpy  # noqa: F401  (the digest needs it, and pyarrow can come without)
        import pyarrow
    except ImportError as error:
        raise MissingExtraError(
            f"Datasets need pyarrow and numpy ({error}).", "Install them: pip install 'seclea[datasets]'."
        ) from None
    return pyarrow


def _describe(table: Any, metadata: Mapping[str, Any] | None, framework: str, shown: str) -> dict[str, Any]:
    columns = [(role, name, values) for role, name, values, _ in canonical_columns(table)]
    names = [name for role, name, _ in columns if role == "column"]
    _refuse_duplicates(names, shown)
    if not names or not table.num_rows:
        raise DatasetError(f"{shown} is empty: {table.num_rows} rows, {len(names)} columns.")
    user = validate_metadata(metadata, names + [name for role, name, _ in columns if role == "index"])
    return automatic_metadata(columns, user, framework) | user


def _refuse_duplicates(names: list[str], shown: str = "The table") -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DatasetError(f"{shown} has several columns named {', '.join(map(repr, twice[:5]))}.", "Rename them.")


def _write_parquet(table: Any, file: PayloadFile) -> None:
    """The same bytes for the same table (with one version of pyarrow)."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    fields, texts = [], []
    for field in table.schema:
        is_dictionary = pa.types.is_dictionary(field.type)
        if is_dictionary:  # Parquet keeps dictionaries of texts only; the digest must know of the others
            field = field.with_metadata({**(field.metadata or {}), **CATEGORICAL})
        fields.append(field)
        if is_dictionary or str(field.type) in ("string", "large_string", "string_view"):
            texts.append(field.name)
    table = table.cast(pa.schema(fields, table.schema.metadata))
    try:
        with parquet.ParquetWriter(
            pa.PythonFile(file, mode="w"),
            table.schema,
            version="2.6",
            compression="snappy",
            use_dictionary=texts,  # trying it on numbers costs half of the writing time and rarely pays
            data_page_version="1.0",
            store_schema=True,
        ) as writer:
            writer.write_table(table, row_group_size=_ROW_GROUP_ROWS)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise DatasetError(f"The table cannot be stored as Parquet: {error}.", "Convert the column first.") from error
