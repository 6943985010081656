"""``seclea demo``: from a raw table to three trained models through the true pipeline, and the whole of it read back.

Raw table → impute, drop correlated, scale, split → train and test → three models in three processes → the portal. Then a
process that knows nothing of seclea compares, and walks from the best model back to the raw file (`demo_reader`).
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from seclea import DatasetTransformation, SecleaAI
from seclea.cli import demo_reader
from seclea.cli.demo_job import NAMES, has_torch, train
from seclea.cli.pipeline import portal_link, portal_token, stop_all
from seclea.contract import Home
from seclea.director import Progress, progress
from seclea.entities import Dataset
from seclea.errors import MissingExtraError, PipelineError
from seclea.settings import format_size

PROJECT = "Breast cancer"
_COMPLETE_SECONDS = 120.0


def demo(*, keep: bool = False, home: str | None = None) -> int:
    """Run the demo; 0 only if the portal holds exactly what was logged, and the best model's chain is closed.

    Args:
        keep: leave portal and data in place.
        home: directory to use; by default a temporary one.
    """
    for module, package in (("sklearn", "scikit-learn"), ("pandas", "pandas"), ("pyarrow", "pyarrow")):
        _require(module, package)
    directory = Path(home).absolute() if home else Path(tempfile.mkdtemp(prefix="seclea-demo-"))
    keep = keep or home is not None
    # The demo's own portal, whatever a .seclearc or the environment says of another one.
    own = {"SECLEA_PLATFORM_URL": "local", "SECLEA_AUTH_URL": "local", "SECLEA_ORGANIZATION": "local"}
    os.environ.update(own, SECLEA_HOME=str(directory), SECLEA_USERNAME="", SECLEA_PASSWORD="", SECLEA_TOKEN_FILE="")
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # an arrow must not end it
    place, began = Home(directory), time.monotonic()
    matched = False
    try:
        url, notes = _run(place)
        matched, counted = read_back(place, url, notes)
        took = f"{time.monotonic() - began:.1f} s"
        if keep:
            _say_how_to_look(place, url, notes)
        else:
            print(f"The portal was at {url}; `--keep` leaves it up.")
    except KeyboardInterrupt:
        print("\nInterrupted.")
        return 130
    finally:
        if not keep:
            with contextlib.redirect_stdout(io.StringIO()):
                stop_all(20.0, place)
            shutil.rmtree(directory, ignore_errors=True)
        elif not matched:
            print(f"Left as it is: {directory} ({_with_home(place)} stop)")
    print(f"{'All of it matches' if matched else 'NOT all of it matches'} ({took}): {counted}")
    return 0 if matched else 1


def _require(module: str, package: str) -> None:
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(f"The demo needs {package}.", f"pip install {package}")


def _run(home: Home) -> tuple[str, Path]:
    """Log everything and wait until it is delivered; the portal's address and what was logged, as a file."""
    line = _Line()
    line.show("loading pandas and scikit-learn")
    from seclea.cli import demo_steps

    work = home.path / "demo"
    work.mkdir(parents=True, exist_ok=True)
    csv = work / "breast-cancer.csv"
    demo_steps.write_table(csv)
    seclea = SecleaAI(PROJECT)
    line.show("recording the data and the steps")
    raw, datasets = _record_data(seclea, csv)
    line.end()
    rows = {role: one.metadata["num_samples"] for role, one in datasets.items()}
    print(f"Data   scikit-learn's breast cancer with some values taken out: a CSV, {raw.metadata['num_samples']} rows.")
    print("Steps  impute → drop_correlated → scale → split, run again at the upload:")
    print(f"       {rows['train']} rows to train on, {rows['test']} to test on.")
    kinds = ["linear", "trees", "torch" if has_torch() else "mlp"]
    print(f"Runs   {', '.join(NAMES[kind] for kind in kinds)}, each in a process of its own.", flush=True)
    _train_all(home, kinds, csv, datasets, line)
    result = seclea.complete(_COMPLETE_SECONDS, on_progress=lambda now: line.show_progress("delivering", now))
    line.end()
    if not result.done:
        raise PipelineError(f"Not everything was delivered: {'; '.join(result.reasons)}.", f"Look at {home.logs}.")
    print(f"Sent   {result.delivered} records, {format_size(result.delivered_bytes)}, each acknowledged by the portal.")
    _verify()
    print("\nThe rest is said by a process without seclea, which reads all of it over HTTP.\n", flush=True)
    notes = work / "notes.json"
    wanted = {
        "organization": seclea.settings.organization,
        "datasets": [_noted(one) for one in (raw, *datasets.values())],
        "runs": [json.loads((work / f"{kind}.json").read_text("utf-8")) for kind in kinds],
        "files": {"csv": str(csv), "steps": str(demo_steps.__file__)},
    }
    notes.write_text(json.dumps(wanted), "utf-8")
    return json.loads((home.portal / "address.json").read_text("utf-8"))["url"], notes


def _verify() -> None:
    """Have ledger and portal compared: chain by chain, count by count."""
    asked = subprocess.run(
        [sys.executable, "-m", "seclea", "verify", "--content", "--json"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, encoding="utf-8", check=False,
    )  # fmt: skip
    if asked.returncode:
        raise PipelineError("The portal does not hold what the ledger says.", f"Run `seclea verify`:\n{asked.stdout}")
    parts = json.loads(asked.stdout)
    records = sum(one["records"] for kind in ("runs", "sessions") for one in parts[kind])
    print(f"Proof  `seclea verify`: {len(parts['runs'])} runs complete. {records} records, in their chains,")
    print("       and the bytes of all contents are the same in ledger and portal.")


def _record_data(seclea: SecleaAI, csv: Path) -> tuple[Dataset, dict[str, Dataset]]:
    """The raw table, and the parts to train and test on by role, with the steps that led to them."""
    from seclea.cli import demo_steps as steps

    about = {"outputs": [steps.TARGET], "outputs_type": "classification"}
    raw = seclea.upload_dataset(csv, "Breast cancer", metadata=about)
    frame, (X_train, y_train, X_test, y_test) = steps.prepared(csv)

    def chain(outputs: Sequence[str | None], label: str) -> list[DatasetTransformation]:
        return [
            DatasetTransformation(steps.impute, {"df": frame}),
            DatasetTransformation(steps.drop_correlated, {"df": "inherit"}, {"threshold": steps.THRESHOLD}),
            DatasetTransformation(steps.scale, {"df": "inherit"}),
            DatasetTransformation(
                steps.split,
                {"df": "inherit"},
                {"seed": steps.SEED, "test_part": steps.TEST_PART},
                outputs=outputs,
                split=label,
            ),
        ]

    train_steps, test_steps = chain(["X", "y", None, None], "train"), chain([None, None, "X", "y"], "test")
    return raw, {
        "train": seclea.upload_dataset_split(X_train, y_train, "Train", transformations=train_steps),
        "test": seclea.upload_dataset_split(X_test, y_test, "Test", transformations=test_steps),
    }


def _noted(dataset: Dataset) -> dict[str, Any]:
    return {
        "uuid": dataset.uuid,
        "name": dataset.name,
        "digest": dataset.digest,
        "sha256": dataset.sha256,
        "rows": dataset.metadata["num_samples"],
    }


def _train_all(home: Home, kinds: Sequence[str], csv: Path, datasets: dict[str, Dataset], line: _Line) -> None:
    context = multiprocessing.get_context("spawn")
    jobs: list[BaseProcess] = [
        context.Process(target=train, args=(kind, PROJECT, str(csv), datasets, str(csv.with_name(f"{kind}.json"))))
        for kind in kinds
    ]
    with _ended(jobs):
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)  # theirs too: an interrupt is this process's to deal with
        try:
            for job in jobs:
                job.start()
        finally:
            signal.signal(signal.SIGINT, heard)
        while running := [job.sentinel for job in jobs if job.is_alive()]:
            line.show_progress("training", progress(home))
            wait(running, 0.25)
    line.end()
    for kind, job in zip(kinds, jobs, strict=True):
        if job.exitcode:
            raise PipelineError(f"The process that trains {NAMES[kind]!r} failed.", "Its error stands above.")


@contextlib.contextmanager
def _ended(jobs: Sequence[BaseProcess]) -> Iterator[None]:
    """Leave no process behind."""
    try:
        yield
    except BaseException:
        for job in jobs:
            if job.is_alive():
                job.terminate()
                job.join()
        raise


def read_back(home: Home, url: str, notes: Path) -> tuple[bool, str]:
    """Compare the portal with the notes, in a process that knows nothing of seclea: whether all matches, and in words."""
    with subprocess.Popen(
        [sys.executable, "-I", "-X", "utf8", demo_reader.__file__, url, str(notes)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
    ) as reader:  # fmt: skip
        assert reader.stdin is not None and reader.stdout is not None
        reader.stdin.write(portal_token(home) + "\n")
        reader.stdin.close()
        counted = "the reader did not come to an end"
        for line in reader.stdout:
            counted = line.strip()
            if not counted.endswith(" match."):  # the last line, which is told at the very end
                print(line, end="", flush=True)
    return reader.returncode == 0, counted


def _with_home(home: Home) -> str:
    return f"SECLEA_HOME={shlex.quote(str(home.path))} {shlex.quote(sys.executable)} -m seclea"


def _say_how_to_look(home: Home, url: str, notes: Path) -> None:
    reader = shlex.join([sys.executable, "-I", demo_reader.__file__, url, str(notes)])
    print(f"Look at it (this link works once):  {portal_link(home)}")
    print(f"More links:  {_with_home(home)} ui")
    print(f"Stop it:     {_with_home(home)} stop    (and then remove {home.path})")
    print(f"Check again: {_with_home(home)} token | {reader}")


class _Line:
    """One line of progress: rewritten on a terminal, now and then a new one elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._next = 0.0
        self._last = ""

    def show(self, text: str) -> None:
        """Show what is being done."""
        if text == self._last:
            return
        self._last = text
        print(f"\r\033[K{text} …" if self._terminal else f"{text} …", end="" if self._terminal else "\n", flush=True)

    def show_progress(self, what: str, now: Progress) -> None:
        """Show how far it is."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + (0.1 if self._terminal else 5.0)
        self.show(
            f"{what}: {now.delivered} records, {format_size(now.delivered_bytes)} delivered;"
            f" {now.pending} left, {format_size(now.pending_bytes)}"
        )

    def end(self) -> None:
        """Leave the line."""
        if self._terminal:
            print("\r\033[K", end="", flush=True)
