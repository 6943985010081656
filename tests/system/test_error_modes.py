"""The error modes of the owner's note, each with a test that names it; what is tested elsewhere is named here, too.

Out of space
    system/test_no_room.py::test_a_full_disk_pauses_logging_and_nothing_is_lost_once_there_is_room
    system/test_no_room.py::test_a_ledger_that_cannot_grow_pauses_within_a_second_and_resumes_by_itself
    system/test_no_room.py::test_a_job_that_starts_on_a_full_disk_waits_for_room_and_goes_on
Out of memory
    system/test_no_room.py::test_a_writer_at_a_limit_of_its_process_pauses_and_goes_on
    system/test_no_room.py::test_a_sender_at_a_limit_of_its_process_delivers_all_of_it_later
Each call that fails
    unit/writer/test_every_call_fails.py::test_whatever_call_of_the_system_fails_nothing_is_lost
    unit/writer/test_every_call_fails.py::test_whatever_statement_fails_nothing_is_lost
DB: fails to open
    test_a_ledger_that_cannot_be_opened_is_named_waited_for_and_no_crash_loop
DB: locked, deadlock
    test_a_ledger_that_somebody_locks_pauses_and_goes_on
DB: deleted
    test_a_ledger_that_is_deleted_under_the_writer_is_put_back_by_it_and_nothing_is_lost
DB: full
    unit/writer/test_review_writer.py::test_on_a_full_disk_nothing_spins_and_nothing_is_lost
DB: unreadable
    test_complete_and_status_name_a_ledger_that_cannot_be_read
Saving a model state
    test_a_state_whose_file_vanishes_is_failed_by_name_and_its_run_goes_on
    test_a_state_that_finds_no_room_is_left_out_and_counted
Saving a dataset
    test_a_dataset_that_cannot_be_read_is_refused_at_the_call
Threads fail to start
    unit/writer/test_every_call_fails.py::test_whatever_thread_cannot_start_nothing_is_lost
Processes fail to start
    system/test_odd_environments.py::test_where_no_process_can_be_started_logging_goes_on_and_that_is_said_once
    test_a_writer_that_cannot_settle_in_goes_on_once_it_can
A process dies
    test_a_sender_that_dies_at_its_start_is_started_more_and_more_slowly_and_that_is_said
    system/test_restarting.py::test_after_both_were_killed_the_next_log_calls_start_them
Error in the parent
    system/test_surviving.py::test_a_script_that_ends_by_an_exception_fails_the_run_of_init
Queue: encoding
    unit/queues/test_queue.py::test_an_object_that_cannot_be_unpickled_raises_once_and_the_rest_goes_on
    test_words_in_the_settle_queue_that_make_no_sense_do_no_harm
Queue: full
    unit/queues/test_queue_at_the_edges.py::test_memory_that_is_really_full_is_queue_full_never_a_signal_and_nothing_put_is_lost
    unit/queues/test_review_leftover_file.py::test_an_item_whose_file_cannot_be_removed_is_not_lost
Complete: not empty
    test_complete_says_what_is_not_durable
Complete: not sent
    system/test_surviving.py::test_complete_returns_in_time_when_the_portal_is_away_and_says_what_is_left
Complete: partly sent
    test_complete_says_what_is_sent_and_what_is_left
Login cannot be read
    unit/api/test_tokens_without_room.py::test_a_login_that_cannot_be_read_just_now_is_waited_for
"""

import os
import re
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from seclea.ledger.db import Ledger
from seclea.queues.queue import Queue
from tests.contract.fault_portal import Answer
from tests.pipeline import PipelineHome, Script, WillingPortal, until

# Logs as it is told; a log call that waits for room keeps it from answering, and from nothing else.
JOB = """
    import os, resource, sys
    from seclea import SecleaAI
    client = SecleaAI("Claims")
    run = client.start_training_run("job")
    step = 0
    for line in sys.stdin:
        if (word := line.strip()) == "end":
            break
        if word == "state":
            from torch import ones
            if "STATE_LIMIT" in os.environ:
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
            left_out = run.log_model_state({"w": ones(1000)}, step=step).metadata.get("left_out")
            if left_out: print("left out:", left_out.partition(" (")[0], flush=True); continue
        elif word == "complete":
            print(client.complete(timeout=1), flush=True)
            continue
        else:
            run.log({"loss": 1.0}, step=step)
            step += 1
        print("done", flush=True)
    run.finish()
    """


def does(script: Script, word: str) -> str:
    script.tell(word)
    return script.hear()


def paused(home: PipelineHome, why: str) -> str:
    """Wait until the writer says that logging is paused, for this reason."""
    return until(lambda: why in (said := str(home.live().get("paused"))) and said, f"a pause: {why}")


def resumed(home: PipelineHome) -> None:
    until(lambda: (live := home.live()) and live["paused"] is None, "the end of the pause")


def test_each_test_that_the_table_names_is_there() -> None:
    root = Path(__file__).parents[1]
    named = re.findall(r"^    (?:(\S+\.py)::)?(test_\w+)$", __doc__ or "", re.MULTILINE)
    assert len(named) > 25
    for file, name in named:
        source = (root / file).read_text("utf-8") if file else Path(__file__).read_text("utf-8")
        assert f"def {name}(" in source, f"{file} has no {name}"


# -- the ledger


def no_database(path: Path) -> None:
    path.write_bytes(b"some notes of mine " * 500)


def anothers(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.close()


def of_a_newer_version(path: Path) -> None:
    Ledger(path).close()
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 999")
    newer.close()


def damaged(path: Path) -> None:
    Ledger(path).close()
    path.with_suffix(".anchor").unlink()  # with it the file is known to be ours, and is salvaged (test_recovering.py)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 3000)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_database, "is damaged: file is not a database"),
        (anothers, "not a ledger of seclea"),
        (of_a_newer_version, "has version 999"),
        (damaged, "is damaged"),
    ],
)
def test_a_ledger_that_cannot_be_opened_is_named_waited_for_and_no_crash_loop(
    home: PipelineHome, make: Callable[[Path], None], said: str
) -> None:
    home.path.mkdir(mode=0o700)
    make(home.home.ledger)
    before = home.home.ledger.read_bytes()
    script = home.script(JOB)
    paused(home, said)
    writer = home.writer_pid()
    script.tell("log")
    until(lambda: re.search(rf"logging is paused \(.*{said}", script.errors), "the word on stderr")
    shown = home.command("status").stdout
    assert said in shown, shown
    assert home.home.ledger.read_bytes() == before, "left untouched"
    assert home.pids_of("seclea.writer") == [writer], "the very same one: no crash loop"
    for path in home.path.glob("ledger.sqlite*"):  # what the message says
        path.rename(home.work / path.name)
    assert script.hear() == "done"
    script.tell("end")
    script.end()
    until(lambda: home.finishes() and home.steps() == [0], "all of it in a new ledger")
    assert home.writer_pid() == writer


def test_a_ledger_that_somebody_locks_pauses_and_goes_on(home: PipelineHome) -> None:
    script = home.script(JOB)
    assert does(script, "log") == "done"
    until(lambda: home.steps() == [0], "the first step")
    locker = sqlite3.connect(home.home.ledger, isolation_level=None)
    try:
        locker.execute("BEGIN EXCLUSIVE")
        assert does(script, "log") == "done"
        paused(home, "locked")
        locker.execute("ROLLBACK")
    finally:
        locker.close()
    resumed(home)
    assert does(script, "log") == "done"
    until(lambda: home.steps() == [0, 1, 2], "all steps")


def test_a_ledger_that_is_deleted_under_the_writer_is_put_back_by_it_and_nothing_is_lost(home: PipelineHome) -> None:
    """The writer still holds what was in it: it writes that to its place, and leaves to a successor."""
    script = home.script(JOB)
    assert does(script, "log") == "done"
    until(lambda: home.steps() == [0], "the first step")
    writer = home.writer_pid()
    for path in home.path.glob("ledger.sqlite*"):
        path.unlink()
    assert does(script, "log") == "done"
    until(lambda: home.steps() == [0, 1], "both steps")
    assert home.writer_pid() != writer
    assert "was deleted while it was in use" in home.logs()
    assert not home.home.damaged.exists(), "nothing was damaged"
    script.tell("end")
    script.end()


def test_complete_and_status_name_a_ledger_that_cannot_be_read(home: PipelineHome) -> None:
    home.path.mkdir(mode=0o700)
    damaged(home.home.ledger)
    script = home.script(JOB)
    paused(home, "is damaged")
    answer = does(script, "complete")
    assert "done=False" in answer and "cannot be read" in answer
    shown = home.command("status", "--json")
    assert shown.returncode == 1 and "is damaged" in shown.stdout
    for path in home.path.glob("ledger.sqlite*"):
        path.unlink()
    resumed(home)


# -- saving


@pytest.mark.torch
def test_a_state_whose_file_vanishes_is_failed_by_name_and_its_run_goes_on(
    home: PipelineHome, portal: WillingPortal
) -> None:
    home.log_in(portal.url)
    script = home.script(JOB, SECLEA_PLATFORM_URL=portal.url)
    assert does(script, "log") == "done"
    writer = home.writer_pid()
    os.kill(writer, signal.SIGSTOP)
    try:
        assert does(script, "state") == "done"
        (file,) = home.home.incoming.iterdir()
        file.unlink()
    finally:
        os.kill(writer, signal.SIGCONT)
    assert does(script, "state") == "done"
    answer = ""
    while "failed=1" not in answer:  # told once the rest is delivered
        answer = does(script, "complete")
    assert "is gone" in answer, answer
    until(lambda: [kind for kind, _ in portal.records()].count("model-states") == 1, "the other state")
    assert [kind for kind, _ in portal.records()].count("tombstones") == 1


@pytest.mark.torch
def test_a_state_that_finds_no_room_is_left_out_and_counted(home: PipelineHome) -> None:
    """The process may not write a file of that size, and waiting would change nothing."""
    script = home.script(JOB, STATE_LIMIT="1")
    assert does(script, "log") == "done"
    assert does(script, "state") == "left out: The model state was not recorded: logging is paused"
    assert does(script, "log") == "done"
    script.tell("end")
    script.end()
    until(lambda: home.finishes() and home.steps() == [0, 1], "the rest of the run")
    left_out = home.rows("SELECT detail FROM events WHERE kind = 'left out'")
    assert [detail.partition(":")[0] for (detail,) in left_out] == ["1 model_state"]
    assert list(home.home.incoming.iterdir()) == [], "nothing of it stays"


def test_a_dataset_that_cannot_be_read_is_refused_at_the_call(home: PipelineHome) -> None:
    pytest.importorskip("pyarrow")
    (home.work / "folder.csv").mkdir()
    said = home.run(
        """
        from seclea import SecleaAI, SecleaError
        client = SecleaAI("Claims")
        for path in ("missing.csv", "folder.csv"):
            try: client.upload_dataset(path, "table")
            except (SecleaError, OSError) as error: print(type(error).__name__, error)
        assert client.flush(20).done
        """
    ).splitlines()
    assert said[0].startswith("DatasetNotFoundError") and "missing.csv" in said[0]
    assert "folder.csv" in said[1], said
    assert list(home.home.incoming.iterdir()) == []


# -- processes


def test_a_writer_that_cannot_settle_in_goes_on_once_it_can(home: PipelineHome) -> None:
    home.path.mkdir(mode=0o700)
    home.home.writer_lock.mkdir()
    script = home.script(JOB)
    assert does(script, "log") == "done"
    (writer,) = until(lambda: home.pids_of("seclea.writer"), "a writer")
    home.home.writer_lock.rmdir()
    assert home.writer_pid() == writer
    until(lambda: home.steps() == [0], "the step")


def test_a_sender_that_dies_at_its_start_is_started_more_and_more_slowly_and_that_is_said(
    home: PipelineHome, portal: WillingPortal
) -> None:
    home.path.mkdir(mode=0o700)
    home.home.sender_lock.mkdir()
    home.log_in(portal.url)
    script = home.script(JOB, SECLEA_PLATFORM_URL=portal.url)
    assert does(script, "log") == "done"
    until(lambda: home.live().get("sender_restarts", 0) >= 3, "a few starts")
    assert "the sender ended with 1" in home.live()["sender_trouble"]
    home.home.sender_lock.rmdir()
    until(lambda: portal.steps() == [0], "the step at the portal")


def test_words_in_the_settle_queue_that_make_no_sense_do_no_harm(home: PipelineHome) -> None:
    script = home.script(JOB)
    assert does(script, "log") == "done"
    writer = home.writer_pid()
    queue = Queue(directory=home.home.queues / "settle", allow_pickle=False)
    for word in (
        [1, 2],
        "words",
        {"op": "outcome"},
        {"op": "outcome", "record": "x"},
        {"op": "destination", "state": 1},
    ):
        queue.put(word)
    queue.close()
    assert does(script, "log") == "done"
    until(lambda: home.steps() == [0, 1], "both steps")
    assert home.writer_pid() == writer


# -- complete


def test_complete_says_what_is_not_durable(home: PipelineHome) -> None:
    script = home.script(JOB)
    writer = home.writer_pid()
    os.kill(writer, signal.SIGSTOP)
    try:
        assert does(script, "log") == "done"
        answer = does(script, "complete")
    finally:
        os.kill(writer, signal.SIGCONT)
    assert "done=False" in answer and "not durable within 1 s" in answer


@pytest.mark.torch
def test_complete_says_what_is_sent_and_what_is_left(home: PipelineHome, portal: WillingPortal) -> None:
    home.log_in(portal.url)
    portal.on("POST", "/collection/model-states", Answer(503, {"detail": "later"}))
    script = home.script(JOB, SECLEA_PLATFORM_URL=portal.url)
    assert does(script, "log") == "done" and does(script, "state") == "done"
    until(lambda: portal.steps() == [0], "the step at the portal")
    answer = does(script, "complete")
    assert "done=False" in answer and "pending=1" in answer and "later" in answer, answer
    assert re.search(r"delivered=[1-9]", answer), answer
