"""A connection that breaks at any byte, a lost reply, a machine that comes and goes: once at the portal all the same (R15)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from seclea.api import pace
from seclea.api.api import Api
from seclea.api.auth import AuthService
from seclea.api.session import Session
from seclea.api.tokens import Token, TokenStore
from seclea.contract import Destination, Outcome, Verdict
from seclea.records import Record, RecordKind
from tests.contract.fault_portal import Asked
from tests.contract.fault_proxy import LOST, RESET, SILENT, FaultProxy, Trouble, fault_proxy, http
from tests.contract.keeping_portal import KeepingPortal
from tests.contract.portal_server import PortalServer, running_portal
from tests.contract.records_made import RecordMaker

PARTS = 4  # of the bytes of a message, each in a test of its own


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalServer]:
    with running_portal(tmp_path_factory.mktemp("portal") / "data") as server:
        server.add_member("ann", "Acme").close()
        server.close_sessions()
        yield server


@dataclass
class Rig:
    """An `Api` whose requests pass through the proxy, and a way to the portal around it."""

    proxy: FaultProxy
    api: Api
    direct: Api
    organization: str
    maker: RecordMaker

    def send(self, record: Record) -> Outcome:
        return self.api.send(record, organization=self.organization, references={})

    def stone(self) -> Record:
        return self.maker.make(RecordKind.TOMBSTONE)

    def head(self) -> int:
        """The last sequence that the portal has of the stream: it takes nothing that is not the one after its head."""
        record = self.stone()
        outcome = self.direct.send(record, organization=self.organization, references={})
        assert outcome.verdict is Verdict.DELIVERED, outcome
        return record.last


@contextmanager
def rig_for(url: str, tmp_path: Path, login: tuple[str, str] | None) -> Iterator[Rig]:
    with fault_proxy(url) as proxy:
        store = TokenStore(tmp_path / "tokens")
        around, through = Session(url), Session(proxy.url)
        auth = AuthService(around, store)
        if login is None:
            store.write(around.name, Token("access"), Token("refresh"), "ann")
        else:
            auth.authenticate(*login)
        apis = [Api(one, auth, Destination(url, url, "Acme")) for one in (through, around)]
        yield Rig(proxy, *apis, apis[1].organization_uuid("Acme"), RecordMaker())
        for one in apis:
            one.close()


@pytest.fixture(params=["kept", "real"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    if request.param == "real":
        server: PortalServer = request.getfixturevalue("server")
        with rig_for(server.url, tmp_path, ("ann", "correct horse")) as rig:
            yield rig
        return
    portal = KeepingPortal()
    try:
        with rig_for(portal.url, tmp_path, None) as rig:
            yield rig
    finally:
        portal.close()


def lengths(rig: Rig) -> tuple[int, int]:
    """Bytes of a small request, and of its reply."""
    seen: list[int] = []

    def watch(_: Asked) -> Trouble:
        return Trouble(piece_bytes=1, before_piece=lambda: seen.append(1))

    assert rig.send(rig.stone()).verdict is Verdict.DELIVERED
    rig.proxy.rule = watch
    assert rig.send(rig.stone()).verdict is Verdict.DELIVERED
    asked = rig.proxy.asked[-1]
    head = sum(len(name) + len(value) + 4 for name, value in asked.headers.items())
    query = "&".join(f"{name}={value[0]}" for name, value in asked.query.items())
    return len(f"POST {asked.path}?{query} HTTP/1.1\r\n") + head + 2 + len(asked.body), len(seen)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("rig", ["real"], indirect=True)
def test_a_reset_at_any_byte_of_a_request_has_its_effect_once(rig: Rig, part: int) -> None:
    """An effect that was lost would leave a gap, a second one would move the head: the next would not be the next."""
    size, _ = lengths(rig)
    assert 300 < size < 2000
    record = rig.stone()
    for number in range(part, size + 1, PARTS):
        rig.proxy.rule = lambda _, number=number: Trouble(request_bytes=number)  # type: ignore[misc]
        assert rig.send(record).verdict is Verdict.UNKNOWN, f"byte {number} of {size}"
    assert rig.proxy.troubled > size // PARTS
    assert rig.direct.send(record, organization=rig.organization, references={}).verdict is Verdict.DELIVERED
    assert rig.head() == rig.maker.heads[record.lane][0]


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("rig", ["real"], indirect=True)
def test_a_reset_at_any_byte_of_a_reply_has_its_effect_once(rig: Rig, part: int) -> None:
    """Each time another record, as only the first reply to one comes with the effect."""
    _, size = lengths(rig)
    assert 100 < size < 2000
    for left in range(size - part, 0, -PARTS):  # counted from the end: later numbers in the stream make replies longer
        record = rig.stone()
        rig.proxy.rule = lambda _, left=left: Trouble(reply_bytes=-left)  # type: ignore[misc]
        assert rig.send(record).verdict is Verdict.UNKNOWN, f"{left} of {size} bytes left"
        again = rig.direct.send(record, organization=rig.organization, references={})
        assert again.verdict is Verdict.DELIVERED, f"{left} of {size} bytes left: {again}"
    assert rig.head() == rig.maker.heads[record.lane][0]


@pytest.mark.parametrize(
    "trouble",
    [RESET, LOST, SILENT, Trouble(answer=http(504)), Trouble(answer=b"")],
    ids=["reset", "lost", "silent", "504", "closed"],
)
def test_what_the_portal_may_have_done_is_asked_again_with_the_same_key(rig: Rig, trouble: Trouble) -> None:
    record = rig.stone()
    assert rig.send(rig.stone()).verdict is Verdict.GAP, "the questions are behind us"
    rig.api._session._read_timeout = 0.3
    rig.proxy.rule = lambda _: trouble
    assert rig.send(record).verdict in (Verdict.UNKNOWN, Verdict.UNAVAILABLE)
    rig.proxy.rule = lambda _: None
    rig.api._session._read_timeout = 30
    assert rig.send(record).verdict is Verdict.DELIVERED
    first, second = rig.proxy.asked[-2:]
    assert (first.headers["idempotency-key"], first.body) == (second.headers["idempotency-key"], second.body)


def test_a_machine_that_comes_and_goes_is_reached_whenever_it_is_there(rig: Rig) -> None:
    for _ in range(5):
        record = rig.stone()
        rig.proxy.down()
        assert rig.send(record).verdict is Verdict.UNAVAILABLE
        rig.proxy.up()
        assert rig.send(record).verdict is Verdict.DELIVERED
    assert rig.head() == rig.maker.heads[record.lane][0]


def test_a_machine_that_takes_no_connection_is_not_reached(rig: Rig) -> None:
    record = rig.stone()
    rig.proxy.deaf()
    patient = Session(rig.proxy.url, connect_timeout_seconds=0.1)
    outcome = Api(patient, None, rig.api.destination, local=True).send(
        record, organization=rig.organization, references={}
    )
    patient.close()
    assert (outcome.verdict, "no connection within 0.1 s" in outcome.detail) == (Verdict.UNAVAILABLE, True)
    rig.proxy.up()
    assert rig.send(record).verdict is Verdict.DELIVERED


def test_interim_replies_are_passed_over(rig: Rig) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"
    rig.proxy.rule = lambda _: Trouble(interim=b"HTTP/1.1 100 Continue\r\n\r\n" + 3 * hints)
    assert [rig.send(rig.stone()).verdict for _ in range(3)] == [Verdict.DELIVERED] * 3


def test_a_reply_of_an_earlier_request_is_not_taken_for_that_of_the_next(rig: Rig) -> None:
    """A server on the way switches protocols, and the portal's own reply comes when the next request is on its way."""
    first, second = rig.stone(), rig.stone()
    assert rig.send(second).verdict is Verdict.GAP
    late = http(201, b'{"uuid": null, "receipt": {"of": "the first"}}')
    troubles = [Trouble(answer=b"HTTP/1.1 101 Switching Protocols\r\n\r\n", then=late)]
    rig.proxy.rule = lambda _: troubles.pop() if troubles else None
    assert rig.send(first).verdict is Verdict.UNKNOWN
    assert [rig.send(one).verdict for one in (first, second)] == [Verdict.DELIVERED] * 2


# -- slow lines --------------------------------------------------------------------------------------------------------


class VirtualClock:
    """Seconds that pass only on the proxy's line; `pace` measures replies by it.

    A piece of a reply goes when the client is about to receive it: so each finds the instant at which it is looked at.
    """

    def __init__(self, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._looks = threading.Semaphore(0)
        proxy.wait = self._pass
        monkeypatch.setattr(pace, "time", self)

    def _pass(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        self._looks.release()
        return self.now

    def line(self, **of: Any) -> Trouble:
        return Trouble(before_piece=lambda: self._looks.acquire(timeout=60), **of)

    def hang_up(self) -> None:
        self._looks.release(1000)


def test_over_a_slow_line_everything_arrives_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece takes two seconds, there and back."""
    clock = VirtualClock(rig.proxy, monkeypatch)
    assert rig.send(rig.stone()).verdict is Verdict.DELIVERED, "the questions are behind us"
    rig.proxy.asked.clear()
    records = [rig.stone() for _ in range(12)]
    rig.proxy.rule = lambda _: Trouble(delay_seconds=2, piece_bytes=300)
    for record in records:
        before = clock.now
        assert rig.send(record).verdict is Verdict.DELIVERED
        assert clock.now - before >= 8
    rig.proxy.rule = lambda _: None
    keys = [asked.headers["idempotency-key"] for asked in rig.proxy.asked if "idempotency-key" in asked.headers]
    assert keys == [record.key for record in records], "each was sent once, in order"
    assert rig.head() == rig.maker.heads[records[0].lane][0]


@pytest.mark.parametrize(("bytes_per_second", "said"), [(1000, "no receipt"), (300, "no reply in time")])
def test_a_reply_of_1_kb_per_second_is_not_taken_for_a_dead_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, bytes_per_second: int, said: str
) -> None:
    """One of 60 kB: a minute, twice the timeout. Slower than 512 bytes per second is no line at all."""
    clock = VirtualClock(rig.proxy, monkeypatch)
    assert rig.send(rig.stone()).verdict is Verdict.DELIVERED
    record = rig.stone()
    large = http(201, b'{"padding": "' + b"x" * 60_000 + b'"}')  # read to its end, and found to be no receipt
    rig.proxy.rule = lambda _: clock.line(bytes_per_second=bytes_per_second, answer=large)
    outcome = rig.send(record)
    clock.hang_up()
    assert said in outcome.detail and outcome.verdict is not Verdict.DELIVERED
    rig.proxy.rule = lambda _: None
    assert rig.send(record).verdict is Verdict.DELIVERED
    assert rig.head() > record.last


def test_a_reply_that_comes_later_than_the_timeout_is_asked_for_again_and_has_its_effect_once(rig: Rig) -> None:
    record, following = rig.stone(), rig.stone()
    assert rig.send(following).verdict is Verdict.GAP, "the questions are behind us"
    count = len(rig.proxy.asked)
    committed, given_up = threading.Event(), threading.Event()

    def reply_is_here() -> None:  # and goes on when nobody waits for it any more
        committed.set()
        given_up.wait(60)

    rig.api._session._read_timeout = 0.3
    rig.proxy.rule = lambda _: Trouble(before_piece=reply_is_here)
    assert rig.send(record).verdict is Verdict.UNKNOWN
    assert committed.wait(60)
    given_up.set()
    rig.proxy.rule = lambda _: None
    rig.api._session._read_timeout = 30
    assert rig.send(record).verdict is Verdict.DELIVERED
    first, second = rig.proxy.asked[count:]
    assert (first.headers["idempotency-key"], first.body) == (second.headers["idempotency-key"], second.body)
    assert rig.send(following).verdict is Verdict.DELIVERED


def test_a_request_is_not_given_up_as_long_as_the_line_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has it all at once; the other end takes a tenth of it after each timeout."""
    body = b"x" * 1_000_000
    looks = threading.Semaphore(0)
    real = pace.unsent_bytes

    def unsent_bytes(sock: socket.socket) -> int:
        left = real(sock)
        looks.release()
        return left

    monkeypatch.setattr(pace, "unsent_bytes", unsent_bytes)

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            left = len(body)
            while left > 0:
                assert looks.acquire(timeout=30)
                tenth = len(body) // 10
                while tenth > 0:
                    tenth -= (got := len(connection.recv(tenth)))
                    left -= got  # with the head, which is in the first: some bytes are never read
            connection.sendall(http(200, b"{}"))

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        session = Session(f"http://127.0.0.1:{listener.getsockname()[1]}", read_timeout_seconds=0.2)
        assert session.request("POST", "/", content=body).status == 200
        session.close()
        server.join()


def test_a_line_that_takes_no_more_of_a_request_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as near:
        near.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                near.send(b"x" * 65536)
        assert pace.unsent_bytes(near) > 0
        with pytest.raises(TimeoutError):
            pace.await_sent(near, 0.05)
