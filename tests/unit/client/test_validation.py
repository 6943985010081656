import argparse
import dataclasses
import decimal
import enum
import fractions
import math

import numpy as np
import pandas as pd
import pytest

from seclea.client.validation import DATASET_NAME, check_metrics, check_name, check_params, check_step, metric_value
from seclea.entities import TrainingRun
from seclea.errors import MetricError, TooLargeError, UsageError


def test_names_are_kept_as_they_are():
    assert check_name("dataset", " Claims – é ", DATASET_NAME) == " Claims – é "
    assert check_name("dataset", "x" * 256, DATASET_NAME)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "dataset name must be text, not NoneType"),
        (5, "not int"),
        (b"x", "not bytes"),
        ("", "is empty"),
        (" \n", "is empty"),
        ("x" * 257, "has 257 characters; at most 256"),
        ("a\0b", "cannot be stored"),
        ("\ud800", "cannot be stored"),
    ],
)
def test_names_that_cannot_be_are_refused(name, words):
    with pytest.raises(UsageError) as caught:
        check_name("dataset", name, DATASET_NAME)
    assert words in str(caught.value)


class Level(enum.IntEnum):
    LOW = 1


class Lonely:
    def __float__(self):
        return 2.5


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        (0.5, 0.5),
        (True, 1.0),
        (Level.LOW, 1.0),
        (math.inf, math.inf),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.float16(0.5), 0.5),
        (np.int64(3), 3.0),
        (np.bool_(True), 1.0),
        (np.array(2.5), 2.5),
        (np.array([[2.5]]), 2.5),
        (pd.Series([2.5]), 2.5),
        (decimal.Decimal("2.5"), 2.5),
        (fractions.Fraction(5, 2), 2.5),
        (Lonely(), 2.5),
    ],
)
def test_numbers_of_all_kinds_become_floats(value, expected):
    found = metric_value("loss", value)
    assert type(found) is float and found == expected


def test_nan_is_a_value():
    assert math.isnan(metric_value("loss", math.nan)) and math.isnan(metric_value("loss", np.float32("nan")))


@pytest.mark.torch
def test_tensors_of_one_element_become_floats():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for value in (torch.tensor(2.5), torch.tensor([2.5], requires_grad=True), torch.tensor(2.5, dtype=torch.bfloat16)):
        assert metric_value("loss", value) == 2.5
    with pytest.raises(MetricError, match=r"'loss' is a torch.Tensor of shape \(2,\), not a number. Reduce it"):
        metric_value("loss", torch.ones(2))
    with pytest.raises(MetricError):
        metric_value("loss", torch.ones(1, dtype=torch.complex64))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "Metric 'loss' is None, not a number. Leave it out"),
        ("0.5", "is a str, not a number. Convert it with float(...)"),
        ({"a": 1}, "is a dict, not a number. Log its items"),
        ([0.5], "is a list, not a number. Reduce it"),
        (1j, "is a complex, not a number. Log its real"),
        (np.complex64(1), "numpy.complex64, not a number. Log its real"),
        (np.array([1.0, 2.0]), "is a numpy.ndarray of shape (2,), not a number. Reduce it to one number"),
        (np.array([]), "of shape (0,)"),
        (np.array(["x"]), "not a number"),
        (np.datetime64(5, "ns"), "not a number"),
        (np.timedelta64(5, "ns"), "not a number"),
        (pd.NA, "not a number"),
        (pd.NaT, "not a number"),
        (float, "is a type, not a number"),
        (object(), "is a object, not a number"),
        (10**400, "too large for a 64-bit float"),
    ],
)
def test_what_is_no_number_is_refused_with_the_way_out(value, words):
    with pytest.raises(MetricError) as caught:
        metric_value("loss", value)
    assert words in str(caught.value) and "'loss'" in str(caught.value)


def test_metrics_become_a_dict_of_floats_with_plain_names():
    class Name(enum.StrEnum):
        LOSS = "loss"

    metrics = {Name.LOSS: 1, np.str_("acc"): np.float32(0.5), "é": 0.25}
    found = check_metrics(metrics)
    assert found == {"loss": 1.0, "acc": 0.5, "é": 0.25}
    assert all(type(key) is str and type(value) is float for key, value in found.items())


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (0.5, "must be a dict of names and numbers, not float"),
        (None, "not NoneType"),
        ({}, "no metric in the dict"),
        ({1: 0.5}, "A metric's name must be text, not 1 (int). Use '1'."),
        ({"": 0.5}, "cannot be the name"),
        ({"x" * 1025: 0.5}, "cannot be the name"),
        ({"\ud800": 0.5}, "cannot be the name"),
        ({"a": 0.5, "b": None}, "Metric 'b' is None"),
    ],
)
def test_metrics_that_are_wrong_are_refused(metrics, words):
    with pytest.raises(MetricError) as caught:
        check_metrics(metrics)
    assert words in str(caught.value)


@pytest.mark.parametrize("step", [0, -5, 2**63 - 1, -(2**63), np.int32(7), np.uint8(7)])
def test_whole_numbers_are_steps(step):
    assert type(check_step(step)) is int and check_step(step) == step


@pytest.mark.parametrize("step", [1.5, 2.0, "1", None, True, 2**63, -(2**63) - 1, math.nan, math.inf, np.array([1, 2])])
def test_other_things_are_no_steps(step):
    with pytest.raises(MetricError, match="step"):
        check_step(step)


def test_a_step_that_is_a_whole_float_is_told_what_to_write():
    with pytest.raises(MetricError, match=r"Use int\(step\): 2"):
        check_step(2.0)


def test_params_are_a_copy_that_an_entity_keeps_through_json():
    params = {"lr": 0.1, "nan": math.nan, "layers": [1, 2], "f": len, "array": np.arange(3), "d": {1: "x"}, "raw": b"x"}
    found = check_params(params)
    params["layers"].append(3)
    assert found["layers"] == [1, 2] and found["array"] == [0, 1, 2] and found["f"] == "builtins.len"
    run = TrainingRun(name="r", params=found)
    back = TrainingRun.from_json(run.to_json()).params
    assert math.isnan(back.pop("nan")) and math.isnan(found.pop("nan")) and back == found


def test_params_may_be_a_namespace_or_a_dataclass_or_nothing():
    @dataclasses.dataclass
    class Config:
        lr: float = 0.1

    assert check_params(Config()) == check_params(argparse.Namespace(lr=0.1)) == check_params({"lr": 0.1})
    assert check_params(None) == {}


@pytest.mark.parametrize(
    ("params", "kind", "words"),
    [
        ([1], UsageError, "params must be a dict, not list"),
        ({1: 2}, UsageError, "has the key 1, which is no text. Use '1'"),
        ({"w": np.zeros(10**6)}, TooLargeError, "'w' alone has 8000000 bytes"),
        ({"w": "x" * 2**20}, TooLargeError, "bytes as JSON"),
    ],
)
def test_params_that_are_wrong_are_refused(params, kind, words):
    with pytest.raises(kind) as caught:
        check_params(params)
    assert words in str(caught.value)


def test_params_that_hold_themselves_are_refused():
    params = {}
    params["self"] = params
    with pytest.raises(UsageError, match="nested deeper"):
        check_params(params)
