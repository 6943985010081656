"""The entities of the ledger: which is the same as which, which the portal would refuse, what must be there first.

Inside the caller's transaction, as everything of the `Recorder`.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from seclea.entities import Kind
from seclea.ledger.db import Ledger
from seclea.writer.stream import Stream


class EntityRows:
    """Entities as rows of a ledger, unique as the portal wants them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def twin(self, kind: Kind, entity: dict[str, Any], stream: Stream) -> str | None:
        """The entity that this one is the same as: same model name and framework, same dataset name and content.

        An intermediate dataset is nobody's by name: two processes that go the same way give it two. The same step of the
        same way is recorded once, too.
        """
        if kind is Kind.MODEL:
            row = self._ledger.find_entity(kind, stream.project, name=entity["name"], framework=entity["framework"])
        elif kind is Kind.DATASET:
            row = self._ledger.find_entity(kind, stream.project, digest=entity["digest"])
            if row is not None and row["name"] != entity["name"]:
                unnamed = entity.get("intermediate") or json.loads(row["json"]).get("intermediate")
                row = row if unnamed else None
        elif kind is Kind.DATASET_TRANSFORMATION and entity.get("digest"):
            row = self._ledger.find_entity(kind, stream.project, digest=entity["digest"])
            made = None if row is None else self._ledger.entity(json.loads(row["json"])["dataset"])
            row = row if made is not None and not made["refused"] else None
        else:
            return None
        return None if row is None else str(row["uuid"])

    def insert_unique(self, entity: dict[str, Any], kind: Kind, stream: Stream, run: str | None) -> str:
        """Insert an entity; the reason why not, where the portal would have to refuse it."""
        try:
            self.insert(entity, kind, stream.destination, stream.project, run)
        except sqlite3.IntegrityError:
            reason = self._duplicate_reason(kind, entity, stream)
            self.insert(entity, kind, stream.destination, stream.project, run, refused=True)
            return reason
        return ""

    def _duplicate_reason(self, kind: Kind, entity: dict[str, Any], stream: Stream) -> str:
        if kind is Kind.DATASET:
            same = self._ledger.find_entity(kind, stream.project, digest=entity["digest"])
            if same is not None:
                return f"The same content is recorded already, as the dataset {same['name']!r}."
            return f"The project has another dataset named {entity['name']!r}, with other content."
        if kind is Kind.MODEL_STATE:
            return f"The run has a model state number {entity['sequence_num']} already."
        return f"The project has a {kind} named {entity['name']!r} already."

    def insert(
        self,
        entity: dict[str, Any],
        kind: Kind,
        destination: int,
        project: str | None,
        run: str | None,
        *,
        same_as: str | None = None,
        refused: bool = False,
    ) -> None:
        """Add its row, as one that is the same as another, or that was refused."""
        row = {
            "uuid": entity["uuid"],
            "kind": kind,
            "destination": destination,
            "project": project,
            "run": run,
            "name": entity["name"],
            "digest": entity.get("digest") or None,
            "content": (entity["metadata"].get("content_digest") or entity["digest"]) if kind is Kind.DATASET else None,
            "framework": entity.get("framework"),
            "sequence_num": entity.get("sequence_num") if not refused else None,
            "same_as": same_as,
            "refused": refused,
            "json": json.dumps(entity, separators=(",", ":"), allow_nan=False),
        }
        self._ledger.add_entity(row)

    def needs(self, kind: Kind, entity: dict[str, Any], stream: Stream) -> list[str]:
        """Entities that must be at the portal first. A run's own records need the run without saying so."""
        needs = [stream.project]
        if kind is Kind.DATASET and entity["parent"]:
            needs.append(entity["parent"])
        elif kind is Kind.DATASET_TRANSFORMATION:
            needs += [entity["dataset"], *entity.get("inputs", ())]
        elif kind is Kind.TRAINING_RUN:
            needs += [entity["model"]] if entity["model"] else []
            needs += entity["datasets"]
        elif kind is Kind.MODEL_STATE:
            needs = [entity["training_run"]]
        there = entity.get("at_portal", ())
        return [uuid for uuid in dict.fromkeys(needs) if uuid not in there]

    def hold_of(self, entity: str | None) -> str | None:
        """Why something that needs this entity cannot be sent; None when it can (perhaps later)."""
        if entity is None:
            return None
        row = self._ledger.entity(entity)
        if row is None:
            return None
        if row["refused"]:
            return f"its {row['kind']} {row['name']!r} was refused"
        return self._ledger.hold_of_entity(row["uuid"])

    def resolve(self, uuid: str) -> str:
        """The uuid of what an entity turned out to be."""
        row = self._ledger.entity(uuid)
        return uuid if row is None else str(row["uuid"])
