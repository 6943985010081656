"""A dependency chain on its way to a portal through a line that breaks: real ledger, lanes, `Api` and sockets; virtual time.

The lanes are stepped one after the other, and the clock jumps over what they would wait. The portal (`KeepingPortal`) takes
records in as the real one does, so that what it holds can be judged here, with nothing of the pipeline in between.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from seclea.api.connect import open_api
from seclea.api.session import Session
from seclea.api.tokens import Token, TokenStore
from seclea.contract import Destination
from seclea.director.progress import progress
from seclea.ledger.view import LedgerView
from seclea.records import Lane
from seclea.sender.destination import DestinationState
from seclea.sender.lane import LaneWorker, Tools
from seclea.writer import again
from tests.contract.fault_portal import FaultPortal
from tests.contract.fault_proxy import Certificate, FaultProxy
from tests.contract.keeping_portal import KeepingPortal
from tests.unit.writer.client import Client, Desk, Model, dataset, state

KINDS = ("project", "model", "dataset", "training_run", "metrics", "model_state", "finish")
STEPS = 20  # log calls of the run
_LOOKS = 20_000  # a lane that has not come to rest by then never will
_SKIP_SECONDS = 60.0
_CONNECT_SECONDS = 0.3  # for the one row in which no connection comes about
ACCESS, REFRESH = "access-canary-71c0", "refresh-canary-71c0"


class VirtualTime:
    """A monotonic clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@contextlib.contextmanager
def virtual_time() -> Iterator[VirtualTime]:
    """The sender's clock, to be moved by hand."""
    yield VirtualTime()


class Bench:
    """One home with one chain of records, a proxy and a portal."""

    def __init__(
        self, directory: Path, clock: VirtualTime, certificate: Certificate | None = None, trusted: str | None = None
    ) -> None:
        self.clock = clock
        self.own = SimpleNamespace()  # what a row keeps between its beginning and its end
        self.portal = KeepingPortal()
        self.thief = FaultPortal()  # of another host, to which nothing may go
        host, port = self.portal._server.server_address[:2]
        self.proxy = FaultProxy((str(host), int(port)), certificate)
        self.url = self.proxy.url
        self.desk = Desk(directory)
        self.destination = Destination(self.url, self.url, "Acme")
        self.store = TokenStore(self.desk.home.tokens)
        self.again = again.Again(self.desk.ledger, self.desk.settler)
        self.log_in(ACCESS)
        self._make_chain()
        (row,) = self.desk.ledger.destinations()
        self.told: list[dict[str, Any]] = []
        self.requests = 0
        self.words: list[str] = []
        self.state = DestinationState(row, self.told.append, lambda: True, lambda _: False, Random(7), clock)
        self.sessions: list[Session] = []
        self.lanes = [self._lane(lane, trusted) for lane in Lane]

    def log_in(self, access: str) -> None:
        """What `seclea login` leaves."""
        self.store.write(self.url, Token(access), Token(REFRESH), "ann")

    def _make_chain(self) -> None:
        client = Client(destination=(self.url, self.url, "Acme"))
        session = client.stream()
        client.entity(session, model := Model(name="Net", framework="sklearn"))
        data = dataset(b"a,b\n1,2\n" * 100)
        client.entity(session, data, self.desk.payload(b"a,b\n1,2\n" * 100))
        index, run = client.run(model=model.uuid, datasets=(data.uuid,))
        for step in range(STEPS):
            client.log(index, step, loss=1 / (step + 1))
        client.entity(index, state(b"weights" * 100, run.uuid), self.desk.payload(b"weights" * 100))
        client.finish(index)
        self.desk.take(client)
        self.desk.store_payloads()

    def _lane(self, lane: Lane, trusted: str | None) -> LaneWorker:
        api = open_api(self.desk.home, self.destination, trusted)
        for session in (api._session, api._exchange._auth._session if api._exchange._auth else api._session):
            session._connect_timeout = _CONNECT_SECONDS
            session.request = self._counting(session.request)  # type: ignore[method-assign]
            self.sessions.append(session)
        view = self.desk.home.ledger
        return LaneWorker(
            self.state,
            lane,
            Tools(api, self.desk.spool, lambda: LedgerView(view), self.told.append, Random(7), self.clock),
        )

    def _counting(self, request: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.requests += 1
            return request(*arguments, **options)

        return counted

    def read_timeout(self, seconds: float) -> None:
        """How long a reply may take from now on (real time)."""
        for session in self.sessions:
            session._read_timeout = seconds

    # -- running -------------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """One step of each lane, what the writer does with the outcome, and the wait that both lanes would make."""
        waits = []
        idle, before = True, self.requests
        for lane in self.lanes:
            waits.append(lane.step())
            if self.told:
                idle = False
                for message in self.told:
                    with self.desk.ledger.transaction():
                        (self.again if message["op"] in again.OPS else self.desk.settler).apply(message)
                self.told.clear()
                self.hear()
        idle = idle and self.requests == before
        # A lane that waits for the other one looks again four times a second; as long as neither acts, that can be skipped.
        self.clock.now += min(max(waits), _SKIP_SECONDS) if idle else max(min(waits), 0.0)

    def hear(self) -> None:
        """What `complete` and `status` would say now."""
        for reason in progress(self.desk.home, self.destination).reasons:
            if reason not in self.words:
                self.words.append(reason)

    def run_until(self, condition: Callable[[], object]) -> None:
        """Turn until it is so."""
        for _ in range(_LOOKS):
            if condition():
                return
            self.turn()
        seen = f"{self.requests} requests, {self.proxy.troubled} of {len(self.proxy.asked)} troubled, at {self.clock.now:.0f} s"
        rows = self.desk.rows("kind, status, hold, error")
        raise AssertionError(f"it never comes to rest: {seen}, on hold: {self.state.hold}, told: {self.words}, {rows}")

    def is_at_rest(self) -> bool:
        """Whether nothing is left that could be sent."""
        return not self.desk.rows("id", "status IN ('Saving', 'Transmitting') AND hold IS NULL")

    def resume(self) -> None:
        """What `seclea retry` and `seclea login` come to."""
        self.state.set_hold(None)
        for lane in self.lanes:
            lane.resume()

    def close(self) -> None:
        """Leave nothing."""
        for lane in self.lanes:
            lane._close_view()
        for session in self.sessions:
            session.close()
        self.desk.ledger.close()
        self.proxy.close()
        self.portal.close()
        self.thief.close()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is wrong with what the portal holds, against what was logged. All zero: nothing."""

    lost: int
    twice: int
    disordered: int


def judge(bench: Bench) -> Judgement:
    """Compare the ledger with the portal.

    A record is lost when it is neither at the portal nor listed with a reason and its body kept; twice when it, its entity
    or one of its log calls is at the portal more often than once; out of order when a number of its stream is skipped or
    goes back, or it is there before something that it needs.
    """
    taken = bench.portal.taken
    lost = twice = disordered = 0
    columns = (
        "r.kind, r.status, r.hold, r.error, r.first, r.last, hex(r.digest), hex(s.uuid), r.body IS NOT NULL, r.lane"
    )
    rows = bench.desk.ledger._all(
        f"SELECT {columns} FROM records r JOIN streams s ON s.id = r.stream WHERE r.kind <> 'tombstone'",
        (),
    )
    assert sorted(row[0] for row in rows) == sorted(KINDS)
    for _, status, hold, error, first, last, digest, stream, has_body, lane in map(tuple, rows):
        place = (stream.lower(), lane, first, last, digest.lower())
        here = sum((one.stream.replace("-", ""), one.lane, one.first, one.last, one.digest) == place for one in taken)
        kept = has_body and ((status == "Failed" and error) or (status == "Transmitting" and hold))
        lost += here == 0 if status == "Completed" else not kept
        twice += max(here - 1, 0)
    made = Counter(one.makes for one in taken if one.makes is not None)
    twice += sum(count - 1 for count in made.values())
    calls = Counter(
        (one.stream, number) for one in taken if one.kind == "metrics" for number in range(one.first, one.last + 1)
    )
    twice += sum(count - 1 for count in calls.values())
    heads: dict[tuple[str, str], int] = {}
    known: set[str] = set()
    for one in taken:
        disordered += one.first != heads.get((one.stream, one.lane), 0) + 1
        heads[one.stream, one.lane] = one.last
        disordered += sum(parent not in known for parent in one.parents)
        known.add(str(one.makes))
    return Judgement(lost, twice, disordered)
