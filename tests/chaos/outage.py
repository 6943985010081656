"""``python -m tests.chaos.outage``: a portal that is gone for 20 s in the middle of a job, and the sender killed meanwhile.

Rows R16 and R29. A real portal over TCP with a real login. While it is gone, a small server on its port answers every
request with 503 and counts it: the number of requests in the outage is counted by somebody else than us.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from tests.chaos.processes import pipeline_pids
from tests.chaos.referee import Referee, Told

USER, PASSWORD = "tester", "correct horse battery"


def free_port() -> int:
    """A loopback port that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def seclea(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "seclea", *arguments], capture_output=True, text=True, check=True, **options
    )


def start_portal(data: Path, port: int) -> subprocess.Popen[bytes]:
    """A portal of its own on ``port``; returns when it answers."""
    portal = subprocess.Popen(
        [sys.executable, "-m", "seclea.portal", "--data", str(data), "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return portal
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the portal does not start")


class Down(BaseHTTPRequestHandler):
    """Answers 503 and counts."""

    times: list[float] = []

    def _answer(self) -> None:
        self.times.append(time.monotonic())
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Outage:
    """Stands in for a portal that is down."""

    def __init__(self, port: int) -> None:
        HTTPServer.allow_reuse_address = True
        self._server = HTTPServer(("127.0.0.1", port), Down)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def end(self) -> None:
        """Give the port back."""
        self._server.shutdown()
        self._server.server_close()


def job(url: str, seconds: float, per_second: int, notes: Path) -> None:
    """Log at a steady pace and note how long each call took."""
    from seclea import SecleaAI

    taken = []
    with SecleaAI("outage", "Acme", platform_url=url) as client:
        run = client.start_training_run("paced")
        begin = time.monotonic()
        for number in range(int(seconds * per_second)):
            due = begin + number / per_second
            time.sleep(max(0.0, due - time.monotonic()))  # the pace of the job
            before = time.perf_counter_ns()
            run.log({"value": float(number)}, step=number)
            taken.append((time.monotonic(), time.perf_counter_ns() - before))
    notes.write_text(json.dumps({"run": run.uuid, "taken": taken, "ended": time.monotonic()}))


def main(arguments: list[str] | None = None) -> int:
    """Run it; 0 when everything arrived once, in order."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.outage")
    parser.add_argument("--down-seconds", type=float, default=20.0)
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="seclea-outage-"))
    os.environ["SECLEA_HOME"] = str(directory / "home")
    data, port = directory / "portal", free_port()
    url = f"http://127.0.0.1:{port}"
    portal = start_portal(data, port)
    seclea("portal", "org", "add", "Acme", "--data", str(data))
    seclea(
        "portal", "user", "add", USER, "--organization", "Acme", "--data", str(data), "--password-stdin", input=PASSWORD
    )
    seclea("login", "--username", USER, "--platform-url", url, "--password-stdin", input=PASSWORD)
    notes = directory / "notes.json"
    total = options.down_seconds + 12.0
    script = f"from tests.chaos.outage import job; from pathlib import Path; job({url!r}, {total}, 200, Path({str(notes)!r}))"
    worker = subprocess.Popen([sys.executable, "-c", script])
    time.sleep(5.0)
    portal.send_signal(signal.SIGTERM)
    portal.wait(10)
    down_at = time.monotonic()
    outage = Outage(port)
    time.sleep(options.down_seconds / 2)
    killed = pipeline_pids(directory / "home").get("sender", [])
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    killed_at = time.monotonic()
    time.sleep(options.down_seconds / 2)
    before_up = json.loads(
        subprocess.run(
            [sys.executable, "-m", "seclea", "status", "--json"], capture_output=True, text=True, check=False
        ).stdout
    )["destinations"][0]["breaker"]
    outage.end()
    up_at = time.monotonic()
    portal = start_portal(data, port)
    worker.wait(60)
    told = json.loads(notes.read_text())
    finish = subprocess.run(
        [sys.executable, "-c",
         f"from seclea import SecleaAI; r = SecleaAI('outage', 'Acme', platform_url={url!r}).complete(90); print(r)"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    delivered_at = time.monotonic()
    import urllib.request

    request = urllib.request.Request(
        f"{url}/api/token/obtain/",
        json.dumps({"username": USER, "password": PASSWORD}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as reply:
        cookies = [value for name, value in reply.getheaders() if name.lower() == "set-cookie"]
    token = next(one.split(";")[0].partition("=")[2] for one in cookies if one.startswith("access_token="))
    calls = len(told["taken"])
    wrong = Referee(url, token).judge(Told(told["run"], {"": calls}, finished=True))
    seclea("stop")
    portal.terminate()
    portal.wait(10)

    def figures(start: float, end: float) -> str:
        times = sorted(ns / 1000 for at, ns in told["taken"] if start <= at < end)
        return (
            f"p50 {statistics.median(times):.1f} µs, p99 {times[int(len(times) * 0.99)]:.1f} µs, max {times[-1]:.0f} µs"
        )

    after_kill = [at for at in Down.times if at > killed_at]
    print(f"log call before the outage:  {figures(0, down_at)}")
    print(f"log call during the outage:  {figures(down_at, up_at)}")
    requests = f"{len(Down.times)}, of them {len(after_kill)} after the sender was killed"
    print(f"requests during {options.down_seconds:.0f} s of outage: {requests}")
    print("  at seconds: " + ", ".join(f"{at - down_at:.1f}" for at in Down.times))
    print(f"sender killed at {killed_at - down_at:.1f} s ({len(killed)} process); breaker at the end: {before_up}")
    print(
        f"job ended {told['ended'] - up_at:.1f} s after the portal was up; delivered after {delivered_at - up_at:.1f} s"
    )
    print(f"{finish.stdout.strip()} {finish.stderr.strip()}")
    print(f"referee: {calls} calls, {len(wrong)} things wrong {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
