"""The rows of the failure table: every reply and every fault of the line that DESIGN section 7 has an answer to, and more.

A row goes wrong for a number of requests (`Row.times`), or until a person sets it right; every second request of the first
sort does reach the portal and is acted upon, and only its reply is lost.
"""

from __future__ import annotations

import gzip
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from seclea.api import pace, reading
from tests.chaos.failure_bench import ACCESS, Bench, VirtualTime
from tests.contract.fault_portal import Answer, Asked
from tests.contract.fault_proxy import Trouble, http

SHORT_SECONDS = 0.2  # a reading timeout, for rows in which one has to run out


class End(Enum):
    """What a row comes to."""

    DELIVERED = "delivered"  # without anybody's help
    HELD = "held, then delivered"  # after a person has set it right
    REFUSED = "refused"  # this record; what needs it is held, the rest goes on


@dataclass(frozen=True)
class Row:
    """One way to fail.

    Attributes:
        trouble: what becomes of a request, by its number (from 0) since the row began; None: nothing.
        only_record: only the create of the record itself is hit, not every request from then on.
        begin, set_right: in place of, or beside, ``trouble``.
        times: requests until it is over by itself.
        tls: the line speaks TLS.
        quiet: the user need not hear of it.
        each: requests more at most for each time: a question and a create; of a gap the stream once more.
        only_first: it can only be met on the way of the first record.
    """

    name: str
    end: End = End.DELIVERED
    trouble: Callable[[Bench, Asked, int], Trouble | None] | None = None
    only_record: bool = False
    begin: Callable[[Bench], None] | None = None
    set_right: Callable[[Bench], None] | None = None
    times: int = 4
    tls: bool = False
    only_first: bool = False
    each: int = 2
    quiet: bool = False


def answers(name: str, reply: bytes, end: End = End.DELIVERED, **more: Any) -> Row:
    """The client gets this in place of the portal's reply."""
    reaches = end is End.DELIVERED and not more.get("only_record")
    return Row(
        name,
        end,
        lambda _bench, _asked, number: Trouble(answer=reply, reaches_portal=reaches and number % 2 == 1),
        **more,
    )


def says(status: int, end: End = End.DELIVERED, name: str = "", code: str = "", more: str = "", **headers: str) -> Row:
    """A status with a JSON body in the portal's form."""
    body = {"detail": f"this is {status}", **({"code": code} if code else {}), **(json.loads(more) if more else {})}
    shown = f"{status} {code}".strip() + (f", {name}" if name else "")
    is_records = end is End.REFUSED or bool(code)
    return answers(shown, http(status, json.dumps(body).encode(), **headers), end, only_record=is_records)


def breaks(name: str, *troubles: Trouble, **more: Any) -> Row:
    """The line breaks in these ways, in turn."""
    return Row(name, trouble=lambda _bench, _asked, number: troubles[number % len(troubles)], **more)


def _to_questions(status: int) -> Row:
    """Of the portal itself, not about a record: what is refused there must not fail a record."""

    def trouble(_bench: Bench, asked: Asked, _number: int) -> Trouble | None:
        if asked.path not in ("/api/capabilities", "/organization/"):
            return None
        return Trouble(answer=http(status, b'{"detail": "a bad question"}'), reaches_portal=False)

    return Row(f"{status} to a question", End.HELD, trouble, only_first=True)


# -- logins ------------------------------------------------------------------------------------------------------------


def _expired(_bench: Bench, asked: Asked, _number: int) -> Trouble | None:
    if asked.path.startswith("/api/") or asked.cookies.get("access_token") != ACCESS:
        return None
    return Trouble(answer=http(401, b'{"detail": "expired"}'), reaches_portal=False)


def _renews(bench: Bench) -> None:
    bench.portal.on("POST", "/api/token/refresh/", Answer(200, {}, cookies={"access_token": "renewed"}))


def _logged_out(_bench: Bench, asked: Asked, _number: int) -> Trouble | None:
    if asked.cookies.get("access_token") == "granted" or asked.path == "/api/capabilities":
        return None
    return Trouble(answer=http(401, b'{"detail": "log in"}'), reaches_portal=False)


def _denied(_bench: Bench, asked: Asked, _number: int) -> Trouble | None:
    if asked.path.startswith("/api/"):
        return None
    return Trouble(answer=http(403, b'{"detail": "not yours"}'), reaches_portal=False)


# -- the line ----------------------------------------------------------------------------------------------------------


def _elsewhere(status: int) -> Row:
    def trouble(bench: Bench, _asked: Asked, _number: int) -> Trouble:
        return Trouble(answer=http(status, Location=f"{bench.thief.url}/steal"), reaches_portal=False)

    return Row(f"{status} to another host", End.HELD, trouble)


def _silence(name: str, reaches: bool) -> Row:
    return Row(
        name,
        trouble=lambda *_: Trouble(silent=True, reaches_portal=reaches),
        begin=lambda bench: bench.read_timeout(SHORT_SECONDS),
        set_right=lambda bench: bench.read_timeout(30),
        times=2,
    )


def _slow_loris(name: str, reply: bytes) -> Row:
    """One byte of the reply each time the client waits for one; a minute goes by from byte to byte."""

    def trouble(bench: Bench, _asked: Asked, _number: int) -> Trouble:
        return Trouble(answer=reply, reaches_portal=False, piece_bytes=1, before_piece=bench.own.trickle)

    return Row(name, trouble=trouble, begin=_trickle, set_right=_flow, times=3)


def _trickle(bench: Bench) -> None:
    looked = threading.Condition()
    seen = threading.local()  # by each connection: of what was looked for when it sent its last byte

    class Ticking(VirtualTime):
        looks = 0

        def monotonic(self) -> float:
            with looked:
                self.now += 7.0
                self.looks += 1
                looked.notify_all()
                return self.now

    clock = Ticking()

    def next_piece() -> None:
        with looked:
            # The first byte is not waited for by that clock.
            assert looked.wait_for(lambda: not hasattr(seen, "looks") or clock.looks > seen.looks, 10)
            seen.looks = clock.looks

    def flow() -> None:
        with looked:
            clock.looks = sys.maxsize
            looked.notify_all()

    pace.time = clock  # type: ignore[assignment]
    bench.own.trickle = next_piece
    bench.own.flow = flow


def _flow(bench: Bench) -> None:
    pace.time = time
    bench.own.flow()


@contextmanager
def nothing_left_changed() -> Iterator[None]:
    """For a row that did not come to its end."""
    resolve = socket.getaddrinfo
    try:
        yield
    finally:
        socket.getaddrinfo = resolve
        pace.time = time


_RESOLVE = socket.getaddrinfo


def _no_such_host(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def _lose_name(bench: Bench) -> None:
    bench.proxy.drop()
    socket.getaddrinfo = _no_such_host


def _find_name(_bench: Bench) -> None:
    socket.getaddrinfo = _RESOLVE


def _certificate(name: str, which: str) -> Row:
    def begin(bench: Bench) -> None:
        bench.own.good = bench.proxy.certificate
        bench.proxy.certificate = bench.own.certificates[which]
        bench.proxy.drop()

    def set_right(bench: Bench) -> None:
        bench.proxy.certificate = bench.own.good

    return Row(name, End.HELD, begin=begin, set_right=set_right, tls=True)


def _flapping(_bench: Bench, _asked: Asked, number: int) -> Trouble | None:
    ways = (Trouble(request_bytes=0), None, Trouble(answer=http(503)), None, Trouble(reply_bytes=9), None)
    return ways[number % len(ways)]


_NOW = "Sun, 06 Nov 1994 08:49:37 GMT"
_LATER = "Sun, 06 Nov 1994 08:50:07 GMT"  # 30 s
_YEARS = "Sun, 06 Nov 2094 08:49:37 GMT"
_HTML = b"<html><title>Please log in</title></html>"
_RECEIPT = b'{"uuid": "u", "receipt": {"stream": "s"}}'

WAITS = [
    row
    for status in (429, 503)
    for row in (
        says(status),
        says(status, name="Retry-After 7 s", Retry_After="7"),
        says(status, name="Retry-After a date", Retry_After=_LATER, Date=_NOW),
        says(status, name="Retry-After past", Retry_After=_NOW, Date=_LATER),
        says(status, name="Retry-After absurd", Retry_After="99999999999999"),
        says(status, name="Retry-After in a century", Retry_After=_YEARS, Date=_NOW),
        says(status, name="Retry-After nonsense", Retry_After="-1, soon"),
    )
]
ROWS = [
    # replies, by number
    *(says(status, End.REFUSED) for status in (400, 413, 415, 422)),
    *(_to_questions(status) for status in (400, 413, 422)),
    Row("401, then renewed", trouble=_expired, begin=_renews, quiet=True),
    Row(
        "401 until a login",
        End.HELD,
        _logged_out,
        set_right=lambda bench: bench.log_in("granted"),
    ),
    *(says(status, End.HELD) for status in (402, 404, 405, 407, 410, 411, 421, 426, 431, 451, 501, 505, 511)),
    Row("403, then granted", trouble=_denied, begin=_renews),
    says(404, code="missing_parent", more='{"missing": "01900000-0000-7000-8000-00000000dead"}'),
    says(409, code="running"),
    replace(
        says(409, code="gap", more='{"expected": 1}'), times=2, each=16
    ),  # who goes on asking for it is not believed
    says(409, code="missing_chunks", more='{"missing": []}'),
    says(409, End.REFUSED, code="conflict", more=json.dumps({"sent": "0" * 64, "computed": "1" * 64})),
    *(says(status) for status in (408, 423, 425)),
    *WAITS,
    *(says(status) for status in (500, 502, 504, 507, 599)),
    answers("502 with a page", http(502, _HTML, Content_Type="text/html")),
    *(_elsewhere(status) for status in (301, 302, 303, 307, 308)),
    # replies that are none
    answers("200 with a login page", http(200, _HTML, Content_Type="text/html")),
    answers("201 of a wrong type", http(201, b'"fine"', Content_Type="text/plain")),
    answers("200 without a body", http(200)),
    answers("204", http(204)),
    answers("202", http(202, b"{}")),
    answers("101", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    answers("201 that is no JSON", http(201, b"{")),
    answers("201 with a list", http(201, b"[]"), only_record=True),
    answers("a receipt for something else", http(201, _RECEIPT), End.HELD, only_record=True),
    answers("201 without a receipt", http(201, b'{"uuid": "u"}')),
    answers("201 of wrong JSON types", http(201, b'{"uuid": 7, "receipt": [], "extensions": 1}')),
    answers("201 of deep JSON", http(201, b"[" * 100_000)),
    answers("a body cut short", http(201, _RECEIPT, Content_Length="500")),
    answers("a length too small", http(201, _RECEIPT, Content_Length="9")),
    answers("a length that is none", http(201, b"{}", Content_Length="-5")),
    answers("chunks that are none", http(201, b"zz\r\n{}\r\n", Transfer_Encoding="chunked")),
    answers("a gzip bomb", http(201, gzip.compress(bytes(reading.MAX_REPLY_BYTES + 1)), Content_Encoding="gzip")),
    answers("gzip that is none", http(201, _RECEIPT, Content_Encoding="gzip")),
    answers("an encoding that nobody asked for", http(201, _RECEIPT, Content_Encoding="br")),
    answers("10 MB of headers", http(201, b"{}", X="x" * 10_000_000)),
    answers("headers without end", http(201, b"{}", **{f"X{number}": "x" for number in range(300)})),
    answers("no HTTP at all", b"SSH-2.0-OpenSSH_9.6\r\n"),
    answers("a closed connection", b""),
    # the line
    breaks("reset before the portal", Trouble(request_bytes=0), Trouble(request_bytes=120)),
    breaks("reset after the commit", Trouble(reply_bytes=0), Trouble(reply_bytes=30), Trouble(reply_bytes=10**9)),
    breaks("byte by byte", Trouble(piece_bytes=1), quiet=True),
    breaks("interim replies first", Trouble(interim=b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2), quiet=True),
    _silence("half-open, request lost", reaches=False),
    _silence("half-open, reply lost", reaches=True),
    _slow_loris("slow loris, head", http(201, b"{}", X="x" * 500)),
    _slow_loris("slow loris, body", http(201, b'{"uuid":' + b" " * 500)),
    Row("refused", begin=lambda bench: bench.proxy.down(), set_right=lambda bench: bench.proxy.up()),
    Row(
        "no connection in time",
        begin=lambda bench: bench.proxy.deaf(),
        set_right=lambda bench: bench.proxy.up(),
        times=2,
    ),
    Row("no such host", begin=_lose_name, set_right=_find_name),
    Row("comes and goes", trouble=_flapping, times=12),
    _certificate("TLS: unknown authority", "unknown"),
    _certificate("TLS: for another host", "other"),
]
