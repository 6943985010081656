"""Settings from files, environment and arguments, each with its origin.

Defaults < ~/.seclearc < .seclearc in the project root < SECLEA_* environment < arguments.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from seclea.errors import ConfigurationError
from seclea.settings.home import user_home
from seclea.settings.values import KEYS, READERS, Limits, Origin, Resolved, Settings

RC_NAME = ".seclearc"
_LIMITS = "limits."

_VARIABLES = {"SECLEA_" + key.upper().replace(".", "_"): key for key in KEYS}
# Known, but no settings: they are read where they matter.
_OTHER_VARIABLES = (
    "SECLEA_HOME",
    "SECLEA_RUN",
    "SECLEA_QUEUE",
    "SECLEA_USERNAME",
    "SECLEA_PASSWORD",
    "SECLEA_TOKEN_FILE",
)


def load(
    project_root: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Resolved:
    """All settings as they apply now, with the origin of each.

    Args:
        project_root: where the project's `.seclearc` is; the working directory by default. Parents are not searched.
        environ: `os.environ` by default. A variable that is set but empty counts as not set.
        arguments: by dotted key or nested; None counts as not given.
    Raises:
        ConfigurationError: an unknown key or wrong value, naming file and line, variable or argument. An unknown
            SECLEA_* variable only when it looks like a misspelling of a known one.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origins = {key: Origin("default") for key in KEYS}
    files = _rc_files(project_root, environ)
    for key, value, origin in _sources(files, environ, arguments or {}):
        values[key] = _read(key, value, origin)
        origins[key] = origin
    if "auth_url" not in values:
        origins["auth_url"] = origins["platform_url"]
    limits = {key.removeprefix(_LIMITS): values.pop(key) for key in list(values) if key.startswith(_LIMITS)}
    fixed = tuple(name for name in limits if origins[_LIMITS + name].kind in ("environment", "argument"))
    settings = Settings(**values, limits=Limits(**limits), limit_files=tuple(map(os.fspath, files)), fixed_limits=fixed)
    return Resolved(settings, origins)


def read_limits(files: Iterable[Path]) -> dict[str, Any]:
    """What these RC files say under ``[limits]``, the last one winning; a missing file says nothing.

    Raises:
        ConfigurationError: as `load`; also a wrong key of another table.
    """
    found = {}
    for path in files:
        for key, value, origin in _read_file(path):
            if key.startswith(_LIMITS):
                found[key.removeprefix(_LIMITS)] = _read(key, value, origin)
    return found


def _read(key: str, value: Any, origin: Origin) -> Any:
    try:
        return READERS[key](value)
    except ValueError as error:
        shown = re.sub(r"//[^/@]*@", "//…@", repr(value))  # never a password in an exception
        raise ConfigurationError(f"{origin.where}: {key} = {shown}: {error}.") from None


def _sources(
    files: Iterable[Path], environ: Mapping[str, str], arguments: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Origin]]:
    for path in files:
        yield from _read_file(path)
    for variable, text in environ.items():
        if variable in _VARIABLES:
            if text.strip():
                yield _VARIABLES[variable], text, Origin("environment", variable)
        elif variable.startswith("SECLEA_") and variable not in _OTHER_VARIABLES:
            _refuse_misspelling(variable)
    for key, value in _flatten(arguments):
        if value is None:
            continue
        if key not in READERS:
            raise _unknown_key(key, f"argument {key}")
        yield key, value, Origin("argument", key)


def _rc_files(project_root: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> list[Path]:
    try:
        root = Path(os.path.abspath(project_root or "."))
    except FileNotFoundError:  # the working directory was deleted
        root = None
    if project_root is not None and not (root and root.is_dir()):
        raise ConfigurationError(f"project_root {os.fspath(project_root)!r} is no directory.")
    files = {os.path.realpath(place / RC_NAME): place / RC_NAME for place in (user_home(environ), root) if place}
    return list(files.values())  # one where the project root is the user's home


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Limits):
            value = {item.name: getattr(value, item.name) for item in fields(Limits)}
        if isinstance(value, Mapping) and prefix + key not in READERS:
            if value or not any(known.startswith(f"{prefix}{key}.") for known in KEYS):
                yield from _flatten(value, f"{prefix}{key}.") if value else [(prefix + key, value)]
        else:
            yield prefix + key, value


def _read_file(path: Path) -> Iterator[tuple[str, Any, Origin]]:
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.", "Make it a readable file.") from None
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
        tree = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}:{line}: not UTF-8.", "Save the file as UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        text = raw.decode("utf-8-sig")
        found = re.search(r"at line (\d+)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        hint = 'Write it as TOML: key = "text".'
        raise ConfigurationError(f"{path}:{line}: no valid TOML: {error}.", hint) from None
    for key, value in _flatten(tree):
        where = f"{path}:{_line_of(text, key)}"
        if key not in READERS:
            raise _unknown_key(key, where)
        if key == "ca_bundle" and isinstance(value, str) and value:
            value = os.path.join(path.parent, os.path.expanduser(value))  # beside the file that names it
        yield key, value, Origin("file", where)


_TABLE = re.compile(r"\s*\[\[?\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


def _line_of(text: str, key: str) -> int:
    """The line (from 1) where a dotted key is set; that of the table around it where it stands in one line with it."""
    table, best, best_length, quote = "", 1, 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        if quote:  # inside a multi-line string: nothing here is a key
            quote = "" if quote in line else quote
            continue
        if match := _KEY.match(line):
            name = table + re.sub(r"""["'\s]""", "", match[1])
        elif match := _TABLE.match(line):
            name = re.sub(r"""["'\s]""", "", match[1])
            table = name + "."
        else:
            continue
        for mark in ('"""', "'''"):
            if line.count(mark) % 2:
                quote = mark
        if name == key:
            return number
        if key.startswith(name + ".") and len(name) > best_length:
            best, best_length = number, len(name)
    return best


def _close(word: str, known: Iterable[str], cutoff: float = 0.7) -> str | None:
    import difflib  # costs more than the rest of this module

    matches = difflib.get_close_matches(word, list(known), 1, cutoff)
    return matches[0] if matches else None


def _unknown_key(key: str, where: str) -> ConfigurationError:
    last = key.rpartition(".")[2]
    if any(known.startswith(key + ".") for known in KEYS):
        hint = f"It is a table: write [{key}] on a line of its own and its keys below."
    elif last in ("password", "username", "token"):
        hint = "Passwords and tokens are not kept in settings: use `seclea login`."
    elif (elsewhere := next((known for known in KEYS if known.rpartition(".")[2] == last), None)) is not None:
        table = elsewhere.rpartition(".")[0]
        hint = f"It belongs under [{table}]." if table else "It belongs above the first [table]."
    elif guess := _close(key, KEYS) or _close(last, KEYS):
        hint = f"Did you mean {guess}?"
    else:
        hint = f"Known keys: {', '.join(KEYS)}."
    return ConfigurationError(f"{where}: unknown key {key}.", hint)


def _refuse_misspelling(variable: str) -> None:
    known = [name.removeprefix("SECLEA_") for name in (*_VARIABLES, *_OTHER_VARIABLES)]
    if guess := _close(variable.removeprefix("SECLEA_"), known, 0.8):
        raise ConfigurationError(f"{variable}: unknown environment variable.", f"Did you mean SECLEA_{guess}?")
