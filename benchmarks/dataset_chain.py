"""What does recording a chain of transformations cost, beside the functions themselves?

    python -m benchmarks dataset_chain [--rows 1000000] [--runs 3]

A table of 20 columns (16 of fractions, 2 of whole numbers, one of texts, one label) goes through five functions: impute, drop
correlated, scale, encode, split. In each of several fresh processes: the five alone, then `upload_dataset` with the five as
transformations (which runs them again, digests and stores every step). Memory is the peak of the process's resident set
above what it was before, in copies of the raw table. A copy is timed, too, with the machine's own memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import describe


def table(rows: int) -> Any:
    """The raw table."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"x{number}": rng.normal(size=rows) for number in range(16)})
    frame["x15"] = frame["x14"] * 2 + rng.normal(size=rows) / 100
    frame["visits"], frame["age"] = rng.integers(0, 1000, rows), rng.integers(18, 90, rows)
    frame["kind"] = rng.choice(["a", "b", "c"], rows)
    frame["target"] = rng.integers(0, 2, rows)
    frame.loc[rng.integers(0, rows, rows // 100), "x0"] = np.nan
    return frame


def impute(df: Any) -> Any:
    """Missing numbers by the median."""
    return df.fillna(df.median(numeric_only=True))


def drop_correlated(df: Any, limit: float) -> Any:
    """Of two columns that say the same, the second goes."""
    import numpy as np

    found = df.drop(columns="target").corr(numeric_only=True).abs()
    upper = found.where(np.triu(np.ones(found.shape, dtype=bool), k=1))
    return df.drop(columns=[name for name in upper if (upper[name] > limit).any()])


def scale(df: Any) -> Any:
    """Fractions to mean 0 and deviation 1."""
    names = [name for name in df if name.startswith("x")]
    return df.assign(**{name: (df[name] - df[name].mean()) / df[name].std() for name in names})


def encode(df: Any) -> Any:
    """Texts to numbers."""
    return df.assign(kind=df["kind"].map({"a": 0, "b": 1, "c": 2}))


def split(df: Any, seed: int) -> Any:
    """Four fifths, shuffled."""
    import numpy as np

    return df.iloc[np.random.default_rng(seed).permutation(len(df))[: len(df) * 4 // 5]]


def run_alone(df: Any) -> Any:
    """The five functions, as a user calls them."""
    return split(encode(scale(drop_correlated(impute(df), 0.95))), 1)


def measured(call: Callable[[], Any]) -> tuple[Any, float, int]:
    """(result, seconds, bytes of resident memory at the peak above those before)."""
    import time

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, began = _status("VmRSS"), time.perf_counter()
    result = call()
    return result, time.perf_counter() - began, _status("VmHWM") - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def child(rows: int) -> None:
    """One process of the benchmark."""
    from seclea import DatasetTransformation as Step
    from seclea import SecleaAI

    raw = table(rows)
    size = int(raw.memory_usage(index=False, deep=True).sum())
    with SecleaAI("benchmark", platform_url="http://127.0.0.1:9", settings={"limits": {"memory": "4GB"}}) as seclea:
        seclea.upload_dataset(raw, "raw", {"outputs": ["target"]})
        seclea.flush(120)
        run_alone(raw)  # a first run pays for imports
        _, copy_seconds, _ = measured(lambda: raw.copy(deep=True))
        final, alone_seconds, alone_bytes = measured(lambda: run_alone(raw))
        steps = [
            Step(impute, {"df": raw}),
            Step(drop_correlated, {"df": "inherit"}, {"limit": 0.95}),
            Step(scale, {"df": "inherit"}),
            Step(encode, {"df": "inherit"}),
            Step(split, {"df": "inherit"}, {"seed": 1}, split="train"),
        ]
        _, upload_seconds, upload_bytes = measured(lambda: seclea.upload_dataset(final, "train", transformations=steps))
        _, plain_seconds, _ = measured(lambda: seclea.upload_dataset(final, "train as a table"))
    print(
        json.dumps(
            {
                "copy": copy_seconds,
                "alone": alone_seconds,
                "upload": upload_seconds,
                "plain": plain_seconds,
                "alone_copies": alone_bytes / size,
                "upload_copies": upload_bytes / size,
                "megabytes": size / 1e6,
            }
        )
    )


def main(arguments: list[str]) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks dataset_chain")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args(arguments)
    print(describe("pandas", "pyarrow", "numpy"))
    results = []
    for _ in range(options.runs):
        home = tempfile.mkdtemp(prefix="seclea-bench-")
        environment = {**os.environ, "SECLEA_HOME": home}
        try:
            code = f"from benchmarks.dataset_chain import child; child({options.rows})"
            done = subprocess.run(
                [sys.executable, "-c", code],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                timeout=600,
            )
            results.append(json.loads(done.stdout.splitlines()[-1]))
        finally:
            subprocess.run([sys.executable, "-m", "seclea", "stop"], env=environment, check=False, capture_output=True)
            shutil.rmtree(home, ignore_errors=True)

    def row(what: str, key: str, unit: str) -> None:
        values = [result[key] for result in results]
        print(f"  {what:<44} {statistics.median(values):8.2f} {unit:<7} ({min(values):.2f} to {max(values):.2f})")

    row("the raw table in memory", "megabytes", "MB")
    row("one copy of it", "copy", "s")
    row("five functions alone", "alone", "s")
    row("upload_dataset with them as five steps", "upload", "s")
    row("upload_dataset of the result without them", "plain", "s")
    row("peak memory, functions alone", "alone_copies", "copies")
    row("peak memory, upload with the steps", "upload_copies", "copies")
    ratios = [result["upload"] / (2 * result["alone"] + result["copy"]) for result in results]
    plain = [result["upload"] / result["alone"] for result in results]
    print(f"  upload / functions: {statistics.median(plain):.2f} ({min(plain):.2f} to {max(plain):.2f})")
    print(
        f"  upload / (2 x functions + one copy): {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    return 0
