"""Lineage through the whole pipeline to a real portal: what scripts in several processes and homes say, and what arrives."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.portal_server import PortalServer, Session, running_portal
from tests.pipeline import PipelineHome, pipeline_home

pytestmark = pytest.mark.timeout(180)

# A whole project, as a user writes it; `SEED` and `PART` may be changed by what stands before it.
PROJECT = """
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from seclea import DatasetTransformation as Step
from seclea import SecleaAI


def table():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(rng.normal(size=(120, 4)), columns=list("abcd")).assign(target=rng.integers(0, 2, 120))
    frame.loc[::9, "a"] = np.nan
    return frame


def impute(df):
    return df.fillna(df.mean())


def scale(df, columns):
    return df.assign(**{name: (df[name] - df[name].mean()) / df[name].std() for name in columns})


def split(df, seed):
    order = np.random.default_rng(seed).permutation(len(df))
    train, test = df.iloc[order[:90]], df.iloc[order[90:]]
    return train.drop(columns="target"), train["target"], test.drop(columns="target"), test["target"]


def steps(raw, outputs, label):
    return [
        Step(impute, {"df": raw}, outputs=["df"]),
        Step(scale, {"df": "inherit"}, {"columns": ["a", "b"]}, outputs=["df"]),
        Step(split, {"df": "inherit"}, {"seed": 7}, outputs=outputs, split=label),
    ]


raw = table()
X_train, y_train, X_test, y_test = split(scale(impute(raw), ["a", "b"]), 7)
TRAIN, TEST = ["X", "y", None, None], [None, None, "X", "y"]
"""

UPLOAD = """
with SecleaAI("Claims", "Acme") as seclea:
    seclea.upload_dataset(raw, "raw", {"outputs": ["target"], "outputs_type": "classification"})
    seclea.upload_dataset_split(X_train, y_train, "train", transformations=steps(raw, TRAIN, "train"))
    seclea.upload_dataset_split(X_test, y_test, "test", transformations=steps(raw, TEST, "test"))
    model = LogisticRegression(C=0.5).fit(X_train, y_train)
    run = seclea.upload_training_run_split(model, X_train, y_train, X_test, y_test, metrics={"accuracy": 0.75})
    result = seclea.complete(60)
    assert result, result.reasons
"""


class Reader:
    """What the portal has of the organization's project, by plain requests."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.organization = session.get("/organization/?name=Acme").json()[0]["uuid"]

    def all(self, path: str, **query: str) -> list[dict[str, Any]]:
        terms = "&".join(f"{key}={value}" for key, value in {"organization": self.organization, **query}.items())
        reply = self._session.get(f"/collection/{path}?{terms}")
        assert reply.status_code == 200, reply.text
        found: list[dict[str, Any]] = reply.json()
        return found

    def by_name(self) -> dict[str, dict[str, Any]]:
        found = self.all("datasets")
        assert len({one["name"] for one in found}) == len(found)
        return {one["name"]: one for one in found}


@pytest.fixture
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalServer]:
    with running_portal(tmp_path_factory.mktemp("portal") / "data") as running:
        yield running


@contextlib.contextmanager
def logged_in(portal: PortalServer) -> Iterator[tuple[PipelineHome, dict[str, str]]]:
    with pipeline_home() as home:
        yield home, {"SECLEA_PLATFORM_URL": portal.url, "SECLEA_USERNAME": "ada", "SECLEA_PASSWORD": "correct horse"}


@pytest.fixture
def reader(portal: PortalServer) -> Reader:
    return Reader(portal.add_member("ada", "Acme"))


def test_a_whole_project_arrives_once_however_often_the_script_runs(portal: PortalServer, reader: Reader) -> None:
    with logged_in(portal) as (home, login):
        home.run(PROJECT, UPLOAD, **login)
        first = reader.by_name()
        assert {name: one["intermediate"] for name, one in first.items()} == {
            "raw": False, "train-impute": True, "train-scale": True, "train": False, "test": False,
        }  # fmt: skip
        parents = {name: one["parent"] for name, one in first.items()}
        ids = {name: one["uuid"] for name, one in first.items()}
        assert parents == {
            "raw": None, "train-impute": ids["raw"], "train-scale": ids["train-impute"],
            "train": ids["train-scale"], "test": ids["train-scale"],
        }  # fmt: skip
        made = {one["dataset"]: one for one in reader.all("dataset-transformations")}
        assert len(made) == 4
        assert {one["name"]: one["inputs"] for one in made.values() if one["dataset"] != ids["test"]} == {
            "impute": [ids["raw"]], "scale": [ids["train-impute"]], "split": [ids["train-scale"]],
        }  # fmt: skip
        assert "order = np.random.default_rng(seed)" in made[ids["train"]]["code_raw"]
        assert made[ids["train"]]["details"]["verdict"] == "reproduced"
        (run,) = reader.all("training-runs")
        assert (run["name"], run["status"], run["params"]["C"]) == ("Training Run 1", "finished", 0.5)
        assert (run["datasets"], run["dataset_roles"]) == ([ids["train"], ids["test"]], ["train", "test"])
        assert run["metadata"]["application_type"] == "binary"
        (state,) = reader.all("model-states", training_run=run["uuid"])
        assert (state["sequence_num"], state["final_state"]) == (0, True)
        home.run(PROJECT, UPLOAD, **login)
        assert reader.by_name() == first
        assert {one["dataset"]: one for one in reader.all("dataset-transformations")} == made
        assert [one["name"] for one in reader.all("training-runs")] == ["Training Run 1", "Training Run 2"]
        assert len(reader.all("models")) == 1
        assert home.rows("SELECT count(*) FROM records WHERE status <> 'Completed'") == [(0,)]


def test_processes_that_go_the_same_way_at_the_same_time_share_it(portal: PortalServer, reader: Reader) -> None:
    """Each makes the intermediate datasets under names of its own; the writer sees that they are the same."""
    half = """
import sys
with SecleaAI("Claims", "Acme") as seclea:
    seclea.upload_dataset(raw, "raw")
    print("ready", flush=True)
    sys.stdin.readline()
    if NAME == "train":
        seclea.upload_dataset_split(X_train, y_train, NAME, transformations=steps(raw, TRAIN, NAME))
    else:
        seclea.upload_dataset_split(X_test, y_test, NAME, transformations=steps(raw, TEST, NAME))
    result = seclea.complete(60)
    assert result, result.reasons
"""
    with logged_in(portal) as (home, login):
        scripts = [home.script(PROJECT, f"NAME = {name!r}", half, **login) for name in ("train", "test")]
        for script in scripts:
            assert script.hear() == "ready"
        for script in scripts:
            script.tell()
        for script in scripts:
            script.end()
        found = reader.by_name()
        assert len(found) == 5 and {"raw", "train", "test"} <= found.keys()
        scaled = {found[name]["parent"] for name in ("train", "test")}
        assert len(scaled) == 1
        assert len(reader.all("dataset-transformations")) == 4
        assert home.rows("SELECT count(*) FROM records WHERE status <> 'Completed' OR hold IS NOT NULL") == [(0,)]


def test_another_machine_goes_on_from_a_dataset_that_only_the_portal_has(portal: PortalServer, reader: Reader) -> None:
    with logged_in(portal) as (home, login):
        home.run(PROJECT, UPLOAD, **login)
    before = reader.by_name()
    with logged_in(portal) as (home, login):
        more = """
def ratio(X, y):
    return X.assign(ratio=X.a / X.b), y
with SecleaAI("Claims", "Acme") as seclea:
    X = X_train.assign(ratio=X_train.a / X_train.b)
    step = Step(ratio, {"X": X_train, "y": y_train})
    seclea.upload_dataset_split(X, y_train, "ratio", transformations=[step])
    model = LogisticRegression().fit(X, y_train)
    seclea.upload_training_run_split(model, X, y_train, X_test, y_test)
    result = seclea.complete(60)
    assert result, result.reasons
"""
        home.run(PROJECT, more, **login)
        found = reader.by_name()
        assert found.keys() - before.keys() == {"ratio"}
        assert found["ratio"]["parent"] == before["train"]["uuid"]
        assert (found["ratio"]["metadata"]["split"], found["ratio"]["metadata"]["outputs"]) == ("train", ["target"])
        run = reader.all("training-runs")[-1]
        assert run["datasets"] == [found["ratio"]["uuid"], before["test"]["uuid"]]
        stranger = """
with SecleaAI("Claims", "Acme") as seclea:
    try:
        seclea.upload_training_run_split(LogisticRegression().fit(X_train, y_train), X_train, y_train, X_test + 1, y_test)
    except Exception as error:
        print(type(error).__name__, error)
"""
        said = home.run(PROJECT, stranger, **login)
        assert said.startswith(
            "UnknownDatasetError The test dataset (30 rows, 5 columns) is no dataset of the project."
        )


CHILD = """
import sys
with SecleaAI("Claims", "Acme") as seclea:
    print("ready", flush=True)
    sys.stdin.readline()
    seclea.upload_dataset(impute(raw), "clean", transformations=[Step(impute, {"df": raw})])
    seclea.upload_dataset(raw.assign(e=1), "more")
    print("handed", flush=True)
    sys.stdin.readline()
    result = seclea.complete(60)
    print(result.done, result.failed, result.held)
"""


def upload_while_the_portal_stands_still(portal: PortalServer, home: PipelineHome, login: dict[str, str]) -> str:
    assert portal.process is not None
    script = home.script(PROJECT, CHILD, **login)
    assert script.hear() == "ready"
    portal.process.send_signal(signal.SIGSTOP)
    try:
        script.tell()
        assert script.hear() == "handed"
    finally:
        portal.process.send_signal(signal.SIGCONT)
    script.tell()
    return script.end().strip()


def test_a_parent_that_could_not_be_asked_for_is_found_when_the_child_is_delivered(
    portal: PortalServer, reader: Reader
) -> None:
    raw = 'seclea = SecleaAI("Claims", "Acme")\nseclea.upload_dataset(raw, "raw")\nassert seclea.complete(60)'
    with logged_in(portal) as (home, login):
        home.run(PROJECT, raw, **login)
    with logged_in(portal) as (home, login):
        assert upload_while_the_portal_stands_still(portal, home, login) == "True 0 0"
    found = reader.by_name()
    assert found["clean"]["parent"] == found["raw"]["uuid"]


def test_a_parent_that_nobody_has_fails_the_child_with_words_and_lets_the_rest_go_on(
    portal: PortalServer, reader: Reader
) -> None:
    with logged_in(portal) as (home, login):
        assert upload_while_the_portal_stands_still(portal, home, login) == "False 1 1"
        (failed,) = home.rows("SELECT error FROM records WHERE status = 'Failed'")
        assert "the portal has no dataset" in failed[0] and "upload that one, and then this one again" in failed[0]
    assert reader.by_name().keys() == {"more"}
