"""A process is killed at random instants of a refresh: nobody ever has to log in again for that (S8).

The portal is a real one, with no grace in time at all: only its rule that the token used last may be used again stands
between a crash and a login that is lost. In the suite a few hundred kills; ten thousand with ``pytest -m chaos``.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from seclea.api.auth import AuthService, Token, TokenStore
from seclea.api.session import Session
from seclea.errors import PortalUnavailable
from tests.contract.portal_server import PortalServer

RUNS, MANY = 300, 10_000
FINISHED, NEVER = 73, 1 << 40
PASSWORD = "correct horse"
# By bytecode where we decide and store, by line where requests, urllib3 and the socket do their part.
BY_BYTECODE, BY_LINE = ("/seclea/api/",), ("/requests/", "/urllib3/", "/http/client.py", "/socket.py", "/filelock/")

WITHOUT_GRACE = """
import sys
from pathlib import Path
from seclea.portal.config import PortalConfig
from seclea.portal.serve import serve
serve(PortalConfig(Path(sys.argv[1]), port=int(sys.argv[2]), refresh_grace_seconds=0))
"""


class StrictPortal(PortalServer):
    def command(self) -> list[str]:
        return [sys.executable, "-c", WITHOUT_GRACE, str(self.data), *self.arguments]


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalServer]:
    server = StrictPortal(tmp_path_factory.mktemp("portal") / "data", "0").start()
    try:
        server.add_member("ada", "Acme", PASSWORD)
        yield server
    finally:
        server.close()


def killed_at(point: int, note: int, work: Callable[[], object]) -> None:
    """Run ``work``, and die before step ``point`` of it; note how many there were before the reply came, and in all."""
    passed = replied = 0

    def trace(frame: FrameType, event: str, arg: object) -> object:
        nonlocal passed, replied
        name = frame.f_code.co_filename
        frame.f_trace_opcodes = any(part in name for part in BY_BYTECODE)
        if not frame.f_trace_opcodes and not any(part in name for part in BY_LINE):
            return None
        if event == ("opcode" if frame.f_trace_opcodes else "line"):
            passed += 1
            if frame.f_code.co_name == "_access_token" and not replied:
                replied = passed
            if passed == point:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)  # type: ignore[arg-type]
    work()
    sys.settrace(None)
    os.pwrite(note, struct.pack("=QQ", replied, passed), 0)


class Machine:
    """The processes of one machine: they share a token store, and nothing else."""

    def __init__(self, portal: PortalServer, directory: Path) -> None:
        self.portal = portal
        self.directory = directory
        self.session = Session(portal.url)
        self.note = os.open(directory / "note", os.O_RDWR | os.O_CREAT)
        self.auth().authenticate("ada", PASSWORD)

    def auth(self) -> AuthService:
        return AuthService(self.session, TokenStore(self.directory / "tokens"))

    def close(self) -> None:
        os.close(self.note)
        self.session.close()

    def refresh_in_child(self, stale: Token, point: int) -> int:
        """The pid of a child that renews ``stale`` and is killed at ``point``."""
        pid = os.fork()
        if not pid:
            try:
                auth = AuthService(Session(self.portal.url), TokenStore(self.directory / "tokens"))
                killed_at(point, self.note, lambda: auth.refresh(stale))
                os._exit(FINISHED)
            finally:
                os._exit(1)
        return pid

    def steps(self) -> tuple[int, int]:
        stale = self.auth().access_token()
        assert stale is not None
        ended(self.refresh_in_child(stale, NEVER), FINISHED)
        replied, passed = struct.unpack("=QQ", os.pread(self.note, 16, 0))
        return replied, passed


def ended(pid: int, *codes: int) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in codes


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param(RUNS, marks=pytest.mark.timeout(300)),  # 15 s on a quiet machine
        pytest.param(MANY, marks=[pytest.mark.chaos, pytest.mark.timeout(3600)]),
    ],
)
def test_killed_at_any_step_of_a_refresh_no_login_is_lost(portal: PortalServer, tmp_path: Path, runs: int) -> None:
    machine = Machine(portal, tmp_path)
    chance = random.Random(f"refresh {os.environ.get('SECLEA_TEST_SEED', '0')}")
    replied, steps = machine.steps()
    assert 0 < replied < steps and steps - replied > 300, (
        "from the reply to the store there is something to be killed in"
    )
    lost = renewed_before = 0
    for number in range(runs):
        stale = machine.auth().access_token()
        assert stale is not None
        first = 1 if number % 3 == 0 else replied if number % 3 == 1 else int(replied * 0.8)
        child = machine.refresh_in_child(stale, chance.randint(first, steps))
        if number % 2 == 0:  # else another process wants it at the same moment
            ended(child, -signal.SIGKILL, FINISHED)
            tokens = TokenStore(tmp_path / "tokens").read(portal.url)
            assert tokens is not None, "there is no instant without a login in the store"
            renewed_before += tokens.access != stale
        fresh = machine.auth().refresh(stale)  # an AuthenticationError here is the self-logout
        if number % 2:
            ended(child, -signal.SIGKILL, FINISHED)
        lost += fresh == stale
        left = [path.name for path in (tmp_path / "tokens").iterdir() if path.name.startswith(".")]
        assert len(left) <= 1, "what a dead one leaves goes with the next write"
    assert lost == 0 and machine.auth().verify()
    assert 0 < renewed_before < runs // 2, "killed before the store had it, and after"
    print(f"{runs} refreshes killed within {steps} steps ({replied} until the reply): 0 logins lost")
    machine.close()


def test_killed_in_the_middle_again_and_again_no_login_is_lost(portal: PortalServer, tmp_path: Path) -> None:
    """The portal has rotated twenty times and nobody has stored any of it."""
    machine = Machine(portal, tmp_path)
    replied, _ = machine.steps()
    stale = machine.auth().access_token()
    assert stale is not None
    for _ in range(20):
        ended(machine.refresh_in_child(stale, replied), -signal.SIGKILL)
    assert machine.auth().refresh(stale) != stale
    assert machine.auth().verify()
    machine.close()


def test_a_portal_that_dies_in_the_middle_of_a_refresh_costs_no_login(portal: PortalServer, tmp_path: Path) -> None:
    """kill -9 of the portal while refreshes go on: committed or not, the token in the store is good afterwards."""
    machine = Machine(portal, tmp_path)
    chance = random.Random(f"portal {os.environ.get('SECLEA_TEST_SEED', '0')}")
    for _ in range(2):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                auth = AuthService(Session(portal.url), TokenStore(tmp_path / "tokens"))
                while True:
                    auth.refresh()
                    os.write(writing, b".")
            except PortalUnavailable:
                os._exit(FINISHED)
            finally:
                os._exit(1)
        for _ in range(chance.randint(1, 20)):
            assert os.read(reading, 1) == b"."
        portal.kill()
        ended(child, FINISHED)
        os.close(reading)
        os.close(writing)
        machine.session.close()
        portal.arguments = (portal.url.rpartition(":")[2],)  # the same address: a store knows its tokens by it
        portal.start()
        machine.auth().refresh()
        assert machine.auth().verify()
    machine.close()
