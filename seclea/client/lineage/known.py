"""The datasets that a project is known to have: uploaded by this client, in the home's ledger, at the portal.

Asked in that order. The portal is asked once for what is nowhere here, and only for a moment; a portal that does not
answer is not a no.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seclea.client.snapshot.content import Content
from seclea.contract import Destination, Home
from seclea.entities import Dataset, DatasetTransformation, Entity, Kind
from seclea.errors import LedgerError, SecleaError
from seclea.ledger.view import LedgerView

if TYPE_CHECKING:
    from seclea.api.api import Api

_LABELS = (None, "train", "test", "validation")  # tried at a portal, which knows identities only


@dataclass(frozen=True, slots=True)
class Found:
    """A known dataset. ``at_portal``: it stands in no ledger here, so nothing waits for its delivery."""

    dataset: Dataset
    at_portal: bool = False


class KnownDatasets:
    """Look-ups in one project. ``open_api`` gives a way to the portal that waits for a second or two at most."""

    def __init__(self, home: Home, destination: Destination, project: str, open_api: Callable[[], Api]) -> None:
        self._home = home
        self._destination = destination
        self._project = project
        self._open_api = open_api
        self._lock = threading.Lock()
        self._own: dict[str, Dataset] = {}  # by uuid: the ledger may not show them yet
        self._steps: dict[str, DatasetTransformation] = {}  # by digest
        self.recording = threading.RLock()  # held from the last look at what is there to the end of hand-over

    def add(self, entity: Entity) -> None:
        """This client has just recorded it."""
        with self._lock:
            if isinstance(entity, Dataset):
                self._own[entity.uuid] = entity
            elif isinstance(entity, DatasetTransformation):
                self._steps[entity.digest] = entity

    def own(self) -> list[Dataset]:
        """What this client recorded and nobody refused since, oldest first."""
        refused = self._refused()
        with self._lock:
            return [one for one in self._own.values() if one.uuid not in refused]

    def _refused(self) -> set[str]:
        """uuids of datasets that were refused after they were handed over: they may be uploaded again."""
        return set(self._look(lambda view: view.refused_entities(Kind.DATASET)) or ())

    def by_identity(self, digest: str) -> Dataset | None:
        """The dataset with that identity, here."""
        return next((one for one in self._here(digest=digest) if one.digest == digest), None)

    def by_name(self, name: str) -> Dataset | None:
        """The dataset with that name, here."""
        return next((one for one in self._here(name=name) if one.name == name), None)

    def by_uuid(self, uuid: str) -> Dataset | None:
        """The dataset with that uuid, here; None for one that only the portal has."""
        with self._lock:
            if uuid in self._own:
                return self._own[uuid]
        row = self._look(lambda view: view.entity(uuid))
        return None if row is None or row["kind"] != Kind.DATASET else Dataset.from_json(json.loads(row["json"]))

    def by_content(self, content: Content, label: str | None = None) -> Found | None:
        """The dataset that holds that table. Of several: one with that label (or, where none is asked for, without one), then
        one with the same roles, then one that was uploaded under a name, then the latest.
        """
        here = [one for one in self._here(content=content.digest) if one.content_digest == content.digest]
        if not here:
            return None
        roles = {"X": list(content.features), "y": list(content.outputs)} if content.has_roles else None

        def rank(one: Dataset) -> tuple[bool, bool, bool, str]:
            labelled = (one.metadata.get("split") or "") == (label or "")
            return labelled, one.metadata.get("roles") == roles, not one.intermediate, one.uuid

        return Found(max(here, key=rank))

    def is_foreign(self, dataset: Dataset) -> bool:
        """Whether a dataset is known to be of another project."""
        with self._lock:
            if dataset.uuid in self._own:
                return False
        return _elsewhere(self, dataset.uuid) or bool(self._look(lambda view: self._is_elsewhere(view, dataset.uuid)))

    def _is_elsewhere(self, view: LedgerView, uuid: str) -> bool:
        row = view.entity(uuid)
        return row is not None and row["project"] != self._project_row(view)

    def ancestors(self, dataset: Dataset) -> set[str]:
        """Identities of a dataset and of all that it was made from, by parents and by recorded steps."""
        with self._lock:
            made = [(step.dataset, step.inputs) for step in self._steps.values()]
        made += self._look(self._steps_in_ledger) or []
        inputs: dict[str, set[str]] = {}
        for of, named in made:
            inputs.setdefault(of, set()).update(named)
        found, seen, waiting = set(), set(), [dataset]
        while waiting:
            one = waiting.pop()
            if one.uuid in seen:
                continue
            seen.add(one.uuid)
            found.add(one.digest)
            for uuid in {*inputs.get(one.uuid, ()), *([one.parent] if one.parent else ())} - seen:
                above = self.by_uuid(uuid)
                waiting += [above] if above is not None else []
        return found

    def _steps_in_ledger(self, view: LedgerView) -> list[tuple[str, tuple[str, ...]]]:
        project = self._project_row(view)
        return [] if project is None else view.steps(project)

    def at_portal(self, contents: Iterable[Content]) -> tuple[Found | None, bool]:
        """(the first of these that the portal has, whether the portal answered)."""
        hashes = []
        for content in contents:
            plain = content.with_roles((), ())
            hashes += [form.identity(label) for form in (content, plain) for label in _LABELS]
        try:
            api = self._open_api()
            try:
                return self._ask(api, list(dict.fromkeys(hashes))), True
            finally:
                api.close()
        except SecleaError:
            return None, self._destination.is_local  # what the home's own portal has stands in the ledger, too

    def _ask(self, api: Api, hashes: Sequence[str]) -> Found | None:
        organization = api.organization_uuid(self._destination.organization)
        projects = [
            item for item in api.find(Kind.PROJECT, organization=organization, name=self._project)
            if item.get("name") == self._project
        ]  # fmt: skip
        if not projects:
            return None
        scope = {"organization": organization, "project": str(projects[0]["uuid"])}
        for digest in hashes:
            for item in api.find(Kind.DATASET, **scope, hash=digest):
                if item.get("hash") == digest and isinstance(item.get("uuid"), str):
                    metadata = item.get("metadata")
                    return Found(
                        Dataset(
                            name=str(item.get("name", "")),
                            uuid=item["uuid"],
                            remote_id=item["uuid"],
                            digest=digest,
                            metadata=metadata if isinstance(metadata, dict) else {},
                        ),
                        at_portal=True,
                    )
        return None

    def has_step(self, digest: str) -> bool:
        """Whether a transformation is recorded already, for a dataset that was not refused."""
        refused = self._refused()
        with self._lock:
            own = self._steps.get(digest)
        if own is not None and own.dataset not in refused:
            return True
        rows = self._look(lambda view: self._rows(view, Kind.DATASET_TRANSFORMATION, digest=digest))
        return any(json.loads(row["json"])["dataset"] not in refused for row in rows or ())

    def all_here(self) -> list[Dataset]:
        """Every dataset that is known without asking the portal, oldest first."""
        return sorted({one.uuid: one for one in self._here()}.values(), key=lambda one: one.uuid)

    # ----------------------------------------------------------------------------------------------------------------

    def _here(self, **column: Any) -> list[Dataset]:
        """Datasets of this client (all of them), and those of the ledger with that column."""
        rows = self._look(lambda view: self._rows(view, Kind.DATASET, **column))
        return self.own() + [Dataset.from_json(json.loads(row["json"])) for row in rows or ()]

    def _look(self, question: Callable[[LedgerView], Any]) -> Any:
        """The answer of the ledger; None without one (nothing is there to find yet; the writer looks again)."""
        try:
            with LedgerView(self._home.ledger) as view:
                return question(view)
        except LedgerError:
            return None
        except sqlite3.OperationalError as error:
            if "no such column" not in str(error):
                raise LedgerError(f"The ledger {self._home.ledger} cannot be read: {error}.") from None
            return None  # of an older version, until its writer starts

    def _rows(self, view: LedgerView, kind: Kind, **column: Any) -> list[sqlite3.Row]:
        project = self._project_row(view)
        return [] if project is None else view.find_entities(kind, project, **column)

    def _project_row(self, view: LedgerView) -> str | None:
        wanted = (self._destination.platform_url, self._destination.auth_url, self._destination.organization)
        for row in view.destinations():
            if (row["platform_url"], row["auth_url"], row["organization"]) == wanted:
                found = view.find_entity(Kind.PROJECT, None, destination=row["id"], name=self._project)
                return None if found is None else str(found["uuid"])
        return None


_all: dict[tuple[str, Destination, str], KnownDatasets] = {}
_all_lock = threading.Lock()


def known_datasets(home: Home, destination: Destination, project: str, open_api: Callable[[], Api]) -> KnownDatasets:
    """The look-ups of this process in one project: what one client recorded, another one of the same project knows at once."""
    key = (str(home.path), destination, project)
    with _all_lock:
        if key not in _all:
            _all[key] = KnownDatasets(home, destination, project, open_api)
        return _all[key]


def _elsewhere(known: KnownDatasets, uuid: str) -> bool:
    """Whether a client of this process recorded it in another project."""
    with _all_lock:
        others = [one for one in _all.values() if one is not known]
    return any(uuid in one._own for one in others)


def _after_fork_in_child() -> None:
    global _all_lock
    _all_lock = threading.Lock()
    for known in _all.values():
        known._lock, known.recording = threading.Lock(), threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
