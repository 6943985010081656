"""However a process is started, `seclea.log` in it logs to the run of the process that started it."""

import sys
import textwrap
from collections import Counter

import pytest

from tests.pipeline import PipelineHome, until

# `work` is imported by children; it holds no set-up of ours.
WORK = """
    import os
    import seclea

    def log(rank):
        os.environ["RANK"] = str(rank)
        for step in range(3):
            seclea.log({"loss": float(rank)}, step=10 * rank + step)

    def log_and_finish(rank):
        log(rank)
        assert seclea.current_run() is not None
        seclea.finish(timeout=0)
        assert seclea.current_run() is None
        try:
            seclea.log({"late": 1.0})
        except seclea.RunFinishedError:
            return
        raise SystemExit("logged to a run that it had finished")

    def do_nothing(rank):
        assert seclea.current_run().name == "the run"
    """


def streams(home: PipelineHome) -> list[tuple[str, int, int]]:
    """(run, rank, log calls) of each stream of a run."""
    return home.rows(
        "SELECT s.run, s.rank, sum(r.last - r.first + 1) FROM streams s JOIN records r ON r.stream = s.id"
        " WHERE r.kind = 'metrics' GROUP BY s.id ORDER BY s.rank, 3"
    )


def runs(home: PipelineHome) -> list[str]:
    """The uuids of all training runs, in the order in which they were started."""
    order = "json_extract(json, '$.started_ns'), rowid"
    return [uuid for (uuid,) in home.rows(f"SELECT uuid FROM entities WHERE kind = 'training_run' ORDER BY {order}")]


def is_over(home: PipelineHome, count: int = 1) -> bool:
    """Whether ``count`` runs have ended and every ring was taken."""
    rings = [*home.home.rings.glob("*"), *home.home.shared_rings.glob("*")]
    return len(home.finishes()) == count and not rings


def assert_two_children_joined(home: PipelineHome) -> None:
    until(lambda: is_over(home), "the run's end")
    (run,) = runs(home)
    assert streams(home) == [(run, 0, 1), (run, 1, 3), (run, 2, 3)]
    assert home.steps() == [0, 10, 11, 12, 20, 21, 22]
    assert all(value == step // 10 for _, step, _, value in home.points())
    assert home.finishes() == {run: "finished"}


def main(*lines: str) -> str:
    """A script that starts a run, does ``lines`` below its guard, and finishes the run."""
    body = "\n".join(
        "    " + line
        for line in (
            'run = seclea.init("Claims", "the run")',
            'seclea.log({"loss": 0.0}, step=0)',
            *"\n".join(lines).splitlines(),
            "seclea.finish(timeout=0)",
        )
    )
    return (
        f"import multiprocessing, os, subprocess, sys\nimport work\nimport seclea\nif __name__ == '__main__':\n{body}\n"
    )


@pytest.fixture(autouse=True)
def work(home: PipelineHome) -> None:
    """The module that the scripts' children import."""
    (home.work / "work.py").write_text(textwrap.dedent(WORK))


PROCESSES = """\
context = multiprocessing.get_context("{method}")
children = [context.Process(target=work.{function}, args=(rank,)) for rank in (1, 2)]
for child in children: child.start()
for child in children: child.join()
assert [child.exitcode for child in children] == [0, 0]"""

POOL = """\
with multiprocessing.get_context("{method}").Pool(2) as pool:
    pool.map(work.log, [1, 2], chunksize=1)
    pool.close()
    pool.join()"""

EXECUTOR = """\
from concurrent.futures import ProcessPoolExecutor
for rank in (1, 2):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("{method}")) as pool:
        pool.submit(work.log, rank).result()"""

FORK = """\
for rank in (1, 2):
    child = os.fork()
    if not child:
        work.log(rank)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0"""

SCRIPT = """\
for rank in (1, 2):
    subprocess.run([sys.executable, "-c", f"import work; work.log({rank})"], check=True)"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_logs_to_its_parents_run_and_ends_only_its_part_of_it(home: PipelineHome, method: str) -> None:
    home.run(main(PROCESSES.format(method=method, function="log_and_finish")))
    assert_two_children_joined(home)


def test_so_does_one_of_a_forkserver_that_ran_before_the_run_began(home: PipelineHome) -> None:
    home.run(
        "import multiprocessing.forkserver",
        "if __name__ == '__main__': multiprocessing.forkserver.ensure_running()",
        main(PROCESSES.format(method="forkserver", function="log")),
    )
    assert_two_children_joined(home)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_so_does_a_worker_of_an_executor(home: PipelineHome, method: str) -> None:
    home.run(main(EXECUTOR.format(method=method)))
    assert_two_children_joined(home)


def test_so_does_a_worker_of_a_pool(home: PipelineHome) -> None:
    home.run(main(POOL.format(method="spawn")))
    until(lambda: is_over(home), "the run's end")
    (run,) = runs(home)
    assert {stream[0] for stream in streams(home)} == {run}
    assert home.steps() == [0, 10, 11, 12, 20, 21, 22], "one worker may have had both tasks"


def test_so_does_a_bare_fork(home: PipelineHome) -> None:
    home.run(main(FORK))
    assert_two_children_joined(home)


def test_so_does_another_script(home: PipelineHome) -> None:
    home.run(main(SCRIPT))
    assert_two_children_joined(home)


def test_so_does_a_script_that_a_joined_process_starts(home: PipelineHome) -> None:
    inner = 'subprocess.run([sys.executable, "-c", "import work; work.log(2)"], check=True)'
    (home.work / "outer.py").write_text(f"import subprocess, sys, work\ndef both():\n    work.log(1)\n    {inner}\n")
    home.run(
        "import multiprocessing.forkserver, outer",
        "if __name__ == '__main__': multiprocessing.forkserver.ensure_running()",
        main(
            'child = multiprocessing.get_context("forkserver").Process(target=outer.both)',
            "child.start()",
            "child.join()",
            "assert child.exitcode == 0",
        ),
    )
    assert_two_children_joined(home)


@pytest.mark.torch
def test_so_does_a_process_of_torchs_spawn(home: PipelineHome) -> None:
    pytest.importorskip("torch")
    (home.work / "ranks.py").write_text("import work\ndef log(index): work.log(index + 1)\n")
    home.run(main("import ranks, torch.multiprocessing", "torch.multiprocessing.spawn(ranks.log, nprocs=2)"))
    assert_two_children_joined(home)


def test_so_do_runs_of_secleaai_the_last_that_is_not_over_first(home: PipelineHome) -> None:
    home.run(
        """
        import subprocess, sys
        from seclea import SecleaAI
        def child(step):
            subprocess.run([sys.executable, "-c", f"import seclea; seclea.log({{'child': 1.0}}, step={step})"], check=True)
        client = SecleaAI("Claims")
        first = client.start_training_run("first")
        second = client.start_training_run("second")
        child(1)
        first.log({"parent": 1.0}, step=0)
        second.log({"parent": 1.0}, step=0)
        second.finish()
        child(2)
        first.finish()
        import os
        assert "SECLEA_RUN" not in os.environ
        """
    )
    until(lambda: is_over(home, 2), "the runs' ends")
    first, second = runs(home)
    assert sorted((run, name, step) for run, step, name, _ in home.points()) == sorted(
        [(first, "parent", 0), (second, "parent", 0), (second, "child", 1), (first, "child", 2)]
    )


def test_a_child_that_logs_nothing_opens_nothing(home: PipelineHome) -> None:
    home.run(main(PROCESSES.format(method="spawn", function="do_nothing")))
    until(lambda: is_over(home), "the run's end")
    assert home.rows("SELECT count(DISTINCT ring) FROM streams") == [(1,)]


def test_what_a_child_logs_after_its_parent_ended_the_run_is_recorded(home: PipelineHome) -> None:
    script = home.script(
        """
        import subprocess, sys
        import seclea
        seclea.init("Claims")
        code = "import seclea; input(); seclea.log({'late': 1.0}, step=7); seclea.log({'late': 2.0}, step=8)"
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
        seclea.finish(timeout=0)
        print(flush=True)
        input()
        child.communicate(b"\\n")
        assert child.returncode == 0
        """
    )
    script.hear()
    until(lambda: home.finishes(), "the run's end")
    script.tell()
    script.end()
    until(lambda: home.steps() == [7, 8], "what came after")
    (run,) = runs(home)
    assert {point[0] for point in home.points()} == {run}
    assert home.rows("SELECT count(*) FROM records WHERE kind = 'tombstone' OR status = 'Failed'") == [(0,)]


def test_a_process_that_is_started_after_the_run_has_none(home: PipelineHome) -> None:
    code = "import seclea; assert seclea.current_run() is None; seclea.log({})"
    output = home.run(
        f"""
        import subprocess, sys
        import seclea
        seclea.init("Claims")
        seclea.finish(timeout=0)
        print(subprocess.run([sys.executable, "-c", {code!r}], capture_output=True, text=True).stderr)
        """
    )
    assert "RunFinishedError: There is no current run. Call seclea.init(project) first" in output


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("start", ['seclea.init("Claims")', 'seclea.SecleaAI("Claims").start_training_run()'])
def test_a_script_that_starts_its_run_above_its_guard_has_one_run(home: PipelineHome, method: str, start: str) -> None:
    home.run(
        f"""
        import multiprocessing
        import seclea
        run = {start}
        def child(rank):
            run.log({{"of run": 1.0}}, step=rank)
            seclea.log({{"of seclea": 1.0}}, step=rank)
        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            children = [context.Process(target=child, args=(rank,)) for rank in (1, 2)]
            for process in children: process.start()
            for process in children: process.join()
            assert [process.exitcode for process in children] == [0, 0]
            run.finish()
        """
    )
    until(lambda: is_over(home), "the run's end")
    (run,) = runs(home)
    assert sorted(home.points()) == sorted(
        (run, step, name, 1.0) for step in (1, 2) for name in ("of run", "of seclea")
    )
    assert len(streams(home)) == 2, "a stream for each process"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_run_that_began_and_ended_above_the_guard_is_not_recorded_again(home: PipelineHome, method: str) -> None:
    script = home.script(
        f"""
        import multiprocessing
        import seclea
        first = seclea.init("Claims", "first")
        first.log({{"loss": 1.0}}, step=0)
        first.finish()
        def child():
            assert seclea.current_run().name == "second"
            seclea.log({{"loss": 2.0}}, step=1)
        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            process = context.Process(target=int)
            process.start()
            process.join()
            assert process.exitcode == 0
            second = seclea.init("Claims", "second")
            process = context.Process(target=child)
            process.start()
            process.join()
            assert process.exitcode == 0
            second.finish()
        """
    )
    script.end()
    until(lambda: is_over(home, 2), "the runs' ends")
    first, second = runs(home)
    spawned = [(second, 0, "loss", 1.0)] if method == "spawn" else []  # the second child had a run when it imported
    assert sorted(home.points()) == sorted([(first, 0, "loss", 1.0), (second, 1, "loss", 2.0), *spawned])
    assert "runs its parent's script again and has no run: what it logs is left out" in script.errors


def test_a_child_that_starts_a_run_has_one_of_its_own_and_then_its_parents_again(home: PipelineHome) -> None:
    (home.work / "own.py").write_text(
        """
import os
import seclea
def child():
    joined = seclea.current_run()
    own = seclea.init("Claims", "own")
    assert seclea.current_run() is own
    seclea.log({"own": 1.0}, step=1)
    own.finish()
    assert seclea.current_run() is joined and joined.uuid in os.environ["SECLEA_RUN"]
    seclea.log({"joined": 1.0}, step=2)
    seclea.init("Claims", "failed")
    raise ValueError("the child's own")
"""
    )
    script = home.script(
        "import own",
        main(
            'child = multiprocessing.get_context("spawn").Process(target=own.child)',
            "child.start()",
            "child.join()",
            "assert child.exitcode == 1",
        ),
    )
    script.end()
    until(lambda: is_over(home, 3), "the runs' ends")
    the_run, own, failed = runs(home)
    assert sorted(home.points()) == sorted(
        [(the_run, 0, "loss", 0.0), (own, 1, "own", 1.0), (the_run, 2, "joined", 1.0)]
    )
    assert home.finishes() == {the_run: "finished", own: "finished", failed: "failed"}


def test_what_is_published_holds_no_secret(home: PipelineHome) -> None:
    output = home.run(
        """
        import os, seclea
        os.environ["SECLEA_USERNAME"], os.environ["SECLEA_PASSWORD"] = "ada", "open sesame"
        seclea.init("Claims")
        print(os.environ["SECLEA_RUN"])
        """
    )
    assert home.closed_url in output and "ada" not in output and "sesame" not in output


def test_a_variable_that_holds_no_run_is_refused_in_words(home: PipelineHome) -> None:
    output = home.script("import seclea", "seclea.log({'loss': 1.0})", SECLEA_RUN="garbage")
    output.end(1)
    assert "ConfigurationError: SECLEA_RUN: holds no run of seclea. Unset it: only seclea sets it." in output.errors


# --- launchers

# Starts two ranks the way that torchrun does, twice: without torch, which takes seconds to load.
AGENT = """
    import os, subprocess, sys
    command = sys.argv[1:]
    def launch(restart):
        ranks = []
        for rank in range(2):
            ranks.append(subprocess.Popen(command, env=os.environ | {
                "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": str(restart),
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}))
        assert [rank.wait() for rank in ranks] == [0, 0]
    launch(0)
    launch(1)
    """

RANK = """
    import os, subprocess, sys
    import seclea
    rank = int(os.environ["RANK"])
    if "INNER" in os.environ:
        seclea.init("Claims").log({"loss": 1.0}, step=30)
        raise SystemExit
    run = seclea.init("Claims")
    seclea.log({"loss": 1.0}, step=rank)
    subprocess.run([sys.executable, "-c", f"import seclea; seclea.log({{'loss': 1.0}}, step={rank + 10})"], check=True)
    if rank == 0:  # a child of a rank is no rank
        subprocess.run([sys.executable, __file__], check=True, env=os.environ | {"INNER": "1"})
    seclea.finish(timeout=0)
    run = seclea.init("Claims")
    seclea.log({"loss": 1.0}, step=rank + 20)
    """


@pytest.mark.parametrize("wrapper", [[], ["sh", "-c", '"$@"; exit', "sh"]], ids=["directly", "through a shell"])
def test_the_ranks_of_one_launch_have_their_runs_together(home: PipelineHome, wrapper: list[str]) -> None:
    (home.work / "rank.py").write_text(textwrap.dedent(RANK))
    command = [*wrapper, sys.executable, str(home.work / "rank.py")]
    home.run("import sys", f"sys.argv[1:] = {command!r}", AGENT)
    until(lambda: is_over(home, 6), "the runs' ends")
    found = runs(home)
    assert len(found) == 6, "two for each launch, which all ranks have together, and that of a child"
    by_run = {run: sorted(step for of, step, _, _ in home.points() if of == run) for run in found}
    assert Counter(map(tuple, by_run.values())) == {(0, 1, 10, 11): 2, (20, 21): 2, (30,): 2}
    ranks = Counter((run, rank) for run, rank, _ in streams(home))
    assert sorted(ranks.values()) == [1, 1, 1, 1, 1, 1, 2, 2, 2, 2], (
        "ranks 0 and 1 of each, the first with a child each"
    )
    assert set(home.finishes().values()) == {"finished"}
    names = [name for (name,) in home.rows("SELECT name FROM entities WHERE kind = 'training_run'")]
    assert sorted(names) == [f"Training Run {number}" for number in range(1, 7)]


def test_tasks_of_slurm_have_their_run_together(home: PipelineHome) -> None:
    daemon = home.work / "slurmstepd"
    daemon.symlink_to(sys.executable)
    (home.work / "task.py").write_text(
        "import os, seclea\nseclea.init('Claims')\nseclea.log({'loss': 1.0}, step=int(os.environ['SLURM_PROCID']))\n"
    )
    code = """
import os, subprocess, sys
tasks = [
    subprocess.Popen([sys.argv[1], "task.py"], env=os.environ | {
        "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
    for rank in range(2)
]
assert [task.wait() for task in tasks] == [0, 0]
"""
    home.run(
        "import os, subprocess, sys",
        f"""
        subprocess.run([{str(daemon)!r}, "-c", {code!r}, sys.executable], check=True)
        """,
    )
    until(lambda: is_over(home), "the run's end")
    (run,) = runs(home)
    assert streams(home) == [(run, 0, 1), (run, 1, 1)]


@pytest.mark.torch
def test_torchrun_with_gloo_on_two_processes_has_one_run(home: PipelineHome) -> None:
    pytest.importorskip("torch")
    (home.work / "train.py").write_text(
        """
import torch, torch.distributed as dist
import seclea
run = seclea.init("Claims")
dist.init_process_group("gloo")
rank = dist.get_rank()
for step in range(3):
    value = torch.tensor([float(rank + step)])
    dist.all_reduce(value)
    seclea.log({"sum": value}, step=step)
dist.destroy_process_group()
seclea.finish(timeout=0)
"""
    )
    home.run(
        "import subprocess, sys",
        'command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]',
        "subprocess.run(command, check=True)",
    )
    until(lambda: is_over(home), "the run's end")
    (run,) = runs(home)
    assert streams(home) == [(run, 0, 3), (run, 1, 3)]
    assert sorted(home.points()) == [(run, step, "sum", 1.0 + 2 * step) for step in range(3) for _ in range(2)]


def test_a_run_of_another_machine_is_not_joined(home: PipelineHome) -> None:
    printed = home.run(
        """
        import json, os, subprocess, sys, seclea
        run = seclea.init("Claims")
        value = json.loads(os.environ["SECLEA_RUN"])
        code = "import seclea; print(seclea.current_run() is None)"
        for boot in (value["boot"], "another"):
            environment = {**os.environ, "SECLEA_RUN": json.dumps({**value, "boot": boot})}
            done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
            print(done.stdout.strip())
        run.finish()
        """
    )
    assert printed.split() == ["False", "True"]
