"""What is found out about a function: its source, only if it is surely the one that runs, and all that it depends on."""

from __future__ import annotations

import functools
import importlib.util
import json
import linecache
import logging
import math
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from seclea.client.lineage.functions import describe_function, is_library
from seclea.client.lineage.sources import source_of
from tests.unit.client import lineage_library

LIMIT = 3
PASSWORD = "canary-4f1d7e90c2"


def load(path: Path, text: str, name: str = "users_module") -> ModuleType:
    """A module of the user's, from a file."""
    path.write_text(textwrap.dedent(text))
    linecache.checkcache(str(path))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fingerprint(func) -> str:
    return describe_function(func).fingerprint


def text_of(func) -> str:
    return source_of(func.__code__).text


def decorated(func):
    @functools.wraps(func)
    def around(*args, **kwargs):
        return func(*args, **kwargs)

    return around


# --- source


def test_a_functions_text_is_its_own_dedented_with_its_decorators():
    @decorated
    def inner(df):
        # a comment
        return df

    wanted = "@decorated\ndef inner(df):\n    # a comment\n    return df"
    assert describe_function(inner).source.text == wanted


def test_two_lambdas_on_one_line_are_told_apart():
    one, other = (lambda x: x + 1), (lambda y: (lambda z: z)(y) * 2)
    assert (text_of(one), text_of(other)) == ("lambda x: x + 1", "lambda y: (lambda z: z)(y) * 2")
    kinds = [describe_function(func).kind for func in (one, decorated, np.log, functools.partial(one, 1), [].append)]
    assert kinds == ["lambda", "function", "compiled", "partial", "compiled"]


def test_a_file_edited_after_it_was_loaded_gives_no_text_and_a_word_why(tmp_path):
    path = tmp_path / "prepare.py"
    module = load(path, "def impute(df):\n    return df.fillna(0)\n")
    assert text_of(module.impute) == "def impute(df):\n    return df.fillna(0)"
    path.write_text("def impute(df):\n    return df.fillna(1)\n")
    linecache.checkcache(str(path))
    source = source_of(module.impute.__code__)
    assert source.text == "" and "edited after it was loaded" in str(source.missing)
    path.unlink()
    linecache.checkcache(str(path))
    assert "its file is not there any more" in str(source_of(module.impute.__code__).missing)


@pytest.mark.parametrize("edit", ["df.fillna(1)", "df.fillna(0.0)", "df.fillna(False)", "df.ffill()", "f.fillna(0)"])
def test_any_edit_of_the_code_is_noticed(tmp_path, edit):
    path = tmp_path / "prepare.py"
    module = load(path, "f = None\ndef impute(df):\n    return df.fillna(0)\n")
    path.write_text(f"f = None\ndef impute(df):\n    return {edit}\n")
    linecache.checkcache(str(path))
    assert source_of(module.impute.__code__).missing is not None


def test_code_without_a_file_has_no_text_and_a_word_why():
    space: dict = {}
    exec("def made(df):\n    return df", space)
    assert "text that Python does not keep (<string>)" in str(source_of(space["made"].__code__).missing)
    found = describe_function(np.log)
    assert "compiled code: its name and version" in str(found.source.missing)
    assert found.qualified_name == "numpy.log"


def test_a_function_of_a_notebook_cell_has_its_text():
    # How IPython makes cells known: compiled under a name that linecache knows.
    text, name = "def clean(df):\n    return df.dropna()\n", "/tmp/ipykernel_1/123.py"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    space: dict = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), space)
    found = describe_function(space["clean"])
    assert found.source.text == text.rstrip("\n") and found.source.file is None
    del linecache.cache[name]


def test_the_place_of_a_file_is_told_without_the_users_directories(tmp_path, monkeypatch):
    module = load(tmp_path / "prepare.py", "def f(df):\n    return df\n")
    assert describe_function(module.f).source.file == "prepare.py"
    monkeypatch.chdir(tmp_path.parent)
    assert describe_function(module.f).source.file == f"{tmp_path.name}/prepare.py"


# --- what it depends on


def outer(limit):
    def keep(df):
        return df[df > limit]

    return keep


def test_the_fingerprint_is_the_same_for_the_same_and_another_for_another_closure_default_or_constant(tmp_path):
    assert fingerprint(outer(1)) == fingerprint(outer(1)) != fingerprint(outer(2))
    assert fingerprint(functools.partial(outer, 1)) != fingerprint(functools.partial(outer, 2))
    texts = ["x + 1", "x + 2", "x + 1.0", "x - 1"]
    seen = [
        fingerprint(load(tmp_path / f"m{n}.py", f"def f(x):\n    return {text}\n").f) for n, text in enumerate(texts)
    ]
    assert len(set(seen)) == len(texts)
    defaults = [load(tmp_path / f"d{n}.py", f"def f(x, k={n}):\n    return x\n") for n in (1, 2)]
    assert fingerprint(defaults[0].f) != fingerprint(defaults[1].f)


def test_a_default_that_can_only_be_named_counts(tmp_path):
    # The text is the same; what stands for the name when the function is made is not.
    texts = [f"K = {k}\ndef f(x, *, k=K):\n    return x\n" for k in (1, 2)]
    one, other = (load(tmp_path / f"k{n}.py", text).f for n, text in enumerate(texts))
    assert text_of(one) == text_of(other) and fingerprint(one) != fingerprint(other)
    assert describe_function(other).captured == [{"where": "default", "name": "k", "value": 2}]


def test_a_decorator_counts_with_what_it_depends_on():
    def times(factor):
        def decorate(func):
            @functools.wraps(func)
            def around(df):
                return func(df) * factor

            return around

        return decorate

    def plain(df):
        return df

    two, three = times(2)(plain), times(3)(plain)
    assert text_of(plain) == describe_function(two).source.text == describe_function(three).source.text
    assert len({fingerprint(plain), fingerprint(two), fingerprint(three)}) == 3


def test_comments_layout_and_docstrings_do_not_count(tmp_path):
    one = load(tmp_path / "one.py", "def f(x):\n    return x + 1\n")
    other = load(tmp_path / "two.py", 'def f(x):\n    """Says."""\n    # why\n    return (x  +  1)\n')
    assert fingerprint(one.f) == fingerprint(other.f)


def test_a_global_that_the_function_reads_counts_and_one_that_it_does_not_read_does_not(tmp_path):
    module = load(tmp_path / "m.py", "RATE = 1\nOTHER = 1\ndef f(x):\n    return [x * RATE for _ in range(2)]\n")
    before = fingerprint(module.f)
    module.OTHER = 2
    assert fingerprint(module.f) == before
    module.RATE = 2
    assert fingerprint(module.f) != before
    assert describe_function(module.f).captured == [{"where": "global", "name": "RATE", "value": 2}]


def test_functions_that_it_calls_count_with_what_they_depend_on(monkeypatch):
    found = describe_function(lineage_library.with_helper)
    assert [one["qualified_name"] for one in found.helpers] == [f"{lineage_library.__name__}.helper"]
    assert found.helpers[0]["source"] == "def helper(value):\n    return value * FACTOR"
    monkeypatch.setattr(lineage_library, "FACTOR", 3)
    assert fingerprint(lineage_library.with_helper) != found.fingerprint


def test_what_is_read_of_a_users_module_counts(monkeypatch):
    def f(df):
        return df * lineage_library.FACTOR

    before = describe_function(f)
    assert {"where": "global", "name": "lineage_library.FACTOR", "value": 2} in before.captured
    monkeypatch.setattr(lineage_library, "FACTOR", 3)
    assert fingerprint(f) != before.fingerprint


def test_recursion_and_functions_that_call_each_other_end():
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    assert fingerprint(even) == fingerprint(even) != fingerprint(odd)


def test_an_object_counts_with_its_class_and_attributes():
    class Scaler:
        def __init__(self, factor):
            self.factor = factor

        def scale(self, df):
            return df * self.factor

        def __call__(self, df):
            return self.scale(df)

    assert fingerprint(Scaler(1).scale) == fingerprint(Scaler(1).scale) != fingerprint(Scaler(2).scale)
    assert fingerprint(Scaler(1)) != fingerprint(Scaler(2))
    assert describe_function(Scaler(1)).kind == "callable"
    assert describe_function(Scaler(1).scale).kind == "method"


def test_a_fitted_transformer_counts_with_what_it_has_learnt():
    from sklearn.preprocessing import StandardScaler

    one, other = (StandardScaler().fit(np.array([[0.0], [end]])) for end in (1.0, 2.0))
    assert fingerprint(one.transform) != fingerprint(other.transform)
    assert describe_function(one.transform).unverifiable == []
    assert "sklearn" in describe_function(one.transform).libraries


def test_tables_and_arrays_count_by_their_content():
    def closing(table):
        return lambda df: df.merge(table)

    frame = pd.DataFrame({"a": [1, 2]})
    assert fingerprint(closing(frame)) == fingerprint(closing(frame.copy())) != fingerprint(closing(frame * 2))
    array = np.arange(1e6)
    changed = array.copy()
    changed[77] += 1
    assert fingerprint(closing(array)) != fingerprint(closing(changed))
    assert len(json.dumps(describe_function(closing(array)).captured)) < 1000


def test_what_cannot_be_compared_is_named_and_does_no_harm():
    lock, log, generator = threading.Lock(), logging.getLogger("x"), (n for n in range(3))
    loop: list = [1]
    loop.append(loop)

    def f(df):
        return df, lock, log, generator, loop, math.nan

    found = describe_function(f)
    assert found.unverifiable == ["generator: builtins.generator", "lock: _thread.lock"]
    assert fingerprint(f) == found.fingerprint
    json.dumps(found.captured, allow_nan=False)
    assert next(generator) == 0  # nothing was drawn from it


def test_an_object_whose_attributes_raise_does_no_harm():
    class Hostile:
        __slots__ = ("x",)

        def __getattr__(self, name):
            raise RuntimeError(name)

        def __eq__(self, other):
            raise RuntimeError

        __hash__ = None

    hostile = Hostile()
    assert describe_function(lambda df: (df, hostile)).unverifiable


def test_secrets_by_their_name_are_withheld():
    api_key, settings = "canary-4f1d7e90c2", type("S", (), {})()
    settings.db_password = "canary-4f1d7e90c2"

    def f(df):
        return df, api_key, PASSWORD, settings

    found = describe_function(f)
    assert "canary" not in json.dumps([found.captured, found.helpers])
    assert {
        "where": "closure",
        "name": "api_key",
        "value": {"__kind__": "withheld", "type": "builtins.str"},
    } in found.captured


def test_libraries_are_told_from_the_users_own():
    assert all(
        is_library(name) for name in ("json", "numpy.linalg", "pandas.core.frame", "seclea.entities", "builtins")
    )
    assert not any(is_library(name) for name in ("__main__", lineage_library.__name__, "no_such_module"))


def test_the_fingerprint_is_the_same_in_every_process(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(
            """
            import numpy as np
            from seclea.client.lineage.functions import describe_function
            NAMES = {"a", "b", "c", "d"}
            class Step:
                def __init__(self): self.k = {"x": {1, 2, 3}, "y": np.arange(3)}
                def go(self, df): return df, NAMES, self.k
            print(describe_function(Step().go).fingerprint, describe_function(lambda df: df[list(NAMES)]).fingerprint)
            """
        )
    )
    seen = {
        subprocess.run(
            [sys.executable, str(script)], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(seen) == 1 and len(seen.pop().split()) == 2
