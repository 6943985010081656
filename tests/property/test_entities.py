"""What users put into entities comes back, through JSON text, or becomes something defined."""

import collections
import datetime as dt
import decimal
import enum
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seclea import entities
from seclea.entities import ENTITY_TYPES, Dataset, TrainingRun, from_json_value, new_uuid, to_json_value
from seclea.errors import UsageError
from seclea.records import canonical_json


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
    if isinstance(one, decimal.Decimal):
        return isinstance(other, decimal.Decimal) and str(one) == str(other)
    return type(one) is type(other) and (one == other or one != one)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT
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


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "back"),
    [
        (np.float32(0.5), 0.5),
        (np.float64("-inf"), -math.inf),
        (np.int8(-3), -3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(False), False),
        (np.str_("a"), "a"),
        (np.bytes_(b"a"), b"a"),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([]), []),
        (np.datetime64("2024-01-02T03:04:05"), dt.datetime(2024, 1, 2, 3, 4, 5)),
        (np.datetime64("2024-01-02T03:04:05.123456789"), dt.datetime(2024, 1, 2, 3, 4, 5, 123456)),
        (np.datetime64("2024-01-02"), dt.date(2024, 1, 2)),
        (np.datetime64("NaT"), None),
        (np.datetime64("NaT", "ns"), None),
        (np.timedelta64("NaT", "ns"), None),
        (np.timedelta64(1_500_000_000, "ns"), dt.timedelta(seconds=1.5)),
        (np.timedelta64(2, "D"), dt.timedelta(days=2)),
        (pd.NaT, None),
        (pd.NA, None),
        (pd.Timestamp("2024-01-02 03:04:05.123456"), dt.datetime(2024, 1, 2, 3, 4, 5, 123456)),
        (pd.Timestamp("2024-01-02 03:04:05.123456789"), dt.datetime(2024, 1, 2, 3, 4, 5, 123456)),
        (pd.Timestamp("2024-01-02", tz="UTC"), dt.datetime(2024, 1, 2, tzinfo=dt.UTC)),
        (pd.Timedelta(seconds=1.5), dt.timedelta(seconds=1.5)),
        (pd.Series([1.0, None]), [1.0, None]),
        (pd.Index(["a", "b"]), ["a", "b"]),
        (Level.LOW, 1),
        (Point(1, 2), [1, 2]),
        (collections.OrderedDict(a=1), {"a": 1}),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
        (frozenset([1]), {1}),
        (frozenset([frozenset([1])]), {frozenset([1])}),
        ({(1, (2, 3)): "x"}, {(1, (2, 3)): "x"}),
        ({frozenset([1]): "x"}, {frozenset([1]): "x"}),
        (len, "builtins.len"),
        (dict, "builtins.dict"),
        (np.float32, "numpy.float32"),
        (object(), "builtins.object"),
        (1j, "builtins.complex"),
        (range(2), "builtins.range"),
        ("\ud800", "\\ud800"),
        (10**400, 10**400),
        (-(2**63) - 1, -(2**63) - 1),
        (2**64, 2**64),
        (dt.time(1, 2, 3, 4), dt.time(1, 2, 3, 4)),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value)),  # the same in every process
)
def test_foreign_values_become_something_defined(value, back):
    found = through_json(value)
    if isinstance(back, list) and None in back:
        found = [None if item != item else item for item in found]
    assert found == back and type(found) is type(back)


def test_an_enum_is_recorded_by_its_type():
    assert isinstance(through_json(Colour.RED), str)


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
        {"__set__": [[{}]]},
        {"__decimal__": "x"},
    ],
)
def test_a_malformed_tag_from_elsewhere_is_a_value_error(form):
    with pytest.raises(ValueError):
        from_json_value(form)


def test_uuids_are_ordered_by_time_and_of_version_7(monkeypatch):
    now = [1_700_000_000_000_000_000]
    monkeypatch.setattr(entities.time, "time_ns", lambda: now[0])
    found = []
    for _ in range(50):
        found.append(new_uuid())
        now[0] += 1_000_000
    assert found == sorted(found) and all(item[14] == "7" and item[19] in "89ab" for item in found)
