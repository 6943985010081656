"""R23, rule 51: what a signal does to writer, sender and client, whatever they are at."""

import os
import signal
import time

import pytest

from seclea.processes.rendezvous import is_held
from tests.contract.fault_portal import Answer, Fault, receipted
from tests.pipeline import PipelineHome, WillingPortal, is_running, kill, until

TOLD_SECONDS = 2.0  # the product's own promise: from SIGTERM to the end
STRAYS = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)

LOGS = """
    import os, signal, sys
    from seclea import SecleaAI
    seclea = SecleaAI("Claims")
    run = seclea.start_training_run("first")
    run.log({"loss": 0.0}, step=0)
    print(flush=True)
    """

# Children of one interpreter, each at something else when the signal comes; the writer is stopped, so that waits last and
# the ring fills.
CLIENTS = """
    import os, signal, sys
    from seclea import SecleaAI

    def say(line):
        os.write(1, line.encode() + b"\\n")  # in one piece, as all write to the same pipe

    def log(seclea, run):
        step = 1
        try:
            while True:
                run.log({"loss": 1.0}, step=step)
                step += 1
        finally:
            say(f"log {step - 1}")

    def user_code(seclea=None, run=None):
        while True:
            sum(range(1000))

    states = {
        "log": log,
        "flush": lambda seclea, run: seclea.flush(timeout=60),
        "complete": lambda seclea, run: seclea.complete(timeout=60),
        "finish": lambda seclea, run: run.finish(timeout=60),
        "user code": user_code,
    }
    children = {}
    for name, state in states.items():
        if not (child := os.fork()):
            seclea = SecleaAI("Claims")
            run = seclea.start_training_run(name)
            run.log({"loss": 0.0}, step=0)
            os.kill(os.getpid(), signal.SIGSTOP)  # until the writer is stopped
            say("begins")
            state(seclea, run)
            say("left")
            user_code()
        children[child] = name
    say(";".join(f"{name}={pid}" for pid, name in children.items()))
    for _ in states:
        pid, code = os.wait()
        say(f"ended {children[pid]} {os.waitstatus_to_exitcode(code)}")
    """
WAITS = ("flush", "complete", "finish")


def leaves(pid: int, began: float) -> None:
    """The process ends within what is promised, and a moment for a busy machine to show it."""
    until(lambda: not is_running(pid), f"process {pid} to leave", TOLD_SECONDS + 1.0 - (time.monotonic() - began))


def tell(*pids: int) -> float:
    began = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    return began


def test_what_is_sent_to_the_job_and_its_terminal_does_nothing_to_the_background(home: PipelineHome) -> None:
    script = home.script(LOGS, "input()")
    script.hear()
    writer, sender = home.writer_pid(), home.sender_pid()
    until(lambda: home.steps() == [0] and is_held(home.home.sender_lock), "the point in the ledger, and a sender")
    assert os.getsid(writer) == writer and os.getsid(sender) == sender, "sessions of their own: no terminal's Ctrl-C"
    for number in STRAYS:
        os.kill(writer, number)
        os.kill(sender, number)
    assert home.writer_pid() == writer  # an answer, after all signals
    assert is_running(sender)
    script.tell()
    script.end()


def test_writer_and_sender_leave_in_time_while_the_portal_hangs(home: PipelineHome, portal: WillingPortal) -> None:
    home.log_in(portal.url)
    portal.on("POST", "/collection/projects", Answer(fault=Fault.STALLED), receipted)
    script = home.script(LOGS, "signal.pause()", SECLEA_PLATFORM_URL=portal.url)
    script.hear()
    writer, sender = home.writer_pid(), home.sender_pid()
    until(lambda: portal.count("POST", "/collection/projects"), "a request that hangs")
    leaves(writer, began := tell(writer))
    leaves(sender, began)
    assert home.steps() == [0]
    script.kill()
    home.run("from seclea import SecleaAI", "SecleaAI('Claims').flush(20)", SECLEA_PLATFORM_URL=portal.url)
    until(lambda: portal.steps() == [0], "delivery after the next start")


def test_the_second_sigterm_ends_the_writer_at_once_and_starts_no_other(home: PipelineHome) -> None:
    script = home.script(LOGS, "signal.pause()")
    script.hear()
    writer, sender = home.writer_pid(), home.sender_pid()
    until(lambda: home.steps() == [0], "the point in the ledger")
    os.kill(sender, signal.SIGSTOP)  # the writer would wait for it, until it kills it
    tell(writer, writer)
    until(lambda: not home.processes(), "every process to be gone", TOLD_SECONDS)
    script.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_clients_end_as_python_would_whatever_they_are_at_and_lose_nothing(
    home: PipelineHome, number: signal.Signals
) -> None:
    home.log_in(home.closed_url)  # or `complete` would not wait
    script = home.script(CLIENTS)
    pids = {name: int(pid) for name, pid in (one.split("=") for one in script.hear().split(";"))}
    until(lambda: home.steps() == [0] * len(pids), "what each has logged")
    writer = home.writer_pid()
    os.kill(writer, signal.SIGSTOP)
    try:
        for pid in pids.values():
            os.kill(pid, signal.SIGCONT)
        said = [script.hear() for _ in pids]
        assert said == ["begins"] * len(pids)
        for pid in pids.values():
            os.kill(pid, number)
        said = []
        if number == signal.SIGINT:  # the first one ends the wait, and leaves the rest to the background
            waits = set(WAITS)
            while said.count("left") < len(waits):
                said.append(script.hear())
                # One that was hit before it waited ends by it, as anything else would.
                waits -= {line.split()[1] for line in said if line.startswith("ended")}
            for name in waits:
                os.kill(pids[name], number)
        while sum(line.startswith("ended") for line in said) < len(pids):
            said.append(script.hear())
        assert sorted(line for line in said if line.startswith("ended")) == sorted(
            f"ended {name} {-number}" for name in pids
        )
        script.end()
    finally:
        os.kill(writer, signal.SIGCONT)
        kill(*pids.values())  # children of a script that may be gone
    until(lambda: len(home.finishes()) == len(pids), "the end of each run")
    names = dict(home.rows("SELECT uuid, name FROM entities WHERE kind = 'training_run'"))
    ends = {names[run]: status for run, status in home.finishes().items()}
    assert ends == {**dict.fromkeys(pids, "failed"), "finish": "finished"}
    logged = sorted(step for run, step, *_ in home.points() if names[run] == "log")
    assert logged == list(range(len(logged)))
    if number == signal.SIGINT:
        (returned,) = (int(line.split()[1]) for line in said if line.startswith("log "))
        assert len(logged) - 1 in (returned, returned + 1), "the signal may come right after the record was handed over"
