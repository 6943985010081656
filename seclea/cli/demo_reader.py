"""Reads back from a portal what the demo logged, and compares. Run as a script; imports the standard library only.

    python -I demo_reader.py URL NOTES      (an access token on standard input)

NOTES is a JSON file, written by the jobs and `demo.py`: {"organization", "datasets": [{"uuid", …}], "runs": [{"run", "name",
"curves", "states"}], "files": {"csv", "steps"}}. Three parts: what was logged against the notes; the runs beside each other;
the best one's way back to the raw data (`demo_evidence.py`, loaded by its path). Shares no code with seclea, on purpose, and
knows the portal by its HTTP interface only. Exit code 0 only if all of it matches.
"""

import hashlib
import importlib.util
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WIDTH = 68  # characters of a check, before its verdict
BEST_BY = "test_auc"


class Portal:
    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token
        self.organization = ""

    def read(self, path: str, **query: Any) -> bytes:
        if self.organization:
            query["organization"] = self.organization
        address = f"{self.url}{path}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(address, headers={"Authorization": f"Bearer {self.token}"})  # noqa: S310 (a portal)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310 (a portal)
                return bytes(reply.read())
        except urllib.error.HTTPError as error:
            words = error.read(500).decode("utf-8", "replace")
            raise ValueError(f"{path} answers {error.code}: {words}") from None

    def json(self, path: str, **query: Any) -> Any:
        return json.loads(self.read(path, **query))


class NotChecked(Exception):
    """A check that another one, which failed, leaves nothing to look at."""


class Report:
    """What was looked at, one line a check, and how it turned out."""

    def __init__(self) -> None:
        self.matching = 0
        self.others: list[str] = []

    def say(self, line: str = "") -> None:
        print(line, flush=True)

    def check(self, name: str, shown: str, look: Callable[..., str], *arguments: Any) -> None:
        """Print ``shown`` and the verdict; ``look`` returns what is wrong, or nothing. ``name`` stands where it is wrong."""
        try:
            trouble = look(*arguments)
        except NotChecked as error:
            self.others.append(f"{name} (not checked)")
            print(f"{shown:<{WIDTH}}  not checked: {error}", flush=True)
            return
        except Exception as error:  # whatever an answer makes fail, it is not what it should be
            trouble = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
        if trouble:
            self.others.append(name)
            print(f"{shown:<{WIDTH}}  MISMATCH: {name}: {trouble}", flush=True)
        else:
            self.matching += 1
            print(f"{shown:<{WIDTH}}  matches", flush=True)

    def broken(self, name: str, trouble: str) -> None:
        """Say that the rest could not be looked at."""
        self.others.append(name)
        self.say(f"  MISMATCH: {name}: {trouble}")

    def conclude(self) -> int:
        for name in self.others:
            print(f"  Does not match: {name}")
        print(f"{self.matching} of {self.matching + len(self.others)} match.", flush=True)
        return 1 if self.others else 0


def short(digest: Any) -> str:
    return str(digest)[:16]


def differ(what: str, found: Any, wanted: Any) -> str:
    """What is to be said of two values: nothing, where they are the same."""
    return "" if found == wanted else f"{what} {short(found)} instead of {short(wanted)}"


# ------------------------------------------------------------------------------------------------------------------
# What was logged


def check_dataset(portal: Portal, wanted: dict[str, Any]) -> str:
    found = portal.json(f"/collection/datasets/{wanted['uuid']}")
    stored = portal.read(f"/collection/datasets/{wanted['uuid']}/content")
    sha256 = hashlib.sha256(stored).hexdigest()
    return differ("digest", found["hash"], wanted["digest"]) or differ("its file has sha256", sha256, wanted["sha256"])


def check_curve(portal: Portal, run: str, key: str, wanted: dict[str, list[Any]]) -> str:
    found = portal.json(f"/collection/training-runs/{run}/metrics", key=key)
    for gap in found.get("gaps", []):
        return f"a hole in the stream: {json.dumps(gap)}"
    if found["count"] != len(wanted["values"]):
        return f"{found['count']} points instead of {len(wanted['values'])}"
    if found["steps"] != wanted["steps"]:
        return "the steps are not in order"
    for step, value, expected in zip(found["steps"], found["values"], wanted["values"], strict=True):
        if value != expected:
            return f"{value!r} instead of {expected!r} at step {step}"
    return ""


def check_curves(portal: Portal, run: str, wanted: dict[str, dict[str, list[Any]]]) -> str:
    troubles = ((key, check_curve(portal, run, key, curve)) for key, curve in wanted.items())
    return next((f"{key}: {trouble}" for key, trouble in troubles if trouble), "")


def tensor_digests(stored: bytes) -> dict[str, str]:
    """sha256 of each tensor in a safetensors file. Source: the format's own description (header length, JSON, data)."""
    length = int.from_bytes(stored[:8], "little")
    header = json.loads(stored[8 : 8 + length])
    data = stored[8 + length :]
    spans = {name: one["data_offsets"] for name, one in header.items() if name != "__metadata__"}
    return {name: hashlib.sha256(data[start:end]).hexdigest() for name, (start, end) in spans.items()}


def check_state(portal: Portal, run: str, number: int, wanted: dict[str, Any]) -> str:
    listed = portal.json("/collection/model-states", training_run=run, sequence_num=number)
    if [one["uuid"] for one in listed] != [wanted["uuid"]]:
        return f"state {number} is not there once"
    stored = portal.read(f"/collection/model-states/{wanted['uuid']}/content")
    if "tensors" in wanted and tensor_digests(stored) != wanted["tensors"]:
        return "its tensors are not those that were logged"
    return differ("sha256", hashlib.sha256(stored).hexdigest(), wanted.get("own_sha256", wanted["sha256"]))


def check_receipts(portal: Portal, run: str) -> str:
    """Every stream of the run has arrived up to the number that its end names."""
    heads = portal.json("/collection/receipts", training_run=run)
    if not heads:
        return "the portal has no receipt"
    if any(head["tombstones"] for head in heads):
        return "something was left out (tombstones)"
    return ""


def check_notes(portal: Portal, notes: dict[str, Any], report: Report) -> None:
    report.say("What was logged, against the jobs' own notes")

    def check(name: str, size: str, look: Callable[..., str], *arguments: Any) -> None:
        report.check(name, f"  {name:<30}{size}", look, portal, *arguments)

    for dataset in notes["datasets"]:
        check(f"dataset {dataset['name']}", f"{dataset['rows']} rows", check_dataset, dataset)
    for run in notes["runs"]:
        tested = {key: curve for key, curve in run["curves"].items() if key.startswith("test_")}
        for key, curve in run["curves"].items():
            if key not in tested:
                points = f"{len(curve['values'])} points"
                check(f"{run['name']}: curve {key}", points, check_curve, run["run"], key, curve)
        told = ", ".join(key.removeprefix("test_") for key in tested)
        check(f"{run['name']}: curves, test rows", told, check_curves, run["run"], tested)
        for number, state in enumerate(run["states"]):
            check(f"{run['name']}: state {number}", f"step {state['step']}", check_state, run["run"], number, state)
        check(f"{run['name']}: receipts", "nothing missing, nothing left out", check_receipts, run["run"])


# ------------------------------------------------------------------------------------------------------------------
# The runs beside each other


def compare_runs(portal: Portal, runs: Sequence[dict[str, Any]], report: Report) -> str:
    """Print the runs as the portal has them; the best one's uuid."""
    rows = [one_run(portal, run["run"]) for run in runs]
    best = max(rows, key=lambda row: float(row["values"][BEST_BY]))
    report.say()
    report.say("The models, by what the portal has of them (on the test rows; * best AUC)")
    report.say(f"  {'run':<10}  {'model':<26} library accuracy    AUC states   time")
    for row in rows:
        values, mark = row["values"], "*" if row is best else " "
        report.say(
            f"{mark} {row['name']:<10.10}  {row['model']:<26.26} {row['framework']:<7.7}"
            f" {values['test_accuracy']:>8.3f} {values[BEST_BY]:>6.4f} {row['states']:>6} {row['seconds']:>4.1f} s"
        )
    return str(best["uuid"])


def one_run(portal: Portal, uuid: str) -> dict[str, Any]:
    run = portal.json(f"/collection/training-runs/{uuid}")
    model = portal.json(f"/collection/models/{run['model']}")
    curves = {key: portal.json(f"/collection/training-runs/{uuid}/metrics", key=key)["values"]
              for key in ("test_accuracy", BEST_BY)}  # fmt: skip
    return {
        "uuid": uuid,
        "name": run["name"],
        "model": model["name"],
        "framework": model["framework"],
        "values": {key: values[-1] for key, values in curves.items()},
        "states": len(portal.json("/collection/model-states", training_run=uuid)),
        "seconds": (run["finished_ns"] - run["started_ns"]) / 1e9,
    }


# ------------------------------------------------------------------------------------------------------------------


def beside(name: str) -> Any:
    """The module of a file in this folder, which is no place to import from (`python -I`)."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main() -> int:
    url, path = sys.argv[1:3]
    portal, report = Portal(url, sys.stdin.readline().strip()), Report()
    notes = json.loads(Path(path).read_text("utf-8"))
    try:
        portal.organization = portal.json("/organization/", name=notes["organization"])[0]["uuid"]
    except (OSError, ValueError, LookupError) as error:
        report.broken("the portal", f"{url} cannot be asked ({error})")
        return report.conclude()
    check_notes(portal, notes, report)

    try:
        best = compare_runs(portal, notes["runs"], report)
        report.say()
        beside("evidence_digest")
        beside("demo_evidence").tell(portal, best, notes["files"], report)
    except Exception as error:  # the chain is broken so that it cannot be followed any further
        report.broken("the chain", f"{type(error).__name__}: {error}")
    report.say()
    return report.conclude()


if __name__ == "__main__":
    sys.modules["demo_reader"] = sys.modules["__main__"]  # where demo_evidence finds it
    sys.exit(main())
