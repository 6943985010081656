"""Reads back from a portal what the demo logged, and compares. Run as a script; imports the standard library only.

    python demo_reader.py URL NOTES      (an access token on standard input)

NOTES is a JSON file: {"dataset": {...}, "runs": [...]}, written by the jobs. Shares no code with the pipeline, on purpose.
Exit code 0 only if all of it matches.
"""

import hashlib
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any


class Portal:
    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token

    def read(self, path: str, **query: Any) -> bytes:
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


def check_dataset(portal: Portal, organization: str, wanted: dict[str, Any]) -> str:
    found = portal.json(f"/collection/datasets/{wanted['uuid']}", organization=organization)
    if found["hash"] != wanted["digest"]:
        return f"content digest {found['hash'][:16]}… instead of {wanted['digest'][:16]}…"
    stored = portal.read(f"/collection/datasets/{wanted['uuid']}/content", organization=organization)
    sha256 = hashlib.sha256(stored).hexdigest()
    if sha256 != wanted["sha256"]:
        return f"the stored file has sha256 {sha256[:16]}… instead of {wanted['sha256'][:16]}…"
    return ""


def check_curve(portal: Portal, organization: str, run: str, key: str, wanted: list[float]) -> str:
    found = portal.json(f"/collection/training-runs/{run}/metrics", organization=organization, key=key)
    for gap in found.get("gaps", []):
        return f"a hole in the stream: {json.dumps(gap)}"
    if found["count"] != len(wanted):
        return f"{found['count']} points instead of {len(wanted)}"
    if found["steps"] != list(range(len(wanted))):
        return "the steps are not in order"
    for step, (value, expected) in enumerate(zip(found["values"], wanted, strict=True)):
        if value != expected:
            return f"{value!r} instead of {expected!r} at step {step}"
    return ""


def tensor_digests(stored: bytes) -> dict[str, str]:
    """sha256 of each tensor in a safetensors file. Source: the format's own description (header length, JSON, data)."""
    length = int.from_bytes(stored[:8], "little")
    header = json.loads(stored[8 : 8 + length])
    data = stored[8 + length :]
    spans = {name: one["data_offsets"] for name, one in header.items() if name != "__metadata__"}
    return {name: hashlib.sha256(data[start:end]).hexdigest() for name, (start, end) in spans.items()}


def check_state(portal: Portal, organization: str, run: str, number: int, wanted: dict[str, Any]) -> str:
    listed = portal.json("/collection/model-states", organization=organization, training_run=run, sequence_num=number)
    if [one["uuid"] for one in listed] != [wanted["uuid"]]:
        return f"state {number} is not there once"
    stored = portal.read(f"/collection/model-states/{wanted['uuid']}/content", organization=organization)
    sha256 = hashlib.sha256(stored).hexdigest()
    if sha256 != wanted.get("own_sha256", wanted["sha256"]):
        return f"sha256 {sha256[:16]}… instead of {wanted['sha256'][:16]}…"
    if "tensors" in wanted and tensor_digests(stored) != wanted["tensors"]:
        return "its tensors are not those that were logged"
    return ""


def check_receipts(portal: Portal, organization: str, run: str) -> str:
    """Every stream of the run has arrived up to the number that its end names."""
    heads = portal.json("/collection/receipts", organization=organization, training_run=run)
    if not heads:
        return "the portal has no receipt"
    if any(head["tombstones"] for head in heads):
        return "something was left out (tombstones)"
    return ""


def main() -> int:
    url, notes = sys.argv[1:3]
    portal = Portal(url, sys.stdin.readline().strip())
    with open(notes, encoding="utf-8") as file:
        wanted = json.load(file)
    organization = portal.json("/organization/", name=wanted["organization"])[0]["uuid"]
    rows: list[tuple[str, str, str]] = []

    def check(what: str, size: str, function: Callable[..., str], *arguments: Any) -> None:
        try:
            trouble = function(portal, organization, *arguments)
        except (ValueError, KeyError, IndexError, OSError) as error:
            trouble = str(error) or type(error).__name__
        rows.append((what, size, trouble))

    dataset = wanted["dataset"]
    check(f"dataset {dataset['name']}", f"{dataset['rows']} rows", check_dataset, dataset)
    for run in wanted["runs"]:
        for key, values in run["curves"].items():
            check(f"{run['name']}: curve {key}", f"{len(values)} points", check_curve, run["run"], key, values)
        for number, state in enumerate(run["states"]):
            check(f"{run['name']}: state {number}", f"step {state['step']}", check_state, run["run"], number, state)
        check(f"{run['name']}: receipts", "", check_receipts, run["run"])
    width = max(len(what) for what, _, _ in rows)
    for what, size, trouble in rows:
        print(f"  {what:<{width}}  {size:>11}  {'MISMATCH: ' + trouble if trouble else 'matches'}")
    wrong = sum(bool(trouble) for _, _, trouble in rows)
    print(f"  {len(rows) - wrong} of {len(rows)} match what was logged.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
