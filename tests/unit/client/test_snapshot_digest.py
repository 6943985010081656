"""The digest against docs/digest.md: an own, slow computation by that page's words, and tables that must (not) agree."""

import datetime as dt
import decimal
import hashlib
import io
import json
import struct
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seclea.client.snapshot.digest import column_digests, content_digest
from seclea.errors import DatasetError


def through_parquet(table: pa.Table) -> pa.Table:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    sink.seek(0)
    return pq.read_table(sink)


def of_frame(frame: pd.DataFrame) -> str:
    return content_digest(pa.Table.from_pandas(frame))


# --- an own reading of docs/digest.md, value by value


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def text(words: str) -> bytes:
    return u64(len(words.encode())) + words.encode()


def by_the_page(rows: int, columns: list[tuple[str, str, str, list]]) -> str:
    whole = b"seclea-table-v1\n" + u64(rows) + u64(len(columns))
    for role, name, kind, values in columns:
        column = b"seclea-column-v1\n" + text(kind) + body(kind, values)
        whole += text(role) + text(name) + hashlib.sha256(column).digest()
    return hashlib.sha256(whole).hexdigest()


def body(kind: str, values: list) -> bytes:
    missing = [value is None or value != value for value in values]
    out = u64(len(values)) + u64(sum(missing))
    if any(missing):
        out += bytes(not gone for gone in missing)
    if kind == "string":
        encoded = [b"" if gone else value.encode() for value, gone in zip(values, missing, strict=True)]
        return out + b"".join(u64(len(item)) for item in encoded) + b"".join(encoded)
    if kind == "list(int64)":
        rows = [[] if gone else value for value, gone in zip(values, missing, strict=True)]
        return out + b"".join(u64(len(row)) for row in rows) + body("int64", [item for row in rows for item in row])
    if kind.startswith("struct"):
        return (
            out
            + body("int64", [v["a"] if v else None for v in values])
            + body("string", [v["b"] if v else None for v in values])
        )
    if kind.startswith("categorical"):
        return body("string", values)
    width = {"bool": "<?", "int64": "<q", "uint8": "<B", "float64": "<d", "date": "<i", "time": "<q"}
    for value, gone in zip(values, missing, strict=True):
        if kind == "timestamp":
            out += struct.pack("<qI", *((0, 0) if gone else divmod(value, 10**9)))
        elif kind == "decimal(5,2)":
            out += (0 if gone else int(value * 100)).to_bytes(32, "little", signed=True)
        else:
            out += struct.pack(width[kind], 0 if gone else value + 0.0 if kind == "float64" else value)
    return out


def test_the_digest_is_the_one_that_the_page_describes():
    decimals = [decimal.Decimal(text) for text in ("-1.25", "0.00", "999.99")]
    structs = [{"a": 1, "b": "x"}, None, {"a": None, "b": ""}, {"a": 2, "b": None}]
    columns = [
        ("i", "int64", [1, None, -3, 2**62], pa.int64()),
        ("naïve", "uint8", [1, 2, 3, 255], pa.uint8()),
        ("x", "float64", [0.1, float("nan"), -0.0, None], pa.float64()),
        ("b", "bool", [True, None, False, True], pa.bool_()),
        ("s", "string", ["", None, "é\n", "long" * 99], pa.string()),
        ("t", "timestamp", [0, -1, None, 1_700_000_000_123_456_789], pa.timestamp("ns")),
        ("d", "date", [0, -1, None, 20_000], pa.date32()),
        ("o", "time", [0, 1, None, 86_399_999_999_999], pa.time64("ns")),
        ("m", "decimal(5,2)", [None, *decimals], pa.decimal128(5, 2)),
        ("l", "list(int64)", [[1, None], None, [], [7]], pa.list_(pa.int64())),
        ("r", 'struct("a":int64,"b":string)', structs, pa.struct([("a", pa.int64()), ("b", pa.string())])),
    ]
    table = pa.table({name: pa.array(values, kind) for name, _, values, kind in columns})
    expected = by_the_page(4, [("column", name, kind, values) for name, kind, values, _ in columns])
    assert content_digest(table) == expected


def test_categories_and_an_index_are_as_the_page_describes():
    frame = pd.DataFrame({"c": pd.Categorical(["b", None, "a"])}, index=pd.Index([5, 6, 7], name="id"))
    expected = [("column", "c", "categorical(string)", ["b", None, "a"]), ("index", "id", "int64", [5, 6, 7])]
    assert of_frame(frame) == by_the_page(3, expected)


def test_the_digest_of_this_table_never_changes():
    """A constant: whoever breaks this breaks every digest that was ever recorded, and needs version 2."""
    frame = pd.DataFrame({"age": [41, 29], "name": ["Ann", None], "score": [0.5, -0.0]}, index=pd.Index(["a", "b"]))
    assert of_frame(frame) == "3eb223f67c31a85ab5dbbba3561b6278c162acdf9ca5a00939dbd59d4f6b1714"


# --- the same table, held differently


@pytest.fixture
def frame():
    frame = pd.DataFrame(
        {
            "i": np.arange(5, dtype="i4"),
            "x": [0.5, np.nan, -1.5, 0.0, np.inf],
            "s": ["a", None, "", "é", "a"],
            "o": pd.Series(["a", None, "", "é", "a"], dtype=object),
            "c": pd.Categorical(["u", "v", None, "u", "v"]),
            "k": pd.Categorical([1, 2, 1, None, 2]),
            "b": [True, False, True, True, False],
            "t": pd.date_range("2024-01-01", periods=5, freq="D"),
            "z": pd.date_range("2024-01-01", periods=5, freq="h", tz="Europe/Berlin"),
            "e": pd.to_timedelta([1, 2, None, 4, 5], unit="s"),
            "n": pd.array([1, None, 3, 4, 5], dtype="Int64"),
            "y": [dt.date(2024, 1, day) for day in range(1, 6)],
            "m": [decimal.Decimal("1.50")] * 5,
        }
    )
    return frame.set_index(pd.Index(list("vwxyz"), name="key"))


def test_frame_arrow_and_parquet_agree(frame):
    table = pa.Table.from_pandas(frame)
    assert content_digest(table) == content_digest(through_parquet(table))
    assert content_digest(table.combine_chunks().slice(0)) == content_digest(table)


def test_a_frame_read_back_from_parquet_agrees(frame, tmp_path):
    frame = frame.drop(columns="k")  # pandas reads categories of numbers back as numbers
    frame.to_parquet(tmp_path / "t.parquet")
    assert of_frame(pd.read_parquet(tmp_path / "t.parquet")) == of_frame(frame)


def test_chunks_slices_and_offsets_do_not_count(frame):
    table = pa.Table.from_pandas(frame)
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1, 3), table.slice(4)])
    assert content_digest(pieces) == content_digest(table)
    wide = pa.concat_tables([table, table]).combine_chunks()
    assert content_digest(wide.slice(5, 5)) == content_digest(table)


@pytest.mark.parametrize(
    "kinds",
    [
        [pa.string(), pa.large_string(), pa.string_view()],
        [pa.binary(), pa.large_binary(), pa.binary_view()],
        [pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("ns")],
        [pa.duration("s"), pa.duration("ns")],
        [pa.time32("s"), pa.time64("ns")],
        [pa.date32(), pa.date64()],
        [pa.decimal128(9, 2), pa.decimal256(9, 2), pa.decimal64(9, 2)],
        [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string_view())],
    ],
    ids=lambda kinds: str(kinds[0]),
)
def test_one_type_held_in_several_ways_is_one_type(kinds):
    sample = {
        "string": ["a", None, ""], "binary": [b"a", None, b""],
        "timestamp[s]": [0, None, -7], "duration[s]": [1, None, -7],
        "time32[s]": [1, None, 86399], "date32[day]": [dt.date(1969, 1, 1), None, dt.date(2024, 2, 29)],
        "decimal128(9, 2)": [decimal.Decimal("1.50"), None, decimal.Decimal("-9.99")],
        "list<item: string>": [["a", None], None, []],
    }[str(kinds[0])]  # fmt: skip
    first = pa.array(sample, kinds[0])
    assert len({content_digest(pa.table({"a": first.cast(kind)})) for kind in kinds}) == 1


def test_what_lies_behind_a_null_does_not_count():
    offsets = pa.py_buffer(np.array([0, 1, 3, 4], "i4"))
    dirty = pa.Array.from_buffers(pa.string(), 3, [pa.py_buffer(b"\x05"), offsets, pa.py_buffer(b"aXXb")])
    assert dirty.to_pylist() == ["a", None, "b"]
    assert content_digest(pa.table({"a": dirty})) == content_digest(pa.table({"a": ["a", None, "b"]}))
    numbers = pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(np.array([1, 99]))])
    assert content_digest(pa.table({"a": numbers})) == content_digest(pa.table({"a": [1, None]}))


def test_missing_is_one_thing_and_so_is_zero():
    other_nan = np.array([0x7FF8000000000001, 0xFFF0000000000002], "u8").view("f8")
    null = content_digest(pa.table({"a": pa.array([None, None], pa.float64())}))
    assert content_digest(pa.table({"a": other_nan})) == null
    assert content_digest(pa.table({"a": [-0.0]})) == content_digest(pa.table({"a": [0.0]}))
    assert content_digest(pa.table({"a": [5e-324]})) != content_digest(pa.table({"a": [0.0]}))


def test_a_default_index_does_not_count_and_any_other_does():
    plain = pd.DataFrame({"a": [1, 2, 3]})
    assert of_frame(plain) == content_digest(pa.table({"a": [1, 2, 3]}))
    assert of_frame(plain) == of_frame(plain.set_index(pd.Index([0, 1, 2])))
    others = [
        plain.set_axis(range(1, 4)),
        plain.set_axis(range(0, 6, 2)),
        plain.rename_axis("id"),
        plain.set_axis([2, 1, 0]),
        plain.set_axis(list("abc")),
        plain.set_axis(pd.MultiIndex.from_arrays([[0, 1, 2], [0, 1, 2]])),
        plain.set_axis(pd.MultiIndex.from_arrays([[0, 1, 2], [0, 1, 2]], names=["x", "y"])),
        plain.set_axis(pd.date_range("2024", periods=3)),
        plain.assign(id=[1, 2, 3]),
        plain.set_index(pd.Index([1, 2, 3], name="id")),
    ]
    digests = [of_frame(other) for other in others]
    assert len({of_frame(plain), *digests}) == len(others) + 1
    assert [content_digest(through_parquet(pa.Table.from_pandas(other))) for other in others] == digests


def test_a_sliced_table_does_not_keep_the_range_of_the_whole():
    whole = pa.Table.from_pandas(pd.DataFrame({"a": range(10)}))
    assert content_digest(whole.slice(3, 2)) == content_digest(pa.table({"a": [3, 4]}))


def test_foreign_metadata_under_pandas_key_does_no_harm():
    for raw in (
        b"no json",
        b"[]",
        b'{"index_columns": [7]}',
        b'{"columns": [1]}',
        json.dumps({"columns": None}).encode(),
    ):
        table = pa.table({"a": [1]}).replace_schema_metadata({b"pandas": raw})
        assert content_digest(table) == content_digest(pa.table({"a": [1]}))


def test_extension_types_count_with_their_parameters(tmp_path):
    months = pd.DataFrame({"p": pd.period_range("2024-01", periods=2, freq="M")})
    days = pd.DataFrame({"p": pd.PeriodIndex.from_ordinals(months["p"].array.asi8, freq="D")})
    assert of_frame(months) != of_frame(days)
    table = pa.Table.from_pandas(months)
    with pa.ipc.new_file(tmp_path / "p.arrow", table.schema) as file:
        file.write_table(table)
    code = (
        "import sys, pyarrow; from seclea.client.snapshot.digest import content_digest;"
        "table = pyarrow.ipc.open_file(sys.argv[1]).read_all();"
        "assert str(table.schema.field(0).type) == 'int64'; print(content_digest(table))"
    )
    # A process without pandas does not know the type.
    run = [sys.executable, "-c", code, str(tmp_path / "p.arrow")]
    assert subprocess.check_output(run, text=True).strip() == of_frame(months)


@pytest.mark.parametrize("kind", [pa.month_day_nano_interval(), pa.sparse_union([pa.field("a", pa.int64())])], ids=str)
def test_a_type_without_canonical_form_is_refused_by_name(kind):
    with pytest.raises(DatasetError, match="Column 'odd' has the type"):
        content_digest(pa.table({"odd": pa.nulls(1, kind)}))


# --- properties, in both directions

NUMBERS = {
    "int8": st.integers(-128, 127),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "float": st.floats(width=32, allow_nan=False),
    "double": st.floats(allow_nan=False),
}
OTHERS = {
    "bool": st.booleans(),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    "binary": st.binary(max_size=5),
    "date32": st.dates(),
    "timestamp[us]": st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)),
}
KINDS = {
    **{name: getattr(pa, {"float": "float32", "double": "float64"}.get(name, name))() for name in NUMBERS},
    "bool": pa.bool_(), "string": pa.string(), "binary": pa.binary(), "date32": pa.date32(),
    "timestamp[us]": pa.timestamp("us"),
}  # fmt: skip


@st.composite
def tables(draw, max_columns=4, max_rows=6, min_rows=0):
    rows = draw(st.integers(min_rows, max_rows))
    columns = {}
    for number in range(draw(st.integers(1, max_columns))):
        kind = draw(st.sampled_from(list(KINDS)))
        values = st.none() | (NUMBERS | OTHERS)[kind]
        columns[f"c{number}"] = pa.array(draw(st.lists(values, min_size=rows, max_size=rows)), KINDS[kind])
    return pa.table(columns)


@given(tables(), st.data())
@settings(deadline=None, max_examples=60)
def test_any_table_keeps_its_digest_through_parquet_chunks_and_wider_types(table, data):
    digest = content_digest(table)
    assert content_digest(through_parquet(table)) == digest
    cut = data.draw(st.integers(0, table.num_rows))
    assert content_digest(pa.concat_tables([table.slice(0, cut), table.slice(cut)])) == digest
    wide = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary(), pa.timestamp("us"): pa.timestamp("ns")}
    schema = pa.schema([field.with_type(wide.get(field.type, field.type)) for field in table.schema])
    assert content_digest(table.cast(schema)) == digest


@given(tables(min_rows=1), st.data())
@settings(deadline=None, max_examples=100)
def test_any_changed_cell_changes_the_digest_and_that_of_its_column_only(table, data):
    column = data.draw(st.integers(0, table.num_columns - 1))
    row = data.draw(st.integers(0, table.num_rows - 1))
    field = table.schema.field(column)
    values = table.column(column).to_pylist()
    kind = next(name for name, arrow in KINDS.items() if arrow == field.type)
    new = data.draw((st.none() | (NUMBERS | OTHERS)[kind]).filter(lambda value: value != values[row]))
    values[row] = new
    changed = table.set_column(column, field.name, pa.array(values, field.type))
    assert content_digest(changed) != content_digest(table)
    differs = [a != b for a, b in zip(column_digests(table), column_digests(changed), strict=True)]
    assert differs == [number == column for number in range(table.num_columns)]


@given(tables(), st.data())
@settings(deadline=None, max_examples=60)
def test_another_name_order_type_or_row_order_changes_the_digest(table, data):
    digest = content_digest(table)
    names = list(table.column_names)
    column = data.draw(st.integers(0, len(names) - 1))
    assert content_digest(table.rename_columns([*names[:column], "new", *names[column + 1 :]])) != digest
    if len(names) > 1:
        assert content_digest(table.select(names[::-1])) != digest
        assert content_digest(table.drop_columns(names[column])) != digest
        swapped = [names[1], names[0], *names[2:]]
        if not table.column(0).equals(table.column(1)):
            assert content_digest(table.rename_columns(swapped)) != digest
    if table.column(column).type == pa.int8():
        other = table.set_column(column, names[column], table.column(column).cast(pa.int16()))
        assert content_digest(other) != digest
    backwards = table.take(pa.array(range(table.num_rows)[::-1], pa.int64()))
    assert (content_digest(backwards) == digest) == backwards.equals(table) or _equal_up_to_zero(backwards, table)
    assert content_digest(pa.concat_tables([table, table.slice(0, 1)])) != digest or table.num_rows == 0


def _equal_up_to_zero(one: pa.Table, other: pa.Table) -> bool:
    return one.to_pylist() == other.to_pylist()


def test_texts_cannot_run_into_each_other():
    seen = {content_digest(pa.table({"a": pair})) for pair in (["ab", "c"], ["a", "bc"], ["abc", ""], ["", "abc"])}
    assert len(seen) == 4
    assert content_digest(pa.table({"a": ["b"], "c": ["d"]})) != content_digest(pa.table({"ac": ["bd"]}))
