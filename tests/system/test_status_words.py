"""What `seclea status` says to a person: what is wrong, since when, when it is tried again, and what to do."""

import json
import re

import pytest

from seclea.contract import Destination
from seclea.ledger.db import Ledger
from seclea.writer.pauses import Pauses
from tests.contract.fault_portal import Answer
from tests.pipeline import PipelineHome, WillingPortal, until

LOGS = """
    from seclea import SecleaAI
    seclea = SecleaAI("Claims")
    run = seclea.start_training_run("first")
    run.log({"loss": 1.0})
    run.finish()
    print(seclea.flush(20).done, flush=True)
    """
CLOCK = r"\d\d:\d\d"


def test_a_portal_that_asks_to_wait_is_named_with_its_words_and_the_next_try(
    home: PipelineHome, portal: WillingPortal
) -> None:
    home.log_in(portal.url)
    portal.on("POST", "/collection/projects", Answer(503, {"detail": "Lunch."}, {"Retry-After": "120"}))
    home.run(LOGS, SECLEA_PLATFORM_URL=portal.url)
    until(lambda: home.rows("SELECT 1 FROM destinations WHERE next_try_ns IS NOT NULL"), "the first answer")
    ran = home.command("status", SECLEA_PLATFORM_URL=portal.url)
    assert ran.returncode == 0, "it goes on by itself"
    assert re.search(
        rf"^ +the portal answers 503 since {CLOCK}, next try in (2 min|1 min \d+ s): .*Lunch", ran.stdout, re.M
    )
    assert re.search(r"^ +4 records \(\d+B\) pending, 0 records \(0B\) delivered$", ran.stdout, re.M)
    assert re.search(r"^ +attempts that did not come through: 503 1×$", ran.stdout, re.M)
    (one,) = json.loads(home.command("status", "--json").stdout)["destinations"]
    assert 0 < one["next_try_seconds"] <= 120
    assert one["failed_attempts"] == [{"reason": "503", "count": 1}]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one["failing_since"])


def test_when_the_portal_takes_records_again_nothing_is_said_of_its_trouble(
    home: PipelineHome, portal: WillingPortal
) -> None:
    from tests.contract.fault_portal import receipted

    home.log_in(portal.url)
    portal.on("POST", "/collection/projects", Answer(500, {"detail": "oops"}), receipted)
    home.run(LOGS, "print(seclea.complete(30).done)", SECLEA_PLATFORM_URL=portal.url)
    now = home.command("status")
    assert "all is delivered" in now.stdout
    assert "answers" not in now.stdout
    assert "did not come through: 500 1×" in now.stdout, "but it stays counted"


def test_whoever_is_not_logged_in_is_told_since_when_and_the_command(home: PipelineHome, portal: WillingPortal) -> None:
    home.run(LOGS, SECLEA_PLATFORM_URL=portal.url)
    until(lambda: home.rows("SELECT 1 FROM destinations WHERE hold IS NOT NULL"), "the hold")
    ran = home.command("status")
    assert ran.returncode == 1
    assert re.search(rf"^ +on hold since {CLOCK}: Not logged in to {portal.url}", ran.stdout, re.M)
    assert re.search(r"^ +→ seclea login$", ran.stdout, re.M)


def test_refused_records_stand_there_with_the_portals_words_and_those_behind_them(
    home: PipelineHome, portal: WillingPortal
) -> None:
    home.log_in(portal.url)
    portal.on("POST", "/collection/training-runs", Answer(400, {"detail": "No such thing."}))
    home.run(LOGS, "seclea.complete(30)", SECLEA_PLATFORM_URL=portal.url)
    ran = home.command("status")
    assert ran.returncode == 1
    lines = ran.stdout.splitlines()
    failed = next(number for number, line in enumerate(lines) if line.startswith("failed "))
    assert lines[failed].startswith("failed     1 record: ")
    assert lines[failed + 1] == "           training run first: 400 No such thing"
    assert lines[failed + 2].startswith("held       2 records: ")
    assert "nothing to send but what failed or is held" in ran.stdout


def test_a_misspelt_variable_is_said_also_by_status(home: PipelineHome) -> None:
    ran = home.command("status", SECLEA_LIMITS_MEMROY="1GB")
    assert ran.returncode == 0, "looking is not wrong"
    said = "SECLEA_LIMITS_MEMROY: unknown environment variable. Did you mean SECLEA_LIMITS_MEMORY?"
    assert f"settings   {said}\n" in ran.stdout
    assert json.loads(home.command("status", "--json", SECLEA_LIMITS_MEMROY="1GB").stdout)["settings_problem"] == said


def test_a_pause_is_said_with_its_reason_and_what_was_left_out_by_reason(home: PipelineHome) -> None:
    home.log_in(home.closed_url)
    home.run(LOGS, SECLEA_IDLE_TIMEOUT_SECONDS=0)
    home.command("stop")
    ledger = Ledger(home.home.ledger)
    here = ledger.destination(Destination(home.closed_url, home.closed_url, "local"))
    pauses = Pauses(ledger)
    pauses.begin("disk: 11 MB of 10 MB are in use")
    pauses.end(3.0)
    with ledger.transaction():
        ledger.add_event("left out", "7 metrics: dropped paused", destination=here, reason="paused", count=7)
        ledger.add_event("left out", "2 metrics: dropped", destination=here, reason="its process ended", count=2)
    ledger.close()
    shown = home.command("status").stdout
    assert re.search(rf"^left out   9 log calls, the last at {CLOCK}: paused 7, its process ended 2$", shown, re.M)
    assert re.search(r"^pauses     1 in all, \d s: disk 1× \(\d s\)$", shown, re.M)


def test_a_pause_that_goes_on_stands_above_the_rest(home: PipelineHome) -> None:
    home.log_in(home.closed_url)
    script = home.script(LOGS, "input()", SECLEA_LIMITS_MIN_FREE_DISK="900TB", SECLEA_LIMITS_WHEN_FULL="drop")
    script.hear()
    until(lambda: home.live().get("paused"), "the pause")
    shown = home.command("status").stdout
    assert re.search(
        rf"^PAUSED     since {CLOCK}: free disk: .*\n +log calls are left out, and counted\. → make room", shown, re.M
    )
    script.tell()
    script.end()


@pytest.mark.parametrize(
    "seconds, text", [(0, "0 s"), (0.2, "1 s"), (59.5, "1 min"), (61, "1 min 1 s"), (7300, "2 h 1 min")]
)
def test_lengths_of_time_read_well(seconds: float, text: str) -> None:
    from seclea.director.outlook import span

    assert span(seconds) == text
