"""Reading what is sent: bounded, strict, and the same value from JSON, a form or multipart.

Rule 1  Nothing is held in memory beyond `Limits.body_bytes`; files of a multipart body go to disk as they come.
Rule 2  What cannot be kept exactly is refused with 400: NaN literals, numbers without a float, lone surrogates, NUL in a
        name, nesting without end.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import math
import re
import zlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from seclea.portal.config import Limits
from seclea.portal.replies import Refusal, bad


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False


_ZSTD = next((name for name in ("compression.zstd", "backports.zstd") if _is_installed(name)), None)
ENCODINGS = (*(("zstd",) if _ZSTD else ()), "gzip", "identity")
JSON_FIELDS = frozenset(  # JSON text where they come in a form
    {"metadata", "params", "datasets", "dataset_roles", "inputs", "details", "chunks"}
)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
INT64 = 2**63 - 1


@dataclass(slots=True)
class Body:
    """A create's body: its fields, its file where it has one, and the digest that tells two bodies apart.

    ``raw`` is the JSON as it came, unpacked; empty for forms.
    """

    fields: dict[str, Any]
    digest: bytes
    file: UploadFile | None = None
    is_json: bool = True
    uploads: list[UploadFile] = field(default_factory=list)
    raw: bytes = b""

    async def close(self) -> None:
        """Give back the temporary files."""
        for upload in self.uploads:
            await upload.close()


# ---------------------------------------------------------------------------------------------------------- reading


def too_large(limit: int) -> Refusal:
    """413."""
    return Refusal(413, f"The body is larger than {limit} bytes.", code="too_large", limit=limit)


async def limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The body as it comes, refused as soon as it is (or says that it is) longer than ``limit`` bytes."""
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and len(announced) < 20 and int(announced) > limit:
        raise too_large(limit)
    total = 0
    try:
        async for piece in request.stream():
            total += len(piece)
            if total > limit:
                raise too_large(limit)
            yield piece
    except ClientDisconnect:
        raise bad("The body ended early.") from None


async def read_bytes(request: Request, limits: Limits) -> bytes:
    """The whole body, unpacked."""
    pieces = [piece async for piece in limited(request, limits.body_bytes)]
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        return body
    if encoding not in ENCODINGS:
        raise Refusal(415, f"Content-Encoding {encoding!r} is not known here.", encodings=list(ENCODINGS))
    return _unzstd(body, limits.body_bytes) if encoding == "zstd" else _gunzip(body, limits.body_bytes)


def _gunzip(body: bytes, limit: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        plain = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise bad(f"The body is no gzip: {error}.") from None
    if len(plain) > limit:
        raise too_large(limit)
    if not unpacker.eof or unpacker.unused_data:
        raise bad("The body is no whole gzip member.")
    return plain


def _unzstd(body: bytes, limit: int) -> bytes:
    assert _ZSTD is not None
    zstd = importlib.import_module(_ZSTD)
    # The frame says how much memory it wants; more than a body may have is nobody's of ours.
    window = max(10, min(limit, 1 << 27).bit_length())
    unpacker = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window})
    try:
        plain = bytes(unpacker.decompress(body, limit + 1))
    except zstd.ZstdError as error:
        raise bad(f"The body is no zstd: {error}.") from None
    if len(plain) > limit:
        raise too_large(limit)
    if not unpacker.eof or unpacker.unused_data:
        raise bad("The body is no whole zstd frame.")
    return plain


async def read_body(request: Request, limits: Limits) -> Body:
    """A create's body in any of the three dialects."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_multipart(request, limits)
    body = await read_bytes(request, limits)
    digest = hashlib.sha256(body).digest()
    if kind == "application/x-www-form-urlencoded":
        try:
            pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=1000)
        except ValueError:
            raise bad("The form cannot be read.") from None
        return Body(_from_form(pairs, limits), digest, is_json=False)
    fields = parse_json(body, limits)
    if not isinstance(fields, dict):
        raise bad("The body is no JSON object.")
    return Body(fields, digest, raw=body)


async def _read_multipart(request: Request, limits: Limits) -> Body:
    stream = limited(request, limits.upload_bytes)
    parser = MultiPartParser(request.headers, stream, max_files=10, max_fields=1000, max_part_size=limits.body_bytes)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise bad(f"The multipart body cannot be read: {error.message}") from None
    uploads = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    file = None
    pairs: list[tuple[str, str]] = []
    digest = hashlib.sha256()
    for name, value in sorted(form.multi_items(), key=lambda item: item[0]):
        if isinstance(value, str):
            pairs.append((name, value))
            digest.update(
                f"{len(name)}:{name}={len(value)}:".encode("utf-8", "replace") + value.encode("utf-8", "replace")
            )
        elif name in ("dataset", "state"):
            file = value
        else:  # a field that was given a file name
            if (value.size or 0) > limits.body_bytes:
                raise too_large(limits.body_bytes)
            try:
                pairs.append((name, (await value.read()).decode("utf-8")))
            except UnicodeDecodeError:
                raise bad(f"{name} is no UTF-8.") from None
    return Body(_from_form(pairs, limits), digest.digest(), file, is_json=False, uploads=uploads)


def _from_form(pairs: list[tuple[str, str]], limits: Limits) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, text in pairs:
        value: Any = text
        if name in JSON_FIELDS and (text[:1] in "[{" or text == "null"):
            value = parse_json(text.encode("utf-8", "surrogatepass"), limits)
        if name == "datasets" and not isinstance(value, list):
            value = [*fields.get(name, []), value]
        fields[name] = value
    return fields


def parse_json(body: bytes, limits: Limits) -> Any:
    """Strict JSON."""
    try:
        text = body.decode("utf-8")
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise bad("The JSON is nested too deeply.") from None
    except ValueError as error:  # JSONDecodeError, UnicodeError, an integer with thousands of digits
        raise bad(f"The body is no JSON that can be kept: {str(error)[:200]}") from None
    if body.count(b"[") + body.count(b"{") > limits.depth and _depth(value) > limits.depth:
        raise bad(f"The JSON is nested deeper than {limits.depth} levels.")
    return value


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} has no float")
    return value


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth - 1


# ----------------------------------------------------------------------------------------------------------- fields


def text_field(
    fields: Mapping[str, Any], name: str, limit: int, *, default: str | None = None, empty: bool = False
) -> str:
    """A text of at most ``limit`` characters; required unless there is a default."""
    value = fields.get(name)
    if value is None:
        if default is None:
            raise bad(f"{name} is required.", field=name)
        return default
    if not isinstance(value, str):
        raise bad(f"{name} is no text.", field=name)
    if not value and not empty and default is None:
        raise bad(f"{name} may not be blank.", field=name)
    if len(value) > limit:
        raise bad(f"{name} has {len(value)} characters; no more than {limit} characters are allowed.", field=name)
    if "\x00" in value:
        raise bad(f"{name} holds a NUL character.", field=name)
    return value


def is_uuid(value: str) -> bool:
    """Whether it is a uuid in canonical text."""
    return _UUID.fullmatch(value) is not None


def uuid_field(fields: Mapping[str, Any], name: str, *, required: bool = True) -> str | None:
    """A uuid in canonical text. Empty text counts as none: forms cannot say null."""
    value = fields.get(name)
    if value is None or value == "":
        if required:
            raise bad(f"{name} is required.", field=name)
        return None
    if not isinstance(value, str) or not is_uuid(value.lower()):
        raise bad(f"{name} is no valid uuid.", field=name)
    return value.lower()


def int_field(
    fields: Mapping[str, Any], name: str, *, default: int | None = None, low: int = 0, high: int = INT64
) -> int | None:
    """A whole number; text of digits counts, because forms have nothing else."""
    value = fields.get(name)
    if value is None or value == "":
        return default
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,19}", value):
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        raise bad(f"{name} is no whole number between {low} and {high}.", field=name)
    return value


def bool_field(fields: Mapping[str, Any], name: str) -> bool:
    """True or false; absent is false."""
    value = fields.get(name)
    if value is None or value == "":
        return False
    if isinstance(value, str) and value.lower() in ("true", "false", "1", "0"):
        return value.lower() in ("true", "1")
    if not isinstance(value, bool):
        raise bad(f"{name} is neither true nor false.", field=name)
    return value


def object_field(fields: Mapping[str, Any], name: str) -> str:
    """A JSON object, as the text to keep."""
    value = fields.get(name)
    if value is None or value == "":
        return "{}"
    if not isinstance(value, dict):
        raise bad(f"{name} is no JSON object.", field=name)
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(value: Any, name: str) -> str:
    """A sha256 as 64 lower-case hex digits."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise bad(f"{name} is no sha256 (64 lower-case hex digits).", field=name)
    return value
