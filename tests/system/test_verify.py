"""`seclea verify`: what was changed is found and named, what was not is not (S13)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from seclea import verify
from tests.chaos.tamper import Tampering, campaign
from tests.pipeline import ROOT, PipelineHome, edited

EDITS = 40  # ten thousand by `python -m tests.chaos.tamper`
NO_RUN = "00000000-0000-4000-8000-000000000000"
# One project for all of it: making it costs more than looking at it, and more than usual on a machine that is busy.
pytestmark = [pytest.mark.xdist_group("verify"), pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def tampering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tampering]:
    directory = Path(tmp_path_factory.mktemp("t"))
    project = Tampering(directory, seed=6)
    try:
        yield project
    finally:
        project.close()
        shutil.rmtree(directory, ignore_errors=True)


def edit(sql: str, *values: object):  # type: ignore[no-untyped-def]
    def change(base: sqlite3.Connection) -> None:
        assert base.execute(sql, values).rowcount >= 1

    return change


def test_random_edits_of_portal_ledger_and_export_are_found(tampering: Tampering) -> None:
    counts, missed, _ = campaign(tampering, EDITS)
    assert missed == []
    assert counts["content"] > EDITS / 3


@pytest.mark.parametrize(
    ("side", "sql", "named"),
    [
        ("portal", "UPDATE datasets SET name = 'Other' WHERE name = 'Raw'", 'name is "Other", and bulk 1 (dataset) says "Raw"'),
        ("portal", "UPDATE training_runs SET status = 'failed'", 'status is "failed", and '),
        ("portal", "UPDATE training_runs SET params = '{\"alpha\": 0.9}'", 'params is {"alpha": 0.9}, and '),
        ("portal", "UPDATE model_states SET sequence_num = 7 WHERE id = 1", "sequence_num is 7, and "),
        ("portal", "UPDATE datasets SET parent_id = NULL", "parent is null, and "),
        ("portal", "DELETE FROM model_states WHERE id = 1", "made it, and the portal does not show it"),
        ("portal", "DELETE FROM metric_batches WHERE id = 1", "its body is gone"),
        ("portal", "UPDATE metric_keys SET count = count + 1", "points, first and last step"),
        ("portal", "UPDATE records SET digest = zeroblob(32) WHERE kind = 'project'", "its body does not hash to its digest"),
        ("portal", "UPDATE streams SET sequence = sequence - 1 WHERE lane = 'ordered'", "its records end at"),
        ("portal", "UPDATE tombstones SET count = 1", "the tombstone that the portal keeps is not the one that came"),
        ("ledger", "UPDATE records SET body = x'7b7d' WHERE kind = 'project'", "its body does not hash to its digest"),
        ("ledger", "UPDATE records SET digest = zeroblob(32) WHERE kind = 'dataset'", "the row does not hash to its row hash"),
        ("ledger", "DELETE FROM records WHERE kind = 'training_run'", "the ledger has lost it"),
        ("ledger", "UPDATE entities SET name = 'Other' WHERE name = 'Raw'", "name not as in its record"),
    ],
)  # fmt: skip
def test_what_was_edited_is_named(tampering: Tampering, side: str, sql: str, named: str) -> None:
    with tampering.edited(side, edit(sql)):
        verdict, altered = tampering.look(side)
    assert verdict == "altered"
    assert any(named in text for text in altered), altered


def test_an_object_that_no_record_made_is_named(tampering: Tampering) -> None:
    sql = (
        "INSERT INTO model_states SELECT 99, organization_id, '11111111-1111-4111-8111-111111111111', project_id,"
        " training_run_id, 99, step, final_state, format, framework, metadata, made_ns, content_id, created_ns"
        " FROM model_states WHERE id = 1"
    )
    with tampering.edited("portal", edit(sql)):
        verdict, altered = tampering.look("portal")
    assert verdict == "altered"
    assert any("model state 99" in text and "no record made it" in text for text in altered), altered


def test_older_copies_of_either_side_are_found(tampering: Tampering) -> None:
    with tampering.edited("portal", tampering.older_copy("portal")):
        assert any("the portal gave a receipt and does not have it" in text for text in tampering.look("portal")[1])
    with tampering.edited("ledger", tampering.older_copy("ledger")):
        assert any("an older copy of" in text for text in tampering.look("ledger")[1])


def test_a_blob_in_the_place_of_another_is_found_where_contents_are_read(tampering: Tampering) -> None:
    blobs = sorted(path for path in (tampering.home / "portal" / "blobs").glob("*/*") if path.is_file())
    before = [path.read_bytes() for path in blobs]
    try:
        blobs[0].write_bytes(before[1])
        verdict, altered = tampering.look("portal", content=True)
    finally:
        blobs[0].write_bytes(before[0])
    assert verdict == "altered"
    assert any("its content" in text for text in altered)


# ------------------------------------------------------------------------------------------------------------------
# Exports and heads


def alone(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The verifier as an auditor has it: one file, and nothing of seclea."""
    shutil.copy(verify.__file__, directory / "verify.py")
    command = [sys.executable, "-I", "verify.py", *arguments]
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]}
    )


def test_the_verifier_alone_checks_an_export_in_an_empty_directory(tampering: Tampering, tmp_path: Path) -> None:
    done = alone(tmp_path, "--export", str(tampering.export), "--content")
    assert (done.returncode, done.stderr) == (4, ""), done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "verified: gap"
    assert "3 metrics not here: dropped" in done.stdout
    report = json.loads(alone(tmp_path, "--export", str(tampering.export), "--json").stdout)
    assert [(run["name"], run["verdict"], run["points"], len(run["streams"])) for run in report["runs"]] == [
        ("Run 0", "gap", 60, 2),
        ("Run 1", "gap", 60, 2),
    ]
    assert [one["verdict"] for one in report["sessions"]] == ["complete"]


def test_one_run_of_an_export_is_checked_by_itself(tampering: Tampering, tmp_path: Path) -> None:
    source = verify.Export(str(tampering.export))
    run = next(iter(source.lines("portal/training-runs.jsonl")))["uuid"]
    report = json.loads(alone(tmp_path, run, "--export", str(tampering.export), "--json").stdout)
    assert [one["uuid"] for one in report["runs"]] == [run]
    unknown = alone(tmp_path, "no-such-run", "--export", str(tampering.export))
    assert unknown.returncode == 1
    assert "There is no run no-such-run" in unknown.stderr


def test_a_cut_tail_is_found_by_heads_that_were_kept(tampering: Tampering, tmp_path: Path) -> None:
    heads = str(tmp_path / "heads.json")
    assert alone(tmp_path, "--export", str(tampering.export), "--write-heads", heads).returncode == 4
    assert alone(tmp_path, "--export", str(tampering.export), "--heads", heads).returncode == 4
    kept = json.loads(Path(heads).read_text("utf-8"))
    kept["heads"][0]["sequence"] += 1  # as if the export were of a portal that has lost one
    Path(heads).write_text(json.dumps(kept), "utf-8")
    done = alone(tmp_path, "--export", str(tampering.export), "--heads", heads)
    assert done.returncode == 5
    assert "was its head once, and is not here" in done.stdout


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda export: (export / "export.json").unlink(), 1, "is no export of seclea, or half of one"),
        (
            lambda export: (export / "export.json").write_text('{"format": "seclea-export", "version": 9}'),
            1,
            "of version 9",
        ),
        (lambda export: (export / "portal" / "datasets.jsonl").unlink(), 5, "portal/datasets.jsonl is missing"),
        (
            lambda export: (export / "portal" / "more.jsonl").write_text(""),
            5,
            "portal/more.jsonl is no file of this export",
        ),
    ],
)
def test_half_an_export_is_named(tampering: Tampering, tmp_path: Path, change, code: int, said: str) -> None:  # type: ignore[no-untyped-def]
    copy = tmp_path / "export"
    shutil.copytree(tampering.export, copy)
    change(copy)
    done = alone(tmp_path, "--export", str(copy))
    assert done.returncode == code
    assert said in done.stdout + done.stderr


def test_wrong_use_is_2(tmp_path: Path) -> None:
    assert alone(tmp_path).returncode == 2
    assert alone(tmp_path, "--no-such-option").returncode == 2


# ------------------------------------------------------------------------------------------------------------------
# The command


LOG = """
    from seclea import SecleaAI
    seclea = SecleaAI("Claims", organization="local")
    run = seclea.start_training_run("the run", params={"a": 1})
    run.log({"loss": 0.5})
    run.finish(timeout=0)
    """


def test_what_the_portal_has_not_yet_is_pending_and_then_complete(home: PipelineHome) -> None:
    nothing = home.command("verify", SECLEA_PLATFORM_URL="local")
    assert nothing.returncode == 2
    assert "Nothing was ever recorded" in nothing.stderr
    home.run(LOG, "seclea.complete(30)", SECLEA_PLATFORM_URL="local")
    done = home.command("verify", SECLEA_PLATFORM_URL="local")
    assert (done.returncode, done.stdout.splitlines()[-1].split(" (")[0]) == (0, "verified: complete"), (
        done.stdout + done.stderr
    )
    home.command("stop")
    with contextlib.closing(sqlite3.connect(home.home.portal / "portal.db", timeout=30)) as base:
        # as a portal that was put back: and a ledger that has found out
        base.execute("DELETE FROM records WHERE kind = 'finish'")
        last = "SELECT r.last, r.chain FROM records r WHERE r.stream = streams.stream AND r.lane = streams.lane"
        base.execute(f"UPDATE streams SET (sequence, chain) = ({last} ORDER BY r.first DESC LIMIT 1)")
        base.execute("UPDATE training_runs SET status = 'running', finished_ns = NULL, ends = '[]'")
        base.commit()
    cut = home.command("verify", SECLEA_PLATFORM_URL="local")
    assert cut.returncode == 5, cut.stdout + cut.stderr
    assert "the portal gave a receipt and does not have it" in cut.stdout
    home.command("stop")
    with edited(home.home.ledger) as ledger:
        ledger.execute("UPDATE records SET status = 'Transmitting' WHERE kind = 'finish'")
    pending = home.command("verify", SECLEA_PLATFORM_URL="local")
    assert pending.returncode == 3, pending.stdout + pending.stderr
    assert "not at the portal yet" in pending.stdout
    unknown = home.command("verify", NO_RUN, SECLEA_PLATFORM_URL="local")
    assert (unknown.returncode, f"There is no run {NO_RUN}" in unknown.stderr) == (2, True), unknown.stderr
    assert home.command("verify", "the run", SECLEA_PLATFORM_URL="local").returncode == 2


def test_without_a_login_the_command_says_how_to_log_in(home: PipelineHome) -> None:
    home.run(LOG)
    done = home.command("verify")
    assert done.returncode == 1
    assert "seclea login" in done.stderr


def test_the_verifier_is_the_same_file_in_the_package(tmp_path: Path) -> None:
    text = (ROOT / "seclea" / "verify.py").read_text("utf-8")
    assert "import seclea" not in text and "from seclea" not in text
    assert (ROOT / "seclea" / "export.py").read_text("utf-8").count("from seclea") == 0
