"""``seclea demo``: a real job through the true pipeline to a portal, read back and compared."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from seclea import SecleaAI
from seclea.cli import demo_reader
from seclea.cli.demo_job import has_torch, train, write_table
from seclea.cli.pipeline import portal_link, portal_token, stop_all
from seclea.contract import Home
from seclea.director import Progress, progress
from seclea.errors import MissingExtraError, PipelineError
from seclea.settings import format_size

PROJECT = "Breast cancer"
_COMPLETE_SECONDS = 120.0


def demo(*, keep: bool = False, home: str | None = None) -> int:
    """Run the demo; 0 only if the portal holds exactly what was logged.

    Args:
        keep: leave portal and data in place.
        home: directory to use; by default a temporary one.
    """
    _require("sklearn", "scikit-learn")
    _require("pandas", "pandas")
    _require("pyarrow", "pyarrow")
    directory = Path(home).absolute() if home else Path(tempfile.mkdtemp(prefix="seclea-demo-"))
    keep = keep or home is not None
    os.environ["SECLEA_HOME"] = str(directory)
    place = Home(directory)
    matched = False
    try:
        matched = _run(place, keep)
    finally:
        if not keep:
            stop_all(20.0, place)
            shutil.rmtree(directory, ignore_errors=True)
        elif not matched:
            print(f"Left as it is: {directory} (SECLEA_HOME={directory} seclea stop)")
    return 0 if matched else 1


def _require(module: str, package: str) -> None:
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(f"The demo needs {package}.", f"pip install {package}")


def _run(home: Home, keep: bool) -> bool:
    began = time.monotonic()
    work = home.path / "demo"
    work.mkdir(parents=True, exist_ok=True)
    csv = work / "breast-cancer.csv"
    write_table(csv)
    seclea = SecleaAI(PROJECT)
    dataset = seclea.upload_dataset(
        csv, "Breast cancer", metadata={"outputs": ["target"], "outputs_type": "classification"}
    )
    kinds = ["sgd", "torch" if has_torch() else "mlp"]
    print(f"Training {len(kinds)} models on {dataset.metadata['num_samples']} rows, each in its own process …")
    context = multiprocessing.get_context("spawn")
    jobs = [
        context.Process(target=train, args=(kind, PROJECT, str(csv), dataset, str(work / f"{kind}.json")))
        for kind in kinds
    ]
    for job in jobs:
        job.start()
    line = _Line()
    while any(job.is_alive() for job in jobs):
        line.show("training", progress(home))
        jobs[0].join(0.25)
        if not jobs[0].is_alive():
            jobs[-1].join(0.25)
    if any(job.exitcode for job in jobs):
        raise PipelineError("A training process failed.", "Its error stands above.")
    result = seclea.complete(_COMPLETE_SECONDS, on_progress=lambda now: line.show("delivering", now))
    line.end()
    if not result.done:
        print("Not everything was delivered: " + "; ".join(result.reasons), file=sys.stderr)
        return False
    print(f"Delivered {result.delivered} records, {format_size(result.delivered_bytes)}. Reading them back …")
    runs = [json.loads((work / f"{kind}.json").read_text("utf-8")) for kind in kinds]
    for run, kind in zip(runs, kinds, strict=True):
        run["name"] = kind
    notes = work / "notes.json"
    wanted = {
        "organization": seclea.settings.organization,
        "dataset": {
            "uuid": dataset.uuid,
            "name": dataset.name,
            "digest": dataset.digest,
            "sha256": dataset.sha256,
            "rows": dataset.metadata["num_samples"],
        },
        "runs": runs,
    }
    notes.write_text(json.dumps(wanted), "utf-8")
    url = json.loads((home.portal / "address.json").read_text("utf-8"))["url"]
    matched = read_back(home, url, notes)
    print(f"{'All of it matches' if matched else 'NOT all of it matches'} ({time.monotonic() - began:.1f} s).")
    if keep:
        print(f"\nLook at it (this link works once):  {portal_link(home)}")
        print(f"More links:  SECLEA_HOME={home.path} seclea ui")
        print(f"Stop it:     SECLEA_HOME={home.path} seclea stop")
        print(f"Check again: SECLEA_HOME={home.path} seclea token | python {demo_reader.__file__} {url} {notes}")
    else:
        print(f"The page was at {url}; `--keep` leaves it up.")
    return matched


def read_back(home: Home, url: str, notes: Path) -> bool:
    """Compare the portal with the notes, in a process that knows nothing of seclea."""
    reader = subprocess.run(
        [sys.executable, "-I", demo_reader.__file__, url, str(notes)],
        input=portal_token(home) + "\n",
        text=True,
        check=False,
    )
    return reader.returncode == 0


class _Line:
    """One line of progress: rewritten on a terminal, now and then a new one elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._next = 0.0

    def show(self, what: str, now: Progress) -> None:
        """Show how far it is."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + (0.1 if self._terminal else 2.0)
        text = (
            f"{what}: {now.delivered} records and {format_size(now.delivered_bytes)} delivered,"
            f" {now.pending} records and {format_size(now.pending_bytes)} left"
        )
        print(f"\r\033[K{text}" if self._terminal else text, end="" if self._terminal else "\n", flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._terminal:
            print("\r\033[K", end="", flush=True)
