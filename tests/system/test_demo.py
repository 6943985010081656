"""The demo, as a stranger runs it: a real job, read back from the portal by code that knows nothing of the pipeline."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seclea.cli import demo_reader
from tests.pipeline import PipelineHome, pipeline_home, without_notice

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("demo")]
Demo = tuple[PipelineHome, "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """One demo for all tests here, its portal left up."""
    with pipeline_home() as home:
        environment = {**home.environment(), "SECLEA_PLATFORM_URL": "local"}
        done = subprocess.run(
            [sys.executable, "-m", "seclea", "demo", "--home", str(home.path)],
            capture_output=True, text=True, timeout=180, cwd=home.work, env=environment, check=False,
        )  # fmt: skip
        yield home, done


def notes_of(home: PipelineHome) -> dict[str, Any]:
    """What the jobs noted."""
    notes: dict[str, Any] = json.loads((home.path / "demo" / "notes.json").read_text("utf-8"))
    return notes


def read_again(home: PipelineHome, *before: str) -> subprocess.CompletedProcess[str]:
    """Run the reader once more; ``before`` are other arguments of Python than the reader's path."""
    token = home.command("token", SECLEA_PLATFORM_URL="local").stdout
    url = json.loads((home.home.portal / "address.json").read_text("utf-8"))["url"]
    notes = home.path / "demo" / "notes.json"
    return subprocess.run(
        [sys.executable, "-I", "-X", "utf8", *(before or [demo_reader.__file__]), url, str(notes)],
        input=token, capture_output=True, encoding="utf-8", timeout=60, check=False,
    )  # fmt: skip


def wrong_lines(again: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of what does not match; there must be some, and words for people beside them."""
    assert again.returncode == 1 and without_notice(again.stderr) == ""
    wrong = [line for line in again.stdout.splitlines() if "MISMATCH" in line]
    assert wrong and "Does not match: " in again.stdout
    return wrong


@contextlib.contextmanager
def portal_rows(home: PipelineHome) -> Iterator[sqlite3.Connection]:
    """The portal's database, as whoever runs the machine may write it."""
    with contextlib.closing(sqlite3.connect(home.home.portal / "portal.db", timeout=10)) as portal:
        yield portal


def read_with(home: PipelineHome, statements: list[tuple[str, tuple[Any, ...]]]) -> subprocess.CompletedProcess[str]:
    """Run the reader while the portal's database is altered so; each table is put back as it was."""
    tables = [sql.split()[2 if sql.startswith("DELETE") else 1] for sql, _ in statements]
    with portal_rows(home) as portal:
        good = {table: portal.execute(f"SELECT * FROM {table}").fetchall() for table in dict.fromkeys(tables)}
        for sql, values in statements:
            assert portal.execute(sql, values).rowcount == 1, sql
        portal.commit()
        try:
            return read_again(home)
        finally:
            for table, rows in good.items():
                portal.execute(f"DELETE FROM {table}")
                portal.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)
            portal.commit()


def of_dataset(home: PipelineHome, name: str, column: str = "id") -> Any:
    """A column of a dataset's row at the portal."""
    with portal_rows(home) as portal:
        return portal.execute(f"SELECT {column} FROM datasets WHERE name = ?", (name,)).fetchone()[0]


def stored_file(home: PipelineHome, name: str) -> tuple[Path, int]:
    """The blob of a dataset's file, which is one chunk, and the row id of its content."""
    content = of_dataset(home, name, "content_id")
    with portal_rows(home) as portal:
        ((sha256,),) = portal.execute("SELECT sha256 FROM content_chunks WHERE content_id = ?", (content,)).fetchall()
    (blob,) = [path for path in home.home.portal.rglob(sha256) if path.is_file()]
    return blob, content


# ------------------------------------------------------------------------------------------------------------------


def test_the_demo_reads_back_from_the_portal_all_that_it_logged(demo: Demo) -> None:
    home, done = demo
    assert done.returncode == 0, done.stdout + done.stderr + home.logs()
    assert "MISMATCH" not in done.stdout and without_notice(done.stderr) == ""
    last = done.stdout.splitlines()[-1]
    good, _, count = last.rpartition(": ")[2].partition(" of ")
    assert last.startswith("All of it matches (") and count == f"{good} match." and int(good) > 50
    sent = re.search(r"Sent +([0-9]+) records", done.stdout)
    assert sent and f"`seclea verify`: 3 runs complete. {sent[1]} records" in done.stdout
    assert max(map(len, done.stdout.partition("Look at it")[0].splitlines())) <= 80  # columns of a terminal


def test_the_output_compares_the_models_and_tells_the_whole_way_of_the_best_one(demo: Demo) -> None:
    home, done = demo
    _, _, table = done.stdout.partition("The models")
    rows = [line for line in table.splitlines()[2:5] if not line.startswith("   ")]
    assert [line[2:12].strip() for line in rows] == [run["name"] for run in notes_of(home)["runs"]]
    assert [line[0] for line in rows].count("*") == 1
    _, _, chain = done.stdout.partition("How the best one came to be")
    wanted = [
        "final", "trained by the run", "train: 'Train', test: 'Test'", "dataset 'Train'", "split(seed=7", "569 → 455 rows",
        "'Train-scale'", "scale()", "'Train-drop_correlated'", "7 columns dropped", "'Train-impute'", "impute()", "0 nulls",
        "dataset 'Breast cancer'", "breast-cancer.csv", "dataset 'Test'", "569 → 114 rows", "'Train-scale', as above",
    ]  # fmt: skip
    at = [chain.find(words) for words in wanted]
    assert -1 not in at and at == sorted(at), chain
    assert notes_of(home)["datasets"][0]["digest"][:16] in chain


def test_the_command_that_checks_again_works_as_printed(demo: Demo) -> None:
    home, done = demo
    (command,) = [line.partition(": ")[2] for line in done.stdout.splitlines() if line.startswith("Check again")]
    again = subprocess.run(
        command.strip(),
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        env=home.environment(),
        cwd="/",
        check=False,
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1].rpartition(": ")[2]


# ------------------------------------------------------------------------------------------------------------------
# What is altered is found, and named


def test_one_altered_byte_of_a_stored_state_is_found_and_named(demo: Demo) -> None:
    home, _ = demo
    run = notes_of(home)["runs"][0]
    digest = run["states"][1]["sha256"]
    (blob,) = [path for path in home.home.portal.rglob(digest) if path.is_file()]  # one chunk: its name is its digest
    wrong = wrong_lines(read_altered(home, blob))
    assert len(wrong) == 1 and f"{run['name']}: state 1" in wrong[0]
    assert read_again(home).returncode == 0


def read_altered(home: PipelineHome, file: Path) -> subprocess.CompletedProcess[str]:
    """Run the reader while one byte of a file is another one."""
    good = file.read_bytes()
    file.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    try:
        return read_again(home)
    finally:
        file.write_bytes(good)


def test_a_dropped_metric_batch_is_found_and_named(demo: Demo) -> None:
    home, _ = demo
    run = notes_of(home)["runs"][1]
    with portal_rows(home) as portal:
        chosen = portal.execute(
            "SELECT b.id FROM metric_batches b JOIN training_runs t ON t.id = b.training_run_id WHERE t.uuid = ?"
            " ORDER BY b.first LIMIT 1 OFFSET 1",
            (run["run"],),
        ).fetchone()
    wrong = wrong_lines(read_with(home, [("DELETE FROM metric_batches WHERE id = ?", chosen)]))
    assert all(f"{run['name']}: curve" in line and "hole" in line for line in wrong)


def test_one_altered_byte_of_a_dataset_on_the_way_is_found_and_what_needs_it_is_not_checked(demo: Demo) -> None:
    home, _ = demo
    blob, _ = stored_file(home, "Train-drop_correlated")
    again = read_altered(home, blob)
    (wrong,) = wrong_lines(again)
    assert "dataset 'Train-drop_correlated', file" in wrong
    left = [line for line in again.stdout.splitlines() if "not checked: " in line]
    assert len(left) == 6 and all("'Train-drop_correlated' cannot be read" in line for line in left)


def test_a_table_that_was_replaced_with_all_its_checksums_is_found_by_its_content(demo: Demo) -> None:
    home, _ = demo
    blob, content = stored_file(home, "Train-scale")
    table = pq.read_table(blob)
    column = table.column(0).to_pylist()
    column[3] += 1.0
    forged = io.BytesIO()
    pq.write_table(table.set_column(0, table.field(0), pa.array(column)), forged)
    sha256, size = hashlib.sha256(forged.getvalue()).hexdigest(), len(forged.getvalue())
    place = blob.parents[1] / sha256[:2] / sha256
    place.write_bytes(forged.getvalue())
    try:
        again = read_with(
            home,
            [
                ("UPDATE chunks SET sha256 = ?, bytes = ? WHERE sha256 = ?", (sha256, size, blob.name)),
                ("UPDATE content_chunks SET sha256 = ?, bytes = ? WHERE content_id = ?", (sha256, size, content)),
                ("UPDATE contents SET sha256 = ?, size = ? WHERE id = ?", (sha256, size, content)),
            ],
        )
    finally:
        place.unlink()
    wrong = wrong_lines(again)
    assert all("Train-scale" in line for line in wrong)
    assert any("dataset 'Train-scale', content: the column 'mean radius'" in line for line in wrong)
    assert any("step 'scale' to 'Train-scale', in → out: it gave" in line for line in wrong)
    assert not any(
        "'Train-scale', file" in line for line in wrong
    )  # the portal's own checksums are those of the forgery


def test_a_changed_hash_of_a_dataset_is_found_and_named(demo: Demo) -> None:
    home, _ = demo
    (wrong,) = wrong_lines(
        read_with(home, [("UPDATE datasets SET hash = ? WHERE name = ?", ("f" * 64, "Train-impute"))])
    )
    assert "dataset 'Train-impute', identity: the portal's hash is ffffffffffffffff instead of" in wrong


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("output", "digest"), "f" * 64, "in → out: it gave ffffffffffffffff instead of"),
        (("arguments", "data", 0, "digest"), "f" * 64, "in → out: 'Train-drop_correlated' went in as ffffffffffffffff"),
        (("changes", "changed"), ["mean radius"], "changes: changed: the step says"),
        (("before", "nulls"), 7, "changes: before: the step says"),
        (("source", "line"), 1, "code: what stands at line 1 of demo_steps.py is another text"),
    ],
    ids=["output", "input", "changes", "nulls", "line"],
)
def test_an_edited_record_of_a_step_is_found_and_named(
    demo: Demo, place: tuple[Any, ...], value: Any, named: str
) -> None:
    home, _ = demo
    step = of_dataset(home, "Train-scale")
    with portal_rows(home) as portal:
        ((text,),) = portal.execute(
            "SELECT details FROM dataset_transformations WHERE dataset_id = ?", (step,)
        ).fetchall()
    told = json.loads(text)
    inner = told["details"]
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    statement = "UPDATE dataset_transformations SET details = ? WHERE dataset_id = ?"
    (wrong,) = wrong_lines(read_with(home, [(statement, (json.dumps(told), step))]))
    assert f"step 'scale' to 'Train-scale', {named}" in wrong


def test_a_swapped_parent_is_found_and_named(demo: Demo) -> None:
    home, _ = demo
    raw, train = of_dataset(home, "Breast cancer"), of_dataset(home, "Train")
    wrong = wrong_lines(read_with(home, [("UPDATE datasets SET parent_id = ? WHERE id = ?", (raw, train))]))
    assert len(wrong) == 2
    assert "the portal says that 'Train' comes from 'Breast cancer', the step was given 'Train-scale'" in wrong[0]
    assert "the portal's lineage graph: the link from 'Breast cancer' to 'Train' is in one of them only" in wrong[1]


def test_a_step_that_is_said_to_start_from_another_dataset_is_found_and_named(demo: Demo) -> None:
    home, _ = demo
    raw, train = of_dataset(home, "Breast cancer"), of_dataset(home, "Train")
    swap = (
        "UPDATE transformation_inputs SET dataset_id = ? WHERE transformation_id ="
        " (SELECT id FROM dataset_transformations WHERE dataset_id = ?)"
    )
    parent = "UPDATE datasets SET parent_id = ? WHERE id = ?"
    wrong = wrong_lines(read_with(home, [(swap, (raw, train)), (parent, (raw, train))]))
    assert all("step 'split' to 'Train', " in line for line in wrong)
    assert any("in → out: it was given" in line and "none of its inputs" in line for line in wrong)


def test_a_step_that_was_taken_out_breaks_the_chain_where_it_was(demo: Demo) -> None:
    home, _ = demo
    scaled = of_dataset(home, "Train-scale")
    with portal_rows(home) as portal:
        step = portal.execute("SELECT id FROM dataset_transformations WHERE dataset_id = ?", (scaled,)).fetchone()
    removed = [
        ("DELETE FROM transformation_inputs WHERE transformation_id = ?", step),
        ("DELETE FROM dataset_transformations WHERE id = ?", step),
    ]
    wrong = wrong_lines(read_with(home, removed))
    assert "dataset 'Train-scale', step: not one step leads here" in wrong[0]


def best_of(demo: Demo) -> dict[str, Any]:
    """The notes of the run that the table marks."""
    (line,) = [line for line in demo[1].stdout.splitlines() if line.startswith("* ")]
    (run,) = [run for run in notes_of(demo[0])["runs"] if run["name"] == line[2:12].strip()]
    found: dict[str, Any] = run
    return found


def test_another_role_of_a_dataset_than_its_label_says_is_found_and_named(demo: Demo) -> None:
    home, best = demo[0], best_of(demo)
    statement = (
        "UPDATE training_run_datasets SET role = 'validation' WHERE role = 'test'"
        " AND training_run_id = (SELECT id FROM training_runs WHERE uuid = ?)"
    )
    (wrong,) = wrong_lines(read_with(home, [(statement, (best["run"],))]))
    assert f"the run '{best['name']}', data: 'Test' was the validation dataset, but is labelled 'test'" in wrong


def test_other_roles_of_columns_than_the_identity_covers_are_found_and_named(demo: Demo) -> None:
    home, _ = demo
    told = json.loads(of_dataset(home, "Test", "metadata"))
    told["roles"]["y"] = [told["roles"]["X"].pop()]
    altered = [("UPDATE datasets SET metadata = ? WHERE name = ?", (json.dumps(told), "Test"))]
    wrong = wrong_lines(read_with(home, altered))
    assert "dataset 'Test', identity: the portal's hash is" in wrong[0]
    assert len(wrong) == 2 and "step 'split' to 'Test', in → out: it gave" in wrong[1]


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("num_samples", 568, "rows: 568 instead of 569"),
        ("content_digest", "f" * 64, "content digest ffffffffffffffff instead of"),
        ("column_digests", [["column", "mean radius", "string", "f" * 64]], "the column 'mean radius' is not what"),
    ],
    ids=["rows", "digest", "columns"],
)
def test_edited_metadata_of_a_dataset_is_found_and_named(demo: Demo, key: str, value: Any, named: str) -> None:
    home, _ = demo
    told = {**json.loads(of_dataset(home, "Train-scale", "metadata")), key: value}
    altered = [("UPDATE datasets SET metadata = ? WHERE name = ?", (json.dumps(told), "Train-scale"))]
    (wrong,) = wrong_lines(read_with(home, altered))
    assert f"dataset 'Train-scale', content: {named}" in wrong


def test_an_altered_file_of_the_best_model_is_found_by_the_notes_and_by_the_chain(demo: Demo) -> None:
    home, best = demo[0], best_of(demo)
    digest = best["states"][-1]["sha256"]
    (blob,) = [path for path in home.home.portal.rglob(digest) if path.is_file()]
    noted, chained = wrong_lines(read_altered(home, blob))
    assert f"{best['name']}: state 2" in noted and f"{best['name']}, state 2, file: " in chained


def test_a_raw_file_that_is_another_one_now_is_found(demo: Demo) -> None:
    home, _ = demo
    (wrong,) = wrong_lines(read_altered(home, home.path / "demo" / "breast-cancer.csv"))
    assert "dataset 'Breast cancer', origin: the file here has sha256" in wrong
    assert read_again(home).returncode == 0


# ------------------------------------------------------------------------------------------------------------------


def test_the_reader_imports_nothing_but_the_standard_library() -> None:
    tree = ast.parse(Path(demo_reader.__file__).read_text("utf-8"))
    imported = {
        (alias.name if isinstance(node, ast.Import) else node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported <= sys.stdlib_module_names


def test_no_module_of_seclea_is_loaded_where_the_chain_is_checked(demo: Demo) -> None:
    home, _ = demo
    watched = f"""
import runpy, sys
sys.argv[0] = {demo_reader.__file__!r}
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    print("loaded:", [name for name in sys.modules if name.partition(".")[0] == "seclea"], ended.code)
"""
    again = read_again(home, "-c", watched)
    assert again.stdout.endswith("loaded: [] 0\n"), again.stdout + again.stderr
