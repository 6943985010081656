"""What users write, as type checkers see it: `mypy --strict` runs over this file, nothing runs it."""

from pathlib import Path
from typing import Any, assert_type

import seclea as tracker
from seclea import (
    AuthenticationError,
    DatasetError,
    DatasetNotFoundError,
    DatasetTransformation,
    MetricError,
    PortalUnavailable,
    SecleaAI,
    SecleaError,
    TrainingRun,
    TransformationError,
    UnknownDatasetError,
    UnknownModelError,
    UsageError,
)
from seclea.director import Progress
from seclea.entities import Dataset, ModelState


def a_job(frame: Any, model: Any, root: Path) -> None:
    with SecleaAI(project_name="Claims", organization="Acme") as seclea:
        assert_type(seclea, SecleaAI)
        claims = seclea.upload_dataset(frame, "Claims", metadata={"outputs": ["paid"], "index": None})
        assert_type(claims, Dataset)
        assert_type(claims.uuid, str)
        seclea.upload_dataset(root / "more.csv", "More")
        seclea.upload_dataset(["a.csv", "b.csv"], "Both")
        run = seclea.start_training_run(params={"rate": 0.1, "layers": [1, 2]}, datasets=[claims], model=model)
        assert_type(run, TrainingRun)
        run.log({"loss": 0.31, "epoch": 1, "better": True}, step=10)
        run.log({"loss": 0.31})
        recorded = run.log_model_state(model, step=10, final=True, metadata={"note": "best"})
        assert_type(recorded, ModelState)
        assert_type(recorded.sha256, str)
        assert_type(run.finish(), Progress)
        run.finish("failed", timeout=5)
        durable = seclea.flush(timeout=5)
        assert_type(durable, Progress)
        if not durable:
            assert_type(durable.reasons, tuple[str, ...])
        assert_type(seclea.complete(timeout=60).pending, int)
        seclea.complete(on_progress=lambda now: print(now.delivered))
        assert_type(seclea.status(), dict[str, Any])
        seclea.terminate()


def with_lineage(raw: Any, clean: Any, X: Any, y: Any, model: Any, seclea: SecleaAI) -> None:
    def impute(df: Any, value: float) -> Any:
        return df.fillna(value)

    steps = [
        DatasetTransformation(impute, data_kwargs={"df": raw}, kwargs={"value": 0.0}, outputs=["df"]),
        DatasetTransformation(lambda df: (df, df.y, 1), {"df": "inherit"}, outputs=["X", "y", None], split="train"),
        DatasetTransformation(impute, {"df": clean}, reproduce=False),
    ]
    assert_type(seclea.upload_dataset(clean, "clean", {"index": None}, steps[:1]), Dataset)
    train = seclea.upload_dataset_split(X, y, "train", transformations=steps)
    assert_type(train.content_digest, str)
    assert_type(seclea.upload_training_run(model, train, test_dataset=clean, metrics={"auc": 0.9}), TrainingRun)
    seclea.upload_training_run_split(model, X, y, X, y, X_val=X, y_val=y, name="forest", params={"depth": 3})
    seclea.start_training_run(datasets={"train": train, "test": clean})
    missing: DatasetError = UnknownDatasetError("x")
    differs: DatasetError = TransformationError("x", "look")
    print(missing, differs)


def at_a_portal() -> None:
    try:
        client = SecleaAI("Claims", "Acme", platform_url="https://portal", auth_url="https://auth",
                          username="ada", password="secret", project_root=Path("."),
                          settings={"limits": {"memory": "1GB"}})  # fmt: skip
        client.login("ada", "secret")
    except AuthenticationError as error:
        assert_type(error.hint, str)
    except (PortalUnavailable, UsageError):
        pass
    except SecleaError as error:
        print(error.message)


def in_the_dialect_of_other_trackers() -> None:
    run = tracker.init("Claims", name="first", organization="local", params={"rate": 0.1})
    assert_type(run, TrainingRun)
    tracker.log({"loss": 0.31}, step=1)
    assert_type(tracker.finish(timeout=10), Progress)
    assert_type(tracker.__version__, str)


def errors_are_those_of_python_too() -> None:
    missing: FileNotFoundError = DatasetNotFoundError("x")
    wrong: TypeError = MetricError("x")
    unknown: ValueError = UnknownModelError("x")
    away: ConnectionError = PortalUnavailable("x")
    print(missing, wrong, unknown, away)


def what_is_wrong_is_seen(run: TrainingRun, seclea: SecleaAI) -> None:
    run.log([0.31])  # type: ignore[arg-type]
    run.log({3: 0.31})  # type: ignore[dict-item]
    run.log({"loss": 0.31}, step=1.5)  # type: ignore[arg-type]
    run.finish(status=3)  # type: ignore[arg-type]
    seclea.upload_dataset("claims.csv")  # type: ignore[call-arg]
    DatasetTransformation(print)  # type: ignore[call-arg]
    seclea.upload_dataset(1, "x", transformations=[print])  # type: ignore[list-item]
    tracker.no_such_name  # type: ignore[attr-defined]  # noqa: B018
