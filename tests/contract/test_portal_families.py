"""Families of refresh tokens at the portal (S8): a lost reply costs nobody a login, a stolen token costs the thief his.

The rules themselves, on a database file and with the portal's clock in the test's hands. Over sockets: test_portal_auth.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from seclea.portal import accounts
from seclea.portal.accounts import SECOND, Logins, add_user
from seclea.portal.config import PortalConfig
from seclea.portal.database import make_engine, migrate
from seclea.portal.tables import users

GRACE, MINUTE, DAY = 60, 60, 86_400


class Family:
    """One login. `refresh` gives the next refresh token, or None where it is refused."""

    def __init__(self, connection: Connection, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_800_000_000 * SECOND
        monkeypatch.setattr(accounts, "now_ns", lambda: self.now)
        self.logins = Logins(PortalConfig(data, refresh_grace_seconds=GRACE))
        self.connection = connection
        add_user(connection, "ada", None)
        user = connection.execute(select(users.c.id).where(users.c.name == "ada")).scalar_one()
        self.first = self.logins.start(connection, user).refresh

    def refresh(self, token: str) -> str | None:
        tokens = self.logins.refresh(self.connection, token)
        return None if tokens is None else tokens.refresh

    def later(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)

    def must(self, token: str) -> str:
        made = self.refresh(token)
        assert made is not None
        return made


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Family]:
    engine = make_engine(tmp_path / "portal.db", readonly=False)
    migrate(engine)
    with engine.begin() as connection:
        yield Family(connection, tmp_path, monkeypatch)
    engine.dispose()


@pytest.mark.parametrize("outage", [1, GRACE + 1, 5 * DAY])
def test_a_reply_that_was_lost_before_an_outage_of_any_length_costs_no_login(family: Family, outage: int) -> None:
    current = family.first
    for _ in range(3):
        family.must(current)  # and the reply never came
        family.later(outage)
        current = family.must(current)
        family.later(5 * MINUTE)


def test_replies_that_are_lost_again_and_again_cost_no_login(family: Family) -> None:
    for _ in range(20):
        family.must(family.first)
        family.later(10 * MINUTE)
    assert family.refresh(family.must(family.first)) is not None


def test_a_token_whose_successor_was_used_revokes_the_family_after_the_grace(family: Family) -> None:
    second = family.must(family.first)
    third = family.must(second)
    family.later(GRACE)
    assert family.refresh(family.first) is not None, "two tabs of a browser"
    family.later(1)
    assert family.refresh(family.first) is None
    assert family.refresh(third) is None, "nobody knows which of the two is the thief"


def test_whoever_stole_a_token_that_was_just_used_is_found_out_when_both_have_gone_on(family: Family) -> None:
    mine = family.must(family.first)
    family.later(5 * MINUTE)
    stolen = family.must(family.first)  # as after a lost reply: nobody can tell yet
    family.later(5 * MINUTE)
    mine = family.must(mine)
    family.later(5 * MINUTE)
    assert family.refresh(stolen) is None
    assert family.refresh(mine) is None


def test_an_owner_who_finds_that_a_thief_went_on_ends_it_for_both(family: Family) -> None:
    stolen = family.must(family.must(family.first))
    family.later(5 * MINUTE)
    assert family.refresh(family.first) is None
    assert family.refresh(stolen) is None


def test_a_clock_of_the_portal_that_is_set_back_costs_no_login(family: Family) -> None:
    current = family.first
    for step in (10, -3600, 100, 1000, -DAY, 3000, 90_000):
        family.later(step)
        current = family.must(current)


def test_families_do_not_touch_each_other(family: Family) -> None:
    add_user(family.connection, "bob", None)
    user = family.connection.execute(select(users.c.id).where(users.c.name == "bob")).scalar_one()
    other = family.logins.start(family.connection, user).refresh
    for _ in range(3):
        family.later(5 * MINUTE)
        other = family.must(other)
    assert family.refresh(family.first) is not None
