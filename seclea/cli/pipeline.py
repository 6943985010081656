"""Commands that look at, or talk to, the background processes of a home."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import webbrowser
from pathlib import Path
from typing import Any

from seclea.api.session import Session
from seclea.client.status import status
from seclea.client.waiting import flush
from seclea.contract import Home
from seclea.director import progress
from seclea.errors import PipelineError, PortalUnavailable
from seclea.processes.liveness import ProcessIdentity, identity_of, is_alive
from seclea.processes.rendezvous import ask, is_held, prepare, take_lock, where_it_listens
from seclea.processes.start import ensure_writer
from seclea.sender.embedded import EmbeddedPortal, missing_parts
from seclea.settings import format_size, home_directory


def this_home() -> Home:
    """The home of this environment."""
    return Home(home_directory().path)


# ------------------------------------------------------------------------------------------------------------------


def show_status(*, as_json: bool) -> int:
    """Print the status; exit code 1 when something failed or is held."""
    now = status(this_home())
    if as_json:
        print(json.dumps(now, indent=2))
    else:
        _print_status(now)
    troubled = now["failed_or_held"] or any(one["hold"] for one in now["destinations"])
    return 1 if troubled else 0


def _print_status(now: dict[str, Any]) -> None:
    writer, sender = now["writer"]["pid"], now["sender"]["pid"]
    running = f"writer {writer}, sender {sender or 'starting'}" if writer else "not running (nothing to do, or stopped)"
    print(f"home      {now['home']}")
    print(f"pipeline  {running}" + (f", {len(now['clients'])} clients" if now["clients"] else ""))
    if now["writer"]["trouble"]:
        print(f"trouble   {now['writer']['trouble']}")
    if now["paused"]:
        seconds = max(0, time.time_ns() - (now["paused_since_ns"] or time.time_ns())) / 1e9
        print(f"paused    {now['paused_reason']} (for {seconds:.0f} s)")
    if now["pauses"]["count"]:
        print(f"pauses    {now['pauses']['count']}, {now['pauses']['seconds']:.1f} s in all")
    if now["limits_trouble"]:
        print(f"limits    {now['limits_trouble']}")
    if now["kept_here_gone"]["records"]:
        print(f"gone      {now['kept_here_gone']['records']} records that were kept here only, for the disk limit")
    if "ledger" in now:
        print(f"ledger    {now['ledger']}")
    if now["usage"]:
        usage, limits = now["usage"], now["limits"]
        print(
            f"usage     memory {format_size(usage['memory_bytes'])} of {format_size(limits['memory'])},"
            f" disk {format_size(usage['disk_bytes'])} of {format_size(limits['disk'])}"
        )
    done, left = now["delivered"], now["pending"]
    print(f"delivered {done['records']} records, {done['points']} points, {format_size(done['bytes'])}")
    print(f"pending   {left['records']} records, {format_size(left['bytes'])}")
    for one in now["destinations"]:
        breaker = one["breaker"]
        wait = f" for {breaker['seconds_left']} s" if breaker["seconds_left"] else ""
        print(f"to        {one['platform_url']} ({one['organization']}): {one['address'] or 'portal not started'}")
        login = "" if one["logged_in"] else ", not logged in (seclea login)"
        print(
            f"          breaker {breaker['state']}{wait}, {one['requests']} requests, {one['retries']} retries{login}"
        )
        if one["hold"]:
            print(f"          on hold: {one['hold']}")
        elif one["last_error"]:
            print(f"          last answer: {one['last_error']}")
    for kind, by_status in sorted(now["records"].items()):
        print(f"  {kind:<22} " + ", ".join(f"{count} {name}" for name, count in sorted(by_status.items())))
    for row in now["failed_or_held"]:
        print(f"  {row['status']}: {row['kind']} {row['name'] or row['record']}: {row['reason']}")
    for line in now["left_out"]:
        print(f"  left out: {line}")


# ------------------------------------------------------------------------------------------------------------------


def flush_all(timeout_seconds: float) -> int:
    """Wait until everything in this home's rings is durable."""
    home = this_home()
    if not home.path.exists():
        print("Nothing was ever recorded here.")
        return 0
    result = flush(home, None, timeout_seconds)
    if result.done:
        print(f"Durable. {result.pending} records are still to be delivered.")
        return 0
    print("Not everything is durable: " + "; ".join(result.reasons), file=sys.stderr)
    return 1


def stop_all(timeout_seconds: float, home: Home | None = None) -> int:
    """Stop writer, sender and embedded portal of a home; waits until they are gone."""
    home = home or this_home()
    deadline = time.monotonic() + timeout_seconds
    told: ProcessIdentity | None = None
    while home.path.exists() and _is_there(home):
        left_seconds = deadline - time.monotonic()
        if left_seconds <= 0:
            print(f"The pipeline did not leave within {timeout_seconds:g} s; see {home.logs}.", file=sys.stderr)
            return 1
        if told is None:
            # Asked until one hears: it may be only just starting, or be started by a sender whose writer was killed.
            answer = ask(home, {"op": "stop", "portal": True}, left_seconds)
            with contextlib.suppress(ProcessLookupError):
                told = identity_of(answer["pid"]) if answer else None
        elif not is_alive(told):
            break  # what is there now was started since then, by a job that needs it
        time.sleep(0.02)
    if home.path.exists():
        if not EmbeddedPortal(home).stop():  # left up by itself, by --keep or `seclea ui`
            print(f"The portal did not leave; see {home.logs / 'portal.log'}.", file=sys.stderr)
            return 1
        _remove_sockets(home)
    left = progress(home).pending if home.ledger.exists() else 0
    print("Stopped." + (f" {left} records wait for the next start." if left else ""))
    return 0


def _is_there(home: Home) -> bool:
    """Whether a sender or writer lives or is on its way, in the order in which one follows the other without a gap."""
    return any(is_held(lock) for lock in (home.sender_lock, home.start_lock, home.writer_lock))


def _remove_sockets(home: Home) -> None:
    """Take away what killed processes left in the runtime directory."""
    lock = take_lock(home.writer_lock)
    if lock is None:
        return  # a new writer is there already
    Path(where_it_listens(home)).unlink(missing_ok=True)
    home.socket_link.unlink(missing_ok=True)
    if not is_held(home.portal / "portal.lock"):
        home.portal_socket.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other homes may have their sockets there
        home.runtime.rmdir()
    lock.release()


def resume() -> int:
    """Lift holds."""
    home = this_home()
    prepare(home)
    ensure_writer(home)
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        if ask(home, {"op": "resume", "destination": None}, 5.0) is not None:
            print("Destinations on hold are tried again. Records that a portal refused stay as they are.")
            return 0
        time.sleep(0.05)
    raise PipelineError("The background writer does not start.", f"Look at {home.logs / 'writer.log'}.")


# ------------------------------------------------------------------------------------------------------------------


def _portal_session(home: Home) -> Session:
    """A session with the embedded portal, started if need be, by the socket that only this user can open."""
    import threading

    missing = missing_parts()
    if missing:
        raise PipelineError(
            f"The embedded portal is not installed ({', '.join(missing)}).", 'pip install "seclea[portal]"'
        )
    prepare(home)
    if not EmbeddedPortal(home).ensure(threading.Event()):
        raise PortalUnavailable("The home's portal does not start.", f"Look at {home.logs / 'portal.log'}.")
    return Session("http://localhost", unix_socket=home.portal_socket)


def print_token(home: Home | None = None) -> int:
    """Print an access token of the home's portal: as JSON web token, valid for minutes."""
    print(portal_token(home or this_home()))
    return 0


def portal_token(home: Home) -> str:
    """An access token of the home's portal."""
    reply = _portal_session(home).request("POST", "/internal/token")
    return str(reply.json()["access_token"])


def open_ui(*, browser: bool) -> int:
    """Print a one-time link to the home's portal and open it."""
    link = portal_link(this_home())
    print(link)
    print("The portal stays up until `seclea stop`.")
    if browser:
        webbrowser.open(link)
    return 0


def portal_link(home: Home) -> str:
    """A link that logs one browser in, once; the portal stays up from then on."""
    session = _portal_session(home)
    session.request("POST", "/internal/stay")
    return str(session.request("POST", "/internal/link").json()["url"])
