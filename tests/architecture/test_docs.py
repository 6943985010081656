"""The documentation is true: it names everything public, its links lead somewhere, and its examples run."""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import seclea
from seclea.cli.main import parser
from seclea.contract import Home
from seclea.portal.cli import main as portal_main
from seclea.processes.rendezvous import is_held
from seclea.settings import KEYS

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
RUN_SECONDS = 90.0  # an example waits at most 60 s for its records

# The examples that run as they stand: which blocks of Python in the page make one script. The others show a signature,
# or need a portal of one's own.
EXAMPLES = {"README.md": slice(0, 1), "docs/quickstart.md": slice(None), "docs/howto.md": slice(0, 1)}


@cache
def text_of(page: Path) -> str:
    return page.read_text("utf-8")


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


@pytest.mark.parametrize("page", EXAMPLES)
def test_the_examples_run_and_all_they_log_is_delivered(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```", text_of(ROOT / page))[EXAMPLES[page]]
    script = tmp_path / "example.py"
    script.write_text("\n".join(blocks), "utf-8")
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
        run(str(script))
        status = json.loads(run("-m", "seclea", "status", "--json"))
    finally:
        run("-m", "seclea", "stop")
    assert status["pending"]["records"] == 0
    assert status["delivered"]["records"] >= 4
    assert not is_held(Home(home).writer_lock)
    assert not is_held(Home(home).sender_lock)
    # What is documented as stable is what comes out. Kinds and statuses are data, not keys.
    status["records"] = {}
    assert {key for key in keys_of(status) if not is_named(key) and f'"{key}"' not in named_in_reference()} == set()
