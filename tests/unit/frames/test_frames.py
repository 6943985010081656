"""What a client packs is what the writer reads; anything else is a ValueError, never a surprise."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seclea.entities import RunStatus, TrainingRun
from seclea.frames import (
    EntityFrame,
    FinishFrame,
    Frame,
    FrameType,
    MetricsFrame,
    StreamFrame,
    TombstoneFrame,
    pack_large,
    unpack,
    unpack_large,
)
from seclea.records import RecordKind

TYPES: dict[type[Any], FrameType] = {
    StreamFrame: FrameType.STREAM,
    EntityFrame: FrameType.ENTITY,
    MetricsFrame: FrameType.METRICS,
    FinishFrame: FrameType.FINISH,
    TombstoneFrame: FrameType.TOMBSTONE,
}
INDEX = st.integers(0, 65_535)
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
KEY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
NAME = st.text("0123456789abcdef", min_size=1, max_size=64)
JSON = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.builds(
        StreamFrame, INDEX, st.binary(min_size=16, max_size=16), st.tuples(TEXT, TEXT, TEXT), TEXT,
        st.none() | TEXT, INDEX, st.none() | st.dictionaries(TEXT, JSON, min_size=1, max_size=3), st.none() | TEXT,
    ),
    st.builds(EntityFrame, INDEX, TEXT, st.dictionaries(TEXT, JSON, max_size=4), st.none() | NAME),
    st.builds(MetricsFrame, INDEX, INT64, INT64, st.dictionaries(KEY, st.floats(allow_nan=False), min_size=1, max_size=4)),
    st.builds(FinishFrame, INDEX, st.sampled_from(RunStatus).map(str), st.integers(0, 2**63 - 1)),
    st.builds(TombstoneFrame, INDEX, st.sampled_from(RecordKind).map(str), st.integers(1, 2**48 - 1), st.just("dropped"), TEXT),
)  # fmt: skip


@given(FRAMES)
def test_every_frame_comes_back_as_it_was(frame: Frame) -> None:
    assert unpack(TYPES[type(frame)], frame.pack()) == frame


def test_the_hot_path_packs_metrics_in_the_same_form() -> None:
    """`TrainingRun.log` packs a plain tuple."""
    assert MetricsFrame(3, 4, 5, {"loss": 1.0}).pack() == msgpack.packb((3, 4, 5, {"loss": 1.0}))


@given(FRAMES, st.sampled_from(list(FrameType)))
def test_a_frame_under_another_type_is_read_or_refused(frame: Frame, kind: FrameType) -> None:
    try:
        unpack(kind, frame.pack())
    except ValueError:
        pass


@given(st.sampled_from([1, 2, 3, 4, 5, 7]), st.binary(max_size=40))
def test_noise_is_refused(kind: int, noise: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        unpack(kind, noise + b"\xc1")


@pytest.mark.parametrize("kind", [0, 8, 9, 255])
def test_an_unknown_type_is_refused(kind: int) -> None:
    with pytest.raises(ValueError, match=f"unknown frame type {kind}"):
        unpack(kind, FinishFrame(0, "finished", 0).pack())


@given(st.sampled_from([FrameType.STREAM, FrameType.ENTITY, FrameType.METRICS]), NAME)
def test_a_large_frame_names_its_type_and_file(kind: FrameType, name: str) -> None:
    assert unpack_large(pack_large(kind, name)) == (kind, name)


@pytest.mark.parametrize("name", ["../ledger.sqlite", "", "a/b", "a.b", "a" * 256, "\u0436" * 100, 7])
def test_a_large_frame_names_nothing_outside_its_directory(name: str) -> None:
    with pytest.raises(ValueError, match="file name"):
        unpack_large(pack_large(FrameType.METRICS, name))


@pytest.mark.parametrize("kind", [4, 5, 6, 7, 8])
def test_a_large_frame_holds_what_may_be_large_and_no_other_large_frame(kind: int) -> None:
    with pytest.raises(ValueError, match=f"type {kind}"):
        unpack_large(msgpack.packb((kind, "abc")))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (FrameType.METRICS, (0, 1, 2, {b"loss": 1.0})),
        (FrameType.METRICS, (0, 1, 2, {"lo\0ss": 1.0})),
        (FrameType.METRICS, (0, 1, 2, {"x" * 1001: 1.0})),
        (FrameType.METRICS, (0, 1, 2, {})),
        (FrameType.KEYS, (0, 1, ["a", ""])),
        (FrameType.STREAM, (0, b"short", ["a", "b", "c"], "p", None, 0, None, None)),
        (FrameType.STREAM, (0, b"x" * 16, "abc", "p", None, 0, None, None)),
        (FrameType.STREAM, (0, b"x" * 16, ["a", "b", "c"], "p", None, -1, None, None)),
        (FrameType.STREAM, (-1, b"x" * 16, ["a", "b", "c"], "p", None, 0, None, None)),
        (FrameType.FINISH, (0, "exploded", 0)),
        (FrameType.TOMBSTONE, (0, "metrics", -5, "dropped", "")),
        (FrameType.TOMBSTONE, (0, "metrics", 2**60, "dropped", "")),
        (FrameType.TOMBSTONE, (0, "gremlins", 1, "dropped", "")),
        (FrameType.TOMBSTONE, (0, "metrics", 1, "adopted", "")),
        (FrameType.ENTITY, (0, "model", [], None)),
        (FrameType.ENTITY, (0, "model", {}, "../x")),
    ],
)
def test_what_no_portal_takes_is_no_frame(kind: FrameType, values: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape|names"):
        unpack(kind, msgpack.packb(values))


def test_the_numbers_on_the_ring_do_not_change() -> None:
    assert {kind.name: kind.value for kind in FrameType} == {
        "STREAM": 1, "ENTITY": 2, "METRICS": 3, "FINISH": 4, "TOMBSTONE": 5, "LARGE": 6,
        "KEYS": 7, "POINTS": 8,
    }  # fmt: skip


def test_a_parameter_beyond_64_bits_travels() -> None:
    entity = TrainingRun(params={"seed": 2**100}).to_json()
    frame = unpack(FrameType.ENTITY, EntityFrame(0, "training_run", entity, None).pack())
    assert isinstance(frame, EntityFrame)
    assert TrainingRun.from_json(frame.entity).params == {"seed": 2**100}
