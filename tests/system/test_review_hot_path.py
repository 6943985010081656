"""What a hostile reader tried with real processes: names said once, signals, killed writers, children of children."""

import os
import signal

from tests.pipeline import PipelineHome, kill, until
from tests.system.test_joining import runs


def names_of(home: PipelineHome) -> list[tuple[str, int]]:
    """(name of the run, step) of every point."""
    names = dict(home.rows("SELECT uuid, name FROM entities WHERE kind = 'training_run'"))
    return sorted((names[run], step) for run, step, _, _ in home.points())


def test_a_storm_of_signals_and_threads_with_new_names_mixes_nothing_up(home: PipelineHome) -> None:
    """Each value says the name under which it was logged, and each step comes once."""
    printed = home.run(
        """
        import itertools, signal, threading
        from seclea import SecleaAI
        run = SecleaAI("Claims").start_training_run()
        steps = itertools.count()
        def log(*numbers):
            run.log({f"n{number}": float(number) for number in numbers}, next(steps))
        came = itertools.count(100)
        def handle(*_):
            number = next(came) % 300
            log(number)
            log(number)
        signal.signal(signal.SIGALRM, handle)
        def work(base):
            for call in range(4000):
                log(base + call % 40, 500 + base + call % 7)
        threads = [threading.Thread(target=work, args=(base,)) for base in (1000, 1000, 2000)]
        for thread in threads: thread.start()
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        work(3000)
        for thread in threads: thread.join()
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(next(steps), next(came))
        run.finish()
        """
    )
    calls, came = map(int, printed.split())
    assert came > 101, "handlers ran"
    until(lambda: home.finishes(), "the run's end", 60)
    until(lambda: len({step for _, step, _, _ in home.points()}) == calls, "every call", 60)
    found = home.points()
    assert all(name == f"n{value:.0f}" for _, _, name, value in found)
    assert len({(step, name) for _, step, name, _ in found}) == len(found)
    assert home.rows("SELECT count(*) FROM records WHERE kind = 'tombstone'") == [(0,)]


def test_a_writer_killed_before_and_after_it_took_the_names_loses_and_repeats_nothing(home: PipelineHome) -> None:
    script = home.script(
        """
        from seclea import SecleaAI
        run = SecleaAI("Claims").start_training_run()
        step = 0
        while (line := input()) != "end":
            for _ in range(int(line)):
                run.log({"loss": float(step), "twice": 2.0 * step}, step)
                step += 1
            print("logged", flush=True)
        run.finish()
        """
    )

    def log(count: int) -> None:
        script.tell(str(count))
        assert script.hear() == "logged"

    first = home.writer_pid()
    os.kill(first, signal.SIGSTOP)  # the names are in the ring, and nowhere else
    log(3)
    kill(first)
    log(3)
    until(lambda: len(home.points()) == 12, "what stood in the ring")
    kill(home.writer_pid())  # the names are in the ledger, and said no more
    log(500)
    until(lambda: len(home.points()) == 1012, "numbers only, to a writer that was never told their names")
    script.tell("end")
    script.end()
    until(lambda: home.finishes(), "the run's end")
    assert home.steps() == sorted([*range(506), *range(506)])
    assert {value / step for _, step, name, value in home.points() if step and name == "twice"} == {2.0}


def test_a_child_that_joined_and_then_starts_a_run_logs_to_its_own(home: PipelineHome) -> None:
    home.run(
        """
        import subprocess, sys, seclea
        run = seclea.init("Claims", "of the parent")
        code = '''
        import seclea
        seclea.log({"loss": 1.0}, step=0)
        mine = seclea.SecleaAI("Claims").start_training_run("of the child")
        seclea.log({"loss": 1.0}, step=1)
        mine.finish()
        seclea.log({"loss": 1.0}, step=2)
        '''.replace("\\n        ", "\\n")
        subprocess.run([sys.executable, "-c", code], check=True)
        run.finish()
        """
    )
    until(lambda: len(home.finishes()) == 2 and len(home.points()) == 3, "both runs")
    assert names_of(home) == [("of the child", 1), ("of the parent", 0), ("of the parent", 2)]


def test_a_forked_child_that_starts_a_run_and_ends_without_finish_has_finished_it(home: PipelineHome) -> None:
    home.run(
        """
        import os, seclea
        run = seclea.init("Claims", "of the parent")
        child = os.fork()
        if not child:
            seclea.init("Claims", "of the child")
            seclea.log({"loss": 1.0}, step=0)
            raise SystemExit
        os.waitpid(child, 0)
        run.finish()
        """
    )
    until(lambda: len(home.finishes()) == 2, "the end of both runs")


def test_a_script_started_by_a_rank_and_a_child_that_it_forks_have_runs_of_their_own(home: PipelineHome) -> None:
    """As torchrun starts ranks, without it: its variables are in the rank's environment, not in its own."""
    (home.work / "eval.py").write_text(
        "import seclea\nrun = seclea.SecleaAI('Claims').start_training_run('eval')\nrun.log({'x': 1.0}, 1)\nrun.finish()\n"
    )
    (home.work / "rank.py").write_text(
        "import os, subprocess, sys, seclea\n"
        "run = seclea.SecleaAI('Claims').start_training_run('train')\n"
        "run.log({'x': 1.0}, 0)\n"
        "subprocess.run([sys.executable, 'eval.py'], check=True)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    own = seclea.SecleaAI('Claims').start_training_run('forked')\n"
        "    own.log({'x': 1.0}, 2)\n    own.finish()\n    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "run.finish()\n"
        "second = seclea.SecleaAI('Claims').start_training_run('second')\nsecond.log({'x': 1.0}, 3)\nsecond.finish()\n"
    )
    home.run(
        """
        import os, subprocess, sys
        launch = {"TORCHELASTIC_RUN_ID": "one"}
        ranks = [
            subprocess.Popen([sys.executable, "rank.py"], env={**os.environ, "RANK": rank, "LOCAL_RANK": rank, **launch})
            for rank in "01"
        ]
        assert [rank.wait() for rank in ranks] == [0, 0]
        """
    )
    until(lambda: len(home.points()) == 8, "every point")
    until(lambda: len(home.finishes()) == 6, "the end of every run")
    assert len(runs(home)) == 6, "one train, one second; eval and forked are each rank's own"
    points = names_of(home)
    assert points == sorted([(name, step) for step, name in enumerate(("train", "eval", "forked", "second"))] * 2)


def test_threads_of_a_child_that_join_at_once_join_as_one(home: PipelineHome) -> None:
    (home.work / "child.py").write_text(
        "import sys, threading, seclea\nsys.setswitchinterval(1e-6)\nbarrier, found = threading.Barrier(8), []\n"
        "def work():\n    barrier.wait()\n    found.append(seclea.current_run())\n"
        "threads = [threading.Thread(target=work) for _ in range(8)]\n"
        "for thread in threads: thread.start()\nfor thread in threads: thread.join()\n"
        "assert len({id(run) for run in found}) == 1, found\n"
    )
    home.run(
        """
        import subprocess, sys, seclea
        run = seclea.init("Claims")
        subprocess.run([sys.executable, "child.py"], check=True)
        run.finish()
        """
    )


def test_a_copy_of_what_holds_a_run_holds_the_same_run(home: PipelineHome) -> None:
    home.run(
        """
        import copy, pickle, seclea
        run = seclea.SecleaAI("Claims").start_training_run()
        trainer = copy.deepcopy({"run": run})
        trainer["run"].log({"loss": 1.0})
        assert pickle.loads(pickle.dumps(run)) is run
        copy.copy(run).log({"loss": 1.0})
        trainer["run"].finish()
        run.finish()
        """
    )
    until(lambda: home.finishes() and home.steps() == [0, 1], "one end, one count of steps")
