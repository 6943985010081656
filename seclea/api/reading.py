"""Reading a reply whole, within bounds: length and encoding are checked before anybody believes it (pace: pace.py)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
from requests.structures import CaseInsensitiveDict

from seclea.api.tokens import Token
from seclea.errors import PortalError

MAX_REPLY_BYTES = 16 * 1024 * 1024  # receipts are hundreds of bytes, a page of a list some MB; more is no reply of ours
_TOKEN_COOKIES = ("access_token", "refresh_token")


class BadReply(Exception):
    """A reply that is not to be read to its end, or that came short."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply of any status. ``tokens`` are those that it set as cookies; ``headers`` are without them."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    tokens: Mapping[str, Token] = field(default_factory=dict)

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            PortalError: it is none.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise PortalError(f"The reply with status {self.status} is no JSON ({len(self.body)} bytes).") from None


def read_reply(response: requests.Response, method: str) -> Reply:
    """The whole reply to a request of ``method``.

    Raises:
        BadReply: too large, too short, or in an encoding that was not asked for.
        urllib3.exceptions.HTTPError: the connection broke.
    """
    raw = response.raw
    pieces: list[bytes] = []
    size = 0
    while piece := raw.read(64 * 1024, decode_content=False):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_REPLY_BYTES:
            raise BadReply(f"it is larger than {MAX_REPLY_BYTES} bytes")
    announced = response.headers.get("Content-Length", "")
    if (
        announced.isdecimal()
        and int(announced) != size
        and method != "HEAD"
        and "Transfer-Encoding" not in response.headers
    ):
        raise BadReply(f"it has {size} of {announced} bytes")
    body = _decoded(b"".join(pieces), response.headers.get("Content-Encoding", "identity").strip().lower())
    headers = CaseInsensitiveDict(
        {name: value for name, value in response.headers.items() if name.lower() != "set-cookie"}
    )
    return Reply(response.status_code, headers, body, _set_tokens(raw.headers.getlist("Set-Cookie")))


def _decoded(body: bytes, encoding: str) -> bytes:
    # We ask for identity; a middlebox may compress all the same.
    if encoding in ("", "identity") or not body:
        return body
    if encoding not in ("gzip", "deflate"):
        raise BadReply("it has an encoding that was not asked for")
    try:
        stream = zlib.decompressobj(wbits=47)  # gzip or zlib, by its header
        decoded = stream.decompress(body, MAX_REPLY_BYTES)
    except zlib.error:
        raise BadReply("its encoding is damaged") from None
    if stream.unconsumed_tail or not stream.eof:
        raise BadReply("its encoding has no end, or not within the limit")
    return decoded


def _set_tokens(lines: Iterable[str]) -> dict[str, Token]:
    found = {}
    for line in lines:
        name, _, value = line.partition(";")[0].partition("=")
        if name.strip() in _TOKEN_COOKIES and (value := value.strip().strip('"')):
            found[name.strip()] = Token(value)
    return found
