"""R23: what dies with a container, a pid namespace or a killed group; what is kept, and what the user was told."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seclea.client.status import status
from seclea.processes import surroundings
from tests.pipeline import PipelineHome, WillingPortal, kill, until

JOB = """
    import os, signal
    from seclea import SecleaAI
    seclea = SecleaAI("Claims")
    run = seclea.start_training_run("first")
    for step in range(100):
        run.log({"loss": 1.0}, step=step)
    """


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-pf", "--mount-proc", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="no pid namespace can be made here")
def test_what_was_logged_in_a_pid_namespace_that_ends_is_delivered_at_the_next_start(
    home: PipelineHome, portal: WillingPortal
) -> None:
    home.log_in(portal.url)
    script = home.work / "job.py"
    script.write_text(
        "import time\n"
        + "\n".join(line[4:] for line in JOB.splitlines())
        + "\nprint('logged', flush=True)\nsignal.pause()\n"
    )
    # Pid 1 of the namespace is a shell, whose end takes everything in it along.
    job = subprocess.Popen(
        ["unshare", "-pf", "--mount-proc", "--kill-child", "sh", "-c", f"{sys.executable} {script}; exit 0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home.work,
        env=home.environment(),  # a portal that does not answer
    )
    assert job.stdout is not None and job.stderr is not None
    assert job.stdout.readline() == "logged\n"
    until(lambda: home.pids_of("seclea.writer"), "the writer in the namespace")
    assert list(home.home.rings.glob("*.ring")), "in the home, not in a shared memory that may go with a container"
    job.kill()
    said = job.communicate(timeout=20)[1]
    until(lambda: not home.processes(), "all to end with the namespace")
    assert said.count("the background processes end with this container") == 1
    assert "seclea.complete()" in said
    home.run("from seclea import SecleaAI", "SecleaAI('Claims').flush(20)", SECLEA_PLATFORM_URL=portal.url)
    until(lambda: home.steps() == list(range(100)), "what was handed over, and what was durable")
    until(lambda: list(home.finishes().values()) == ["failed"], "the run's end")


def test_a_step_whose_processes_are_all_told_and_then_killed_is_resumed_by_the_next_start(home: PipelineHome) -> None:
    """As Slurm ends a step, and Docker a container that passes signals on: SIGTERM to all, SIGKILL to what is left."""
    script = home.script(JOB, "signal.signal(signal.SIGTERM, signal.SIG_IGN)", "print(flush=True)", "input()")
    script.hear()
    home.sender_pid()
    group = [*home.processes()]
    for pid in group:
        os.kill(pid, signal.SIGTERM)
    kill(script.pid)
    until(lambda: not home.processes(), "the pipeline to leave")
    assert home.steps() == list(range(100)), "committed before it left"
    script.end(-signal.SIGKILL)
    home.run("from seclea import SecleaAI", "SecleaAI('Claims').flush(20)")
    until(lambda: list(home.finishes().values()) == ["preempted"], "the run's end")
    assert status(home.home)["without_end"] == []


def test_the_pipeline_is_found_when_the_runtime_directory_has_gone_with_a_logout(home: PipelineHome) -> None:
    script = home.script(JOB, "print(flush=True)", "input()", "print(seclea.flush(20).done)")
    script.hear()
    writer = home.writer_pid()
    until(lambda: home.steps() == list(range(100)), "the points in the ledger")
    shutil.rmtree(home.runtime)
    until(lambda: home.live().get("writer") == writer, "the same writer to be found again")
    script.tell()
    assert script.end() == "True\n"


def test_the_user_is_told_what_the_pipeline_will_not_outlive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(surroundings, "_CONTAINER_FILES", ())
    monkeypatch.setattr(surroundings, "_pid_namespace", lambda: 4026532000)
    assert surroundings.in_container({})
    monkeypatch.setattr(surroundings, "_pid_namespace", lambda: surroundings._HOST_PID_NAMESPACE)
    assert not surroundings.in_container({})
    monkeypatch.setattr(surroundings, "_file_system", lambda _path: "ext4")
    assert surroundings.notice(tmp_path, {}) == ""
    assert "this Slurm job" in surroundings.notice(tmp_path, {"SLURM_JOB_ID": "7"})
    monkeypatch.setattr(surroundings, "_file_system", lambda _path: "tmpfs")
    assert "does not survive a reboot" in surroundings.notice(tmp_path, {})
    assert "SECLEA_HOME to a volume" in surroundings.notice(tmp_path, {"SLURM_JOB_ID": "7"})
    assert "\n" not in surroundings.notice(tmp_path, {"SLURM_JOB_ID": "7"})
