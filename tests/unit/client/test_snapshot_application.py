"""What a model is for; every row of a framework's own is in test_snapshot_models.py and test_snapshot_keras.py."""

import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.base import ClassifierMixin
from sklearn.cross_decomposition import PLSRegression
from sklearn.datasets import make_classification
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeClassifier

from seclea.client.snapshot.application import APPLICATION_TYPES, application_type

X, Y = make_classification(n_samples=90, n_features=6, n_informative=4, n_classes=3, random_state=0)
TWO = np.c_[Y > 0, Y > 1].astype(int)

BINARY = {"y": {"type": "classification", "classes": [0, 1], "samples": [40, 50]}}
MULTICLASS = {"y": {"type": "classification", "classes": ["a", "b", "c"]}}
MANY = {"y": {"type": "classification", "classes": None}}
REGRESSION = {"y": {"type": "regression", "classes": None}}
TWO_REGRESSION = {"y": {"type": "regression"}, "z": {"type": "regression"}}
TWO_CLASSES = {**BINARY, "z": {"type": "classification", "classes": ["a", "b", "c"]}}
MIXED = {**BINARY, "z": {"type": "regression"}}


@pytest.mark.parametrize(
    ("outputs_info", "expected"),
    [
        (BINARY, "binary"),
        (MULTICLASS, "multiclass"),
        (MANY, "multiclass"),
        (REGRESSION, "regression"),
        (TWO_REGRESSION, "multioutput_regression"),
        (TWO_CLASSES, "multioutput"),
        (MIXED, "multioutput"),
        ({}, "unknown"),
        (None, "unknown"),
        ({"y": {}}, "unknown"),
        ({"y": None}, "unknown"),
        ({"y": {"type": "ordinal"}}, "unknown"),
        ({**BINARY, "z": {}}, "unknown"),
        (["y"], "unknown"),
    ],
)
@pytest.mark.parametrize(
    "model", [None, "ResNet", object(), PCA(), xgboost.Booster()], ids=lambda one: type(one).__name__
)
def test_where_the_model_cannot_say_the_outputs_of_the_data_do(model, outputs_info, expected):
    assert application_type(model, outputs_info) == expected
    assert expected in APPLICATION_TYPES


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: make_pipeline(PCA(), LogisticRegression()).fit(X, Y > 0), "binary"),
        (lambda: GridSearchCV(DecisionTreeClassifier(), {"max_depth": [2]}, cv=2).fit(X, TWO), "multioutput"),
        (lambda: GridSearchCV(OneVsRestClassifier(SVR()), {}, cv=2), "unknown"),
        (lambda: make_pipeline(PCA(), "passthrough").fit(X), "unknown"),
        (lambda: OneVsRestClassifier(LogisticRegression()).fit(X, TWO), "multilabel"),
        (lambda: OneVsRestClassifier(LogisticRegression()).fit(X, Y), "multiclass"),
        (lambda: RidgeClassifier().fit(X, TWO), "multilabel"),
        (lambda: MLPClassifier(3, max_iter=1).fit(X, TWO), "multilabel"),
        (lambda: MLPClassifier(3, max_iter=1).fit(X, Y), "multiclass"),
        (lambda: MultiOutputClassifier(LogisticRegression()).fit(X, np.c_[Y, TWO]), "multioutput"),
        (lambda: MultiOutputClassifier(LogisticRegression()).fit(X, TWO[:, :1]), "binary"),
        (lambda: MultiOutputRegressor(SVR()).fit(X, X[:, :2]), "multioutput_regression"),
        (lambda: LinearRegression().fit(X, X[:, :2]), "multioutput_regression"),
        (lambda: LinearRegression().fit(X, X[:, :1]), "regression"),
        (lambda: PLSRegression(1).fit(X, X[:, 0]), "regression"),
        (lambda: KernelRidge().fit(X, X[:, :3]), "multioutput_regression"),
        (lambda: KernelRidge().fit(X, X[:, 0]), "regression"),
        (lambda: SVR().fit(X, X[:, 0]), "regression"),
        (lambda: KNeighborsRegressor().fit(X, X[:, :2]), "multioutput_regression"),
        (lambda: KNeighborsRegressor().fit(X, X[:, 0]), "regression"),
        (lambda: IsolationForest(n_estimators=2).fit(X), "outlier_detection"),
        (lambda: Ridge(), "regression"),
        (lambda: SGDClassifier(), "unknown"),
        (lambda: xgboost.XGBClassifier(), "unknown"),
        (lambda: xgboost.XGBRegressor(), "regression"),
        (lambda: lightgbm.LGBMClassifier(), "unknown"),
        (lambda: ranker(lightgbm.LGBMRanker, verbose=-1), "unknown"),
        (lambda: ranker(xgboost.XGBRanker), "unknown"),
        (lambda: xgboost.XGBClassifier(n_estimators=1, objective=squares).fit(X, Y > 0), "binary"),
        (lambda: xgboost.XGBClassifier(n_estimators=1, objective="reg:logistic").fit(X, Y > 0), "binary"),
        (lambda: lightgbm.train({"verbose": -1, "objective": light_squares}, lightgbm.Dataset(X, Y > 0), 1), "unknown"),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_model_says_what_it_learnt(make, expected):
    assert application_type(make()) == expected


def ranker(kind, **params):
    return kind(n_estimators=2, n_jobs=1, **params).fit(X, Y, **{"group": [30, 30, 30]})


def squares(truth, predicted):
    return predicted - truth, np.ones_like(predicted)


def light_squares(predicted, data):
    return predicted - data.get_label(), np.ones_like(predicted)


def test_the_model_is_believed_and_the_data_fill_what_it_leaves_open():
    fitted = LogisticRegression().fit(X, Y)
    assert application_type(fitted, BINARY) == application_type(fitted, REGRESSION) == "multiclass"
    assert application_type(LinearRegression().fit(X, Y), MULTICLASS) == "regression"
    for classifier in (SGDClassifier(), xgboost.XGBClassifier(), lightgbm.LGBMClassifier()):
        assert application_type(classifier, BINARY) == "binary"
        assert application_type(classifier, TWO_CLASSES) == "multioutput"
        assert application_type(classifier, REGRESSION) == "unknown"
    assert application_type(Ridge(), TWO_REGRESSION) == "multioutput_regression"
    assert application_type(Ridge(), BINARY) == "regression"


def test_a_model_whose_own_code_fails_is_as_good_as_none():
    class Odd(ClassifierMixin, PCA):
        @property
        def classes_(self):
            raise RuntimeError

    assert application_type(Odd(), BINARY) == "binary"
