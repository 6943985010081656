from __future__ import annotations

import os
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seclea.errors import UsageError
from seclea.queues import items
from seclea.queues.queue import Queue


class Colour(IntEnum):
    RED = 1


class Point(NamedTuple):
    x: int
    y: int


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
    max_leaves=20,
)


@given(PLAIN)
def test_what_is_packed_comes_out_equal_and_of_the_same_type(item: Any) -> None:
    type_, payload, _ = items.pack(item, allow_pickle=True)
    again = items.unpack(type_, payload, allow_pickle=True)
    assert again == item and type(again) is type(item) and repr(again) == repr(item)


@pytest.mark.parametrize(
    "item",
    [
        ((1,), 2),
        Point(1, 2),
        [(1,)],
        {1, 2},
        Colour.RED,
        2**70,
        bytearray(b"x"),
        [{"a": [bytearray(b"x")]}],
        "\ud800",
        {(1, 2): 3},
        1j,
    ],
)
def test_what_msgpack_would_change_is_pickled_or_refused(item: Any) -> None:
    type_, payload, _ = items.pack(item, allow_pickle=True)
    assert type_ == items.PICKLED
    again = items.unpack(type_, payload, allow_pickle=True)
    assert again == item and repr(again) == repr(item) and type(again) is type(item)
    with pytest.raises(UsageError):
        items.pack(item, allow_pickle=False)
    with pytest.raises(items.ItemLost):
        items.unpack(type_, payload, allow_pickle=False)


@pytest.mark.parametrize("item", [(), (1, "a", {"loss": 0.5}), (None, [b"x"] * 300), ("x" * 400_000, 1)])
def test_a_tuple_of_plain_data_is_not_pickled_and_comes_out_as_a_tuple(tmp_path: Path, item: Any) -> None:
    assert items.pack(item, allow_pickle=True)[0] == items.TUPLE
    with pytest.raises(UsageError):
        items.pack(item, allow_pickle=False)
    with pytest.raises(items.ItemLost):
        items.unpack(items.TUPLE, items.pack(item, allow_pickle=True)[1], allow_pickle=False)
    queue = Queue(directory=tmp_path / "queue")
    for _ in range(2):
        queue.put(item)
    assert queue.get_many() == [item, item]
    queue.close()


@pytest.mark.parametrize("size_bytes", [1, 300, 70_000])
def test_a_memoryview_is_refused_wherever_it_is_as_by_pickle(size_bytes: int) -> None:
    view = memoryview(bytes(size_bytes))
    for item in (view, [view], {"a": [view]}, {view: 1}):
        with pytest.raises(TypeError, match="memoryview"):
            items.pack(item, allow_pickle=True)
    assert items.pack([bytes(size_bytes), 1.5], allow_pickle=True)[0] == items.PACKED


def test_something_deep_or_that_holds_itself_is_pickled() -> None:
    itself: list[Any] = []
    itself.append(itself)
    type_, payload, _ = items.pack(itself, allow_pickle=True)
    again = items.unpack(type_, payload, allow_pickle=True)
    assert again[0] is again


@given(st.binary())
def test_strange_bytes_are_a_value_or_an_item_lost(payload: bytes) -> None:
    try:
        items.unpack(items.PACKED, payload, allow_pickle=False)
    except items.ItemLost:
        pass


def test_a_side_file_is_read_back_only_as_it_was_written(tmp_path: Path) -> None:
    files = items.SideFiles(tmp_path, b"\x01" * 8)
    type_, frame, path = files.write(items.PACKED, b"content")
    assert path.stat().st_mode & 0o777 == 0o600
    assert items.read_side_file(tmp_path, type_, frame) == (items.PACKED, b"content", [], path)
    path.write_bytes(b"Content")
    with pytest.raises(items.ItemLost):
        items.read_side_file(tmp_path, type_, frame)
    path.unlink()
    with pytest.raises(items.ItemLost):
        items.read_side_file(tmp_path, type_, frame)
    (tmp_path / "secret").write_bytes(b"x")
    os.symlink(tmp_path / "secret", path)
    with pytest.raises(items.ItemLost):
        items.read_side_file(tmp_path, type_, frame)
    for name in ("../x.item", "/etc/passwd", "secret", 7, None, "\0.item"):
        with pytest.raises(items.ItemLost):
            items.read_side_file(tmp_path, type_, msgpack.packb([name, 1, 0]))
