"""Tables of every type that has a digest, for the property tests: values by hypothesis, and the ways to hold them."""

from __future__ import annotations

import datetime as dt
import decimal
import zoneinfo
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from hypothesis import strategies as st

Values = Sequence[Any]
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(["", "e\u0301", "é", "NaN", "0"])
# In this span nanoseconds fit 64 bits, which is what pandas 2 holds times in.
MOMENTS = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1))


def aware(zone: dt.tzinfo) -> st.SearchStrategy[dt.datetime]:
    return MOMENTS.map(lambda moment: moment.replace(tzinfo=dt.UTC).astimezone(zone))


def integers(bits: int, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return st.integers(low, high) | st.sampled_from([low, 0, high])


@dataclass(frozen=True)
class Kind:
    """One type: its values (never null), how pandas holds them natively (if it can), and polars' type (if it has one)."""

    arrow: Any
    values: st.SearchStrategy[Any]
    pandas: Callable[[Values], list[Any]] = lambda values: []
    polars: Any = None


def whole(name: str) -> Callable[[Values], list[Any]]:
    def forms(values: Values) -> list[Any]:
        nullable = pd.array(values, dtype=name.replace("i", "I", 1).replace("u", "U", 1))
        return [nullable] if None in values else [nullable, np.array(values, dtype=name)]

    return forms


def floating(name: str) -> Callable[[Values], list[Any]]:
    return lambda values: [np.array([np.nan if value is None else value for value in values], dtype=name)]


def typed(*names: Any) -> Callable[[Values], list[Any]]:
    return lambda values: [pd.Series(values, dtype=name) for name in names]


def objects(values: Values) -> list[Any]:
    """What a column of objects says of its type, its values must say."""
    return [pd.Series(values, dtype=object)] if any(value is not None for value in values) else []


def texts(values: Values) -> list[Any]:
    return [*typed("string", pd.StringDtype("python", na_value=np.nan))(values), *objects(values)]


def categories(values: Values) -> list[Any]:
    if all(value is None for value in values):
        return []
    known = list(dict.fromkeys(value for value in values if value is not None))
    forms = [pd.Categorical(values, categories=known), pd.Categorical(values, categories=known[::-1], ordered=True)]
    spare = "spare" if isinstance(known[0], str) else 0
    return [*forms, pd.Categorical(values, categories=[*known, spare])] if spare not in known else forms


def booleans(values: Values) -> list[Any]:
    return [*typed("boolean")(values), *([] if None in values else typed("bool")(values))]


PAIR = pa.struct([("a", pa.int64()), ('é\n"', pa.string())])
PAIRS = st.fixed_dictionaries({"a": st.none() | integers(64, True), 'é\n"': st.none() | TEXT})
CENTS = st.integers(-(10**9) + 1, 10**9 - 1).map(lambda cents: decimal.Decimal(cents).scaleb(-2))

KINDS: dict[str, Kind] = {
    f"{'' if signed else 'u'}int{bits}": Kind(
        getattr(pa, f"{'' if signed else 'u'}int{bits}")(),
        integers(bits, signed),
        whole(f"{'' if signed else 'u'}int{bits}"),
        getattr(pl, f"{'' if signed else 'U'}Int{bits}"),
    )
    for bits in (8, 16, 32, 64)
    for signed in (True, False)
}
KINDS |= {
    "float16": Kind(pa.float16(), st.floats(width=16).map(np.float16), floating("float16")),
    "float32": Kind(pa.float32(), st.floats(width=32), floating("float32"), pl.Float32),
    "float64": Kind(pa.float64(), st.floats(), floating("float64"), pl.Float64),
    "bool": Kind(pa.bool_(), st.booleans(), booleans, pl.Boolean),
    "string": Kind(pa.string(), TEXT, texts, pl.String),
    "categorical": Kind(pa.dictionary(pa.int8(), pa.string()), TEXT, categories, pl.Categorical),
    "categorical of numbers": Kind(pa.dictionary(pa.int8(), pa.int64()), integers(64, True), categories),
    "date": Kind(pa.date32(), st.dates(), objects, pl.Date),
    "time": Kind(pa.time64("us"), st.times(), objects, pl.Time),
    "timestamp": Kind(pa.timestamp("us"), MOMENTS, typed("datetime64[us]", "datetime64[ns]"), pl.Datetime("us")),
    "timestamp, UTC": Kind(
        pa.timestamp("us", "UTC"),
        aware(dt.UTC),
        typed("datetime64[us, UTC]", "datetime64[ns, UTC]"),
        pl.Datetime("us", "UTC"),
    ),
    "timestamp, Berlin": Kind(
        pa.timestamp("us", "Europe/Berlin"),
        aware(BERLIN),
        typed("datetime64[us, Europe/Berlin]", "datetime64[ns, Europe/Berlin]"),
        pl.Datetime("us", "Europe/Berlin"),
    ),
    "duration": Kind(
        pa.duration("us"),
        st.timedeltas(dt.timedelta(days=-90_000), dt.timedelta(days=90_000)),
        typed("timedelta64[us]", "timedelta64[ns]"),
        pl.Duration("us"),
    ),
    "decimal": Kind(pa.decimal128(9, 2), CENTS, polars=pl.Decimal(9, 2)),
    "wide decimal": Kind(pa.decimal256(60, 2), CENTS),
    "binary": Kind(pa.binary(), st.binary(max_size=5), objects, pl.Binary),
    "binary(3)": Kind(pa.binary(3), st.binary(min_size=3, max_size=3)),
    "list": Kind(pa.list_(pa.int64()), st.lists(st.none() | integers(64, True), max_size=3), polars=pl.List(pl.Int64)),
    "list of floats": Kind(
        pa.list_(pa.float64()), st.lists(st.none() | st.floats(), max_size=3), polars=pl.List(pl.Float64)
    ),
    "array": Kind(
        pa.list_(pa.int16(), 2), st.lists(integers(16, True), min_size=2, max_size=2), polars=pl.Array(pl.Int16, 2)
    ),
    "list of lists": Kind(
        pa.list_(pa.list_(pa.string())),
        st.lists(st.none() | st.lists(st.none() | TEXT, max_size=2), max_size=2),
        polars=pl.List(pl.List(pl.String)),
    ),
    "struct": Kind(PAIR, PAIRS, polars=pl.Struct({"a": pl.Int64, 'é\n"': pl.String})),
    "list of structs": Kind(pa.list_(PAIR), st.lists(st.none() | PAIRS, max_size=2)),
    "map": Kind(pa.map_(pa.string(), pa.int8()), st.lists(st.tuples(TEXT, st.none() | integers(8, True)), max_size=2)),
    "list of categories": Kind(
        pa.list_(pa.dictionary(pa.int32(), pa.string())), st.lists(st.none() | TEXT, max_size=2)
    ),
    "null": Kind(pa.null(), st.none(), polars=pl.Null),
}


def is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and bool(value != value))


def meaning(value: Any) -> Any:
    """What the digest sees of a cell."""
    if is_missing(value):
        return None
    if isinstance(value, dict):
        return [meaning(item) for item in value.values()]
    return [meaning(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Sample:
    """A table as lists: (name, kind, values) of each column."""

    columns: tuple[tuple[str, str, list[Any]], ...]

    def arrow(self) -> Any:
        arrays = [pa.array(values, KINDS[kind].arrow) for _, kind, values in self.columns]
        return pa.Table.from_arrays(arrays, names=[name for name, _, _ in self.columns])

    def pandas(self) -> list[pd.DataFrame]:
        """Frames that say the same: of Arrow's own arrays, and natively with one form after the other."""
        forms = []
        for _, kind, values in self.columns:
            array = pd.Series(pd.arrays.ArrowExtensionArray(pa.chunked_array([pa.array(values, KINDS[kind].arrow)])))
            forms.append([array, *KINDS[kind].pandas(values)])
        count = max(len(ways) for ways in forms)
        return [
            pd.DataFrame(
                {column[0]: ways[number % len(ways)] for column, ways in zip(self.columns, forms, strict=True)}
            )
            for number in range(count)
        ]

    def polars(self) -> Any | None:
        if not all(KINDS[kind].polars and "\0" not in name for name, kind, _ in self.columns):
            return None  # polars stops the process where a name with a NUL is handed over
        return pl.DataFrame([pl.Series(name, values, KINDS[kind].polars) for name, kind, values in self.columns])

    def change(self, column: int, values: list[Any]) -> Sample:
        name, kind, _ = self.columns[column]
        return Sample((*self.columns[:column], (name, kind, values), *self.columns[column + 1 :]))

    def pick(self, rows: Sequence[int]) -> Sample:
        return Sample(tuple((name, kind, [values[row] for row in rows]) for name, kind, values in self.columns))

    def rows(self) -> list[list[Any]]:
        """What the digest sees, row by row."""
        return [
            [meaning(value) for value in row] for row in zip(*(values for _, _, values in self.columns), strict=True)
        ]


def cells(kind: str) -> st.SearchStrategy[Any]:
    return st.none() | KINDS[kind].values


@st.composite
def samples(draw: Any, kinds: Sequence[str] = tuple(KINDS), max_columns: int = 4, max_rows: int = 5) -> Sample:
    rows = draw(st.integers(1, max_rows))
    count = draw(st.integers(1, max_columns))
    names = draw(st.lists(TEXT.filter(bool), min_size=count, max_size=count, unique=True))
    columns = []
    for name in names:
        kind = draw(st.sampled_from(kinds))
        of = cells(kind) if draw(st.booleans()) else KINDS[kind].values
        columns.append((name, kind, draw(st.lists(of, min_size=rows, max_size=rows))))
    return Sample(tuple(columns))
