"""The digest in both directions: what says the same has one digest however it is held, what says something else has another.

seclea's digest is compared throughout with the one that was written from docs/digest.md alone (`evidence_digest`).
"""

from __future__ import annotations

import datetime as dt
import decimal
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from seclea.cli import evidence_digest
from seclea.client.snapshot.content import to_arrow
from seclea.client.snapshot.digest import column_digests, content_digest, identity_digest
from seclea.client.snapshot.tables import snapshot_table
from seclea.errors import DatasetError
from tests.property import digest_vectors
from tests.property.digest_tables import KINDS, cells, is_missing, meaning, samples

ROOT = Path(__file__).parents[2]

properties = settings(
    derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def digest(data) -> str:
    """By both implementations, which must agree about the table and each of its columns."""
    table = data if isinstance(data, pa.Table) else to_arrow(data)[0]
    found = content_digest(table)
    assert found == evidence_digest.table_digest(table)
    columns = {one.name: one.digest for one in column_digests(table) if one.role == "column"}
    assert columns == evidence_digest.column_digests(table)
    return found


def stored(data, directory: Path) -> str:
    """Of the file that seclea keeps, by whoever has nothing but the page."""
    snapshot = snapshot_table(data, directory)
    try:
        assert evidence_digest.digest_of_file(snapshot.path, snapshot.format) == snapshot.digest
    finally:
        snapshot.path.unlink()
    return snapshot.digest


# ------------------------------------------------------------------------------------------------------------------
# The same


@given(sample=samples())
@properties
def test_pandas_and_polars_have_the_digest_of_the_arrow_table(sample):
    expected = digest(sample.arrow())
    for frame in sample.pandas():
        assert digest(frame) == expected, frame.dtypes
    frame = sample.polars()
    assert frame is None or digest(frame) == expected


@given(sample=samples())
@properties
def test_the_stored_file_has_the_digest_of_what_was_uploaded(sample, tmp_path):
    expected = digest(sample.arrow())
    assert stored(sample.arrow(), tmp_path) == expected
    for frame in sample.pandas():
        assert stored(frame, tmp_path) == expected, frame.dtypes
    frame = sample.polars()
    assert frame is None or stored(frame, tmp_path) == expected


NAMES_OF_LEVELS = {"0", "n", "a", "when"}  # a column of the same name would be refused
INDEXES = {
    "default": lambda rows: pd.RangeIndex(rows),
    "the default one, written out": lambda rows: pd.Index(list(range(rows)), dtype="int64"),
    "range": lambda rows: pd.RangeIndex(3, 3 + 2 * rows, 2),
    "named range": lambda rows: pd.RangeIndex(rows, name="n"),
    "named by a number": lambda rows: pd.RangeIndex(rows, name=0),
    "text": lambda rows: pd.Index([f"r{row}" for row in range(rows)]),
    "text, named by a number": lambda rows: pd.Index([f"r{row}" for row in range(rows)], name=0),
    "floats": lambda rows: pd.Index([row / 2 for row in range(rows)]),
    "times": lambda rows: pd.date_range("2024-01-01", periods=rows, tz="Europe/Berlin", name="when"),
    "periods": lambda rows: pd.period_range("2024-01", periods=rows, freq="M"),
    "intervals": lambda rows: pd.interval_range(0, rows),
    "categories": lambda rows: pd.CategoricalIndex([f"c{row % 2}" for row in range(rows)]),
    "two levels": lambda rows: pd.MultiIndex.from_arrays(
        [range(rows), [f"r{row}" for row in range(rows)]], names=["a", None]
    ),
    "two levels of numbers": lambda rows: pd.MultiIndex.from_arrays([range(rows), range(rows)]),
}


@given(sample=samples(max_columns=2), name=st.sampled_from(sorted(INDEXES)))
@properties
def test_a_frame_with_an_index_keeps_its_digest_in_a_file(sample, name, tmp_path):
    assume(not NAMES_OF_LEVELS & {name for name, _, _ in sample.columns})
    for frame in sample.pandas():
        frame.index = INDEXES[name](len(frame))
        assert stored(frame, tmp_path) == digest(frame)


@given(sample=samples(kinds=[kind for kind in KINDS if "categor" not in kind or kind == "categorical"]))
@properties
def test_a_parquet_file_that_others_wrote_has_the_digest_of_its_table(sample):
    table = sample.arrow()
    for options in ({}, {"use_dictionary": True, "row_group_size": 2}, {"version": "2.4"}):
        assume("float16" not in str(table.schema) or "version" not in options)
        sink = io.BytesIO()
        pq.write_table(table, sink, **options)
        assert evidence_digest.digest_of_file(sink.getvalue(), "parquet") == digest(table)
    frame = sample.polars()
    if frame is not None and not any(kind in ("null",) for _, kind, _ in sample.columns):
        sink = io.BytesIO()
        frame.write_parquet(sink)
        assert evidence_digest.digest_of_file(sink.getvalue(), "parquet") == digest(table)


@given(sample=samples(), data=st.data())
@properties
def test_chunks_and_offsets_do_not_count(sample, data):
    table = sample.arrow()
    cut = data.draw(st.integers(0, table.num_rows))
    expected = digest(table)
    assert digest(pa.concat_tables([table.slice(0, cut), table.slice(cut, 0), table.slice(cut)])) == expected
    assert digest(pa.concat_tables([table, table, table]).slice(table.num_rows, table.num_rows)) == expected
    assert digest(pa.concat_tables([table, table]).combine_chunks().slice(table.num_rows)) == expected


CSV_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
CSV_CELLS = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": st.none() | st.floats(),
    "bool": st.none() | st.booleans(),
    "string": st.none() | CSV_TEXT,
}
CSV_FIRST = {"int64": 7, "float64": 0.5, "bool": True, "string": "text\n\",\r\n'"}  # so that the type can be seen


def csv_cell(value) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    return repr(value)


@given(data=st.data())
@properties
def test_a_csv_has_the_digest_of_the_table_that_it_says(data, tmp_path):
    kinds = data.draw(st.lists(st.sampled_from(sorted(CSV_CELLS)), min_size=1, max_size=4))
    names = data.draw(st.lists(CSV_TEXT.filter(bool), min_size=len(kinds), max_size=len(kinds), unique=True))
    assume(len(names) > 1 or not set(names[0]) & set(";\t|"))  # seclea takes them for separators
    rows = data.draw(st.integers(0, 4))
    columns = [[CSV_FIRST[kind], *(data.draw(CSV_CELLS[kind]) for _ in range(rows))] for kind in kinds]
    assume(len(kinds) > 1 or None not in columns[0])  # a blank line
    types = {"float64": pa.float64(), "int64": pa.int64(), "bool": pa.bool_(), "string": pa.string()}
    table = pa.Table.from_arrays(
        [pa.array(c, types[kind]) for c, kind in zip(columns, kinds, strict=True)], names=names
    )
    lines = [names, *zip(*columns, strict=True)]
    path = tmp_path / "t.csv"
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    path.write_bytes("".join(",".join(map(csv_cell, line)) + end for line in lines).encode())
    assert stored(path, tmp_path) == digest(table)
    # And in two files.
    cut = data.draw(st.integers(1, len(lines)))
    for number, part in enumerate([lines[1:cut], lines[cut:]]):
        (tmp_path / f"{number}.csv").write_bytes(
            "".join(",".join(map(csv_cell, line)) + "\n" for line in [names, *part]).encode()
        )
    snapshot = snapshot_table([tmp_path / "0.csv", tmp_path / "1.csv"], tmp_path)
    snapshot.path.unlink()
    parts = [tmp_path / "0.csv", tmp_path / "1.csv"]
    assert snapshot.digest == evidence_digest.digest_of_file(parts, "csv") == digest(table)


NUMBERS = [
    *(
        "1",
        "+5",
        "-5",
        "-0",
        "00012",
        "1_000",
        "9223372036854775807",
        "9223372036854775808",
        "1e5",
        "1E+5",
        ".5",
        "5.",
        ".",
        ".e5",
    ),
    *(
        "+.5",
        "inf",
        "-inf",
        "Infinity",
        "INF",
        "infinit",
        "nan",
        "NAN",
        "+nan",
        "-NaN",
        "nan(7)",
        "1e400",
        "-1e400",
        "1e-400",
    ),
    *("0x1F", "0X1f", "-0x1F", "0xFFFFFFFFFFFFFFFF", "0x1p3", "true", "TRUE", "True", "tRue", "2020-01-01", "12:30"),
    *("2020-01-01T00:00:00", "NA", "n/a", "NULL", "-", "--", "1.0f", "٣", "1.0.0", "1e"),
]


@given(
    words=st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=3),
    space=st.sampled_from(["", " ", "\t"]),
    quoted=st.booleans(),
)
@settings(properties, max_examples=200)
def test_both_read_any_spelling_of_a_number_alike(words, space, quoted, tmp_path):
    words = [f'"{space}{word}{space}"' if quoted else f"{word}{space}" for word in words]
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f"{word},1\n" for word in words), "utf-8")
    stored(path, tmp_path)


@pytest.mark.parametrize("number", ["0x1F", "0Xff", "0xFFFFFFFFFFFFFFFF"])
def test_hexadecimal_in_a_csv_stays_text_as_in_pandas(number, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"a\n{number}\n", "utf-8")
    assert stored(path, tmp_path) == digest(pd.read_csv(path)) == digest(pa.table({"a": [number]}))


# ------------------------------------------------------------------------------------------------------------------
# Not the same


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "null"])
def test_one_changed_cell_of_any_type_changes_the_digest_and_that_of_its_column_only(kind):
    @given(samples(kinds=[kind]), st.data())
    @settings(properties, max_examples=25)
    def check(sample, data):
        column = data.draw(st.integers(0, len(sample.columns) - 1))
        name, _, values = sample.columns[column]
        row = data.draw(st.integers(0, len(values) - 1))
        new = data.draw(cells(kind).filter(lambda value: meaning(value) != meaning(values[row])))
        other = sample.change(column, [*values[:row], new, *values[row + 1 :]])
        assert digest(other.arrow()) != digest(sample.arrow())
        one, two = evidence_digest.column_digests(sample.arrow()), evidence_digest.column_digests(other.arrow())
        assert [key for key in one if one[key] != two[key]] == [name]

    check()


@given(sample=samples(kinds=["float16", "float32", "float64", "list of floats", "int8", "string"]), data=st.data())
@properties
def test_missing_is_neither_zero_nor_empty(sample, data):
    column = data.draw(st.integers(0, len(sample.columns) - 1))
    _, kind, values = sample.columns[column]
    row = data.draw(st.integers(0, len(values) - 1))
    nothing = [] if kind.startswith("list") else "" if kind == "string" else 0
    gone, zero = ([*values[:row], new, *values[row + 1 :]] for new in (None, nothing))
    assert digest(sample.change(column, gone).arrow()) != digest(sample.change(column, zero).arrow())


def test_nan_is_missing_and_minus_zero_is_zero_at_any_depth():
    def both(*values):
        return [pa.table({"a": pa.array([value], kind)}) for value, kind in values]

    numbers, rows = pa.float64(), pa.list_(pa.struct([("x", pa.float32())]))
    for one, other in (
        both((math.nan, numbers), (None, numbers)),
        both((-0.0, numbers), (0.0, numbers)),
        both(([{"x": math.nan}], rows), ([{"x": None}], rows)),
        both(([{"x": -0.0}], rows), ([{"x": 0.0}], rows)),
    ):
        assert digest(one) == digest(other)
    for one, other in (
        both((math.nan, numbers), (0.0, numbers)),
        both((math.nan, numbers), (math.inf, numbers)),
        both((math.inf, numbers), (-math.inf, numbers)),
        both((5e-324, numbers), (0.0, numbers)),
        both(([{"x": None}], rows), ([None], rows)),
        both(([None], rows), ([], rows)),
        both(([], rows), (None, rows)),
    ):
        assert digest(one) != digest(other)


OTHER_TYPES = {
    "int8": ["int16", "uint8", "float32", "float64", "string"],
    "int32": ["int64", "float64", "string"],
    "int64": ["categorical of numbers", "float64", "string"],
    "float32": ["float64", "float16"],
    "bool": ["int8", "uint8"],
    "string": ["categorical", "binary"],
    "binary(3)": ["binary"],
    "date": ["timestamp", "string"],
    "timestamp": ["timestamp, UTC", "timestamp, Berlin", "int64"],
    "timestamp, UTC": ["timestamp, Berlin"],
    "duration": ["int64"],
    "time": ["int64"],
    "decimal": ["wide decimal", "string"],
    "array": ["list"],
}
SMALL = {"bool": st.booleans(), "binary(3)": st.binary(min_size=3, max_size=3), "string": st.text("abc", max_size=3)}


@pytest.mark.parametrize(("kind", "other"), [(kind, other) for kind, others in OTHER_TYPES.items() for other in others])
def test_the_same_values_under_another_type_are_another_table(kind, other):
    @given(st.lists(st.none() | SMALL.get(kind, KINDS[kind].values), min_size=1, max_size=4))
    @settings(properties, max_examples=25)
    def check(values):
        if kind.startswith(("int", "float")):  # small ones, which any of these types can hold
            values = [
                value if is_missing(value) else max(0, min(9, int(value) if math.isfinite(value) else 0))
                for value in values
            ]
        array = pa.array(values, KINDS[kind].arrow)
        cast = array.cast(KINDS[other].arrow) if "categorical" not in other else array.dictionary_encode()
        assert digest(pa.table({"a": array})) != digest(pa.table({"a": cast}))

    check()


@given(sample=samples(), data=st.data())
@properties
def test_another_name_order_or_number_of_columns_is_another_table(sample, data):
    table, seen = sample.arrow(), [digest(sample.arrow())]
    names = table.column_names
    at = data.draw(st.integers(0, len(names) - 1))
    new = data.draw(st.text("abc", max_size=3).filter(lambda name: name not in names))
    seen.append(digest(table.rename_columns([*names[:at], new, *names[at + 1 :]])))
    seen.append(digest(table.append_column(new, table.column(at))))
    if len(names) > 1:
        seen.append(digest(table.remove_column(at)))
        other = (at + 1) % len(names)
        swapped = list(range(len(names)))
        swapped[at], swapped[other] = other, at
        seen.append(digest(table.select(swapped)))  # two columns have changed places
        moved = table.select(swapped).rename_columns(names)  # two columns have changed contents
        same = table.column(at).type == table.column(other).type
        same = same and meaning(sample.columns[at][2]) == meaning(sample.columns[other][2])
        assert (digest(moved) == seen[0]) == same
    assert len(set(seen)) == len(seen)


@given(sample=samples(), data=st.data())
@properties
def test_other_rows_or_another_order_of_rows_is_another_table(sample, data):
    expected, count = digest(sample.arrow()), len(sample.rows())
    row = data.draw(st.integers(0, count - 1))
    seen = {
        expected,
        digest(sample.pick([*range(count), row]).arrow()),
        digest(sample.pick([*range(row), *range(row + 1, count)]).arrow()),
    }
    assert len(seen) == 3  # a row twice, a row less
    order = data.draw(st.permutations(range(count)))
    other = sample.pick(order)
    assert (digest(other.arrow()) == expected) == (other.rows() == sample.rows())


@given(sample=samples(max_columns=1))
@properties
def test_another_index_is_another_table(sample):
    assume(len(sample.rows()) > 1 and sample.columns[0][0] not in NAMES_OF_LEVELS)
    frame = sample.pandas()[0]
    seen = {}
    for name, index in INDEXES.items():
        seen[name] = digest(frame.set_axis(index(len(frame))))
    assert seen.pop("the default one, written out") == seen["default"] == digest(sample.arrow())
    assert len(set(seen.values())) == len(seen)
    texts = frame.set_axis(INDEXES["text"](len(frame)))
    assert digest(texts) != digest(texts.set_axis(texts.index[::-1]))
    assert digest(texts) != digest(texts.reset_index())


@given(
    features=st.lists(st.text(max_size=3), max_size=3),
    outputs=st.lists(st.text(max_size=3), max_size=3),
    split=st.text(max_size=5),
)
@properties
def test_the_identity_is_the_page_s_and_tells_roles_and_labels_apart(features, outputs, split):
    assume("".join([*features, *outputs, split]).isprintable())
    content = content_digest(pa.table({"a": [1]}))
    found = identity_digest(content, split, features, outputs)
    assert found == evidence_digest.identity(content, split, features, outputs)
    assert (found == content) == (not split and not features and not outputs)
    others = {
        identity_digest(content, split + "x", features, outputs),
        identity_digest(content, split, [*features, ""], outputs),
    }
    others |= {identity_digest(content, split, features, [*outputs, "x"])}
    assert len(others | {found}) == 4
    if features != outputs:
        assert identity_digest(content, split, outputs, features) != found


# ------------------------------------------------------------------------------------------------------------------
# One by one


def test_units_of_time_do_not_count():
    moments = [dt.datetime(2024, 1, 2, 3, 4, 5), None, dt.datetime(1960, 5, 6)]
    seen = {
        digest(pd.DataFrame({"t": pd.Series(moments, dtype=f"datetime64[{unit}]")})) for unit in ("s", "ms", "us", "ns")
    }
    seen |= {digest(pa.table({"t": pa.array(moments, pa.timestamp(unit))})) for unit in ("s", "ms", "us", "ns")}
    seen |= {digest(pl.DataFrame({"t": pl.Series(moments, dtype=pl.Datetime(unit))})) for unit in ("ms", "us", "ns")}
    assert len(seen) == 1
    spans = [dt.timedelta(days=1, seconds=2), None, dt.timedelta(days=-3)]
    seen = {
        digest(pd.DataFrame({"t": pd.Series(spans, dtype=f"timedelta64[{unit}]")})) for unit in ("s", "ms", "us", "ns")
    }
    assert len(seen) == 1
    assert len({digest(pa.table({"t": pa.array([1], pa.timestamp(unit))})) for unit in ("s", "ms", "us", "ns")}) == 4


def test_texts_are_texts_whatever_pandas_calls_them():
    values = ["a", None, "", "é"]
    kinds = [
        object,
        "str",
        "string",
        "string[python]",
        "string[pyarrow]",
        pd.ArrowDtype(pa.string()),
        pd.ArrowDtype(pa.large_string()),
    ]
    assert len({digest(pd.DataFrame({"a": pd.Series(values, dtype=kind)})) for kind in kinds}) == 1


def test_names_that_are_no_text_count_as_their_text():
    frame = pd.DataFrame([[1, 2, 3]], columns=[0, ("x", 1), dt.date(2024, 1, 2)])
    assert digest(frame) == digest(frame.set_axis(["0", "('x', '1')", "2024-01-02"], axis=1))
    levels = pd.MultiIndex.from_tuples([("a", "x"), ("a", "y")])
    assert digest(pd.DataFrame([[1, 2]], columns=levels)) == digest(
        pd.DataFrame([[1, 2]], columns=["('a', 'x')", "('a', 'y')"])
    )


ODD = [
    ([1, "a"], "mixes numbers and text"),
    (["a", 1.5], "mixes numbers and text"),
    ([b"a", "a"], "mixes bytes and text"),  # pyarrow: b"a"
    ([1, True], "mixes booleans and numbers"),
    ([1.5, True], "mixes booleans and numbers"),  # pyarrow: 1.0
    ([np.bool_(True), np.int8(1)], "mixes booleans and numbers"),
    ([dt.date(2024, 1, 1), "a"], "mixes dates and text"),
    ([dt.date(2024, 1, 1), dt.datetime(2024, 1, 2, 3)], "mixes dates and times"),  # pyarrow: without the time of day
    ([dt.date(2024, 1, 1), 1.5], "mixes dates and numbers"),  # pyarrow: 1970-01-02
    ([dt.datetime(2024, 1, 1), 1], "mixes numbers and times"),
    ([dt.time(1), 1], "mixes numbers and times of day"),
    ([dt.timedelta(1), 1], "mixes durations and numbers"),
    ([pd.Timestamp("2024", tz="UTC"), pd.Timestamp("2024")], "with and without zone"),
    ([pd.Timestamp(1), dt.datetime(2024, 1, 1)], "nanoseconds"),  # pyarrow: without them
    ([pd.Timedelta(1), dt.timedelta(1)], "nanoseconds"),
    ([decimal.Decimal(1), "a"], "mixes numbers and text"),
    ([decimal.Decimal(1), 1.5], "column"),
    ([decimal.Decimal("Infinity"), decimal.Decimal(1)], "column"),
    ([[1], "a"], "mixes lists and text"),
    ([[1], ["a"]], "mixes numbers and text"),
    ([[b"a"], [["a"]]], "mixes bytes and lists"),
    ([{"a": 1}, 5], "mixes dicts and numbers"),
    ([{"a": b"x"}, {"a": "x"}], "mixes bytes and text under 'a'"),
    ([{1, 2}, {3}], "sets"),  # their order is another in each process
    ([[{"a"}], []], "sets"),
    ([object(), object()], "object"),
    ([1j, 2j], "complex"),
    (["\ud800", "a"], "surrogate"),
    ([2**70, 1], "too large"),
    ([float("nan"), object()], "object"),
    ([np.datetime64("2024-01-01"), np.timedelta64(1, "s")], "mixes durations and times"),
]


@pytest.mark.parametrize(("values", "words"), ODD, ids=range(len(ODD)))
def test_a_column_of_mixed_or_strange_values_is_refused_by_name_and_nothing_is_left(values, words, tmp_path):
    frame = pd.DataFrame({"fine": [1, 2], "odd": pd.Series(values, dtype=object)})
    for data in (frame, frame["odd"], frame.set_index("odd")):
        with pytest.raises(DatasetError, match=words) as caught:
            snapshot_table(data, tmp_path)
        assert "odd" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


FINE = [
    ([1, 2.5], pa.array([1.0, 2.5])),
    ([np.int8(1), 2], pa.array([1, 2])),
    ([None, float("nan"), pd.NA, pd.NaT, "a"], pa.array([None, None, None, None, "a"])),
    ([float("nan"), dt.date(2024, 1, 1)], pa.array([None, dt.date(2024, 1, 1)])),
    (
        [None, pd.Timestamp("2024-01-01"), dt.datetime(2024, 1, 2)],
        pa.array([None, dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 2)]),
    ),
    ([b"a", bytearray(b"b"), memoryview(b"c")], pa.array([b"a", b"b", b"c"])),
    ([[1], (2, 3), np.array([4]), None], pa.array([[1], [2, 3], [4], None])),
    ([{"a": 1}, {"b": "x"}, {}], pa.array([{"a": 1, "b": None}, {"a": None, "b": "x"}, {"a": None, "b": None}])),
    ([True, None, np.bool_(False)], pa.array([True, None, False])),
]


@pytest.mark.parametrize(("values", "array"), FINE, ids=range(len(FINE)))
def test_a_column_of_objects_of_one_kind_is_what_it_says(values, array):
    assert digest(pd.DataFrame({"a": pd.Series(values, dtype=object)})) == digest(pa.table({"a": array}))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "several columns named 'a'"),
        (pd.DataFrame([[1, 2]], columns=["1", 1]), "several columns named '1'"),
        (pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), "several columns named 'a'"),
        (pd.DataFrame({"a": []}), "empty: 0 rows, 1 columns"),
        (pd.DataFrame(index=[1, 2]), "empty: 2 rows, 0 columns"),
        (pd.DataFrame(), "empty: 0 rows, 0 columns"),
        (pa.table({}), "empty: 0 rows, 0 columns"),
        (pl.DataFrame(), "empty: 0 rows, 0 columns"),
        (pa.table({"a": pa.RunEndEncodedArray.from_arrays([1], [1])}), "Column 'a' has the type run_end_encoded"),
        (
            pa.table({"a": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}),
            "Column 'a' has the type month_day_nano",
        ),
        (
            pa.table({"a": pa.array([b"1"], pa.opaque(pa.binary(), "t", "v"))}),
            "Column 'a' has the type extension<arrow.opaque",
        ),
        (pl.DataFrame({"a": pl.Series([object()], dtype=pl.Object)}), "Column 'a' has the type Object"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_what_is_no_table_with_a_digest_is_refused(data, words, tmp_path):
    with pytest.raises(DatasetError, match=words):
        snapshot_table(data, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("  \na,b\n1,2\n", "header"),
        ('a"b,c\n1,2\n', "header"),
        ("a,b\n1\n", "no well-formed CSV"),
        ("a,b\n1,2,3\n", "no well-formed CSV"),
        ("a,a\n1,2\n", "several columns"),
        ("a,b\n", "empty"),
        ("", "empty"),
        (f"{'a' * 200_000},b\n1,2\n", "header"),
    ],
)
def test_a_csv_that_is_none_is_refused(content, words, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(content, "utf-8")
    with pytest.raises(DatasetError, match=words):
        snapshot_table(path, tmp_path / "incoming")
    assert list((tmp_path / "incoming").iterdir()) == []


def test_an_extension_type_counts_at_any_depth_and_with_or_without_its_class(tmp_path):
    months = pa.array(pd.Series(pd.period_range("2024-01", periods=2, freq="M")))
    days = pa.array(pd.Series(pd.period_range("2024-01-01", periods=2, freq="D")))
    seen = set()
    for items in (months, days, months.storage):
        for array in (items, pa.ListArray.from_arrays([0, 1, 2], items), pa.StructArray.from_arrays([items], ["p"])):
            table = pa.table({"a": array})
            seen.add(digest(table))
            assert stored(table, tmp_path) == digest(table)
    assert len(seen) == 9
    assert digest(pa.table({"a": pa.array([bytes(16)], pa.uuid())})) != digest(
        pa.table({"a": pa.array([bytes(16)], pa.binary(16))})
    )


def test_categories_inside_lists_keep_their_digest_in_a_file_or_are_refused(tmp_path):
    inner = pa.array(["a", "b"]).dictionary_encode()
    for array in (pa.ListArray.from_arrays([0, 2], inner), pa.StructArray.from_arrays([inner], ["x"])):
        assert stored(pa.table({"a": array}), tmp_path) == digest(pa.table({"a": array}))
    numbers = pa.table({"a": pa.ListArray.from_arrays([0, 2], pa.array([1, 2]).dictionary_encode())})
    with pytest.raises(DatasetError, match=r"'a' has the type list<.*which a Parquet file does not keep"):
        snapshot_table(numbers, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_pandas_array_keeps_its_digest_whatever_lies_behind_a_missing_value():
    one = pd.arrays.IntegerArray(np.array([1, 99]), np.array([False, True]))
    other = pd.arrays.IntegerArray(np.array([1, -5]), np.array([False, True]))
    assert digest(pd.DataFrame({"a": one})) == digest(pd.DataFrame({"a": other}))


# ------------------------------------------------------------------------------------------------------------------
# The same in other processes, and for ever


def test_the_digests_are_those_that_pandas_2_and_pandas_3_computed():
    """Whoever breaks this breaks digests that were recorded, and needs version 2 of the page."""
    known = json.loads(digest_vectors.FILE.read_text("utf-8"))
    assert {one["pandas"].split(".")[0] for one in known["computed with"]} == {"2", "3"}
    assert digest_vectors.digests() == known["digests"]


def test_the_digests_are_the_same_in_another_process_with_other_hashes():
    known = json.loads(digest_vectors.FILE.read_text("utf-8"))["digests"]
    for seed in ("1", "77"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        printed = subprocess.check_output(
            [sys.executable, digest_vectors.__file__], env=environment, cwd="/", text=True
        )
        assert json.loads(printed) == known


def test_the_page_s_script_alone_finds_the_digests_of_the_stored_files(tmp_path):
    frames, known = digest_vectors.frames(), {}
    for frame in frames.values():
        snapshot = snapshot_table(frame, tmp_path)
        known[str(snapshot.path)] = snapshot.digest
    path = tmp_path / "t.csv"
    path.write_text('\ufeffa,b,c\n1,x,0.1\n,"",nan\n', "utf-8")
    known[str(path)] = snapshot_table(path, tmp_path / "incoming").digest
    printed = subprocess.check_output([sys.executable, "-I", evidence_digest.__file__, *known], cwd="/", text=True)
    found = dict(reversed(line.split("  ", 1)) for line in printed.splitlines())
    assert found == known
    # It has borrowed nothing of seclea (pandas is loaded by pyarrow itself, where it is installed).
    code = (
        "import runpy, sys; script = sys.argv.pop(1); sys.argv[0] = script\n"
        "try: runpy.run_path(script, run_name='__main__')\n"
        "except SystemExit: print([name for name in sys.modules if name.startswith('seclea')])"
    )
    arguments = [sys.executable, "-I", "-c", code, evidence_digest.__file__, str(path)]
    assert subprocess.check_output(arguments, cwd="/", text=True).splitlines()[-1] == "[]"
