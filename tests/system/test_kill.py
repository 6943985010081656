"""R1, R19, R24, R29: who is killed, stands still or forks a crowd loses nothing; a referee reads it at the portal.

Short seeded forms of `./dev chaos kills`, `stops` and `forks`.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.pipeline import ROOT


def chaos(*arguments: str) -> str:
    """Run the harness; its report, and a failure with it when anything was found."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SECLEA_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *arguments],
        capture_output=True, text=True, cwd=ROOT, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(300)
def test_after_sixty_kills_of_everybody_nothing_is_lost_twice_or_out_of_order_and_nothing_is_left_behind() -> None:
    said = chaos("kills", "--kills", "60", "--round-kills", "30", "--seed", "20")
    assert "0 rounds with things wrong" in said


@pytest.mark.timeout(300)
def test_who_stands_still_is_neither_replaced_nor_waited_for_and_nothing_is_lost() -> None:
    said = chaos("stops", "--rounds", "1", "--stops", "2", "--seconds", "0.4", "--seed", "1")
    assert "0 rounds with things wrong" in said


@pytest.mark.timeout(300)
def test_a_crowd_of_forked_children_is_counted_exactly_and_leaves_nothing_in_the_writer() -> None:
    assert "0 things wrong" in chaos("forks", "--storms", "1", "--quiet", "2", "--children", "6", "--seed", "1")


def test_the_front_door_names_every_kind_and_knows_no_other() -> None:
    said = chaos()
    for name in ("kills", "stops", "forks", "outage"):
        assert f"\n  {name} " in said
    wrong = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "no-such"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert wrong.returncode == 2
    assert "There is no 'no-such'." in wrong.stderr


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_after_two_thousand_kills_nothing_is_lost_twice_or_out_of_order() -> None:
    assert "0 rounds with things wrong" in chaos("kills", "--kills", "2000", "--seed", "7")
