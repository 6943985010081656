"""The whole client against a portal that knows the base interface only, in each of the ways that `base_only` describes."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from seclea import DatasetTransformation, SecleaAI
from seclea.entities import Dataset
from tests.contract.base_only import GENERATIONS, BaseOnlyServer
from tests.pipeline import CANARY, PipelineHome, kill, pipeline_home, until

PASSWORD = f"pass-{CANARY}"
EXTENSIONS = {"chunks", "inputs", "dataset_roles", "details", "intermediate", "started_ns", "sha256", "size", "format"}
COLLECTIONS = ("projects", "datasets", "models", "dataset-transformations", "training-runs", "model-states")


def start(data: Path, *arguments: str) -> BaseOnlyServer:
    server = BaseOnlyServer(data, *arguments)
    server.start()
    owner = server.owner()
    owner.post("/internal/organizations", json={"name": "Acme"})
    made = owner.post("/internal/users", json={"name": "ada", "password": PASSWORD, "organization": "Acme"})
    assert made.status_code == 201, made.text
    return server


@pytest.fixture(scope="module", params=GENERATIONS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseOnlyServer]:
    running = start(tmp_path_factory.mktemp("portal") / "data", "--generation", request.param)
    try:
        yield running
    finally:
        running.close()


def drop_empty(df: pd.DataFrame) -> pd.DataFrame:
    return df.dropna()


class Job:
    """A user's script: a table, a step to a cleaned one, a run on both with metrics and two states."""

    def __init__(self, home: PipelineHome, server: BaseOnlyServer, project: str) -> None:
        self.project = project
        self.seclea = SecleaAI(project, "Acme", platform_url=server.url, username="ada", password=PASSWORD)
        self.csv = home.work / "claims.csv"
        self.csv.write_text("claim,paid\n1,2.5\n2,3.5\n3,\n")

    def datasets(self) -> None:
        self.raw = self.seclea.upload_dataset(self.csv, "Claims", metadata={"outputs": ["paid"]})
        self.clean = self.derived()

    def derived(self) -> Dataset:
        """The table without empty rows, by way of a function."""
        frame = pd.read_csv(self.csv)
        step = DatasetTransformation(drop_empty, data_kwargs={"df": frame}, kwargs={}, outputs=["df"])
        return self.seclea.upload_dataset(drop_empty(frame), "Claims - clean", {}, transformations=[step])

    def train(self, name: str | None = None) -> None:
        model = LinearRegression().fit([[1.0], [2.0]], [2.5, 3.5])
        self.run = self.seclea.start_training_run(
            name, params={"fit_intercept": True}, datasets=[self.raw, self.clean], model=model
        )
        for step in range(5):
            self.run.log({"loss": 1 / (step + 1)}, step=step)
        self.run.log_model_state(model, step=0)
        self.run.log_model_state(model, step=4, final=True)
        self.run.finish()

    def all(self, name: str | None = None) -> None:
        self.datasets()
        self.train(name)
        result = self.seclea.complete(timeout=60)
        assert result.done, result.reasons


class Found:
    """What the portal has of a project, seen by its owner."""

    def __init__(self, server: BaseOnlyServer, project: str) -> None:
        self.owner = server.owner()
        (self.project,) = self.owner.get("/collection/projects", params={"name": project}).json()
        lists = (
            self.owner.get(f"/collection/{name}", params={"project": self.project["uuid"]}).json()
            for name in COLLECTIONS[1:]
        )
        self.datasets, self.models, self.steps, self.runs, self.states = lists

    def counts(self) -> dict[str, int]:
        names = ("datasets", "models", "steps", "runs", "states")
        return {name: len(getattr(self, name)) for name in names}

    def check(self, *, runs: int = 1) -> None:
        """Everything is there once, and refers to what it should."""
        assert self.counts() == {"datasets": 2, "models": 1, "steps": 1, "runs": runs, "states": 2 * runs}
        raw, clean = self.datasets
        assert (raw["name"], raw["parent"]) == ("Claims", None)
        assert (clean["name"], clean["parent"], clean["parent_hash"]) == ("Claims - clean", raw["uuid"], raw["hash"])
        assert raw["metadata"]["outputs"] == ["paid"]
        (model,) = self.models
        assert (model["name"], model["framework"]) == ("LinearRegression", "sklearn")
        (step,) = self.steps
        assert (step["name"], step["dataset"]) == ("drop_empty", clean["uuid"])
        assert step["code_raw"] == inspect.getsource(drop_empty).rstrip()
        for run in self.runs:
            assert (run["model"], run["datasets"]) == (model["uuid"], [raw["uuid"], clean["uuid"]])
            assert run["params"] == {"fit_intercept": True}
            states = [state for state in self.states if state["training_run"] == run["uuid"]]
            assert [state["sequence_num"] for state in states] == [0, 1]
        self.project_of_all = {item["project"] for item in (*self.datasets, *self.models, *self.runs, *self.states)}
        assert self.project_of_all == {self.project["uuid"]}


def never_sent(server: BaseOnlyServer) -> None:
    """No header and no field of the extensions went to the portal."""
    asked = server.asked()
    assert asked
    for one in asked:
        assert one["ours"] == [], one
        assert not EXTENSIONS & one["fields"].keys(), one
        assert one["path"].removeprefix("/collection/") in COLLECTIONS, one
        assert "project" in one["query"] or one["path"] == "/collection/projects", one


def test_a_whole_project_arrives_once_with_the_portals_own_references(
    home: PipelineHome, server: BaseOnlyServer, request: pytest.FixtureRequest
) -> None:
    job = Job(home, server, "Whole")
    job.all()
    found = Found(server, "Whole")
    found.check()
    ours = {job.raw.uuid, job.clean.uuid, job.run.uuid}
    theirs = {item["uuid"] for item in (*found.datasets, *found.runs)}
    assert (ours == theirs) is (server.arguments[1] == "newer")
    assert found.runs[0]["name"] == "Training Run 1"
    content = found.owner.get(f"/collection/datasets/{found.datasets[0]['uuid']}/content").content
    assert content == job.csv.read_bytes()
    never_sent(server)


def test_metrics_and_the_end_of_a_run_are_kept_here_and_nothing_is_left(
    home: PipelineHome, server: BaseOnlyServer
) -> None:
    job = Job(home, server, "Kept")
    job.all()
    kept = home.rows("SELECT kind, status, receipt FROM records WHERE kind IN ('metrics', 'finish') ORDER BY kind")
    assert {(kind, status) for kind, status, _ in kept} == {("finish", "Completed"), ("metrics", "Completed")}
    assert [json.loads(receipt) for _, _, receipt in kept] == [{"local_only": True}] * len(kept)
    assert home.steps() == list(range(5)), "the points are still here"
    assert home.rows("SELECT 1 FROM records WHERE status <> 'Completed'") == []
    assert job.seclea.status()["records"]["metrics"] == {"Completed (local only)": len(kept) - 1}
    sent = home.rows("SELECT count(*) FROM records WHERE kind NOT IN ('metrics', 'finish')")
    assert job.seclea.complete(timeout=5).delivered == sent[0][0], "what is kept here is not called delivered"


def test_the_same_script_again_finds_everything_but_makes_its_own_run(
    home: PipelineHome, server: BaseOnlyServer
) -> None:
    Job(home, server, "Twice").all("fit")
    until(lambda: home.sender_pid(), "a sender")
    kill(home.sender_pid())  # the next one remembers nothing
    Job(home, server, "Twice").all("fit")
    found = Found(server, "Twice")
    found.check(runs=2)
    assert [run["name"] for run in found.runs] == ["fit", "fit"]
    with pipeline_home() as elsewhere:  # another machine knows nothing of the first
        Job(elsewhere, server, "Twice").all("fit")
    Found(server, "Twice").check(runs=3)
    never_sent(server)


def test_a_parent_and_a_runs_dataset_that_only_the_portal_has_are_named_as_it_knows_them(
    home: PipelineHome, server: BaseOnlyServer
) -> None:
    first = Job(home, server, "Elsewhere")
    first.raw = first.seclea.upload_dataset(first.csv, "Claims", metadata={"outputs": ["paid"]})
    assert first.seclea.complete(timeout=60).done
    with pipeline_home() as elsewhere:  # which has never recorded the parent
        second = Job(elsewhere, server, "Elsewhere")
        second.clean = second.derived()
        frame = pd.read_csv(second.csv)
        run = second.seclea.start_training_run(params={}, datasets={"train": second.clean, "test": frame})
        run.finish()
        result = second.seclea.complete(timeout=60)
        assert result.done, result.reasons
    found = Found(server, "Elsewhere")
    assert found.counts() == {"datasets": 2, "models": 0, "steps": 1, "runs": 1, "states": 0}
    raw, clean = found.datasets
    assert (clean["name"], clean["parent"]) == ("Claims - clean", raw["uuid"])
    assert found.runs[0]["datasets"] == [clean["uuid"], raw["uuid"]]
    never_sent(server)


def lost(server: BaseOnlyServer) -> list[str]:
    """Where a create was acted upon and not answered."""
    return [one["path"] for one in server.asked() if one["lost"]]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_sender_killed_after_each_kind_of_create_doubles_nothing(
    home: PipelineHome, tmp_path: Path, generation: str
) -> None:
    server = start(tmp_path / "data", "--generation", generation, "--lose-first")
    try:
        job = Job(home, server, "Killed")
        job.datasets()
        job.train()
        for count in range(len(COLLECTIONS)):
            until(lambda count=count: len(lost(server)) > count, f"a reply to be lost after {lost(server)}")  # type: ignore[misc]
            kill(home.sender_pid())  # the portal has acted; nobody here knows
        assert sorted(lost(server)) == sorted(f"/collection/{name}" for name in COLLECTIONS)
        result = job.seclea.complete(timeout=60)
        assert result.done, result.reasons
        Found(server, "Killed").check()
        assert home.rows("SELECT 1 FROM records WHERE status <> 'Completed'") == []
    finally:
        server.close()
