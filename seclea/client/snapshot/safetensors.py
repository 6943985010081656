"""The safetensors format: named tensors in a file that everybody can read and that runs nothing.

    8 bytes   length of the header, little endian
    header    JSON {"__metadata__": {text: text}, name: {"dtype", "shape", "data_offsets": [begin, end]}},
              filled with spaces so that the data begins at a multiple of 8
    data      the tensors, little endian, C order, one after the other without gaps; offsets count from here

Tensors are ordered by the size of their element, the largest first, then by name: so each is aligned.
Source: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol

from seclea.client.snapshot.files import PayloadFile
from seclea.errors import UsageError

MAX_HEADER_BYTES = 100_000_000  # what the reference reader accepts
METADATA = "__metadata__"

# Bytes of one element. Types of less than a byte are left out: no framework hands them over as such.
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}

# The names that PyTorch, Keras and numpy have for them.
DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16", "int32": "I32", "uint32": "U32",
    "int64": "I64", "uint64": "U64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "complex64": "C64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
}  # fmt: skip


class Sink(Protocol):
    """Where the file goes."""

    def write(self, data: Any, /) -> int: ...


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor to be written: ``read`` gives its bytes (C order, little endian) when its turn comes, and not before."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Any]

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        count = ITEM_BYTES[self.dtype]
        for length in self.shape:
            count *= length
        return count


def write(sink: Sink, tensors: Iterable[TensorInfo], metadata: Mapping[str, str]) -> None:
    """Write a whole file. One tensor at a time is in memory beside the user's own.

    Raises:
        UsageError: names or metadata make a header of more than 100 MB, or a name is the format's own.
        ValueError: a tensor gave another number of bytes than it announced (it changed meanwhile).
    """
    ordered = sorted(tensors, key=lambda tensor: (-ITEM_BYTES[tensor.dtype], tensor.name))
    header = _header(ordered, metadata)
    if isinstance(sink, PayloadFile):
        sink.expect(len(header) + sum(tensor.size for tensor in ordered))
    sink.write(header)
    for tensor in ordered:
        if tensor.size:
            written = sink.write(tensor.read())
            if written != tensor.size:
                raise ValueError(f"tensor {tensor.name} has {written} bytes, not {tensor.size}")


def _header(ordered: Sequence[TensorInfo], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    begin = 0
    for tensor in ordered:
        if tensor.name in header or tensor.name == METADATA:
            raise UsageError(f"The name {tensor.name!r} cannot be used for a tensor.", "Rename it.")
        end = begin + tensor.size
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise UsageError(f"The names of {len(ordered)} tensors take more than {MAX_HEADER_BYTES} bytes.")
    return len(text).to_bytes(8, "little") + text


def read_header(file: IO[bytes]) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """(metadata, tensors by name); afterwards ``file`` stands at the first byte of the data.

    Raises:
        ValueError: it is no safetensors file.
    """
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise ValueError(f"no safetensors file: a header of {length} bytes")
    header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("no safetensors file: the header is no object")
    return header.pop(METADATA, {}), header
