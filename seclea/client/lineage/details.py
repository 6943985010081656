"""What is said of a step that was looked at, as it is recorded (docs/lineage.md)."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from seclea.client.lineage.functions import Arguments, Function, versions
from seclea.client.lineage.known import Found
from seclea.client.snapshot.content import Content
from seclea.client.snapshot.tables import StoredTable
from seclea.entities import Dataset
from seclea.records import canonical_json
from seclea.transformations import DatasetTransformation

_STEP_DOMAIN = b"seclea-step-v1\n"
REPRODUCED = "reproduced"
DECLARED = "declared, not verified"


@dataclass(slots=True)
class Input:
    """What a step was given under one or two names.

    Attributes:
        names: the arguments.
        identity: of the dataset that they make up.
        found: where it is known; None for the output of the step before, and for a parent that only the portal may know.
    """

    names: tuple[str, ...]
    identity: str
    content: Content
    found: Found | None = None
    inherited: bool = False


@dataclass(slots=True)
class Step:
    """One step that was looked at. ``content`` has let go of its table."""

    transformation: DatasetTransformation
    function: Function
    inputs: list[Input]
    content: Content
    split: str | None
    verdict: str
    metadata: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    known: Dataset | None = None  # the project has this very dataset already
    stored: Future[StoredTable] | None = None

    @property
    def identity(self) -> str:
        """Of the dataset that the step made."""
        return self.content.identity(self.split)


def step_details(step: Step, arguments: Arguments, before: Content, split_before: str | None) -> dict[str, Any]:
    """The ``details`` of a step's record; ``before`` is the content of its primary input."""
    function, transformation = step.function, step.transformation
    libraries = function.libraries | arguments.libraries | {step.content.framework, "pyarrow"}
    known = {one["qualified_name"] for one in function.helpers}
    return {
        "function": {
            "qualified_name": function.qualified_name,
            "module": function.module,
            "kind": function.kind,
            "fingerprint": function.fingerprint,
        },
        "source": {"file": function.source.file, "line": function.source.line, "missing": function.source.missing},
        "captured": function.captured,
        "helpers": [*function.helpers, *(one for one in arguments.helpers if one["qualified_name"] not in known)],
        "unverifiable": list(dict.fromkeys([*function.unverifiable, *arguments.unverifiable])),
        "arguments": {"data": [], "kwargs": arguments.described},
        "outputs": transformation.outputs,
        "split": step.split,
        "verdict": step.verdict,
        "output": {"digest": step.identity, "content_digest": step.content.digest},
        "before": _size(before),
        "after": _size(step.content),
        "changes": _changes(before, step.content) | {"split": step.split != split_before},
        "versions": versions(libraries),
    }


def step_digest(step: Step, arguments: Arguments) -> str:
    """What the step is: the same function with the same arguments between the same datasets, whoever declares it."""
    form = {
        "inputs": [[list(one.names), one.identity] for one in step.inputs],
        "output": step.identity,
        "outputs": step.transformation.outputs,
        "split": step.split,
        "verdict": step.verdict,
        "fingerprint": step.function.fingerprint,
        "kwargs": arguments.form,
    }
    return hashlib.sha256(_STEP_DOMAIN + canonical_json(form)).hexdigest()


def _size(content: Content) -> dict[str, int]:
    return {"rows": content.rows, "columns": len(content.names), "nulls": content.nulls}


def _changes(before: Content, after: Content) -> dict[str, Any]:
    old = {column.name: column.digest for column in before.columns if column.role == "column"}
    new = {column.name: column.digest for column in after.columns if column.role == "column"}
    both = [name for name in new if name in old]
    index = [[column[1:] for column in one.columns if column.role == "index"] for one in (before, after)]
    return {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "changed": [name for name in both if new[name] != old[name]],
        "rows": after.rows - before.rows,
        "reordered": both != [name for name in old if name in new],
        "index": index[0] != index[1],
        "roles": (before.features, before.outputs) != (after.features, after.outputs),
    }
