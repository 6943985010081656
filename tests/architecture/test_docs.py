"""The documentation is true: it names everything public, its links lead somewhere, and its examples run."""

import argparse
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import seclea
from seclea.cli.main import parser
from seclea.client.snapshot.application import APPLICATION_TYPES
from seclea.client.snapshot.metadata import automatic_metadata
from seclea.contract import Home
from seclea.portal.cli import main as portal_main
from seclea.processes.rendezvous import is_held
from seclea.settings import KEYS

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference.md"
NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *NOTEBOOKS])
RUN_SECONDS = 90.0  # an example waits at most 60 s for its records
RUN_EACH = "import runpy, sys\nfor path in sys.argv[1:]:\n    runpy.run_path(path, run_name='__main__')\n"

METADATA = (
    "continuous_features", "outputs", "outputs_type", "favourable_outcome", "unfavourable_outcome", "index",
    "dataset_type", "split", "roles", "content_digest", "column_digests",
)  # fmt: skip


class Example(NamedTuple):
    """The blocks of Python in a page that run as they stand. Others show a signature, or need a portal of one's own.

    Attributes:
        chosen: which of all blocks in the page.
        joined: they are one script; else each is one, and they run one after the other in one process and home.
        prints: what must be in their output.
    """

    page: str
    chosen: Callable[[list[str]], list[str]]
    joined: bool = False
    prints: tuple[str, ...] = ()


def needs_torch(block: str) -> bool:
    return re.search(r"\btorch\b", block) is not None


EXAMPLES = {
    "readme": Example("README.md", lambda blocks: blocks),
    "quickstart": Example("docs/quickstart.md", lambda blocks: blocks, joined=True),
    "processes": Example("docs/howto.md", lambda blocks: [one for one in blocks if "multiprocessing" in one]),
    "lineage": Example(
        "docs/howto.md",
        lambda blocks: [one for one in blocks if "DatasetTransformation" in one or "/collection/lineage" in one],
        prints=(
            "Claims → impute → Train-impute reproduced",
            "Train-impute → split → Test reproduced",
            "Train → train → Fit",
        ),
    ),
    "frameworks": Example("docs/frameworks.md", lambda blocks: [one for one in blocks if not needs_torch(one)]),
    "torch": Example("docs/frameworks.md", lambda blocks: [one for one in blocks if needs_torch(one)]),
}


@cache
def text_of(page: Path) -> str:
    """A page; of a notebook what is not code."""
    text = page.read_text("utf-8")
    if page.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(one["source"]) for one in json.loads(text)["cells"] if one["cell_type"] == "markdown")


@cache
def named_in_reference() -> str:
    """Everything that the reference puts in code, one after the other."""
    text = text_of(REFERENCE)
    return "\n".join([*re.findall(r"(?m)^```\w*\n(.*?)^```", text, re.DOTALL), *re.findall(r"`([^`\n]+)`", text)])


def is_named(word: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", named_in_reference()) is not None


# ------------------------------------------------------------------------------------------------------------------
# Everything is mentioned


@pytest.mark.parametrize("name", seclea.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    assert is_named(name)


@pytest.mark.parametrize("owner", ["SecleaAI", "TrainingRun"])
def test_every_public_method_is_in_the_reference(owner: str) -> None:
    methods = [name for name, value in vars(getattr(seclea, owner)).items() if callable(value) and name[0] != "_"]
    assert [name for name in methods if name != "after_fork_in_child" and not is_named(name)] == []


@pytest.mark.parametrize("owner", ["SecleaAI", "TrainingRun", "DatasetTransformation", "init", "log", "finish"])
def test_every_argument_of_what_is_public_is_in_the_reference(owner: str) -> None:
    found = getattr(seclea, owner)
    functions = [] if owner == "TrainingRun" else [found]  # which nobody makes but start_training_run
    if isinstance(found, type):
        functions += [value for name, value in vars(found).items() if inspect.isfunction(value) and name[0] != "_"]
    named = {name for one in functions for name in inspect.signature(one).parameters}
    assert {name for name in named if name != "self" and not is_named(name)} == set()


def test_every_key_of_a_datasets_metadata_and_every_application_type_is_in_the_reference() -> None:
    import pyarrow as pa

    found = automatic_metadata([("column", "a", pa.array([1]))], {"outputs": ["a"]}, "pandas")
    keys = {*found, *found["outputs_info"]["a"], *METADATA, *APPLICATION_TYPES}
    assert {key for key in keys if not is_named(key)} == set()


def test_every_message_in_the_how_to_is_one_that_seclea_says() -> None:
    """What stands in code in the table of errors is a piece of a message in the source."""
    table = re.search(r"(?ms)^\| it says \|.*?\n\n", text_of(ROOT / "docs" / "howto.md"))
    assert table is not None
    rows = [line.split("|")[1] for line in table[0].splitlines()[2:] if line]
    pieces = [piece for row in rows for piece in re.findall(r"`([^`]+)`", row)]
    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "seclea").rglob("*.py"))
    assert len(pieces) >= len(rows) > 10
    assert [piece for piece in pieces if piece not in source] == []


def commands(of: argparse.ArgumentParser, prefix: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every subcommand, with its name as it is typed."""
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield f"{prefix}{name}", sub
                yield from commands(sub, f"{prefix}{name} ")


@pytest.mark.parametrize("name", [name for name, _ in commands(parser())])
def test_every_command_is_in_the_reference(name: str) -> None:
    assert is_named(f"seclea {name}")


def test_every_option_of_the_command_line_is_in_the_reference() -> None:
    options = {option for _, sub in commands(parser()) for action in sub._actions for option in action.option_strings}
    assert {option for option in options if option not in ("-h", "--help") and not is_named(option)} == set()


@pytest.mark.parametrize("arguments", [[], ["org", "add"], ["user", "add"]])
def test_every_command_and_option_of_the_portal_is_in_the_reference(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        portal_main([*arguments, "--help"])
    options = set(re.findall(r"(?<!\w)--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert {option for option in options if not is_named(option)} == set()
    assert is_named(" ".join(arguments))


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_is_in_the_reference_with_its_environment_variable(key: str) -> None:
    assert is_named(key)
    assert is_named("SECLEA_" + key.upper().replace(".", "_"))


# ------------------------------------------------------------------------------------------------------------------
# Links and lines


def prose(page: Path) -> str:
    """The page without what stands in code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"(?ms)^```.*?^```", "", text_of(page)))


@cache
def anchors(page: Path) -> frozenset[str]:
    """The headings of a page as the usual renderers name them."""
    text = re.sub(r"(?ms)^```.*?^```", "", text_of(page))
    headings = re.findall(r"(?m)^#+ (.+)$", text)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        found = (page.parent / place).resolve() if place else page
        if not found.exists() or (anchor and found.suffix == ".md" and anchor not in anchors(found)):
            wrong.append(target)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_a_line_number_of_a_source_file(page: Path) -> None:
    assert re.findall(r"\b[\w/.-]+\.(?:py|sql|toml|cfg|md|sh):\d+", text_of(page)) == []


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", text_of(folder / "README.md"))
    assert sorted(listed) == sorted(path.name for path in folder.glob("[0-9]*.md"))


# ------------------------------------------------------------------------------------------------------------------
# Examples


def clean_environment(home: Path, user: Path) -> dict[str, str]:
    """This environment without anybody's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SECLEA_")}
    return kept | {"SECLEA_HOME": str(home), "HOME": str(user), "PYTHONPATH": str(ROOT)}


def keys_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys_of(inner)


def scripts_of(example: Example, directory: Path) -> list[str]:
    """The paths of an example's scripts."""
    blocks = example.chosen(re.findall(r"(?ms)^```python\n(.*?)^```", text_of(ROOT / example.page)))
    assert blocks, "the page has none of these"
    scripts = []
    for number, block in enumerate(["\n".join(blocks)] if example.joined else blocks):
        script = directory / f"example{number}.py"
        script.write_text(block, "utf-8")
        scripts.append(str(script))
    return scripts


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.torch if name == "torch" else ()) for name in EXAMPLES]
)
def test_the_examples_run_and_all_they_log_is_delivered(name: str, tmp_path: Path) -> None:
    if name == "torch" and find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    scripts = scripts_of(EXAMPLES[name], tmp_path)
    home = tmp_path / "home"
    environment = clean_environment(home, tmp_path)

    def run(*arguments: str) -> str:
        ran = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    try:
        printed = run(*scripts) if len(scripts) == 1 else run("-c", RUN_EACH, *scripts)
        status = json.loads(run("-m", "seclea", "status", "--json"))
    finally:
        run("-m", "seclea", "stop")
    assert status["pending"]["records"] == 0
    assert status["delivered"]["records"] >= 4
    assert [text for text in EXAMPLES[name].prints if text not in printed] == []
    assert not is_held(Home(home).writer_lock)
    assert not is_held(Home(home).sender_lock)
    # What is documented as stable is what comes out. Kinds and statuses are data, not keys.
    status["records"] = {}
    assert {key for key in keys_of(status) if not is_named(key) and f'"{key}"' not in named_in_reference()} == set()
