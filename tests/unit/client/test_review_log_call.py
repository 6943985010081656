"""The log call under strange values, interruptions and races: what a hostile reader tried."""

import os
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from seclea.client.validation import plain_types
from seclea.errors import MetricError, RunFinishedError
from tests.unit.client.test_log_call import Desk, desk

__all__ = ["desk"]


def know(desk: Desk, *names: str) -> None:
    """Have the names said once."""
    for _ in range(3):
        desk.run.log(dict.fromkeys(names, 1.0))
    desk.said()


class Tensor:
    """As torch's: `float` of one that requires a gradient warns, `item` does not; both may wait for a GPU."""

    def __init__(self) -> None:
        self.floats = 0

    def __float__(self) -> float:
        self.floats += 1
        warnings.warn("Converting a tensor with requires_grad=True to a scalar", UserWarning, stacklevel=2)
        return 1.5

    def item(self) -> float:
        return 1.5


def test_a_tensor_is_asked_for_its_number_once_and_as_it_wants_to_be(desk: Desk) -> None:
    know(desk, "loss")
    tensor = Tensor()
    desk.run.log({"loss": tensor}, 7)
    assert desk.said() == [(7, {"loss": 1.5})]
    assert tensor.floats == 0


def test_a_complex_number_is_refused_without_a_warning_of_another_library(desk: Desk) -> None:
    know(desk, "loss")
    with warnings.catch_warnings(record=True) as said, pytest.raises(MetricError):
        warnings.simplefilter("always")
        desk.run.log({"loss": np.complex64(1)})
    assert said == []


SCALARS = [np.dtype(code).type for code in "?bBhHiIlLqQefdg"]


@pytest.mark.parametrize("scalar", SCALARS, ids=[kind.__name__ for kind in SCALARS])
def test_a_scalar_of_numpy_is_a_number_whether_its_names_are_known_or_not_and_then_plain(
    desk: Desk, scalar: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.run.log({"loss": scalar(1)}, 0)
    know(desk, "loss")
    assert scalar in plain_types
    checked: list[Any] = []
    monkeypatch.setattr(desk.run, "_log_checked", lambda *call: checked.append(call))
    desk.run.log({"loss": scalar(1)}, 1)
    assert checked == [] and desk.said() == [(1, {"loss": 1.0})]


def test_types_that_users_make_are_not_kept(desk: Desk) -> None:
    before = set(plain_types)
    for base in (np.float64, np.float32, float, int):
        made = type("Mine", (base,), {})
        desk.run.log({"loss": made(1)}, 0)
    assert plain_types - before <= {np.float64, np.float32}


def test_a_step_whose_index_raises_is_a_wrong_step_whether_its_names_are_known_or_not(desk: Desk) -> None:
    class Step:
        def __index__(self) -> int:
            raise RuntimeError("no")

    know(desk, "loss")
    with pytest.raises(MetricError, match="whole number"):
        desk.run.log({"loss": 1.0}, Step())  # type: ignore[arg-type]
