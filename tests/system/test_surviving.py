"""What survives whom: handed, durable, delivered; and the end of a script."""

import os
import re
import signal

from tests.pipeline import PipelineHome, kill, until

HUNDRED = """
    from seclea import SecleaAI
    seclea = SecleaAI("Claims")
    run = seclea.start_training_run("first")
    for step in range(100):
        run.log({"loss": 1 / (step + 1)}, step=step)
    """


def test_what_was_flushed_is_in_the_ledger_when_everything_is_killed(home: PipelineHome) -> None:
    script = home.script(HUNDRED, "print(seclea.flush(timeout=20), flush=True)", "input()")
    assert script.hear().startswith("Progress(done=True")
    kill(script.pid, *home.processes())
    assert home.processes() == {}
    assert home.points() == [(home.points()[0][0], step, "loss", 1 / (step + 1)) for step in range(100)]
    assert home.rows("PRAGMA journal_mode") == [("wal",)]
    script.end(-signal.SIGKILL)


def test_what_log_returned_for_survives_when_everything_is_killed_before_it_was_read(home: PipelineHome) -> None:
    script = home.script(HUNDRED, "print('logged', flush=True)", "input()")
    home.sender_pid()
    for pid in home.processes():
        os.kill(pid, signal.SIGSTOP)  # nobody reads the ring any more
    script.hear()
    kill(script.pid, *home.processes())
    script.end(-signal.SIGKILL)
    home.run("from seclea import SecleaAI", "print(SecleaAI('Claims').flush(20))")
    assert home.steps() == list(range(100))
    assert list(home.home.rings.iterdir()) == [] or until(
        lambda: list(home.home.rings.iterdir()) == [], "the dead client's ring to be removed"
    )


def test_complete_returns_in_time_when_the_portal_is_away_and_says_what_is_left(home: PipelineHome) -> None:
    home.log_in(home.closed_url)
    script = home.script(
        HUNDRED,
        "print(bool(seclea.flush(20)), flush=True)",
        "input()",
        """
        import time
        began = time.monotonic()
        result = seclea.complete(timeout=1.5)
        print(result.done, result.pending, result.delivered, 1.4 < time.monotonic() - began < 10)
        print(*result.reasons, sep="\\n")
        """,
    )
    assert script.hear() == "True"
    # On a busy machine the sender may need longer than that to find out.
    until(lambda: home.rows("SELECT 1 FROM destinations WHERE trouble IS NOT NULL"), "an attempt to be noted")
    script.tell()
    printed = script.end().splitlines()
    assert re.fullmatch("False [34] 0 True", printed[0])  # project, run, metrics in one batch or two
    assert "records are left after 1.5 s; the background goes on" in printed[1]
    assert any(home.closed_url in line or "refused" in line for line in printed[2:]), printed


def test_complete_does_not_wait_for_a_login_that_only_a_person_can_give(home: PipelineHome) -> None:
    printed = home.run(HUNDRED, "result = seclea.complete(timeout=3)", "print(result.done, *result.reasons)")
    assert printed.startswith("False")
    assert "seclea login" in printed


def test_flush_returns_in_time_when_the_writer_hangs(home: PipelineHome) -> None:
    script = home.script(HUNDRED, "input()", "print(seclea.flush(timeout=0.5).done)")
    writer = home.writer_pid()
    os.kill(writer, signal.SIGSTOP)
    try:
        script.tell()
        assert script.end(seconds=10) == "False\n"
    finally:
        os.kill(writer, signal.SIGCONT)


def test_a_script_ends_without_its_background_processes(home: PipelineHome) -> None:
    """With the writer stopped, anything at exit that waited for it, or for a thread of ours, would hang."""
    script = home.script(
        """
        import atexit, threading
        import seclea
        run = seclea.init("Claims")
        input()
        for step in range(100):
            run.log({"loss": 1 / (step + 1)}, step=step)
        strangers = [one for one in threading.enumerate() if one is not threading.main_thread()]
        print(all(one.daemon for one in strangers), flush=True)
        """
    )
    writer = home.writer_pid()
    os.kill(writer, signal.SIGSTOP)
    try:
        script.tell()
        assert script.end(seconds=10) == "True\n"
    finally:
        os.kill(writer, signal.SIGCONT)
    until(lambda: list(home.finishes().values()) == ["finished"], "the run's end")
    assert home.steps() == list(range(100))


def test_a_with_block_that_ends_by_an_exception_marks_its_runs_failed(home: PipelineHome) -> None:
    script = home.script(
        """
        from seclea import SecleaAI
        with SecleaAI("Claims") as seclea:
            done = seclea.start_training_run("done")
            print(done.uuid, flush=True)
            done.finish()
            run = seclea.start_training_run("broken")
            print(run.uuid, flush=True)
            run.log({"loss": 1.0})
            raise RuntimeError("the user's own")
        """
    )
    done, broken = script.hear(), script.hear()
    script.end(1)
    assert "RuntimeError: the user's own" in script.errors
    until(lambda: home.finishes() == {done: "finished", broken: "failed"}, "both ends")


def test_a_with_block_that_ends_well_finishes_its_runs(home: PipelineHome) -> None:
    home.run(
        "from seclea import SecleaAI",
        "with SecleaAI('Claims') as seclea:\n    seclea.start_training_run().log({'loss': 1.0})",
    )
    until(lambda: list(home.finishes().values()) == ["finished"], "the run's end")


def test_a_script_that_ends_by_an_exception_fails_the_run_of_init(home: PipelineHome) -> None:
    script = home.script("import seclea", "seclea.init('Claims')", "seclea.log({'loss': 1.0})", "1 / 0")
    script.end(1)
    until(lambda: list(home.finishes().values()) == ["failed"], "the run's end")


def test_a_script_that_ends_without_finish_loses_nothing_and_claims_no_end(home: PipelineHome) -> None:
    home.run(HUNDRED)
    until(lambda: home.steps() == list(range(100)), "every point in the ledger")
    until(lambda: list(home.home.rings.iterdir()) == [], "its ring to be removed")
    assert home.finishes() == {}


def test_runs_are_numbered_over_all_processes_and_states_within_their_run(home: PipelineHome) -> None:
    home.run(
        """
        from seclea import SecleaAI
        import numpy as np
        from sklearn.linear_model import LinearRegression
        with SecleaAI("Claims") as seclea:
            for _ in range(2):
                run = seclea.start_training_run()
                for _ in range(2):
                    run.log_model_state(LinearRegression().fit(np.eye(3), [1, 2, 3]))
        """
    )
    home.run("from seclea import SecleaAI", "s = SecleaAI('Claims')", "s.start_training_run()", "s.flush(20)")
    rows = home.rows("SELECT name FROM entities WHERE kind = 'training_run' ORDER BY rowid")
    assert rows == [("Training Run 1",), ("Training Run 2",), ("Training Run 3",)]
    rows = home.rows("SELECT sequence_num FROM entities WHERE kind = 'model_state' ORDER BY rowid")
    assert rows == [(0,), (1,), (0,), (1,)]


def test_a_payload_that_waited_a_night_for_its_writer_is_not_swept_before_its_ring_is_read(home: PipelineHome) -> None:
    script = home.script(
        HUNDRED,
        """
        from sklearn.linear_model import LinearRegression
        run.log_model_state(LinearRegression().fit([[1.0], [2.0]], [1.0, 2.0]), step=100)
        print("logged", flush=True)
        input()
        """,
    )
    home.sender_pid()
    for pid in home.processes():
        os.kill(pid, signal.SIGSTOP)  # the ring is not read any more
    script.hear()
    kill(script.pid, *home.processes())
    script.end(-signal.SIGKILL)
    (payload,) = home.home.incoming.iterdir()
    os.utime(payload, (0, 0))
    home.run("from seclea import SecleaAI", "print(SecleaAI('Claims').flush(20))")
    assert home.rows("SELECT kind, error FROM records WHERE kind = 'model_state'") == [("model_state", None)]
    assert home.steps() == list(range(100))
