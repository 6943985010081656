"""What a wait shows: nothing at first, then few lines that are true, and never an error."""

import io
from dataclasses import replace
from pathlib import Path

import pytest

from seclea.client.showing import Showing, what_is_left
from seclea.director import Left, Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def at(delivered: int, pending: int) -> Progress:
    return Progress(pending == 0, delivered, pending, delivered_bytes=delivered * 1000, pending_bytes=pending * 1000)


def test_a_wait_of_less_than_a_second_shows_nothing(clock: Clock) -> None:
    stream = io.StringIO()
    showing = Showing(stream, clock)
    showing.see(at(0, 3))
    clock.now += 0.9
    showing.see(at(3, 0))
    showing.end(at(3, 0))
    assert stream.getvalue() == ""


def test_lines_are_seconds_apart_and_the_last_one_says_how_it_ended(clock: Clock) -> None:
    stream = io.StringIO()
    showing = Showing(stream, clock)
    for tick in range(600):  # a minute and a half, ten looks a second
        clock.now = 100.0 + tick * 0.15
        showing.see(at(tick, 600 - tick))
    showing.end(at(600, 0))
    lines = stream.getvalue().splitlines()
    assert len(lines) <= 15
    assert lines[0].startswith("seclea: 593 records left (593kB), 6.7 records/s, 6.")
    assert lines[0].endswith("about 1 min 30 s left")
    assert lines[-1] == "seclea: all is delivered: 600 records (600kB) in 1 min 30 s"


def test_while_nothing_goes_out_it_says_why_and_no_time(clock: Clock) -> None:
    stream = io.StringIO()
    showing = Showing(stream, clock)
    why = "the portal answers 503 since 12:03; next try in 41 s"
    showing.see(replace(at(0, 3), waits_for=why))
    clock.now += 2
    showing.see(replace(at(1, 3), waits_for=why))
    showing.end(
        replace(
            at(1, 3), left=(Left("pending", 3, why), Left("paused", 0, "disk: full"), Left("left out", 12, "paused"))
        )
    )
    assert stream.getvalue().splitlines() == [
        f"seclea: 3 records left (3kB); {why}",
        f"seclea: after 2 s: 3 pending: {why}; paused: disk: full; 12 left out: paused",
    ]


def test_what_is_left_names_each_kind_and_stops_somewhere() -> None:
    many = tuple(Left("failed", 1, f"reason {number}") for number in range(9))
    assert what_is_left(Progress(False, left=many)).endswith("1 failed: reason 3; and 5 more")


@pytest.mark.parametrize("stream", [None, "closed", "full", "ascii"])
def test_a_standard_error_that_cannot_be_written_fails_nothing(
    clock: Clock, stream: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stderr", None)
    opened = None
    if stream is not None:
        path = "/dev/full" if stream == "full" else tmp_path / "err"
        opened = open(path, "w", encoding="ascii" if stream == "ascii" else "utf-8")  # noqa: SIM115
        if stream == "closed":
            opened.close()
    showing = Showing(opened, clock)
    clock.now += 5
    showing.see(replace(at(0, 3), waits_for="nichts geht: Zürich ✗"))
    showing.end(at(0, 3))
    showing.leave("left")
    showing.close()
    if stream == "ascii":
        assert opened is not None
        opened.close()
        assert "Z\\xfcrich \\u2717" in (tmp_path / "err").read_text()
    elif stream == "full":
        assert opened is not None
        with pytest.raises(OSError, match="No space"):
            opened.close()
