"""How the pipeline of a home stands, in one documented form: ``seclea status --json`` and `SecleaAI.status`."""

from __future__ import annotations

import json
import time
from typing import Any

from seclea.api.tokens import TokenStore
from seclea.contract import LOCAL, Home
from seclea.errors import LedgerError, PipelineError, SecleaError
from seclea.ledger.view import PAUSES, THINNED, LedgerView
from seclea.processes.rendezvous import ask

STATUS_VERSION = 1
_TROUBLED = 100  # records named one by one; the counts are of all


def status(home: Home) -> dict[str, Any]:
    """The status of a home as a JSON-ready dict, whether its processes run or not (docs/reference.md)."""
    try:
        live = ask(home, {"op": "status"}, 2.0) or {}
    except PipelineError as error:
        live = {"trouble": str(error)}
    result: dict[str, Any] = {
        "version": STATUS_VERSION,
        "home": str(home.path),
        "writer": {"pid": live.get("writer"), "trouble": live.get("trouble")},
        "sender": {"pid": live.get("sender"), "restarts": live.get("sender_restarts", 0)},
        "clients": live.get("clients", []),
        "paused": live.get("paused") is not None,
        "paused_reason": live.get("paused"),
        "paused_since_ns": live.get("paused_since_ns"),
        "pauses": {"count": 0, "seconds": 0.0, "by_reason": {}},
        "refused_payloads": live.get("refused_payloads", 0),
        "usage": live.get("usage"),
        "limits": live.get("limits"),
        "limits_trouble": live.get("limits_trouble"),
        "kept_here_gone": {"records": 0, "points": 0},
        "records": {},
        "pending": {"records": 0, "bytes": 0},
        "delivered": {"records": 0, "points": 0, "bytes": 0},
        "failed_or_held": [],
        "destinations": [],
        "left_out": [],
    }
    try:
        with LedgerView(home.ledger) as view:
            _add_ledger(result, view, home)
    except LedgerError as error:
        result["ledger"] = str(error)
    return result


def _add_ledger(result: dict[str, Any], view: LedgerView, home: Home) -> None:
    result["records"] = view.counts()
    records, size = view.pending()
    result["pending"] = {"records": records, "bytes": size}
    records, points, size = view.delivered()
    result["delivered"] = {"records": records, "points": points, "bytes": size}
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
    result["left_out"] = view.left_out()
    result["pauses"] = _pauses(view, result["paused_since_ns"])
    records, points = json.loads(view.meta(THINNED) or "[0, 0]")
    result["kept_here_gone"] = {"records": records, "points": points}
    for row in view.destinations():
        pending, pending_bytes = view.pending(row["id"])
        result["destinations"].append(
            {
                "platform_url": row["platform_url"],
                "auth_url": row["auth_url"],
                "organization": row["organization"],
                "address": _portal_address(home) if row["platform_url"] == LOCAL else row["platform_url"],
                "logged_in": _logged_in(home, row["platform_url"], row["auth_url"]),
                "breaker": _breaker(row["breaker"]),
                "hold": row["hold"],
                "last_error": view.last_error(row["id"]),
                "requests": row["requests"],
                "retries": row["retries"],
                "pending": {"records": pending, "bytes": pending_bytes},
            }
        )


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


def _breaker(value: str | None) -> dict[str, Any]:
    """The breaker in words: closed, open (with the seconds until the next probe), or half-open."""
    state = json.loads(value) if value else {}
    failures, until = state.get("failures", 0), state.get("open_until")
    if failures < 3:
        return {"state": "closed", "failures": failures, "seconds_left": None}
    left = None if until is None else round(until - time.monotonic(), 1)
    if left is not None and 0 < left <= 60:
        return {"state": "open", "failures": failures, "seconds_left": left}
    return {"state": "half-open", "failures": failures, "seconds_left": None}
