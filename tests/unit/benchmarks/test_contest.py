from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import contest as module
from benchmarks.contenders_of import LOGGERS, QUEUES
from benchmarks.contest import Contender, contest
from benchmarks.environments import OWN, Environment, folder

WRITES = "import json, os, sys, pathlib\npathlib.Path(sys.argv[-1]).write_text(json.dumps({'pid': os.getpid()}))\n"


def script(directory: Path, name: str, text: str) -> str:
    path = directory / f"{name}.py"
    path.write_text(text, "utf-8")
    return str(path)


def test_who_fails_is_reported_with_its_last_words_and_the_others_go_on_in_fresh_processes(tmp_path: Path) -> None:
    results = contest(
        "test",
        [
            Contender("raises", OWN, script(tmp_path, "raises", "raise ValueError('no such peer')"), []),
            Contender("silent", OWN, script(tmp_path, "silent", ""), []),
            Contender(
                "hangs", OWN, script(tmp_path, "hangs", "import signal\nsignal.pause()"), [], timeout_seconds=0.5
            ),
            Contender("works", OWN, script(tmp_path, "works", WRITES), []),
            Contender("once", OWN, script(tmp_path, "once", WRITES), [], rounds=1),
        ],
        2,
    )
    assert "ended with 1" in results["raises"]["error"] and "no such peer" in results["raises"]["error"]
    assert "ended with 0" in results["silent"]["error"]
    assert "killed after 0.5 s" in results["hangs"]["error"]
    assert len({one["pid"] for one in results["works"]["rounds"]}) == 2
    assert len(results["once"]["rounds"]) == 1


def test_who_cannot_be_installed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECLEA_BENCH_HOME", str(tmp_path))
    assert folder() == tmp_path
    (tmp_path / "peer").write_text("no directory can be made here")
    results = contest("test", [Contender("peer", Environment("peer", ("nothing",)), "x.py", [])], 1)
    assert results["peer"]["rounds"] == [] and results["peer"]["error"].startswith("peer: ")


def test_nothing_of_a_contender_is_left_and_it_sees_no_home_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECLEA_PROJECT", "mine")
    code = "import json, os, sys, pathlib\npathlib.Path(sys.argv[-1]).write_text(json.dumps(dict(os.environ)))\n"
    seen = module.run(Contender("environment", OWN, script(tmp_path, "environment", code), []))
    assert "SECLEA_PROJECT" not in seen
    assert seen["SECLEA_HOME"].startswith(seen["HOME"]) and not Path(seen["HOME"]).exists()


def test_every_contender_of_the_tables_has_a_part_that_runs_it() -> None:
    code = "import json, loggers, queues; print(json.dumps([[*loggers.CONTENDERS], [*queues.CONTENDERS]]))"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=module.CONTENDERS, capture_output=True, text=True, check=True, timeout=60
    )
    assert [sorted(names) for names in json.loads(ran.stdout)] == [sorted(LOGGERS), sorted(QUEUES)]
