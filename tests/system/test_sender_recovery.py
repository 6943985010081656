"""The sender's own patience in the real pipeline: connections, holds, breakers, destinations that do not disturb each other."""

import json
import os
import signal
import time

from seclea.processes.liveness import boot_id
from tests.contract.fault_portal import Answer, Fault, receipted
from tests.pipeline import PipelineHome, Script, WillingPortal, edited, until

JOB = """
    import sys
    from seclea import SecleaAI
    seclea = SecleaAI("Claims")
    run = seclea.start_training_run("first")
    step = 0
    for line in sys.stdin:
        word, _, count = line.strip().partition(" ")
        for _ in range(int(count or 1)):
            run.log({"loss": float(step)}, step=step)
            step += 1
            seclea.flush(20)
        done = seclea.complete(timeout=60 if word == "log" else 0.2)
        print(done.done, done.pending, done.failed, *done.reasons, flush=True)
    """


def job(home: PipelineHome, portal: WillingPortal) -> Script:
    home.log_in(portal.url)
    return home.script(JOB, SECLEA_PLATFORM_URL=portal.url)


def say(script: Script, word: str) -> str:
    script.tell(word)
    return script.hear()


def test_a_lane_keeps_its_connection(home: PipelineHome, portal: WillingPortal) -> None:
    script = job(home, portal)
    assert say(script, "log 100") == "True 0 0"
    assert len(portal.records()) > 90
    assert portal.connections <= 3, "one for each lane, one for what the client asks"
    script.kill()


def test_two_destinations_do_not_disturb_each_other(home: PipelineHome, portal: WillingPortal) -> None:
    stuck = WillingPortal()
    try:
        stuck.on("POST", "/collection/projects", Answer(fault=Fault.STALLED))
        home.log_in(stuck.url)
        home.log_in(portal.url)
        printed = home.run(
            f"""
            from seclea import SecleaAI
            for url, timeout in (({stuck.url!r}, 0.2), ({portal.url!r}, 30)):
                seclea = SecleaAI("Claims", organization="local", platform_url=url, auth_url=url)
                run = seclea.start_training_run("first")
                run.log({{"loss": 1.0}}, step=0)
                run.finish()
                print(seclea.complete(timeout=timeout).done)
            """
        )
        assert printed.split() == ["False", "True"]
        assert [kind for kind, _ in portal.records()] == ["projects", "training-runs", "metrics", "finish"]
        assert stuck.count("POST", "/collection/projects") == 1
    finally:
        stuck.close()


def test_an_open_breaker_survives_a_restart_of_everything(home: PipelineHome, portal: WillingPortal) -> None:
    script = job(home, portal)
    assert say(script, "log") == "True 0 0"
    home.command("stop")
    opened = {"failures": 12, "open_until": time.monotonic() + 50.0, "boot_id": boot_id()}
    with edited(home.home.ledger) as ledger:
        ledger.execute("UPDATE destinations SET breaker = ?", (json.dumps(opened),))
    before = len(portal.asked)
    assert say(script, "briefly").startswith("False 1")
    home.sender_pid()
    assert say(script, "briefly").startswith("False")
    assert len(portal.asked) == before
    assert home.command("retry").returncode == 0, "a person may ask at once"
    assert say(script, "log") == "True 0 0"
    script.kill()


def test_a_portal_that_is_stopped_holds_up_nobody_and_is_gone_on_with(home: PipelineHome) -> None:
    script = home.script(JOB, SECLEA_PLATFORM_URL="local")
    assert say(script, "log") == "True 0 0"
    (pid,) = home.pids_of("seclea.portal")
    os.kill(pid, signal.SIGSTOP)
    try:
        assert say(script, "briefly 3").startswith("False")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert say(script, "log") == "True 0 0"
    assert home.pids_of("seclea.portal") == [pid]
    script.kill()


def test_an_account_that_is_not_paid_up_holds_the_destination_visibly(
    home: PipelineHome, portal: WillingPortal
) -> None:
    portal.on("POST", "/collection/metrics", Answer(402, {"detail": "no money"}))
    script = job(home, portal)
    assert "not paid up (no money)" in say(script, "log 5")
    assert "not paid up" in home.command("status").stdout
    assert portal.count("POST", "/collection/metrics") == 1
    portal.on("POST", "/collection/metrics", receipted)
    assert "are tried again" in home.command("retry").stdout
    assert say(script, "log") == "True 0 0"
    script.kill()


def test_retry_sends_again_what_was_refused_and_everything_is_there_once(
    home: PipelineHome, portal: WillingPortal
) -> None:
    refusal = Answer(422, {"detail": "no such metric"})
    portal.on("POST", "/collection/metrics", refusal, receipted)
    script = job(home, portal)
    told = say(script, "log 3")
    assert told.startswith("False 0 1") and "no such metric" in told
    listed = home.command("status").stdout
    assert "no such metric" in listed
    assert "sent again: 1." in home.command("retry").stdout
    assert say(script, "log") == "True 0 0"
    assert "no such metric" not in home.command("status").stdout
    keys = [key for kind, key in portal.records()]
    assert len(keys) == len(set(keys)), "each key once"
    assert portal.count("POST", "/collection/tombstones") == 1
    until(lambda: sorted(portal.steps()) == [0, 0, 1, 2, 3], "the refused point a second time, in another place")
    script.kill()
