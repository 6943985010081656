"""The demo, as a stranger runs it: a real job, read back from the portal by code that knows nothing of the pipeline."""

from __future__ import annotations

import ast
import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from seclea.cli import demo_reader
from tests.pipeline import PipelineHome, pipeline_home

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("demo")]


@pytest.fixture(scope="module")
def demo() -> Iterator[tuple[PipelineHome, subprocess.CompletedProcess[str]]]:
    """One demo for all tests here, its portal left up."""
    with pipeline_home() as home:
        environment = {**home.environment(), "SECLEA_PLATFORM_URL": "local"}
        done = subprocess.run(
            [sys.executable, "-m", "seclea", "demo", "--home", str(home.path)],
            capture_output=True, text=True, timeout=180, cwd=home.work, env=environment, check=False,
        )  # fmt: skip
        yield home, done


def read_again(home: PipelineHome) -> subprocess.CompletedProcess[str]:
    """Run the reader once more."""
    token = home.command("token", SECLEA_PLATFORM_URL="local").stdout
    url = json.loads((home.home.portal / "address.json").read_text("utf-8"))["url"]
    notes = home.path / "demo" / "notes.json"
    return subprocess.run(
        [sys.executable, "-I", demo_reader.__file__, url, str(notes)],
        input=token, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_demo_reads_back_from_the_portal_all_that_it_logged(
    demo: tuple[PipelineHome, subprocess.CompletedProcess[str]],
) -> None:
    home, done = demo
    assert done.returncode == 0, done.stdout + done.stderr + home.logs()
    assert "All of it matches" in done.stdout and "MISMATCH" not in done.stdout


def test_one_altered_byte_of_a_stored_state_is_found_and_named(
    demo: tuple[PipelineHome, subprocess.CompletedProcess[str]],
) -> None:
    home, _ = demo
    notes = json.loads((home.path / "demo" / "notes.json").read_text("utf-8"))
    run = notes["runs"][0]
    digest = run["states"][1]["sha256"]
    (blob,) = [path for path in home.home.portal.rglob(digest) if path.is_file()]  # one chunk: its name is its digest
    good = blob.read_bytes()
    blob.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    try:
        again = read_again(home)
    finally:
        blob.write_bytes(good)
    assert again.returncode == 1
    wrong = [line for line in again.stdout.splitlines() if "MISMATCH" in line]
    assert len(wrong) == 1 and f"{run['name']}: state 1" in wrong[0]
    assert read_again(home).returncode == 0


def test_a_dropped_metric_batch_is_found_and_named(
    demo: tuple[PipelineHome, subprocess.CompletedProcess[str]],
) -> None:
    home, _ = demo
    run = json.loads((home.path / "demo" / "notes.json").read_text("utf-8"))["runs"][1]
    database = home.home.portal / "portal.db"
    with contextlib.closing(sqlite3.connect(database, timeout=10)) as portal:
        chosen = portal.execute(
            "SELECT b.* FROM metric_batches b JOIN training_runs t ON t.id = b.training_run_id WHERE t.uuid = ?"
            " ORDER BY b.first LIMIT 1 OFFSET 1",
            (run["run"],),
        ).fetchone()
        portal.execute("DELETE FROM metric_batches WHERE id = ?", (chosen[0],))
        portal.commit()
        try:
            again = read_again(home)
        finally:
            portal.execute(f"INSERT INTO metric_batches VALUES ({','.join('?' * len(chosen))})", chosen)
            portal.commit()
    assert again.returncode == 1
    wrong = [line for line in again.stdout.splitlines() if "MISMATCH" in line]
    assert wrong and all(f"{run['name']}: curve" in line and "hole" in line for line in wrong)


def test_the_reader_imports_nothing_but_the_standard_library() -> None:
    tree = ast.parse(Path(demo_reader.__file__).read_text("utf-8"))
    imported = {
        (alias.name if isinstance(node, ast.Import) else node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported <= sys.stdlib_module_names
