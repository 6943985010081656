"""How a model came to be, by what a portal has of it: from its file back to the raw data, each link computed again.

Loaded by `demo_reader.py`. Standard library, pyarrow and `evidence_digest.py`; no code of seclea. Nothing is run again and no
pickle is opened: files, tables and digests only.

Rule 1  What is printed is what the portal says; the verdict beside it, what its files say.
Rule 2  A digest that a dataset or a step names is held against the one computed from the downloaded file, never against
        another one that the portal names.
"""

import functools
import hashlib
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from seclea.cli import evidence_digest as digests
    from seclea.cli.demo_reader import NotChecked, Portal, Report, differ, short
else:  # found where the reader put them
    import evidence_digest as digests
    from demo_reader import NotChecked, Portal, Report, differ, short

LINE = 78  # characters of a line without a verdict
Json = dict[str, Any]


def tell(portal: Portal, run: str, files: dict[str, str], report: Report) -> None:
    """Print the way of a run's final state back to the raw data, and check it.

    Args:
        run: uuid.
        files: paths here, of what the chain starts from: "csv", the raw table, and "steps", the code of the steps.
    """
    chain = _Chain(portal, files, report)
    state = chain.state(portal.json(f"/collection/training-runs/{run}"))
    report.say()
    chain.graph(state["uuid"])
    report.say("  In full, to compare with sha256sum:")
    report.say(f"    model     {state['sha256']}")
    for raw in chain.origins:
        report.say(f"    raw data  {raw.shown['sha256']}")


class _Dataset:
    """A dataset as the portal shows it, and what its file says. What depends on a file that cannot be read is not checked."""

    def __init__(self, portal: Portal, uuid: str) -> None:
        self._portal = portal
        self.shown: Json = portal.json(f"/collection/datasets/{uuid}")
        self.uuid, self.name, self.metadata = uuid, self.shown["name"], self.shown["metadata"]

    @functools.cached_property
    def file(self) -> bytes:
        return self._portal.read(f"/collection/datasets/{self.uuid}/content")

    @functools.cached_property
    def table(self) -> Any:
        try:
            if self.shown["format"] == "csv":
                return digests.csv_table([self.file])
            return pq.ParquetFile(io.BytesIO(self.file)).read()
        except Exception as error:
            raise NotChecked(f"the file of {self.name!r} cannot be read ({type(error).__name__})") from error

    @functools.cached_property
    def parts(self) -> list[tuple[str, str, bytes]]:
        return digests.table_parts(self.table)

    @functools.cached_property
    def content(self) -> str:
        return digests.table_digest(self.table)

    @property
    def split(self) -> str:
        return self.metadata.get("split") or ""

    @property
    def roles(self) -> tuple[list[str], list[str]]:
        roles = self.metadata.get("roles") or {}
        return roles.get("X") or [], roles.get("y") or []

    @property
    def identity(self) -> str:
        """Of the table in the file, with the label and the roles that the portal names."""
        return digests.identity(self.content, self.split, *self.roles)

    @property
    def described(self) -> list[list[str]]:
        """Role, name, type and digest of each column and level of the index, as `column_digests` has them."""
        types = {field.name: digests.type_of_field(field) for field in self.table.schema}
        return [[role, name, types.get(name, "int64"), digest.hex()] for role, name, digest in self.parts]

    @property
    def columns(self) -> dict[str, bytes]:
        return {name: digest for role, name, digest in self.parts if role == "column"}

    @property
    def index(self) -> list[tuple[str, bytes]]:
        return [(name, digest) for role, name, digest in self.parts if role == "index"]

    @property
    def measures(self) -> dict[str, int]:
        columns = [self.table.column(name) for name in self.columns]
        nulls = sum(pc.sum(pc.is_null(column, nan_is_null=True)).as_py() for column in columns)
        return {"rows": self.table.num_rows, "columns": len(columns), "nulls": nulls}


class _Chain:
    """One model's way. Datasets are read once; what was walked is kept as edges, for `graph`."""

    def __init__(self, portal: Portal, files: dict[str, str], report: Report) -> None:
        self._portal = portal
        self._csv, self._steps = Path(files["csv"]), Path(files["steps"])
        self._report = report
        self._datasets: dict[str, _Dataset] = {}
        self._told: set[str] = set()
        self._edges: set[tuple[str, str, str]] = set()
        self.origins: list[_Dataset] = []

    def _dataset(self, uuid: str) -> _Dataset:
        if uuid not in self._datasets:
            self._datasets[uuid] = _Dataset(self._portal, uuid)
        return self._datasets[uuid]

    def _head(self, text: str) -> None:
        self._report.say(f"  {text}")

    def _note(self, label: str, text: str) -> None:
        lines = textwrap.wrap(text, LINE - 14)
        for number, line in enumerate(lines):
            self._report.say(f"    {'' if number else label:<10}{line}")

    # -- state and run -----------------------------------------------------------------------------------------------

    def state(self, run: Json) -> Json:
        """The final state, the run that made it and the data of that run; the state."""
        model = self._portal.json(f"/collection/models/{run['model']}")
        states = self._portal.json("/collection/model-states", training_run=run["uuid"])
        state: Json
        (state,) = [one for one in states if one["final_state"]]
        self._edges.add((run["uuid"], state["uuid"], "state"))
        self._report.say(f"How the best one came to be, from its file back to the raw data: {run['name']}")
        name = f"state {state['sequence_num']}"
        self._head(f"{name} of {run['name']!r}, final, at step {state['step']}")
        shown = f"{state['format']}, {size(state['size'])}, sha256 {short(state['sha256'])}"
        self._check(f"{run['name']}, {name}", "file", shown, self._check_state, state)
        told = run["metadata"]
        self._head(f"↑ trained by the run {run['name']!r}")
        version = told.get("framework_version", "")
        self._note("model", f"{model['name']} ({model['framework']} {version}), {told.get('application_type')}")
        self._note("params", ", ".join(f"{key}={value!r}" for key, value in run["params"].items()))
        used = list(zip(run["dataset_roles"], run["datasets"], strict=True))
        for role, uuid in used:
            self._edges.add((uuid, run["uuid"], role))
        shown = ", ".join(f"{role}: {self._dataset(uuid).name!r}" for role, uuid in used)
        self._check(f"the run {run['name']!r}", "data", shown, self._check_used, used)
        for _, uuid in sorted(used, key=lambda one: one[0] != "train"):
            self._report.say()
            self.way_back(uuid)
        return state

    def _check(self, of: str, label: str, shown: str, look: Any, *arguments: Any) -> None:
        self._report.check(f"{of}, {label}", f"    {label:<10}{shown}", look, *arguments)

    def _check_state(self, state: Json) -> str:
        file = self._portal.read(f"/collection/model-states/{state['uuid']}/content")
        return check_file(file, state)

    def _check_used(self, used: Sequence[tuple[str, str]]) -> str:
        for role, uuid in used:
            dataset = self._dataset(uuid)
            if dataset.split != role:
                return f"{dataset.name!r} was the {role} dataset, but is labelled {dataset.split!r}"
        return "" if [role for role, _ in used].count("train") == 1 else "there is not one dataset to train on"

    # -- datasets ----------------------------------------------------------------------------------------------------

    def way_back(self, uuid: str) -> None:
        """A dataset, the step that made it, and so on from what that was given."""
        while uuid not in self._told:
            self._told.add(uuid)
            dataset = self._dataset(uuid)
            self._tell_dataset(dataset)
            steps = self._portal.json("/collection/dataset-transformations", dataset=uuid)
            if not steps and dataset.shown["parent"] is None:
                self.origins.append(dataset)
                name = f"{self._csv.name} on this disk"
                self._head("↑ read from a file")
                self._check(f"dataset {dataset.name!r}", "origin", f"{name}, the same bytes", self._check_csv, dataset)
                return
            if len(steps) != 1:
                self._check(
                    f"dataset {dataset.name!r}", "step", f"{len(steps)} lead here", lambda: "not one step leads here"
                )
                return
            uuid = self._tell_step(steps[0], dataset)
        self._head(f"  dataset {self._dataset(uuid).name!r}, as above")

    def _tell_dataset(self, dataset: _Dataset) -> None:
        shown, of = dataset.shown, f"dataset {dataset.name!r}"
        self._head(of + (", recorded on the way" if shown["intermediate"] else ""))
        stored = f"{shown['format']}, {size(shown['size'])}, sha256 {short(shown['sha256'])}"
        self._check(of, "file", stored, lambda: check_file(dataset.file, shown))
        told = dataset.metadata
        rows, columns = told.get("num_samples"), len(told.get("features") or [])
        content = f"{rows} rows, {columns} columns, digest {short(told.get('content_digest'))}"
        self._check(of, "content", content, self._check_content, dataset)
        features, outputs = dataset.roles
        parts = [f"X {len(features)} columns, y {', '.join(outputs)}"] if features or outputs else []
        parts += [f"label {dataset.split}"] if dataset.split else []
        kind = f"{short(shown['hash'])}: {', '.join(parts)}" if parts else "that of its content (no roles, no label)"
        self._check(of, "identity", kind, self._check_identity, dataset)

    def _check_content(self, dataset: _Dataset) -> str:
        told = dataset.metadata
        columns = dataset.described
        for found, wanted in zip(told["column_digests"], columns, strict=False):
            if found != wanted:
                return f"the column {wanted[1]!r} is not what the portal says"
        return (
            differ("content digest", told["content_digest"], dataset.content)
            or differ("rows:", told["num_samples"], dataset.table.num_rows)
            or differ("columns:", len(told["column_digests"]), len(columns))
        )

    def _check_identity(self, dataset: _Dataset) -> str:
        for name in [*dataset.roles[0], *dataset.roles[1]]:
            if name not in dataset.columns:
                return f"its roles name {name!r}, which is no column"
        return differ("the portal's hash is", dataset.shown["hash"], dataset.identity)

    def _check_csv(self, dataset: _Dataset) -> str:
        here = self._csv.read_bytes()
        found = hashlib.sha256(here).hexdigest()
        return differ("the file here has sha256", found, hashlib.sha256(dataset.file).hexdigest()) or differ(
            "the file here has the digest", digests.digest_of_file(here, "csv"), dataset.identity
        )

    # -- steps -------------------------------------------------------------------------------------------------------

    def _tell_step(self, step: Json, made: _Dataset) -> str:
        """A step and what it was given first."""
        details = step["details"]
        for uuid in step["inputs"]:
            self._edges.add((uuid, made.uuid, step["uuid"]))
        given = self._dataset(step["inputs"][0])
        of = f"step {step['name']!r} to {made.name!r}"
        arguments = ", ".join(f"{key}={value!r}" for key, value in details["arguments"]["kwargs"].items())
        verdict = "run again at the upload: reproduced" if details["verdict"] == "reproduced" else details["verdict"]
        self._head(f"↑ {step['name']}({arguments}); {verdict}")
        source, fingerprint = details["source"], details["function"]["fingerprint"]
        where = f"{source['file']}:{source['line']}, fingerprint {fingerprint[:12]}"
        self._check(of, "code", where, self._check_source, step)
        self._check(of, "changes", changes_said(details), self._check_changes, details, given, made)
        ends = f"{short(details['arguments']['data'][0]['digest'])} → {short(details['output']['digest'])}"
        self._check(of, "in → out", ends, self._check_ends, step, made)
        return given.uuid

    def _check_source(self, step: Json) -> str:
        """The recorded text stands in the file here, where the record says."""
        source, code = step["details"]["source"], step["code_raw"]
        if source["missing"]:
            return str(source["missing"])
        first = source["line"] - 1
        lines = self._steps.read_text("utf-8").splitlines()[first : first + len(code.splitlines())]
        same = code and textwrap.dedent("\n".join(lines)).strip() == code.strip()
        return "" if same else f"what stands at line {source['line']} of {self._steps.name} is another text"

    def _check_changes(self, details: Json, given: _Dataset, made: _Dataset) -> str:
        old, new = given.columns, made.columns
        found = {
            "added": [name for name in new if name not in old],
            "removed": [name for name in old if name not in new],
            "changed": [name for name in new if name in old and new[name] != old[name]],
            "rows": made.table.num_rows - given.table.num_rows,
            "index": given.index != made.index,
            "roles": given.roles != made.roles,
            "split": given.split != made.split,
        }
        for what, value in found.items():
            if details["changes"][what] != value:
                return f"{what}: the step says {details['changes'][what]!r:.60}, the tables {value!r:.60}"
        for when, dataset in (("before", given), ("after", made)):
            if details[when] != dataset.measures:
                return f"{when}: the step says {details[when]}, the table has {dataset.measures}"
        return ""

    def _check_ends(self, step: Json, made: _Dataset) -> str:
        details = step["details"]
        for one in details["arguments"]["data"]:
            if one["dataset"] not in step["inputs"]:
                return f"it was given {short(one['dataset'])}, which is none of its inputs"
            given = self._dataset(one["dataset"])
            if trouble := differ(f"{given.name!r} went in as", one["digest"], given.identity):
                return trouble
        if made.shown["parent"] != step["inputs"][0]:
            parent = self._dataset(made.shown["parent"]).name if made.shown["parent"] else None
            given = self._dataset(step["inputs"][0])
            return f"the portal says that {made.name!r} comes from {parent!r}, the step was given {given.name!r}"
        return differ("it gave", details["output"]["digest"], made.identity) or differ(
            "it gave the content", details["output"]["content_digest"], made.content
        )

    # -- the whole ---------------------------------------------------------------------------------------------------

    def graph(self, state: str) -> None:
        """The portal's own graph above the state has what was walked, and nothing else."""
        of, shown = "the portal's lineage graph", f"{len(self._edges)} links, the same as walked here"
        self._report.check(of, f"  {of}: {shown}", self._check_graph, state)

    def _check_graph(self, state: str) -> str:
        graph = self._portal.json("/collection/lineage", model_state=state, direction="up")
        drawn = {(one["from"], one["to"], one.get("transformation") or one["kind"]) for one in graph["edges"]}
        names = {one["uuid"]: one["name"] for one in graph["nodes"]}
        for start, end, _ in drawn ^ self._edges:
            return f"the link from {names.get(start)!r} to {names.get(end)!r} is in one of them only"
        return ""


# ------------------------------------------------------------------------------------------------------------------


def size(count: int) -> str:
    return f"{count / 1000:.1f} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def check_file(file: bytes, shown: Json) -> str:
    if len(file) != shown["size"]:
        return f"{len(file)} bytes instead of {shown['size']}"
    return differ("sha256", hashlib.sha256(file).hexdigest(), shown["sha256"])


def changes_said(details: Json) -> str:
    """What a step changed, by its record, in few words."""
    before, after, changes = details["before"], details["after"], details["changes"]
    words = [f"{before['rows']} → {after['rows']} rows"] if changes["rows"] else []
    for what, word in (("removed", "dropped"), ("added", "added")):
        if names := changes[what]:
            more = ", …" if len(names) > 2 else ""
            words.append(f"{len(names)} columns {word} ({', '.join(names[:2])}{more})")
    if not changes["rows"] and changes["changed"]:
        words.append(f"{len(changes['changed'])} columns changed")
    if before["nulls"] != after["nulls"]:
        words.append(f"{before['nulls']} → {after['nulls']} nulls")
    words += [word for word, key in (("roles", "roles"), ("label", "split")) if changes[key]]
    return ", ".join(words)
