"""What a reply means: the table of DESIGN section 7 as one pure function.

    200 201              DELIVERED        JSON as it should be, else UNKNOWN: a login page is no receipt
    other 1xx 2xx        UNKNOWN          not an answer of the interface
    3xx                  HOLD             names the other host; nothing follows it
    400 422 other 4xx    REFUSED          this record only
    401                  HOLD             after one refresh (`Api`)
    402                  HOLD             the organization's account
    403                  WAIT             after one refresh (`Api`); rights can be granted
    404                  MISSING          with code "missing_parent"; else as 405
    405 407 410 411 421 426 431 451 501 505 511   HOLD   address, version or a proxy: would be so for every record
    408                  UNKNOWN
    409                  by code: running WAIT, gap GAP, conflict REFUSED, missing_chunks MISSING
    413                  REFUSED          it is sent in chunks already
    423 425 429          WAIT             Retry-After, where it says one
    503                  WAIT             with a Retry-After; without one as 500, so that the breaker counts it
    other 5xx            UNAVAILABLE

A reply of any shape gets a verdict: nothing in headers or body makes this raise.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

from seclea.contract import Outcome, Verdict
from seclea.errors import AuthenticationError, PortalError, PortalUnavailable, SecleaError
from seclea.records import Record, RecordKind

MAX_RETRY_AFTER_SECONDS = 3600.0  # a portal that says more is asked again all the same
MAX_DETAIL = 500  # characters of the portal's words that are kept
_MAX_ID = 200  # characters of a remote id

HELD = frozenset({405, 407, 410, 411, 421, 426, 431, 451, 501, 505, 511})
_LOGIN = "Log in: seclea login."
_WORDS: Final[Mapping[int, str]] = {
    401: "the portal does not accept the login",
    402: "the organization's account is not paid up",
    403: "the portal denies the right to do this",
    404: "the portal does not know this address: check platform_url and the portal's version",
    405: "the portal does not take this request: check platform_url and the portal's version",
    407: "a proxy asks for a login",
    408: "the portal gave up waiting for the request",
    410: "the portal has no such address any more: check platform_url and the portal's version",
    413: "the portal says that it is too large",
    426: "the portal asks for another protocol",
    429: "the portal asks for fewer requests",
    501: "the portal does not know this request: check its version",
    503: "the portal is not ready",
    511: "a network login page is in the way",
}


def classify(
    status: int,
    headers: Mapping[str, str],
    json_body: Any,
    kind: RecordKind | None = None,
    *,
    text: str = "",
    now_seconds: float | None = None,
) -> Outcome:
    """The verdict on one reply.

    Args:
        headers: names in any case.
        json_body: the body as JSON; `NOT_JSON` where it is none.
        kind: of the record that was sent; None for chunks and questions, whose body need not be an object.
        text: the body where it is no JSON; only quoted.
        now_seconds: wall clock, for a date in Retry-After when the reply has no Date of its own.
    """
    body = json_body if isinstance(json_body, dict) else {}
    code = str(body.get("code", ""))
    detail = _detail(status, body, text)
    retry_after = retry_after_seconds(headers, now_seconds)
    if status in (200, 201):
        return _success(status, json_body, kind)
    if 300 <= status < 400:
        return Outcome(
            Verdict.HOLD, status, f"the portal redirects to {_place(headers)}: set platform_url to that if right"
        )
    if status == 401:
        return Outcome(Verdict.HOLD, status, f"{detail}. {_LOGIN}")
    if status == 402 or status in HELD:
        return Outcome(Verdict.HOLD, status, detail)
    if status == 404:
        if code == "missing_parent":
            said = clean(str(body.get("detail", "a parent is missing")))
            return Outcome(
                Verdict.MISSING, status, said, missing=_texts(body.get("missing")) + _texts(body.get("parent"))
            )
        return Outcome(Verdict.HOLD, status, detail)
    if status == 409:
        return _conflict(status, code, body, detail, retry_after)
    if status == 403 or status in (423, 425, 429) or (status == 503 and retry_after is not None):
        return Outcome(Verdict.WAIT, status, detail, retry_after_seconds=retry_after)
    if 400 <= status < 500 and status != 408:
        return Outcome(Verdict.REFUSED, status, detail)
    if 500 <= status < 600:
        return Outcome(Verdict.UNAVAILABLE, status, detail, retry_after_seconds=retry_after)
    return Outcome(Verdict.UNKNOWN, status, detail)


class _NotJson:
    def __repr__(self) -> str:
        return "NOT_JSON"


NOT_JSON: Final = _NotJson()


def _success(status: int, json_body: Any, kind: RecordKind | None) -> Outcome:
    if json_body is NOT_JSON or (kind is not None and not isinstance(json_body, dict)):
        return Outcome(Verdict.UNKNOWN, status, "the reply is not the portal's: another service answers in its place")
    body = json_body if isinstance(json_body, dict) else {}
    remote_id, receipt = body.get("uuid"), body.get("receipt")
    return Outcome(
        Verdict.DELIVERED,
        status,
        remote_id=remote_id if isinstance(remote_id, str) and 0 < len(remote_id) <= _MAX_ID else None,
        receipt=receipt if isinstance(receipt, dict) else None,
    )


def _conflict(status: int, code: str, body: Mapping[str, Any], detail: str, retry_after: float | None) -> Outcome:
    if code == "running":
        return Outcome(Verdict.WAIT, status, detail, retry_after_seconds=retry_after)
    if code == "gap":
        expected = body.get("expected")
        if type(expected) is int and 1 <= expected < 2**63:
            return Outcome(Verdict.GAP, status, detail, expected=expected)
        return Outcome(Verdict.UNKNOWN, status, f"{detail} (a gap without the sequence expected)")
    if code == "missing_chunks":
        return Outcome(Verdict.MISSING, status, detail, missing=_texts(body.get("missing")))
    if code == "conflict":
        said = ", ".join(f"{name} {body[name]}" for name in sorted(body, key=str) if _is_digest(body[name]))
        return Outcome(Verdict.REFUSED, status, f"{detail} ({said})" if said else detail)
    return Outcome(Verdict.REFUSED, status, detail)


def is_duplicate(status: int, json_body: Any, text: str = "") -> bool:
    """Whether a refusal says that the object is there already, in the words of any generation of portals."""
    if status not in (400, 409):
        return False
    if isinstance(json_body, dict) and json_body.get("code") == "already_exists":
        return True
    words = text if json_body is NOT_JSON else json.dumps(json_body, ensure_ascii=False)
    return "already exists" in words or "must make a unique set" in words


def check_receipt(outcome: Outcome, record: Record) -> Outcome:
    """The outcome of a record that stands in a stream: no success without the receipt for just this record."""
    if outcome.verdict is not Verdict.DELIVERED:
        return outcome
    receipt = outcome.receipt
    if receipt is None:
        return Outcome(Verdict.UNKNOWN, outcome.status, "the reply has no receipt")
    stream = str(receipt.get("stream", "")).replace("-", "")
    said = (stream, receipt.get("lane"), receipt.get("sequence"), receipt.get("chain"))
    if said != (record.stream.hex(), record.lane.value, record.last, record.chain.hex()):
        return Outcome(
            Verdict.HOLD, outcome.status, f"the portal's receipt is for something else than {record.kind} {record.key}"
        )
    return outcome


def outcome_of(error: SecleaError) -> Outcome:
    """The outcome that an error of `Api` or `Session` stands for, where a caller must go on with a verdict."""
    given = getattr(error, "outcome", None)
    if isinstance(given, Outcome):
        return given
    if getattr(error, "outcome_unknown", False):
        return Outcome(Verdict.UNKNOWN, detail=str(error))
    if isinstance(error, PortalUnavailable) and not getattr(error, "waiting_is_vain", False):
        return Outcome(Verdict.UNAVAILABLE, detail=str(error))
    return Outcome(Verdict.HOLD, 401 if isinstance(error, AuthenticationError) else 0, str(error))


def error_of(outcome: Outcome, name: str, *, of_portal: bool = False) -> SecleaError:
    """The error to raise where a caller waits for an answer from ``name`` and got this instead.

    ``of_portal``: the question was about the portal, not a record: its refusal would be the same for every record, and
    must cost none of them.
    """
    if of_portal and outcome.verdict is Verdict.REFUSED:
        outcome = replace(outcome, verdict=Verdict.HOLD)
    words = f"{name}: {outcome.detail or outcome.verdict.value}"
    passing = outcome.verdict in (Verdict.UNAVAILABLE, Verdict.UNKNOWN, Verdict.WAIT) and outcome.status != 403
    kind = AuthenticationError if outcome.status == 401 else PortalUnavailable if passing else PortalError
    error: SecleaError = kind(words)
    if outcome.verdict is not Verdict.DELIVERED:  # an error must never be taken for a success
        vars(error)["outcome"] = outcome  # for `outcome_of`; an error that crosses processes goes without
    return error


def strange(words: str, status: int) -> PortalError:
    """The error for a success whose body is not in the form that was asked for.

    It says nothing for good: for the sender (`outcome_of`) it is an unknown outcome, so that the question is asked again.
    """
    error = PortalError(words)
    vars(error)["outcome"] = Outcome(Verdict.UNKNOWN, status, words)
    return error


# ------------------------------------------------------------------------------------------------------------------


def retry_after_seconds(headers: Mapping[str, str], now_seconds: float | None = None) -> float | None:
    """What Retry-After asks for, at most an hour; None for none, a past date, zero or nonsense: then backoff decides.

    A date is compared with the reply's own Date, so that a wrong clock here does not matter.
    """
    lower = {str(name).lower(): str(value) for name, value in headers.items()}
    value = lower.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,400}(\.[0-9]{1,20})?", value):
        seconds = float(value)
    else:
        until = _date(value)
        since = _date(lower.get("date", "")) or (time.time() if now_seconds is None else now_seconds)
        seconds = until - since if until is not None else 0.0
    return min(seconds, MAX_RETRY_AFTER_SECONDS) if seconds > 0 else None


def _date(text: str) -> float | None:
    try:
        seconds = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None
    return seconds if math.isfinite(seconds) else None


def _detail(status: int, body: Mapping[str, Any], text: str) -> str:
    said = body.get("detail", body) if body else text
    if not isinstance(said, str):
        said = json.dumps(said, ensure_ascii=False)
    said = clean(said)
    own = _WORDS.get(status, "")
    if said[:1] == "<":  # a page for people, of some server on the way
        said = ""
    return (f"{own} ({said})" if said else own) if own else said or f"status {status}"


def clean(text: str) -> str:
    """Words of a server, for logs and terminals: one line, no control characters, not too long."""
    printable = "".join(char if char.isprintable() else " " for char in text[: 4 * MAX_DETAIL])
    words = " ".join(printable.split()).rstrip(".")
    return words if len(words) <= MAX_DETAIL else words[: MAX_DETAIL - 3] + "..."


def _texts(value: Any) -> tuple[str, ...]:
    """Ids or digests out of a reply: a text, or a list of them."""
    if isinstance(value, str):
        value = [value]
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F]{32,128}", value) is not None


def _place(headers: Mapping[str, str]) -> str:
    location = next((str(value) for name, value in headers.items() if str(name).lower() == "location"), "")
    try:
        parts = urlsplit(location)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an unreadable address"
    return clean(f"{parts.scheme or 'http'}://{host}{port}") if host else "another path of its own"
