"""What is in the memory of our processes, and what is not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline import ROOT, PipelineHome

NEVER_THERE = {"torch", "numpy", "pandas", "pyarrow", "sklearn", "IPython"}
MAPPED = re.compile(r"/(torch|numpy|numpy\.libs|pandas|pyarrow|scipy|sklearn)/")

LOGS = """
    from seclea import SecleaAI
    import numpy, pandas
    run = SecleaAI("Claims").start_training_run()
    run.log({"loss": numpy.float32(1.0)})
    print(flush=True)
    input()
    """


def modules_of(code: str) -> set[str]:
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=True,
    )
    return set(ran.stdout.split())


@pytest.mark.parametrize("module", ["seclea.writer.__main__", "seclea.sender.__main__"])
def test_a_background_process_imports_neither_the_client_nor_any_framework(module: str) -> None:
    loaded = modules_of(f"import {module}")
    assert module in loaded
    assert {name for name in loaded if name.split(".")[0] in NEVER_THERE} == set()
    assert {name for name in loaded if name.startswith(("seclea.client", "seclea.portal", "seclea.cli"))} == set()


def test_the_writer_knows_nothing_of_the_wire_and_the_sender_nothing_of_the_client() -> None:
    writer = modules_of("import seclea.writer.__main__")
    assert {name for name in writer if name.startswith(("seclea.sender", "seclea.api", "seclea.director"))} == set()
    assert writer.isdisjoint({"requests", "urllib3"})
    sender = modules_of("import seclea.sender.__main__")
    assert {name for name in sender if name.startswith(("seclea.writer", "seclea.director"))} == set()


def test_making_a_client_and_logging_loads_no_framework() -> None:
    loaded = modules_of("from seclea import SecleaAI, TrainingRun, init, log, finish")
    assert {name for name in loaded if name.split(".")[0] in NEVER_THERE} == set()
    assert loaded.isdisjoint({"requests", "urllib3", "psutil", "backoff"})


def test_running_processes_have_no_library_of_a_framework_mapped(home: PipelineHome) -> None:
    script = home.script(LOGS)
    script.hear()
    maps = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in (home.writer_pid(), home.sender_pid(), script.pid)}
    found = {pid: sorted(set(MAPPED.findall(text))) for pid, text in maps.items()}
    assert "numpy" in found.pop(script.pid), "the pattern does find them where they are"
    assert found == {home.writer_pid(): [], home.sender_pid(): []}


def test_the_command_lines_say_nothing_but_places(home: PipelineHome) -> None:
    script = home.script(LOGS)
    script.hear()
    home.sender_pid()
    for line in home.processes().values():
        words = line.split()
        assert words[1:3] == ["-P", "-m"]
        assert words[3] in ("seclea.writer", "seclea.sender")
        assert words[4:6] == ["--home", str(home.path)]
        assert words[6:7] + words[8:] in (["--start-lock"], ["--lifeline"])
