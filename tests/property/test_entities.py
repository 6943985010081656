"""What users put into entities comes back, through JSON text, or becomes something defined."""

import argparse
import array
import collections
import collections.abc
import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import json
import math
import os
import pathlib
import subprocess
import sys
import types
import uuid
import zoneinfo
from unittest import mock

import msgpack
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seclea import entities
from seclea.client.validation import check_metrics, check_params, check_step
from seclea.entities import (
    ENTITY_TYPES,
    Dataset,
    DatasetTransformation,
    ModelState,
    TrainingRun,
    from_json_value,
    new_uuid,
    to_json_value,
)
from seclea.errors import SecleaError, TooLargeError, UsageError
from seclea.records import Lane, Record, RecordKind, Status, canonical_json


def through_json(value):
    return from_json_value(json.loads(canonical_json(to_json_value(value))))


def same(one, other) -> bool:
    """Equal, of the same types, with NaN equal to NaN and tuples come back as lists."""
    if isinstance(one, list | tuple):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and len(one) == len(other)
            and all(same(one[a], other[b]) for a, b in zip(sorted(one, key=repr), sorted(other, key=repr), strict=True))
        )
    if isinstance(one, complex):
        return isinstance(other, complex) and same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, decimal.Decimal):
        return isinstance(other, decimal.Decimal) and str(one) == str(other)
    return type(one) is type(other) and (one == other or one != one)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | TEXT
    | st.builds(range, st.integers(), st.integers(), st.integers().filter(bool))
    | st.binary(max_size=8)
    | st.decimals()
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(dt.UTC) | st.just(dt.timezone(dt.timedelta(hours=5, minutes=30))))
    | st.times()
    | st.timedeltas()
    | st.sampled_from(["NaN", "Infinity", "__float__", "__items__"])
)
HASHABLE = st.recursive(
    st.integers() | TEXT | st.booleans() | st.none() | st.binary(max_size=4) | st.dates(),
    lambda inner: st.frozensets(inner, max_size=3),
    max_leaves=5,
)
TAGS = st.sampled_from(["__float__", "__bytes__", "__items__", "__set__", "__repr__", "__mine__", "____", "__"])
VALUES = st.recursive(
    SCALARS | st.sets(HASHABLE, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(TEXT | TAGS, inner, max_size=4)
        | st.dictionaries(st.integers() | TEXT | st.booleans() | st.none() | st.dates(), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_every_plain_value_comes_back_from_json(value):
    assert same(value, through_json(value))


@given(VALUES)
def test_the_json_form_is_stable(value):
    form = to_json_value(value)
    assert canonical_json(form) == canonical_json(to_json_value(value))
    assert canonical_json(to_json_value(from_json_value(form))) == canonical_json(form)


@given(st.dictionaries(TEXT | TAGS, VALUES, max_size=4), st.lists(TEXT, max_size=3))
@settings(max_examples=40)
def test_every_entity_comes_back_from_json(inner, texts):
    for kind, cls in ENTITY_TYPES.items():
        more = {}
        if "metadata" in cls.__dataclass_fields__:
            more["metadata"] = inner
        if cls is TrainingRun:
            more |= {"params": inner, "datasets": tuple(texts)}
        original = cls(name="".join(texts), remote_id=None, **more)
        text = canonical_json(original.to_json())
        back = cls.from_json(json.loads(text))
        assert back.kind is kind
        assert canonical_json(back.to_json()) == text
        assert (back.uuid, back.name) == (original.uuid, original.name)


def test_an_entity_of_a_later_version_is_read():
    assert Dataset.from_json(Dataset(name="d").to_json() | {"later": {"__new__": 1}}).name == "d"


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Mode(str, enum.Enum):  # noqa: UP042 (its str() is "Mode.FAST", which is not its value)
    FAST = "fast"


class Loud(str):
    def __str__(self):
        raise RuntimeError("do not ask")

    __repr__ = __str__


class Odd(float):
    def __float__(self):
        raise RuntimeError("do not ask")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    name: str = "adam"
    rates: tuple = (0.1, math.inf)


class Hostile:
    """Raises whatever is asked of it (but by pytest)."""

    def __getattribute__(self, name):
        if name == "__class__":
            return Hostile
        raise RuntimeError(name)

    def __repr__(self):
        raise RuntimeError

    __str__ = __iter__ = __len__ = __bool__ = __repr__

    def __hash__(self):
        return 1


class HostileMapping(collections.abc.Mapping):
    def __getitem__(self, key):
        raise OSError

    def __iter__(self):
        raise OSError

    def __len__(self):
        raise OSError


class Unbelievable:
    """Pretends to be a time, a number and an array, as mocks do."""

    def isoformat(self):
        return "soon"

    def tolist(self):
        return Unbelievable()


class Endless:
    def tolist(self):
        return [self]


Point = collections.namedtuple("Point", "x y")
HERE = f"{__name__}."
ONCE = iter([1, 2, 3])


def generator():
    yield 1


VALUES_OF_OTHERS = [
    # numpy scalars: the Python value that they stand for
    (np.float16(0.5), 0.5),
    (np.float32(0.5), 0.5),
    (np.float64("-inf"), -math.inf),
    (np.longdouble(0.5), 0.5),
    *((np.dtype(name).type(3), 3) for name in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "q", "Q")),
    (np.int8(-3), -3),
    (np.uint64(2**64 - 1), 2**64 - 1),
    (np.bool_(False), False),
    (np.complex64(1 + 2j), 1 + 2j),
    (np.complex128(1 - 2j), 1 - 2j),
    (np.clongdouble(1 + 2j), 1 + 2j),
    (np.str_("a"), "a"),
    (np.bytes_(b"a"), b"a"),
    (np.void(b"ab"), b"ab"),
    (np.array((1, "a"), dtype=[("n", "i4"), ("s", "U1")])[()], [1, "a"]),
    (np.ma.masked, None),
    # numpy times: Python's where it can say the same, else numpy's text
    (np.datetime64("2024-01-02T03:04:05"), dt.datetime(2024, 1, 2, 3, 4, 5)),
    (np.datetime64("2024-01-02T03:04:05.123456000"), dt.datetime(2024, 1, 2, 3, 4, 5, 123456)),
    (np.datetime64("2024-01-02T03:04:05.123456789"), "2024-01-02T03:04:05.123456789"),
    (np.datetime64("1970-01-02T03:04:05.123456789012"), "1970-01-02T03:04:05.123456789012"),
    (np.datetime64("2024-01-02"), dt.date(2024, 1, 2)),
    (np.datetime64("2024-01"), dt.date(2024, 1, 1)),
    (np.datetime64("2024", "W"), dt.date(2023, 12, 28)),
    (np.datetime64(12_000, "Y"), "13970"),
    *(
        (np.datetime64("NaT", unit), None)
        for unit in ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as")
    ),
    (np.datetime64("NaT"), None),
    (np.timedelta64("NaT"), None),
    (np.timedelta64("NaT", "ns"), None),
    (np.timedelta64(1_500_000_000, "ns"), dt.timedelta(seconds=1.5)),
    (np.timedelta64(1, "ns"), "1 nanoseconds"),
    (np.timedelta64(2, "D"), dt.timedelta(days=2)),
    (np.timedelta64(2, "W"), dt.timedelta(days=14)),
    (np.timedelta64(3, "M"), "3 months"),
    (np.timedelta64(3, "Y"), "3 years"),
    # arrays: lists
    (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    (np.array(5), 5),
    (np.array([]), []),
    (np.array([1, "a"], dtype=object), [1, "a"]),
    (np.array(["2024-01-02", "NaT"], "M8[ns]"), [dt.datetime(2024, 1, 2), None]),
    (np.ma.array([1, 2], mask=[False, True]), [1, None]),
    (array.array("d", [0.5]), [0.5]),
    # pandas
    (pd.NaT, None),
    (pd.NA, None),
    (pd.Timestamp("2024-01-02 03:04:05.123456"), dt.datetime(2024, 1, 2, 3, 4, 5, 123456)),
    (pd.Timestamp("2024-01-02 03:04:05.123456789"), "2024-01-02T03:04:05.123456789"),
    (pd.Timestamp("2024-01-02", tz="UTC"), dt.datetime(2024, 1, 2, tzinfo=dt.UTC)),
    (pd.Timestamp(np.datetime64("20000-01-01", "s")), "20000-01-01 00:00:00"),
    (pd.Timedelta(seconds=1.5), dt.timedelta(seconds=1.5)),
    (pd.Timedelta(1), "0 days 00:00:00.000000001"),
    (pd.Period("2024-01"), "2024-01"),
    (pd.Interval(0, 1), "(0, 1]"),
    (pd.offsets.Day(2), "<2 * Days>"),
    (pd.CategoricalDtype(["a"]), "category"),
    (pd.Categorical(["b", None, "a"]), ["b", math.nan, "a"]),
    (pd.Series([1.0, None]), [1.0, math.nan]),
    (pd.Series(pd.to_datetime(["2024-01-02", None])), [dt.datetime(2024, 1, 2), None]),
    (pd.Index(["a", "b"]), ["a", "b"]),
    (pd.DataFrame({"a": [1]}), "pandas.DataFrame"),
    # Python's own
    (np.dtype("int64"), "int64"),
    (1j, 1j),
    (complex(math.nan, -math.inf), None),
    (range(2, 10**12, 3), range(2, 10**12, 3)),
    (decimal.Decimal("NaN"), None),
    (decimal.Decimal("sNaN"), None),
    (decimal.Decimal("-Infinity"), decimal.Decimal("-Infinity")),
    (decimal.Decimal("1.50"), decimal.Decimal("1.50")),
    (fractions.Fraction(1, 3), "1/3"),
    (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    (pathlib.PurePosixPath("/data/é"), "/data/é"),
    (pathlib.PurePosixPath("/data/\udcff"), "/data/\\udcff"),
    (zoneinfo.ZoneInfo("Europe/Berlin"), "Europe/Berlin"),
    (dt.UTC, "UTC"),
    (dt.time(1, 2, 3, 4), dt.time(1, 2, 3, 4)),
    (
        dt.datetime(2024, 1, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        dt.datetime.fromisoformat("2024-01-02T00:00:00+01:00"),
    ),
    (Level.LOW, 1),
    (Mode.FAST, "fast"),
    (Colour.RED, f"{HERE}Colour.RED"),
    (Loud("a"), "a"),
    (Odd(0.5), 0.5),
    (True, True),
    (Point(1, 2), [1, 2]),
    (Optimizer(), {"name": "adam", "rates": [0.1, math.inf]}),
    (types.SimpleNamespace(a=1), {"a": 1}),
    (argparse.Namespace(a=1), {"a": 1}),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.deque([1]), [1]),
    ({"a": 1}.keys(), ["a"]),
    ({"a": 1}.items(), [["a", 1]]),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
    (bytearray(b"x"), b"x"),
    (memoryview(b"xyz")[::2], b"xz"),
    (frozenset([1]), {1}),
    (frozenset([frozenset([1])]), {frozenset([1])}),
    ({Colour.RED, Colour}, {f"{HERE}Colour.RED", f"{HERE}Colour"}),
    # keys
    ({(1, (2, 3)): "x"}, {(1, (2, 3)): "x"}),
    ({frozenset([1]): "x"}, {frozenset([1]): "x"}),
    ({1: {2: {None: True}}}, {1: {2: {None: True}}}),
    ({np.int64(1): 2, np.str_("a"): 3}, {1: 2, "a": 3}),
    ({np.str_("a"): 3, Mode.FAST: 4, Loud("b"): 5}, {"a": 3, "fast": 4, "b": 5}),
    ({Optimizer(): 1}, {(("name", "adam"), ("rates", (0.1, math.inf))): 1}),
    ({"__float__": "NaN"}, {"__float__": "NaN"}),
    # described, not rebuilt and not touched
    (len, "builtins.len"),
    (dict, "builtins.dict"),
    (np.float32, "numpy.float32"),
    (functools.partial(len), "functools.partial"),
    (object(), "builtins.object"),
    (ONCE, "builtins.list_iterator"),
    (generator(), "builtins.generator"),
    (Hostile(), f"{HERE}Hostile"),
    (HostileMapping(), f"{HERE}HostileMapping"),
    (Unbelievable(), f"{HERE}Unbelievable"),
    (mock.MagicMock(), "unittest.mock.MagicMock"),
    # texts and numbers at the edges
    ("\ud800", "\\ud800"),
    ("a\0b", "a\0b"),
    ("x" * 5_000_000, "x" * 5_000_000),
    (10**400, 10**400),
    (-(10**5000), -(10**5000)),
    (-(2**63) - 1, -(2**63) - 1),
    (2**64, 2**64),
]


@pytest.mark.parametrize(("value", "back"), VALUES_OF_OTHERS, ids=range(len(VALUES_OF_OTHERS)))
def test_foreign_values_become_something_defined(value, back):
    found = through_json(value)
    if back is None and type(value) in (complex, decimal.Decimal):
        assert same(value, found)
    else:
        assert same(back, found) or (found == back and type(found) is type(back))
    # As a parameter, as an entity does it, and once more over the ring and the wire.
    if len(json.dumps(to_json_value(value))) < 1000:
        run = TrainingRun(params=check_params({"p": value, "q": [value]}))
        form = run.to_json()
        assert canonical_json(form) == canonical_json(TrainingRun.from_json(json.loads(canonical_json(form))).to_json())
        assert json.loads(json.dumps(form, allow_nan=False)) == form == msgpack.unpackb(msgpack.packb(form))


def test_an_iterator_is_not_advanced():
    assert next(ONCE) == 1


def test_the_json_forms_are_the_same_in_every_process():
    code = (
        "from tests.property import test_entities as t; from seclea.records import canonical_json; import hashlib;"
        "forms = [canonical_json(t.to_json_value(v)) for v, _ in t.VALUES_OF_OTHERS];"
        "forms.append(canonical_json(t.to_json_value({'s': {f'{n}' for n in range(99)}, 'k': {(n, 'x') for n in 'abc'}})));"
        "print([hashlib.sha256(form).hexdigest() for form in forms])"
    )
    root = pathlib.Path(__file__).parents[2]
    outputs = {
        subprocess.check_output(
            [sys.executable, "-W", "ignore", "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            cwd="/",
        )
        for seed in ("0", "1", "2")
    }
    assert len(outputs) == 1


HOSTILE = [
    Hostile(),
    HostileMapping(),
    Endless(),
    {"a": Hostile()},
    {Hostile(): 1},
    [Hostile()],
    Odd(1),
    mock.MagicMock(),
    Unbelievable(),
]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_no_value_makes_a_check_raise_anything_but_our_own_errors(value):
    for attempt in (
        lambda: check_params({"p": value}),
        lambda: check_params(value),
        lambda: check_metrics({"m": value}),
        lambda: check_metrics(value),
        lambda: check_metrics({value: 1.0}) if type(value).__hash__ else None,
        lambda: check_step(value),
    ):
        with contextlib.suppress(SecleaError):
            attempt()


def test_params_that_are_small_here_and_huge_as_json_are_refused_at_once():
    laughs = ["ha"]
    for _ in range(60):
        laughs = [laughs, laughs]
    with pytest.raises(TooLargeError):
        check_params({"p": laughs})
    with pytest.raises(TooLargeError):
        check_params({"p": range(3), "q": list(range(2_000_000))})


def test_keys_that_look_alike_as_text_are_kept_apart():
    assert len(to_json_value({"\ud800": 1, "\\ud800": 2})["__items__"]) == 2


def test_an_enum_is_recorded_by_its_type():
    assert through_json(Colour.RED) == f"{HERE}Colour.RED"


def test_a_cycle_is_refused():
    cycle = []
    cycle.append(cycle)
    with pytest.raises(UsageError, match="nested deeper"):
        to_json_value(cycle)
    twice = []
    twice += [twice, twice]
    with pytest.raises(UsageError, match="nested deeper"):
        to_json_value(twice)


@pytest.mark.parametrize(
    "form",
    [
        {"__float__": "x"},
        {"__bytes__": 5},
        {"__datetime__": "NaT"},
        {"__items__": 7},
        {"__set__": 5},
        {"__items__": [[1]]},
        {"__complex__": [1, 2, 3]},
        {"__range__": [1, 2, 0]},
        {"__bytes__": "a"},
        {"__int__": 5},
        {"__timedelta__": [10**30]},
        {"__decimal__": "x"},
    ],
)
def test_a_malformed_tag_from_elsewhere_is_a_value_error(form):
    with pytest.raises(ValueError):
        from_json_value(form)


FIELDS = [
    (Dataset, "name", 5),
    (Dataset, "uuid", None),
    (Dataset, "remote_id", 5),
    (Dataset, "metadata", []),
    (Dataset, "metadata", {"a": {"__float__": "x"}}),
    (Dataset, "at_portal", "abc"),
    (Dataset, "at_portal", [1]),
    (Dataset, "intermediate", 1),
    (Dataset, "size", True),
    (Dataset, "size", 1.5),
    (TrainingRun, "datasets", {"a": 1}),
    (TrainingRun, "dataset_roles", [None]),
    (DatasetTransformation, "inputs", "uuid"),
    (DatasetTransformation, "order", "0"),
    (ModelState, "step", "0"),
    (ModelState, "sequence_num", None),
]


@pytest.mark.parametrize(("cls", "field", "value"), FIELDS, ids=range(len(FIELDS)))
def test_a_malformed_field_from_elsewhere_is_a_value_error_that_names_it(cls, field, value):
    with pytest.raises(ValueError, match=rf"{cls.__name__}\.{field}"):
        cls.from_json(cls(name="x").to_json() | {field: value})
    with pytest.raises(ValueError, match=cls.__name__):
        cls.from_json([value])


@given(st.data())
def test_every_field_of_every_entity_comes_back(data):
    kinds = {
        "str": TEXT,
        "str | None": st.none() | TEXT,
        "int": st.integers(-(2**63), 2**63 - 1),
        "int | None": st.none() | st.integers(-(2**63), 2**63 - 1),
        "bool": st.booleans(),
        "dict[str, Any]": st.dictionaries(TEXT | TAGS, SCALARS, max_size=3),
        "tuple[str, ...]": st.lists(TEXT, max_size=3).map(tuple),
    }
    for cls in ENTITY_TYPES.values():
        original = cls(**{item.name: data.draw(kinds[item.type]) for item in dataclasses.fields(cls)})
        form = original.to_json()
        assert msgpack.unpackb(msgpack.packb(form)) == form
        back = cls.from_json(json.loads(json.dumps(form, allow_nan=False)))
        for item in dataclasses.fields(cls):
            one, other = getattr(original, item.name), getattr(back, item.name)
            assert same(one, other) if isinstance(one, dict) else (one == other and type(one) is type(other)), item.name


# ------------------------------------------------------------------------------------------------------------------
# Records

COUNT = st.integers(0, 2**63 - 1)
SHA256 = st.binary(min_size=32, max_size=32)
RECORDS = st.builds(
    Record,
    id=COUNT,
    kind=st.sampled_from(RecordKind),
    status=st.sampled_from(Status),
    destination=COUNT,
    stream=st.binary(min_size=16, max_size=16),
    lane=st.sampled_from(Lane),
    first=st.integers(0, 2**62),
    last=st.integers(2**62, 2**63 - 1),
    key=TEXT,
    body=st.binary(max_size=20),
    digest=st.just(b"") | SHA256,
    chain=st.just(b"") | SHA256,
    entity=st.none() | TEXT,
    run=st.none() | TEXT,
    size=COUNT,
    retries=COUNT,
    hold=st.none() | TEXT,
    error=st.none() | TEXT,
    stands_for=st.none() | TEXT,
    chunks=st.lists(st.tuples(SHA256.map(bytes.hex), COUNT), max_size=3).map(tuple),
)


@given(RECORDS)
def test_every_record_comes_back_from_json(record):
    form = record.to_json()
    assert Record.from_json(json.loads(json.dumps(form, allow_nan=False))) == record
    assert Record.from_json(msgpack.unpackb(msgpack.packb(form))) == record
    assert canonical_json(form) == canonical_json(Record.from_json(form).to_json())
    assert Record.from_json(form | {"later": 1}) == record


ONE = Record(1, RecordKind.MODEL, Status.SAVING, 1, bytes(16), Lane.ORDERED, 1, 1, "k", b"{}", bytes(32), bytes(32))
MALFORMED = {
    "id": [-1, True, "1", 1.0, None, 2**63],
    "kind": ["table", None, 5, []],
    "status": ["saving", None],
    "destination": [-1, None],
    "stream": ["", "00", b"", "0" * 32, None, "g" * 36, "00000000-0000-0000-0000-00000000000"],
    "lane": ["left", None],
    "first": [-1, "1", None],
    "last": [0, -1, None, 1.5],
    "key": [None, 5, "\ud800"],
    "body": ["a", "!!!!", 5, None, "YQ", "YR=="],
    "digest": ["00", "0" * 63, "G" * 64, 5, None, "AA" * 32],
    "chain": ["00", None],
    "entity": [5, b"x"],
    "run": [5],
    "size": [-1, None],
    "retries": [-1, "0"],
    "hold": [5],
    "error": [5, ["x"]],
    "stands_for": [5],
    "chunks": [None, 5, "ab", [["00", 1]], [["", 1]], [["0" * 64, -1]], [["0" * 64]], [5], [["0" * 64, 1, 2]]],
}


def test_a_malformed_record_is_a_value_error_that_names_the_field():
    form = ONE.to_json()
    assert MALFORMED.keys() == form.keys() == {item.name for item in dataclasses.fields(Record)}
    for field, values in MALFORMED.items():
        for value in values:
            with pytest.raises(ValueError, match=rf"Record\.{field} "):
                Record.from_json(form | {field: value})
    for item in dataclasses.fields(Record):
        less = {key: value for key, value in form.items() if key != item.name}
        if item.default is dataclasses.MISSING:
            with pytest.raises(ValueError, match=rf"Record\.{item.name} is missing"):
                Record.from_json(less)
        else:
            assert Record.from_json(less) == ONE
    for value in (None, [], "record", 5):
        with pytest.raises(ValueError, match="no object"):
            Record.from_json(value)


def test_uuids_are_ordered_by_time_and_of_version_7(monkeypatch):
    now = [1_700_000_000_000_000_000]
    monkeypatch.setattr(entities.time, "time_ns", lambda: now[0])
    found = []
    for _ in range(50):
        found.append(new_uuid())
        now[0] += 1_000_000
    assert found == sorted(found) and all(item[14] == "7" and item[19] in "89ab" for item in found)
