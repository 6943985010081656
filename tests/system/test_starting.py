"""One writer and one sender per home, whoever comes first, and nobody waits for them."""

import os
from pathlib import Path

from seclea.processes.rendezvous import take_lock
from tests.pipeline import PipelineHome, until

LOGS_TEN = """
    import os
    from seclea import SecleaAI
    seclea = SecleaAI("Claims")
    run = seclea.start_training_run(f"run {os.environ['NUMBER']}")
    print(run.uuid, flush=True)
    for step in range(10):
        run.log({"loss": float(os.environ["NUMBER"]) + step / 100}, step=step)
    run.finish()
    input()
    """


def expected(runs: list[str]) -> list[tuple[str, int, str, float]]:
    return sorted(
        (run, step, "loss", float(number) + step / 100) for number, run in enumerate(runs) for step in range(10)
    )


def check_together(home: PipelineHome, count: int) -> None:
    scripts = [home.script(LOGS_TEN, NUMBER=number) for number in range(count)]
    runs = [script.hear() for script in scripts]
    until(lambda: len(home.finishes()) == count, "every run's end in the ledger")
    assert sorted(home.points()) == expected(runs)
    until(lambda: len(home.pids_of("seclea.sender")) == 1, "one sender")
    assert home.pids_of("seclea.writer") == [home.writer_pid()]
    assert home.pids_of("seclea.sender") == [home.sender_pid()]
    assert home.live()["clients"] == sorted(script.pid for script in scripts)
    # One home, one project: whoever was first made it.
    assert home.rows("SELECT count(*) FROM records WHERE kind = 'project'") == [(1,)]
    assert home.rows("SELECT count(*) FROM records WHERE kind = 'training_run'") == [(count,)]
    assert home.rows("SELECT detail FROM events WHERE kind = 'start'") == [("0 payloads are saved again",)]
    for script in scripts:
        script.tell()
    for script in scripts:
        script.end()


def test_two_unrelated_scripts_share_one_writer_and_one_sender_and_each_record_is_kept_once(home: PipelineHome) -> None:
    check_together(home, 2)


def test_sixty_four_scripts_that_start_together_share_one_writer_and_one_sender(home: PipelineHome) -> None:
    check_together(home, 64)


def test_a_client_logs_and_ends_before_there_is_a_writer(home: PipelineHome) -> None:
    home.path.mkdir(mode=0o700)
    lock = take_lock(home.home.writer_lock)  # the writer that is started waits for it
    assert lock is not None
    script = home.script(LOGS_TEN, NUMBER=0)
    run = script.hear()
    script.tell()
    script.end()
    assert not home.home.socket.exists()
    assert home.rows("SELECT 1 FROM records") == []
    lock.release()
    until(lambda: run in home.finishes(), "the run's end in the ledger")
    assert home.points() == expected([run])


def test_the_processes_stand_apart_from_the_job(home: PipelineHome) -> None:
    script = home.script(LOGS_TEN, NUMBER=0, SOME_SECRET_OF_THE_JOB="value of the job", LD_PRELOAD="")
    script.hear()
    for pid in (home.writer_pid(), home.sender_pid()):
        assert os.getsid(pid) == pid, "a session of its own"
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert b"value of the job" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert os.getsid(pid) != os.getsid(script.pid)
    script.kill()


def test_the_rings_are_in_shared_memory_where_there_is_room_and_leave_with_their_clients(home: PipelineHome) -> None:
    script = home.script(
        "from seclea.director import pipeline as director",
        "director.in_container = lambda: False",
        LOGS_TEN,
        NUMBER=0,
    )
    run = script.hear()
    (ring,) = home.home.shared_rings.glob("*.ring")
    assert ring.stat().st_mode & 0o777 == 0o600
    assert list(home.home.rings.iterdir()) == []
    script.tell()
    script.end()
    until(lambda: not ring.exists(), "the ring of the script that ended to be removed")
    assert home.points() == expected([run])
