"""Rules about the files of the repository itself."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import seclea

ROOT = Path(__file__).resolve().parents[2]

# Assembled, so that this file does not hold what it looks for. Each is the host of a package registry.
REGISTRY_HOSTS = [
    "".join(parts)
    for parts in (
        ("py", "pi.", "org"),
        ("python", "hosted.", "org"),
        ("registry.", "npm", "js"),
        ("registry.", "yarn", "pkg"),
        ("deb.", "debian.", "org"),
        ("download.", "pytorch"),
        ("conda.", "anaconda"),
        ("index.", "crates.", "io"),
    )
]


def committed_files() -> list[Path]:
    """What git tracks or would track; an exported tree without git has nothing to check."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_committed_file_carries_the_address_of_a_package_registry() -> None:
    pattern = re.compile("|".join(map(re.escape, REGISTRY_HOSTS)).encode(), re.IGNORECASE)
    found = {str(path.relative_to(ROOT)) for path in committed_files() if pattern.search(path.read_bytes())}
    assert found == set()


def test_the_lock_carries_hashes_no_address_and_no_torch() -> None:
    lock = (ROOT / "requirements" / "dev.txt").read_text()
    assert "://" not in lock
    requirements = re.split(r"\n(?=\S)", re.sub(r"(?m)^\s*#.*\n?", "", lock).strip())
    assert all("--hash=sha256:" in requirement for requirement in requirements)
    assert not any(requirement.startswith(("torch", "nvidia")) for requirement in requirements)


def test_no_module_is_named_for_being_useful() -> None:
    names = {path.stem for path in (ROOT / "seclea").rglob("*") if path.is_dir() or path.suffix == ".py"}
    assert names.isdisjoint({"utils", "util", "common", "helpers", "helper"})


def test_the_core_dependencies_are_exactly_six_and_the_version_is_said_once_and_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^A-Za-z0-9_.-]", requirement)[0] for requirement in project["dependencies"]}
    assert names == {"requests", "urllib3", "msgpack", "filelock", "psutil", "backoff"}
    assert project["version"] == seclea.__version__
