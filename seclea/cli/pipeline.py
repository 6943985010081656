"""Commands that look at, or talk to, the background processes of a home."""

from __future__ import annotations

import contextlib
import sys
import time
import webbrowser
from pathlib import Path
from typing import Any

from seclea.api.session import Session
from seclea.client.waiting import complete, flush
from seclea.contract import Home
from seclea.director import Progress, progress
from seclea.director.outlook import records
from seclea.errors import PipelineError, PortalUnavailable, UsageError
from seclea.processes.liveness import ProcessIdentity, identity_of, is_alive
from seclea.processes.rendezvous import ask, is_held, prepare, take_lock, where_it_listens
from seclea.processes.start import ensure_writer
from seclea.sender.embedded import EmbeddedPortal, missing_parts
from seclea.settings import home_directory


def this_home() -> Home:
    """The home of this environment."""
    return Home(home_directory().path)


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
    return _not_done("Not everything is durable.", result)


def complete_all(timeout_seconds: float, home: Home | None = None) -> int:
    """Wait until everything of a home is delivered, or nothing more can be until a person does something."""
    home = home or this_home()
    if not home.path.exists():
        print("Nothing was ever recorded here.")
        return 0
    result = complete(home, None, timeout_seconds)
    if result.done:
        print(f"Delivered: all {records(result.delivered)} of this home.")
        return 0
    return _not_done("Not everything is delivered.", result)


def _not_done(what: str, result: Progress) -> int:
    if result.interrupted:  # which has said so
        return 130
    lines = [what] + [f"  {one}" for one in result.left]
    print("\n".join(lines), file=sys.stderr)
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
        time.sleep(0.02)  # a poll with a deadline: nobody tells of the end of a process that is not our child
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
    """Lift holds, and send again what was refused or held."""
    answer = _ask_a_writer({"op": "resume", "destination": None, "retry": True})
    print(f"Destinations on hold are tried again. Failed and held records that are sent again: {answer['again']}.")
    if answer["left"]:
        print(f"{answer['left']} failed records cannot be: what they held is damaged, or in the way of another.")
    return 0


def dismiss(records: list[int] | None) -> int:
    """Let failed and held records be; None: all of them."""
    if records is not None and not records:
        raise UsageError("No record was named.", "Name numbers that `seclea status` shows, or pass --all.")
    count = _ask_a_writer({"op": "dismiss", "records": records})["dismissed"]
    print(f"Failed and held records that are let be: {count}. They are kept, and no longer told as trouble.")
    return 0 if records is None or count == len(set(records)) else 1


def _ask_a_writer(message: dict[str, Any]) -> dict[str, Any]:
    """The answer of the home's writer, which is started where none runs."""
    home = this_home()
    prepare(home)
    ensure_writer(home)
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        if (answer := ask(home, message, 5.0)) is not None:
            return answer
        time.sleep(0.05)  # a poll with a deadline: a writer that starts has nobody to tell it to yet
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
