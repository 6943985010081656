"""The pipeline leaves by itself when nobody needs it, or when it is told to; whoever comes just then loses nothing."""

import os
import signal
import time

from seclea.processes.rendezvous import is_held
from tests.pipeline import PipelineHome, WillingPortal, is_running, until

LOGS_ONE = """
    from seclea import SecleaAI
    run = SecleaAI("Claims").start_training_run()
    run.log({"loss": 1.0}, step=7)
    run.finish()
    """

# A forked child of an interpreter that has all imported already is there within milliseconds.
COMES_AS_THE_WRITER_LEAVES = """
    import os, time
    import seclea.api.connect, seclea.client.login  # the child must be there while the writer is still leaving
    from seclea import SecleaAI
    from seclea.contract import Home

    home = Home(os.environ["SECLEA_HOME"])
    socket = home.socket
    for step in range(4):
        child = os.fork()
        if not child:
            SecleaAI("Claims").start_training_run().log({"loss": 1.0}, step=step)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        deadline = time.monotonic() + 20
        # A writer is on its way, unless the one that leaves has taken the ring over already.
        while not socket.exists() and any(home.rings.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.001)
        while socket.exists() and time.monotonic() < deadline:  # unbound: it leaves
            time.sleep(0.0005)
        assert time.monotonic() < deadline
    """


def nobody_is_left(home: PipelineHome) -> None:
    until(lambda: not home.processes(), "the pipeline to leave")
    assert not home.home.socket.exists()
    assert list(home.home.rings.iterdir()) == []
    assert not is_held(home.home.writer_lock)
    assert not is_held(home.home.sender_lock)


def test_the_pipeline_leaves_by_itself_when_idle_and_takes_socket_and_rings_along(home: PipelineHome) -> None:
    home.run(LOGS_ONE, SECLEA_IDLE_TIMEOUT_SECONDS=0.2)
    until(lambda: home.finishes(), "the run's end in the ledger")
    nobody_is_left(home)
    assert home.steps() == [7]


def test_the_pipeline_stays_for_a_client_that_says_nothing(home: PipelineHome) -> None:
    script = home.script(LOGS_ONE, "input()", SECLEA_IDLE_TIMEOUT_SECONDS=0)
    writer = home.writer_pid()
    until(lambda: home.finishes(), "the run's end in the ledger")
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 1.2 or not is_running(writer), "some looks of the writer")
    assert home.writer_pid() == writer
    script.tell()
    script.end()


def test_a_client_that_comes_just_as_the_writer_leaves_loses_nothing(home: PipelineHome) -> None:
    home.run(COMES_AS_THE_WRITER_LEAVES, SECLEA_IDLE_TIMEOUT_SECONDS=0)
    until(lambda: home.steps() == [0, 1, 2, 3], "what every child logged, once")
    assert home.rows("SELECT count(*) FROM events WHERE kind = 'start'")[0][0] >= 3, "the writer never left"
    nobody_is_left(home)


def test_the_pipeline_does_not_leave_while_something_can_still_be_sent(
    home: PipelineHome, portal: WillingPortal
) -> None:
    home.log_in(home.closed_url)  # refuses connections: it may come back any moment
    home.run(LOGS_ONE, SECLEA_IDLE_TIMEOUT_SECONDS=0)
    until(lambda: home.rows("SELECT 1 FROM destinations WHERE requests >= 3"), "some attempts")
    assert home.live()["writer"]
    assert home.rows("SELECT count(*) FROM records WHERE status = 'Transmitting'") != [(0,)]


def test_sigterm_means_commit_and_leave_and_sigint_is_not_for_the_background(home: PipelineHome) -> None:
    script = home.script(LOGS_ONE, "print()", "input()")
    script.hear()
    writer, sender = home.writer_pid(), home.sender_pid()
    for pid in (writer, sender):
        os.kill(pid, signal.SIGINT)
    assert home.writer_pid() == writer
    assert home.sender_pid() == sender
    os.kill(writer, signal.SIGTERM)
    until(lambda: not is_running(writer) and not is_running(sender), "both to leave")
    assert home.steps() == [7], "what was in the ring was committed before it left"
    script.tell()
    script.end()


def test_stop_ends_a_pipeline_that_is_still_starting(home: PipelineHome) -> None:
    home.run(LOGS_ONE)  # ends before the writer has bound its socket, or about then
    stopped = home.command("stop")
    assert stopped.returncode == 0, stopped.stderr
    until(lambda: not home.processes(), "every process to be gone", 3.0)


def test_stop_is_enough_when_the_writer_was_killed_a_moment_ago(home: PipelineHome) -> None:
    home.run(LOGS_ONE)
    until(lambda: is_held(home.home.sender_lock), "the sender")
    os.kill(home.writer_pid(), signal.SIGKILL)
    stopped = home.command("stop")  # the sender may be about to start another writer
    assert stopped.returncode == 0, stopped.stderr
    until(lambda: not home.processes(), "every process to be gone", 3.0)
