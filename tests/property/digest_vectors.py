"""Frames whose digests are written down: `python tests/property/digest_vectors.py` prints them as JSON.

`digest_vectors.json` beside it holds what pandas 2.2 and pandas 3 computed. It needs seclea, pandas, numpy and pyarrow only, so
it runs in a throw-away environment with another pandas too (`PYTHONPATH=. python tests/property/digest_vectors.py --write`).
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import platform
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from seclea.client.snapshot.content import to_arrow
from seclea.client.snapshot.digest import content_digest

FILE = Path(__file__).with_suffix(".json")
TEXTS = ["a", None, "", "é", "e\u0301", "a"]
DAYS = ["2024-01-31", None, "1969-12-31", "2024-02-29", "1700-01-01", "2199-12-31"]


def frames() -> dict[str, pd.DataFrame]:
    """By name. Made anew at each call."""
    found: dict[str, pd.DataFrame] = {}

    def column(name: str, values: object) -> None:
        found[name] = pd.DataFrame({"x": values})

    for kind in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"):
        edges = np.array([0, 1, np.iinfo(kind).min, np.iinfo(kind).max], kind)
        column(kind, edges)
        column(f"nullable {kind}", pd.array([*edges.tolist(), None], dtype=kind.replace("u", "U").replace("i", "I")))
    for kind in ("float16", "float32", "float64"):
        column(kind, np.array([0.0, -0.0, 0.1, np.nan, np.inf, -np.inf, 5e-8], kind))
    column("nullable float64", pd.array([0.5, None, -0.0], dtype="Float64"))
    column("bool", [True, False])
    column("nullable bool", pd.array([True, None, False], dtype="boolean"))
    column("text", TEXTS)
    column("text as objects", pd.Series(TEXTS, dtype=object))
    column("text as string", pd.Series(TEXTS, dtype="string"))
    column("text as str", pd.Series([text or "" for text in TEXTS], dtype="str"))
    column("only missing objects", pd.Series([None, None], dtype=object))
    column("categories", pd.Categorical(TEXTS))
    column("ordered categories", pd.Categorical(["b", "a", None], categories=["z", "b", "a"], ordered=True))
    column("categories of numbers", pd.Categorical([3, None, 1, 3]))
    column("categories of times", pd.Categorical(pd.to_datetime(["2024-01-01", "2024-01-02"])))
    column("times from text", pd.to_datetime(pd.Series(DAYS)))
    column("times from Python", [dt.datetime(2024, 1, 2, 3, 4, 5, 6), None])
    column("times with nanoseconds", pd.Series([pd.Timestamp(1_700_000_000_123_456_789), pd.NaT]))
    column("times in UTC", pd.to_datetime(pd.Series(DAYS), utc=True))
    column("times in Berlin", pd.date_range("2024-10-26", periods=4, freq="D", tz="Europe/Berlin"))
    column("times with an offset", pd.to_datetime(pd.Series(["2024-01-01T00:00+05:30"])))
    for unit in ("s", "ms", "us", "ns"):
        column(f"times in {unit}", np.array(["1969-12-31T23:59:59", "NaT", "2024-01-01"], f"datetime64[{unit}]"))
        column(f"durations in {unit}", np.array([1, -1, 10**6], f"timedelta64[{unit}]"))
    column("durations from Python", [dt.timedelta(days=-1, microseconds=1), None])
    column("durations", pd.to_timedelta(["1s", None, "-1 day"]))
    column("dates", [dt.date(2024, 2, 29), None, dt.date(1, 1, 1)])
    column("times of day", [dt.time(1, 2, 3, 4), None])
    column("decimals", [decimal.Decimal("1.50"), None, decimal.Decimal("-100")])
    column("bytes", [b"a", None, b""])
    column("lists", [[1, None], None, []])
    column("arrays", [np.array([0.5, np.nan]), np.array([])])
    column("dicts", [{"a": 1, "b": "x"}, None, {"a": None}])
    column("periods", pd.period_range("2024-01", periods=3, freq="M"))
    column("intervals", pd.interval_range(0, 3))
    column("intervals of times", pd.interval_range(pd.Timestamp("2024-01-01"), periods=2, freq="D"))
    column("Arrow text", pd.Series(TEXTS, dtype=pd.ArrowDtype(pa.large_string())))
    column("Arrow decimals", pd.Series([decimal.Decimal("1.5"), None], dtype=pd.ArrowDtype(pa.decimal128(20, 3))))
    column("sparse", pd.arrays.SparseArray([0.0, 0.0, 1.5]).to_dense())

    two = pd.DataFrame({"n": [1, 2, 3], "s": ["a", "b", "c"]})
    found["default index"] = two
    found["index from 1"] = two.set_axis(range(1, 4))
    found["filtered"] = two[two["n"] > 1]
    found["sorted"] = two.sort_values("n", ascending=False)
    found["named index"] = two.rename_axis("id")
    found["index named by a number"] = two.rename_axis(0)
    found["text index"] = two.set_index("s")
    found["index of times"] = two.set_index(pd.date_range("2024-01-01", periods=3, freq="h"))
    found["index of categories"] = two.set_index(pd.CategoricalIndex(["x", "y", "x"], name="c"))
    found["two levels"] = two.assign(v=[0.5, 1.5, 2.5]).set_index(["n", "s"], append=True)
    found["two default levels"] = two.set_index(pd.MultiIndex.from_arrays([range(3), range(3)]))
    found["two levels of columns"] = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "x"), ("a", "y")]))
    found["numbers as names"] = pd.DataFrame([[1, 2]])
    found["mixed names"] = pd.DataFrame([[1, 2, 3]], columns=["a", 1, ("t", 2)])
    found["grouped"] = pd.DataFrame({"g": ["x", "y", "x"], "v": [1.0, 2.0, 4.0]}).groupby("g").mean()
    found["dummies"] = pd.get_dummies(pd.DataFrame({"c": ["x", "y"]}))
    found["a wide one"] = pd.DataFrame({f"c{number}": np.arange(3) * number for number in range(50)})
    return found


def digests() -> dict[str, str]:
    return {name: content_digest(to_arrow(frame)[0]) for name, frame in frames().items()}


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(), "pandas": pd.__version__, "numpy": np.__version__, "pyarrow": pa.__version__
    }  # fmt: skip


def main() -> None:
    found = digests()
    if "--write" in sys.argv:
        known = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {"computed with": [], "digests": found}
        if known["digests"] != found:
            names = known["digests"].keys() | found.keys()
            sys.exit(f"other digests: {sorted(n for n in names if known['digests'].get(n) != found.get(n))}")
        if versions() not in known["computed with"]:
            known["computed with"].append(versions())
        FILE.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
