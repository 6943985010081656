"""What one job waits for, where other jobs share its home; and what a person lets be."""

import re

from tests.contract.fault_portal import Answer, receipted
from tests.pipeline import PipelineHome, WillingPortal, until

JOB = """
    import seclea
    seclea.init("Claims", name={name!r})
    seclea.log({{"loss": 1.0}}, step=0)
    done = seclea.finish(30)
    print(done.done, done.failed, done.held)
    """
CHATTERBOX = """
    import seclea, threading
    seclea.init("Claims", name="chatterbox")
    told = threading.Event()
    threading.Thread(target=lambda: (input(), told.set())).start()
    step = 0
    while not told.wait(0.001):
        seclea.log({"loss": 1.0}, step=step)
        step += 1
        if step == 50: print("talks", flush=True)
    """


def test_what_failed_for_another_job_is_not_told_as_this_ones_and_can_be_let_be(
    home: PipelineHome, portal: WillingPortal
) -> None:
    home.log_in(portal.url)
    here = {"SECLEA_PLATFORM_URL": portal.url}
    portal.on("POST", "/collection/metrics", Answer(400, {"detail": "no such key"}))
    assert home.run(JOB.format(name="first"), **here).split() == ["False", "1", "0"]
    portal.on("POST", "/collection/metrics", receipted)
    assert home.run(JOB.format(name="second"), **here).split() == ["True", "0", "0"]
    shown = home.command("status", **here)
    assert shown.returncode == 1 and "seclea dismiss" in shown.stdout
    (number,) = home.rows("SELECT id FROM records WHERE status = 'Failed'")
    wrong = home.command("dismiss", **here)
    assert wrong.returncode == 2 and "No record was named" in wrong.stderr
    assert home.command("dismiss", "9999", **here).returncode == 1
    done = home.command("dismiss", str(number[0]), **here)
    assert done.returncode == 0 and re.search(r"let be: 1\.", done.stdout)
    assert home.command("status", **here).returncode == 0
    assert "sent again: 0." in home.command("retry", **here).stdout, "what is let be is let be"
    assert home.rows("SELECT count(*) FROM records WHERE status = 'Failed'") == [(1,)], "and kept"


def test_a_job_is_done_while_another_one_goes_on_to_log(home: PipelineHome, portal: WillingPortal) -> None:
    home.log_in(portal.url)
    other = home.script(CHATTERBOX, SECLEA_PLATFORM_URL=portal.url)
    assert other.hear() == "talks"
    assert home.run(JOB.format(name="second"), SECLEA_PLATFORM_URL=portal.url).split() == ["True", "0", "0"]
    other.tell()
    other.end()
    until(lambda: len(home.finishes()) == 2, "the end of both")
