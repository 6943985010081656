"""`SecleaAI`: the client. Validates, takes a snapshot, hands over; everything else happens elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from seclea.client import ending, joining
from seclea.client.credentials import Credentials, ask_for_login, given_login
from seclea.client.lineage.known import known_datasets
from seclea.client.matching import ROLES, Split, named_datasets, used_datasets
from seclea.client.reach import require_answer
from seclea.client.run_plan import RunPlan, plan_run
from seclea.client.training_run import TrainingRun, launcher_rank
from seclea.client.uploading import Upload
from seclea.client.validation import PROJECT_NAME, RUN_NAME, check_metrics, check_name, check_params
from seclea.client.waiting import OnProgress
from seclea.client.waiting import complete as wait_delivered
from seclea.client.waiting import flush as wait_durable
from seclea.contract import Destination, Home
from seclea.director import Pipeline, Progress, Speaker, forget_after_fork, pipeline_of
from seclea.entities import Dataset, Entity, Kind, RunStatus
from seclea.errors import (
    AuthenticationError,
    MetricError,
    PortalUnavailable,
    RunFinishedError,
    UsageError,
)
from seclea.settings import home_directory, load
from seclea.transformations import DatasetTransformation

if TYPE_CHECKING:
    from seclea.api.api import Api
    from seclea.api.tokens import Token
    from seclea.client.snapshot.models import ModelSnapshot

_LOOK_SECONDS = 1.5  # for a parent that is not known here
MAX_RESULTS = 10_000  # metrics of a run that is recorded in one call
_LOGIN_SECONDS = 3.0  # for a password, which nobody can send again later
_START_SECONDS = 0.8  # for the organization: a portal that does not answer must not hold up the start of a job


class SecleaAI:
    """A project at a portal, to log datasets, training runs and model states to.

    Args:
        project_name: made at the portal when it is not there yet.
        organization: at the portal; "local" by default.
        platform_url, auth_url: of the portal; by default the home's own, which needs no login.
        username, password: log in now (also from SECLEA_USERNAME, SECLEA_PASSWORD); else the stored login is used.
        token_file: take the tokens in this file, once (also from SECLEA_TOKEN_FILE).
        project_root: where ``.seclearc`` is looked for; the working directory by default.
    Raises:
        ConfigurationError: a setting is wrong; the message says where it stands.
        AuthenticationError: wrong user name or password (the portal answered so), or a token file that cannot be used.
        UnknownOrganizationError: the portal knows no such organization for this login.

    A portal that does not answer is no error: everything is kept and sent later.

    Used as a context manager, its runs are finished at the end of the block, as failed if it ends by an exception.
    """

    def __init__(
        self,
        project_name: str | None = None,
        organization: str | None = None,
        *,
        platform_url: str | None = None,
        auth_url: str | None = None,
        username: str | None = None,
        password: str | Token | None = None,
        token_file: str | os.PathLike[str] | None = None,
        project_root: str | os.PathLike[str] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        given = given_login(username, password, token_file)
        del password  # a crash reporter may show the locals of this frame
        if sys.platform == "win32":
            raise UsageError("seclea runs on Linux and macOS, not on Windows.", "Use WSL 2.")
        named = {
            "project": project_name,
            "organization": organization,
            "platform_url": platform_url,
            "auth_url": auth_url,
            **(settings or {}),
        }
        arguments = {name: value for name, value in named.items() if value is not None}
        resolved = load(project_root=Path(project_root) if project_root else None, arguments=arguments).settings
        if not resolved.project:
            raise UsageError("No project is named.", "Pass project_name, or set project in .seclearc.")
        self.project = check_name("project", resolved.project, PROJECT_NAME)
        choice = home_directory()
        self.home = Home(choice.path)
        self.settings = resolved
        self.destination = Destination(resolved.platform_url, resolved.auth_url, resolved.organization)
        self._speaker = Speaker(self.destination, self.project, resolved)
        self._runs: list[TrainingRun] = []  # kept also where the user does not: the block finishes them
        self._terminated = False
        self._owner = os.getpid()
        self._known = known_datasets(self.home, self.destination, self.project, self._quick_api)
        self._pipeline: Pipeline | None = None
        forget_after_fork(self)
        if joining.repeats():
            return  # the parent has said, asked and opened all this; here it is opened when something is recorded
        if choice.reason:
            _say_once(choice.reason)
        if not self.destination.is_local:
            self._check_login(given)
        elif given is not None:
            hint = "Pass platform_url, or no login (SECLEA_USERNAME, SECLEA_PASSWORD, SECLEA_TOKEN_FILE)."
            raise UsageError("A login makes no sense with the home's own portal.", hint)
        self._pipeline = pipeline_of(self.home, resolved)
        self._pipeline.stream(self._speaker)

    # -- set-up --------------------------------------------------------------------------------------------------

    def _api(self) -> Api:
        from seclea.client.login import open_api

        return open_api(self.home, self.destination, self.settings.ca_bundle, within_seconds=_START_SECONDS)

    def _quick_api(self) -> Api:
        from seclea.client.login import open_api

        return open_api(self.home, self.destination, self.settings.ca_bundle, timeout_seconds=_LOOK_SECONDS)

    def _check_login(self, given: Credentials | None) -> None:
        """Log in and look the organization up, if the portal answers."""
        new = given is not None  # and so refused at this call, where it is
        try:
            if given is not None:
                from seclea.client.login import log_in

                new = log_in(self.home, self.destination, self.settings.ca_bundle, given, _LOGIN_SECONDS)
            require_answer(self.destination.platform_url)  # else not even the packages for it are loaded
            self._api().organization_uuid(self.destination.organization)
        except PortalUnavailable as error:
            _say_once(f"{error} What is logged is kept and sent later.")
        except AuthenticationError as error:
            if new:
                raise
            _say_once(f"{error} What is logged is kept until then.")

    def login(
        self,
        username: str | None = None,
        password: str | Token | None = None,
        token_file: str | os.PathLike[str] | None = None,
    ) -> None:
        """Log in and store the tokens; what waited for it is sent. What is not given is asked for at the terminal.

        Raises:
            AuthenticationError, PortalUnavailable: as at the start.
            UsageError: something is missing, and there is no terminal to ask at.
        """
        from seclea.client.login import log_in

        given = given_login(username, password, token_file) if password or token_file else None
        del password
        if self.destination.is_local:
            raise UsageError("The home's own portal needs no login.", "Set platform_url to use another portal.")
        given = given or ask_for_login(self.destination.auth_url, username)
        log_in(self.home, self.destination, self.settings.ca_bundle, given, _LOGIN_SECONDS)

    def after_fork_in_child(self) -> None:
        """The ring was the parent's."""
        self._pipeline = None

    @property
    def _line(self) -> Pipeline:
        if self._terminated:
            raise RunFinishedError("This client was terminated.", "Make another SecleaAI.")
        if self._pipeline is None:
            self._pipeline = pipeline_of(self.home, self.settings)
        return self._pipeline

    # -- recording -----------------------------------------------------------------------------------------------

    def upload_dataset(
        self,
        dataset: Any,
        dataset_name: str,
        metadata: Mapping[str, Any] | None = None,
        transformations: Sequence[DatasetTransformation] | None = None,
    ) -> Dataset:
        """Record a table as it is now and, with ``transformations``, how it came from a known one.

        Args:
            dataset: pandas DataFrame, Arrow or polars table, path of a CSV file, or a list of such paths (rows in order).
            dataset_name: unique in the project; the same name with the same content is the same dataset.
            metadata: user keys (docs/reference.md); others are kept as they are. What is not said holds as for the parent.
            transformations: the steps from a dataset of the project to this one, in order. They are run again, on copies, and
                must give this dataset; each step between becomes a dataset of its own, ``<name>-<function>``.
        Returns:
            The dataset, to pass to `start_training_run`.
        Raises:
            DatasetNotFoundError: a file does not exist.
            DatasetError: the table cannot be recorded as it is.
            DuplicateError: the project has that name with other content, or that content under another name.
            TransformationError: a step fails, changes nothing, or does not lead to the dataset; says where they differ.
            UnknownDatasetError: the chain starts from, or is joined by, a table that is no dataset of the project.
        """
        return self._uploaded(lambda upload: upload.table(dataset, dataset_name, metadata, transformations))

    def upload_dataset_split(
        self,
        X: Any,
        y: Any,
        dataset_name: str,
        metadata: Mapping[str, Any] | None = None,
        transformations: Sequence[DatasetTransformation] | None = None,
    ) -> Dataset:
        """Record features and what is to be predicted as one dataset, which knows which columns are which.

        Args:
            X: DataFrame, Arrow or polars table of shape (rows, features).
            y: Series or DataFrame of the same rows (and index).
            dataset_name, metadata, transformations: as for `upload_dataset`.
        Raises:
            DatasetError: X and y are not the same rows, or have a name in common.
            UsageError: one is no table (a numpy array has no names).
            Others as for `upload_dataset`.
        """
        return self._uploaded(lambda upload: upload.split(X, y, dataset_name, metadata, transformations))

    def _uploaded(self, work: Callable[[Upload], Dataset]) -> Dataset:
        line = self._line
        line.wait_for_room()

        def hand_over(entity: Entity, payload: Path | None = None) -> None:
            line.store_entity(self._speaker, entity, payload=payload)

        def upload() -> Dataset:  # all of it again, should the disk have been full: nothing is left of the time before
            room = line.payloads_of("the dataset, or a step on the way to it,")
            with Upload(self.home, self.project, self._known, hand_over, line.limits.disk, room) as upload:
                return work(upload)

        return line.with_room(lambda: line.stream(self._speaker), Kind.DATASET, upload)

    def start_training_run(
        self,
        name: str | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        datasets: Iterable[Any] | Mapping[str, Any] = (),
        model: Any = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> TrainingRun:
        """Start a run to log to, and for the processes that are started from here on to join (`seclea.log`).

        The ranks of torchrun, which all do so, have one run together. While multiprocessing imports the script again in a
        child, this is the parent's run.

        Args:
            name: "Training Run N" by default.
            params: hyperparameters; anything that JSON can hold, and numpy values, dates, callables (by name). By default
                those of the model.
            datasets: what `upload_dataset` returned, or the tables themselves: a list, or a dict by role ("train", "test",
                "validation").
            model: the model to be trained (or its name), for its class, framework, parameters and application type.
        Raises:
            UnknownDatasetError: a table that is no dataset of the project.
        """
        if joining.repeats():
            return joining.repeated_run()
        plan = self._plan_run(name, params, named_datasets(datasets), model, metadata)
        shared = joining.shared_uuid(self.destination, self.project)
        if shared is not None:
            plan = dataclasses.replace(plan, run=dataclasses.replace(plan.run, uuid=shared))
        run = self._open_run(plan, None if shared is None or joining.is_first_rank() else 0)
        joining.publish(run)
        return run

    def upload_training_run(
        self,
        model: Any,
        train_dataset: Any,
        test_dataset: Any = None,
        validation_dataset: Any = None,
        *,
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> TrainingRun:
        """Record a training that is over: the fitted model as its final state, and the datasets that it used.

        Args:
            model: fitted; scikit-learn (pipelines too), xgboost, lightgbm, PyTorch or Keras.
            train_dataset, test_dataset, validation_dataset: tables that were uploaded (found by their content), or what
                `upload_dataset` returned.
            name: "Training Run N" by default.
            params: the model's own by default.
            metrics: results as numbers, logged as one step.
        Returns:
            The run, which has ended.
        Raises:
            UnknownModelError: a model that cannot be stored, or is not fitted.
            UnknownDatasetError: a table is no dataset of the project; says whether train, test or validation.
        """
        given = list(zip(ROLES, (train_dataset, test_dataset, validation_dataset), strict=True))
        if train_dataset is None:
            raise UsageError("A training run needs its train dataset.", "Pass train_dataset.")
        used = [(role, data) for role, data in given if data is not None]
        return self._upload_run(model, used, name, params, metrics, metadata)

    def upload_training_run_split(
        self,
        model: Any,
        X_train: Any,
        y_train: Any,
        X_test: Any = None,
        y_test: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        *,
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> TrainingRun:
        """`upload_training_run` for data in two parts, as `upload_dataset_split` recorded it.

        Args:
            X_train, X_test, X_val: DataFrames of shape (rows, features).
            y_train, y_test, y_val: Series or DataFrames of the same rows.
        """
        parts = zip(ROLES, ((X_train, y_train), (X_test, y_test), (X_val, y_val)), strict=True)
        used = [(role, Split(X, y)) for role, (X, y) in parts if role == "train" or X is not None or y is not None]
        return self._upload_run(model, used, name, params, metrics, metadata)

    def _upload_run(
        self,
        model: Any,
        used: list[tuple[str, Any]],
        name: str | None,
        params: Mapping[str, Any] | None,
        metrics: Mapping[str, Any] | None,
        metadata: Mapping[str, Any] | None,
    ) -> TrainingRun:
        from seclea.client.snapshot.files import taking
        from seclea.client.snapshot.models import snapshot_model

        if joining.repeats():
            return joining.repeated_run()  # the parent has recorded it
        plan = self._plan_run(name, params, used, model, metadata)
        results = check_metrics(metrics) if metrics else None
        if results and len(results) > MAX_RESULTS:
            raise MetricError(
                f"A run's results are {MAX_RESULTS} metrics at most, not {len(results)}.", "Log them in parts."
            )
        self._line.wait_for_room()
        line = self._line

        def snapshot() -> ModelSnapshot:
            directory, take = line.payloads_of("the final state of the run")
            with taking(take):
                return snapshot_model(model, directory)

        taken = line.with_room(lambda: line.stream(self._speaker), Kind.MODEL_STATE, snapshot)
        run = None
        try:
            run = self._open_run(plan)
            if results:
                run.log(results, step=0)
            run._store_state(taken, None, True, {})
        except BaseException:
            taken.path.unlink(missing_ok=True)
            if run is not None:  # a limit was reached, or a disk is full: what is there says that it is not all
                run.finish(RunStatus.FAILED)
            raise
        run.finish()
        return run

    def _plan_run(
        self,
        name: str | None,
        params: Mapping[str, Any] | None,
        datasets: list[tuple[str, Any]],
        model: Any,
        metadata: Mapping[str, Any] | None,
    ) -> RunPlan:
        """Everything that can be refused about a run, before anything of it is handed over."""
        _ = self._line  # refuses a client that was terminated
        if name is not None:
            check_name("training run", name, RUN_NAME)
        own, extra = check_params(params or {}), check_params(metadata or {}, "metadata")
        used = used_datasets(self._known, datasets)
        roles: dict[str, str] = {}
        for one in used:
            if one.role and (other := roles.setdefault(one.id, one.role)) != one.role:
                _say_once(f"the {other} and the {one.role} dataset of a run are the same dataset; it is recorded so.")
        plan = plan_run(name, own, extra, used, model)
        if differ := plan.run.metadata.get("features_differ"):
            _say_once(f"{differ}. The run is recorded with that remark.")
        return plan

    def _open_run(self, plan: RunPlan, owner: int | None = None) -> TrainingRun:
        ending.watch()
        line, run_uuid = self._line, plan.run.uuid
        if plan.model is not None:
            line.store_entity(self._speaker, plan.model)
        line.stream(self._speaker, run_uuid, launcher_rank())
        line.store_entity(self._speaker, plan.run, run=run_uuid)
        run = TrainingRun(self.home, self._speaker, run_uuid, plan.run.name, owner=owner)
        self._runs = [*(one for one in self._runs if one._ended is None), run]
        return run

    # -- waiting, ending -----------------------------------------------------------------------------------------

    def flush(self, timeout: float = 30.0) -> Progress:
        """Wait until everything handed over is durable: it then survives power loss. Returns what is left."""
        return wait_durable(self.home, self.destination, timeout)

    def complete(self, timeout: float = 60.0, on_progress: OnProgress | None = None) -> Progress:
        """Wait until everything is delivered: it then survives the loss of this machine.

        Args:
            timeout: seconds; what is left then goes on in the background.
            on_progress: called now and then with what is done and left.
        Returns:
            What is done and what is left, and why.
        """
        return wait_delivered(self.home, self.destination, timeout, on_progress)

    def terminate(self) -> None:
        """Log no more through this client. What was handed over is kept and delivered in the background."""
        self._terminated = True
        for run in list(self._runs):
            run._terminate()

    def status(self) -> dict[str, Any]:
        """How the pipeline of this home stands; the form of ``seclea status --json`` (docs/reference.md)."""
        from seclea.client.status import status

        return status(self.home)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._owner:
            return  # a forked child that leaves the block: the run is its parent's
        status = RunStatus.FINISHED if kind is None else RunStatus.FAILED
        for run in list(self._runs):
            if run._ended is None:
                # An error of ours must not hide the user's.
                with contextlib.suppress(Exception) if kind is not None else contextlib.nullcontext():
                    run.finish(status)


_said: set[str] = set()


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        with contextlib.suppress(Exception):
            print(f"seclea: {text}", file=sys.stderr, flush=True)
