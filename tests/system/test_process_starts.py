"""Every way in which a job's processes come and go: each record is kept once, and no child hangs."""

import json
import os
import signal
import textwrap
from collections import Counter
from typing import Any

import pytest

from tests.pipeline import PipelineHome, is_running, until

START = """
    import os, signal, sys, threading, time
    from seclea import SecleaAI
    seclea = SecleaAI("Claims")
    run = seclea.start_training_run()
    run.log({"loss": 0.0}, step=0)
    """

# A child that hangs is killed by its alarm, which is an end that shows.
REAP = """
    def reap(child):
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    """

# Made before anything of seclea is imported: which locks seclea has, and a thread that can hold them all.
LOCKS = """
    import faulthandler, os, sys, threading
    locks = {}
    def noting(make):
        def made():
            lock = make()
            frame = sys._getframe(1)
            if frame.f_globals.get("__name__", "").startswith("seclea"):
                locks[f"{frame.f_globals['__name__']}:{len(locks)}"] = lock
            return lock
        return made
    threading.Lock, threading.RLock = noting(threading.Lock), noting(threading.RLock)
    def hold(wanted):
        held, done = threading.Event(), threading.Event()
        def run():
            for lock in wanted: lock.acquire()
            held.set()
            done.wait()
            for lock in wanted: lock.release()
        thread = threading.Thread(target=run)
        thread.start()
        held.wait()
        return lambda: (done.set(), thread.join())
    """


def test_a_child_that_is_forked_while_another_thread_holds_every_lock_of_ours_logs_flushes_and_ends(
    home: PipelineHome,
) -> None:
    told = home.run(
        LOCKS,
        START,
        REAP,
        """
        import pandas
        from seclea import DatasetTransformation, log
        from seclea.queues.queue import Queue
        def double(table): return table.assign(b=table.a * 2)
        def double_of(table): return DatasetTransformation(double, {"table": table})
        def upload(number):
            table = pandas.DataFrame({"a": [number, number + 1]})
            seclea.upload_dataset(table, f"raw {number}")
            seclea.upload_dataset(double(table), f"made {number}", transformations=[double_of(table)])
        upload(0)
        queue = Queue(maxsize=10)
        queue.put("parent")
        assert queue.get() == "parent"
        release = hold(locks.values())
        child = os.fork()
        if not child:
            faulthandler.dump_traceback_later(20, exit=True)
            run.log({"loss": 1.0}, step=1)
            own = seclea.start_training_run()
            log({"loss": 2.0}, step=2)
            own.finish()
            upload(1)
            queue.put("child")
            assert queue.get() == "child"
            assert seclea.flush(15).done
            sys.exit(0)
        release()
        assert reap(child) == 0
        queue.close()
        print(*sorted({name.partition(":")[0] for name in locks}))
        run.finish()
        """,
    )
    assert set(told.split()) == {
        "seclea.client.joining", "seclea.client.lineage.known", "seclea.client.lineage.parts",
        "seclea.client.training_run", "seclea.director.pipeline", "seclea.director.room",
        "seclea.queues.bell", "seclea.queues.consumer", "seclea.queues.producer", "seclea.queues.queue",
    }  # fmt: skip
    until(lambda: home.steps() == [0, 1, 2], "what parent and child logged")


# Forks at the n-th line of ours, as a signal handler does that comes just then: a child is there in the middle of a call.
FORK_AT = """
    def fork_at(wanted, call):
        seen, forked = 0, None
        def trace(frame, event, _):
            nonlocal seen, forked
            if not frame.f_globals.get("__name__", "").startswith("seclea"):
                return None
            if event == "line":
                seen += 1
                if seen == wanted:
                    sys.settrace(None)
                    forked = os.fork()
            return trace
        sys.settrace(trace)
        try:
            call()
        finally:
            sys.settrace(None)
        return forked
    """


def test_a_child_forked_in_the_middle_of_a_log_call_goes_on_with_it_and_loses_nothing(home: PipelineHome) -> None:
    told = home.run(
        START,
        REAP,
        FORK_AT,
        """
        for step in range(1, 4): run.log({"loss": 0.0}, step=step)  # now it takes the shortest way
        wanted = 0
        while True:
            wanted += 1
            child = fork_at(wanted, lambda: run.log({"loss": 0.0}, step=3 + wanted))
            if child == 0:
                run.log({"child": 1.0}, step=wanted)
                os._exit(0)
            if child is None: break
            assert (code := reap(child)) == 0, (wanted, code)
        run.finish()
        print(wanted)
        """,
    )
    count = int(told)
    assert count > 30
    until(lambda: home.finishes() and not list(home.home.rings.iterdir()), "every ring to be taken", 60)
    points = home.points()
    assert sorted(step for _, step, name, _ in points if name == "child") == list(range(1, count))
    parents = Counter(step for _, step, name, _ in points if name == "loss")
    assert sorted(parents) == list(range(4 + count))
    # Handed over by the parent alone, or by both: the child goes on with what it had not handed over when it was forked.
    assert set(parents.values()) == {1, 2}


def test_a_child_forked_while_a_thread_waits_for_room_does_not_inherit_the_wait(home: PipelineHome) -> None:
    script = home.script(
        START,
        REAP,
        """
        assert seclea.flush(20).done
        deadline = time.monotonic() + 20
        while not run._pipeline._ring.paused:  # at the writer's next look at the limits
            assert time.monotonic() < deadline
        waiting = threading.Thread(target=run.log, args=({"parent": 1.0}, 1))
        waiting.start()
        while not run._pipeline._room._told: assert time.monotonic() < deadline
        began = time.monotonic()
        quiet = os.fork()
        if not quiet:
            seclea.terminate()
            sys.exit(0)
        assert reap(quiet) == 0
        print(time.monotonic() - began, flush=True)
        input()
        """,
        SECLEA_LIMITS_MIN_FREE_DISK="100000TB",
        SECLEA_LIMITS_WAIT_TIMEOUT_SECONDS=60,
    )
    assert float(script.hear()) < 10, "the child waited with its parent"
    script.kill()


def test_two_hundred_children_that_log_once_and_leave_at_once_lose_nothing(home: PipelineHome) -> None:
    home.run(
        START,
        REAP,
        """
        children = []
        for step in range(1, 201):
            if not (child := os.fork()):
                run.log({"loss": 1.0}, step=step)
                os._exit(0)
            children.append(child)
        assert [reap(child) for child in children] == [0] * 200
        run.finish()
        """,
    )
    until(lambda: home.finishes() and not list(home.home.rings.iterdir()), "every ring to be taken")
    assert home.steps() == list(range(201))


def test_each_way_in_which_a_child_ends_keeps_what_it_logged_and_none_hangs(home: PipelineHome) -> None:
    """Also a child of a child, and children that never log: those make no ring and start nothing."""
    home.run(
        START,
        REAP,
        """
        before = len(os.listdir(seclea.home.rings))
        def by_signal(number):
            os.kill(os.getpid(), number)
            signal.pause()
        def by_exception(): raise RuntimeError("as it should be")
        def grandchild():
            if child := os.fork(): os._exit(reap(child))
            run.log({"loss": 2.0}, step=100)
            sys.exit(5)
        ends = [
            (lambda: os._exit(3), 3), (lambda: sys.exit(4), 4), (by_exception, 1), (grandchild, 5), (lambda: None, 0),
            (lambda: by_signal(signal.SIGKILL), -9), (lambda: by_signal(signal.SIGTERM), -15),
        ]
        for logs in (False, True):
            for step, (end, code) in enumerate(ends, 1):
                if not (child := os.fork()):
                    signal.alarm(20)
                    if logs: run.log({"loss": 1.0}, step=step)
                    if end is grandchild and not logs: sys.exit(5)
                    end()
                    sys.exit(0)
                assert (found := reap(child)) == code, (step, found)
            if not logs: assert len(os.listdir(seclea.home.rings)) == before
        run.finish()
        """,
    )
    until(lambda: home.finishes() and not list(home.home.rings.iterdir()), "every ring to be taken")
    assert home.steps() == [0, 1, 2, 3, 4, 5, 6, 7, 100]
    assert list(home.finishes().values()) == ["finished"], "no child ended the run"


# The time that a process neither ran nor waited for a processor, so that a busy machine does not count as a wait.
IDLE = """
    import time
    def idle(pid):
        with open(f"/proc/{pid}/schedstat") as file:
            ran, queued, _ = map(int, file.read().split())
        return time.monotonic() - (ran + queued) / 1e9
    """

# Children of a process that has imported everything and opened nothing, released together by a pipe that closes.
TOGETHER = """
    import os, signal, sys, time
    import seclea.client.login, seclea.client.seclea_ai
    from seclea import SecleaAI
    waiting, told, go, end = os.pipe(), os.pipe(), os.pipe(), os.pipe()
    children = []
    for number in range(72):
        if child := os.fork():
            children.append(child)
            continue
        os.close(go[1])
        os.close(end[1])
        os.write(waiting[1], b".")
        os.read(go[0], 1)
        ran, began = time.process_time(), idle(os.getpid())
        run = SecleaAI("Claims", "local", platform_url="local").start_training_run(f"run {number}")
        run.log({"loss": 1.0}, step=number)
        os.write(told[1], f"{number} {time.process_time() - ran} {idle(os.getpid()) - began};".encode())
        run.finish()
        os.read(end[0], 1)  # until the parent is gone, however that goes
        os._exit(0)
    for _ in children: os.read(waiting[0], 1)
    os.close(go[1])
    for doomed in children[64:]:  # one after the other, somewhere in their first calls
        os.kill(doomed, signal.SIGKILL)
        os.waitpid(doomed, 0)
    said, times = b"", {}
    while len(set(times) & set(range(64))) < 64:
        said += os.read(told[0], 4096)
        lines = [one.split() for one in said.split(b";")[:-1]]
        times = {int(number): (float(ran), float(idled)) for number, ran, idled in lines}
    print(sum(ran for ran, _ in times.values()) / 2 + max(idled for _, idled in times.values()), flush=True)
    print(sorted(set(times) - set(range(64))), flush=True)
    input()
    os.close(end[1])
    for child in children[:64]: os.waitpid(child, 0)
    """


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="needs the scheduler's times of a process")
def test_sixty_four_processes_that_start_together_have_one_writer_and_lose_nothing(
    home: PipelineHome,
) -> None:
    """Eight more are killed in the middle of it, and what those had logged before is there as well.

    The seconds are those of a machine with two processors and nothing else to do: half of what all together ran, and the
    longest that one of them waited.
    """
    script = home.script(IDLE, TOGETHER)
    seconds, killed = float(script.hear()), json.loads(script.hear())
    until(
        lambda: set(home.steps()) >= {*range(64), *killed} and len(home.finishes()) >= 64, "what every process logged"
    )
    assert len(home.steps()) == len(set(home.steps())), "each is there once"
    assert home.pids_of("seclea.writer") == [home.writer_pid()]
    assert home.rows("SELECT count(*) FROM records WHERE kind = 'project'") == [(1,)]
    script.tell()
    script.end()
    print(f"connected within {seconds:.2f} s")  # a figure, not a gate: docs/reliability.md, R21


# What other processes run is imported by them, so it stands in a module; `job` is its name.
JOB = """
    import os
    def work(run, step):
        run.log({"loss": 1.0}, step=step)
        return step
    def work_spawned(index, run):
        run.log({"loss": 1.0}, step=10 + index)
    class Items:
        def __init__(self, run, first): self.run, self.first = run, first
        def __len__(self): return 8
        def __getitem__(self, index):
            self.run.log({"item": 1.0}, step=self.first + index)
            return index
    """


def test_forkservers_and_pools_of_processes_and_threads_log_to_the_run_that_they_are_given(home: PipelineHome) -> None:
    (home.work / "job.py").write_text(textwrap.dedent(JOB), "utf-8")
    home.run(
        """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
        from functools import partial
        from seclea import SecleaAI
        import job
        if __name__ == "__main__":
            server = multiprocessing.get_context("forkserver")
            warm = server.Process(target=print)  # it runs before there is a run
            warm.start(); warm.join()
            run = SecleaAI("Claims").start_training_run()
            for step in (1, 2):
                child = server.Process(target=job.work, args=(run, step))
                child.start(); child.join()
                assert child.exitcode == 0
            for step, method in ((10, "fork"), (20, "forkserver"), (30, "spawn")):
                with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
                    assert len(list(pool.map(partial(job.work, run), range(step, step + 6)))) == 6
                with multiprocessing.get_context(method).Pool(2) as pool:  # ended by terminate()
                    assert len(pool.map(partial(job.work, run), range(step + 100, step + 106))) == 6
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(partial(job.work, run), range(40, 60)))
            run.finish()
        """
    )
    until(lambda: home.finishes() and not list(home.home.rings.iterdir()), "every ring to be taken")
    tens = [step + one for step in (10, 20, 30, 110, 120, 130) for one in range(6)]
    assert home.steps() == sorted([1, 2, *tens, *range(40, 60)])


@pytest.mark.torch
def test_workers_of_a_data_loader_and_of_torch_spawn_log_to_the_run(home: PipelineHome) -> None:
    pytest.importorskip("torch")
    (home.work / "job.py").write_text(textwrap.dedent(JOB), "utf-8")
    home.script(
        """
        import torch.multiprocessing
        from torch.utils.data import DataLoader
        from seclea import SecleaAI
        import job
        if __name__ == "__main__":
            run = SecleaAI("Claims").start_training_run()
            first = 100
            for method, persistent, workers in (("fork", False, 2), ("fork", True, 2), ("spawn", True, 1)):
                items = job.Items(run, first)
                how = dict(num_workers=workers, persistent_workers=persistent, multiprocessing_context=method)
                loader = DataLoader(items, 2, **how)
                for epoch in range(2):
                    assert sum(len(batch) for batch in loader) == 8
                del loader
                first += 100
            torch.multiprocessing.spawn(job.work_spawned, args=(run,), nprocs=1)
            run.finish()
        """
    ).end(seconds=90)
    until(lambda: home.finishes() and not list(home.home.rings.iterdir()), "every ring to be taken")
    items = [first + one for first in (100, 200, 300) for one in range(8)]
    assert home.steps() == sorted([10, *items, *items]), "two epochs"


def test_another_script_of_the_job_has_a_run_of_its_own_and_the_same_writer(home: PipelineHome) -> None:
    (home.work / "other.py").write_text(textwrap.dedent(START) + "run.finish()\n", "utf-8")
    home.run(
        START,
        """
        import subprocess
        subprocess.run([sys.executable, "other.py"], check=True)
        run.finish()
        """,
    )
    until(lambda: len(home.finishes()) == 2, "both runs' ends")
    assert home.steps() == [0, 0]
    assert home.rows("SELECT count(*) FROM events WHERE kind = 'start'") == [(1,)]


def test_a_process_that_becomes_another_program_loses_nothing(home: PipelineHome) -> None:
    (home.work / "other.py").write_text(textwrap.dedent(START) + "run.finish()\n", "utf-8")
    home.run(START, "run.log({'loss': 1.0}, step=1)", "os.execv(sys.executable, [sys.executable, 'other.py'])")
    until(lambda: home.finishes() and not list(home.home.rings.iterdir()), "every ring to be taken")
    assert home.steps() == [0, 0, 1]


def test_a_daemon_logs_after_the_process_that_started_it_is_gone(home: PipelineHome) -> None:
    script = home.script(
        START,
        """
        if os.fork(): os._exit(0)
        os.setsid()
        if os.fork(): os._exit(0)
        print(flush=True)
        input()
        run.log({"loss": 1.0}, step=1)
        run.finish()
        print(os.getpid(), flush=True)
        """,
    )
    script.hear()
    script.process.wait(10)
    until(lambda: home.steps() == [0], "what the first process logged")
    script.tell()
    pid = int(script.hear())
    until(lambda: not is_running(pid), "the daemon's end")
    until(lambda: home.steps() == [0, 1] and not list(home.home.rings.iterdir()), "what the daemon logged")


def test_two_runs_and_two_homes_in_one_process_are_kept_apart(home: PipelineHome) -> None:
    """Also by threads that log to both, and in a child."""
    other = home.root / "second home"
    told = home.run(
        START,
        """
        second = seclea.start_training_run()
        os.environ["SECLEA_HOME"] = os.environ["OTHER"]
        elsewhere = SecleaAI("Claims").start_training_run()
        def log(number):
            for step in range(200):
                for where in (run, second, elsewhere):
                    where.log({where.uuid: float(number)}, step=step)
        threads = [threading.Thread(target=log, args=(number,)) for number in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        if not (child := os.fork()):
            log(3)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        for where in (run, second, elsewhere): where.finish()
        print(run.uuid, second.uuid, elsewhere.uuid)
        """,
        OTHER=other,
    )
    first, second, elsewhere = told.split()
    wanted = Counter((run, step, run) for run in (first, second) for step in range(200) for _ in range(4))
    until(lambda: len(home.finishes()) == 2 and len(home.points()) == 1601, "all of the first home")
    assert Counter((run, step, name) for run, step, name, _ in home.points() if name != "loss") == wanted
    mine, home.path = home.path, other
    until(lambda: len(home.finishes()) == 1 and len(home.points()) == 800, "all of the second home")
    assert {(run, name) for run, _, name, _ in home.points()} == {(elsewhere, elsewhere)}
    assert home.command("stop").returncode == 0
    home.path = mine


def test_what_a_child_logs_after_its_parent_has_finished_the_run_is_kept_and_delivered(home: PipelineHome) -> None:
    """At the home's own portal, too: a record's place is its stream's, whether the run has ended or not."""
    script = home.script(
        START,
        """
        if not (child := os.fork()):
            input()
            run.log({"loss": 1.0}, step=1)
            os._exit(0)
        run.finish()
        print(seclea.complete(60).reasons, flush=True)
        assert os.waitpid(child, 0)[1] == 0
        print(seclea.complete(60), flush=True)
        """,
        SECLEA_PLATFORM_URL="local",
        SECLEA_AUTH_URL="local",
    )
    assert script.hear() == "()"
    script.tell()
    assert "done=True" in script.hear()
    script.end()
    assert home.rows("SELECT points, status FROM records WHERE kind = 'metrics'") == [(1, "Completed")] * 2
    assert home.rows("SELECT kind FROM events WHERE kind <> 'start'") == []


def test_a_child_forked_before_its_parents_terminate_logs_on_and_one_forked_after_it_is_refused(
    home: PipelineHome,
) -> None:
    home.run(
        START,
        REAP,
        """
        from seclea.errors import RunFinishedError
        told, tell = os.pipe()
        if not (before := os.fork()):
            signal.alarm(20)
            os.close(tell)
            os.read(told, 1)
            run.log({"loss": 1.0}, step=1)
            os._exit(0)
        seclea.terminate()
        if not (after := os.fork()):
            signal.alarm(20)
            try: run.log({"loss": 1.0}, step=2)
            except RunFinishedError as error: os._exit(7 if "was terminated" in str(error) else 8)
            os._exit(9)
        os.close(told)
        os.close(tell)
        assert reap(before) == 0
        assert (code := reap(after)) == 7, code
        """,
    )
    until(lambda: not list(home.home.rings.iterdir()), "every ring to be taken")
    assert home.steps() == [0, 1]


# A notebook's client in a process of its own: it runs cells, interrupts one, kills the kernel and starts the next.
NOTEBOOK = """
    import sys
    from jupyter_client.manager import KernelManager
    def cell(code, wait=True):
        client.execute(code, store_history=False)
        while wait:
            message = client.get_iopub_msg(timeout=40)
            if message["msg_type"] == "error": said.append(message["content"]["ename"])
            if message["msg_type"] == "stream": said.append(message["content"]["text"].strip())
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle": return
    def start():
        manager = KernelManager()
        manager.start_kernel()
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=40)
        return manager, client
    said = []
    BEGIN = "from seclea import SecleaAI; run = SecleaAI('Claims').start_training_run(); run.log({'loss': 0.0}, step=0)"
    manager, client = start()
    cell(BEGIN)
    client.execute("while True: run.log({'busy': 1.0}, step=7)")
    while client.get_iopub_msg(timeout=40)["msg_type"] != "execute_input": pass
    manager.interrupt_kernel()
    said.clear()
    while not said:
        message = client.get_iopub_msg(timeout=40)
        if message["msg_type"] == "error": said.append(message["content"]["ename"])
    assert said == ["KeyboardInterrupt"], said
    while client.get_iopub_msg(timeout=40)["msg_type"] != "status": pass
    said.clear()
    cell("run.log({'loss': 1.0}, step=1)")
    manager.shutdown_kernel(now=True)
    client.stop_channels()
    manager, client = start()
    cell(BEGIN)
    cell("run.log({'loss': 2.0}, step=2); run.finish()")
    manager.shutdown_kernel(now=True)
    client.stop_channels()
    print("errors:", [one for one in said if "Error" in one])
    """


def test_a_notebook_logs_on_after_an_interrupted_cell_and_in_the_kernel_that_follows_a_killed_one(
    home: PipelineHome,
) -> None:
    pytest.importorskip("ipykernel")
    pytest.importorskip("jupyter_client")
    assert home.script(NOTEBOOK).end(seconds=100).strip() == "errors: []"
    until(lambda: not list(home.home.rings.iterdir()), "every ring to be taken")
    assert sorted(step for _, step, name, _ in home.points() if name == "loss") == [0, 0, 1, 2]
    assert "finished" in home.finishes().values()


CHILD = """
    told, tell = os.pipe()
    if child := os.fork():
        began = float(os.read(told, 100))
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        print(idle(child) - began, flush=True)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    run.log({"loss": 1.0}, step=2)
    os.write(tell, str(idle(os.getpid())).encode())
    """


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="needs the scheduler's times of a process")
@pytest.mark.parametrize("writer", ["alive", "dead", "stopped"])
def test_the_end_of_a_job_waits_for_nothing_whatever_the_writer_does(home: PipelineHome, writer: str) -> None:
    """With finish(), without, by an exception, from `seclea.init`, and of a forked child. The portal is down."""
    names: dict[str, Any] = {}
    exec(textwrap.dedent(IDLE), names)
    ways = {
        "finish": (START, "run.finish()"),
        "no finish": (START, ""),
        "exception": (START, "raise RuntimeError('as it should be')"),
        "module": ("import os, seclea; seclea.init('Claims'); seclea.log({'loss': 1.0}, step=1)", ""),
        "child": (START, CHILD),
    }
    ready = "print(flush=True); input(); print(idle(os.getpid()), flush=True)"
    scripts = {way: home.script(IDLE, before, ready, after) for way, (before, after) in ways.items()}
    for script in scripts.values():
        script.hear()
    home.sender_pid()
    pid = home.writer_pid()
    if writer != "alive":
        os.kill(pid, signal.SIGSTOP if writer == "stopped" else signal.SIGKILL)
    idle = {}
    for way, script in scripts.items():
        script.tell()
        began = float(script.hear())
        if way == "child":  # its parent waits for it, and says
            idle[way] = float(script.hear())
        else:
            os.waitid(os.P_PID, script.pid, os.WEXITED | os.WNOWAIT)
            idle[way] = names["idle"](script.pid) - began
        assert script.process.wait() == (way == "exception"), script.errors
    if writer == "stopped":
        os.kill(pid, signal.SIGCONT)
    print(writer, {way: round(seconds, 3) for way, seconds in idle.items()})
    assert max(idle.values()) < 0.2, idle
