"""`SecleaAI`: the client. Validates, takes a snapshot, hands over; everything else happens elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from seclea.client.training_run import TrainingRun, launcher_rank
from seclea.client.validation import check_name, check_params
from seclea.client.waiting import OnProgress
from seclea.client.waiting import complete as wait_delivered
from seclea.client.waiting import flush as wait_durable
from seclea.contract import Destination, Home
from seclea.director import Pipeline, Progress, Speaker, forget_after_fork, pipeline_of
from seclea.entities import Dataset, Entity, Kind, Model, RunStatus, new_uuid
from seclea.entities import TrainingRun as TrainingRunEntity
from seclea.errors import (
    AuthenticationError,
    DuplicateError,
    LedgerError,
    PortalUnavailable,
    RunFinishedError,
    UsageError,
)
from seclea.ledger.view import LedgerView
from seclea.settings import home_directory, load

if TYPE_CHECKING:
    from seclea.api.api import Api

_LOGIN_SECONDS = 3.0  # a portal that does not answer at once must not hold up the start of a job


class SecleaAI:
    """A project at a portal, to log datasets, training runs and model states to.

    Args:
        project_name: made at the portal when it is not there yet.
        organization: at the portal; "local" by default.
        platform_url, auth_url: of the portal; by default the home's own, which needs no login.
        username, password: log in now (also from SECLEA_USERNAME, SECLEA_PASSWORD); else the stored login is used.
        project_root: where ``.seclearc`` is looked for; the working directory by default.
    Raises:
        ConfigurationError: a setting is wrong; the message says where it stands.
        AuthenticationError: wrong user name or password (the portal answered so).
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
        password: str | None = None,
        project_root: str | os.PathLike[str] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
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
        self.project = check_name("project", resolved.project, 250)
        choice = home_directory()
        self.home = Home(choice.path)
        self.settings = resolved
        self.destination = Destination(resolved.platform_url, resolved.auth_url, resolved.organization)
        self._speaker = Speaker(self.destination, self.project, resolved)
        self._runs: list[TrainingRun] = []  # kept also where the user does not: the block finishes them
        self._terminated = False
        self._owner = os.getpid()
        self._uploaded: dict[str, Dataset] = {}  # by name, of this client: the ledger may not show them yet
        if choice.reason:
            _say_once(choice.reason)
        username = username or os.environ.get("SECLEA_USERNAME")
        password = password or os.environ.get("SECLEA_PASSWORD")
        if not self.destination.is_local:
            self._check_login(username, password)
        elif username or password:
            raise UsageError(
                "A user name and password make no sense with the home's own portal.",
                "Pass platform_url, or leave them out.",
            )
        self._pipeline: Pipeline | None = pipeline_of(self.home, resolved.limits)
        self._pipeline.stream(self._speaker)
        forget_after_fork(self)

    # -- set-up --------------------------------------------------------------------------------------------------

    def _api(self) -> Api:
        from seclea.client.login import open_api

        return open_api(self.home, self.destination, self.settings.ca_bundle, timeout_seconds=_LOGIN_SECONDS)

    def _check_login(self, username: str | None, password: str | None) -> None:
        """Log in and look the organization up, if the portal answers."""
        from seclea.client.login import log_in

        if (username is None) != (password is None):
            raise UsageError("A user name needs a password, and the other way round.", "Pass both, or neither.")
        try:
            if username is not None and password is not None:
                log_in(self.home, self.destination, self.settings.ca_bundle, username, password, _LOGIN_SECONDS)
            self._api().organization_uuid(self.destination.organization)
        except PortalUnavailable as error:
            _say_once(f"{error} What is logged is kept and sent later.")
        except AuthenticationError as error:
            if username is not None:
                raise
            _say_once(f"{error} What is logged is kept until then.")

    def login(self, username: str, password: str) -> None:
        """Log in and store the tokens; what waited for it is sent.

        Raises:
            AuthenticationError: wrong user name or password.
            PortalUnavailable: the portal does not answer.
        """
        from seclea.client.login import log_in

        if self.destination.is_local:
            raise UsageError("The home's own portal needs no login.", "Set platform_url to use another portal.")
        log_in(self.home, self.destination, self.settings.ca_bundle, username, password, _LOGIN_SECONDS)

    def after_fork_in_child(self) -> None:
        """The ring was the parent's."""
        self._pipeline = None

    @property
    def _line(self) -> Pipeline:
        if self._terminated:
            raise RunFinishedError("This client was terminated.", "Make another SecleaAI.")
        if self._pipeline is None:
            self._pipeline = pipeline_of(self.home, self.settings.limits)
        return self._pipeline

    # -- recording -----------------------------------------------------------------------------------------------

    def upload_dataset(self, dataset: Any, dataset_name: str, metadata: Mapping[str, Any] | None = None) -> Dataset:
        """Record a table as it is now.

        Args:
            dataset: pandas DataFrame, Arrow table, path of a CSV file, or a list of such paths (rows joined in order).
            dataset_name: unique in the project; the same name with the same content is the same dataset.
            metadata: user keys (docs/reference.md); others are kept as they are.
        Returns:
            The dataset, to pass to `start_training_run`.
        Raises:
            DatasetNotFoundError: a file does not exist.
            DatasetError: the table cannot be recorded as it is.
            DuplicateError: the project has that name with other content, or that content under another name.
        """
        from seclea.client.snapshot.tables import snapshot_table

        line = self._line
        name = check_name("dataset", dataset_name, 256)
        line.wait_for_room()
        taken = snapshot_table(dataset, self.home.incoming, metadata)
        try:
            known = self._known_dataset(name, taken.digest)
        except BaseException:
            taken.path.unlink(missing_ok=True)
            raise
        if known is not None:
            taken.path.unlink(missing_ok=True)
            return known
        entity = Dataset(
            name=name,
            digest=taken.digest,
            metadata=taken.metadata,
            format=taken.format,
            file_path=os.fspath(dataset) if isinstance(dataset, str | os.PathLike) else "",
            size=taken.size,
            sha256=taken.sha256,
        )
        line.store_entity(self._speaker, entity, payload=taken.path)
        self._uploaded[name] = entity
        return entity

    def _known_dataset(self, name: str, digest: str) -> Dataset | None:
        """The same dataset, if it was recorded before; an error where name or content is taken."""
        for known in self._uploaded.values():
            if known.digest == digest:
                return self._same_name(known, name)
        taken = name in self._uploaded
        same = None
        # Without a ledger yet there is nothing to find; the writer looks again.
        with contextlib.suppress(LedgerError), LedgerView(self.home.ledger) as view:
            project = self._project_row(view)
            if project is not None:
                same = view.find_entity(Kind.DATASET, project, digest=digest)
                taken = taken or view.find_entity(Kind.DATASET, project, name=name) is not None
        if same is not None:
            return self._same_name(Dataset.from_json(json.loads(same["json"])), name)
        if taken:
            raise DuplicateError(
                f"The project {self.project!r} has a dataset {name!r} already, with other content.",
                "Give this one another name.",
            )
        return None

    def _same_name(self, known: Dataset, name: str) -> Dataset:
        if known.name != name:
            raise DuplicateError(
                f"The project {self.project!r} has the same content already, as the dataset {known.name!r}.",
                "Use that name.",
            )
        return known

    def _project_row(self, view: LedgerView) -> str | None:
        for row in view.destinations():
            wanted = (self.destination.platform_url, self.destination.auth_url, self.destination.organization)
            if (row["platform_url"], row["auth_url"], row["organization"]) == wanted:
                found = view.find_entity(Kind.PROJECT, None, destination=row["id"], name=self.project)
                return None if found is None else str(found["uuid"])
        return None

    def start_training_run(
        self,
        name: str | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        datasets: Iterable[Dataset] = (),
        model: Any = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> TrainingRun:
        """Start a run to log to.

        Args:
            name: "Training Run N" by default.
            params: hyperparameters; anything that JSON can hold, and numpy values, dates, callables (by name).
            datasets: what `upload_dataset` returned.
            model: the model to be trained (or its name), for its class and framework.
        """
        line = self._line
        if name is not None:
            check_name("training run", name, 250)
        checked = check_params(params or {})
        uuids = [_dataset_uuid(dataset) for dataset in ([datasets] if isinstance(datasets, Dataset) else datasets)]
        run_uuid = new_uuid()
        model_uuid = None
        if model is not None:
            entity = _model_entity(model)
            line.store_entity(self._speaker, entity)
            model_uuid = entity.uuid
        run_entity = TrainingRunEntity(
            uuid=run_uuid,
            name=name or "",
            model=model_uuid,
            datasets=tuple(uuids),
            params=checked,
            metadata=check_params(metadata or {}, "metadata"),
            started_ns=time.time_ns(),
        )
        line.stream(self._speaker, run_uuid, launcher_rank())
        line.store_entity(self._speaker, run_entity, run=run_uuid)
        run = TrainingRun(self.home, self._speaker, run_uuid, name or "")
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


def _dataset_uuid(dataset: Any) -> str:
    if isinstance(dataset, Dataset):
        return dataset.uuid
    raise UsageError(
        f"datasets takes what upload_dataset returned, not {type(dataset).__name__}.",
        "Upload it first: train = seclea.upload_dataset(df, name).",
    )


def _model_entity(model: Any) -> Entity:
    from seclea.client.snapshot.models import describe_model  # loads nothing of the framework

    if isinstance(model, str):
        return Model(name=check_name("model", model, 100), framework="")
    name, framework = describe_model(model)
    return Model(name=check_name("model", name, 100), framework=framework)


_said: set[str] = set()


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        with contextlib.suppress(Exception):
            print(f"seclea: {text}", file=sys.stderr, flush=True)
