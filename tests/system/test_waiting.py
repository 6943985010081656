"""What a person sees while it is waited, and that Ctrl-C leaves it to the background. Real processes, a real terminal."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import textwrap

import pytest

from tests.contract.fault_portal import Answer
from tests.pipeline import DEADLINE_SECONDS, PipelineHome, WillingPortal, until, without_notice

LOGS = """
    from seclea import SecleaAI
    seclea = SecleaAI("Claims")
    run = seclea.start_training_run("first")
    run.log({"loss": 1.0})
    run.finish()
    """
BUSY = Answer(503, {"detail": "We are having lunch."}, {"Retry-After": "120"})


class Terminal:
    """A script whose standard error is a terminal of 100 columns."""

    def __init__(self, home: PipelineHome, code: str, **environment: object) -> None:
        self.master, slave = pty.openpty()
        path = home.work / "terminal.py"
        path.write_text(textwrap.dedent(code), "utf-8")
        try:
            self.process = subprocess.Popen(
                [sys.executable, str(path)],
                stdin=slave,
                stdout=subprocess.PIPE,
                stderr=slave,
                text=True,
                cwd=home.work,
                env=home.environment(TERM="xterm", COLUMNS=100, LINES=24, **environment),
                start_new_session=True,
            )
        finally:
            os.close(slave)
        self.raw = ""

    @property
    def seen(self) -> str:
        """What it wrote to the terminal so far."""
        while select.select([self.master], [], [], 0)[0]:
            try:
                self.raw += os.read(self.master, 65536).decode("utf-8", "replace")
            except OSError:  # its end
                break
        return self.raw

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        os.close(self.master)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_wait_of_less_than_a_second_prints_nothing(home: PipelineHome, portal: WillingPortal) -> None:
    home.log_in(portal.url)
    script = home.script(LOGS, "print(seclea.complete(20).done)", SECLEA_PLATFORM_URL=portal.url)
    assert script.end() == "True\n"
    assert script.errors == "" or "left" in script.errors, "a loaded machine may need more than a second"


def test_a_wait_without_a_terminal_is_a_few_lines_that_say_why_nothing_moves(
    home: PipelineHome, portal: WillingPortal
) -> None:
    home.log_in(portal.url)
    portal.on("POST", "/collection/projects", BUSY)
    script = home.script(
        LOGS,
        """
        print(seclea.flush(20).done, flush=True)
        input()
        result = seclea.complete(2.5)
        print(result.done, *result.left, sep="|")
        """,
        SECLEA_PLATFORM_URL=portal.url,
    )
    assert script.hear() == "True"
    until(lambda: home.rows("SELECT 1 FROM destinations WHERE next_try_ns IS NOT NULL"), "the first answer")
    before = len(script.errors.splitlines())  # a busy machine may need more than a second to flush
    script.tell()
    said = script.end().rstrip()
    assert re.fullmatch(
        r"False\|4 pending: the portal answers 503 since \d\d:\d\d, next try in .* (s|min): .*We are having lunch.*",
        said,
    ), said
    first, *_, last = lines = script.errors.splitlines()[before:]
    assert len(lines) <= 4
    assert re.match(r"seclea: 4 records left \(\d.*\); the portal answers 503 since \d\d:\d\d, next try in ", first)
    assert re.match(r"seclea: after \d+ s: 4 pending: the portal answers 503 since", last)


def test_a_program_that_shows_the_progress_itself_is_not_disturbed(home: PipelineHome) -> None:
    home.log_in(home.closed_url)
    script = home.script(LOGS, "seen = []", "seclea.complete(1.5, on_progress=seen.append)",
                         "print(len(seen) > 3, seen[-1].pending)")  # fmt: skip
    assert script.end() == "True 4\n"
    assert "left" not in script.errors.partition("kept and sent later")[2]


def test_ctrl_c_leaves_it_to_the_background_and_the_program_goes_on(home: PipelineHome, portal: WillingPortal) -> None:
    home.log_in(portal.url)
    portal.on("POST", "/collection/projects", BUSY)
    script = home.script(
        LOGS,
        """
        print(seclea.flush(20).done, flush=True)
        result = seclea.complete(60)
        print(result.done, result.interrupted, result.pending, result.reasons[0], flush=True)
        input()
        try:
            seclea.complete(60)
        except KeyboardInterrupt:
            print("as usual", flush=True)
        """,
        SECLEA_PLATFORM_URL=portal.url,
    )
    assert script.hear() == "True"
    until(lambda: "records left" in script.errors, "the wait to be shown")
    os.kill(script.pid, signal.SIGINT)
    assert script.hear() == "False True 4 interrupted; the background goes on"
    line = script.errors.splitlines()[-1]
    assert re.fullmatch(
        r"seclea: interrupted: 4 records \(\S+\) left to the background \(to look: seclea status\)", line
    ), line
    before = script.errors
    script.tell()
    until(lambda: _is_waiting(script.pid), "the second wait")
    os.kill(script.pid, signal.SIGINT)
    assert script.end() == "as usual\n"
    assert "Traceback" not in script.errors
    assert script.errors.count("interrupted") == before.count("interrupted")
    assert home.live().get("writer"), "the background did not hear it"


def _is_waiting(pid: int) -> bool:
    """Whether the process sleeps between two looks: not in ``input()``, which reads."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/wchan") as file:
        return "nanosleep" in file.read()
    return False


def test_on_a_terminal_a_bar_moves_and_one_line_stays(home: PipelineHome, portal: WillingPortal) -> None:
    pytest.importorskip("rich", reason="rich is not installed (the progress extra)")
    home.log_in(portal.url)
    portal.on("POST", "/collection/projects", BUSY)
    terminal = Terminal(home, LOGS + "print(seclea.complete(60).done)\n", SECLEA_PLATFORM_URL=portal.url)
    try:
        until(lambda: "━" in terminal.seen, "a bar")
        until(lambda: "answers 503" in plain(terminal.seen), "the reason")
        os.kill(terminal.process.pid, signal.SIGINT)
        output, _ = terminal.process.communicate(timeout=DEADLINE_SECONDS)
        assert output == "False\n"
        shown = without_notice(plain(terminal.seen).replace("\r", "\n")).splitlines()
        assert [one for one in shown if one.startswith("seclea: ")] == [one for one in shown if "interrupted" in one]
        assert terminal.seen.rstrip().endswith("(to look: seclea status)")
        assert terminal.seen.count("\x1b[?25l") == terminal.seen.count("\x1b[?25h") == 1, "the cursor is back"
        assert max(len(one) for one in shown) <= 100
    finally:
        terminal.close()


def test_the_commands_wait_and_say_what_is_left(home: PipelineHome, portal: WillingPortal) -> None:
    assert home.command("complete").stdout == "Nothing was ever recorded here.\n"
    home.log_in(portal.url)
    portal.on("POST", "/collection/training-runs", Answer(400, {"detail": "No such thing."}))
    home.run(LOGS, SECLEA_PLATFORM_URL=portal.url)
    ran = home.command("complete", "--timeout", "20", SECLEA_PLATFORM_URL=portal.url)
    assert (ran.returncode, ran.stdout) == (1, "")
    said = ran.stderr.splitlines()
    assert said[-3] == "Not everything is delivered."
    assert said[-2].startswith("  1 failed: 400 ") and "No such thing" in said[-2]
    assert said[-1] == "  2 held: its training_run 'first' was refused"


def test_a_command_that_is_interrupted_ends_with_130_and_one_line(home: PipelineHome) -> None:
    home.log_in(home.closed_url)
    home.run(LOGS)
    command = subprocess.Popen(
        [sys.executable, "-m", "seclea", "complete"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=home.work,
        env=home.environment(),
    )
    assert command.stderr is not None
    first = command.stderr.readline()
    assert "4 records left" in first
    command.send_signal(signal.SIGINT)
    _, rest = command.communicate(timeout=DEADLINE_SECONDS)
    assert command.returncode == 130
    assert "left to the background" in rest and "Traceback" not in rest


def test_what_this_job_left_out_stands_in_what_complete_returns(home: PipelineHome, portal: WillingPortal) -> None:
    home.log_in(portal.url)
    printed = home.run(
        LOGS.replace("run.finish()", "run.log({'loss': 2.0})"),
        """
        from seclea.director import open_pipelines
        (pipeline,) = open_pipelines()
        pipeline.leave_out(pipeline.stream(seclea._speaker, run.uuid), "metrics")  # as where there is no room
        run.finish()
        result = seclea.complete(30)
        print(result.done, *result.left, sep="|")
        """,
        SECLEA_PLATFORM_URL=portal.url,
    )
    assert printed == "True|1 left out: full\n"
    again = home.run(LOGS, "print(seclea.complete(30).left)", SECLEA_PLATFORM_URL=portal.url)
    assert again == "()\n", "another job's loss"
