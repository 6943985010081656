"""Odd surroundings of a job: closed descriptors, tight limits, strange paths, no place to write."""

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

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
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:  # the pipeline is at work
            continue
        if stat.S_ISLNK(mode):
            continue
        mode = stat.S_IMODE(mode)
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
        count, looked = 0, run._pipeline._next_look
        deadline = time.monotonic() + 20
        while run._pipeline._next_look == looked:  # until a log call has looked for the writer, in vain
            assert time.monotonic() < deadline
            run.log({"used up": 1.0}, step=1000)
            count += 1
            time.sleep(0.01)  # the pace of the job
        for descriptor in held: os.close(descriptor)
        os.kill(writer, signal.SIGCONT)
        print(count)
        """,
        FINISH,
    )
    assert done.returncode == 0, done.stderr
    until(lambda: home.finishes(), "the run's end")
    assert home.steps() == [0, 1] + [1000] * int(done.stdout)


def test_where_no_process_can_be_started_logging_goes_on_and_that_is_said_once(home: PipelineHome) -> None:
    script = home.script(
        START.partition("run =")[0].partition("seclea =")[0],
        """
        refused = True
        def audit(event, arguments):  # as the kernel answers at the limit of processes, which root has not
            if refused and event in ("subprocess.Popen", "_thread.start_new_thread"):
                raise BlockingIOError(11, "Resource temporarily unavailable")
        sys.addaudithook(audit)
        seclea = SecleaAI("Claims")
        run = seclea.start_training_run()
        run.log({"loss": 0.0}, step=0)
        looks, deadline = set(), time.monotonic() + 20
        while len(looks) < 5:  # several log calls have tried to start one
            assert time.monotonic() < deadline
            run.log({"loss": 1.0}, step=1)
            looks.add(run._pipeline._next_look)
            time.sleep(0.01)  # the pace of the job
        print(flush=True)
        input()
        refused = False
        assert seclea.flush(20).done
        """,
        "run.finish()",
    )
    script.hear()
    assert script.errors.count("cannot be started") == 1, script.errors
    assert not home.processes()
    script.tell()
    script.end()
    until(lambda: home.finishes(), "the run's end")
    assert set(home.steps()) == {0, 1}


# -- places


# Root without the rights that make every directory writable; for others it is nothing.
PLAIN = "setpriv --bounding-set=-dac_override,-dac_read_search JOB" if os.getuid() == 0 else "JOB"
needs_setpriv = pytest.mark.skipif(
    os.getuid() == 0 and shutil.which("setpriv") is None, reason="root needs setpriv to be refused a directory"
)


@needs_setpriv
@pytest.mark.parametrize("broken", ["read-only", "missing", "a file"])
def test_a_home_of_the_user_that_cannot_be_written_is_replaced_and_that_is_said_once(
    home: PipelineHome, broken: str
) -> None:
    user = home.root / "other"
    environment = {"HOME": user, "SECLEA_HOME": ""}
    if broken == "read-only":
        user.mkdir(0o500)
    elif broken == "a file":
        user.write_text("")
    elif broken == "missing":
        environment["HOME"] = home.root / "missing"
        home.root.chmod(0o500)
    try:
        done = shell(home, PLAIN, START, FINISH, "print(seclea.home.path)", **environment)
    finally:
        home.root.chmod(0o700)
    assert done.returncode == 0, done.stderr
    fallback = home.path = Path(done.stdout.strip())
    try:
        assert fallback.parent == Path(f"/var/tmp/seclea-{os.getuid()}")
        assert done.stderr.count(f"using {fallback} instead") == 1, done.stderr
        both_are_there(home)
        assert home.command("stop").returncode == 0
    finally:
        home.path = home.root / "home"
        shutil.rmtree(fallback)
        with contextlib.suppress(OSError):
            fallback.parent.rmdir()


@needs_setpriv
def test_a_umask_that_shuts_everything_is_no_reason_to_lose_anything(home: PipelineHome) -> None:
    done = shell(home, f"umask 777; {PLAIN}", START, FINISH)
    assert done.returncode == 0, done.stderr
    both_are_there(home)


@needs_setpriv
def test_a_home_that_is_read_only_is_refused_by_name(home: PipelineHome) -> None:
    home.path.mkdir(0o500)
    done = shell(home, PLAIN, START)
    assert done.returncode == 1
    assert f"SECLEA_HOME: {home.path} cannot be used: {home.path} is not writable." in done.stderr
    home.path.chmod(0o700)
    home.path.rmdir()


@pytest.mark.parametrize(
    "name",
    ["with spaces/and 100% ?query#fragment", "ünïcode-日本語", "long-" + "n" * 120, os.fsdecode(b"bytes-\xff\xfe")],
)
def test_any_path_can_be_a_home(home: PipelineHome, name: str) -> None:
    home.path = home.root / name
    runtime = home.root / ("r" * 130)
    runtime.mkdir()
    script = home.script(START, "assert seclea.flush(20).done", FINISH, XDG_RUNTIME_DIR=runtime)
    script.end()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        both_are_there(home)
        for form in ([], ["--json"]):
            asked = [sys.executable, "-m", "seclea", "status", *form]
            shown = subprocess.run(asked, capture_output=True, timeout=60, env=home.environment(LANG="en_US.UTF-8"))
            waits = b"Transmitting" if form else b" pending"
            assert waits in shown.stdout, shown.stderr
        assert len(home.pids_of("seclea.writer")) == 1
    assert home.command("stop").returncode == 0


def test_a_relative_home_stays_where_it_was_when_the_job_goes_elsewhere(home: PipelineHome) -> None:
    deep = f"{'d' * 150}/{'e' * 150}"
    home.run(
        f"import os; os.makedirs('{deep}'); os.chdir('{deep}')",
        START,
        """
        os.chdir("/")
        if not (child := os.fork()):
            run.log({"loss": 1.0}, step=5)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        """,
        FINISH,
        SECLEA_HOME="relative/home",
    )
    home.path = home.work / deep / "relative/home"
    until(lambda: home.finishes() and not list(home.home.rings.iterdir()), "the run's end")
    assert home.steps() == [0, 1, 5]


def test_a_job_without_a_home_of_its_user_has_its_state_where_xdg_says(home: PipelineHome) -> None:
    done = shell(home, "unset HOME; JOB", START, FINISH, SECLEA_HOME="", XDG_STATE_HOME=home.root / "state")
    assert done.returncode == 0, done.stderr
    home.path = home.root / "state/seclea"
    both_are_there(home)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_working_directory_that_vanishes_does_no_harm(home: PipelineHome, when: str) -> None:
    vanish = "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')"
    home.run(*((vanish, START) if when == "before" else (START, vanish)), FINISH)
    both_are_there(home)


def test_two_jobs_of_one_home_with_different_runtime_directories_share_a_writer(home: PipelineHome) -> None:
    (home.root / "other").mkdir(0o700)
    first = home.script(START, "assert seclea.flush(20).done; print(flush=True); input()", FINISH)
    first.hear()
    home.run(START, "assert seclea.flush(20).done", XDG_RUNTIME_DIR=home.root / "other")
    assert len(home.pids_of("seclea.writer")) == 1
    first.tell()
    first.end()


# -- shared memory


CAN_MOUNT = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /dev/shm"]


@pytest.mark.parametrize("size", ["1m", "64m"])
def test_a_small_shared_memory_is_left_to_the_job(home: PipelineHome, size: str) -> None:
    if shutil.which("unshare") is None or subprocess.run(CAN_MOUNT, capture_output=True).returncode:
        pytest.skip("may not mount a /dev/shm of its own (needs unshare -m, as root)")
    done = shell(
        home,
        f'unshare -m sh -c "mount -t tmpfs -o size={size} tmpfs /dev/shm && exec JOB"',
        """
        from seclea.director import pipeline as director
        director.in_container = lambda: False
        """,
        START,
        """
        ready, go = os.pipe(), os.pipe()
        for _ in range(3):
            if not os.fork():
                run.log({"child": 1.0}, step=1)
                os.write(ready[1], b".")
                os.close(go[1])
                os.read(go[0], 1)
                os._exit(0)
        for _ in range(3): os.read(ready[0], 1)
        space = os.statvfs("/dev/shm")
        print(1 - space.f_bfree / space.f_blocks)
        os.close(go[1])
        """,
        FINISH,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.07, "one ring of 4 MiB at most, the others are in the home"
    until(lambda: home.finishes() and not list(home.home.rings.iterdir()), "the run's end")
    assert home.steps() == [0, 1, 1, 1, 1]


def test_shared_memory_that_fills_up_just_when_a_ring_is_made_is_replaced_by_the_home(home: PipelineHome) -> None:
    if shutil.which("unshare") is None or subprocess.run(CAN_MOUNT, capture_output=True).returncode:
        pytest.skip("may not mount a /dev/shm of its own (needs unshare -m, as root)")
    done = shell(
        home,
        'unshare -m sh -c "mount -t tmpfs -o size=80m tmpfs /dev/shm && exec JOB"',
        """
        import os
        from seclea.director import pipeline as director
        director.in_container = lambda: False
        look = director.roomy_directory
        def look_then_fill(*arguments):  # as a data loader does between our look and our file
            found = look(*arguments)
            with open("/dev/shm/batch", "wb") as batch: os.posix_fallocate(batch.fileno(), 0, 78 << 20)
            return found
        director.roomy_directory = look_then_fill
        """,
        START,
        "assert not list(seclea.home.shared_rings.glob('*')) and seclea.home.shared_rings.exists()",
        FINISH,
    )
    assert done.returncode == 0, done.stderr
    both_are_there(home)
