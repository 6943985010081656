"""Children of a process that has a run log to it without being handed anything, however they are started."""

import os
import sys

import pytest

from tests.pipeline import PipelineHome, until

torch_installed = pytest.mark.skipif(
    not any(os.path.isdir(os.path.join(path, "torch")) for path in sys.path if path), reason="PyTorch is not installed"
)

LOG_IN_CHILD = """
    import os
    import seclea
    def work(step):
        seclea.log({"child": float(step)}, step=step)
        assert seclea.current_run().uuid
        return os.getpid()
    """


def streams(home: PipelineHome) -> list[tuple[str, int, int]]:
    """(run, rank, log calls) of each stream of a run that has metrics."""
    return home.rows(
        "SELECT s.run, s.rank, sum(r.last - r.first + 1) FROM streams s JOIN records r ON r.stream = s.id"
        " WHERE r.kind = 'metrics' GROUP BY s.id ORDER BY s.rank, 3"
    )


def runs(home: PipelineHome) -> int:
    ((count,),) = home.rows("SELECT count(*) FROM entities WHERE kind = 'training_run'")
    return int(count)


def check(home: PipelineHome, children: int, processes: int | None = None) -> None:
    """One run, finished once, with a call of each child, in as many streams as processes that logged."""
    until(lambda: len(home.finishes()) == 1 and len(home.steps()) == children, "what the children logged", 60)
    assert home.steps() == list(range(children))
    assert runs(home) == 1
    assert {run for run, *_ in streams(home)} == set(home.finishes())
    if processes is not None:
        assert len(streams(home)) == processes
    until(lambda: not list(home.home.rings.glob("*.ring")), "every ring to be taken")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("api", ["init", "SecleaAI"])
def test_processes_of_multiprocessing_join(home: PipelineHome, method: str, api: str) -> None:
    start = 'seclea.init("Claims")' if api == "init" else 'seclea.SecleaAI("Claims").start_training_run()'
    home.run(
        LOG_IN_CHILD,
        f"""
        import multiprocessing
        if __name__ == "__main__":
            run = {start}
            context = multiprocessing.get_context({method!r})
            children = [context.Process(target=work, args=(step,)) for step in range(3)]
            for child in children: child.start()
            for child in children: child.join()
            assert [child.exitcode for child in children] == [0, 0, 0]
            run.finish()
        """,
    )
    check(home, 3, 3)


def test_a_forkserver_that_runs_already_gives_its_children_the_run_of_now(home: PipelineHome) -> None:
    home.run(
        LOG_IN_CHILD,
        """
        import multiprocessing
        if __name__ == "__main__":
            context = multiprocessing.get_context("forkserver")
            def child(step):
                process = context.Process(target=work, args=(step,))
                process.start()
                process.join()
                return process.exitcode
            assert child(0) == 1, "there is no run yet"
            first = seclea.init("Claims", "first")
            assert child(0) == 0
            second = seclea.SecleaAI("Claims").start_training_run("second")
            assert child(1) == 0
            second.finish()
            assert child(2) == 0, "the first is the newest that is not over"
            seclea.finish(timeout=0.1)
            assert child(3) == 1, "both are over"
        """,
    )
    until(lambda: len(home.finishes()) == 2 and len(home.steps()) == 3, "both runs")
    names = dict(home.rows("SELECT uuid, name FROM entities WHERE kind = 'training_run'"))
    assert sorted((names[run], step) for run, step, _, _ in home.points()) == [
        ("first", 0),
        ("first", 2),
        ("second", 1),
    ]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_a_pool_and_of_an_executor_join(home: PipelineHome, method: str) -> None:
    home.run(
        LOG_IN_CHILD,
        f"""
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        if __name__ == "__main__":
            run = seclea.init("Claims")
            context = multiprocessing.get_context({method!r})
            with context.Pool(2) as pool:
                pool.map(work, range(6), chunksize=1)
                pool.close()
                pool.join()
            with ProcessPoolExecutor(2, mp_context=context) as executor:
                list(executor.map(work, range(6, 12)))
            run.finish()
        """,
    )
    check(home, 12)


def test_another_script_joins_through_the_environment_and_ends_only_its_part(home: PipelineHome) -> None:
    (home.work / "other.py").write_text(
        "import seclea\nrun = seclea.current_run()\nseclea.log({'loss': 1.0}, step=0)\nprint(run)\n"
        "assert seclea.finish(timeout=0.1) is not None\n"
        "try:\n    seclea.log({'loss': 1.0})\nexcept seclea.RunFinishedError as error:\n    print(error)\n"
    )
    printed = home.run(
        """
        import subprocess, sys, seclea
        run = seclea.init("Claims", "mine")
        print(subprocess.run([sys.executable, "other.py"], check=True, capture_output=True, text=True).stdout)
        run.log({"loss": 2.0}, step=1)
        run.finish()
        assert "SECLEA_RUN" not in __import__("os").environ
        """
    )
    assert "TrainingRun('mine', running)" in printed and "There is no current run." in printed
    check(home, 2, 2)


def test_a_run_started_above_the_main_guard_is_one_run_for_spawned_children_too(home: PipelineHome) -> None:
    for start in ('seclea.init("Claims")', 'seclea.SecleaAI("Claims").start_training_run()'):
        before = runs(home) if home.home.ledger.exists() else 0
        home.run(
            f"""
            import multiprocessing, os, seclea
            run = {start}
            def work(step):
                run.log({{"loss": 1.0}}, step=step)
                seclea.log({{"loss": 2.0}}, step=step)
            if __name__ == "__main__":
                for method in ("spawn", "forkserver"):
                    child = multiprocessing.get_context(method).Process(target=work, args=(0,))
                    child.start()
                    child.join()
                    assert child.exitcode == 0
                run.finish()
            """
        )
        until(lambda before=before: len(home.finishes()) == before + 1, "the run's end")  # type: ignore[misc]
        assert runs(home) == before + 1
    until(lambda: len(home.steps()) == 8, "what the children logged")


def test_an_init_in_a_child_starts_a_run_of_its_own(home: PipelineHome) -> None:
    home.run(
        """
        import multiprocessing, seclea
        def work():
            seclea.log({"loss": 1.0}, step=0)
            run = seclea.init("Claims", "of the child")
            seclea.log({"loss": 2.0}, step=1)
            run.finish()
            try:
                seclea.log({"loss": 3.0}, step=2)
            except seclea.RunFinishedError:
                pass
            else:
                raise AssertionError
        if __name__ == "__main__":
            parent = seclea.init("Claims", "of the parent")
            child = multiprocessing.get_context("spawn").Process(target=work)
            child.start()
            child.join()
            assert child.exitcode == 0
            parent.finish()
        """
    )
    until(lambda: len(home.finishes()) == 2, "both runs")
    names = dict(home.rows("SELECT uuid, name FROM entities WHERE kind = 'training_run'"))
    assert sorted((names[run], step) for run, step, _, _ in home.points()) == [
        ("of the child", 1),
        ("of the parent", 0),
    ]


def test_what_a_child_logs_after_the_run_was_finished_is_in_the_run(home: PipelineHome) -> None:
    home.run(
        """
        import os, seclea
        run = seclea.init("Claims")
        run.log({"loss": 0.0}, step=0)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(writer)
            os.read(reader, 1)  # until the parent has finished
            seclea.log({"loss": 1.0}, step=1)
            os._exit(0)
        run.finish()
        assert run._pipeline.flush(20)
        os.close(writer)
        assert os.waitpid(child, 0)[1] == 0
        """
    )
    check(home, 2, 2)


def test_a_child_that_never_logs_opens_nothing(home: PipelineHome) -> None:
    home.run(
        """
        import multiprocessing, seclea
        def work(run):
            assert seclea.current_run().uuid == run.uuid
        if __name__ == "__main__":
            run = seclea.init("Claims")
            for method in ("fork", "spawn"):
                child = multiprocessing.get_context(method).Process(target=work, args=(run,))
                child.start()
                child.join()
                assert child.exitcode == 0
            run.finish()
        """
    )
    until(lambda: home.finishes(), "the run's end")
    assert home.rows("SELECT count(*) FROM rings") == [(1,)]


@pytest.mark.parametrize("text", ["uuid", '{"v":1}', '{"boot":1,"settings":[]}'])
def test_a_variable_that_cannot_be_read_is_named(home: PipelineHome, text: str) -> None:
    script = home.script("import seclea\nseclea.log({'loss': 1.0})", SECLEA_RUN=text)
    script.end(1)
    assert "SECLEA_RUN cannot be read" in script.errors or text == '{"boot":1,"settings":[]}'


def test_a_run_of_another_machine_is_not_joined(home: PipelineHome) -> None:
    printed = home.run(
        """
        import json, os, subprocess, sys, seclea
        run = seclea.init("Claims")
        value = json.loads(os.environ["SECLEA_RUN"])
        value["boot"] = "another"
        code = "import seclea\\ntry:\\n    seclea.log({'x': 1.0})\\nexcept seclea.RunFinishedError as error:\\n    print(error)"
        environment = {**os.environ, "SECLEA_RUN": json.dumps(value)}
        print(subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True).stdout)
        run.finish()
        """
    )
    assert "There is no current run." in printed


def test_no_secret_stands_in_the_environment(home: PipelineHome) -> None:
    printed = home.run("import os, seclea\nseclea.init('Claims').finish()\n", "print(os.environ.get('SECLEA_RUN'))")
    assert printed.strip() == "None"
    printed = home.run("import os, seclea\nrun = seclea.init('Claims')\nprint(os.environ['SECLEA_RUN'])\nrun.finish()")
    assert not any(word in printed for word in ("token", "password", "secret"))


@torch_installed
@pytest.mark.torch
def test_ranks_of_torchrun_share_one_run_and_the_first_one_ends_it(home: PipelineHome) -> None:
    (home.work / "train.py").write_text(
        """
import os
import seclea
import torch
import torch.distributed as dist
run = seclea.init("Claims", params={"rank": os.environ["RANK"]})
dist.init_process_group("gloo")
for step in range(3):
    loss = torch.ones(1) * dist.get_rank()
    dist.all_reduce(loss)
    run.log({"loss": loss, "rank": dist.get_rank()}, step=step)
dist.barrier()
run.finish()
second = seclea.init("Claims")
second.log({"loss": 5.0}, step=0)
dist.barrier()
dist.destroy_process_group()
""",
        "utf-8",
    )
    launch = """
        import subprocess, sys
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "train.py"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        """
    home.script(launch).end(seconds=100)
    until(lambda: len(home.finishes()) == 2, "two runs")
    assert runs(home) == 2, "one for each init, not for each rank"
    found = [(rank, calls) for _, rank, calls in streams(home)]
    assert sorted(found) == [(0, 1), (0, 3), (1, 1), (1, 3)]
    home.script(launch).end(seconds=100)
    until(lambda: len(home.finishes()) == 4, "two more")
    assert runs(home) == 4, "another launch is another run"


@torch_installed
@pytest.mark.torch
def test_children_of_torchs_spawn_join_with_their_rank(home: PipelineHome) -> None:
    home.run(
        """
        import os, socket, seclea
        import torch.distributed as dist
        import torch.multiprocessing as mp
        def train(rank, port):
            address = f"tcp://127.0.0.1:{port}"
            dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
            seclea.log({"loss": 1.0}, step=rank)
            dist.barrier()
            dist.destroy_process_group()
        if __name__ == "__main__":
            run = seclea.init("Claims")
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            mp.spawn(train, args=(port,), nprocs=2)
            run.finish()
        """
    )
    check(home, 2, 2)
    assert [rank for _, rank, _ in streams(home)] == [0, 1]
