"""Metric points as columns: what goes in comes out, and what is malformed is refused."""

import math
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seclea.records import MAX_KEYS, MetricBatch, pack_metrics, unpack_metrics

INT64 = st.integers(-(2**63), 2**63 - 1)
CALLS = st.lists(
    st.tuples(INT64, INT64, st.dictionaries(st.text(max_size=8), st.floats(), max_size=5)), min_size=1, max_size=20
)


def points(batch: MetricBatch) -> list[tuple[int, str, int, int, bytes]]:
    """(log call, key, step, time, bits of the value): NaN must come back as it was."""
    columns = (batch.sequence, batch.key, batch.step, batch.time, batch.value)
    return [
        (batch.first + offset, batch.keys[key], step, time, struct.pack("<d", value))
        for offset, key, step, time, value in zip(*columns, strict=True)
    ]


@given(
    CALLS,
    st.lists(st.text(max_size=8), min_size=1, max_size=5, unique=True).flatmap(
        lambda keys: st.tuples(
            st.just(keys),
            st.lists(st.tuples(INT64, INT64, *[st.floats()] * len(keys)), min_size=1, max_size=20),
        )
    ),
)
def test_a_series_of_calls_with_the_same_names_is_the_same_as_one_call_after_the_other(
    before: list[tuple[int, int, dict[str, float]]], series: tuple[list[str], list[tuple[Any, ...]]]
) -> None:
    keys, rows = series
    at_once, one_by_one = MetricBatch("run", 0, 7), MetricBatch("run", 0, 7)
    for batch in (at_once, one_by_one):
        for number, (step, time_ns, metrics) in enumerate(before, 7):
            batch.append(number, step, time_ns, metrics)
    at_once.extend(keys, list(zip(*rows, strict=True)))
    for step, time_ns, *values in rows:
        one_by_one.append(one_by_one.last + 1, step, time_ns, dict(zip(keys, values, strict=True)))
    assert pack_metrics(at_once) == pack_metrics(one_by_one)


def test_a_series_that_no_column_can_hold_leaves_the_points_before_it() -> None:
    batch = MetricBatch("run", 0, 1)
    batch.append(1, 0, 0, {"loss": 1.0})
    before = pack_metrics(batch)
    with pytest.raises(OverflowError):
        batch.extend(["loss"], [(1, 2**63), (1, 2), (0.5, 0.25)])
    assert pack_metrics(batch) == before


@given(CALLS, st.integers(1, 2**40), st.integers(0, 2**20))
def test_every_point_comes_back_in_order_bit_for_bit(
    calls: list[tuple[int, int, dict[str, float]]], first: int, rank: int
) -> None:
    batch = MetricBatch("run", rank, first)
    expected = []
    for number, (step, time_ns, metrics) in enumerate(calls, first):
        batch.append(number, step, time_ns, metrics)
        expected += [(number, key, step, time_ns, struct.pack("<d", value)) for key, value in metrics.items()]
    read = unpack_metrics(pack_metrics(batch))
    assert points(read) == expected
    assert (read.run, read.rank, read.first, read.last) == ("run", rank, first, first + len(calls) - 1)
    assert read.count == len(expected)
    assert pack_metrics(read) == pack_metrics(batch), "one form"


def test_the_columns_are_those_of_the_documentation() -> None:
    batch = MetricBatch("01", 2, 7)
    batch.append(7, -1, 5, {"loss": 1.5, "ok": math.inf})
    batch.append(8, 2**40, 6, {"loss": -0.0})
    assert msgpack.unpackb(pack_metrics(batch)) == {
        "v": 1, "run": "01", "rank": 2, "first": 7, "last": 8, "keys": ["loss", "ok"], "count": 3,
        "sequence": struct.pack("<3I", 0, 0, 1), "key": struct.pack("<3H", 0, 1, 0),
        "step": struct.pack("<3q", -1, -1, 2**40), "time": struct.pack("<3q", 5, 5, 6),
        "value": struct.pack("<3d", 1.5, math.inf, -0.0),
    }  # fmt: skip


def test_a_batch_has_room_for_as_many_keys_as_can_be_numbered() -> None:
    batch = MetricBatch("run", 0, 1)
    batch.append(1, 0, 0, {str(number): 0.0 for number in range(MAX_KEYS - 1)})
    assert batch.has_room({"one": 1.0})
    assert not batch.has_room({"one": 1.0, "two": 2.0})


def packed(**changed: Any) -> bytes:
    batch = MetricBatch("run", 0, 1)
    batch.append(1, 0, 0, {"loss": 1.0})
    batch.append(2, 1, 0, {"loss": 1.0})
    body = {**msgpack.unpackb(pack_metrics(batch)), **changed}
    return bytes(msgpack.packb({key: value for key, value in body.items() if value is not None}))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no msgpack map"),
        (b"\xc1", "no msgpack map"),
        (packed()[:-1], "no msgpack map"),
        (packed() + b"x", "no msgpack map"),
        (b"\x93\x01\x02\x03", "version 1"),
        (packed(v=2), "version 1"),
        (packed(first=0), "no range"),
        (packed(first=3), "no range"),
        (packed(first=-1), "first is no whole number"),
        (packed(count=True), "count is no whole number"),
        (packed(rank=1.0), "rank is no whole number"),
        (packed(run=None), "run or keys"),
        (packed(keys=["loss", "loss"]), "distinct"),
        (packed(keys=[1]), "distinct"),
        (packed(keys=[]), "no key"),
        (packed(count=3), "3 entries"),
        (packed(value=b"\0" * 15), "2 entries"),
        (packed(sequence=struct.pack("<2I", 1, 0)), "not in order"),
        (packed(sequence=struct.pack("<2I", 0, 2)), "outside first..last"),
        (packed(key=struct.pack("<2H", 0, 1)), "no key"),
    ],
)
def test_a_malformed_batch_is_refused_with_what_is_wrong(body: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("..", r"\.\.")):
        unpack_metrics(body)


@given(st.binary(max_size=60), st.integers(0, 200))
def test_a_damaged_batch_is_refused_or_read_but_never_anything_else(noise: bytes, position: int) -> None:
    body = bytearray(packed())
    position %= len(body)
    body[position : position + len(noise)] = noise
    try:
        unpack_metrics(bytes(body))
    except ValueError:
        pass
