"""Every way in which a job's processes come and go: each record is kept once, and no child hangs."""

import json
from collections import Counter

from tests.pipeline import PipelineHome, until

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
        from seclea import DatasetTransformation
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
        "seclea.client.lineage.known", "seclea.client.lineage.parts", "seclea.director.pipeline",
        "seclea.queues.consumer", "seclea.queues.producer", "seclea.queues.queue",
    }  # fmt: skip
    until(lambda: home.steps() == [0, 1], "what parent and child logged")


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


# Children of a process that has imported everything and opened nothing, released together by a pipe that closes.
TOGETHER = """
    import os, signal, sys, time
    import seclea.client.login, seclea.client.seclea_ai
    from seclea import SecleaAI
    waiting, told, go = os.pipe(), os.pipe(), os.pipe()
    children = []
    for number in range(72):
        if child := os.fork():
            children.append(child)
            continue
        os.close(go[1])
        os.write(waiting[1], b".")
        os.read(go[0], 1)
        run = SecleaAI("Claims", "local", platform_url="local").start_training_run(f"run {number}")
        run.log({"loss": 1.0}, step=number)
        os.write(told[1], f"{number} {time.monotonic()};".encode())
        run.finish()
        while True: signal.pause()
    for _ in children: os.read(waiting[0], 1)
    began = time.monotonic()
    os.close(go[1])
    for doomed in children[64:]:  # one after the other, somewhere in their first calls
        os.kill(doomed, signal.SIGKILL)
        os.waitpid(doomed, 0)
    said, times = b"", {}
    while len(set(times) & set(range(64))) < 64:
        said += os.read(told[0], 4096)
        times = {int(one.split()[0]): float(one.split()[1]) - began for one in said.split(b";")[:-1]}
    print(max(times[number] for number in range(64)), flush=True)
    print(sorted(set(times) - set(range(64))), flush=True)
    input()
    for child in children[:64]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    """


def test_sixty_four_processes_that_start_together_have_one_writer_and_are_connected_within_two_seconds(
    home: PipelineHome,
) -> None:
    """Eight more are killed in the middle of it, and what those had logged before is there as well."""
    script = home.script(TOGETHER)
    seconds, killed = float(script.hear()), json.loads(script.hear())
    until(lambda: len(home.finishes()) >= 64, "every run's end")
    assert set(home.steps()) >= {*range(64), *killed}
    assert len(home.steps()) == len(set(home.steps())), "each is there once"
    assert home.pids_of("seclea.writer") == [home.writer_pid()]
    assert home.rows("SELECT count(*) FROM records WHERE kind = 'project'") == [(1,)]
    script.tell()
    script.end()
    print(f"connected within {seconds:.2f} s")
    assert seconds < 2.0
