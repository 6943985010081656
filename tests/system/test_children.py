"""Threads, forks and spawned processes log to their parent's run, each process in a stream of its own."""

from collections import Counter

from tests.pipeline import PipelineHome, until

START = """
    import os, threading
    from seclea import SecleaAI
    seclea = SecleaAI("Claims")
    run = seclea.start_training_run()
    run.log({"loss": 0.0}, step=0)
    """


def streams_of_runs(home: PipelineHome) -> list[tuple[str, int, int]]:
    """(run, rank, log calls) of each stream of a run."""
    return home.rows(
        "SELECT s.run, s.rank, sum(r.last - r.first + 1) FROM streams s JOIN records r ON r.stream = s.id"
        " WHERE r.kind = 'metrics' GROUP BY s.id ORDER BY s.rank, 3"
    )


def test_a_forked_child_logs_to_its_parents_run_in_a_stream_of_its_own_and_does_not_end_it(home: PipelineHome) -> None:
    script = home.script(
        START,
        """
        child = os.fork()
        if not child:
            with seclea:  # what the child leaves is its parent's
                for step in range(1, 6):
                    run.log({"loss": 1.0}, step=step)
            run.finish()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(flush=True)
        input()
        run.log({"loss": 0.0}, step=6)
        run.finish()
        """,
    )
    script.hear()
    until(lambda: home.steps() == list(range(6)), "what parent and child logged")
    (parent, child) = streams_of_runs(home)
    assert parent[0] == child[0], "one run"
    assert (parent[2], child[2]) == (1, 5)
    assert home.rows("SELECT count(DISTINCT ring) FROM streams") == [(2,)], "a ring for each process"
    assert home.finishes() == {}
    script.tell()
    script.end()
    until(lambda: home.finishes() == {parent[0]: "finished"}, "the run's end")
    assert home.steps() == list(range(7))


def test_a_child_that_was_forked_while_other_threads_log_neither_hangs_nor_loses_anything(home: PipelineHome) -> None:
    home.run(
        START,
        """
        stop = threading.Event()
        count = 0
        def log():
            global count
            while not stop.is_set():
                run.log({"parent": 1.0}, step=count)
                count += 1
        logger = threading.Thread(target=log)
        logger.start()
        for number in range(8):
            child = os.fork()
            if not child:
                run.log({"child": 1.0}, step=number)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        logger.join()
        run.log({"counted": float(count)})
        run.finish()
        """,
    )
    until(lambda: home.finishes() and not list(home.home.rings.iterdir()), "every ring to be taken", 60)
    points = home.points()
    assert sorted(step for _, step, name, _ in points if name == "child") == list(range(8))
    (count,) = (value for _, _, name, value in points if name == "counted")
    assert sorted(step for _, step, name, _ in points if name == "parent") == list(range(int(count)))


def test_threads_log_to_one_stream_and_each_call_is_there_once(home: PipelineHome) -> None:
    home.run(
        START,
        """
        def log(number):
            for step in range(500):
                run.log({f"thread {number}": float(step)}, step=step)
        threads = [threading.Thread(target=log, args=(number,)) for number in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        run.finish()
        """,
    )
    until(lambda: home.finishes(), "the run's end")
    by_name: dict[str, list[float]] = {}
    for _, step, name, value in home.points():
        assert value == step
        by_name.setdefault(name, []).append(value)
    assert by_name.pop("loss") == [0.0]
    assert by_name == {f"thread {number}": [float(step) for step in range(500)] for number in range(4)}, "in order"
    assert [calls for _, _, calls in streams_of_runs(home)] == [2001]


def test_spawned_processes_are_given_the_run_and_log_to_it_with_their_rank(home: PipelineHome) -> None:
    (home.work / "job.py").write_text(
        "def work(run, rank):\n    run.log({'loss': float(rank)}, step=rank)\n    run.finish()\n"
    )
    script = home.script(
        """
        import multiprocessing, os
        from job import work
        from seclea import SecleaAI
        if __name__ == "__main__":
            run = SecleaAI("Claims").start_training_run()
            run.log({"loss": 0.0}, step=0)
            context = multiprocessing.get_context("spawn")
            for rank in (1, 2):
                os.environ["RANK"] = str(rank)  # as a launcher sets it, before the process starts
                child = context.Process(target=work, args=(run, rank))
                child.start()
                child.join()
                assert child.exitcode == 0
            print(run.uuid, flush=True)
            input()
        """,
        RANK=0,
    )
    run = script.hear()
    until(lambda: home.steps() == [0, 1, 2], "what every rank logged")
    assert streams_of_runs(home) == [(run, 0, 1), (run, 1, 1), (run, 2, 1)]
    assert home.finishes() == {}, "only the process that started the run ends it"
    script.kill()


def test_the_rank_is_the_launchers(home: PipelineHome) -> None:
    for environment in ({"RANK": 3}, {"SLURM_PROCID": 5}, {"RANK": "many"}, {}):
        home.run(START, "run.finish()", **environment)
    until(lambda: len(home.finishes()) == 4, "the runs' ends")
    assert Counter(rank for _, rank, _ in streams_of_runs(home)) == Counter([3, 5, 0, 0])


def test_a_child_that_is_killed_takes_nothing_of_its_parents_along(home: PipelineHome) -> None:
    home.run(
        START,
        """
        import signal
        child = os.fork()
        if not child:
            run.log({"loss": 1.0}, step=1)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        run.log({"loss": 2.0}, step=2)
        run.finish()
        """,
    )
    until(lambda: home.steps() == [0, 1, 2], "what both logged")
    until(lambda: list(home.finishes().values()) == ["finished"], "the run's end")
