"""Estimators, and what is refused; PyTorch is in test_snapshot_torch.py."""

import hashlib
import pickle
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from seclea.client.snapshot.models import snapshot_model
from seclea.errors import UnknownModelError


@pytest.fixture(scope="module")
def data():
    return make_classification(random_state=0)


def refused(model, directory) -> str:
    with pytest.raises(UnknownModelError) as caught:
        snapshot_model(model, directory)
    assert not directory.exists() or not list(directory.iterdir())
    return str(caught.value)


def test_an_estimator_is_stored_as_an_opaque_pickle(tmp_path, data):
    model = SGDClassifier(random_state=0).fit(*data)
    snapshot = snapshot_model(model, tmp_path)
    raw = snapshot.path.read_bytes()
    assert (snapshot.format, snapshot.framework, snapshot.model_name) == ("pickle", "sklearn", "SGDClassifier")
    assert (snapshot.size, snapshot.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert snapshot.metadata["opaque"] is True and snapshot.metadata["framework_version"]
    assert stat.S_IMODE(snapshot.path.stat().st_mode) == 0o600
    assert raw[:2] == b"\x80\x05"
    assert np.array_equal(pickle.loads(raw).coef_, model.coef_)


def test_a_fitted_pipeline_is_stored(tmp_path, data):
    model = make_pipeline(StandardScaler(), SGDClassifier()).fit(*data)
    assert snapshot_model(model, tmp_path).model_name == "Pipeline"


class Own(SGDClassifier):
    """A user's subclass."""


class Xgb(SGDClassifier):
    """Stands for an estimator of another framework that follows sklearn's interface."""

    __module__ = "xgboost.sklearn"

    def __reduce__(self):
        return (list, ())


def test_subclasses_have_their_own_name_and_the_nearest_framework(tmp_path, data):
    assert snapshot_model(Own().fit(*data), tmp_path).model_name == "Own"
    assert snapshot_model(Own().fit(*data), tmp_path).framework == "sklearn"
    assert snapshot_model(Xgb().fit(*data), tmp_path).framework == "xgboost"


@pytest.mark.parametrize(
    "model", [SGDClassifier(), make_pipeline(StandardScaler(), SGDClassifier())], ids=["one", "pipeline"]
)
def test_an_estimator_that_is_not_fitted_is_refused(tmp_path, model):
    assert "is not fitted: there is no state to record. Call fit or partial_fit first." in refused(model, tmp_path)


def test_what_cannot_be_pickled_leaves_nothing_behind(tmp_path, data):
    assert "cannot be pickled" in refused(FunctionTransformer(lambda x: x).fit(*data), tmp_path)
    model = SGDClassifier().fit(*data)
    model.lock = threading.Lock()
    model.before = np.zeros(10**6)
    assert "cannot pickle '_thread.lock' object" in refused(model, tmp_path)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (object(), "A builtins.object cannot be recorded as a model state. Supported: a fitted scikit-learn estimator"),
        (None, "NoneType"),
        (SGDClassifier, "SGDClassifier is a class, not a model. Pass the trained instance."),
        ({}, "A dict without any tensor"),
        ({"w": np.zeros(3)}, "A dict without any tensor"),
        ("model.pt", "builtins.str"),
    ],
)
def test_other_things_are_refused_with_what_is_supported(tmp_path, model, words):
    assert words in refused(model, tmp_path / "none")


def test_nothing_is_imported_that_the_user_has_not_loaded():
    code = (
        "import sys, tempfile\n"
        "from seclea.client.snapshot import models, tables, torch_state, safetensors, metadata, csvs, digest, canonical\n"
        "from seclea.client import validation\n"
        "try: models.snapshot_model({'w': 1}, tempfile.gettempdir())\n"
        "except TypeError: pass\n"
        "validation.check_metrics({'a': 1})\n"
        "print(sorted({'numpy', 'pandas', 'pyarrow', 'torch', 'sklearn', 'safetensors', 'argparse'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
