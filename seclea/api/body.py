"""What a request carries: JSON, bytes, or a form, sent in pieces with a Content-Length.

requests builds forms in memory and hands a body to the kernel in one call, under one timeout; here a payload of
gigabytes is never in memory as a whole, and each piece has a timeout of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from seclea.api.tokens import Token
from seclea.records import canonical_json

PIECE_BYTES = 16 * 1024  # one send; at 30 s each, a line of 1 kB/s is still fast enough
_CRLF = b"\r\n"


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form: text, or a file.

    Attributes:
        content: the bytes, or a callable that gives them anew, piece by piece, at each attempt.
        size: bytes that ``content`` gives when it is a callable.
    """

    name: str
    content: bytes | Callable[[], Iterable[bytes]]
    size: int = 0
    filename: str | None = None
    content_type: str | None = None

    @property
    def length(self) -> int:
        """Bytes of the content."""
        return len(self.content) if isinstance(self.content, bytes) else self.size

    def pieces(self) -> Iterator[bytes]:
        """The content.

        Raises:
            ValueError: it gave another number of bytes than ``size``; what was sent is then no valid request.
        """
        if isinstance(self.content, bytes):
            yield self.content
            return
        left = self.size
        for piece in self.content():
            left -= len(piece)
            if left < 0:
                break
            yield piece
        if left:
            raise ValueError(f"part {self.name} does not have the {self.size} bytes that were announced")


class Multipart:
    """A form's body: iterable as often as needed, with a length known in advance."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._boundary = os.urandom(16).hex()
        self._parts = [(self._head(part), part) for part in parts]
        self._end = f"--{self._boundary}--\r\n".encode("ascii")

    @property
    def content_type(self) -> str:
        """The header that announces it."""
        return f"multipart/form-data; boundary={self._boundary}"

    def __len__(self) -> int:
        return sum(len(head) + part.length + len(_CRLF) for head, part in self._parts) + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        for head, part in self._parts:
            yield head
            yield from part.pieces()
            yield _CRLF
        yield self._end

    def _head(self, part: Part) -> bytes:
        lines = [f"--{self._boundary}", f'Content-Disposition: form-data; name="{_quoted(part.name)}"']
        if part.filename is not None:
            lines[1] += f'; filename="{_quoted(part.filename)}"'
        if part.content_type is not None:
            lines.append(f"Content-Type: {part.content_type}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")


def _quoted(text: str) -> str:
    # Source: WHATWG HTML, "multipart/form-data encoding algorithm".
    return text.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


class Body:
    """What is sent. Large bodies go in pieces; an error of ours in making them is kept apart from the network's."""

    def __init__(self, json: Any, content: bytes | Token | None, files: Sequence[Part] | None) -> None:
        self.error: Exception | None = None
        self.secret = content if isinstance(content, Token) else None
        self.content_type: str | None = None
        self._whole: bytes | Multipart | None = None
        if files is not None:
            self._whole = Multipart(files)
            self.content_type = self._whole.content_type
        elif json is not None:
            self._whole = canonical_json(json)
            self.content_type = "application/json"
        elif isinstance(content, bytes):
            self._whole = content
            self.content_type = "application/octet-stream"

    def stream(self) -> Any:
        """What requests is given: bytes, or itself to iterate over."""
        return self._whole if isinstance(self._whole, bytes) and len(self._whole) <= PIECE_BYTES else self or None

    def __len__(self) -> int:
        return 0 if self._whole is None else len(self._whole)

    def __iter__(self) -> Iterator[bytes]:
        try:
            for part in [self._whole] if isinstance(self._whole, bytes) else self._whole or ():
                for start in range(0, len(part), PIECE_BYTES):
                    yield part[start : start + PIECE_BYTES]
        except Exception as error:
            self.error = error
            raise
