"""When logging pauses, and when it goes on. The decision is pure."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seclea.settings import Limits
from seclea.writer.limits import Usage, file_bytes, free_bytes, limits_from, pause_reason, resident_bytes

LIMITS = Limits(memory=100_000_000, disk=1_000_000_000, min_free_disk=500_000_000, resume_below=0.8)
CALM = Usage(memory=0, disk=0, free_disk=10**12)


def usage(**changed: int) -> Usage:
    values = {"memory": CALM.memory, "disk": CALM.disk, "free_disk": CALM.free_disk, **changed}
    return Usage(**values)


@pytest.mark.parametrize(
    ("at_limit", "below", "still_paused", "resumed", "word"),
    [
        ({"memory": 100_000_000}, {"memory": 99_999_999}, {"memory": 80_000_000}, {"memory": 79_999_999}, "memory: "),
        ({"disk": 10**9}, {"disk": 10**9 - 1}, {"disk": 800_000_000}, {"disk": 799_999_999}, "disk: "),
        (
            {"free_disk": 500_000_000},
            {"free_disk": 500_000_001},
            {"free_disk": 625_000_000},
            {"free_disk": 625_000_001},
            "free disk: ",
        ),
    ],
)
def test_it_pauses_at_a_limit_and_resumes_below_a_share_of_it(
    at_limit: dict[str, int], below: dict[str, int], still_paused: dict[str, int], resumed: dict[str, int], word: str
) -> None:
    reason = pause_reason(usage(**at_limit), LIMITS, paused=False)
    assert reason is not None and reason.startswith(word)
    assert pause_reason(usage(**below), LIMITS, paused=False) is None
    assert pause_reason(usage(**below), LIMITS, paused=True) is not None
    assert pause_reason(usage(**still_paused), LIMITS, paused=True) is not None
    assert pause_reason(usage(**resumed), LIMITS, paused=True) is None


def test_the_reason_says_how_much_of_how_much() -> None:
    assert pause_reason(usage(memory=123_000_000), LIMITS, paused=False) == "memory: 123 MB of 100 MB are in use"
    assert (
        pause_reason(usage(free_disk=1_000_000), LIMITS, paused=False) == "free disk: 1 MB are left, 500 MB stay free"
    )


SIZES = st.integers(0, 2**50)


@given(st.builds(Usage, SIZES, SIZES, SIZES), st.floats(0.1, 0.95), SIZES, SIZES, SIZES)
def test_whoever_is_not_paused_and_may_go_on_would_not_pause_again(
    used: Usage, share: float, memory: int, disk: int, free: int
) -> None:
    """What resumes is far enough from what pauses: no usage flips both ways."""
    limits = Limits(memory=memory, disk=disk, min_free_disk=free, resume_below=share)
    if pause_reason(used, limits, paused=True) is None:
        assert pause_reason(used, limits, paused=False) is None


def test_limits_are_what_a_client_sent_and_defaults_for_the_rest() -> None:
    assert limits_from(None) == Limits()
    assert limits_from({}) == Limits()
    assert limits_from({"disk": 5, "when_full": "drop", "idle_timeout_seconds": 3, "unknown": 1}) == Limits(
        disk=5, when_full="drop"
    )


def test_what_is_measured_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1000))
    assert file_bytes(tmp_path / "file", tmp_path / "missing") == 1000
    assert free_bytes(tmp_path) > 0
    assert resident_bytes([os.getpid()]) > 1_000_000
    assert resident_bytes([2**22 + 1]) == 0, "a process that is gone uses nothing"
