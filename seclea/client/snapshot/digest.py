"""The content digest of a table, version 1. docs/digest.md says all that is needed to compute it elsewhere.

Rule 1  What counts is what a reader of the table sees: names, order, types, values, a meaningful index. Not how Arrow,
        pandas or Parquet happen to hold it: chunks, offsets, units of time, widths of text, codes of categories.
Rule 2  Missing is missing: null, NaN (of any bits) and NaT are one. -0.0 is 0.0.
Rule 3  Two levels: each column has a digest, the table's is over those. So it can be said which column differs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple

from seclea.client.snapshot.canonical import canonical_columns, canonical_type, chunked, plain
from seclea.errors import DatasetError

_TABLE = b"seclea-table-v1\n"
_COLUMN = b"seclea-column-v1\n"
_DATASET = b"seclea-dataset-v1\n"
_PARALLEL_VALUES = 1 << 20  # in a smaller table threads cost more than they save
_THREADS = 4
_PIECE_ROWS = 1 << 20  # hashed at a time, which bounds the memory of conversions


class ColumnDigest(NamedTuple):
    """One column: ``role`` "column" or "index", ``type`` the canonical type, ``digest`` hex, ``missing`` how many."""

    role: str
    name: str
    type: str
    digest: str
    missing: int


def content_digest(table: Any) -> str:
    """The digest of a `pyarrow.Table`, 64 hex digits: the same in every process and on every machine.

    Raises:
        DatasetError: a column of a type that has no canonical form.
    """
    return digest_of(table.num_rows, column_digests(table))


def digest_of(rows: int, columns: Sequence[ColumnDigest]) -> str:
    """The table's digest from those of its columns."""
    whole = hashlib.sha256(_TABLE + _word(rows) + _word(len(columns)))
    for column in columns:
        whole.update(_text(column.role) + _text(column.name) + bytes.fromhex(column.digest))
    return whole.hexdigest()


def identity_digest(content: str, split: str | None, features: Sequence[str] = (), outputs: Sequence[str] = ()) -> str:
    """The digest that names a dataset, 64 hex digits: the content digest unless it has a split label or roles.

    Args:
        content: the table's digest.
        split: the label, None without one.
        features, outputs: names of the columns with the roles X and y, in the table's order; both empty without roles.
    """
    if not split and not features and not outputs:
        return content
    whole = hashlib.sha256(_DATASET + bytes.fromhex(content) + _text(split or ""))
    for names in (features, outputs):
        whole.update(_word(len(names)) + b"".join(map(_text, names)))
    return whole.hexdigest()


def column_digests(table: Any, known: Mapping[Any, ColumnDigest] = MappingProxyType({})) -> list[ColumnDigest]:
    """The columns' digests in the order that the table's digest takes them in: columns, then the index.

    Args:
        known: digests of columns that are in memory already, by `place_of`.
    """

    def one(column: tuple[str, str, Any, Any]) -> ColumnDigest:
        role, name, values, field = column
        place = place_of(values, field) if known else None
        if place is not None and (same := known.get(place)) is not None:
            return same._replace(role=role, name=name)
        return _column_digest(role, name, values, field)

    columns = list(canonical_columns(table))
    if table.num_rows * len(columns) < _PARALLEL_VALUES:
        return [one(column) for column in columns]
    # Hashing and numpy's loops let other threads run.
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(one, columns))


def _column_digest(role: str, name: str, values: Any, field: Any) -> ColumnDigest:
    import pyarrow as pa

    column: Any = pa.chunked_array([values]) if isinstance(values, pa.Array) else values
    state = hashlib.sha256(_COLUMN)
    try:
        kind = canonical_type(field)
        state.update(_text(kind))
        missing = _update(state, column)
    except (pa.ArrowException, NotImplementedError) as error:
        raise _unsupported(name, field.type) from error
    return ColumnDigest(role, name, kind, state.hexdigest(), missing)


def place_of(values: Any, field: Any) -> Any:
    """What tells two columns as the same memory while both are held; None for an empty one, or where that cannot be told."""
    if "dictionary" in str(field.type) or "extension" in str(field.type):  # the dictionary is not among the buffers
        return None
    chunks = getattr(values, "chunks", None) or [values]
    places = [
        (len(chunk), chunk.offset, *((one.address, one.size) if one is not None else None for one in chunk.buffers()))
        for chunk in chunks
    ]
    return (str(field.type), str(field.metadata), *places) if any(place[0] for place in places) else None


def _unsupported(name: str, kind: Any) -> DatasetError:
    return DatasetError(
        f"Column {name!r} has the type {kind}, which cannot be recorded.",
        "Convert it to numbers, text, dates or categories first.",
    )


# ------------------------------------------------------------------------------------------------------------------
# Values: rows, how many are missing, which are there (only if some are missing), then the values as the type says.

_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


def _update(state: Any, column: Any) -> int:
    """Hash a column's values; how many are missing."""
    column = plain(column)
    pieces = [(piece, _present(piece)) for piece in _pieces(column)]
    missing = sum(len(piece) - int(present.sum()) for piece, present in pieces)
    state.update(_word(len(column)) + _word(missing))
    if missing:
        for _, present in pieces:
            state.update(present.view("u1"))
    kind = str(column.type)
    if kind.startswith("large_"):  # string, binary, list: all lengths, then all contents
        for piece, present in pieces:
            state.update(_little(_lengths(piece, present), "u8"))
    if kind.startswith("large_list<"):
        _update(state, chunked([piece.flatten() for piece, _ in pieces], column.type.value_type))
    elif kind.startswith("struct<"):
        parts = [piece.flatten() for piece, _ in pieces]  # a child is missing where its parent is
        for number in range(column.type.num_fields):
            _update(state, chunked([part[number] for part in parts], column.type.field(number).type))
    elif kind.startswith("large_"):
        for piece, present in pieces:
            state.update(_contents(piece, present))
    elif kind != "null":
        for piece, present in pieces:
            state.update(_numbers(piece, present))
    return missing


def _pieces(column: Any) -> Iterator[Any]:
    for chunk in column.chunks:
        for start in range(0, len(chunk), _PIECE_ROWS):
            yield chunk.slice(start, _PIECE_ROWS)


def _valid(piece: Any) -> Any:
    import numpy as np

    return piece.is_valid().to_numpy(zero_copy_only=False) if piece.null_count else np.ones(len(piece), bool)


def _present(piece: Any) -> Any:
    """(rows) bool: neither null nor NaN."""
    import numpy as np

    present = _valid(piece)
    if str(piece.type) not in _FLOATS or not len(piece):
        return present
    values = _raw(piece)
    with np.errstate(invalid="ignore"):
        if not np.isnan(values.min()):  # one NaN makes the least a NaN: a look that needs no memory
            return present
    return present & ~np.isnan(values)


_FLOATS = {"halffloat": "f2", "float": "f4", "double": "f8"}


def _raw(piece: Any) -> Any:
    """The values of fixed width as they lie in memory; what stands in missing places is undefined. No copy."""
    import numpy as np

    kind = piece.type
    if kind.bit_width % 8:
        raise NotImplementedError(str(kind))
    if str(kind) in _FLOATS:
        dtype = np.dtype(_FLOATS[str(kind)])
    elif str(kind).startswith(("int", "uint")):
        dtype = np.dtype(str(kind))
    elif str(kind).startswith(("date32", "time64", "timestamp", "duration")):
        dtype = np.dtype(f"i{kind.bit_width // 8}")
    else:
        dtype = np.dtype(f"V{kind.bit_width // 8}")
    buffer = piece.buffers()[1]
    if buffer is None or not buffer.size:
        return np.zeros(len(piece), dtype)
    return np.frombuffer(buffer, dtype, len(piece), piece.offset * dtype.itemsize)


def _numbers(piece: Any, present: Any) -> Any:
    """Values of fixed width in little endian, zero where missing."""
    import numpy as np

    values, kind = _raw(piece), piece.type
    if str(kind) in _FLOATS:
        values = values.view(f"i{values.itemsize}")  # as bits: arithmetic could flush denormals
        negative_zero = np.iinfo(values.dtype).min  # the bits of -0.0 are those of the least whole number
        if len(values) and values.min() == negative_zero:
            values = np.where(values == negative_zero, values.dtype.type(0), values)
    if str(kind).startswith(("timestamp", "duration")):
        parts = np.zeros(len(values), np.dtype([("seconds", "<i8"), ("nanoseconds", "<u4")]))
        per_second = 10**9 // _NANOSECONDS[kind.unit]
        parts["seconds"], rest = np.divmod(values, per_second)
        parts["nanoseconds"] = rest * _NANOSECONDS[kind.unit]
        values = parts
    if not present.all():
        values = values.copy()
        values[~present] = np.zeros((), values.dtype)
    return _little(values, values.dtype)


def _little(values: Any, dtype: Any) -> Any:
    import numpy as np

    little: Any = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<"))
    return memoryview(little.view("u1"))


def _offsets(piece: Any) -> Any:
    import numpy as np

    buffer = piece.buffers()[1]
    if not len(piece) or buffer is None:
        return np.zeros(len(piece) + 1, "i8")
    return np.frombuffer(buffer, "i8", len(piece) + 1, piece.offset * 8)


def _lengths(piece: Any, present: Any) -> Any:
    import numpy as np

    return np.diff(_offsets(piece)) * present


def _contents(piece: Any, present: Any) -> Any:
    """The bytes of all texts of one piece, one after the other."""
    import pyarrow.compute as pc

    offsets = _offsets(piece)
    if offsets[-1] - offsets[0] != _lengths(piece, present).sum():  # Arrow allows bytes behind a null
        piece = pc.fill_null(piece, "" if str(piece.type) == "large_string" else b"")
        offsets = _offsets(piece)
    buffer = piece.buffers()[2]
    return memoryview(buffer)[int(offsets[0]) : int(offsets[-1])] if buffer is not None else b""


def _word(number: int) -> bytes:
    return number.to_bytes(8, "little")


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return _word(len(encoded)) + encoded
