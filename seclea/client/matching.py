"""Which recorded datasets a run was trained and tested on, found by content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from seclea.client.lineage.compare import nearest
from seclea.client.lineage.known import KnownDatasets
from seclea.client.snapshot.content import Content, memory_content, split_content
from seclea.entities import Dataset
from seclea.errors import UnknownDatasetError, UsageError

ROLES = ("train", "test", "validation")


@dataclass(frozen=True, slots=True)
class UsedDataset:
    """A dataset of a run.

    Attributes:
        id: its uuid; its identity where only the portal may know it.
        role: "train", "test", "validation", or "" where nobody said.
        here: whether it stands in a ledger here, so that the run waits for its delivery.
        metadata: the dataset's, {} where it is not known.
    """

    id: str
    role: str
    here: bool
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Split:
    """X and y of one dataset, as a run is given them."""

    features: Any
    outputs: Any


def used_datasets(known: KnownDatasets, given: Iterable[tuple[str, Any]]) -> list[UsedDataset]:
    """The datasets of a run, given (role, what `upload_dataset` returned, a table, or a `Split`).

    Raises:
        UnknownDatasetError: a table is no dataset of the project; the message says which of them.
        UsageError: something else than a dataset or table, or a role that there is not.
    """
    return [_used(known, role, data) for role, data in given]


def named_datasets(datasets: Any) -> list[tuple[str, Any]]:
    """(role, dataset) pairs of what `start_training_run` takes: one, several, or several by role."""
    if isinstance(datasets, Mapping):
        for role in datasets:
            if role not in ROLES:
                raise UsageError(f"A run has no {role!r} dataset.", f"Use {', '.join(map(repr, ROLES))}.")
        return list(datasets.items())
    if isinstance(datasets, Dataset):
        return [("", datasets)]
    if isinstance(datasets, str | bytes) or not isinstance(datasets, Iterable) or hasattr(datasets, "columns"):
        raise UsageError(
            f"datasets takes a list of what upload_dataset returned, not {type(datasets).__name__}.",
            'For instance datasets=[train], or datasets={"train": train, "test": test}.',
        )
    return [(_label(dataset), dataset) for dataset in datasets]


def _label(dataset: Any) -> str:
    """The role that a dataset's own label says."""
    split = dataset.metadata.get("split") if isinstance(dataset, Dataset) else None
    return split if split in ROLES else ""


def _used(known: KnownDatasets, role: str, data: Any) -> UsedDataset:
    shown = f"The {role or 'given'} dataset"
    if isinstance(data, Dataset):
        if known.is_foreign(data):
            raise UnknownDatasetError(
                f"{shown}, {data.name!r}, belongs to another project.", "Upload it to this project, too."
            )
        return UsedDataset(data.uuid, role, data.remote_id is None, data.metadata)
    if isinstance(data, str):
        raise UsageError(
            f"{shown} is the text {data[:60]!r}, not a dataset.",
            "Pass what upload_dataset(df, name) returned, or the table itself.",
        )
    content = _content(data, shown, role)
    found = known.by_content(content, role)
    answered = True
    if found is None:
        found, answered = known.at_portal([content])
    if found is not None:
        return UsedDataset(found.dataset.uuid, role, not found.at_portal, found.dataset.metadata)
    if not answered:  # found out when it is delivered
        return UsedDataset(content.identity(None), role, False, {})
    raise _unknown(known, content, shown)


def _content(data: Any, shown: str, role: str) -> Content:
    if isinstance(data, Split):
        if data.features is None or data.outputs is None:
            missing, given = ("X", "y") if data.features is None else ("y", "X")
            raise UsageError(f"{shown} has {given}_{role} without {missing}_{role}.", "Pass both, or neither.")
        return split_content(data.features, data.outputs, shown.lower())
    return memory_content(data, shown)


def _unknown(known: KnownDatasets, content: Content, shown: str) -> UnknownDatasetError:
    relative = nearest(content, known.all_here())
    near = f" Nearest is {relative[0].name!r}, but this one {relative[1]}." if relative is not None else ""
    return UnknownDatasetError(
        f"{shown} ({content.rows} rows, {len(content.names)} columns) is no dataset of the project.{near}",
        "Upload it first, with the transformations that led to it: upload_dataset(df, name, transformations=[…]).",
    )
