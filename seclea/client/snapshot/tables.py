"""A table as it is when the call is made: stored in a file, digested and described, before the call returns."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seclea.client.snapshot.canonical import CATEGORICAL, canonical_type
from seclea.client.snapshot.content import Content, content_of, memory_content, need_pyarrow
from seclea.client.snapshot.csvs import copy_csv, read_csv
from seclea.client.snapshot.files import PayloadFile
from seclea.client.snapshot.metadata import automatic_metadata, check_outcomes, inherit_metadata, validate_metadata
from seclea.errors import DatasetError, UsageError

_ROW_GROUP_ROWS = 1 << 20  # a table with rows appended keeps its first row groups byte for byte
_MAX_COLUMN_DIGESTS = 1000  # of a wider table metadata has none: it travels with every dataset


@dataclass(frozen=True, slots=True)
class StoredTable:
    """A table's file in the spool: ``format`` is "parquet" or "csv"; ``size`` (bytes) and ``sha256`` are the file's."""

    path: Path
    format: str
    size: int
    sha256: str


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
    content, stored = read_table(data, directory)
    try:
        # All that can be refused is refused before the file is made (a CSV is copied first, as it could change).
        described = describe(content, metadata)
        stored = stored or store_parquet(content.table, directory)
    except BaseException:
        if stored is not None:
            stored.path.unlink(missing_ok=True)
        raise
    return TableSnapshot(stored.path, stored.format, stored.size, stored.sha256, content.digest, described)


def read_table(data: Any, directory: str | os.PathLike[str]) -> tuple[Content, StoredTable | None]:
    """A table's content and, where it came as CSV files, their copy in ``directory``. Raises as `snapshot_table`."""
    need_pyarrow()
    if isinstance(data, str | os.PathLike):
        return _read_csvs([data], directory)
    if isinstance(data, list | tuple):
        if not data or not all(isinstance(item, str | os.PathLike) for item in data):
            raise UsageError("A list as dataset must hold paths of CSV files, one or more.", "Or pass a DataFrame.")
        return _read_csvs(list(data), directory)
    return memory_content(data), None


def _read_csvs(paths: list[Any], directory: str | os.PathLike[str]) -> tuple[Content, StoredTable]:
    with PayloadFile(directory, ".csv") as file:
        file.expect(sum(os.stat(path).st_size for path in paths if os.path.isfile(path)), surely=len(paths) == 1)
        copied = copy_csv(paths, file)
        file.flush()
        content = content_of(read_csv(file.path, copied), "csv", copied.shown)
    return content, StoredTable(file.path, "csv", file.size, file.sha256)


def describe(
    content: Content, metadata: Mapping[str, Any] | None, parent: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The metadata of a dataset: what it says of itself, what holds for its parent, and over both what the user says.

    Raises:
        UsageError, DatasetError: the user's metadata is wrong; the key is named.
    """
    columns = content.parts
    own = validate_metadata(metadata, [name for _, name, _ in columns])
    user = inherit_metadata(own, parent or {}, columns)
    if content.outputs and "outputs" not in own:
        user["outputs"] = list(content.outputs)
    automatic = automatic_metadata(columns, user, content.framework)
    check_outcomes(own, automatic["outputs_info"])
    roles = {"X": list(content.features), "y": list(content.outputs)} if content.features or content.outputs else None
    automatic |= {"roles": roles, "content_digest": content.digest}
    if len(content.columns) <= _MAX_COLUMN_DIGESTS:
        automatic["column_digests"] = [list(column[:4]) for column in content.columns]  # role, name, type, digest
    return automatic | user


def store_parquet(table: Any, directory: str | os.PathLike[str]) -> StoredTable:
    """Store an Arrow table in a new Parquet file of ``directory``.

    Raises:
        DatasetError: Parquet cannot hold it.
        OSError: the disk is full; nothing is left behind.
    """
    _refuse_what_parquet_changes(table)
    with PayloadFile(directory, ".parquet") as file:
        file.expect(table.nbytes, surely=False)  # texts become smaller
        _write_parquet(table, file)
    return StoredTable(file.path, "parquet", file.size, file.sha256)


def _refuse_what_parquet_changes(table: Any) -> None:
    """The types must come back from the file, or its digest is not the table's."""
    import pyarrow.parquet as parquet

    sink = io.BytesIO()
    _write_parquet(table.slice(0, 0), sink)
    for field, kept in zip(_parquet_schema(table), parquet.ParquetFile(sink).schema_arrow, strict=True):
        if canonical_type(field) != canonical_type(kept):
            raise DatasetError(
                f"Column {field.name!r} has the type {field.type}, which a Parquet file does not keep.",
                "Convert it first; categories inside lists or structs to plain values.",
            )


def _parquet_schema(table: Any) -> Any:
    """The table's, with a mark on dictionaries: Parquet keeps those of texts only, and the digest must know of the others."""
    import pyarrow as pa

    fields = [
        field.with_metadata({**(field.metadata or {}), **CATEGORICAL}) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    return pa.schema(fields, table.schema.metadata)


def _compression(schema: Any) -> Any:
    """Fractions do not compress, and trying costs a sixth of the writing time. (Columns in columns have names of their own.)"""
    import pyarrow as pa

    if any(pa.types.is_nested(field.type) for field in schema):
        return "snappy"
    return {field.name: "none" if pa.types.is_floating(field.type) else "snappy" for field in schema}


def _write_parquet(table: Any, file: Any) -> None:
    """The same bytes for the same table (with one version of pyarrow)."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    table = table.cast(_parquet_schema(table))
    texts = [
        field.name
        for field in table.schema
        if pa.types.is_dictionary(field.type) or str(field.type) in ("string", "large_string", "string_view")
    ]
    try:
        with parquet.ParquetWriter(
            pa.PythonFile(file, mode="w"),
            table.schema,
            version="2.6",
            compression=_compression(table.schema),
            use_dictionary=texts,  # trying it on numbers costs half of the writing time and rarely pays
            data_page_version="1.0",
            store_schema=True,
        ) as writer:
            writer.write_table(table, row_group_size=_ROW_GROUP_ROWS)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise DatasetError(f"The table cannot be stored as Parquet: {error}.", "Convert the column first.") from error
