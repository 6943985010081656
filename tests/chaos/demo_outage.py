"""``python -m tests.chaos.demo_outage``: the demo itself, its portal killed in the middle and kept down for 20 s.

The home's portal is kept down by holding its lock, as another portal of the folder would. Half-way the sender is killed too.
Nothing answers meanwhile, so requests are counted by `tests.chaos.outage` instead, against a portal over TCP. Exit code: the
demo's own, which compares everything with what was logged.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.processes import pipeline_pids
from tests.pipeline import until

DOWN_SECONDS = 20.0


def main(_arguments: list[str] | None = None) -> int:
    """Run it; 0 when the demo found everything at the portal."""
    home = Path(tempfile.mkdtemp(prefix="seclea-demo-outage-")) / "home"
    environment = {**os.environ, "SECLEA_HOME": str(home)}
    address, lock = home / "portal" / "address.json", home / "portal" / "portal.lock"
    began = time.monotonic()
    demo = subprocess.Popen([sys.executable, "-m", "seclea", "demo", "--home", str(home)], env=environment)
    until(address.exists, "the demo's portal")
    os.kill(json.loads(address.read_text("utf-8"))["pid"], signal.SIGKILL)
    descriptor = os.open(lock, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    down = time.monotonic()
    print(f"-- {down - began:.1f} s: portal killed, kept down for {DOWN_SECONDS:.0f} s", flush=True)
    time.sleep(DOWN_SECONDS / 2)  # the outage itself
    killed = pipeline_pids(home).get("sender", [])
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    print(f"-- {time.monotonic() - began:.1f} s: {len(killed)} sender killed", flush=True)
    time.sleep(max(0.0, down + DOWN_SECONDS - time.monotonic()))
    ended = sorted(path.stem for path in (home / "demo").glob("*.json"))
    os.close(descriptor)
    up = time.monotonic()
    code = demo.wait(180)
    print(
        f"-- jobs that ended during the outage: {ended}; demo exit {code}, {time.monotonic() - up:.1f} s after it",
        flush=True,
    )
    subprocess.run([sys.executable, "-m", "seclea", "stop"], env=environment, check=False)
    shutil.rmtree(home.parent, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
