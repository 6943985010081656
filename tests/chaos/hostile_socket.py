"""``python -m tests.chaos.hostile_socket --messages N --seed S``: malformed messages to a running writer's socket (R13).

Beginnings without an end, lengths of four gigabytes, noise, wrong types in every field of every question, deep nesting,
other versions, messages byte by byte, half-closed connections, peers that never read, hundreds of connections at once. A
process of its own asks `status` all the while, as an honest client does; a job logs before, and ends after it.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgpack
import psutil

from seclea.contract import PROTOCOL_VERSION
from seclea.processes.rendezvous import encode, where_it_listens
from tests.pipeline import PipelineHome, WillingPortal, pipeline_home, until

AT_ONCE = 600  # connections that are kept open, and never said a whole message on
CALLS = 200  # of the job, half of them before

JOB = f"""
import seclea
run = seclea.init("Claims")
for step in range({CALLS // 2}):
    run.log({{"loss": 0.5}}, step)
print("logged", flush=True)
input()
for step in range({CALLS // 2}, {CALLS}):
    run.log({{"loss": 0.5}}, step)
print(seclea.finish(timeout=60).done, flush=True)
"""

PROBE = """
import json, select, sys, time
from seclea.contract import Home
from seclea.processes.rendezvous import ask
import os
home, failed, took = Home(os.environ["SECLEA_HOME"]), 0, []
while True:
    if select.select([sys.stdin], [], [], 0)[0]:
        if not sys.stdin.readline().strip():
            break
        print(json.dumps([failed, took]), flush=True)
        failed, took = 0, []
    began = time.monotonic()
    try:
        answer = ask(home, {"op": "status"}, 30.0)
    except Exception:
        answer = None
    failed += not (answer and answer.get("writer"))
    took.append(time.monotonic() - began)
"""


class Attack:
    """The hostile side."""

    def __init__(self, home: PipelineHome, chance: random.Random) -> None:
        self.address = where_it_listens(home.home)
        self.chance = chance
        self.open: list[socket.socket] = []
        self.counts: Counter[str] = Counter()

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(10)
            connection.connect(self.address)
        except OSError:
            connection.close()
            raise
        return connection

    def one(self) -> None:
        """One malformed message."""
        kind = self.chance.choice(_KINDS)
        self.counts[kind.__name__.strip("_")] += 1
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            kind(self)

    def close(self) -> None:
        for connection in self.open:
            connection.close()
        self.open.clear()

    def keep(self, connection: socket.socket) -> None:
        """Let it stay, for as long as others do."""
        self.open.append(connection)
        while len(self.open) > AT_ONCE:
            self.open.pop(self.chance.randrange(len(self.open))).close()

    def _say(self, data: bytes, hear: bool = True) -> None:
        with self.connect() as connection:
            connection.sendall(data)
            if hear:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

    def _value(self, depth: int = 0) -> Any:
        pick = self.chance.randrange(18 if depth < 4 else 13)
        if pick >= 13:
            items = [self._value(depth + 1) for _ in range(self.chance.randrange(4))]
            return items if pick < 16 else {str(self._value(9))[:99]: item for item in items}
        return (
            None, True, 0, -1, 2**63, 2**64 - 1, -(2**63), float("nan"), float("inf"), "", "x" * 5000, b"\0" * 16,
            msgpack.Timestamp(2**33),
        )[pick]  # fmt: skip

    def _beginning(self) -> None:
        self.keep(connection := self.connect())
        connection.sendall(struct.pack(">I", 60_000) + bytes(self.chance.randrange(59_000)))

    def _nothing(self) -> None:
        self.keep(self.connect())

    def _huge_length(self) -> None:
        self._say(struct.pack(">I", self.chance.choice((2**32 - 1, 2**31, 1 << 20, 70_000))) + b"x" * 1000)

    def _noise(self) -> None:
        body = self.chance.randbytes(self.chance.randrange(2000))
        self._say(struct.pack(">I", len(body)) + body)

    def _no_map(self) -> None:
        body = msgpack.packb(self._value())
        self._say(struct.pack(">I", len(body)) + body)

    def _wrong_fields(self) -> None:
        op, fields = self.chance.choice(
            (
                ("flush", {"ring": b"\0" * 16, "sequence": 1, "timeout": 0.001}),
                ("flush", {"timeout": 0.001}),
                ("status", {"timeout": 1}),
                ("reserve", {"name": "x" * 40, "bytes": 10, "least": 5}),
                ("resume", {"destination": 77, "retry": False}),
                ("dismiss", {"records": [2**40]}),
                ("nothing", {"a": 1}),
            )
        )
        message: dict[Any, Any] = {"v": PROTOCOL_VERSION, "op": op, **fields}
        for _ in range(self.chance.randrange(1, 3)):
            name = self.chance.choice([*fields, "v", "op"])
            if self.chance.random() < 0.3:
                message.pop(name, None)
            else:
                message[name] = self._value()
        if message.get("op") == "dismiss" and message.get("records", 0) is None:
            return  # that is a right question
        self._say(encode(message), hear=self.chance.random() < 0.7)

    def _deep(self) -> None:
        body = self.chance.choice((b"\x91", b"\x81\xa1a")) * self.chance.choice((100, 900, 20_000)) + b"\xc0"
        self._say(struct.pack(">I", len(body)) + body)

    def _wide(self) -> None:
        body = b"\x82\xa1v\x01\xa2op\xdc" + struct.pack(">H", 60_000) + b"\x90" * 60_000
        self._say(struct.pack(">I", len(body)) + body)

    def _other_version(self) -> None:
        self._say(encode({"v": self._value(), "op": "status"}))

    def _byte_by_byte(self) -> None:
        with self.connect() as connection:
            for byte in encode({"v": PROTOCOL_VERSION, "op": "status"})[: self.chance.randrange(30)]:
                connection.sendall(bytes([byte]))

    def _asks_and_goes(self) -> None:
        self._say(encode({"v": PROTOCOL_VERSION, "op": "flush", "ring": b"?" * 16, "sequence": 2**62}), hear=False)

    def _never_reads(self) -> None:
        self.keep(connection := self.connect())
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(self.chance.choice((2, 8, 3000))):
                connection.sendall(encode({"v": PROTOCOL_VERSION, "op": "status"}))

    def _waits_for_ever(self) -> None:
        self.keep(connection := self.connect())
        message = {"v": PROTOCOL_VERSION, "op": "flush", "ring": b"?" * 16, "sequence": 2**62, "timeout": 1e300}
        connection.sendall(encode(message))
        if self.chance.random() < 0.9:
            connection.close()


_KINDS: tuple[Callable[[Attack], None], ...] = tuple(
    value for name, value in vars(Attack).items() if name.startswith("_") and name not in ("__init__", "_say", "_value")
    and callable(value)
)  # fmt: skip


def spread(seconds: list[float]) -> dict[str, float]:
    """Milliseconds of honest questions."""
    ordered = sorted(seconds)
    return {name: round(1000 * ordered[int(len(ordered) * share)], 2) for name, share in (("p50", 0.5), ("p99", 0.99))}


def measure(messages: int, seed: int) -> dict[str, Any]:
    """Attack the writer of a home of its own.

    Raises:
        AssertionError: it did not live through it as it should.
    """
    import json

    chance = random.Random(seed)
    portal = WillingPortal()
    try:
        with pipeline_home() as home:
            home.log_in(portal.url)
            job = home.script(JOB, SECLEA_PLATFORM_URL=portal.url)
            assert job.hear() == "logged"
            writer = psutil.Process(home.writer_pid())
            probe = home.script(PROBE)

            def heard() -> tuple[int, list[float]]:
                probe.tell("so far")
                failed, took = json.loads(probe.hear())
                return failed, took

            quiet: list[float] = []
            until(lambda: quiet.extend(heard()[1]) or len(quiet) >= 300, "honest questions before")
            memory, descriptors = writer.memory_info().rss, writer.num_fds()
            attack = Attack(home, chance)
            most, began = memory, time.monotonic()
            for number in range(messages):
                attack.one()
                if number % 50 == 0:
                    most = max(most, writer.memory_info().rss)
            seconds = time.monotonic() - began
            failed, took = heard()
            most = max(most, writer.memory_info().rss)
            attack.close()
            assert home.live().get("writer") == writer.pid, "another writer"
            until(lambda: writer.num_fds() <= descriptors + 2, "descriptors to be given back")  # the probe has some
            job.tell()
            assert job.hear() == "True"
            job.end()
            assert portal.steps() == list(range(CALLS))
            probe.tell("")
            probe.end()
    finally:
        portal.close()
    calm, attacked = spread(quiet), spread(took)
    return {
        "messages": messages,
        "seconds": round(seconds, 1),
        "kinds": dict(sorted(attack.counts.items())),
        "memory_grew_mb": round((most - memory) / 1e6, 1),
        "honest_questions": len(took),
        "honest_failed": failed,
        "honest_before_ms": calm,
        "honest_attacked_ms": attacked,
        "p99_ratio": round(attacked["p99"] / calm["p99"], 2),
    }


def main(arguments: list[str]) -> int:
    """Attack, print the figures; 1 on a finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.hostile_socket")
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args(arguments)
    found = measure(options.messages, options.seed)
    for name, value in found.items():
        print(f"{name:20} {value}")
    print(f"seed {options.seed}")
    return int(bool(found["honest_failed"]) or found["memory_grew_mb"] >= 10)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
