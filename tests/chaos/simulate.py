"""``python -m tests.chaos.simulate``: days of outages and crowds of senders on a virtual clock, in seconds.

What runs is the sender's own code: `LaneWorker`, `DestinationState`, breaker, backoff, retry budget, and in the job of three
days also `Api`, `Exchange`, `AuthService` and the token store. Made up are the ledger (a queue), the portal (a server that
takes requests one after the other), and time. Row R16.

Rule 1  Each lane has a clock of its own. A step begins at the time of its event; a request takes the lane's clock to the time
        of its answer; steps are run in the order in which they begin. So requests reach the portal in order.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import itertools
import json
import logging
import statistics
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from seclea.api.age import Instant
from seclea.api.api import Api
from seclea.api.auth import AuthService, Token, TokenStore
from seclea.api.reading import Reply
from seclea.api.session import NotReached
from seclea.contract import Destination, Outcome, Verdict
from seclea.records import Lane, Record, RecordKind, Status
from seclea.sender.breaker import THRESHOLD
from seclea.sender.destination import DestinationState
from seclea.sender.lane import LaneWorker, Tools

HOUR, DAY = 3600.0, 86_400.0
READ_TIMEOUT_SECONDS = 30.0  # of the sender: an answer that comes later is none
DOWN_SECONDS = 0.01  # until a refused connection is noticed

Judge = Callable[[float], Outcome | None]  # the portal's mood at a time; None: it takes the record


def job(number: int, lane: Lane = Lane.ORDERED, stream: bytes = bytes(16)) -> Record:
    """The record of this sequence."""
    return Record(
        id=number, kind=RecordKind.METRICS, status=Status.TRANSMITTING, destination=1, stream=stream, lane=lane,
        first=number, last=number, key=f"{stream.hex()}.{lane}.{number}", body=b"{}", digest=bytes(32),
        chain=hashlib.sha256(b"%d" % number).digest(),
    )  # fmt: skip


class Queue:
    """A ledger of one stream: what is open, in order. Answers what a lane asks a `LedgerView`."""

    def __init__(self, lane: Lane, stream: bytes) -> None:
        self._lane = lane
        self._stream = stream
        self._open: deque[int] = deque()
        self._made = 0
        self._retries: Counter[int] = Counter()
        self.delivered: list[int] = []

    def __len__(self) -> int:
        return len(self._open)

    def add(self, count: int = 1) -> None:
        for _ in range(count):
            self._made += 1
            self._open.append(self._made)

    def hear(self, message: dict[str, Any]) -> None:
        """What the writer does with what the sender tells it."""
        if message["op"] == "attempt":
            self._retries[message["record"]] += 1
        elif message["op"] == "outcome":
            assert message["record"] == self._open.popleft(), "out of order"
            self.delivered.append(message["record"])

    def open_records(self, _destination: int, _lane: str, after: int, limit: int) -> list[dict[str, Any]]:
        row = {"position": 0, "stream": self._stream, "kind": "metrics", "reopened_ns": None}
        found = itertools.islice(
            (number for number in self._open if number > after), 1
        )  # one stream: the first will do
        return [{**row, "id": number, "position": number} for number in found][:limit]

    def record(self, number: int) -> Record:
        return replace(job(number, self._lane, self._stream), retries=self._retries[number])

    def held_streams(self, *_: object) -> dict[bytes, int]:
        return {}

    def unmet_needs(self, _: int) -> list[str]:
        return []

    def needs_of(self, _: int) -> list[str]:
        return []

    def remote_ids(self, _: object) -> dict[str, str]:
        return {}

    def hashes(self, _: object) -> dict[str, str]:
        return {}

    def project_of(self, _: int) -> str:
        return "project"

    def close(self) -> None:
        pass


@dataclass
class Portal:
    """A server that takes requests one after the other.

    Attributes:
        per_second: what it can do.
        judge: what it answers, at the time of the request.
        sheds_seconds: so much work may wait; what comes then is sent away with a Retry-After.
    """

    judge: Judge = lambda _: None
    per_second: float = 1000.0
    sheds_seconds: float = 1e9
    arrived: list[tuple[float, bool]] = field(default_factory=list)  # when, and whether it was taken
    _free_at: float = 0.0

    def ask(self, now: float) -> tuple[float, Outcome]:
        """The time of the answer, and what it is."""
        outcome = self.judge(now)
        if outcome is None and self._free_at - now > self.sheds_seconds:
            outcome = Outcome(Verdict.WAIT, 503, "too many", retry_after_seconds=10.0)
        self.arrived.append((now, outcome is None))
        if outcome is not None:
            return now + DOWN_SECONDS, outcome
        self._free_at = max(self._free_at, now) + 1.0 / self.per_second
        if self._free_at - now > READ_TIMEOUT_SECONDS:
            return now + READ_TIMEOUT_SECONDS, Outcome(Verdict.UNKNOWN, detail="no reply in time")
        return self._free_at + 0.02, Outcome(Verdict.DELIVERED, 201, receipt={})


class SimLane:
    """A lane with its queue and its clock."""

    def __init__(self, client: Client, lane: Lane, stream: bytes, api: Any) -> None:
        self.now = client.began
        self.queue = Queue(lane, stream)
        self.attempts: list[tuple[float, float, Outcome]] = []  # when it began and was answered
        self._hear = client.hear
        tools = Tools(
            api=api or self,
            spool=SimpleNamespace(read=None),  # type: ignore[arg-type]
            open_view=lambda: self.queue,  # type: ignore[arg-type,return-value]
            tell=self.tell,
            random=client.random,
            clock=lambda: self.now,
        )
        self.worker = LaneWorker(client.state, lane, tools)
        self._portal = client.portal

    def tell(self, message: dict[str, Any]) -> None:
        self.queue.hear(message)
        self._hear(message)

    def step(self) -> float:
        """One step at its time; the time of the next."""
        wait = self.worker.step()
        return self.now + max(wait, 1e-6)

    # what a lane asks of an Api
    def organization_uuid(self, _: str) -> str:
        return "organization"

    def speaks(self, extension: str) -> bool:
        return extension != "metric-batches"  # one record, one request

    def send(self, _: Record, **__: object) -> Outcome:
        began = self.now
        self.now, outcome = self._portal.ask(began)
        self.attempts.append((began, self.now, outcome))
        return outcome


class Client:
    """A sender with one destination and two lanes."""

    def __init__(
        self, portal: Portal, seed: int, began: float = 0.0, api: Callable[[Client], Any] | None = None
    ) -> None:
        self.portal = portal
        self.random = Random(seed)
        self.began = began
        self.breakers: list[dict[str, Any]] = []
        self.holds: list[str | None] = []
        row: Any = {
            "id": 1, "platform_url": "https://portal", "auth_url": "https://portal", "organization": "Acme",
            "ca_bundle": None, "hold": None, "breaker": None, "organization_uuid": None,
        }  # fmt: skip
        self.state = DestinationState(row, self.hear, lambda: True, lambda _: False, self.random, lambda: began)
        stream = seed.to_bytes(16, "big")
        self.lanes = [SimLane(self, lane, stream, api and api(self)) for lane in Lane]

    def hear(self, message: dict[str, Any]) -> None:
        """What goes to the writer beside outcomes."""
        if message["op"] == "destination":
            if "breaker" in message["state"]:
                self.breakers.append(json.loads(message["state"]["breaker"]))
            if "hold" in message["state"]:
                self.holds.append(message["state"]["hold"])


def run(clients: list[Client], until: float, work: Iterable[tuple[float, Callable[[], None]]] = ()) -> None:
    """Step all lanes in the order of time; ``work`` adds records at its times."""
    order = itertools.count()
    heap = [(lane.now, next(order), lane) for client in clients for lane in client.lanes]
    heapq.heapify(heap)
    work = iter(work)
    due = next(work, None)
    while heap and heap[0][0] < until:
        now, _, lane = heapq.heappop(heap)
        while due is not None and due[0] <= now:
            due[1]()
            due = next(work, None)
        lane.now = now
        heapq.heappush(heap, (lane.step(), next(order), lane))


def every(
    seconds: float, until: float, act: Callable[[], None], start: float = 0.0
) -> Iterator[tuple[float, Callable[[], None]]]:
    """``act`` every so many seconds."""
    count = int((until - start) / seconds)
    return ((start + number * seconds, act) for number in range(count))


# ------------------------------------------------------------------------------------------------------------------


def sooner_than_the_breaker(times: list[float]) -> int:
    """How many requests of an outage came before the interval was over that the failures before them make: half of 1, 2, 4 to
    60 seconds at the least.
    """
    pauses = enumerate(itertools.pairwise(times), 1)
    shortest = (
        (after - before, 0.5 * min(60.0, 2.0 ** min(failures - THRESHOLD, 6)))
        for failures, (before, after) in pauses
        if failures >= THRESHOLD
    )
    return sum(pause < least - DOWN_SECONDS for pause, least in shortest)


def outage(seconds: float = DAY, seed: int = 1) -> dict[str, float]:
    """A portal that is away for a day, in the middle of a job that logs every ten seconds."""
    start, end = HOUR, HOUR + seconds
    away = Outcome(Verdict.UNAVAILABLE, 0, "connection refused")
    portal = Portal(lambda now: away if start <= now < end else None)
    client = Client(portal, seed)

    def log() -> None:
        for lane in client.lanes:
            lane.queue.add()

    run([client], end + HOUR, every(10.0, end, log))
    inside = [now for now, _ in portal.arrived if start <= now < end]
    back = next(now for now, taken in portal.arrived if now >= end and taken)
    delivered = [lane.queue.delivered for lane in client.lanes]
    caught_up = max(now for now, _ in portal.arrived)
    return {
        "requests": len(inside),
        "before the breaker's interval was over": sooner_than_the_breaker(inside),
        "noticed after": back - end,
        "left": sum(len(lane.queue) for lane in client.lanes),
        "lost or twice": sum(found != list(range(1, len(found) + 1)) for found in delivered),
        "delivered": sum(map(len, delivered)),
        "caught up after": caught_up - end,
    }


def flapping(up: float = 20.0, down: float = 40.0, hours: float = 6.0, seed: int = 2) -> dict[str, float]:
    """A portal that comes and goes."""
    away = Outcome(Verdict.UNAVAILABLE, 502, "bad gateway")
    portal = Portal(lambda now: None if now % (up + down) < up else away)
    client = Client(portal, seed)

    def log() -> None:
        for lane in client.lanes:
            lane.queue.add()

    end = hours * HOUR
    run([client], end, every(2.0, end - HOUR, log))
    refused = [now for now, taken in portal.arrived if not taken]
    phases = Counter(int(now // (up + down)) for now in refused)
    return {
        "requests while down": len(refused),
        "most in one phase": max(phases.values()),
        "per second while down": len(refused) / (end * down / (up + down)),
        "left": sum(len(lane.queue) for lane in client.lanes),
        "delivered": sum(len(lane.queue.delivered) for lane in client.lanes),
        "logged": 2 * len(list(every(2.0, end - HOUR, log))),
    }


def crowd(
    clients: int = 1000,
    backlog: int = 100,
    per_second: float = 500.0,
    sheds_seconds: float = 1e9,
    back: float = HOUR,
    seed: int = 3,
) -> dict[str, float]:
    """Many senders after an outage until ``back``, each with a backlog: how fast it drains, and how evenly."""
    away = Outcome(Verdict.UNAVAILABLE, 503, "down")
    portal = Portal(lambda now: away if now < back else None, per_second, sheds_seconds)
    random = Random(seed)
    # Their jobs ran before it: the outage meets them one after the other, within a minute.
    crowd = [Client(portal, seed * 10_000 + number, random.uniform(0.0, 60.0)) for number in range(clients)]
    for client in crowd:
        client.lanes[0].queue.add(backlog)
        client.lanes[1:] = []
    run(crowd, back + 4.0 * clients * backlog / per_second + 300.0)
    after = [now for now, _ in portal.arrived if now >= back]
    taken = [now for now, was in portal.arrived if was and now >= back]
    drained = max(taken) - back
    buckets = Counter(int(now - back) for now in after)
    whole = [buckets[second] for second in range(int(drained))]
    outages = Counter(int(now) for now, _ in portal.arrived if 600 <= now < back)
    return {
        "requests a second in the outage": sum(outages.values()) / (back - 600),
        "most in a second of it": max(outages.values()),
        "drained after": drained,
        "share of line rate": clients * backlog / per_second / drained,
        "peak by mean": max(whole) / statistics.mean(whole),
        "requests for a record": len(after) / (clients * backlog),
        "left": sum(len(client.lanes[0].queue) for client in crowd),
    }


def asked_to_wait(hours: float = 24.0, seed: int = 4) -> dict[str, float]:
    """A portal that says Retry-After to a third of what comes: whether anybody comes before."""
    random = Random(seed)

    def judge(_: float) -> Outcome | None:
        if random.random() > 0.3:
            return None
        status, verdict = random.choice([(429, Verdict.WAIT), (503, Verdict.WAIT), (502, Verdict.UNAVAILABLE)])
        return Outcome(verdict, status, "later", retry_after_seconds=random.choice([1.0, 17.0, 120.0, 600.0]))

    client = Client(Portal(judge), seed)

    def log() -> None:
        for lane in client.lanes:
            lane.queue.add()

    run([client], hours * HOUR, every(30.0, hours * HOUR, log))
    attempts = sorted((one for lane in client.lanes for one in lane.attempts), key=lambda one: one[0])
    spans = [(end, end + (outcome.retry_after_seconds or 0.0)) for _, end, outcome in attempts]
    early = 0
    for at, (began, _, _) in enumerate(attempts):
        early += any(said <= began < until - 1e-6 for said, until in spans[max(0, at - 9) : at])
    asked = sum(until > said for said, until in spans)
    return {"asked": asked, "came before": early, "requests": len(attempts)}


# ------------------------------------------------------------------------------------------------------------------


class Web:
    """A portal with an auth server whose access tokens live five minutes; down one hour in four."""

    LIFE_SECONDS = 300.0

    def __init__(self) -> None:
        self.now: Callable[[], float] = lambda: 0.0
        self.access: dict[str, float] = {}  # token → its end
        self.refresh = "refresh-0"
        self.refreshes = 0
        self.down: list[float] = []  # times of requests in an outage
        self.unauthorized = 0
        self.taken: list[str] = []

    @staticmethod
    def is_down(now: float) -> bool:
        return now % (4 * HOUR) >= 3 * HOUR

    def issue(self) -> dict[str, Token]:
        self.refreshes += 1
        access, self.refresh = f"access-{self.refreshes}", f"refresh-{self.refreshes}"
        self.access = {access: self.now() + self.LIFE_SECONDS}
        return {"access_token": Token(access), "refresh_token": Token(self.refresh)}


class WebSession:
    """What `Session` is to `Api` and `AuthService`, without a network."""

    def __init__(self, web: Web) -> None:
        self.web = web
        self.base_url = self.name = "https://portal"

    def close(self) -> None:
        pass

    def request(self, method: str, path: str, *, token: Token | None = None, **more: Any) -> Reply:
        web = self.web
        if web.is_down(web.now()):
            web.down.append(web.now())
            raise NotReached("https://portal cannot be reached: Connection refused.")
        if path == "/api/token/refresh/":
            if more["cookies"]["refresh_token"].reveal() != web.refresh:
                return Reply(401, {}, b'{"detail": "a refresh token that was used"}')
            tokens = web.issue()
            return Reply(200, {}, json.dumps({"expires_in": web.LIFE_SECONDS}).encode(), tokens)
        if path == "/api/capabilities":
            return Reply(200, {}, b'{"extensions": ["streams", "metrics", "receipts"]}')
        if token is None or web.access.get(token.reveal(), 0.0) <= web.now():
            web.unauthorized += 1
            return Reply(401, {}, b'{"detail": "expired"}')
        if path == "/organization/":
            return Reply(200, {}, b'[{"name": "Acme", "uuid": "organization"}]')
        headers = more["headers"]
        web.taken.append(headers["Idempotency-Key"])
        receipt = {
            "stream": headers["Seclea-Stream"], "lane": headers["Seclea-Lane"],
            "sequence": int(headers["Seclea-Sequence"]), "chain": headers["Seclea-Chain"],
        }  # fmt: skip
        return Reply(201, {}, json.dumps({"uuid": None, "receipt": receipt}).encode())


def three_days(directory: Path, days: float = 3.0, pause: float = 20.0, seed: int = 5) -> dict[str, float]:
    """A job that logs again and again for days, tokens that live five minutes and a portal that is down one hour in four."""
    web = Web()
    store = TokenStore(directory / "tokens")
    client = Client(Portal(), seed, api=lambda _: None)
    lane = client.lanes[0]
    client.lanes[1:] = []
    web.now = lambda: lane.now
    session: Any = WebSession(web)
    auth = AuthService(session, store, now=lambda: Instant(int(lane.now * 1e9)))
    first = web.issue()
    store.write(
        "https://portal", first["access_token"], first["refresh_token"], "ada", expires_in=300.0, now=Instant(0)
    )
    lane.worker._tools.api = Api(session, auth, Destination("https://portal", "https://portal", "Acme"))
    end = days * DAY
    run([client], end + HOUR, every(pause, end, lane.queue.add))
    hours_down = days * 6
    return {
        "logged": int(end / pause),
        "delivered": len(lane.queue.delivered),
        "twice": len(web.taken) - len(set(web.taken)),
        "left": len(lane.queue),
        "refreshes": web.refreshes - 1,
        "unauthorized": web.unauthorized,
        "holds": len([hold for hold in client.holds if hold]),
        "requests while down": len(web.down),
        "most allowed while down": hours_down * (HOUR / 30.0 + THRESHOLD + 10),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run all and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args(arguments).seed
    logging.disable(logging.WARNING)  # a thousand breakers that open
    with tempfile.TemporaryDirectory(prefix="seclea-simulate-") as directory:
        for name, simulation in {
            "an outage of 24 h": lambda: outage(seed=seed),
            "a portal that is up 20 s and down 40 s, for 6 h": lambda: flapping(seed=seed),
            "1,000 senders after an outage of 1 h, 100 records each, 500 requests a second": lambda: crowd(seed=seed),
            "the same with a portal that does 100 a second and sends away what would wait 5 s": lambda: crowd(
                per_second=100.0, backlog=50, sheds_seconds=5.0, seed=seed
            ),
            "Retry-After to a third of all requests, for 24 h": lambda: asked_to_wait(seed=seed),
            "three days, tokens of 5 min, down one hour in four": lambda: three_days(Path(directory), seed=seed),
        }.items():
            began = time.perf_counter()
            figures = simulation()
            print(f"{name} ({time.perf_counter() - began:.1f} s)")
            for word, value in figures.items():
                print(f"    {word}: {value:,.3f}".rstrip("0").rstrip("."))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
