"""``seclea status``: how a home stands, to be understood in ten seconds."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seclea.client.status import status
from seclea.contract import Home
from seclea.director.outlook import clock, records, span
from seclea.settings import format_size, home_directory

_NAMED = 10  # failed and held records on the screen; the others are in --json
_UNDER = " " * 11
_KINDS = {
    "metrics": ("batch of metrics", "batches of metrics"),
    "finish": ("end of a run", "ends of runs"),
    "tombstone": ("tombstone", "tombstones"),
}
_CALLS = {"raise": "log calls raise LoggingPaused", "drop": "log calls are left out, and counted"}


def show_status(*, as_json: bool) -> int:
    """Print the status; exit code 1 when something failed or is held."""
    home = Home(home_directory().path)
    now = status(home)
    print(json.dumps(now, indent=2) if as_json else "\n".join(lines(now, time.time_ns())))
    no_sender = now["sender"]["trouble"] and not now["sender"]["pid"]
    cannot_go_on = now["writer"]["trouble"] or no_sender or ("ledger" in now and home.ledger.exists())
    troubled = now["failed_or_held"] or any(one["hold"] for one in now["destinations"])
    return 1 if troubled or cannot_go_on else 0


def lines(now: dict[str, Any], now_ns: int) -> Iterator[str]:
    """A status as text: who runs, what is wrong and what to do about it, then the numbers."""
    yield _line("home", now["home"])
    if now["settings_problem"]:
        yield _line("settings", now["settings_problem"])
    yield _line("pipeline", _who_runs(now, now_ns))
    if now["writer"]["trouble"]:
        yield _line("trouble", now["writer"]["trouble"])
    if now["sender"]["trouble"]:
        yield _line("sender", now["sender"]["trouble"])
    if "ledger" in now:
        yield _line("ledger", now["ledger"])
    if now["damage"] and Path(now["damage"]["place"]).exists():
        yield _line("damage", f"{_when(now['damage']['time'], now_ns)}: {now['damage']['words']}")
    yield from _paused(now, now_ns)
    for one in now["destinations"]:
        yield from _destination(one)
    yield from _troubled(now)
    yield from _runs(now)
    yield from _numbers(now, now_ns)


def _line(name: str, text: str) -> str:
    return f"{name:<10} {text}"


def _when(moment: str, now_ns: int) -> str:
    return clock(int(dt.datetime.fromisoformat(moment).timestamp()) * 1_000_000_000, now_ns)


def _who_runs(now: dict[str, Any], now_ns: int) -> str:
    writer, sender = now["writer"], now["sender"]
    if not writer["pid"]:
        waits = f"; {records(now['pending']['records'])} wait for its next start" if now["pending"]["records"] else ""
        return f"not running{waits} (it starts with a job, or by: seclea retry)"
    since = f" since {_when(writer['started'], now_ns)}" if writer["started"] else ""
    sends = f"sender {sender['pid']}" if sender["pid"] else "sender starting"
    again = f" (restarted {sender['restarts']} times)" if sender["restarts"] else ""
    clients = len(now["clients"])
    jobs = f"; {clients} process{'es' * (clients != 1)} may log" if clients else "; no process logs"
    return f"running{since}: writer {writer['pid']}, {sends}{again}{jobs}"


def _paused(now: dict[str, Any], now_ns: int) -> Iterator[str]:
    if now["paused"]:
        since = f"since {_when(now['paused_since'], now_ns)}: " if now["paused_since"] else ""
        yield _line("PAUSED", f"{since}{now['paused_reason']}")
        calls = _CALLS.get(str((now["limits"] or {}).get("when_full")), "log calls wait")
        yield f"{_UNDER}{calls}. → make room, or raise the limit in .seclearc (seclea config --origin)"
    if now["usage"]:
        usage, limits = now["usage"], now["limits"]
        memory, disk = (
            f"{format_size(usage[f'{what}_bytes'])} of {format_size(limits[what])}" for what in ("memory", "disk")
        )
        yield _line("usage", f"memory {memory}, disk {disk}, {format_size(usage['free_disk_bytes'])} free")


def _destination(one: dict[str, Any]) -> Iterator[str]:
    place = one["platform_url"]
    if place == "local":
        place = f"this home's own, {one['address'] or 'not started'}"
    yield _line("portal", f"{place}, organization {one['organization']}")
    yield f"{_UNDER}{one['state']}"
    if one["do"]:
        yield f"{_UNDER}→ {one['do']}"
    left, done = one["pending"], one["delivered"]
    waits = f"{records(left['records'])} ({format_size(left['bytes'])}) pending, " if left["records"] else ""
    yield f"{_UNDER}{waits}{records(done['records'])} ({format_size(done['bytes'])}) delivered"
    if one["failed_attempts"]:
        reasons = ", ".join(f"{some['reason']} {some['count']}×" for some in one["failed_attempts"])
        yield f"{_UNDER}attempts that did not come through: {reasons}"


def _troubled(now: dict[str, Any]) -> Iterator[str]:
    what_to_do = {
        "Failed": "the portal refused them; they are kept. → put right what it says, then: seclea retry; or: seclea dismiss",
        "held": "they wait for a record that failed, and are kept",
    }
    for status_name, name in (("Failed", "failed"), ("held", "held")):
        if not now[name]:
            continue
        yield _line(name, f"{records(now[name])}: {what_to_do[status_name]}")
        named = [one for one in now["failed_or_held"] if one["status"] == status_name][:_NAMED]
        for one in named:
            kind = one["kind"].replace("_", " ")
            yield f"{_UNDER}{kind} {one['name'] or one['record']}: {one['reason']}"
        if now[name] > len(named):
            yield f"{_UNDER}and {now[name] - len(named):,} more (seclea status --json)"


def _runs(now: dict[str, Any]) -> Iterator[str]:
    """Runs whose own process did not say how they ended."""
    told = [f"{one['name']} is {one['status']}: {one['reason']}" for one in now["ended_by_writer"]]
    told += [f"{one['name']} is still running: {one['reason']}" for one in now["without_end"]]
    for number, text in enumerate(told[:_NAMED]):
        yield f"{_UNDER}{text}" if number else _line("runs", text)
    if len(told) > _NAMED:
        yield f"{_UNDER}and {len(told) - _NAMED} more (seclea status --json)"


def _numbers(now: dict[str, Any], now_ns: int) -> Iterator[str]:
    if lost := now["left_out_by_reason"]:
        reasons = ", ".join(f"{one['reason']} {one['count']:,}" for one in lost)
        last = _when(max(one["last"] for one in lost), now_ns)
        yield _line("left out", f"{sum(one['count'] for one in lost):,} log calls, the last at {last}: {reasons}")
    if now["pauses"]["count"]:
        by_reason = now["pauses"]["by_reason"].items()
        reasons = ", ".join(f"{reason} {one['count']}× ({span(one['seconds'])})" for reason, one in by_reason)
        yield _line("pauses", f"{now['pauses']['count']} in all, {span(now['pauses']['seconds'])}: {reasons}")
    kinds = [_counted(sum(by_status.values()), kind) for kind, by_status in sorted(now["records"].items())]
    if kinds:
        yield _line("recorded", f"{', '.join(kinds)}; {now['delivered']['points']:,} metric values delivered")


def _counted(number: int, kind: str) -> str:
    one, many = _KINDS.get(kind, (kind.replace("_", " "), kind.replace("_", " ") + "s"))
    return f"{number:,} {one if number == 1 else many}"
