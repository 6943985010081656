"""What stands in every secret of the tests, and where it must never be found (S3).

Two fixed words in passwords and tokens, and whatever tokens a home's store holds, searched for after every test: in all
files of the home (the token store left out), in what user scripts and commands printed, in what pytest captured, and in the
command lines and environments of our background processes. The captured part is `tests/conftest.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

WORDS = ("canary-4f1d7e90c2", "canary-5f3759df")
CANARY = WORDS[0]
_LEAST = 12  # characters: a test's token "a" proves nothing


def secrets_of(tokens: Path) -> set[bytes]:
    """The words, and the tokens that lie in a token store."""
    found = {word.encode() for word in WORDS}
    for path in tokens.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            values = json.loads(path.read_bytes())
            for name in ("access_token", "refresh_token"):
                if isinstance(value := values.get(name), str) and len(value) >= _LEAST:
                    found.add(value.encode())
    return found


def named(content: bytes, secrets: Iterable[bytes]) -> bool:
    """Whether one of the secrets stands in it."""
    return any(secret in content for secret in secrets)


def in_files(directory: Path, secrets: Iterable[bytes], *, without: Iterable[Path] = ()) -> list[str]:
    """Files below ``directory`` in which a secret stands. Directories called ``tokens`` and those ``without`` are left out."""
    left_out = {"tokens"}
    skipped = {os.fspath(path) for path in without}
    found = []
    for where, directories, files in os.walk(directory):
        directories[:] = [
            name for name in directories if name not in left_out and os.path.join(where, name) not in skipped
        ]
        for name in files:
            path = os.path.join(where, name)
            if path not in skipped and not os.path.islink(path) and os.path.isfile(path):
                with contextlib.suppress(OSError), open(path, "rb") as file:
                    if named(file.read(), secrets):
                        found.append(path)
    return found


def in_processes(pids: Iterable[int], secrets: Iterable[bytes]) -> list[str]:
    """Files of ``/proc`` in which a secret stands: what these processes were started with."""
    found = []
    for pid in pids:
        for name in ("cmdline", "environ"):
            path = f"/proc/{pid}/{name}"
            with contextlib.suppress(OSError), open(path, "rb") as file:
                if named(file.read(), secrets):
                    found.append(path)
    return found


def in_text(parts: Iterable[tuple[str, str]]) -> Iterator[str]:
    """The headings of those parts of captured output in which a word stands."""
    return (heading for heading, text in parts if any(word in text for word in WORDS))
