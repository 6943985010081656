"""Objects as frames of a queue: msgpack for plain data, pickle for the rest, a file of its own for what is large."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import msgpack

from seclea.errors import SecleaError, UsageError

INLINE_BYTES = 64 << 10  # above, an object is put in a side file
SUFFIX = ".item"

# Types of frames. The lowest bit tells how the object was packed, the next where it is.
PACKED, PICKLED, PACKED_FILE, PICKLED_FILE = 2, 3, 4, 5


class ItemLost(SecleaError):
    """An object that was put cannot be read back: its file is missing or was changed."""


def pickled(item: Any, buffer_callback: Callable[[pickle.PickleBuffer], None] | None = None) -> bytes:
    """The pickle of an object."""
    return pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=buffer_callback)


def pack(item: Any, allow_pickle: bool, pickled: Callable[..., bytes] = pickled) -> tuple[int, bytes]:
    """The frame type (`PACKED` or `PICKLED`) and the bytes of an object.

    msgpack takes only the exact types None, bool, int, float, str, bytes, list and dict (``strict_types``: a tuple or
    an enum would come out as something else); whatever else is in it makes the whole object a pickle.

    Raises:
        UsageError: not plain data, and the queue has no pickles.
        Exception: whatever pickling the object raises.
    """
    if type(item) is not bytearray:
        try:
            return PACKED, msgpack.packb(item, strict_types=True)
        except (TypeError, ValueError, OverflowError):  # ValueError: too deep, or text with lone surrogates
            pass
    if not allow_pickle:
        raise UsageError(
            f"A queue without pickles takes only plain data, not {type(item).__name__} (or something in it).",
            "Turn tuples into lists.",
        )
    return PICKLED, pickled(item)


def unpack(type: int, payload: bytes, allow_pickle: bool) -> Any:
    """The object that `pack` was given.

    Raises:
        ItemLost: no such type, no msgpack, or a pickle where none is allowed.
        Exception: whatever unpickling the object raises.
    """
    if type == PACKED:
        try:
            return msgpack.unpackb(payload, strict_map_key=False)
        except (ValueError, TypeError) as error:  # msgpack's own errors, and keys that cannot be keys
            raise ItemLost(f"An object in the queue is not what was put there: {error}") from error
    if type == PICKLED and allow_pickle:
        return pickle.loads(payload)  # noqa: S301  (from our own processes, through a 0700 directory)
    raise ItemLost(f"An object in the queue has type {type}, which this queue does not take.")


class SideFiles:
    """The large objects of one producer in a queue's directory: ``<producer id in hex>-<number>.item``."""

    def __init__(self, directory: Path, producer_id: bytes) -> None:
        self._directory = directory
        self._prefix = producer_id.hex()
        self._numbers: Iterator[int] = count(1)

    def write(self, type: int, payload: bytes) -> tuple[int, bytes, Path]:
        """Put the bytes of an object in a file; returns the frame that stands for it, and the file.

        Raises:
            OSError: no room; nothing is left behind.
        """
        name = f"{self._prefix}-{next(self._numbers)}{SUFFIX}"
        path = self._directory / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            rest = memoryview(payload)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(descriptor)
        return type + 2, msgpack.packb([name, len(payload), crc32(payload)]), path


def read_side_file(directory: Path, type: int, payload: bytes) -> tuple[int, bytes, Path]:
    """The frame type and bytes that `SideFiles.write` was given, and the file to remove once they are safe.

    Raises:
        ItemLost: the file is missing, or is not what was written.
    """
    try:
        name, size_bytes, checksum = msgpack.unpackb(payload)
        path = directory / name
        if path.parent != directory or path.suffix != SUFFIX:
            raise ValueError(f"{name} is no name of an object's file")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:
            content = file.read()
        if len(content) != size_bytes or crc32(content) != checksum:
            raise ValueError(f"{path} has changed")
    except (OSError, ValueError, TypeError) as error:
        raise ItemLost(f"A large object in the queue cannot be read: {error}") from error
    return type - 2, content, path
