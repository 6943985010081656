"""What a run says of itself: and what is odd about its model and its data is said, too."""

from __future__ import annotations

import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from seclea.client.matching import UsedDataset
from seclea.client.run_plan import plan_run
from seclea.entities import Dataset

FRAME = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [0.0, 1.0, 0.0, 1.0]})
LABELS = [0, 1, 0, 1]
ROLES = {"roles": {"X": ["a", "b"], "y": ["t"]}, "features": ["a", "b", "t"]}
TABLE = {"roles": None, "features": ["a", "b", "t"], "outputs": ["t"]}


def remark(model, metadata):
    used = [UsedDataset("uuid", "train", True, metadata)]
    return plan_run("x", {}, {}, used, model).run.metadata.get("features_differ")


@pytest.mark.parametrize("metadata", [ROLES, TABLE])
def test_a_model_that_was_fitted_on_other_features_than_its_train_dataset_has_says_so(metadata):
    whole = LogisticRegression().fit(FRAME, LABELS)
    assert remark(whole, metadata) is None
    assert remark(LogisticRegression().fit(FRAME.to_numpy(), LABELS), metadata) is None
    part = LogisticRegression().fit(FRAME[["a"]], LABELS)
    assert remark(part, metadata) == "the model was fitted on 1 features, its train dataset has 2"
    other = LogisticRegression().fit(FRAME.rename(columns={"b": "c"}), LABELS)
    assert (
        remark(other, metadata)
        == "the model was fitted on 2 features, its train dataset has 2, among them 'c', which is none of it"
    )
    assert "another order" in remark(LogisticRegression().fit(FRAME[["b", "a"]], LABELS), metadata)
    assert remark(LogisticRegression(), metadata) is None  # not fitted: nothing is told
    assert remark("a name", metadata) is None


def test_a_dataset_is_shown_in_one_line():
    dataset = Dataset(
        name="train", digest="f" * 64, metadata={"num_samples": 455, "features": ["a", "b"], "split": "train"}
    )
    assert repr(dataset) == f"Dataset('train', train, 455 rows, 2 columns, digest {'f' * 12}…)"
