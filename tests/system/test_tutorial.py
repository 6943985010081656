"""The tutorial is a notebook, and it runs: in a real kernel, with the real pipeline and portal.

It is committed without outputs: they hold ids, ports and times, and what a stored output says nobody has computed again.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline import ROOT, PipelineHome, pipeline_home, without_notice

TUTORIAL = ROOT / "docs" / "tutorial.ipynb"

# Runs a notebook by a kernel of its own kind; the kernel's messages go through sockets beside the connection file.
RUN = """
import sys
import nbformat
from jupyter_client import KernelManager
from nbclient import NotebookClient

source, executed, connection_file = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
manager = KernelManager(kernel_name="seclea-tutorial", transport="ipc", connection_file=connection_file)
NotebookClient(notebook, km=manager, timeout=90).execute()
nbformat.write(notebook, executed)
"""


def cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.fixture
def home() -> Iterator[PipelineHome]:
    with pipeline_home() as home:
        yield home


def execute(home: PipelineHome) -> dict[str, Any]:
    """The notebook as it is after it ran."""
    # The kernel names a file of this directory in its command line: if it is left running, the end of the test sees it.
    jupyter = Path(f"{home.path}-jupyter")
    kernel = jupyter / "data" / "kernels" / "seclea-tutorial"
    kernel.mkdir(parents=True)
    arguments = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    specification = {"argv": arguments, "display_name": "Tutorial", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(specification), "utf-8")
    environment = {
        "SECLEA_PLATFORM_URL": "local",
        "JUPYTER_CONFIG_DIR": jupyter / "config",
        "JUPYTER_DATA_DIR": jupyter / "data",
        "JUPYTER_RUNTIME_DIR": jupyter / "runtime",
        "IPYTHONDIR": jupyter / "ipython",
    }
    executed = home.root / "executed.ipynb"
    argv = f"import sys; sys.argv[1:] = {[str(TUTORIAL), str(executed), str(jupyter / 'kernel.json')]!r}"
    home.script(argv, RUN, **environment).end(seconds=110)
    found: dict[str, Any] = json.loads(executed.read_text("utf-8"))
    return found


def printed(notebook: dict[str, Any], stream: str = "stdout") -> str:
    outputs = [output for cell in cells(notebook) for output in cell["outputs"]]
    return "".join("".join(output["text"]) for output in outputs if output.get("name") == stream)


def test_the_tutorial_runs_and_what_it_says_is_what_is_recorded(home: PipelineHome) -> None:
    notebook = execute(home)
    said = printed(notebook)
    told = without_notice(printed(notebook, "stderr")).splitlines()  # on a slow machine, how far a wait is
    assert [line for line in told if not re.match(r"seclea: (\d+ records? left|all is delivered)", line)] == []
    # Nothing of the reader's is touched but the home.
    assert [path for path in home.user.rglob("*") if path.is_file()] == []

    # The message about the changed step, and the one about the other table.
    assert "The chain does not lead to the dataset: column 'age'" in said
    assert "that column was last changed by step 1, 'impute'" in said
    assert "Nearest is 'Claims train', but this one has other values in 'premium'" in said
    for line in (
        "Claims → impute → Claims train-impute reproduced",
        "Claims train-encode → lambda → Claims train-lambda reproduced",
        "Claims train-lambda → split → Claims train reproduced",
        "Claims train-lambda → split → Claims test reproduced",
        "Claims train → train → Forest",
    ):
        assert line in said

    # The source in the records is the text of the cells, and that of the lambda came back from the portal.
    rows = home.rows("SELECT json FROM entities WHERE kind = 'dataset_transformation' ORDER BY rowid")
    steps = [json.loads(text) for (text,) in rows]
    assert [step["name"] for step in steps] == ["impute", "encode", "lambda", "split", "split"]
    assert [step["details"]["source"]["missing"] for step in steps] == [None] * 5
    assert [step["details"]["source"]["file"] for step in steps] == [None] * 5
    texts = ["".join(cell["source"]) for cell in cells(notebook)]
    defining = next(text for text in texts if "def split(" in text)
    for step in steps:
        assert step["code_raw"] in (defining if step["name"] != "lambda" else "\n".join(texts))
        assert len(step["code_raw"].splitlines()) == {"impute": 3, "encode": 2, "lambda": 1, "split": 5}[step["name"]]
    assert steps[2]["code_raw"] in said
    assert {step["details"]["verdict"] for step in steps} == {"reproduced"}
    assert home.rows("SELECT count(*) FROM records WHERE status <> 'Completed'") == [(0,)]


def test_the_tutorial_is_kept_without_outputs() -> None:
    found = cells(json.loads(TUTORIAL.read_text("utf-8")))
    assert found
    assert [cell["outputs"] for cell in found if cell["outputs"]] == []
    assert [cell["execution_count"] for cell in found if cell["execution_count"] is not None] == []
