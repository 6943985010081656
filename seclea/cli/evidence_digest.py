"""The digest of a table, computed a second time: written from docs/digest.md alone and sharing no code with seclea.

    python -I evidence_digest.py FILE…      (Parquet or CSV; prints one digest a line, as sha256sum does)

pyarrow and numpy only. Simple and slow on purpose: whoever doubts seclea's digest should be able to read this beside the page.
"""

import hashlib
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Source = str | Path | bytes
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


# ------------------------------------------------------------------------------------------------------------------
# Notation


def u64(number: int) -> bytes:
    return int(number).to_bytes(8, "little")


def text(value: str) -> bytes:
    encoded = value.encode("utf-8")
    return u64(len(encoded)) + encoded


def json_string(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


# ------------------------------------------------------------------------------------------------------------------
# The type, as text


def type_of_field(field: Any) -> str:
    """The type of a field. One of an extension type that this process does not know is its storage with two metadata keys."""
    metadata, kind = field.metadata or {}, field.type
    if isinstance(kind, pa.BaseExtensionType):
        serialize = getattr(kind, "__arrow_ext_serialize__", bytes)
        return extension(kind.extension_name, serialize(), kind.storage_type)
    if b"ARROW:extension:name" in metadata:
        name = metadata[b"ARROW:extension:name"].decode()
        return extension(name, metadata.get(b"ARROW:extension:metadata", b""), kind)
    return type_name(kind)


def extension(name: str, parameters: bytes, storage: Any) -> str:
    if name in ("arrow.bool8", "arrow.json", "arrow.uuid"):
        parameters = b""
    elif name == "pandas.interval":
        parameters = json.loads(parameters)["closed"].encode()
    elif name.startswith("arrow."):
        raise ValueError(f"a column of {name} has no digest")
    return f"extension({json_string(name)}:{parameters.hex()}:{type_name(storage)})"


def type_name(kind: Any) -> str:
    types = pa.types
    if types.is_dictionary(kind):
        return f"categorical({type_name(kind.value_type)})"
    if types.is_boolean(kind):
        return "bool"
    if types.is_integer(kind):
        return str(kind)
    if types.is_floating(kind):
        return f"float{kind.bit_width}"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "string"
    if types.is_fixed_size_binary(kind):
        return f"binary({kind.byte_width})"
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return "binary"
    if types.is_date(kind):
        return "date"
    if types.is_time(kind):
        return "time"
    if types.is_timestamp(kind):
        return f"timestamp({kind.tz})" if kind.tz else "timestamp"
    if types.is_duration(kind):
        return "duration"
    if types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if types.is_null(kind):
        return "null"
    if types.is_map(kind):
        key, item = type_of_field(kind.key_field), type_of_field(kind.item_field)
        return f'list(struct("key":{key},"value":{item}))'
    if is_list(kind):
        return f"list({type_of_field(kind.value_field)})"
    if types.is_struct(kind):
        return f"struct({','.join(f'{json_string(field.name)}:{type_of_field(field)}' for field in kind)})"
    raise ValueError(f"a column of {kind} has no digest")


def is_list(kind: Any) -> bool:
    types = pa.types
    one_of = (
        types.is_list,
        types.is_large_list,
        types.is_fixed_size_list,
        types.is_list_view,
        types.is_large_list_view,
    )
    return any(check(kind) for check in one_of)


# ------------------------------------------------------------------------------------------------------------------
# The body: rows, missing, presence, values


def body(array: Any) -> bytes:
    array = plain(array)
    present = np.array([not missing for missing in array.is_null().to_pylist()], dtype=bool)
    if pa.types.is_floating(array.type):
        present &= ~np.isnan(numbers(array, f"<f{array.type.bit_width // 8}"))
    missing = len(array) - int(present.sum())
    presence = present.astype("u1").tobytes() if missing else b""
    return u64(len(array)) + u64(missing) + presence + values(array, present)


def plain(array: Any) -> Any:
    """The values themselves, without extension or dictionary around them."""
    while True:
        if isinstance(array.type, pa.BaseExtensionType):
            array = array.storage
        elif pa.types.is_dictionary(array.type):
            array = array.dictionary.take(array.indices)
        else:
            return array


def numbers(array: Any, dtype: str) -> Any:
    """The numbers as they lie in memory; where one is missing, anything."""
    buffer = array.buffers()[1]
    if buffer is None:
        return np.zeros(len(array), dtype)
    return np.frombuffer(buffer, dtype)[array.offset : array.offset + len(array)]


def values(array: Any, present: Any) -> bytes:
    types, kind = pa.types, array.type
    if types.is_null(kind):
        return b""
    if types.is_boolean(kind):
        return bytes(bool(value) for value in array.to_pylist())
    if types.is_integer(kind):
        dtype = f"<{'i' if types.is_signed_integer(kind) else 'u'}{kind.bit_width // 8}"
        return as_they_lie(zeroed(numbers(array, dtype), present))
    if types.is_floating(kind):
        found = zeroed(numbers(array, f"<f{kind.bit_width // 8}"), present)
        found[found == 0] = 0.0  # -0.0 too
        return as_they_lie(found)
    if types.is_date32(kind):
        return as_they_lie(zeroed(numbers(array, "<i4"), present))
    if types.is_date64(kind):
        return as_they_lie((zeroed(numbers(array, "<i8"), present) // 86_400_000).astype("<i4"))
    if types.is_time(kind):
        ticks = zeroed(numbers(array, f"<i{kind.bit_width // 8}"), present).astype("<i8")
        return as_they_lie(ticks * (10**9 // PER_SECOND[kind.unit]))
    if types.is_timestamp(kind) or types.is_duration(kind):
        ticks, per_second = zeroed(numbers(array, "<i8"), present), PER_SECOND[kind.unit]
        rows = np.zeros(len(array), [("seconds", "<i8"), ("nanoseconds", "<u4")])  # packed: 12 bytes a row
        rows["seconds"] = ticks // per_second
        rows["nanoseconds"] = ticks % per_second * (10**9 // per_second)
        return as_they_lie(rows)
    if types.is_decimal(kind):
        width = kind.byte_width
        raw = numbers(array, f"V{width}")
        whole = [
            int.from_bytes(one.tobytes(), "little", signed=True) if there else 0
            for one, there in zip(raw, present, strict=True)
        ]
        return b"".join(one.to_bytes(32, "little", signed=True) for one in whole)
    if types.is_fixed_size_binary(kind):
        return b"".join(bytes(kind.byte_width) if value is None else value for value in array.to_pylist())
    if types.is_struct(kind):
        return b"".join(body(field) for field in array.flatten())  # `flatten` makes a field missing where the struct is
    if types.is_map(kind) or is_list(kind):
        lengths, items = items_of(array, present)
        return b"".join(map(u64, lengths)) + body(items)
    # Texts and bytes of any length.
    raw = [
        b"" if value is None else value.encode("utf-8") if isinstance(value, str) else value
        for value in array.to_pylist()
    ]
    return b"".join(u64(len(one)) for one in raw) + b"".join(raw)


def as_they_lie(found: Any) -> bytes:
    return bytes(found.tobytes())


def zeroed(found: Any, present: Any) -> Any:
    return np.where(present, found, np.zeros(1, found.dtype)).astype(found.dtype)


def items_of(array: Any, present: Any) -> tuple[list[int], Any]:
    """The length of each row's list, and all items in order; those that lie under a missing row are not among them."""
    rows = [array[at].values if there else None for at, there in enumerate(present)]
    pieces = [row for row in rows if row is not None and len(row)]
    if pieces:
        items = pa.concat_arrays(pieces)
    else:
        kind = array.type
        entry = [("key", kind.key_type), ("value", kind.item_type)] if pa.types.is_map(kind) else []
        items = pa.array([], pa.struct(entry) if entry else kind.value_type)
    return [0 if row is None else len(row) for row in rows], items


# ------------------------------------------------------------------------------------------------------------------
# Columns and tables


def pandas_metadata(table: Any) -> tuple[list[tuple[str, Any]], set[str]]:
    """The index (name of the level; field name or range) and the fields that were categories, as pandas noted them."""
    try:
        noted = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}"))
        columns = {one.get("field_name"): one for one in noted.get("columns", [])}
        levels: list[tuple[Any, Any]] = []
        for level in noted.get("index_columns", []):
            if isinstance(level, str):
                if level in table.schema.names:
                    levels.append((columns.get(level, {"name": level})["name"], level))
            else:
                numbers = range(level["start"], level["stop"], level["step"])
                if len(numbers) == table.num_rows:
                    levels.append((level["name"], numbers))
        levels = [("" if name is None else str(name), level) for name, level in levels]
        return levels, {name for name, one in columns.items() if one.get("pandas_type") == "categorical"}
    except (ValueError, TypeError, AttributeError, KeyError):
        return [], set()


def one_array(column: Any) -> Any:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def column_digest(field: Any, array: Any, said_categorical: bool = False) -> bytes:
    name = type_of_field(field)
    if said_categorical and not pa.types.is_dictionary(field.type):
        name = f"categorical({name})"
    return hashlib.sha256(b"seclea-column-v1\n" + text(name) + body(array)).digest()


def table_parts(table: Any) -> list[tuple[str, str, bytes]]:
    """(role, name, digest) of each column, then of each level of an index that is not the default one."""
    if len(set(table.schema.names)) < table.num_columns:
        raise ValueError("several columns have one name")
    levels, categorical = pandas_metadata(table)
    stored = [level for _, level in levels if isinstance(level, str)]

    def digest_of(field: Any) -> bytes:
        said = field.name in categorical or (field.metadata or {}).get(b"seclea.type") == b"categorical"
        return column_digest(field, one_array(table.column(table.schema.get_field_index(field.name))), said)

    def digest_of_range(numbers: range) -> bytes:
        return column_digest(pa.field("", pa.int64()), pa.array(numbers, pa.int64()))

    parts = [("column", field.name, digest_of(field)) for field in table.schema if field.name not in stored]
    index = [
        ("index", name, digest_of(table.schema.field(level)) if isinstance(level, str) else digest_of_range(level))
        for name, level in levels
    ]
    if index == [("index", "", digest_of_range(range(table.num_rows)))]:
        return parts
    return parts + index


def table_digest(table: Any) -> str:
    """The digest of a pyarrow Table, 64 hex digits."""
    parts = table_parts(table)
    content = b"".join(text(role) + text(name) + digest for role, name, digest in parts)
    return hashlib.sha256(b"seclea-table-v1\n" + u64(table.num_rows) + u64(len(parts)) + content).hexdigest()


def column_digests(table: Any) -> dict[str, str]:
    """The digest of each column (levels of the index are not among them), by its name."""
    return {name: digest.hex() for role, name, digest in table_parts(table) if role == "column"}


def identity(content: str, split: str, X: Sequence[str], y: Sequence[str]) -> str:
    """The identity of a dataset whose table has the digest ``content``."""
    if not split and not X and not y:
        return content
    names = b"".join(u64(len(part)) + b"".join(map(text, part)) for part in (X, y))
    return hashlib.sha256(b"seclea-dataset-v1\n" + bytes.fromhex(content) + text(split) + names).hexdigest()


# ------------------------------------------------------------------------------------------------------------------
# CSV: which table it is

Cell = tuple[str, bool]  # the text, and whether it was quoted
MISSING = frozenset({
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL",
    "NaN", "None", "n/a", "nan", "null",
})  # fmt: skip
FLOAT = re.compile(
    r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|inf|infinity|nan(\([0-9a-z_]*\))?)", re.IGNORECASE | re.ASCII
)
TRUE, FALSE = frozenset({"True", "TRUE", "true"}), frozenset({"False", "FALSE", "false"})


def csv_lines(content: str) -> Iterator[list[Cell]]:
    """Each line that is not blank, as cells."""
    at, end = 0, len(content)
    while at < end:
        cells: list[Cell] = []
        while True:
            quoted, value = content.startswith('"', at), []
            if quoted:
                at += 1
                while True:
                    close = content.find('"', at)
                    close = close if close >= 0 else end  # never closed: all that is left
                    value.append(content[at:close])
                    at = min(close + 1, end)
                    if not content.startswith('"', at):
                        break
                    value.append('"')
                    at += 1
            plain_end = at
            while plain_end < end and content[plain_end] not in ",\r\n":
                plain_end += 1
            value.append(content[at:plain_end])
            cells.append(("".join(value), quoted))
            at = plain_end
            if not content.startswith(",", at):
                break
            at += 1
        at += 2 if content.startswith("\r\n", at) else 1
        if cells != [("", False)]:
            yield cells


def csv_column(cells: Sequence[Cell]) -> Any:
    found = [None if not quoted and value in MISSING else value for value, quoted in cells]
    there = [value for value in found if value is not None]
    trimmed = [value.strip(" \t") for value in there]
    if there and len(there) == len(found) and all(is_int64(value) for value in trimmed):
        return pa.array([int(value) for value in trimmed], pa.int64())
    if there and all(value in TRUE or value in FALSE for value in there):
        return pa.array([None if value is None else value in TRUE for value in found], pa.bool_())
    if all(FLOAT.fullmatch(value) for value in trimmed):
        number = [float(re.sub(r"\(.*", "", value)) for value in trimmed]  # nan(7) is a NaN
        return pa.array([None if value is None else number.pop(0) for value in found], pa.float64())
    return pa.array(found, pa.string())


def is_int64(value: str) -> bool:
    return bool(re.fullmatch(r"-?[0-9]+", value)) and -(1 << 63) <= int(value) < 1 << 63


def csv_table(sources: Sequence[bytes]) -> Any:
    """The table that CSV files say, several as one."""
    names: list[str] = []
    rows: list[list[Cell]] = []
    for number, source in enumerate(sources):
        header, *lines = csv_lines(source.decode("utf-8-sig"))
        found = [value or f"Unnamed: {position}" for position, (value, _) in enumerate(header)]
        if number and found != names:
            raise ValueError("the files have different headers")
        names = found
        rows += lines
    if any(len(row) != len(names) for row in rows):
        raise ValueError("a line has more or fewer cells than the header")
    columns = [[row[at] for row in rows] for at in range(len(names))]
    return pa.Table.from_arrays([csv_column(column) for column in columns], names=names)


# ------------------------------------------------------------------------------------------------------------------


def digest_of_file(source: Source | Sequence[Source], format: str) -> str:
    """The digest of a "parquet" or a "csv" (a path or the bytes; of CSV files also several)."""
    several = [source] if isinstance(source, str | bytes | Path) else list(source)
    contents = [one if isinstance(one, bytes) else Path(one).read_bytes() for one in several]
    if format == "csv":
        return table_digest(csv_table(contents))
    if format != "parquet":
        raise ValueError(f"no format: {format}")
    (content,) = contents
    return table_digest(pq.ParquetFile(io.BytesIO(content)).read())


def main(paths: Sequence[str], say: Callable[[str], object] = print) -> int:
    for path in paths:
        content = Path(path).read_bytes()
        say(f"{digest_of_file(content, 'parquet' if content.startswith(b'PAR1') else 'csv')}  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
