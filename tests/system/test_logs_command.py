"""``seclea logs``: what the background processes wrote down, and what comes."""

import re
import signal
import subprocess
import sys

from tests.contract.fault_portal import Answer
from tests.pipeline import DEADLINE_SECONDS, PipelineHome, WillingPortal, until

LOGS = """
    from seclea import SecleaAI
    seclea = SecleaAI("Claims")
    seclea.start_training_run().log({"loss": 1.0})
    print(seclea.flush(20).done, flush=True)
    """
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (info|warning|error) (writer|sender|portal) \d+ \S")


def test_logs_are_shown_in_one_order_and_by_process_and_level(home: PipelineHome, portal: WillingPortal) -> None:
    assert home.command("logs").stdout == f"Nothing is logged in {home.home.logs}.\n"
    home.log_in(portal.url)
    portal.on("POST", "/collection/projects", Answer(402, {"detail": "Please\npay."}))
    home.run(LOGS, SECLEA_PLATFORM_URL=portal.url)
    until(lambda: "on hold" in home.logs(), "the hold")
    home.command("stop")
    lines = home.command("logs").stdout.splitlines()
    assert all(LINE.match(line) for line in lines), lines
    assert lines == sorted(lines, key=lambda line: line[:24])
    assert {LINE.match(line)[2] for line in lines} == {"writer", "sender"}  # type: ignore[index]
    of_sender = home.command("logs", "sender").stdout.splitlines()
    assert of_sender == [line for line in lines if " sender " in line[:40]]
    (warned,) = home.command("logs", "--level", "warning", "sender").stdout.splitlines()
    assert "on hold" in warned
    assert home.command("logs", "--lines", "2").stdout.splitlines() == lines[-2:]
    wrong = home.command("logs", "sendr")
    assert (wrong.returncode, wrong.stderr) == (
        2, "seclea: There is no log of 'sendr'. Name some of writer, sender, portal.\n"
    )  # fmt: skip


def test_logs_can_be_followed_past_the_end_of_a_file(home: PipelineHome) -> None:
    home.home.logs.mkdir(parents=True)
    log = home.home.logs / "writer.log"
    log.write_text("2026-01-01T00:00:00.000Z info writer 1 before\n")
    command = subprocess.Popen(
        [sys.executable, "-m", "seclea", "logs", "--follow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home.work,
        env=home.environment(),
    )
    assert command.stdout is not None
    try:
        assert command.stdout.readline().endswith("before\n")
        with log.open("a") as file:
            file.write("2026-01-01T00:00:01.000Z info writer 1 the last of this file\n")
        log.rename(f"{log}.1")
        log.write_text("2026-01-01T00:00:02.000Z info writer 1 the first of the next\n")
        assert command.stdout.readline().endswith("the last of this file\n")
        assert command.stdout.readline().endswith("the first of the next\n")
        command.send_signal(signal.SIGINT)
        rest, errors = command.communicate(timeout=DEADLINE_SECONDS)
        assert (command.returncode, rest, errors) == (0, "", "")
    finally:
        if command.poll() is None:
            command.kill()
            command.communicate()
