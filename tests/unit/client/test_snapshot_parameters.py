import datetime as dt
import functools
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold

from seclea.client.snapshot.parameters import CUT, MAX_BYTES, parameters, plain, shortest
from seclea.entities import to_json_value


class Loud:
    """Cannot be looked at."""

    def __getattr__(self, name):
        raise RuntimeError

    def __repr__(self):
        raise RuntimeError


class Kernel:
    def __call__(self):
        """An object that can be called."""


def json_bytes(params):
    return len(json.dumps(to_json_value(params)))


@pytest.mark.parametrize(
    "value", [None, True, 3, 0.5, "text", np.float32(0.25), np.int64(7), dt.date(2026, 1, 2), b"raw"]
)
def test_values_that_have_a_json_form_stay_what_they_are(value):
    assert plain(value) is value or plain(value) == value
    assert type(plain(value)) is type(value)


def test_nan_and_small_arrays_stay_values():
    assert math.isnan(plain(float("nan")))
    assert plain(np.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert plain({0: 1.0, "b": (1, [2])}) == {0: 1.0, "b": [1, [2]]}


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (LinearRegression(), "LinearRegression"),
        (LinearRegression, "sklearn.linear_model._base.LinearRegression"),
        (np.hypot, "numpy.hypot"),
        (math.sqrt, "math.sqrt"),
        (functools.partial(math.hypot, 1), "functools.partial(math.hypot)"),
        (Kernel(), f"{__name__}.Kernel"),
        (KFold(3), "KFold(n_splits=3, random_state=None, shuffle=False)"),
        (stats.uniform(0, scale=2), "scipy.stats.uniform(0, scale=2)"),
        (object(), "builtins.object"),
        (np.zeros((1000, 2)), "numpy.ndarray of shape (1000, 2), float64"),
        (pd.DataFrame({"a": range(3)}), "pandas.DataFrame of shape (3, 1)"),
        ("x" * 5000, "x" * 4096 + "… (5000 characters)"),
        (bytes(5000), "5000 bytes"),
        (1 + 2j, "(1+2j)"),
    ],
)
def test_what_only_a_framework_understands_is_named(value, name):
    assert plain(value) == name


def test_a_value_that_cannot_be_looked_at_is_named():
    assert plain([Loud()]) == [f"{__name__}.Loud"]


def test_a_value_that_is_part_of_itself_ends():
    endless = []
    endless.append(endless)
    assert json_bytes(parameters({"endless": endless})) < 1000


def test_long_lists_and_mappings_say_how_much_more_there_is():
    assert plain(list(range(3000)))[-2:] == [999, "… 2000 more"]
    assert len(plain(dict.fromkeys(range(3000)))) == 1001
    assert plain(dict.fromkeys(range(3000)))[CUT] == "2000 more"


def test_parameters_that_fit_are_all_there():
    params = {"a": 1, "b": ["x" * 4000] * 60}
    assert parameters(params) == params


def test_what_does_not_fit_is_cut_at_the_largest_and_named():
    params = {"depth": 3, "layers": [{"class": "Dense", "units": number, "note": "é" * 100} for number in range(900)]}
    found = parameters(params)
    assert json_bytes(found) <= MAX_BYTES < json_bytes(params)
    assert found["depth"] == 3
    kept = len(found["layers"])
    assert found["layers"] == params["layers"][:kept] and kept > 200
    assert found[CUT] == {"layers": f"{900 - kept} of 900 left out"}


def test_one_large_mapping_is_left_out_whole():
    found = parameters({"depth": 3, "grid": {str(number): "x" * 1000 for number in range(900)}})
    assert list(found) == ["depth", CUT] and found[CUT]["grid"].endswith("bytes left out")


def test_many_small_parameters_are_cut_at_the_end():
    params = {f"parameter {number}": "x" * 50 for number in range(20_000)}
    found = parameters(params)
    assert json_bytes(found) <= MAX_BYTES
    dropped = len(params) - (len(found) - 1) - (len(found[CUT]) - 1)
    assert found[CUT]["others"] == f"{dropped} parameters left out"
    assert len(found) > 2000


def test_numbers_of_32_bits_are_written_as_they_were_meant():
    for value in (0.1, 0.3, 1e-5, 0.123456789, 1e38, 0.0, -2.5, float("inf")):
        assert shortest(float(np.float32(value))) == float(f"{value:.8g}")
    assert math.isnan(shortest(float("nan")))
    assert shortest(1e300) == 1e300
