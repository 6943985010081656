"""The demo's data: scikit-learn's breast-cancer table with holes in it, and the steps from there to train and test.

Plain functions, as anybody would write them; `seclea.cli.demo` names them to seclea, which runs them again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

TARGET = "target"
SEED = 7
THRESHOLD = 0.9  # of a correlation from which on one column says what another one does
TEST_PART = 0.2
HOLES = 0.02  # part of the measurements that are taken out, so that there is something to impute


def write_table(path: Path) -> None:
    """The table as a CSV file: 569 rows, 30 measurements of which some are missing, one label."""
    frame = load_breast_cancer(as_frame=True).frame
    measured = frame.columns.drop(TARGET)
    holes = np.random.default_rng(SEED).random((len(frame), len(measured))) < HOLES
    frame[measured] = frame[measured].mask(holes)
    frame.to_csv(path, index=False)


def impute(df: Any) -> Any:
    """Each missing measurement becomes the median of its column."""
    return df.fillna(df.median())


def drop_correlated(df: Any, threshold: float) -> Any:
    """Leave out each measurement that goes along with one before it."""
    related = df.drop(columns=TARGET).corr().abs()
    kept: list[str] = []
    for name in related:
        if all(related.loc[name, other] <= threshold for other in kept):
            kept.append(name)
    return df[[*kept, TARGET]]


def scale(df: Any) -> Any:
    """Mean 0 and deviation 1 for every measurement."""
    measured = df.drop(columns=TARGET)
    return ((measured - measured.mean()) / measured.std()).assign(**{TARGET: df[TARGET]})


def split(df: Any, seed: int, test_part: float) -> tuple[Any, Any, Any, Any]:
    """X and y to train on, X and y to test on: rows by chance, both labels in the same proportion."""
    train, test = train_test_split(df, test_size=test_part, random_state=seed, stratify=df[TARGET])
    return train.drop(columns=TARGET), train[TARGET], test.drop(columns=TARGET), test[TARGET]


def prepared(csv: str | Path) -> tuple[Any, tuple[Any, Any, Any, Any]]:
    """The table as it stands in the file, and what the steps make of it."""
    raw = pd.read_csv(csv)
    return raw, split(scale(drop_correlated(impute(raw), THRESHOLD)), SEED, TEST_PART)
