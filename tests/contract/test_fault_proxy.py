"""A connection that breaks at any byte, a lost reply, a machine that comes and goes: once at the portal all the same (R15)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

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
