"""``python -m tests.chaos.catch_up``: how fast one lane sends what waited, on loopback: alone and together, and how packed.

A real ledger with as many small batches as an outage leaves, a real portal over TCP with a login, and the sender's own lane and
api between them. Rows R14 and R16.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from seclea.api import packing
from seclea.api.api import Api
from seclea.api.auth import AuthService, TokenStore
from seclea.api.session import Session
from seclea.contract import Destination
from seclea.ledger.view import LedgerView
from seclea.records import Lane
from seclea.sender.destination import DestinationState
from seclea.sender.lane import LaneWorker, Tools
from tests.contract.portal_server import PortalServer, running_portal
from tests.unit.writer.client import Client, Desk

PASSWORD = "correct horse"


class Counting(Session):
    """Counts requests and the bytes of their bodies."""

    requests = sent_bytes = 0

    def request(self, method: str, path: str, **more: Any) -> Any:
        self.requests += 1
        self.sent_bytes += len(more.get("content") or b"")
        return super().request(method, path, **more)

    @property
    def connections(self) -> int:
        """Made since the start."""
        pools = self._client().get_adapter(self.base_url).poolmanager.pools  # type: ignore[attr-defined]
        return sum(pools[key].num_connections for key in pools.keys())  # noqa: SIM118 (no mapping)


def catch_up(
    server: PortalServer, directory: Path, batches: int, calls: int, encoding: str, *, together: bool
) -> dict[str, float]:
    """Send ``batches`` of ``calls`` log calls with four metrics each."""
    directory.mkdir()
    os.environ["XDG_RUNTIME_DIR"] = str(directory)
    desk = Desk(directory)
    client, random = Client("Claims", (server.url, server.url, "Acme")), Random(1)
    index, _ = client.run()
    for step in range(batches * calls):
        client.log(index, step, loss=random.random(), accuracy=random.random(), rate=1e-3, epoch=3.0)
        if step % calls == calls - 1:
            desk.take(client, len(client.frames) - calls + 1 if step >= calls else 1)
    session = Counting(server.url)
    auth = AuthService(Session(server.url), TokenStore(directory / "tokens"))
    auth.authenticate("ann", PASSWORD)
    api = Api(session, auth, Destination(server.url, server.url, "Acme"))
    capabilities = api.capabilities() or {}
    if not together:
        capabilities["extensions"].remove("metric-batches")
    api._packing = packing.choose([encoding])
    told: list[dict[str, Any]] = []
    (row,) = desk.ledger.destinations()
    state = DestinationState(row, told.append, lambda: True, lambda _: False, random)
    view = LedgerView(desk.home.ledger)
    worker = LaneWorker(state, Lane.ORDERED, Tools(api, desk.spool, lambda: view, told.append, random))
    seconds = 0.0
    while desk.ledger.pending()[0]:
        began = time.perf_counter()
        while worker.step() == 0.0 and len(told) < 100:
            pass
        seconds += time.perf_counter() - began
        with desk.ledger.transaction():
            for message in told:
                desk.settler.apply(message)
        told.clear()
    view.close()
    found = {
        "records a second": batches / seconds,
        "requests": session.requests,
        "connections": session.connections,
        "bytes a record": session.sent_bytes / batches,
    }
    api.close()
    desk.ledger.close()
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run all and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.catch_up", description=__doc__)
    parser.add_argument("--batches", type=int, default=1000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="s-", dir="/tmp") as name, running_portal(Path(name) / "data") as server:
        server.add_member("ann", "Acme", PASSWORD)
        for calls in (1, 20, 500):
            for encoding in ("identity", "gzip", "zstd"):
                for together in (False, True):
                    words = f"{calls} calls a batch, {encoding}, {'together' if together else 'one by one'}"
                    batches = options.batches if calls < 500 else options.batches // 10
                    place = Path(name) / words.replace(" ", "").replace(",", "")
                    figures = catch_up(server, place, batches, calls, encoding, together=together)
                    print(
                        f"{words}: " + ", ".join(f"{value:,.0f} {word}" for word, value in figures.items()), flush=True
                    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
