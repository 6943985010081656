"""What a hostile reader tried with real processes: names said once, signals, killed writers, children of children."""

import os
import signal

from tests.pipeline import PipelineHome, kill, until


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
