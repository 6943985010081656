"""Objects as frames of a queue: msgpack for plain data, pickle for the rest, a file of its own for what is large.

Arrays and tensors are pickled without their bytes (protocol 5, buffers out of band): those are written from where they
lie to where the frame or the file is, and read from there into memory of the receiver's own.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import pickle
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import msgpack

from seclea.errors import SecleaError, UsageError

INLINE_BYTES = 256 << 10  # above, an object is put in a side file; what a first ring of 1 MiB takes at most
SUFFIX = ".item"

# Types of frames: how the object was packed, in the ring or (above) in a file.
# BUFFERED: `_HEAD`, a length for each buffer, the pickle, the buffers. RAW: the bytes themselves. TUPLE: packed as a list.
PACKED, PICKLED, BUFFERED, RAW, TUPLE = 2, 3, 6, 8, 10
PACKED_FILE, PICKLED_FILE, BUFFERED_FILE, RAW_FILE, TUPLE_FILE = 4, 5, 7, 9, 11
_FILE_TYPES = {
    PACKED: PACKED_FILE, PICKLED: PICKLED_FILE, BUFFERED: BUFFERED_FILE, RAW: RAW_FILE, TUPLE: TUPLE_FILE
}  # fmt: skip
IN_FILE = {file_type: type for type, file_type in _FILE_TYPES.items()}

_HEAD = struct.Struct("=QQ")  # bytes of the pickle, number of buffers
_LENGTH = struct.Struct("=Q")
_CHECKED_BYTES = 1 << 20  # of a file's content have a checksum; an array's bytes have only their number
# Smaller, a bytearray is faster: its memory is often there already. Larger, zeroing it before it is filled costs more.
_MAPPED_BYTES = 4 << 20
_MUTABLE_BYTES = frozenset({bytearray, memoryview})
_PIECES = 512  # of one writev; the limit is 1024

Buffers = Sequence[memoryview]


class ItemLost(SecleaError):
    """An object that was put cannot be read back: its file is missing or was changed."""


def pickled(item: Any, buffer_callback: Callable[[pickle.PickleBuffer], None]) -> bytes:
    """The pickle of an object, its large buffers given to the callback."""
    if "numpy" not in sys.modules and "torch" not in sys.modules:
        return pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=buffer_callback)
    stream = io.BytesIO()
    _ArrayPickler(stream, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=buffer_callback).dump(item)
    return stream.getvalue()


def pack(
    item: Any, allow_pickle: bool, pickled: Callable[[Any, Callable[[pickle.PickleBuffer], None]], bytes] = pickled
) -> tuple[int, bytes, Buffers]:
    """The frame type, the bytes of an object, and the buffers that follow them.

    msgpack takes only the exact types None, bool, int, float, str, bytes, list and dict (``strict_types``: a tuple or
    an enum would come out as something else), and a tuple of those by a type of its own; whatever else is in it makes the
    whole object a pickle.

    Raises:
        UsageError: not plain data, and the queue has no pickles.
        Exception: whatever pickling the object raises.
    """
    kind = type(item)
    if kind is bytes and len(item) > INLINE_BYTES:
        return RAW, item, ()
    if kind is not bytearray and kind is not memoryview:
        try:
            if kind is tuple and allow_pickle:
                packed = msgpack.packb(values := list(item), strict_types=True)
                if not _has_mutable_bytes(values, packed):
                    return TUPLE, packed, ()
            else:
                packed = msgpack.packb(item, strict_types=True)
                if (kind is not dict and kind is not list) or not _has_mutable_bytes(item, packed):
                    return PACKED, packed, ()
        except (TypeError, ValueError, OverflowError):  # ValueError: too deep, or text with lone surrogates
            pass
    if not allow_pickle:
        raise UsageError(
            f"A queue without pickles takes only plain data, not {kind.__name__} (or something in it).",
            "Turn tuples into lists, and arrays into bytes with their dtype and shape.",
        )
    buffers: list[memoryview] = []
    stream = pickled(item, lambda buffer: buffers.append(buffer.raw()))
    if not buffers:
        return PICKLED, stream, ()
    lengths = [buffer.nbytes for buffer in buffers]
    return BUFFERED, struct.pack(f"=QQ{len(lengths)}Q", len(stream), len(lengths), *lengths) + stream, buffers


def _has_mutable_bytes(item: Any, packed: bytes) -> bool:
    """Whether a bytearray or a memoryview is in a packed list or dict: msgpack takes them, and gives bytes.

    Looked for only where the packed bytes may have a head of bytes (0xc4 to 0xc6): small numbers and text have none.
    """
    if b"\xc4" not in packed and b"\xc5" not in packed and b"\xc6" not in packed:
        return False
    containers = [item]
    for container in containers:  # grows meanwhile
        values = container if type(container) is list else [*container, *container.values()]
        kinds = set(map(type, values))
        if not kinds.isdisjoint(_MUTABLE_BYTES):
            return True
        if list in kinds or dict in kinds:
            containers.extend(value for value in values if type(value) is list or type(value) is dict)
    return False


class _ArrayPickler(pickle.Pickler):
    """Pickles arrays and tensors so that they come out writable, and tensors without their bytes.

    Neither library is imported: an object of theirs is here only when it has been.
    """

    def reducer_override(self, item: Any) -> Any:
        torch: Any = sys.modules.get("torch")
        if isinstance(item, getattr(torch, "Tensor", ())):
            return _reduced_tensor(torch, item)
        ndarray: Any = getattr(sys.modules.get("numpy"), "ndarray", ())
        if isinstance(item, ndarray) and not item.flags.writeable:
            return item.copy().__reduce_ex__(pickle.HIGHEST_PROTOCOL)  # else the pickle says that it is read-only
        return NotImplemented


def _reduced_tensor(torch: Any, tensor: Any) -> Any:
    """How to pickle a plain CPU tensor, its bytes taken from where they lie.

    Whatever is special about a tensor is torch's to say: subclasses, other devices and layouts, hooks, attributes.
    """
    kind = type(tensor)
    if (
        (kind is not torch.Tensor and kind is not torch.nn.Parameter)
        or tensor.device.type != "cpu"
        or tensor.layout is not torch.strided
        or tensor.is_quantized
        or any(getattr(tensor, "names", ()))  # gone in new versions
        or tensor.__dict__
        or tensor._backward_hooks
    ):
        return NotImplemented
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    try:
        content: Any = plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else b""
    except RuntimeError:  # numpy is not installed, or the tensor has no memory
        return NotImplemented
    arguments = (kind, pickle.PickleBuffer(content), tensor.dtype, tuple(tensor.shape), tensor.requires_grad)
    return restore_tensor, arguments


def restore_tensor(kind: Any, content: Any, dtype: Any, shape: tuple[int, ...], requires_grad: bool) -> Any:
    """A tensor over ``content``. Unpickling ``kind`` has imported torch."""
    torch: Any = sys.modules["torch"]
    flat = torch.frombuffer(content, dtype=dtype) if len(content) else torch.empty(0, dtype=dtype)
    tensor = flat.reshape(shape)
    return kind(tensor, requires_grad) if kind is not torch.Tensor else tensor.requires_grad_(requires_grad)


def unpack(type: int, payload: bytes, allow_pickle: bool, buffers: Sequence[Any] = ()) -> Any:
    """The object that `pack` was given.

    Args:
        buffers: writable memory, which the object may keep; of a `BUFFERED_FILE` only.
    Raises:
        ItemLost: no such type, no msgpack, or a pickle where none is allowed.
        Exception: whatever unpickling the object raises.
    """
    if type == PACKED or (type == TUPLE and allow_pickle):
        try:
            item = msgpack.unpackb(payload, strict_map_key=False)
            return item if type == PACKED else tuple(item)
        except (ValueError, TypeError) as error:  # msgpack's own errors, and keys that cannot be keys
            raise ItemLost(f"An object in the queue is not what was put there: {error}") from error
    if type == RAW:
        return payload
    if type == PICKLED and allow_pickle:
        return pickle.loads(payload)  # noqa: S301  (from our own processes, through a 0700 directory)
    if type == BUFFERED and allow_pickle:
        lengths, start = _lengths(payload)
        end = start + _HEAD.unpack_from(payload)[0]
        if not buffers:
            view = memoryview(payload)
            positions = [end]
            for length in lengths:
                positions.append(positions[-1] + length)
            buffers = [bytearray(view[a:b]) for a, b in pairwise(positions)]
        return pickle.loads(memoryview(payload)[start:end], buffers=buffers)  # noqa: S301
    raise ItemLost(f"An object in the queue has type {type}, which this queue does not take.")


def _lengths(payload: bytes) -> tuple[tuple[int, ...], int]:
    """The lengths of the buffers, and where the pickle starts."""
    try:
        number = _HEAD.unpack_from(payload)[1]
        return struct.unpack_from(f"={number}Q", payload, _HEAD.size), _HEAD.size + number * _LENGTH.size
    except (struct.error, OverflowError, MemoryError) as error:
        raise ItemLost(f"An object in the queue is not what was put there: {error}") from error


class SideFiles:
    """The large objects of one producer in a queue's directory: ``<producer id in hex>-<number>.item``."""

    def __init__(self, directory: Path, producer_id: bytes) -> None:
        self._directory = directory
        self._prefix = producer_id.hex()
        self._numbers: Iterator[int] = count(1)

    def write(self, type: int, payload: bytes, buffers: Buffers = ()) -> tuple[int, bytes, Path]:
        """Put the bytes of an object in a file; returns the frame that stands for it, and the file.

        Raises:
            OSError: no room; nothing is left behind.
        """
        size_bytes = len(payload) + sum(buffer.nbytes for buffer in buffers)
        space = os.statvfs(self._directory)
        if space.f_bavail * space.f_frsize < size_bytes:  # not even for a moment take the last of the memory
            raise OSError(errno.ENOSPC, f"no room for {size_bytes} bytes", str(self._directory))
        checked_bytes = min(len(payload), _CHECKED_BYTES)
        checksum = crc32(memoryview(payload)[:checked_bytes])
        maker = os.getpid()
        while True:
            name = f"{self._prefix}-{next(self._numbers)}{SUFFIX}"
            path = self._directory / name
            frame = msgpack.packb([name, size_bytes, checksum, checked_bytes, len(payload)])
            result = _FILE_TYPES[type], frame, path  # before the file is there: an exception after it would leave it
            try:
                _write_new(path, [memoryview(payload), *(buffer for buffer in buffers if buffer.nbytes)])
                return result
            except FileExistsError:  # a signal handler forked, and the other process was here first
                continue
            except BaseException:
                if os.getpid() == maker:  # else it is the parent's
                    path.unlink(missing_ok=True)
                raise


def _write_new(path: Path, pieces: list[memoryview]) -> None:
    # By `write`, not through a map: a full tmpfs is an error here, not a SIGBUS; and it is faster.
    with open(path, "xb", buffering=0, opener=_open_private) as file:
        offset = 0  # not the file's own: a child that is forked here, and goes on, writes the same bytes there
        while pieces:
            written = os.pwritev(file.fileno(), pieces[:_PIECES], offset)
            offset += written
            done = 0
            while done < len(pieces) and written >= pieces[done].nbytes:
                written -= pieces[done].nbytes
                done += 1
            del pieces[:done]
            if written:
                pieces[0] = pieces[0].cast("B")[written:]


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def read_side_file(directory: Path, type: int, payload: bytes) -> tuple[int, bytes, list[Any], Path]:
    """The frame type, bytes and buffers that `SideFiles.write` was given, and the file to remove once they are safe.

    The buffers are memory of this process: an array that is kept for long keeps no shared memory.

    Raises:
        ItemLost: the file is missing, or is not what was written.
        OSError: this process has no descriptor or memory left; the file is as it was.
    """
    try:
        name, size_bytes, checksum, *more = msgpack.unpackb(payload)
        checked_bytes, head_bytes = more or (size_bytes, size_bytes)  # a frame of an older version
        path = directory / name
        if path.parent != directory or path.suffix != SUFFIX:
            raise ValueError(f"{name} is no name of an object's file")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb", buffering=0) as file:
            if os.fstat(descriptor).st_size != size_bytes or not 0 <= checked_bytes <= head_bytes <= size_bytes:
                raise ValueError(f"{path} has changed")
            content = file.read(head_bytes) if head_bytes else b""
            while len(content) < head_bytes:  # one read brings 2 GiB at most
                more_bytes = file.read(head_bytes - len(content))
                if not more_bytes:
                    raise ValueError(f"{path} has changed")
                content += more_bytes
            if crc32(memoryview(content)[:checked_bytes]) != checksum:
                raise ValueError(f"{path} has changed")
            buffers: list[Any] = []
            if type == BUFFERED_FILE:
                lengths, _ = _lengths(content)
                if head_bytes + sum(lengths) != size_bytes:
                    raise ValueError(f"{path} has changed")
                buffers = [_read_buffer(file, length) for length in lengths]
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise ItemLost(f"A large object in the queue cannot be read: {error}") from error
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EACCES, errno.EISDIR):
            raise
        raise ItemLost(f"A large object in the queue cannot be read: {error}") from error
    return IN_FILE[type], content, buffers, path


def _read_buffer(file: io.FileIO, length: int) -> Any:
    if length < _MAPPED_BYTES:
        memory: Any = bytearray(length)
    else:
        memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        _advise_huge_pages(memory)
    with memoryview(memory) as view:
        done = 0
        while done < length:
            read = file.readinto(view[done:])
            if not read:
                raise ValueError("the file ended early")
            done += read
    return memory


def _advise_huge_pages(memory: mmap.mmap) -> None:
    """Fewer page faults while it is filled. A kernel without huge pages says no, which changes nothing."""
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is not None:
        try:
            memory.madvise(advice)
        except OSError:
            pass
