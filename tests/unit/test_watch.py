"""Limits that are edited while something runs."""

import os
from pathlib import Path

import pytest

from seclea.settings import LimitsWatch, load


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path, dict[str, str]]:
    user, project = tmp_path / "user", tmp_path / "project"
    user.mkdir()
    project.mkdir()
    return user / ".seclearc", project / ".seclearc", {"HOME": str(user)}


def test_an_edit_takes_effect_and_what_is_stronger_stays(places: tuple[Path, Path, dict[str, str]]) -> None:
    user, project, environ = places
    user.write_text('[limits]\ndisk = "20MB"\nmemory = "100MB"\n')
    environ["SECLEA_LIMITS_MEMORY"] = "70MB"
    watch = LimitsWatch.of(load(project.parent, environ, {"limits.when_full": "drop"}).settings)
    watch.look()
    assert (watch.limits.disk, watch.limits.memory, watch.limits.when_full) == (20_000_000, 70_000_000, "drop")
    user.write_text('[limits]\ndisk = "30MB"\nmemory = "200MB"\nwhen_full = "raise"\n')
    assert watch.look()
    assert (watch.limits.disk, watch.limits.memory, watch.limits.when_full) == (30_000_000, 70_000_000, "drop")
    assert not watch.look(), "nothing is new"
    project.write_text('[limits]\ndisk = "40MB"\n')  # was not there before
    assert watch.look() and watch.limits.disk == 40_000_000
    project.unlink()
    assert watch.look() and watch.limits.disk == 30_000_000
    user.unlink()
    assert watch.look() and watch.limits.disk == 10**10, "the default"


@pytest.mark.parametrize(
    ("text", "line", "right"),
    [
        ('[limits]\n\ndisk = "lots"\n', 3, '"512MB"'),
        ("[limits]\ndisc = 1\n", 2, "Did you mean limits.disk?"),
        ("[limits\n", 1, 'key = "text"'),
    ],
)
def test_a_wrong_edit_changes_nothing_and_says_what_would_be_right(
    places: tuple[Path, Path, dict[str, str]], text: str, line: int, right: str
) -> None:
    user, project, environ = places
    user.write_text('[limits]\ndisk = "20MB"\n')
    watch = LimitsWatch.of(load(project.parent, environ).settings)
    watch.look()
    user.write_text(text)
    assert watch.look()
    assert watch.limits.disk == 20_000_000
    assert watch.trouble and f"{user}:{line}: " in watch.trouble and right in watch.trouble
    assert not watch.look(), "said once"
    user.write_text('[limits]\ndisk = "25MB"\n')
    assert watch.look() and watch.trouble is None and watch.limits.disk == 25_000_000


def test_without_files_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "stat", None)
    assert not LimitsWatch(load(environ={"HOME": "/nowhere"}).settings.limits).look()
