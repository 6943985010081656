"""The portal is down when a job starts and when it ends: nothing waits for it, and one line says so."""

import contextlib
import re
import socket
import threading
from collections.abc import Iterator

import pytest

from seclea.api.tokens import Token, TokenStore
from seclea.processes.rendezvous import take_lock
from tests.pipeline import CANARY, PipelineHome

JOB = """
    import time
    import seclea

    began = time.process_time()
    run = seclea.init("Claims")
    print(time.process_time() - began)
    for step in range(100):
        run.log({"loss": 1.0}, step=step)
    """


def test_init_says_one_line_and_the_exit_waits_for_nothing(home: PipelineHome) -> None:
    home.log_in(home.closed_url)
    script = home.script(JOB)
    # Of the 0.3 s that are promised: what it costs. What it waits, REACH_SECONDS at most, has a test of its own. (The clock
    # on the wall says here how busy the machine is.)
    assert float(script.end()) < 0.3
    assert script.errors == f"seclea: {home.closed_url} does not answer. What is logged is kept and sent later.\n"
    assert home.command("flush").returncode == 0
    assert home.steps() == list(range(100))


def test_the_start_loads_nothing_of_the_network_when_nobody_answers(home: PipelineHome) -> None:
    home.log_in(home.closed_url)
    printed = home.run(JOB, "import sys", "print('requests' in sys.modules, 'urllib3' in sys.modules)")
    assert printed.splitlines()[1] == "False False"


class SilentPortal:
    """Takes every connection and answers nothing. ``asked``: the first lines of what came; ``connections``: how many."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._threads.append(threading.Thread(target=self._listen, args=(connection,)))
                self._threads[-1].start()

    def _listen(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                self.asked += re.findall(r"^(\S+ \S+) HTTP/1.1\r$", data.decode("latin-1"), re.MULTILINE)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._listener.close()
        for thread in self._threads:  # their other ends are gone
            thread.join()


@pytest.fixture
def silent(home: PipelineHome) -> Iterator[SilentPortal]:
    """With nobody to send: what is asked is asked by the client."""
    home.home.path.mkdir(mode=0o700)
    lock = take_lock(home.home.sender_lock)
    assert lock is not None
    portal = SilentPortal()
    try:
        yield portal
    finally:
        for script in home.scripts:
            script.close()
        portal.close()
        lock.release()


def test_a_portal_that_takes_connections_and_never_answers_is_asked_one_thing_before_the_first_log_call(
    home: PipelineHome, silent: SilentPortal
) -> None:
    home.log_in(silent.url)
    script = home.script(JOB, "print('logged', flush=True)", "input()", SECLEA_PLATFORM_URL=silent.url)
    script.hear()
    assert script.hear() == "logged"
    assert silent.asked == ["GET /organization/?name=local"]
    assert silent.connections == 2, "one to see whether anybody is there, one to ask"
    assert "What is logged is kept and sent later" in script.errors
    script.tell()
    script.end()


def test_an_old_login_is_one_question_too_for_a_portal_that_never_answers(
    home: PipelineHome, silent: SilentPortal
) -> None:
    """All that a start asks has one time together: what the renewal has used is not there for what would follow it."""
    TokenStore(home.home.tokens).write(
        silent.url, Token(f"access-{CANARY}"), Token(f"refresh-{CANARY}"), "ada", expires_in=1e-6
    )
    home.run(JOB, SECLEA_PLATFORM_URL=silent.url)
    assert silent.asked == ["POST /api/token/refresh/"]


@pytest.mark.timeout(45)  # the lock alone was once waited for for a minute
def test_a_start_waits_for_nobody_who_renews_the_login_at_a_portal_that_never_answers(
    home: PipelineHome, silent: SilentPortal
) -> None:
    store = TokenStore(home.home.tokens)
    store.write(silent.url, Token(f"access-{CANARY}"), Token(f"refresh-{CANARY}"), "ada", expires_in=1e-6)
    with store.lock(silent.url):
        script = home.script(JOB, "print('logged', flush=True)", SECLEA_PLATFORM_URL=silent.url)
        script.hear()
        assert script.hear() == "logged", "while the other one still renews"
        script.end()
    assert silent.asked == []
