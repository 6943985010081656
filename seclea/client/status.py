"""How the pipeline of a home stands, in one documented form: ``seclea status --json`` and `SecleaAI.status`."""

from __future__ import annotations

import datetime as dt
import json
import time
from typing import Any

from seclea.api.tokens import TokenStore
from seclea.contract import LOCAL, Home
from seclea.director.outlook import Outlook
from seclea.errors import ConfigurationError, LedgerError, PipelineError, SecleaError
from seclea.ledger import ends, tallies
from seclea.ledger.tallies import Tally
from seclea.ledger.view import DAMAGE, PAUSES, THINNED, LedgerView
from seclea.processes.rendezvous import ask
from seclea.settings import load

STATUS_VERSION = 1
_TROUBLED = 100  # records named one by one; the counts are of all
_RUNS = 20  # runs named whose process did not say how they ended
_NO_END = "its process came to its end in order and did not call finish(); nobody speaks for it any more"


def status(home: Home) -> dict[str, Any]:
    """The status of a home as a JSON-ready dict, whether its processes run or not (docs/reference.md)."""
    try:
        live = ask(home, {"op": "status"}, 2.0) or {}
    except PipelineError as error:
        live = {"trouble": str(error)}
    result: dict[str, Any] = {
        "version": STATUS_VERSION,
        "home": str(home.path),
        "settings_problem": _settings_problem(),
        "writer": {"pid": live.get("writer"), "trouble": live.get("trouble"), "started": iso(live.get("started_ns"))},
        "sender": {
            "pid": live.get("sender"),
            "restarts": live.get("sender_restarts", 0),
            "trouble": live.get("sender_trouble"),
        },
        "clients": live.get("clients", []),
        "paused": live.get("paused") is not None,
        "paused_reason": live.get("paused"),
        "paused_since": iso(live.get("paused_since_ns")),
        "pauses": {"count": 0, "seconds": 0.0, "by_reason": {}},
        "refused_payloads": live.get("refused_payloads", 0),
        "usage": live.get("usage"),
        "limits": live.get("limits"),
        "limits_trouble": live.get("limits_trouble"),
        "kept_here_gone": {"records": 0, "points": 0},
        "records": {},
        "pending": {"records": 0, "bytes": 0},
        "delivered": {"records": 0, "points": 0, "bytes": 0},
        "failed": 0,
        "held": 0,
        "failed_or_held": [],
        "destinations": [],
        "ended_by_writer": [],
        "without_end": [],
        "left_out": [],
        "left_out_by_reason": [],
        "damage": None,
    }
    try:
        with LedgerView(home.ledger) as view:
            _add_ledger(result, view, home, live.get("paused_since_ns"))
    except LedgerError as error:
        result["ledger"] = str(error)
    return result


def damage_of(home: Home) -> dict[str, str] | None:
    """The last time that the ledger was salvaged, as far as it can be read."""
    try:
        with LedgerView(home.ledger) as view:
            return _damage(view)
    except LedgerError:
        return None


def _damage(view: LedgerView) -> dict[str, str] | None:
    noted = view.meta(DAMAGE)
    if noted is None:
        return None
    time_ns, words, place = json.loads(noted)
    return {"time": iso(time_ns) or "", "words": words, "place": place}


def iso(ns: int | None) -> str | None:
    """A moment as 2026-11-24T12:03:00Z."""
    return None if not ns else dt.datetime.fromtimestamp(ns // 1_000_000_000, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _settings_problem() -> str | None:
    """What a client that started here and now would be told of its settings: a misspelt variable, a wrong file."""
    try:
        load()
    except ConfigurationError as error:
        return str(error)
    return None


def _add_ledger(result: dict[str, Any], view: LedgerView, home: Home, paused_since_ns: int | None) -> None:
    now_ns = time.time_ns()
    result["records"] = view.counts()
    records, size = view.pending()
    result["pending"] = {"records": records, "bytes": size}
    records, points, size = view.delivered()
    result["delivered"] = {"records": records, "points": points, "bytes": size}
    result["failed"], result["held"] = tallies.troubled(view)
    result["failed_or_held"] = [
        {
            "record": row["id"],
            "kind": row["kind"],
            "name": row["name"],
            "status": "Failed" if row["status"] == "Failed" else "held",
            "reason": row["error"] if row["status"] == "Failed" else row["hold"],
        }
        for row in view.troubled(limit=_TROUBLED)
    ]
    result["pauses"] = _pauses(view, paused_since_ns)
    records, points = json.loads(view.meta(THINNED) or "[0, 0]")
    result["kept_here_gone"] = {"records": records, "points": points}
    result["ended_by_writer"] = [
        {"run": row["run"], "name": row["name"], "status": row["status"], "reason": row["reason"]}
        for row in ends.ended_by_writer(view, _RUNS)
    ]
    result["without_end"] = [
        {"run": row["run"], "name": row["name"], "reason": _NO_END} for row in ends.without_end(view, _RUNS)
    ]
    result["left_out"] = view.left_out()
    result["damage"] = _damage(view)
    result["left_out_by_reason"] = [_tally(one) for one in tallies.left_out(view)]
    result["destinations"] = [_destination(dict(row), view, home, now_ns) for row in view.destinations()]


def _tally(tally: Tally) -> dict[str, Any]:
    return {"reason": tally.reason, "count": tally.count, "last": iso(tally.last_ns)}


def _destination(row: dict[str, Any], view: LedgerView, home: Home, now_ns: int) -> dict[str, Any]:
    pending, pending_bytes = view.pending(row["id"])
    delivered, points, delivered_bytes = view.delivered(row["id"])
    logged_in = _logged_in(home, row["platform_url"], row["auth_url"])
    outlook = Outlook.of_row(row, now_ns, time.monotonic())
    why = outlook.why_nothing_moves(now_ns)
    if not why and pending and not logged_in:
        why = "not logged in"
    left = outlook.next_try_seconds
    return {
        "platform_url": row["platform_url"],
        "auth_url": row["auth_url"],
        "organization": row["organization"],
        "address": _portal_address(home) if row["platform_url"] == LOCAL else row["platform_url"],
        "logged_in": logged_in,
        "state": why or _state(pending, *tallies.troubled(view, row["id"])),
        "do": _what_to_do(outlook, logged_in, pending),
        "breaker": _breaker(outlook),
        "hold": outlook.hold,
        "hold_since": iso(outlook.hold_ns),
        "last_error": view.last_error(row["id"]),
        "failing_since": iso(outlook.trouble_ns),
        "next_try_seconds": None if left is None else round(left, 1),
        "requests": row["requests"],
        "retries": row["retries"],
        "failed_attempts": [{"reason": one.reason, "count": one.count} for one in tallies.attempts(view, row["id"])],
        "pending": {"records": pending, "bytes": pending_bytes},
        "delivered": {"records": delivered, "points": points, "bytes": delivered_bytes},
    }


def _state(pending: int, failed: int, held: int) -> str:
    if pending:
        return "sending"
    return "nothing to send but what failed or is held" if failed or held else "all is delivered"


def _what_to_do(outlook: Outlook, logged_in: bool, pending: int) -> str | None:
    if not logged_in and (outlook.hold or pending):
        return "seclea login"
    return "seclea retry, once that is right" if outlook.hold else None


def _pauses(view: LedgerView, since_ns: int | None) -> dict[str, Any]:
    """All pauses that are over, and the one that is."""
    by_reason = {
        kind: {"count": int(count), "seconds": seconds}
        for kind, (count, seconds) in json.loads(view.meta(PAUSES) or "{}").items()
    }
    now = max(0.0, (time.time_ns() - since_ns) / 1e9) if since_ns else 0.0
    return {
        "count": sum(one["count"] for one in by_reason.values()) + bool(since_ns),
        "seconds": round(sum(one["seconds"] for one in by_reason.values()) + now, 3),
        "by_reason": by_reason,
    }


def _portal_address(home: Home) -> str | None:
    try:
        return str(json.loads((home.portal / "address.json").read_text("utf-8"))["url"])
    except (OSError, ValueError, KeyError):
        return None


def _logged_in(home: Home, platform_url: str, auth_url: str) -> bool:
    if platform_url == LOCAL:
        return True
    try:
        return TokenStore(home.tokens).read(auth_url) is not None
    except SecleaError:
        return False


def _breaker(outlook: Outlook) -> dict[str, Any]:
    """The breaker in words: closed, open (with the seconds until the next probe), or half-open."""
    left = round(outlook.next_try_seconds or 0.0, 1) if outlook.is_open else None
    state = "open" if outlook.is_open else "half-open" if outlook.is_failing else "closed"
    return {"state": state, "failures": outlook.failures, "seconds_left": left}
