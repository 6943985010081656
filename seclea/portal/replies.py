"""What the portal answers: JSON, and refusals that say what to do."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response


class Refusal(Exception):
    """A request that is not carried out: a status, a sentence for a person and machine-readable details.

    Args:
        status: HTTP status.
        detail: the sentence.
        headers: sent along.
        more: further members of the JSON body (``code``, ``expected``, ...).
    """

    def __init__(self, status: int, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}
        self.more = more

    def body(self, request_id: str) -> dict[str, Any]:
        """The JSON body."""
        return {"detail": self.detail, **self.more, "request_id": request_id}


def bad(detail: str, **more: Any) -> Refusal:
    """400: the request itself is wrong."""
    return Refusal(400, detail, **more)


def not_found(what: str = "Not found.") -> Refusal:
    """404, the same whether it does not exist or belongs to another organisation."""
    return Refusal(404, what)


def missing_parent(kind: str, name: str) -> Refusal:
    """404 that a client of the extensions understands: send that first."""
    return Refusal(404, f"There is no {kind} {name}.", code="missing_parent", missing=name)


def already_exists(kind: str, fields: str, uuid: str | None = None) -> Refusal:
    """400 in the words that existing clients look for."""
    detail = f"The fields {fields} must make a unique set: this {kind} already exists."
    more: dict[str, Any] = {"uuid": uuid} if uuid else {}
    return Refusal(400, detail, code="already_exists", **more)


def dumps(value: Any) -> bytes:
    """Compact JSON; never a NaN literal."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def json_reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    return raw_json(dumps(value), status, headers)


def raw_json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response from bytes that are JSON already."""
    return Response(body, status, headers, media_type="application/json")
