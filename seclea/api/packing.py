"""Bodies made smaller: by zstd where the portal takes it and the extra is installed, else by gzip.

The same body is packed to the same bytes at every attempt.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from importlib import import_module

WORTH_BYTES = 2048  # smaller bodies are not worth the portal's time
_ZSTD_LEVEL = 3
_GZIP_LEVEL = 1

Pack = Callable[[bytes], bytes]


def choose(encodings: object) -> tuple[str, Pack] | None:
    """The best of the encodings that a portal says it takes: its name, and how to pack. None for none of ours."""
    if not isinstance(encodings, list):
        return None
    if "zstd" in encodings and (pack := _zstd()) is not None:
        return "zstd", pack
    return ("gzip", _gzip) if "gzip" in encodings else None


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, compresslevel=_GZIP_LEVEL, mtime=0)


def _zstd() -> Pack | None:
    """None without the extra."""
    for name in ("compression.zstd", "backports.zstd"):  # the standard library has it from Python 3.14 on
        try:
            module = import_module(name)
        except ImportError:
            continue
        return lambda body: bytes(module.compress(body, _ZSTD_LEVEL))
    return None
