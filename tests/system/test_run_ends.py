"""A run's status is the truth: finished, failed or preempted; running only while somebody speaks for it, or nobody knows."""

import json
import os
import signal

from seclea.client.status import status
from tests.pipeline import PipelineHome, WillingPortal, is_running, kill, until

# Each child of one interpreter that has imported all goes its own way, with a run of its own.
WAYS = """
    import ctypes, os, signal, sys
    import seclea
    from seclea import SecleaAI

    def start(name):
        run = SecleaAI("Claims").start_training_run(name)
        run.log({"loss": 1.0}, step=1)
        return run

    def caught():
        start("caught")
        try:
            sys.exit(3)
        except SystemExit:
            pass

    def said():
        start("said").finish("preempted")
        os.kill(os.getpid(), signal.SIGKILL)

    def of_init(name):
        seclea.init("Claims", name)
        seclea.log({"loss": 1.0})

    ways = {
        "SIGKILL": lambda: start("SIGKILL") and os.kill(os.getpid(), signal.SIGKILL),
        "SIGTERM": lambda: start("SIGTERM") and os.kill(os.getpid(), signal.SIGTERM),
        "segfault": lambda: start("segfault") and ctypes.string_at(0),
        "os._exit": lambda: start("os._exit") and os._exit(0),
        "exception": lambda: start("exception") and 1 / 0,
        "exit 3": lambda: start("exit 3") and sys.exit(3),
        "exit words": lambda: start("exit words") and sys.exit("no data"),
        "exit 143": lambda: start("exit 143") and sys.exit(143),
        "exit 0": lambda: start("exit 0") and sys.exit(0),
        "caught": caught,
        "end": lambda: start("end"),
        "said": said,
        "init": lambda: of_init("init"),
        "init, exit 3": lambda: of_init("init, exit 3") or sys.exit(3),
        "init, SIGKILL": lambda: of_init("init, SIGKILL") or os.kill(os.getpid(), signal.SIGKILL),
    }
    for way in ways.values():
        if not os.fork():
            way()
            break
    else:
        for _ in ways:
            os.wait()
    """

KNOWN = {
    "SIGKILL": "failed",
    "SIGTERM": "failed",
    "segfault": "failed",
    "os._exit": "failed",
    "exception": "failed",
    "exit 3": "failed",
    "exit words": "failed",
    "exit 143": "preempted",
    "said": "preempted",
    "init": "finished",
    "init, exit 3": "failed",
    "init, SIGKILL": "failed",
}
UNKNOWN = {"exit 0", "caught", "end"}
RUNS = """
    import os, signal
    from seclea import SecleaAI
    run = SecleaAI("Claims").start_training_run("first")
    run.log({"loss": 0.0}, step=0)
    """


def ends(home: PipelineHome) -> dict[str, str]:
    """How each run ended, by its name."""
    names = dict(home.rows("SELECT uuid, name FROM entities WHERE kind = 'training_run'"))
    return {names[run]: how for run, how in home.finishes().items()}


def test_a_run_ends_as_its_process_did_and_what_nobody_knows_is_not_claimed(home: PipelineHome) -> None:
    home.run(WAYS)
    until(lambda: len(ends(home)) >= len(KNOWN) and not list(home.home.rings.iterdir()), "every run to be judged")
    assert ends(home) == KNOWN
    now = status(home.home)
    by_writer = {one["name"]: (one["status"], one["reason"]) for one in now["ended_by_writer"]}
    assert by_writer.keys() == {"SIGKILL", "SIGTERM", "segfault", "os._exit", "init, SIGKILL"}
    assert all(how == "failed" and "ended without saying how" in why for how, why in by_writer.values())
    assert {one["name"] for one in now["without_end"]} == UNKNOWN
    assert all("in order" in one["reason"] for one in now["without_end"])
    said = home.command("status").stdout
    assert "SIGKILL is failed: process" in said
    assert "end is still running: its process came to its end in order" in said


def test_a_run_goes_on_while_any_process_speaks_for_it_and_fails_when_the_last_one_is_gone(home: PipelineHome) -> None:
    script = home.script(
        RUNS,
        """
        child = os.fork()
        if child:
            print(child, flush=True)
            signal.pause()
        run.log({"loss": 1.0}, step=1)
        input()
        run.log({"loss": 2.0}, step=2)
        input()
        """,
    )
    child = int(script.hear())
    until(lambda: home.steps() == [0, 1], "what both logged")
    script.process.kill()
    (parent_ring,) = home.rows("SELECT hex(id) FROM rings WHERE pid = ?", script.pid)
    until(lambda: home.rows("SELECT 1 FROM rings WHERE hex(id) = ? AND closed_ns", parent_ring[0]), "the parent's end")
    script.tell()
    until(lambda: home.steps() == [0, 1, 2], "what the child logged after its parent was killed")
    assert home.finishes() == {}, "its child speaks for it"
    script.tell()  # the child ends in order, and cannot say how its parent's run ended
    until(lambda: not is_running(child), "the child's end")
    until(lambda: list(ends(home).values()) == ["failed"], "the run's end")
    script.end(-signal.SIGKILL)


def test_the_end_that_a_killed_writer_could_not_write_is_written_at_the_next_start(home: PipelineHome) -> None:
    script = home.script(RUNS, "print(flush=True)", "signal.pause()")
    script.hear()
    until(lambda: home.steps() == [0], "the point in the ledger")
    kill(script.pid, *home.processes())
    script.end(-signal.SIGKILL)
    home.run("from seclea import SecleaAI", "SecleaAI('Claims').flush(20)")
    until(lambda: ends(home) == {"first": "failed"}, "the run's end")
    (body,) = home.rows("SELECT body FROM records WHERE kind = 'finish'")[0]
    (batch,) = home.rows("SELECT body FROM records WHERE kind = 'metrics'")[0]
    from seclea.records import unpack_metrics

    assert json.loads(body)["finished_ns"] == max(unpack_metrics(batch).time), "when it said something last"
    lanes = home.rows("SELECT lane, sequence FROM lanes l JOIN streams s ON s.id = l.stream WHERE s.run IS NOT NULL")
    told = [(one["lane"], one["sequence"]) for one in json.loads(body)["streams"]]
    assert sorted(told) == sorted(lanes), "the end of each stream is told with it"


def test_a_run_fails_whose_ring_is_gone_with_its_process_as_after_a_reboot(home: PipelineHome) -> None:
    script = home.script(RUNS, "print(flush=True)", "signal.pause()")
    script.hear()
    until(lambda: home.steps() == [0], "the point in the ledger")
    kill(script.pid, *home.processes())
    script.end(-signal.SIGKILL)
    for ring in (*home.home.rings.glob("*.ring"), *home.home.shared_rings.glob("*.ring")):
        ring.unlink()
    home.run("from seclea import SecleaAI", "SecleaAI('Claims').flush(20)")
    until(lambda: ends(home) == {"first": "failed"}, "the run's end")


def test_a_run_is_preempted_when_the_pipeline_is_told_to_end_and_its_process_goes_too(home: PipelineHome) -> None:
    script = home.script(RUNS, "print(flush=True)", "signal.pause()")
    script.hear()
    until(lambda: home.steps() == [0], "the point in the ledger")
    writer = home.writer_pid()
    os.kill(writer, signal.SIGTERM)
    until(lambda: not is_running(writer), "the writer to leave")
    script.kill()
    assert home.finishes() == {}
    home.run("from seclea import SecleaAI", "SecleaAI('Claims').flush(20)")
    until(lambda: ends(home) == {"first": "preempted"}, "the run's end")
    assert "told to end (SIGTERM)" in status(home.home)["ended_by_writer"][0]["reason"]


def test_a_process_that_outlives_a_writers_sigterm_is_not_preempted_by_it(home: PipelineHome) -> None:
    goes_on = """
        import sys
        for step, _ in enumerate(sys.stdin, 1):
            run.log({'loss': 1.0}, step=step)
        """
    script = home.script(RUNS, "print(flush=True)", goes_on)
    script.hear()
    writer = home.writer_pid()
    os.kill(writer, signal.SIGTERM)
    until(lambda: not is_running(writer), "the writer to leave")

    def logs_on() -> bool:  # looks for a writer now and then, and starts another one
        script.tell()
        return len(home.steps()) > 1

    until(logs_on, "what it logged meanwhile")
    script.kill()
    until(lambda: ends(home) == {"first": "failed"}, "the run's end")


def test_the_portal_is_told_of_the_end_that_the_writer_wrote(home: PipelineHome, portal: WillingPortal) -> None:
    home.log_in(portal.url)
    script = home.script(RUNS, "print(flush=True)", "signal.pause()", SECLEA_PLATFORM_URL=portal.url)
    script.hear()
    script.kill()

    def told() -> list[str]:
        return [one.json["status"] for one in portal.asked if one.path.endswith("/finish")]

    until(told, "the run's end at the portal")
    assert told() == ["failed"]
    assert portal.steps() == [0]
