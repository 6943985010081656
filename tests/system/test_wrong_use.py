"""Wrong use is an error at the call: of the right class, naming the thing, its state and the way out."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sklearn.linear_model import LogisticRegression

from seclea import DatasetTransformation, SecleaAI, TrainingRun
from seclea.errors import (
    ConfigurationError,
    DatasetNotFoundError,
    DuplicateError,
    MetricError,
    RunFinishedError,
    TooLargeError,
    UnknownDatasetError,
    UnknownModelError,
    UsageError,
)
from tests.pipeline import PipelineHome, pipeline_home, until


@pytest.fixture(scope="module")
def home() -> Iterator[PipelineHome]:
    """One for all: what is refused leaves nothing behind."""
    with pipeline_home() as made:
        yield made


@pytest.fixture(scope="module")
def client(home: PipelineHome) -> SecleaAI:
    return SecleaAI("Claims")


@pytest.fixture
def run(client: SecleaAI) -> TrainingRun:
    return client.start_training_run("the run")


def refused(kind: type[Exception], call: Any, *words: str) -> None:
    """``call`` raises exactly this class, and its message has all these words."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{caught.value} does not say {missing}"


def taken_over(home: PipelineHome) -> None:
    """Wait until the writer has taken over what tests before left to it."""
    until(lambda: not list(home.home.incoming.iterdir()), "the payloads of other tests to be taken over")


# --- metrics


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"loss": "0.3"}, ("'loss'", "a str", "not a number", "float(...)")),
        ({"loss": None}, ("'loss'", "None", "not a number", 'float("nan")')),
        ({"ok": 1.0, "loss": {"train": 0.3}}, ("'loss'", "a dict", "names of their own", "loss/train")),
        ({"loss": [0.3, 0.4]}, ("'loss'", "a list", "its mean")),
        ({"loss": 1j}, ("'loss'", "complex", "abs(value)")),
        ({"loss": 10**400}, ("'loss'", "too large", "logarithm")),
        ({3: 0.3}, ("must be text", "3 (int)", "Use '3'")),
        ({"\ud800": 0.3}, ("cannot be the name of a metric", "1 to 1000 characters")),
        ({"x" * 2000: 0.3}, ("cannot be the name of a metric", "1 to 1000 characters")),
        ({"": 0.3}, ("cannot be the name of a metric", "1 to 1000 characters")),
        ([("loss", 0.3)], ("list",)),
        (None, ("NoneType",)),
    ],
)
def test_a_metric_that_is_no_number_under_a_name_is_refused(run: TrainingRun, metrics: Any, words: Any) -> None:
    refused(MetricError, lambda: run.log(metrics), *words)


@pytest.mark.parametrize("step", [1.5, "3", None.__class__, True, 2**63, math.nan])
def test_a_step_that_is_no_64_bit_whole_number_is_refused(run: TrainingRun, step: Any) -> None:
    refused(MetricError, lambda: run.log({"loss": 1.0}, step=step), "step")


def test_a_whole_float_as_step_is_refused_with_the_way_out(run: TrainingRun) -> None:
    refused(MetricError, lambda: run.log({"loss": 1.0}, step=3.0), "3.0 (float)", "int(step): 3")  # type: ignore[arg-type]


HUGE = 100_000_000  # characters


@pytest.mark.parametrize(
    "call",
    [
        lambda: ({"loss": "x" * HUGE},),
        lambda: ({"x" * HUGE: 1.0},),
        lambda: ({b"x" * HUGE: 1.0},),
        lambda: ({("x" * HUGE,): 1.0},),
        lambda: ({10**5000: 1.0},),
        lambda: ({"loss": 10**5000},),
        lambda: ({"loss": 1.0}, "x" * HUGE),
        lambda: ({"loss": 1.0}, 10**5000),
        lambda: ({"loss": 1.0}, -(10**5000)),
        lambda: ({"loss": 1.0}, 1e308),
        lambda: ({str(number): 1.0 for number in range(65_537)},),
    ],
    ids=[
        "value",
        "name",
        "bytes",
        "tuple",
        "number-as-name",
        "number",
        "step-of-text",
        "step",
        "negative-step",
        "float-as-step",
        "names",
    ],
)
def test_what_is_huge_and_wrong_is_refused_in_few_words(run: TrainingRun, call: Any) -> None:
    with pytest.raises(MetricError) as caught:
        run.log(*call())
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("make", [lambda: b"x" * HUGE, lambda: 10**5000], ids=["bytes", "number"])
def test_a_huge_name_of_a_parameter_is_refused_in_few_words(client: SecleaAI, make: Any) -> None:
    with pytest.raises(UsageError) as caught:
        client.start_training_run(params={make(): 1})
    assert len(str(caught.value)) < 200


def test_ten_thousand_names_in_one_call_and_steps_that_go_backwards_are_recorded_as_they_are(
    home: PipelineHome, client: SecleaAI
) -> None:
    run = client.start_training_run()
    names = {f"layer {number}/norm of the gradient": float(number) for number in range(10_000)}
    steps = [5, 3, -4, 3]
    for step in steps:
        run.log(names, step=step)
    assert client.flush(30).done
    found = [(step, name, value) for uuid, step, name, value in home.points() if uuid == run.uuid]
    assert found == [(step, name, value) for step in steps for name, value in names.items()]


def test_a_refused_log_call_records_nothing_and_the_next_step_is_the_one_after_the_last(
    home: PipelineHome, client: SecleaAI
) -> None:
    run = client.start_training_run()
    run.log({"loss": 1.0})
    for wrong in ({"good": 1.0, "loss": "bad"}, {"\ud800": 1.0}):
        with pytest.raises(MetricError):
            run.log(wrong)
    with pytest.raises(MetricError):
        run.log({"loss": 1.0}, step=0.5)  # type: ignore[arg-type]
    run.log({"loss": 2.0})
    assert client.flush(20).done
    assert [(step, name, value) for uuid, step, name, value in home.points() if uuid == run.uuid] == [
        (0, "loss", 1.0),
        (1, "loss", 2.0),
    ]


# --- after the end


def test_logging_after_finish_is_refused_and_finish_is_not(run: TrainingRun) -> None:
    run.finish()
    run.finish()
    refused(RunFinishedError, lambda: run.log({"loss": 1.0}), "the run 'the run'", "finished", "Log before finish()")
    refused(RunFinishedError, lambda: run.log_model_state({}), "finished", "start another run")


def test_a_run_ends_as_finished_failed_or_preempted(run: TrainingRun) -> None:
    refused(UsageError, lambda: run.finish("done"), "'done'", '"finished", "failed" or "preempted"')


def test_logging_after_terminate_is_refused(home: PipelineHome) -> None:
    client = SecleaAI("Claims")
    run = client.start_training_run("ended")
    client.terminate()
    refused(RunFinishedError, lambda: run.log({"loss": 1.0}), "the run 'ended'", "its client was terminated")
    refused(RunFinishedError, client.start_training_run, "was terminated", "another SecleaAI")
    refused(RunFinishedError, lambda: client.upload_dataset("x.csv", "x"), "was terminated")


def test_logging_without_a_current_run_is_refused(home: PipelineHome) -> None:
    for call in ("seclea.log({'loss': 1.0})", "seclea.finish()"):  # in a process of its own: this one has runs
        script = home.script(f"import seclea\nassert seclea.current_run() is None\n{call}")
        script.end(1)
        assert "RunFinishedError: There is no current run. Call seclea.init(project) first" in script.errors


# --- datasets


def test_a_csv_that_does_not_exist_is_refused_by_its_path(home: PipelineHome, client: SecleaAI) -> None:
    refused(DatasetNotFoundError, lambda: client.upload_dataset("nowhere.csv", "Claims"), "nowhere.csv")
    refused(DatasetNotFoundError, lambda: client.upload_dataset(Path("nowhere.csv"), "Claims"), "nowhere.csv")
    table(home, "there.csv", "a\n1\n")
    both = ["there.csv", "nowhere.csv"]
    refused(DatasetNotFoundError, lambda: client.upload_dataset(both, "Claims"), "nowhere.csv")


def table(home: PipelineHome, name: str, text: str) -> Path:
    path = home.work / name
    path.write_text(text)
    return path


def test_a_dataset_name_with_other_content_and_content_with_another_name_are_refused(
    home: PipelineHome, client: SecleaAI
) -> None:
    first = client.upload_dataset(table(home, "one.csv", "a,b\n1,2\n"), "First")
    assert client.flush(20).done
    again = client.upload_dataset(home.work / "one.csv", "First")
    assert (again.uuid, again.digest) == (first.uuid, first.digest), "the same name and content is the same dataset"
    other = table(home, "two.csv", "a,b\n1,3\n")
    refused(
        DuplicateError,
        lambda: client.upload_dataset(other, "First"),
        "'Claims'", "'First'", "with other content", "another name",
    )  # fmt: skip
    refused(
        DuplicateError,
        lambda: client.upload_dataset(home.work / "one.csv", "Second"),
        "the same content", "'First'", "Use that name",
    )  # fmt: skip
    assert list(home.home.incoming.iterdir()) == []


@pytest.mark.parametrize("name", ["", " ", "x" * 300, "a\0b", "\ud800", None, 3])
def test_a_dataset_name_that_portals_do_not_take_is_refused(home: PipelineHome, client: SecleaAI, name: Any) -> None:
    csv = table(home, "named.csv", "a\n1\n")
    refused(UsageError, lambda: client.upload_dataset(csv, name), "dataset name")


def test_what_is_no_table_is_refused_by_its_type(client: SecleaAI) -> None:
    with pytest.raises(UsageError, match=r"dict.*") as caught:
        client.upload_dataset({"a": [1]}, "Claims")
    assert "DataFrame" in str(caught.value)


def test_a_run_takes_datasets_and_nothing_else(client: SecleaAI) -> None:
    refused(
        UsageError,
        lambda: client.start_training_run(datasets=["Claims"]),
        "'Claims', not a",
        "upload_dataset(df, name)",
    )
    refused(UsageError, lambda: client.start_training_run(datasets="Claims"), "not str", "datasets=[train]")
    refused(UsageError, lambda: client.start_training_run(datasets={"tran": 1}), "no 'tran' dataset", "'train'")
    refused(UsageError, lambda: client.start_training_run(datasets=[3]), "cannot be a builtins.int")


# --- training runs in one call


@pytest.fixture(scope="module")
def uploaded(client: SecleaAI) -> Any:
    """A table that is a dataset of the project."""
    import pandas as pd

    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "y": [0, 1, 0, 1]})
    client.upload_dataset(frame, "for runs", {"outputs": ["y"]})
    return frame


class Unfit(LogisticRegression):
    """A subclass of a known framework, whose attributes cannot be stored."""

    def fit(self, X: Any, y: Any) -> Any:
        super().fit(X, y)
        self.note_ = lambda: None
        return self


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda c, d, m: c.upload_training_run(LogisticRegression(), d), UnknownModelError, ("not fitted", "Call fit")),
        (lambda c, d, m: c.upload_training_run(Unfit().fit(d[["a"]], d.y), d), UnknownModelError, ("Unfit", "pickled")),
        (lambda c, d, m: c.upload_training_run(LogisticRegression, d), UnknownModelError, ("is a class",)),
        (lambda c, d, m: c.upload_training_run(m, None), UsageError, ("needs its train dataset",)),
        (lambda c, d, m: c.upload_training_run(m, "for runs"), UsageError, ("the text 'for runs'", "upload_dataset")),
        (lambda c, d, m: c.upload_training_run_split(m, d[["a"]], None), UsageError, ("X_train without y_train",)),
        (
            lambda c, d, m: c.upload_training_run_split(m, d[["a"]], d.y, None, d.y),
            UsageError,
            ("y_test without X_test",),
        ),
        (
            lambda c, d, m: c.upload_training_run_split(m, d[["a"]], [0, 1, 0, 1]),
            UsageError,
            ("y of the train dataset",),
        ),
        (lambda c, d, m: c.upload_training_run(m, d, metrics={"auc": "high"}), MetricError, ("'auc'", "float(...)")),
        (lambda c, d, m: c.upload_training_run(m, d, params={3: 1}), UsageError, ("params has the key 3",)),
        (lambda c, d, m: c.upload_training_run(m, d, name=" "), UsageError, ("training run name is empty",)),
    ],
)
def test_a_run_that_cannot_be_recorded_whole_is_not_recorded_at_all(
    home: PipelineHome, client: SecleaAI, uploaded: Any, call: Any, kind: Any, words: Any
) -> None:
    model = LogisticRegression().fit(uploaded[["a"]], uploaded.y)
    assert client.flush(20).done
    taken_over(home)
    before = home.rows("SELECT kind, count(*) FROM records GROUP BY kind")
    refused(kind, lambda: call(client, uploaded, model), *words)
    assert client.flush(20).done
    assert home.rows("SELECT kind, count(*) FROM records GROUP BY kind") == before
    assert list(home.home.incoming.iterdir()) == []


def test_a_run_takes_no_dataset_of_another_project(home: PipelineHome, client: SecleaAI) -> None:
    other = SecleaAI("Another project")
    foreign = other.upload_dataset(table(home, "foreign.csv", "a,b\n8,9\n"), "foreign")
    assert other.flush(20).done
    words = ("The train dataset, 'foreign', belongs to another project", "Upload it to this project")
    refused(UnknownDatasetError, lambda: client.start_training_run(datasets={"train": foreign}), *words)


def test_a_run_has_one_final_state(client: SecleaAI, uploaded: Any) -> None:
    model = LogisticRegression().fit(uploaded[["a"]], uploaded.y)
    run = client.start_training_run("with an end")
    run.log_model_state(model, final=True)
    refused(UsageError, lambda: run.log_model_state(model, final=True), "'with an end' has its final state already")
    run.log_model_state(model)


# --- transformations, before anything is run


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DatasetTransformation("f", {"df": 1}), ("needs a function, not str", "without calling it")),
        (lambda: DatasetTransformation(len, [1]), ("data_kwargs of 'len' must be a dict",)),
        (lambda: DatasetTransformation(len, {}), ("'len' has no data_kwargs",)),
        (lambda: DatasetTransformation(len, {3: 1}), ("the key 3, which is no text",)),
        (lambda: DatasetTransformation(lambda df: df, {"data": 1}), ("lambda(df) cannot be called with data",)),
        (
            lambda: DatasetTransformation(lambda df: df, {"dff": 1}),
            ("with dff: missing", "Did you mean 'df' instead of 'dff'?"),
        ),
        (
            lambda: DatasetTransformation(lambda df: df, {"df": "inherited"}),
            ("'df' of 'lambda' is the text 'inherited'", '"inherit"'),
        ),
        (lambda: DatasetTransformation(lambda df: df, {"df": 1}, {"df": 2}), ("in data_kwargs and in kwargs",)),
        (lambda: DatasetTransformation(lambda df: df, {"df": 1}, {"k": 2}), ("unexpected keyword argument 'k'",)),
        (lambda: DatasetTransformation(lambda df: df, {"df": 1}, outputs="df"), ("must be a list of names, not 'df'",)),
        (lambda: DatasetTransformation(lambda df: df, {"df": 1}, outputs=[]), ("keeps 0 values", "None in the place")),
        (lambda: DatasetTransformation(lambda df: df, {"df": 1}, outputs=[None]), ("keeps 0 values",)),
        (lambda: DatasetTransformation(lambda df: df, {"df": 1}, outputs=["a", "b", "c"]), ("keeps 3 values",)),
        (lambda: DatasetTransformation(lambda df: df, {"df": 1}, outputs=["a", "a"]), ("has 'a' twice",)),
        (lambda: DatasetTransformation(lambda df: df, {"df": 1}, outputs=[3]), ("outputs of 'lambda' has 3",)),
        (lambda: DatasetTransformation(lambda df: df, {"df": 1}, split=""), ("The split of 'lambda' is ''",)),
    ],
)
def test_a_transformation_that_could_not_work_is_refused_when_it_is_made(make: Any, words: Any) -> None:
    refused(UsageError, make, *words)


def test_transformations_are_a_list_of_them(client: SecleaAI, uploaded: Any) -> None:
    refused(
        UsageError,
        lambda: client.upload_dataset(uploaded, "x", transformations=[len]),
        "builtin",
        "DatasetTransformation(",
    )
    refused(UsageError, lambda: client.upload_dataset(uploaded, "x", transformations="x"), "must be a list, not str")


# --- models


class NoModel:
    pass


@pytest.mark.parametrize("model", [NoModel(), 3, "text", {"weights": [1.0]}, None, NoModel])
def test_a_model_of_an_unknown_type_is_refused_with_those_that_are_known(run: TrainingRun, model: Any) -> None:
    with pytest.raises(UnknownModelError) as caught:
        run.log_model_state(model)
    name = model.__qualname__ if isinstance(model, type) else type(model).__qualname__
    assert name in str(caught.value)
    assert "scikit-learn" in str(caught.value) or "trained instance" in str(caught.value)


def test_an_estimator_that_is_not_fitted_is_refused(home: PipelineHome, run: TrainingRun) -> None:
    from sklearn.linear_model import LinearRegression

    taken_over(home)
    refused(
        UnknownModelError,
        lambda: run.log_model_state(LinearRegression()),
        "LinearRegression", "not fitted", "Call fit",
    )  # fmt: skip
    refused(UnknownModelError, lambda: run.log_model_state(LinearRegression), "is a class", "trained instance")
    assert list(home.home.incoming.iterdir()) == []


# --- parameters and names


def test_parameters_that_json_cannot_hold_are_described_and_those_too_large_or_too_deep_are_refused(
    home: PipelineHome, client: SecleaAI
) -> None:
    deep: Any = 0
    for _ in range(100):
        deep = [deep]
    refused(UsageError, lambda: client.start_training_run(params={"deep": deep}), "64 levels", "Flatten")
    cycle: list[Any] = []
    cycle.append(cycle)
    refused(UsageError, lambda: client.start_training_run(params={"cycle": cycle}), "64 levels")
    refused(UsageError, lambda: client.start_training_run(params={1: 2}), "the key 1", "Use '1'")  # type: ignore[dict-item]
    refused(UsageError, lambda: client.start_training_run(params=[1]), "must be a dict", "list")  # type: ignore[arg-type]
    large = {"text": "x" * (1 << 21)}
    refused(TooLargeError, lambda: client.start_training_run(params=large), "1048576 bytes", "upload_dataset")
    run = client.start_training_run(
        "described", params={"model": NoModel(), "how": test_a_csv_that_does_not_exist_is_refused_by_its_path,
                             "rate": math.nan, "lock": open}
    )  # fmt: skip
    assert client.flush(20).done
    ((text,),) = home.rows("SELECT json FROM entities WHERE uuid = ?", run.uuid)
    assert "NoModel" in text and "test_a_csv" in text
    assert re.search(r'"rate":\s?{"__float__":\s?"NaN"}', text)


def test_a_project_must_be_named(home: PipelineHome) -> None:
    refused(UsageError, SecleaAI, "No project is named", "project_name", ".seclearc")


# --- settings


def test_a_wrong_rc_file_is_named_with_file_line_and_key(
    home: PipelineHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rc = tmp_path / ".seclearc"
    rc.write_text('project = "Claims"\n\n[limits]\nmemroy = "1GB"\n')
    refused(
        ConfigurationError,
        lambda: SecleaAI(project_root=tmp_path),
        f"{rc}:4", "limits.memroy", "Did you mean limits.memory?",
    )  # fmt: skip
    rc.write_text('project = "Claims"\n[limits]\ndisk = "lots"\n')
    refused(ConfigurationError, lambda: SecleaAI(project_root=tmp_path), f"{rc}:3", "limits.disk", "'lots'", '"512MB"')
    monkeypatch.setenv("SECLEA_LIMITS_WHEN_FULL", "stop")
    refused(ConfigurationError, lambda: SecleaAI("Claims"), "SECLEA_LIMITS_WHEN_FULL", "'stop'", '"wait"')


def test_an_address_without_a_scheme_is_refused_as_one(home: PipelineHome) -> None:
    for wrong in ("portal.example.com", "ftp://portal.example.com", "https:/portal.example.com", ""):
        refused(
            ConfigurationError,
            lambda wrong=wrong: SecleaAI("Claims", platform_url=wrong),  # type: ignore[misc]
            "platform_url", "https://portal.example.com" if wrong else "empty",
        )  # fmt: skip


def test_an_address_with_a_password_in_it_is_refused_without_repeating_it(home: PipelineHome) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SecleaAI("Claims", platform_url="https://ada:hunter2@portal.example.com")
    assert "seclea login" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_login_for_the_homes_own_portal_is_refused(home: PipelineHome) -> None:
    refused(
        UsageError,
        lambda: SecleaAI("Claims", platform_url="local", username="ada", password="secret"),
        "the home's own portal", "platform_url",
    )  # fmt: skip
    refused(UsageError, lambda: SecleaAI("Claims", username="ada"), "user name needs a password")
