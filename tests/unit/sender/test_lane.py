"""One lane: what is next, when it may go, and what comes of an attempt. A real ledger, a portal that is told what to say."""

import itertools
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from seclea.contract import Outcome, Verdict
from seclea.errors import UnknownOrganizationError
from seclea.ledger.view import LedgerView
from seclea.records import Lane, Record
from seclea.sender.destination import DestinationState
from seclea.sender.lane import LaneWorker, Tools
from seclea.writer.again import OPS
from tests.unit.writer.client import Client, Desk, Model, dataset, state

DELIVERED = Outcome(Verdict.DELIVERED, 201, receipt={"sequence": 1})
REFUSED = Outcome(Verdict.REFUSED, 400, "no such thing")
AWAY = Outcome(Verdict.UNAVAILABLE, 0, "connection refused")


class Portal:
    """Answers each record from ``script``, then DELIVERED for ever."""

    def __init__(self) -> None:
        self.script: deque[Outcome] = deque()
        self.sent: list[Record] = []
        self.lacks: list[str] = []
        self.takes_many = False
        self.together: list[list[int]] = []
        self.together_script: deque[list[Outcome] | None] = deque()
        self.chunks: list[str] = []
        self.login = self.used = 7

    def login_generation(self) -> int:
        return self.login

    def generation_used(self) -> int:
        return self.used

    def organization_uuid(self, name: str) -> str:
        if name == "Nobody":
            raise UnknownOrganizationError(f"There is no {name}.")
        return "organization"

    def speaks(self, extension: str) -> bool:
        return extension != "metric-batches" or self.takes_many

    def send_metrics(self, records: list[Record], **_: object) -> list[Outcome] | None:
        self.together.append([record.first for record in records])
        if self.together_script:
            return self.together_script.popleft()
        self.sent += records
        return [DELIVERED for _ in records]

    def chunks_missing(self, sha256: list[str], *, organization: str) -> list[str]:
        self.lacks = sha256
        return sha256

    def put_chunk(self, sha256: str, content: bytes, *, organization: str) -> Outcome:
        self.chunks.append(sha256)
        return Outcome(Verdict.DELIVERED, 201)

    def send(self, record: Record, **_: object) -> Outcome:
        self.sent.append(record)
        return self.script.popleft() if self.script else DELIVERED

    def head(self, stream: bytes, lane: str, *, organization: str) -> tuple[int, bytes] | Outcome:
        there = [record for record in self.sent if (record.stream, record.lane) == (stream, lane)]
        return max((record.last, record.chain) for record in there) if there else Outcome(Verdict.MISSING)

    @property
    def kinds(self) -> list[str]:
        return [record.kind.value for record in self.sent]


class Bench:
    """Both lanes to one destination, over a ledger that the test writes."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.portal = Portal()
        self.told: list[dict[str, Any]] = []
        self.client = Client()
        self.session = self.client.stream()
        desk.take(self.client)
        (row,) = desk.ledger.destinations()
        self.ready = True
        self.ahead = 0.0  # seconds that a test has let pass
        self.state = self.fresh_state(row)
        self.ordered, self.bulk = (self.worker(lane) for lane in Lane)

    def clock(self) -> float:
        return time.monotonic() + self.ahead

    def fresh_state(self, row: Any) -> DestinationState:
        return DestinationState(row, self.told.append, lambda: self.ready, lambda _: False, Random(1), self.clock)

    def worker(self, lane: Lane) -> LaneWorker:
        api: Any = self.portal
        view = lambda: LedgerView(self.desk.home.ledger)  # noqa: E731
        tools = Tools(api, self.desk.spool, view, self.told.append, Random(1), self.clock)
        return LaneWorker(self.state, lane, tools)

    def take(self) -> None:
        """Commit what the client has said since."""
        self.desk.take(self.client)
        self.desk.store_payloads()

    def apply(self) -> None:
        """What the writer does with what it was told."""
        for message in self.told:
            with self.desk.ledger.transaction():
                (self.desk.again if message["op"] in OPS else self.desk.settler).apply(message)
        self.told.clear()

    def outcomes(self) -> list[tuple[int, str]]:
        return [(message["record"], message["verdict"]) for message in self.told if message["op"] == "outcome"]

    def run(self, worker: LaneWorker, steps: int = 30) -> float:
        """Step until it wants to wait; for how long."""
        for _ in range(steps):
            wait = worker.step()
            if wait > 0:
                return wait
        raise AssertionError("the lane never rests")

    def close(self) -> None:
        for worker in (self.ordered, self.bulk):
            worker._close_view()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    desk = Desk(tmp_path)
    made = Bench(desk)
    yield made
    made.close()
    desk.ledger.close()


def a_run(bench: Bench) -> str:
    index, run = bench.client.run()
    bench.client.log(index, 0, loss=1.0)
    bench.client.entity(index, state(b"weights", run.uuid), bench.desk.payload(b"weights"))
    bench.client.finish(index)
    bench.take()
    return run.uuid


def test_records_go_out_in_order_and_dependents_after_what_they_need(bench: Bench) -> None:
    a_run(bench)
    assert bench.run(bench.bulk) > 0
    assert bench.portal.sent == [], "the state waits for its run, which is in the other lane"
    bench.run(bench.ordered)
    assert bench.portal.kinds == ["project", "training_run", "metrics", "finish"]
    bench.run(bench.bulk)
    assert bench.portal.kinds[4:] == ["model_state"]
    assert bench.portal.chunks == bench.portal.lacks != []


def test_what_was_told_is_not_sent_again_before_its_commit_shows(bench: Bench) -> None:
    bench.run(bench.ordered)
    bench.run(bench.ordered)
    assert bench.portal.kinds == ["project"]
    bench.apply()
    bench.run(bench.ordered)
    assert bench.portal.kinds == ["project"]
    assert bench.ordered._settled == {}, "and is forgotten once it does"


def test_a_lane_that_starts_anew_asks_the_portal_again_with_the_same_key(bench: Bench) -> None:
    """Rule 2: a sender that died after the attempt and before its words were committed."""
    bench.run(bench.ordered)
    again = bench.worker(Lane.ORDERED)
    bench.run(again)
    first, second = bench.portal.sent
    assert (first.key, first.body, first.chain) == (second.key, second.body, second.chain)
    again._close_view()


def test_behind_a_refused_record_nothing_goes_before_its_tombstone(bench: Bench) -> None:
    a_run(bench)
    bench.portal.script.extend([DELIVERED, DELIVERED, REFUSED])  # project, run, metrics
    bench.run(bench.ordered)
    assert bench.portal.kinds == ["project", "training_run", "metrics"], "the end of the run waits"
    bench.apply()
    bench.run(bench.ordered)
    assert bench.portal.kinds[3:] == ["tombstone", "finish"]
    metrics, stone = bench.portal.sent[2:4]
    assert (stone.key, stone.stands_for) == (metrics.key + ".t", metrics.key)
    assert (stone.first, stone.last, stone.chain) == (metrics.first, metrics.last, metrics.chain)


def test_an_adopted_record_is_known_by_the_portals_id_and_its_stand_in_goes_next(bench: Bench) -> None:
    bench.client.entity(bench.session, Model(name="Net", framework="sklearn"))
    bench.take()
    bench.portal.script.extend([Outcome(Verdict.ADOPTED, 200, remote_id="theirs")])
    bench.run(bench.ordered)
    assert bench.portal.kinds == ["project"]
    assert list(bench.state.remote.values()) == ["theirs"]
    bench.apply()
    bench.run(bench.ordered)
    assert bench.portal.kinds == ["project", "tombstone", "model"]


def test_other_streams_go_on_beside_one_that_waits(bench: Bench) -> None:
    for _ in range(2):
        index, _ = bench.client.run()
        bench.client.log(index, 0, loss=1.0)
    bench.take()
    gap = Outcome(Verdict.GAP, 409, "gap", expected=1)
    bench.portal.script.extend([DELIVERED, gap])
    bench.run(bench.ordered)
    assert bench.portal.kinds == ["project", "training_run", "training_run", "metrics"]
    assert bench.portal.sent[1].run != bench.portal.sent[2].run == bench.portal.sent[3].run


def test_three_failures_open_the_breaker_and_no_request_goes_out_while_it_is(bench: Bench) -> None:
    bench.portal.script.extend([AWAY] * 10)
    for _ in range(3):
        assert bench.run(bench.ordered) > 0
        bench.ordered._not_before = 0.0  # its backoff is over
    assert len(bench.portal.sent) == 3
    assert 0 < bench.ordered.step() <= 60
    assert len(bench.portal.sent) == 3
    assert bench.bulk.step() > 0
    stored = [message["state"] for message in bench.told if message["op"] == "destination"]
    assert '"failures": 3' in stored[-1]["breaker"], "the writer was told, so it outlives us"


@pytest.mark.parametrize("came_to", [DELIVERED, AWAY])
def test_a_lane_that_waits_for_another_one_s_probe_is_woken_by_what_comes_of_it(
    bench: Bench, came_to: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(bench.ordered)  # the project
    bench.apply()
    bench.client.entity(bench.session, dataset(b"x"), bench.desk.payload(b"x"))
    bench.client.entity(bench.session, Model(name="M", framework="sklearn"))
    bench.take()
    bench.portal.script.extend([AWAY] * 3 + [came_to])
    for _ in range(3):
        bench.run(bench.ordered)
        bench.ordered._not_before = 0.0
    bench.ahead += 2.0  # the breaker is half open
    send, waits = bench.portal.send, list[float]()

    def probed(record: Record, **rest: object) -> Outcome:
        bench.bulk.wake.clear()
        waits.append(bench.bulk.step())
        return send(record, **rest)

    monkeypatch.setattr(bench.portal, "send", probed)
    bench.run(bench.ordered)
    assert waits[0] > 30, "for as long as a probe can take"
    assert bench.bulk.wake.is_set()
    monkeypatch.setattr(bench.portal, "send", send)
    assert bench.bulk.step() < 10, "and no longer than it did take"


def test_a_lane_that_starts_while_the_breaker_is_open_sends_nothing(bench: Bench) -> None:
    bench.portal.script.extend([AWAY] * 3)
    for _ in range(3):
        bench.run(bench.ordered)
        bench.ordered._not_before = 0.0
    bench.apply()
    (row,) = bench.desk.ledger.destinations()
    bench.state = bench.fresh_state(row)
    fresh = bench.worker(Lane.ORDERED)
    assert fresh.step() > 0
    assert len(bench.portal.sent) == 3
    fresh._close_view()


@pytest.mark.parametrize("verdict", [Verdict.UNAVAILABLE, Verdict.UNKNOWN, Verdict.WAIT])
def test_what_may_come_through_later_is_tried_again_and_the_attempt_noted(bench: Bench, verdict: Verdict) -> None:
    bench.portal.script.append(Outcome(verdict, 503, "busy", retry_after_seconds=0.01))
    assert bench.run(bench.ordered) > 0
    assert [message for message in bench.told if message["op"] == "attempt"] == [
        {"op": "attempt", "record": 1, "error": "503 busy", "verdict": verdict.value, "status": 503}
    ]
    bench.ahead = 5.0  # its backoff is over
    bench.run(bench.ordered)
    assert bench.portal.kinds == ["project", "project"]
    assert bench.portal.sent[0].key == bench.portal.sent[1].key


def test_the_portals_own_wish_is_kept_to(bench: Bench) -> None:
    bench.portal.script.append(Outcome(Verdict.WAIT, 429, "slowly", retry_after_seconds=17.0))
    assert bench.run(bench.ordered) == 17.0
    assert 16.0 < bench.ordered.step() <= 17.0


def test_a_hold_stops_the_whole_destination_until_it_is_lifted(bench: Bench) -> None:
    bench.portal.script.append(Outcome(Verdict.HOLD, 401, "Run `seclea login`."))
    bench.run(bench.ordered)
    assert bench.state.hold == "Run `seclea login`."
    bench.run(bench.ordered)
    bench.run(bench.bulk)
    assert len(bench.portal.sent) == 1
    bench.state.set_hold(None)
    bench.run(bench.ordered)
    assert len(bench.portal.sent) == 2


def test_a_portal_that_is_not_ready_is_sent_nothing(bench: Bench) -> None:
    bench.ready = False
    assert bench.run(bench.ordered) > 0
    assert bench.portal.sent == []


def test_a_chunk_that_is_damaged_in_the_spool_refuses_its_record_alone(bench: Bench) -> None:
    """It says so as a refusal by us; nothing of it went out."""
    for content in (b"one", b"two"):
        bench.client.entity(bench.session, dataset(content, content.decode()), bench.desk.payload(content))
    bench.take()
    bench.run(bench.ordered)
    (first, _), _ = (
        (sha256, size) for sha256, size in (bench.desk.ledger.chunks_of(2) + bench.desk.ledger.chunks_of(3))
    )
    bench.desk.spool.chunk_path(first).write_bytes(b"eno")
    bench.run(bench.bulk)
    told = [message for message in bench.told if message["op"] == "outcome"]
    assert [(message["record"], message["verdict"]) for message in told] == [(1, "delivered"), (2, "refused")]
    assert "damaged" in told[1]["detail"]
    bench.apply()
    bench.run(bench.bulk)
    assert bench.portal.kinds == ["project", "tombstone", "dataset"]


def test_an_unknown_organization_is_a_hold(bench: Bench) -> None:
    bench.state.destination = bench.state.destination.__class__("https://portal", "https://auth", "Nobody", 1)
    bench.run(bench.ordered)
    assert bench.state.hold == "There is no Nobody."


def test_a_lane_looks_past_a_long_queue_of_what_waits(bench: Bench) -> None:
    """More than a page of records of one stream that must wait, and one of another behind them."""
    index, run = bench.client.run()
    for _ in range(300):
        bench.client.leave_out(index, 1)
    bench.client.entity(bench.session, Model(name="Net", framework="sklearn"))
    bench.take()
    bench.portal.script.extend([DELIVERED, Outcome(Verdict.MISSING, 404, "not yet")])
    assert [bench.ordered.step() for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bench.portal.kinds == ["project", "training_run", "model"]
    assert run.uuid == bench.portal.sent[1].entity


def many(bench: Bench, batches: int) -> None:
    """A run with batches that are told apart, as after an outage."""
    index, _ = bench.client.run()
    for step in range(batches):
        bench.client.log(index, step, loss=1.0)
        bench.take()
    bench.client.finish(index)
    bench.take()
    bench.portal.takes_many = True


def test_batches_that_follow_one_another_go_in_one_request(bench: Bench) -> None:
    many(bench, 5)
    bench.run(bench.ordered)
    assert bench.portal.together == [[2, 3, 4, 5, 6]]
    assert bench.portal.kinds == ["project", "training_run", *["metrics"] * 5, "finish"]
    assert [verdict for _, verdict in bench.outcomes()] == ["delivered"] * 8
    bench.apply()
    assert bench.desk.ledger.pending() == (0, 0)


def test_one_of_many_that_is_refused_ends_the_request_and_leaves_its_tombstone(bench: Bench) -> None:
    many(bench, 4)
    bench.portal.together_script.append([DELIVERED, REFUSED])
    bench.run(bench.ordered)
    assert bench.outcomes()[2:] == [(3, "delivered"), (4, "refused")]
    assert bench.portal.kinds == ["project", "training_run"], "nothing goes before the tombstone"
    bench.apply()
    bench.run(bench.ordered)
    assert bench.portal.kinds[2:] == ["tombstone", "metrics", "metrics", "finish"]
    assert [first for firsts in bench.portal.together for first in firsts] == [2, 3, 4, 5, 4, 5]


@pytest.mark.parametrize("answer", [None, [Outcome(Verdict.GAP, 409, "gap", expected=1)]])
def test_what_a_portal_does_not_take_together_goes_alone_at_once(bench: Bench, answer: list[Outcome] | None) -> None:
    many(bench, 3)
    bench.portal.together_script.append(answer)
    bench.run(bench.ordered)
    assert bench.portal.together == [[2, 3, 4], [3, 4]]
    assert [record.first for record in bench.portal.sent if record.kind == "metrics"] == [2, 3, 4]


def test_a_request_of_many_without_an_answer_is_one_attempt_and_then_they_go_alone(bench: Bench) -> None:
    many(bench, 3)
    bench.portal.together_script.append([AWAY])
    bench.run(bench.ordered)
    assert len([message for message in bench.told if message["op"] == "attempt"]) == 1
    bench.apply()
    bench.ahead = 60.0
    bench.run(bench.ordered)
    assert bench.portal.together == [[2, 3, 4], [3, 4]]
    assert [record.first for record in bench.portal.sent if record.kind == "metrics"] == [2, 3, 4]


def test_what_is_held_or_larger_than_a_request_ends_what_goes_together(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(bench, 6)
    size = bench.desk.rows("size", "kind = 'metrics'")[0][0]
    monkeypatch.setattr("seclea.sender.lane._TOGETHER_BYTES", 3 * size)
    bench.run(bench.ordered)
    assert bench.portal.together == [[2, 3, 4], [5, 6, 7]]


def test_a_right_that_is_not_granted_is_asked_for_with_growing_pauses(bench: Bench) -> None:
    bench.portal.script.extend([Outcome(Verdict.WAIT, 403, "denied")] * 40)
    for _ in range(40):
        wait = bench.run(bench.ordered)
        bench.ahead += wait
        bench.apply()
    assert bench.state.hold is None
    assert bench.ahead > 5 * 40, "more than the five seconds of a request that still runs there"
    assert bench.desk.ledger.last_error(1) == "403 denied"


def test_a_hold_ends_by_itself_when_a_probe_comes_through(bench: Bench) -> None:
    """402: probed slowly. One request in the time, whichever lane."""
    bench.portal.script.extend([Outcome(Verdict.HOLD, 402, "not paid up")] * 3)
    a_run(bench)
    asked = []
    while len(bench.portal.sent) < 3:
        before = len(bench.portal.sent)
        for worker in (bench.ordered, bench.bulk):
            bench.run(worker)
        if len(bench.portal.sent) > before:
            asked.append(bench.ahead)
            assert bench.state.hold == "not paid up"
        bench.ahead += 10.0
    assert all(440 <= after - before <= 920 for before, after in itertools.pairwise(asked)), asked
    assert len(asked) == 3
    bench.ahead += 900.0
    bench.run(bench.ordered)
    assert bench.state.hold is None
    assert bench.portal.kinds[3:] == ["project", "training_run", "metrics", "finish"]
    assert {"op": "destination", "destination": 1, "state": {"hold": None}} in bench.told


def test_a_start_with_a_hold_asks_within_a_minute_whether_it_is_over(bench: Bench) -> None:
    (row,) = bench.desk.ledger.destinations()
    bench.state = bench.fresh_state({**dict(row), "hold": "not paid up"})
    fresh = bench.worker(Lane.ORDERED)
    bench.run(fresh)
    assert bench.portal.sent == []
    bench.ahead = 61.0
    bench.run(fresh)
    assert bench.portal.kinds == ["project"] and bench.state.hold is None
    fresh._close_view()


def test_what_one_lane_was_told_is_not_forgotten_when_the_other_comes_through(bench: Bench) -> None:
    now = bench.clock()
    bench.state.after_attempt(Outcome(Verdict.WAIT, 429, retry_after_seconds=600.0), now)
    bench.state.after_attempt(DELIVERED, now + 1.0)  # was in flight
    assert bench.state.may_attempt(now + 2.0, retry=False) == pytest.approx(598.0)
    assert bench.state.may_attempt(now + 601.0, retry=False) == 0.0


def test_a_time_that_the_portal_named_holds_for_the_other_lane_and_for_the_next_sender(bench: Bench) -> None:
    a_run(bench)
    bench.client.entity(bench.session, dataset(b"x"), bench.desk.payload(b"x"))
    bench.take()
    bench.run(bench.ordered)
    bench.apply()
    bench.portal.script.append(Outcome(Verdict.WAIT, 429, "slowly", retry_after_seconds=600.0))
    bench.run(bench.bulk)
    asked = len(bench.portal.sent)
    bench.client.entity(bench.session, Model(name="Net", framework="sklearn"))
    bench.take()
    assert bench.ordered.step() > 590
    bench.apply()
    (row,) = bench.desk.ledger.destinations()
    bench.state = bench.fresh_state(row)
    fresh = bench.worker(Lane.ORDERED)
    assert fresh.step() > 590
    assert len(bench.portal.sent) == asked
    bench.ahead = 601.0
    bench.run(fresh)
    assert len(bench.portal.sent) == asked + 1
    fresh._close_view()
