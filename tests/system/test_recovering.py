"""A ledger that is damaged while nobody runs, or under a job that logs: the real processes find it, say it, and go on."""

import json
import os
import signal
import sqlite3
from pathlib import Path

from seclea.client.status import damage_of
from tests.pipeline import PipelineHome, WillingPortal, until
from tests.system.test_restarting import OBEYS, logs


def alter(ledger: Path, sql: str = "UPDATE entities SET name = 'Claimt' WHERE kind = 'project'") -> None:
    """Change what sqlite has no eye for, as a flipped bit would."""
    editor = sqlite3.connect(ledger, isolation_level=None, timeout=10)
    editor.execute(sql)
    editor.close()


def test_a_record_that_is_damaged_under_the_writer_is_never_sent_and_the_job_is_told(
    home: PipelineHome, portal: WillingPortal
) -> None:
    home.log_in(portal.url)
    script = home.script(OBEYS, SECLEA_PLATFORM_URL=portal.url)
    script.hear()
    logs(script, 0)
    until(lambda: portal.steps() == [0], "the first step")
    writer, sender = home.writer_pid(), home.sender_pid()
    os.kill(sender, signal.SIGSTOP)
    try:
        logs(script, 1)
        script.tell("flush")
        assert script.hear() == "True"
        alter(home.home.ledger, "UPDATE records SET points = 77 WHERE status = 'Transmitting' AND kind = 'metrics'")
    finally:
        os.kill(sender, signal.SIGCONT)
    damage = until(lambda: damage_of(home.home), "the successor to have salvaged it")
    assert "is not what was committed" in damage["words"]
    assert "lost: nothing" in damage["words"], "the log still has the row as it was committed"
    logs(script, 2)
    until(lambda: portal.steps() == [0, 1, 2], "all of it, once")
    assert home.writer_pid() != writer


def test_recover_finds_salvages_sends_and_leaves_nothing_running(home: PipelineHome, portal: WillingPortal) -> None:
    home.log_in(portal.url)
    assert "Nothing to recover" in home.command("recover").stdout
    home.run("""
        import seclea
        run = seclea.init("Claims")
        run.log({"loss": 0.5}, step=3)
        run.finish(timeout=30)
        """, SECLEA_PLATFORM_URL=portal.url)  # fmt: skip
    until(lambda: portal.steps() == [3], "the step")
    assert home.command("stop").returncode == 0
    whole = home.command("recover", "--check")
    assert whole.returncode == 0 and whole.stdout.startswith("Whole: ")
    alter(home.home.ledger)
    looked = home.command("recover", "--check")
    assert looked.returncode == 1 and "1 of 2 rows of entities are not what was committed" in looked.stderr
    assert not home.home.damaged.exists(), "it only looked"
    recovered = home.command("recover")
    assert recovered.returncode == 1 and "Salvaged: " in recovered.stdout, recovered.stderr
    assert not home.live(), "nothing is left running"
    shown = home.command("status")
    assert "not what was committed" in shown.stdout
    assert json.loads(home.command("status", "--json").stdout)["damage"]["place"].startswith(str(home.home.damaged))
    assert home.command("recover", "--check").returncode == 0
