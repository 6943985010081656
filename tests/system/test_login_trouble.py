"""A login that runs out, is refused or is renewed elsewhere, in the middle of a job with real processes (S8, R14).

The portal and its auth server are two addresses. That server knows no grace: a second refresh with one token logs out.
"""

from __future__ import annotations

import time

import pytest

from seclea.api.tokens import Token, TokenStore
from tests.contract.fault_portal import Answer, Asked, receipted
from tests.pipeline import PipelineHome, Script, until
from tests.token_server import PASSWORDS, GuardedPortal, TokenServer

SHORT = 2.0  # seconds that a token lives, where it shall run out in the middle of a job
JOB = """
    import sys
    from seclea import SecleaAI
    seclea = SecleaAI("Claims", "local")
    run = seclea.start_training_run()
    for step, line in enumerate(sys.stdin):
        run.log({"loss": 1.0}, step=step)
        result = seclea.complete(timeout=float(line))
        print(result.done, result.on_hold, *result.reasons, flush=True)
"""


def job(home: PipelineHome, there: dict[str, str]) -> Script:
    return home.script(JOB, **there, SECLEA_USERNAME="ada", SECLEA_PASSWORD=PASSWORDS["ada"])


def logged(script: Script, timeout: float = 30.0) -> str:
    script.tell(str(timeout))
    return script.hear()


def in_status(home: PipelineHome, there: dict[str, str], words: str) -> None:
    until(lambda: words in home.command("status", **there).stdout, f"{words!r} in seclea status")


def expired(tokens: TokenServer) -> None:
    until(lambda: tokens.living() == 0, "every token to run out")


def test_tokens_that_live_two_seconds_and_an_auth_server_that_is_down_meanwhile(
    home: PipelineHome, there: dict[str, str], tokens: TokenServer, guarded: GuardedPortal
) -> None:
    tokens.lifetime = SHORT
    script = job(home, there)
    assert logged(script) == "True False"
    expired(tokens)
    assert logged(script) == "True False", "renewed by the sender, and nobody noticed"
    assert tokens.refreshes >= 1
    tokens.down = True
    expired(tokens)
    assert logged(script, 0.5).startswith("False False"), "the portal is there, its login is not: no hold"
    in_status(home, there, f"{tokens.url} cannot take logins now (status 503)")
    tokens.down = False
    assert logged(script) == "True False", "and nobody had to log in"
    script.end()
    assert guarded.steps() == [0, 1, 2, 3]
    assert not any("refresh_token" in asked.cookies for asked in guarded.asked), "it is the auth server's alone"
    assert {asked.path for asked in tokens.asked} <= {f"/api/token/{what}/" for what in ("obtain", "refresh")}
    assert home.rows("SELECT 1 FROM destinations WHERE hold IS NOT NULL") == []


@pytest.mark.parametrize("who", ["bob by seclea login", "ada in another client", "somebody who tells nobody"])
def test_a_login_that_is_refused_is_held_and_told_and_a_new_one_goes_on_at_once(
    home: PipelineHome, there: dict[str, str], tokens: TokenServer, guarded: GuardedPortal, who: str
) -> None:
    script = job(home, there)
    assert logged(script) == "True False"
    tokens.revoke_all()
    said = logged(script)
    assert said.startswith("False True") and "The login to" in said and "seclea login" in said
    status = home.command("status", **there)
    assert status.returncode == 1 and "seclea login" in status.stdout
    requests = (guarded.refused, tokens.refreshes)
    if who.startswith("bob"):
        command = home.command("login", "--username", "bob", "--password-stdin", text=PASSWORDS["bob"] + "\n", **there)
        assert command.returncode == 0, command.stderr
    elif who.startswith("ada"):
        home.run(
            'from seclea import SecleaAI; SecleaAI("Claims", "local")',
            **there,
            SECLEA_USERNAME="ada",
            SECLEA_PASSWORD=PASSWORDS["ada"],
        )
    else:
        assert (guarded.refused, tokens.refreshes) == requests, "while it is on hold nobody is asked"
        new = tokens.issue("bob")
        TokenStore(home.home.tokens).write(tokens.url, Token(new["access_token"]), Token(new["refresh_token"]), "bob")
    since = time.monotonic()
    until(lambda: guarded.steps() == [0, 1], "what waited to be delivered")
    print(f"{who}: delivered {time.monotonic() - since:.2f} s after the login")
    assert logged(script) == "True False"
    script.end()
    assert guarded.steps() == [0, 1, 2]


def test_a_portal_that_refuses_every_login_is_asked_no_more_until_there_is_another(
    home: PipelineHome, there: dict[str, str], tokens: TokenServer, guarded: GuardedPortal
) -> None:
    """Each 401 makes a renewal, and a renewal is a new token in the store: that must not wake the sender, for ever."""
    script = job(home, there)
    assert logged(script) == "True False"
    tokens.lifetime = -1.0  # what is given out now is over already
    tokens._good.clear()
    assert logged(script).startswith("False True")
    requests = guarded.refused
    assert 1 <= tokens.refreshes <= 2, "one for each lane at most"
    assert logged(script).startswith("False True")
    assert (guarded.refused, tokens.refreshes <= 2) == (requests, True)
    tokens.lifetime = 3600.0
    assert (
        home.command("login", "--username", "ada", "--password-stdin", text=PASSWORDS["ada"], **there).returncode == 0
    )
    assert logged(script) == "True False"
    script.end()


def test_a_403_is_answered_by_one_renewal_then_waited_out_in_sight_and_goes_on_when_the_right_is_granted(
    home: PipelineHome, there: dict[str, str], tokens: TokenServer, guarded: GuardedPortal
) -> None:
    granted = False

    def metrics(asked: Asked) -> Answer:
        return receipted(asked) if granted else Answer(403, {"detail": "ada may not write here"})

    guarded.on("POST", "/collection/metrics", metrics)
    script = job(home, there)
    assert logged(script, 0.5).startswith("False False")
    in_status(home, there, "ada may not write here")
    asked = guarded.count("POST", "/collection/metrics")
    until(lambda: guarded.count("POST", "/collection/metrics") > asked, "another try, by itself")
    assert tokens.refreshes == 1
    granted = True
    assert logged(script) == "True False"
    script.end()
    assert tokens.refreshes == 1
