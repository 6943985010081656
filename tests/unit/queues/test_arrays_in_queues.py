"""Arrays and tensors through a queue: right, writable, independent, and not pickled byte by byte."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seclea.errors import QueueFull, UsageError
from seclea.queues import items
from seclea.queues.queue import Queue

SIZES = (10, 100_000, 3_000_000)  # bytes: in the ring, in the ring, in a file


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(directory=tmp_path / "queue")
    yield queue
    queue.close()


def through(queue: Queue, item: Any) -> Any:
    queue.put(item)
    again = queue.get(timeout=30)
    assert not list(queue.directory.glob("*.item"))
    return again


def read_only() -> np.ndarray[Any, Any]:
    array = np.arange(1000)
    array.flags.writeable = False
    return array


ARRAYS = {
    "1-d": np.arange(7, dtype=np.float32),
    "in a file": np.arange(200_000, dtype=np.int64).reshape(100, 2000),
    "in a file by columns": np.asfortranarray(np.arange(200_000).reshape(100, 2000)),
    "every second": np.arange(100_000)[::2],
    "backwards": np.arange(10)[::-1],
    "0-d": np.array(3.5),
    "zero rows": np.zeros((0, 5)),
    "read-only": read_only(),
    "structured": np.array([(1, 2.5, b"ab")], dtype=[("a", "i4"), ("b", "f8"), ("c", "S3")]),
    "big-endian": np.arange(5, dtype=">i4"),
    "dates": np.array(["2026-01-01"], dtype="datetime64[D]"),
    "text": np.array(["ä", "bcd"]),
    "objects": np.array([1, "two", None], dtype=object),
    "booleans": np.array([True, False]),
    "in a map of its own": np.arange(5 << 18, dtype=np.int32),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("where", ["alone", "tuple", "dict"])
def test_an_array_comes_out_equal_writable_and_independent(queue: Queue, name: str, where: str) -> None:
    array = ARRAYS[name]
    item = {"alone": array, "tuple": (1, array), "dict": {"x": [array]}}[where]
    again = through(queue, item)
    got = {"alone": lambda: again, "tuple": lambda: again[1], "dict": lambda: again["x"][0]}[where]()
    assert type(got) is np.ndarray and got.dtype == array.dtype and got.shape == array.shape
    np.testing.assert_array_equal(got, array)
    assert got.flags.writeable
    if got.size:
        before = array.copy()
        got[...] = got.flat[-1]
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("size", SIZES)
def test_the_bytes_of_an_array_are_not_in_the_pickle(size: int) -> None:
    type_, payload, buffers = items.pack([np.ones(size, np.uint8)] * 2 + [np.zeros(3)], allow_pickle=True)
    assert type_ == items.BUFFERED and len(payload) < 1000
    assert [buffer.nbytes for buffer in buffers] == [size, 24], "what stands twice goes once"


def test_many_arrays_in_one_object_are_right_and_stay_one_where_they_were_one(queue: Queue) -> None:
    shared = np.arange(3)
    again = through(queue, [np.full(997, n % 256, np.uint8) for n in range(2000)] + [shared, shared])
    assert all((array == n % 256).all() and array.size == 997 for n, array in enumerate(again[:-2]))
    assert again[-1] is again[-2]


def test_a_received_array_keeps_no_shared_memory(queue: Queue) -> None:
    again = through(queue, np.ones(4 << 20, np.uint8))
    with open("/proc/self/maps") as maps:
        assert ".item" not in maps.read()
    assert again.sum() == 4 << 20


def test_a_kernel_without_huge_pages_loses_no_array(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items.mmap, "MADV_HUGEPAGE", 0xBAD)  # EINVAL, as where they are not built in
    array = np.arange(items._MAPPED_BYTES // 8)
    with pytest.raises(OSError):
        items.mmap.mmap(-1, 4096).madvise(0xBAD)
    np.testing.assert_array_equal(through(queue, array), array)
    monkeypatch.delattr(items.mmap, "MADV_HUGEPAGE")  # as on systems that do not know them
    np.testing.assert_array_equal(through(queue, array), array)


def test_large_bytes_are_written_as_they_are(queue: Queue) -> None:
    data = os.urandom(3 << 20)
    type_, payload, _ = items.pack(data, allow_pickle=False)
    assert type_ == items.RAW and payload is data
    assert through(queue, data) == data
    assert through(queue, bytearray(data)) == data and through(queue, [data]) == [data]


def test_a_queue_without_pickles_refuses_arrays_and_says_what_to_do(tmp_path: Path) -> None:
    queue = Queue(directory=tmp_path / "plain", allow_pickle=False)
    with pytest.raises(UsageError, match="dtype"):
        queue.put(np.ones(3))
    type_, payload, buffers = items.pack(np.ones(3), allow_pickle=True)
    with pytest.raises(items.ItemLost):
        items.unpack(type_, b"".join([payload, *buffers]), allow_pickle=False)
    queue.close()


def test_a_damaged_head_is_an_item_lost() -> None:
    for payload in (b"", b"x" * 15, b"\xff" * 16, b"\x01" + bytes(7) + b"\x40" + bytes(7)):
        with pytest.raises(items.ItemLost):
            items.unpack(items.BUFFERED, payload, allow_pickle=True)


def test_a_file_of_an_array_that_was_cut_is_an_item_lost(queue: Queue) -> None:
    queue.put(np.ones(1 << 20))
    (file,) = queue.directory.glob("*.item")
    os.truncate(file, 1 << 20)
    queue.put("next")
    assert queue.get() == "next" and queue.lost == 1


def test_no_room_for_an_array_is_queue_full_before_a_byte_is_written(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.put(0)
    before = os.listdir(queue.directory)
    array = np.ones(1, np.uint8)
    huge = np.lib.stride_tricks.as_strided(array, (1 << 20,), (0,)).copy()

    class Full:
        f_bavail, f_frsize = 100, 4096

    monkeypatch.setattr(os, "statvfs", lambda _: Full)
    with pytest.raises(QueueFull):
        queue.put_nowait(huge)
    assert sorted(os.listdir(queue.directory)) == sorted(before)


def test_without_numpy_and_torch_in_the_process_neither_is_imported(queue: Queue) -> None:
    code = """if True:
        import sys
        from seclea.queues import Queue
        queue = Queue.attach(sys.argv[1])
        queue.put([1, (2,), {3}, b"x" * 1_000_000])
        queue.get()
        assert not {"numpy", "torch", "multiprocessing"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", code, str(queue.directory)], check=True, timeout=60)


@pytest.mark.torch
class TestTensors:
    @pytest.fixture(autouse=True)
    def torch(self) -> Any:
        return pytest.importorskip("torch")

    @pytest.mark.parametrize(
        "name",
        ["float32", "bfloat16", "float16", "bool", "complex64", "int64", "float8_e4m3fn", "uint16"],
    )
    @pytest.mark.parametrize("shape", [(), (0, 3), (5,), (300, 1000)])
    def test_a_tensor_of_every_type_and_shape(
        self, torch: Any, queue: Queue, name: str, shape: tuple[int, ...]
    ) -> None:
        tensor = (torch.rand(shape) * 100).to(getattr(torch, name))
        again = through(queue, {"x": (tensor, 1)})["x"][0]
        assert again.dtype is tensor.dtype and again.shape == tensor.shape and type(again) is torch.Tensor
        assert torch.equal(again.flatten().view(torch.uint8), tensor.flatten().view(torch.uint8))
        again.zero_()
        assert not tensor.numel() or name == "bool" or tensor.to(torch.complex64).abs().sum() > 0

    @pytest.mark.parametrize("size", SIZES)
    def test_its_bytes_are_not_in_the_pickle(self, torch: Any, size: int) -> None:
        type_, payload, buffers = items.pack(torch.ones(size, dtype=torch.uint8), allow_pickle=True)
        assert type_ == items.BUFFERED and len(payload) < 1000 and [b.nbytes for b in buffers] == [size]

    def test_special_ones_are_right_too(self, torch: Any, queue: Queue) -> None:
        leaf = torch.ones(3, requires_grad=True)
        parameter = torch.nn.Parameter(torch.ones(3), requires_grad=False)
        again = through(queue, [leaf, parameter, leaf * 2])
        assert again[0].requires_grad and again[0].is_leaf and torch.equal(again[0], leaf)
        assert type(again[1]) is torch.nn.Parameter and not again[1].requires_grad
        assert torch.equal(again[2], leaf * 2) and again[2].requires_grad
        transposed = torch.arange(6).reshape(2, 3).T
        assert torch.equal(through(queue, transposed), transposed)
        expanded = torch.ones(1).expand(5)
        assert through(queue, expanded).add_(1).tolist() == [2.0] * 5
        assert torch.equal(through(queue, torch.tensor([1 + 2j]).conj()), torch.tensor([1 - 2j]))
        sparse = torch.eye(3).to_sparse()
        assert torch.equal(through(queue, sparse).to_dense(), torch.eye(3))
        named = torch.ones(2)
        named.note = "mine"
        assert through(queue, named).note == "mine"

    def test_a_state_dict_and_a_model_come_out_whole(self, torch: Any, queue: Queue) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(300, 400), torch.nn.BatchNorm1d(400))
        again = through(queue, model.state_dict())
        assert list(again) == list(model.state_dict())
        for name, tensor in model.state_dict().items():
            assert torch.equal(again[name], tensor)
        copy = through(queue, model)
        assert all(torch.equal(a, b) for a, b in zip(copy.parameters(), model.parameters(), strict=True))

    def test_a_process_without_torch_gets_a_tensor(self, torch: Any, queue: Queue) -> None:
        code = """if True:
            import sys
            from seclea.queues import Queue
            queue = Queue.attach(sys.argv[1])
            assert "torch" not in sys.modules
            queue.put(queue.get(timeout=20) + 1)
        """
        queue.put(torch.zeros(3))
        subprocess.run([sys.executable, "-c", code, str(queue.directory)], check=True, timeout=100)
        assert queue.get(timeout=30).tolist() == [1, 1, 1]
