"""What users pass is checked at the call; what passes is a copy that nothing changes any more."""

import argparse
import dataclasses
import decimal
import enum
import fractions
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seclea.client.validation import check_metrics, check_name, check_params, check_step
from seclea.errors import MetricError, TooLargeError, UsageError


class Level(enum.IntEnum):
    HIGH = 3


class Key(enum.StrEnum):
    LOSS = "loss"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0), (True, 1.0), (2.5, 2.5), (-0.0, -0.0), (math.inf, math.inf), (Level.HIGH, 3.0),
        (np.float32(0.5), 0.5), (np.int64(7), 7.0), (np.bool_(True), 1.0), (np.array(1.5), 1.5), (np.array([[2]]), 2.0),
        (decimal.Decimal("0.25"), 0.25), (fractions.Fraction(1, 4), 0.25),
    ],
)  # fmt: skip
def test_every_kind_of_number_is_recorded_as_a_float(value: Any, expected: float) -> None:
    (found,) = check_metrics({"loss": value}).values()
    assert type(found) is float
    assert found == expected and math.copysign(1, found) == math.copysign(1, expected)


def test_nan_is_a_value() -> None:
    assert math.isnan(check_metrics({"loss": math.nan})["loss"])


@pytest.mark.parametrize(
    "value",
    [
        None, "1", b"1", [1.0], (1.0,), {1.0}, {"a": 1.0}, 1j, object(), float, lambda: 1.0,
        np.array([1.0, 2.0]), np.array([]), np.complex64(1), np.datetime64("2024-01-01"), np.timedelta64(1, "s"),
        np.str_("1"), np.array("text"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_refused_by_its_key(value: Any) -> None:
    with pytest.raises(MetricError, match="'the loss'") as caught:
        check_metrics({"fine": 1.0, "the loss": value})
    assert caught.value.hint


def test_keys_are_plain_text() -> None:
    found = check_metrics({Key.LOSS: 1.0, np.str_("accuracy"): 2.0})
    assert [type(key) for key in found] == [str, str]
    assert found == {"loss": 1.0, "accuracy": 2.0}


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.floats() | st.integers(-(2**60), 2**60) | st.booleans()))
def test_what_passes_is_a_copy_with_the_same_numbers(metrics: dict[str, Any]) -> None:
    try:
        found = check_metrics(metrics)
    except MetricError:
        assert not metrics or any(not key.isprintable() or _has_surrogate(key) for key in metrics)
        return
    assert found is not metrics
    assert found.keys() == metrics.keys()
    assert all(
        math.isnan(value) if metrics[key] != metrics[key] else value == float(metrics[key])
        for key, value in found.items()
    )


def _has_surrogate(text: str) -> bool:
    return any(0xD800 <= ord(character) < 0xE000 for character in text)


@pytest.mark.parametrize("step", [0, -1, 2**63 - 1, -(2**63), np.int32(5), Level.HIGH])
def test_a_step_is_any_64_bit_whole_number(step: Any) -> None:
    assert check_step(step) == int(step)


@pytest.mark.parametrize("step", [1.0, "1", None, True, 2**63, -(2**63) - 1, math.nan, np.float64(1), [1]])
def test_anything_else_is_no_step(step: Any) -> None:
    with pytest.raises(MetricError, match="step"):
        check_step(step)


def test_params_are_a_copy_of_what_they_are_now() -> None:
    layers = [1, 2]
    params = {"layers": layers, "rate": np.float64(0.1), "bad": math.nan}
    found = check_params(params)
    layers.append(3)
    assert found["layers"] == [1, 2]
    assert type(found["rate"]) is float
    assert math.isnan(found["bad"])


def test_params_may_be_a_namespace_or_a_dataclass() -> None:
    @dataclasses.dataclass
    class Config:
        rate: float = 0.1

    assert check_params(argparse.Namespace(rate=0.1)) == {"rate": 0.1} == check_params(Config())
    assert check_params(None) == {}
    with pytest.raises(UsageError, match="must be a dict"):
        check_params(Config)


def test_params_have_a_size_that_is_looked_at_before_they_are_made_into_text() -> None:
    with pytest.raises(TooLargeError, match="'table' alone has 8388608 bytes"):
        check_params({"table": np.zeros(1 << 20)})
    with pytest.raises(TooLargeError, match="metadata may take 1048576 bytes"):
        check_params({str(number): "x" * 1000 for number in range(1100)}, "metadata")


@pytest.mark.parametrize("name", ["", "  ", "x" * 11, "a\0", "\udc80", None, 3, b"x"])
def test_a_name_is_text_that_portals_take(name: Any) -> None:
    with pytest.raises(UsageError, match="The run name"):
        check_name("run", name, 10)


def test_a_name_is_kept_as_it_is() -> None:
    assert check_name("run", " ünïcödé ", 10) == " ünïcödé "
