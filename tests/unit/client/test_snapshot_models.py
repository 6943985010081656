"""Estimators and boosters, and what is refused; PyTorch and Keras are in files of their own."""

import hashlib
import math
import os
import pickle
import stat
import subprocess
import sys
import threading

import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from seclea.client.snapshot import files
from seclea.client.snapshot.application import application_type
from seclea.client.snapshot.models import describe_model, snapshot_model
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


class CatBoost:
    """Stands for catboost's base class, which no test environment has: scikit-learn's interface, but not its classes."""

    __module__ = "catboost.core"
    fitted = True

    def is_fitted(self):
        return self.fitted

    def get_params(self, deep=True):
        return {"depth": 4, "deep": deep}


class Cat(CatBoost):
    """A user's subclass."""


def test_subclasses_have_their_own_name_and_the_nearest_framework(tmp_path, data):
    assert snapshot_model(Own().fit(*data), tmp_path).model_name == "Own"
    assert snapshot_model(Own().fit(*data), tmp_path).framework == "sklearn"


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


# ------------------------------------------------------------------------------------------------------------------
# Every framework and kind of model

X, Y = make_classification(n_samples=120, n_features=6, n_informative=4, n_classes=3, random_state=0)
BINARY = np.where(Y > 0, "yes", "no")
TWO = np.c_[Y > 0, Y > 1].astype(int)
REAL = X @ np.arange(6.0)
LGBM = {"n_estimators": 4, "num_leaves": 5, "verbose": -1, "n_jobs": 1}
XGB = {"n_estimators": 4, "max_depth": 2, "n_jobs": 1}


class Forest(RandomForestClassifier):
    """A user's subclass."""


class OwnXgb(xgboost.XGBRegressor):
    """A user's subclass."""


class OwnLgbm(lightgbm.LGBMClassifier):
    """A user's subclass, of a subclass."""


class OwnOwnLgbm(OwnLgbm):
    """A user's subclass, of a subclass."""


class Plain(ClassifierMixin, BaseEstimator):
    """A user's own estimator."""

    def __init__(self, cost=0.5, scorer=len):
        self.cost = cost
        self.scorer = scorer

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, x):
        return np.repeat(self.classes_[:1], len(x))


def xgb_train(y, **params):
    params = {"max_depth": 2, "eta": 0.3, "nthread": 1, **params}
    return xgboost.train(params, xgboost.DMatrix(X, y), 4)


def lgb_train(y, **params):
    params = {"num_leaves": 5, "verbose": -1, "num_threads": 1, **params}
    return lightgbm.train(params, lightgbm.Dataset(X, y), 4)


def columns():
    return ColumnTransformer([("scale", StandardScaler(), [0, 1])], remainder="passthrough")


def search():
    return GridSearchCV(
        make_pipeline(StandardScaler(), SGDClassifier(random_state=0)),
        {"sgdclassifier__alpha": [1e-4, np.float64(0.1)]},
        cv=KFold(3),
    )


# name of the row: make, class, framework, application type, some parameters
KINDS = {
    "sklearn binary": (
        lambda: SGDClassifier(random_state=0).fit(X, BINARY),
        *("SGDClassifier", "sklearn", "binary", {"loss": "hinge", "random_state": 0, "class_weight": None}),
    ),
    "sklearn multiclass": (
        lambda: RandomForestClassifier(3, class_weight={0: 1.0, 1: 2.0, 2: 1.5}).fit(X, Y),
        *("RandomForestClassifier", "sklearn", "multiclass", {"class_weight": {0: 1.0, 1: 2.0, 2: 1.5}}),
    ),
    "sklearn multioutput": (
        lambda: RandomForestClassifier(3).fit(X, np.c_[Y, TWO]),
        *("RandomForestClassifier", "sklearn", "multioutput", {"n_estimators": 3}),
    ),
    "sklearn regression": (
        lambda: LinearRegression().fit(X, REAL),
        *("LinearRegression", "sklearn", "regression", {"fit_intercept": True}),
    ),
    "sklearn multioutput regression": (
        lambda: RandomForestRegressor(3).fit(X, X[:, :2]),
        *("RandomForestRegressor", "sklearn", "multioutput_regression", {"criterion": "squared_error"}),
    ),
    "sklearn clustering": (
        lambda: KMeans(2, n_init=1).fit(X),
        *("KMeans", "sklearn", "clustering", {"n_clusters": 2}),
    ),
    "sklearn pipeline": (
        lambda: make_pipeline(columns(), SGDClassifier(alpha=0.01)).fit(X, Y),
        *("Pipeline", "sklearn", "multiclass"),
        {
            "steps": [["columntransformer", "ColumnTransformer"], ["sgdclassifier", "SGDClassifier"]],
            "sgdclassifier": "SGDClassifier",
            "sgdclassifier__alpha": 0.01,
            "columntransformer__scale__with_mean": True,
            "columntransformer__transformers": [["scale", "StandardScaler", [0, 1]]],
        },
    ),
    "sklearn search": (
        lambda: search().fit(X, BINARY),
        *("GridSearchCV", "sklearn", "binary"),
        {
            "estimator": "Pipeline",
            "estimator__sgdclassifier__penalty": "l2",
            "param_grid": {"sgdclassifier__alpha": [1e-4, 0.1]},
            "cv": "KFold(n_splits=3, random_state=None, shuffle=False)",
        },
    ),
    "sklearn subclass": (
        lambda: Forest(3).fit(X, Y),
        *("Forest", "sklearn", "multiclass", {"n_estimators": 3}),
    ),
    "sklearn own estimator": (
        lambda: Plain().fit(X, BINARY),
        *("Plain", "sklearn", "binary", {"cost": 0.5, "scorer": "builtins.len"}),
    ),
    "sklearn around xgboost": (
        lambda: make_pipeline(StandardScaler(), xgboost.XGBClassifier(**XGB)).fit(X, Y),
        *("Pipeline", "sklearn", "multiclass", {"xgbclassifier": "XGBClassifier", "xgbclassifier__max_depth": 2}),
    ),
    "xgboost classifier": (
        lambda: xgboost.XGBClassifier(**XGB).fit(X, Y > 0),
        *("XGBClassifier", "xgboost", "binary", {"max_depth": 2, "n_estimators": 4}),
    ),
    "xgboost multiclass": (
        lambda: xgboost.XGBClassifier(**XGB).fit(X, Y),
        *("XGBClassifier", "xgboost", "multiclass", {"objective": "multi:softprob"}),
    ),
    "xgboost multilabel": (
        lambda: xgboost.XGBClassifier(**XGB).fit(X, TWO),
        *("XGBClassifier", "xgboost", "multilabel", {"objective": "binary:logistic"}),
    ),
    "xgboost multioutput regression": (
        lambda: xgboost.XGBRegressor(**XGB).fit(X, X[:, :2]),
        *("XGBRegressor", "xgboost", "multioutput_regression", {"objective": "reg:squarederror"}),
    ),
    "xgboost subclass": (
        lambda: OwnXgb(**XGB).fit(X, REAL),
        *("OwnXgb", "xgboost", "regression", {"max_depth": 2}),
    ),
    "xgboost booster binary": (
        lambda: xgb_train(Y > 0, objective="binary:logistic"),
        *("Booster", "xgboost", "binary"),
        {"objective": "binary:logistic", "eta": 0.3, "max_depth": 2, "booster": "gbtree", "num_boost_round": 4},
    ),
    "xgboost booster multiclass": (
        lambda: xgb_train(Y, objective="multi:softmax", num_class=3, subsample=0.7),
        *("Booster", "xgboost", "multiclass", {"num_class": 3, "subsample": 0.7, "eval_metric": ["mlogloss"]}),
    ),
    "xgboost booster regression": (
        lambda: xgb_train(REAL, booster="dart", rate_drop=0.1),
        *("Booster", "xgboost", "regression", {"booster": "dart", "rate_drop": 0.1, "objective": "reg:squarederror"}),
    ),
    "lightgbm classifier": (
        lambda: lightgbm.LGBMClassifier(**LGBM).fit(X, BINARY),
        *("LGBMClassifier", "lightgbm", "binary", {"num_leaves": 5, "n_estimators": 4}),
    ),
    "lightgbm regression": (
        lambda: lightgbm.LGBMRegressor(**LGBM, objective="mae").fit(X, REAL),
        *("LGBMRegressor", "lightgbm", "regression", {"objective": "mae"}),
    ),
    "lightgbm subclass": (
        lambda: OwnOwnLgbm(**LGBM).fit(X, Y),
        *("OwnOwnLgbm", "lightgbm", "multiclass", {"num_leaves": 5}),
    ),
    "lightgbm booster binary": (
        lambda: lgb_train(Y > 0, objective="binary"),
        *("Booster", "lightgbm", "binary", {"objective": "binary", "num_leaves": 5}),
    ),
    "lightgbm booster multiclass": (
        lambda: lgb_train(Y, application="softmax", num_classes=3),
        *("Booster", "lightgbm", "multiclass", {"num_leaves": 5}),
    ),
    "lightgbm booster regression": (
        lambda: lgb_train(REAL),
        *("Booster", "lightgbm", "regression", {"num_leaves": 5, "num_iterations": 4}),
    ),
}


def predictions(model):
    """What a model says of X, wrapper or booster; of lightgbm's the numbers, which its labels are made from."""
    if isinstance(model, xgboost.Booster):
        return model.predict(xgboost.DMatrix(X))
    if isinstance(model, lightgbm.LGBMModel):
        model = model.booster_
    return model.predict(X)


def loaded(snapshot, model):
    """The stored model, as its framework reads it."""
    if snapshot.format == "pickle":
        return pickle.loads(snapshot.path.read_bytes())
    if snapshot.format == "lightgbm-text":
        return lightgbm.Booster(model_str=snapshot.path.read_text())
    assert snapshot.format == "xgboost-ubj"
    assert predictions(xgboost.Booster(model_file=snapshot.path)).shape[0] == len(X)
    empty = type(model)()
    empty.load_model(snapshot.path)
    return empty


@pytest.mark.parametrize("row", KINDS)
def test_every_kind_of_model_is_described_and_stored_so_that_its_framework_reads_it(tmp_path, row):
    make, name, framework, application, params = KINDS[row]
    model = make()
    described = describe_model(model)
    assert (described.name, described.framework) == (name, framework)
    assert described.qualified_name == f"{type(model).__module__}.{type(model).__qualname__}"
    assert described.framework_version == sys.modules[framework].__version__
    assert {key: described.params.get(key, "none") for key in params} == params
    assert application_type(model) == application

    before = predictions(model)
    snapshot = snapshot_model(model, tmp_path)
    assert (snapshot.model_name, snapshot.framework) == (name, framework)
    assert snapshot.metadata["class"] == described.qualified_name
    assert snapshot.metadata["framework_version"] == described.framework_version
    assert list(tmp_path.iterdir()) == [snapshot.path]
    assert stat.S_IMODE(snapshot.path.stat().st_mode) == 0o600
    raw = snapshot.path.read_bytes()
    assert (snapshot.size, snapshot.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert np.array_equal(predictions(loaded(snapshot, model)), before)
    assert np.array_equal(predictions(model), before)


def test_the_wrapper_of_a_booster_says_what_the_booster_does_not_know(tmp_path):
    model = lightgbm.LGBMClassifier(**LGBM).fit(X, BINARY)
    snapshot = snapshot_model(model, tmp_path)
    assert snapshot.metadata["classes_"] == ["no", "yes"]
    assert snapshot.metadata["n_features_in_"] == 6 and snapshot.metadata["trees"] == 4
    labels = np.array(snapshot.metadata["classes_"])
    chosen = (loaded(snapshot, model).predict(X) > 0.5).astype(int)
    assert np.array_equal(labels[chosen], model.predict(X))
    snapshot = snapshot_model(xgboost.XGBClassifier(**XGB).fit(X, Y), tmp_path)
    assert snapshot.metadata["n_classes_"] == 3 and snapshot.metadata["rounds"] == 4


def test_training_that_stopped_early_predicts_the_same_from_the_file(tmp_path):
    other = np.random.default_rng(0).permutation(Y)
    gradient = xgboost.XGBClassifier(n_estimators=30, early_stopping_rounds=3, n_jobs=1)
    gradient.fit(X, Y, eval_set=[(X, other)], verbose=False)
    train = lightgbm.Dataset(X, Y)
    light = lightgbm.train(
        {"objective": "multiclass", "num_class": 3, "num_leaves": 5, "verbose": -1, "num_threads": 1},
        train,
        30,
        valid_sets=[lightgbm.Dataset(X, other, reference=train)],
        callbacks=[lightgbm.early_stopping(3, verbose=False)],
        keep_training_booster=True,  # else it drops what came after the best by itself
    )
    for model, best in ((gradient, gradient.best_iteration), (light, light.best_iteration)):
        snapshot = snapshot_model(model, tmp_path)
        assert snapshot.metadata["best_iteration"] == best < 29
        assert np.array_equal(predictions(loaded(snapshot, model)), predictions(model))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: xgboost.XGBClassifier(), "The XGBClassifier is not fitted: there is no state to record."),
        (lambda: lightgbm.LGBMRegressor(), "The LGBMRegressor is not fitted: there is no state to record."),
        (lambda: xgboost.Booster(), "The Booster has no trees yet. Train it first"),
        (lambda: lightgbm.Booster({"verbose": -1}, lightgbm.Dataset(X, REAL)), "The Booster has no trees yet."),
        (lambda: search(), "The GridSearchCV is not fitted"),
        (lambda: make_pipeline(columns(), KMeans()), "The Pipeline is not fitted"),
        (lambda: xgboost.XGBClassifier, "XGBClassifier is a class, not a model."),
        (lambda: lightgbm.Booster, "Booster is a class, not a model."),
    ],
)
def test_a_model_without_a_state_is_refused_but_described(tmp_path, make, words):
    model = make()
    assert words in refused(model, tmp_path)
    if not isinstance(model, type):
        assert describe_model(model).name == type(model).__name__


def test_a_full_disk_is_no_fault_of_the_model_and_nothing_is_left(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.PayloadFile, "write", full)
    for row in ("sklearn binary", "xgboost subclass", "xgboost booster binary", "lightgbm subclass"):
        with pytest.raises(OSError, match="No space left") as caught:
            snapshot_model(KINDS[row][0](), tmp_path)
        assert not isinstance(caught.value, UnknownModelError)
    assert not list(tmp_path.iterdir())


def test_estimators_like_catboosts_are_recorded_without_being_sklearns(tmp_path):
    model = Cat()
    described = describe_model(model)
    assert (described.name, described.framework) == ("Cat", "catboost")
    assert described.params == {"depth": 4, "deep": True}
    assert snapshot_model(model, tmp_path / "a").format == "pickle"
    model.fitted = False
    assert "The Cat is not fitted" in refused(model, tmp_path / "b")


def test_a_long_name_is_cut_and_the_whole_one_is_kept():
    kind = type("Long" * 40, (SGDClassifier,), {})
    described = describe_model(kind())
    assert len(described.name) == 100 and described.name.startswith("LongLong")
    assert described.qualified_name.endswith("." + "Long" * 40)


def test_parameters_that_a_model_cannot_tell_do_not_stop_the_training():
    class Odd(SGDClassifier):
        def get_params(self, deep=True):
            raise RuntimeError("no parameters today\nStack trace: …")

    assert describe_model(Odd()).params == {"unavailable": "RuntimeError: no parameters today"}


def test_what_is_not_set_is_left_out_for_xgboost_and_nan_stays():
    params = describe_model(xgboost.XGBRegressor(max_depth=3, objective=np.hypot)).params
    assert None not in params.values()
    assert math.isnan(params["missing"]) and params["objective"] == "numpy.hypot"


@pytest.mark.parametrize("umask", [0o000, 0o277])
def test_a_file_that_a_library_writes_itself_is_private_hashed_and_gone_after_an_error(tmp_path, umask):
    before = os.umask(umask)
    try:
        with files.PayloadPath(tmp_path, ".bin") as file:
            assert stat.S_IMODE(file.path.stat().st_mode) & 0o077 == 0
            file.path.unlink()  # as libraries do that write beside it and rename
            file.path.write_bytes(b"other")
            file.path.chmod(0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert (file.size, file.sha256) == (5, hashlib.sha256(b"other").hexdigest())
    for damage in (lambda path: path.unlink(), lambda path: (path.unlink(), path.symlink_to("/etc/hostname"))):
        with pytest.raises(OSError), files.PayloadPath(tmp_path, ".bin") as other:
            damage(other.path)
        assert list(tmp_path.iterdir()) == [file.path]
    with pytest.raises(KeyboardInterrupt), files.PayloadPath(tmp_path, ".bin"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [file.path]


# ------------------------------------------------------------------------------------------------------------------


def test_recording_an_estimator_loads_no_other_framework(tmp_path):
    code = (
        "import sys\n"
        "from sklearn.linear_model import LinearRegression\n"
        "before = set(sys.modules)\n"
        "from seclea.client.snapshot.application import application_type\n"
        "from seclea.client.snapshot.models import describe_model, snapshot_model\n"
        "model = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])\n"
        "assert describe_model(model).framework == 'sklearn'\n"
        "assert application_type(model) == 'regression'\n"
        "assert snapshot_model(model, sys.argv[1]).size\n"
        "roots = {name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print(sorted(roots))"
    )
    found = subprocess.check_output([sys.executable, "-c", code, str(tmp_path)], text=True)
    assert found.strip() == "['seclea']"


def test_nothing_is_imported_that_the_user_has_not_loaded():
    code = (
        "import sys, tempfile\n"
        "from seclea.client.snapshot import application, models, tables, torch_state, metadata, csvs, digest, canonical\n"
        "from seclea.client import validation\n"
        "try: models.snapshot_model({'w': 1}, tempfile.gettempdir())\n"
        "except TypeError: pass\n"
        "validation.check_metrics({'a': 1})\n"
        "others = {'numpy', 'pandas', 'pyarrow', 'torch', 'sklearn', 'xgboost', 'lightgbm', 'keras', 'safetensors'}\n"
        "print(sorted((others | {'argparse'}) & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
