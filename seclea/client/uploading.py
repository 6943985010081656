"""Datasets on their way into the pipeline: content, lineage and metadata, then hand-over in the order of descent.

Rule 1  Everything that can be refused is refused before the first frame is handed over; files of a refused upload are
        removed.
Rule 2  What the project has already is not recorded again: a dataset by its identity, a step by its digest.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

from seclea.client.lineage.chain import Chain
from seclea.client.lineage.details import Step
from seclea.client.lineage.known import KnownDatasets
from seclea.client.snapshot.content import Content, split_content
from seclea.client.snapshot.files import Take, taking
from seclea.client.snapshot.tables import StoredTable, describe, read_table, store_parquet
from seclea.client.validation import DATASET_NAME, check_name
from seclea.contract import Home
from seclea.entities import Dataset, DatasetTransformation, from_json_value
from seclea.errors import DuplicateError, TooLargeError, UsageError
from seclea.transformations import DatasetTransformation as UserTransformation

HandOver = Callable[..., None]  # (entity, payload=path of its file)


class Upload:
    """One call of `upload_dataset` or `upload_dataset_split`. A context manager: leaving it by an error removes its files.

    Args:
        hand_over: gives an entity, and the file of its payload, to the pipeline.
        disk_limit: bytes that one payload may have.
        room: the directory for payload files, and what they ask for their bytes; by default ``incoming``, and nobody.
    """

    def __init__(
        self,
        home: Home,
        project: str,
        known: KnownDatasets,
        hand_over: HandOver,
        disk_limit: int,
        room: tuple[Path, Take] | None = None,
    ) -> None:
        self._directory, take = room or (home.incoming, None)
        self._room = taking(take) if take is not None else contextlib.nullcontext()
        self._project = project
        self._known = known
        self._hand_over = hand_over
        self._disk_limit = disk_limit
        self._files: list[StoredTable] = []
        self._pending: list[Future[StoredTable]] = []
        self._begun: Future[StoredTable] | None = None
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Upload:
        self._room.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._room.__exit__(None, None, None)
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        for pending in self._pending:
            with contextlib.suppress(Exception):
                self._files.append(pending.result())
        for file in self._files:  # what was handed over has been moved away
            file.path.unlink(missing_ok=True)

    def table(
        self,
        data: Any,
        name: str,
        metadata: Mapping[str, Any] | None,
        transformations: Sequence[UserTransformation] | None,
    ) -> Dataset:
        """Record a table."""
        name = check_name("dataset", name, DATASET_NAME)
        steps = _checked(transformations)
        content, stored = read_table(data, self._directory)
        if stored is not None:
            self._files.append(stored)
        path = os.fspath(data) if isinstance(data, str | os.PathLike) else ""
        return self._record(content, name, metadata, steps, stored, path)

    def split(
        self,
        features: Any,
        outputs: Any,
        name: str,
        metadata: Mapping[str, Any] | None,
        transformations: Sequence[UserTransformation] | None,
    ) -> Dataset:
        """Record X and y as one dataset with roles."""
        name = check_name("dataset", name, DATASET_NAME)
        steps = _checked(transformations)
        content = split_content(features, outputs, f"the dataset {name!r}")
        return self._record(content, name, metadata, steps, None, "")

    # ----------------------------------------------------------------------------------------------------------------

    def _record(
        self,
        content: Content,
        name: str,
        metadata: Mapping[str, Any] | None,
        transformations: Sequence[UserTransformation],
        stored: StoredTable | None,
        path: str,
    ) -> Dataset:
        if transformations:
            if stored is None and self._known.by_content(content) is None:
                self._begin_store(content)  # beside the steps, which take a while
            steps = Chain(transformations, content, metadata, self._known, self._store).walk()
            content, described = _with_table(steps[-1].content, content), steps[-1].metadata
        else:
            steps, described = [], describe(content, metadata)
        digest = content.identity(described.get("split"))
        if stored is None and self._known.by_identity(digest) is None:
            stored = (self._begun or self._begin_store(content)).result()
        self._check_sizes(name)
        with self._known.recording:  # another thread may be at the same
            known = self._taken(name, digest)
            parent = self._hand_over_steps(steps, name)
            if known is None:
                assert stored is not None
                known = self._dataset(name, digest, described, stored, parent, path=path)
            self._transformation(steps, len(steps) - 1, known)
        return known

    def _taken(self, name: str, digest: str) -> Dataset | None:
        """The same dataset, if it was recorded before; an error where its name or content is another's."""
        same = self._known.by_identity(digest)
        if same is not None:
            if same.name == name:
                return same
            if same.intermediate:
                _say(f"the dataset {name!r} is recorded already, as the step {same.name!r}; that one is used.")
                return same
            raise DuplicateError(
                f"The project {self._project!r} has the same content already, as the dataset {same.name!r}.",
                "Use that name.",
            )
        if self._known.by_name(name) is not None:
            raise DuplicateError(
                f"The project {self._project!r} has a dataset {name!r} already, with other content.",
                "Give this one another name.",
            )
        return None

    # -- files -------------------------------------------------------------------------------------------------------

    def _store(self, content: Content) -> Future[StoredTable]:
        """Store a step's table beside the next step's work. At most two wait for it, so that few tables are held."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="seclea-store")
        for pending in self._pending[:-1]:
            pending.exception()
        future = self._pool.submit(copy_context().run, store_parquet, content.table, self._directory)
        self._pending.append(future)
        return future

    def _begin_store(self, content: Content) -> Future[StoredTable]:
        """Store the dataset itself."""
        self._begun = self._store(content)
        return self._begun

    def _check_sizes(self, name: str) -> None:
        """Before anything is handed over: no payload may be larger than the limit on all of the disk."""
        for file in [*self._files, *(pending.result() for pending in self._pending)]:
            if file.size > self._disk_limit:
                raise TooLargeError(
                    f"The dataset {name!r}, or a step on the way to it, has {file.size / 1e6:.0f} MB;"
                    f" the disk limit is {self._disk_limit / 1e6:.0f} MB.",
                    "Raise limits.disk in .seclearc, or record less.",
                )

    # -- entities ----------------------------------------------------------------------------------------------------

    def _hand_over_steps(self, steps: Sequence[Step], name: str) -> dict[str, Any]:
        """Hand over the intermediate datasets and the steps that led to them; what to say of the last one's parent."""
        if not steps:
            return {}
        parent = _origin(steps[0])
        for number, step in enumerate(steps[:-1]):
            step.known = step.known or self._known.by_identity(step.identity)
            if step.known is None:
                assert step.stored is not None
                inner = self._free_name(f"{name}-{step.transformation.name}", name)
                stored = step.stored.result()
                step.known = self._dataset(inner, step.identity, step.metadata, stored, parent, intermediate=True)
            self._transformation(steps, number, step.known)
            parent = {"parent": step.known.uuid, "at_portal": _there(step.known)}
        return parent

    def _free_name(self, wanted: str, last: str) -> str:
        """A name for an intermediate dataset: two steps of one chain may have one function, and a long name is cut."""
        number, name = 1, wanted[:DATASET_NAME]
        while name == last or self._known.by_name(name) is not None:
            number += 1
            suffix = f"-{number}"
            name = wanted[: DATASET_NAME - len(suffix)] + suffix
        return name

    def _dataset(
        self,
        name: str,
        digest: str,
        metadata: dict[str, Any],
        stored: StoredTable,
        parent: Mapping[str, Any],
        *,
        intermediate: bool = False,
        path: str = "",
    ) -> Dataset:
        entity = Dataset(
            name=name,
            digest=digest,
            metadata=metadata,
            intermediate=intermediate,
            format=stored.format,
            file_path=path,
            size=stored.size,
            sha256=stored.sha256,
            **parent,
        )
        self._hand_over(entity, payload=stored.path)
        self._known.add(entity)
        return entity

    def _transformation(self, steps: Sequence[Step], number: int, made: Dataset) -> None:
        """Hand over one step, unless just this step is recorded already."""
        if not steps or self._known.has_step(steps[number].digest):
            return
        step = steps[number]
        inputs, there, data = [], list(_there(made)), []
        for one in step.inputs:
            dataset = steps[number - 1].known if one.inherited else one.found.dataset if one.found else None
            if dataset is not None:
                inputs.append(dataset.uuid)
                there += _there(dataset)
            data += [
                {
                    "name": name,
                    "inherited": one.inherited,
                    "dataset": dataset.uuid if dataset else None,
                    "digest": one.identity,
                }
                for name in one.names
            ]
        step.details["arguments"]["data"] = data
        entity = DatasetTransformation(
            name=step.transformation.name,
            digest=step.digest,
            dataset=made.uuid,
            inputs=tuple(dict.fromkeys(inputs)),
            at_portal=tuple(dict.fromkeys(there)),
            order=number,
            code_raw=step.function.source.text,
            details=from_json_value(step.details),
        )
        self._hand_over(entity)
        self._known.add(entity)


def _checked(transformations: Any) -> list[UserTransformation]:
    if transformations is None:
        return []
    steps = [transformations] if isinstance(transformations, UserTransformation) else transformations
    if not isinstance(steps, Sequence) or isinstance(steps, str):
        raise UsageError(f"transformations must be a list, not {type(steps).__name__}.")
    for step in steps:
        if not isinstance(step, UserTransformation):
            raise UsageError(
                f"transformations has a {type(step).__name__}.",
                'Use DatasetTransformation(func, data_kwargs={"df": df}, outputs=["df"]).',
            )
    return list(steps)


def _with_table(arrived: Content, passed: Content) -> Content:
    """The passed table with the roles that the chain gave it."""
    return passed.with_roles(arrived.features, arrived.outputs)


def _origin(first: Step) -> dict[str, Any]:
    """What the first dataset of a chain says of its parent."""
    primary = first.inputs[0]
    if primary.found is None:
        return {"parent_hash": primary.identity}
    dataset = primary.found.dataset
    return {"parent": dataset.uuid, "at_portal": (dataset.uuid,) if primary.found.at_portal else ()}


def _there(dataset: Dataset) -> tuple[str, ...]:
    """Its uuid where only the portal has it: nothing here waits for it then."""
    return (dataset.uuid,) if dataset.remote_id is not None else ()


def _say(text: str) -> None:
    with contextlib.suppress(Exception):
        print(f"seclea: {text}", file=sys.stderr, flush=True)
