"""What this process itself has no room for."""

import errno
from typing import Any

import pytest

from seclea.director.shortage import overcome


class NoWaiting:
    """A room in which nobody may wait."""

    trouble = ""

    def wait(self, *_: object) -> bool:
        raise AssertionError("waited")


@pytest.mark.parametrize("error", [OSError(errno.ENOMEM, "no page"), MemoryError()])
def test_what_waiting_cannot_help_is_tried_just_once_more(error: Exception) -> None:
    room: Any = NoWaiting()
    left = [error]

    def make() -> str:
        if left:
            raise left.pop()
        return "made"

    assert overcome(room, make) == ("made",) and room.trouble == ""
    left += [error] * 3
    assert overcome(room, make) is None and len(left) == 1 and room.trouble
