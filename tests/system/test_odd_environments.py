"""Odd surroundings of a job: closed descriptors, tight limits, strange paths, no place to write."""

import os
import subprocess
import sys
import textwrap

import pytest

from tests.pipeline import PipelineHome, until

START = """
    import os, resource, sys, time
    from seclea import SecleaAI
    seclea = SecleaAI("Claims")
    run = seclea.start_training_run()
    run.log({"loss": 0.0}, step=0)
    """
FINISH = """
    run.log({"loss": 1.0}, step=1)
    run.finish()
    """
as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root")


def both_are_there(home: PipelineHome) -> None:
    until(lambda: home.finishes(), "the run's end")
    assert home.steps() == [0, 1]
    assert home.rows("SELECT kind FROM events WHERE kind <> 'start'") == []


def shell(home: PipelineHome, before: str, *code: str, **environment: object) -> subprocess.CompletedProcess[str]:
    """Run a script by ``sh``, after ``before``."""
    path = home.work / "job.py"
    path.write_text("\n".join(map(textwrap.dedent, code)), "utf-8")
    return subprocess.run(
        ["sh", "-c", before.replace("JOB", f"{sys.executable} {path}")],
        capture_output=True, text=True, timeout=60, cwd=home.work, env=home.environment(**environment),
    )  # fmt: skip


def test_with_closed_stdio_no_print_gets_into_a_ring(home: PipelineHome) -> None:
    done = shell(
        home,
        "JOB 0<&- 1>&- 2>&-",
        START,
        """
        for descriptor in range(3):
            try: os.write(descriptor, b"x" * 200)  # as a library in C prints
            except OSError: pass
        """,
        FINISH,
    )
    assert done.returncode == 0
    both_are_there(home)


@pytest.mark.parametrize("umask", ["000", "777"])
def test_the_umask_of_the_job_opens_and_shuts_nothing(home: PipelineHome, umask: str) -> None:
    done = shell(home, f"umask {umask}; JOB", START, FINISH, SECLEA_HOME=home.path / "deep/home")
    home.path = home.path / "deep/home"
    assert done.returncode == 0, done.stderr
    both_are_there(home)
    for path in [home.path.parent, *home.path.rglob("*"), *home.runtime.rglob("*")]:
        mode = path.lstat().st_mode & 0o777
        assert mode & 0o077 == 0 and mode & 0o600 == 0o600, (path, oct(mode))


@pytest.mark.parametrize("limit", [64, 20])
def test_few_descriptors_are_enough(home: PipelineHome, limit: int) -> None:
    done = shell(home, f"ulimit -n {limit}; JOB", START, FINISH)
    assert done.returncode == 0, done.stderr
    both_are_there(home)


def test_a_job_that_has_used_up_its_descriptors_still_logs(home: PipelineHome) -> None:
    done = shell(
        home,
        "ulimit -n 64; JOB",
        START,
        """
        import signal
        from seclea.processes.rendezvous import ask
        assert seclea.flush(20).done
        writer = ask(seclea.home, {"op": "status"})["writer"]
        os.kill(writer, signal.SIGSTOP)  # so that it is looked for after two seconds, which takes a descriptor
        held = []
        try:
            while True: held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError: pass
        began = time.monotonic()
        count = 0
        while time.monotonic() < began + 2.7:
            run.log({"used up": 1.0}, step=1000)
            count += 1
            time.sleep(0.01)
        for descriptor in held: os.close(descriptor)
        os.kill(writer, signal.SIGCONT)
        print(count)
        """,
        FINISH,
    )
    assert done.returncode == 0, done.stderr
    until(lambda: home.finishes(), "the run's end")
    assert home.steps() == [0, 1] + [1000] * int(done.stdout)



# Another user, who has no other process and may start none.
NOBODY = """
    import os, resource, sys
    os.setgroups([]); os.setgid(61234); os.setuid(61234)
    """


@pytest.fixture
def another(home: PipelineHome) -> PipelineHome:
    """The home, writable by the user 61234, whom a script becomes by `NOBODY`."""
    if os.getuid() != 0:
        pytest.skip("only root can be another user")
    for path in (home.root, home.work, home.user, home.runtime):
        os.chown(path, 61234, 61234)
    return home


def test_where_no_process_can_be_started_logging_goes_on_and_that_is_said_once(another: PipelineHome) -> None:
    home = another
    script = home.script(
        "import seclea, seclea.client.seclea_ai, seclea.client.login, time",
        NOBODY,
        "resource.setrlimit(resource.RLIMIT_NPROC, (1, 100))",
        START,
        """
        began = time.monotonic()
        while time.monotonic() < began + 1.5: run.log({"loss": 1.0}, step=1); time.sleep(0.01)
        print(flush=True)
        input()
        resource.setrlimit(resource.RLIMIT_NPROC, (100, 100))
        assert seclea.flush(20).done
        """,
        """
        run.finish()
        """,
    )
    script.hear()
    assert script.errors.count("cannot be started") == 1, script.errors
    assert not home.processes()
    script.tell()
    script.end()
    assert set(home.steps()) == {0, 1}
