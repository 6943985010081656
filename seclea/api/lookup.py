"""What the portal has in the place of a record: asked before a create, or after one that says "already exists".

project            by name
model              by name and framework
dataset            by hash (the same content), then by name (another content)
model state        by training run and sequence number
training run       by name, and then by our id: the run's own, or in its metadata where the portal makes its own
transformation     by dataset and name, and then by our id, or by code and place in the chain

All of these are lists that every portal has; whether it heeds a filter is looked at here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from seclea.api.base_bodies import RUN_MARK
from seclea.api.replies import clean, outcome_of
from seclea.contract import Outcome, Verdict
from seclea.entities import Kind
from seclea.errors import SecleaError
from seclea.records import Record, RecordKind


class Asker(Protocol):
    """The part of `Api` that a look-up needs."""

    def find(self, kind: Kind | RecordKind, **filters: str) -> list[dict[str, Any]]: ...

    def get(self, kind: Kind | RecordKind, uuid: str, **filters: str) -> dict[str, Any] | None: ...


class Lookup:
    """One record's look-up.

    Attributes:
        uuid: the record's own id, "" for what is no entity.
        scope: the query of every request about the record: organization, and project where it has one.
    """

    def __init__(
        self, api: Asker, record: Record, organization: str, references: Mapping[str, str], project: str | None
    ) -> None:
        self._api = api
        self._record = record
        self._references = references
        self._body: dict[str, Any] = {} if record.kind is RecordKind.METRICS else json.loads(record.body)
        self.uuid = str(self._body.get("uuid", ""))
        self.scope = {"organization": organization}
        if record.kind is not RecordKind.PROJECT and (project := project or self._body.get("project")):
            self.scope["project"] = self._known(project)

    def existing(self) -> Outcome | None:
        """ADOPTED, REFUSED, None where there is nothing; the verdict of the failure where the portal does not say."""
        ask = {
            RecordKind.PROJECT: self._project,
            RecordKind.MODEL: self._model,
            RecordKind.DATASET: self._dataset,
            RecordKind.MODEL_STATE: self._model_state,
            RecordKind.TRAINING_RUN: self._training_run,
            RecordKind.DATASET_TRANSFORMATION: self._transformation,
        }.get(self._record.kind)
        try:
            return ask() if ask is not None else None
        except SecleaError as error:
            return outcome_of(error)

    def _project(self) -> Outcome | None:
        return self._adopt(self._find(name=self._body["name"]))

    def _model(self) -> Outcome | None:
        return self._adopt(self._find(name=self._body["name"], framework=self._body["framework"]))

    def _dataset(self) -> Outcome | None:
        same = self._adopt(self._find(hash=self._body["hash"]))
        if same is not None:
            return same
        return self._taken(self._find(name=self._body["name"]), "hash", self._body["hash"])

    def _model_state(self) -> Outcome | None:
        number = self._body["sequence_num"]
        run = self._known(self._body["training_run"])
        found = [
            item
            for item in self._api.find(Kind.MODEL_STATE, **self.scope, training_run=run, sequence_num=str(number))
            if str(item.get("sequence_num", number)) == str(number) and item.get("training_run", run) == run
        ]
        # An older portal gives no digest to compare. The run is ours and so is the number: then the state is, too.
        same = [item for item in found if item.get("sha256") in (None, self._body["sha256"])]
        return self._adopt(same) or self._taken(found, "sha256", self._body["sha256"])

    def _training_run(self) -> Outcome | None:
        """Ours only: another run with the same name and parameters is another training."""
        return self._adopt(item for item in self._find(name=self._body["name"]) if self._is_this(item))

    def _transformation(self) -> Outcome | None:
        body = self._body
        found = self._find(dataset=self._known(body["dataset"]), name=body["name"])
        same = [item for item in found if self._is_this(item)]
        return self._adopt(same) or self._adopt(
            item
            for item in found
            if item.get("code_raw") == body["code_raw"] and item.get("order", body["order"]) == body["order"]
        )

    def _is_this(self, item: Mapping[str, Any]) -> bool:
        metadata = item.get("metadata")
        mark = metadata.get(RUN_MARK) if isinstance(metadata, dict) else None
        return bool(self.uuid) and self.uuid in (item.get("uuid"), mark)

    # ----------------------------------------------------------------------------------------------------------------

    def _find(self, **wanted: str) -> list[dict[str, Any]]:
        """What has all the wanted values: a portal that ignores a filter must not make us adopt something else."""
        found = self._api.find(self._record.kind, **{**self.scope, **wanted})
        project = self.scope.get("project")
        return [
            item
            for item in found
            if all(item.get(name) == value for name, value in wanted.items())
            and (project is None or item.get("project") in (None, project))
        ]

    def _known(self, uuid: str) -> str:
        return self._references.get(uuid, uuid)

    def _adopt(self, found: Iterable[Mapping[str, Any]]) -> Outcome | None:
        ids = [item["uuid"] for item in found if isinstance(item.get("uuid"), str)]
        if not ids:
            return None
        remote_id = self.uuid if self.uuid in ids else ids[0]
        return Outcome(Verdict.ADOPTED, 200, f"the portal has this {self._record.kind} already", remote_id=remote_id)

    def _taken(self, found: Iterable[Mapping[str, Any]], what: str, ours: str) -> Outcome | None:
        for item in found:
            theirs = clean(str(item.get(what, "unknown")))
            name = self._body.get("name") or f"number {self._body.get('sequence_num')}"
            return Outcome(
                Verdict.REFUSED,
                400,
                f"the portal has a {self._record.kind} {name} with other content ({what} {theirs}, ours {ours})",
            )
        return None
