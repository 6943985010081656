"""The columns of a table as its digest sees them: role, name and canonical type, whatever holds them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def canonical_columns(table: Any) -> Iterator[tuple[str, str, Any, Any]]:
    """(role, name, values, field) of each column and index level; a default index is left out."""
    import numpy as np
    import pyarrow as pa

    levels, categorical = _pandas_metadata(table)
    index_fields = {level for level, _ in levels if isinstance(level, str)}
    fields = [_with_category(field, categorical) for field in table.schema]
    for number, field in enumerate(fields):
        if field.name not in index_fields:
            yield "column", field.name, table.column(number), field
    for level, name in levels:
        if isinstance(level, str):
            number = table.schema.get_field_index(level)
            values, field = table.column(number), fields[number]
        else:
            values = pa.array(np.arange(*level, dtype="i8"))
            field = pa.field("", pa.int64())
        if len(levels) > 1 or name or not _is_default(values):
            yield "index", name, values, field


def _is_default(values: Any) -> bool:
    import numpy as np

    if str(values.type) != "int64" or values.null_count:
        return False
    if len(values) and values[-1].as_py() != len(values) - 1:
        return False
    return bool(np.array_equal(values.to_numpy(), np.arange(len(values))))


def _pandas_metadata(table: Any) -> tuple[list[tuple[str | tuple[int, int, int], str]], frozenset[str]]:
    """Index levels (field name, or start, stop and step of a range) with their names; fields that were categorical."""
    try:
        pandas = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}"))
        names = {column.get("field_name"): column.get("name") for column in pandas.get("columns", [])}
        kinds = {column.get("field_name"): column.get("pandas_type") for column in pandas.get("columns", [])}
        levels: list[tuple[str | tuple[int, int, int], str]] = []
        for level in pandas.get("index_columns", []):
            if isinstance(level, str):
                if table.schema.get_field_index(level) >= 0:  # else the column was dropped since
                    levels.append((level, _level_name(names.get(level, level))))
            elif len(span := range(level["start"], level["stop"], level["step"])) == table.num_rows:
                levels.append(((span.start, span.stop, span.step), _level_name(level["name"])))
    except (ValueError, TypeError, AttributeError, KeyError):
        return [], frozenset()  # somebody else's metadata under that key
    return levels, frozenset(str(name) for name, kind in kinds.items() if kind == "categorical")


def _level_name(name: Any) -> str:
    return "" if name is None else str(name)


# ------------------------------------------------------------------------------------------------------------------
# Types

CATEGORICAL = {b"seclea.type": b"categorical"}  # on a field whose dictionary Parquet does not keep


def _with_category(field: Any, categorical: frozenset[str]) -> Any:
    return field.with_metadata({**(field.metadata or {}), **CATEGORICAL}) if field.name in categorical else field


_NO_PARAMETERS = ("arrow.bool8", "arrow.json", "arrow.uuid")  # Arrow's own; pyarrow does not show what the others have


def canonical_type(field: Any) -> str:
    """The type's name in the digest.

    Raises:
        NotImplementedError: it has none.
    """
    import pyarrow as pa

    metadata = field.metadata or {}
    if isinstance(field.type, pa.BaseExtensionType):
        kind = field.type
        serialize = getattr(kind, "__arrow_ext_serialize__", None)
        return _extension(kind.extension_name, serialize() if serialize else b"", kind.storage_type)
    if b"ARROW:extension:name" in metadata:  # not registered here, so only its storage arrived
        name = metadata[b"ARROW:extension:name"].decode()
        return _extension(name, metadata.get(b"ARROW:extension:metadata", b""), field.type)
    if metadata.get(b"seclea.type") == b"categorical" and not pa.types.is_dictionary(field.type):
        return f"categorical({_type_name(field.type)})"
    return _type_name(field.type)


def _extension(name: str, parameters: bytes, storage: Any) -> str:
    if name.startswith("arrow."):
        if name not in _NO_PARAMETERS:
            raise NotImplementedError(name)
        parameters = b""
    elif name == "pandas.interval":  # its other parameter repeats the storage's type, with its unit of time
        parameters = str(json.loads(parameters)["closed"]).encode()
    return f"extension({_quoted(name)}:{parameters.hex()}:{_type_name(storage)})"


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _type_name(kind: Any) -> str:
    import pyarrow as pa

    is_a = pa.types
    if is_a.is_floating(kind):
        return f"float{kind.bit_width}"
    if is_a.is_boolean(kind) or is_a.is_integer(kind) or is_a.is_null(kind):
        return str(kind)
    if is_a.is_string(kind) or is_a.is_large_string(kind) or str(kind) == "string_view":
        return "string"
    if is_a.is_binary(kind) or is_a.is_large_binary(kind) or str(kind) == "binary_view":
        return "binary"
    if is_a.is_fixed_size_binary(kind):
        return f"binary({kind.byte_width})"
    if is_a.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if is_a.is_date(kind):
        return "date"
    if is_a.is_time(kind):
        return "time"
    if is_a.is_duration(kind):
        return "duration"
    if is_a.is_timestamp(kind):
        return f"timestamp({kind.tz})" if kind.tz else "timestamp"
    if is_a.is_dictionary(kind):
        return f"categorical({_type_name(kind.value_type)})"
    if is_a.is_map(kind):
        return f'list(struct("key":{canonical_type(kind.key_field)},"value":{canonical_type(kind.item_field)}))'
    if _is_list(kind):
        return f"list({canonical_type(kind.value_field)})"
    if is_a.is_struct(kind):
        return f"struct({','.join(f'{_quoted(part.name)}:{canonical_type(part)}' for part in kind)})"
    raise NotImplementedError(str(kind))


def _is_list(kind: Any) -> bool:
    return str(kind).startswith(("list<", "large_list<", "fixed_size_list<", "list_view<", "large_list_view<"))


def plain(column: Any) -> Any:
    """The same values in the one Arrow type that stands for their canonical type."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return plain(chunked([chunk.storage for chunk in column.chunks], kind.storage_type))
    if pa.types.is_dictionary(kind):
        return plain(pc.cast(column, kind.value_type))
    if pa.types.is_map(kind):
        return chunked([_map_as_list(chunk) for chunk in column.chunks], _map_list_type(kind))
    if _is_list(kind):
        return pc.cast(column, pa.large_list(kind.value_type))
    if pa.types.is_struct(kind):
        return column
    name = _type_name(kind)
    if name.startswith("decimal("):
        return pc.cast(column, pa.decimal256(kind.precision, kind.scale))
    one = {"string": pa.large_string(), "binary": pa.large_binary(), "bool": pa.uint8()}
    one |= {"date": pa.date32(), "time": pa.time64("ns")}
    return pc.cast(column, one[name]) if name in one else column


def _map_list_type(kind: Any) -> Any:
    import pyarrow as pa

    return pa.large_list(pa.struct([pa.field("key", kind.key_type), pa.field("value", kind.item_type)]))


def _map_as_list(piece: Any) -> Any:
    import pyarrow as pa

    entries = pa.StructArray.from_arrays([piece.keys, piece.items], ["key", "value"])
    offsets = piece.offsets.cast(pa.int64())
    missing = piece.is_null() if piece.null_count else None
    return pa.LargeListArray.from_arrays(offsets, entries, type=_map_list_type(piece.type), mask=missing)


def chunked(pieces: list[Any], kind: Any) -> Any:
    import pyarrow as pa

    return pa.chunked_array(pieces, kind)
