"""Four ways to log in, and out again, with real processes; the login is seen to work by what is delivered (S2, S3)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from seclea.api.tokens import TokenStore
from tests.canary import CANARY
from tests.pipeline import PipelineHome, until
from tests.token_server import PASSWORDS, TokenServer

LOG = """
    from seclea import SecleaAI
    seclea = SecleaAI("Claims", "local"{arguments})
    seclea.start_training_run().log({{"loss": 1.0}})
    result = seclea.complete(timeout=30)
    print(result.done, *result.reasons)
"""


def logged(home: PipelineHome, there: dict[str, str], arguments: str = "", **environment: str) -> str:
    return home.run(LOG.format(arguments=arguments), **there, **environment).strip()


def token_file(home: PipelineHome, content: dict[str, str], mode: int = 0o600) -> Path:
    path = home.user / "tokens" / "job.json"  # a directory that the canaries leave out, as it is meant for secrets
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(json.dumps(content))
    path.chmod(mode)
    return path


def test_arguments_and_the_environment_log_in_and_our_processes_do_not_inherit_them(
    home: PipelineHome, there: dict[str, str], tokens: TokenServer
) -> None:
    assert logged(home, there, SECLEA_USERNAME="ada", SECLEA_PASSWORD=PASSWORDS["ada"]) == "True"
    script = home.script(
        "import sys",
        LOG.format(arguments=', username="bob", password=sys.stdin.readline().strip()'),
        **there,
    )
    script.tell(PASSWORDS["bob"])
    assert script.end().strip() == "True"
    found = TokenStore(home.home.tokens).read(tokens.url)
    assert found is not None and found.username == "bob"
    for pid in (home.writer_pid(), home.sender_pid()):
        assert b"SECLEA_" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert re.search(r"Max core file size +0 +0 ", Path(f"/proc/{pid}/limits").read_text())


def test_a_token_file_is_taken_once_and_the_next_job_goes_on_from_what_came_of_it(
    home: PipelineHome, there: dict[str, str], tokens: TokenServer
) -> None:
    path = token_file(home, tokens.issue())
    before = path.read_bytes()
    assert logged(home, there, SECLEA_TOKEN_FILE=str(path)) == "True"
    tokens.lifetime, tokens._good = 3600.0, {}  # the access token is over: only the refresh token is left
    assert logged(home, there, SECLEA_TOKEN_FILE=str(path)) == "True"
    assert tokens.refreshes == 1
    tokens._good = {}
    # The refresh token in the file is spent. Whoever put it back into the store would be logged out now.
    assert logged(home, there, f", token_file={str(path)!r}") == "True"
    assert tokens.refreshes == 2
    assert path.read_bytes() == before


def test_a_token_file_that_others_can_read_ends_the_job_at_the_call_and_says_what_to_do(
    home: PipelineHome, there: dict[str, str], tokens: TokenServer
) -> None:
    path = token_file(home, tokens.issue(), 0o644)
    script = home.script(LOG.format(arguments=""), **there, SECLEA_TOKEN_FILE=str(path))
    script.end(1)
    assert f"AuthenticationError: The token file {path} is open to other users (mode 0644)" in script.errors
    command = home.command("login", "--token-file", str(path), **there)
    assert command.returncode == 1
    assert f"seclea: The token file {path} is open to other users" in command.stderr
    path.chmod(0o600)
    taken = home.command("login", "--token-file", str(path), **there)
    assert (taken.returncode, taken.stdout) == (0, f"Took the login to {tokens.url} from {path}.\n")
    again = home.command("login", "--token-file", str(path), **there)
    assert again.returncode == 0 and "was taken before" in again.stdout
    assert logged(home, there) == "True"


def test_what_does_not_go_together_is_refused_at_the_call(home: PipelineHome, there: dict[str, str]) -> None:
    for arguments, words in (
        (', username="ada"', "A user name needs a password"),
        (f', username="ada", password="x-{CANARY}", token_file="/x"', "takes the place of user name and password"),
        (', token_file="/nowhere/tokens.json"', "/nowhere/tokens.json cannot be opened (No such file or directory)"),
    ):
        script = home.script(LOG.format(arguments=arguments).replace(f"x-{CANARY}", "x"), **there)
        script.end(1)
        assert words in script.errors
    local = home.script(LOG.format(arguments=', token_file="/x"'), SECLEA_PLATFORM_URL="local")
    local.end(1)
    assert "A login makes no sense with the home's own portal. Pass platform_url, or no login (" in local.errors


def typed(home: PipelineHome, command: list[str], lines: dict[str, str], environment: dict[str, str]) -> str:
    """Run a command at a terminal of its own, and type a line at each prompt; what the terminal showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=home.work,
        env=home.environment(**environment),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    shown = b""
    waiting = dict(lines)
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while part := os.read(ours, 4096):
            shown += part
            for prompt in [prompt for prompt in waiting if prompt.encode() in shown]:
                os.write(ours, waiting.pop(prompt).encode() + b"\n")
    os.close(ours)
    assert process.wait(30) == 0, shown
    assert not waiting
    return shown.decode()


@pytest.mark.parametrize("way", ["command", "call"])
def test_at_a_terminal_what_is_missing_is_asked_for_and_the_password_is_not_shown(
    home: PipelineHome, there: dict[str, str], tokens: TokenServer, way: str
) -> None:
    call = 'from seclea import SecleaAI; SecleaAI("Claims", "local").login()'
    command = ["-m", "seclea", "login"] if way == "command" else ["-c", call]
    answers = {f"User name for {tokens.url}: ": "ada", "Password: ": PASSWORDS["ada"]}
    shown = typed(home, command, answers, there)
    assert "ada" in shown and CANARY not in shown
    assert logged(home, there) == "True"


def test_without_a_terminal_nothing_is_asked_for(home: PipelineHome, there: dict[str, str]) -> None:
    command = home.command("login", **there)
    assert command.returncode == 2
    assert "There is no terminal to ask for user name and password." in command.stderr
    assert "SECLEA_TOKEN_FILE" in command.stderr
    script = home.script('from seclea import SecleaAI; SecleaAI("Claims", "local").login()', **there)
    script.end(1)
    assert "UsageError: There is no terminal" in script.errors


def test_a_logout_ends_the_login_here_and_there_and_what_is_logged_waits_for_the_next(
    home: PipelineHome, there: dict[str, str], tokens: TokenServer
) -> None:
    secret = {"SECLEA_USERNAME": "ada", "SECLEA_PASSWORD": PASSWORDS["ada"]}
    assert home.command("logout", **there).stdout == f"There was no login to {tokens.url}.\n"
    assert logged(home, there, **secret) == "True"
    assert home.command("logout", **there).stdout == f"Logged out of {tokens.url}.\n"
    assert tokens.living() == 0
    said = logged(home, there)
    assert said.startswith("False") and "Not logged in" in said and "seclea login" in said
    assert home.command("login", **there, **secret).returncode == 0
    until(lambda: home.rows("SELECT 1 FROM records WHERE status != 'Completed'") == [], "everything to be delivered")


def test_a_wrong_password_is_in_no_frame_that_a_crash_reporter_shows(home: PipelineHome, there: dict[str, str]) -> None:
    script = home.script(
        """
        import sys, traceback
        import seclea
        wrong = sys.stdin.readline().strip()
        for call in (seclea.SecleaAI, seclea.init):
            try:
                call("Claims", username="ada", password=wrong)
            except seclea.AuthenticationError as error:
                report = traceback.TracebackException(type(error), error, error.__traceback__, capture_locals=True)
                del report.stack[0]  # the user's own
                shown = "".join(report.format())
                print(len(report.stack) > 3, wrong in shown, type(error).__name__)
        """,
        **there,
    )
    script.tell(f"wrong-{CANARY}")
    assert script.end() == "True False AuthenticationError\n" * 2
