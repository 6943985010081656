"""The source text of a function, only where it is surely that of the code that runs.

Rule 1  The whole file (or notebook cell) is compiled again and the function's code must be in it, byte for byte. A file
        that was edited after it was imported has another text than the code that runs: then there is none, and a word why.
Rule 2  Text is found by position, so two lambdas on one line are told apart.
"""

from __future__ import annotations
import __future__

import ast
import linecache
import os
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

_FUTURES = __future__.annotations.compiler_flag | __future__.barry_as_FLUFL.compiler_flag
_MAX_FILE = 4 << 20  # characters; a larger file is generated, and compiling it would be felt


@dataclass(frozen=True, slots=True)
class Source:
    """Where a function stands.

    Attributes:
        text: its source, dedented; empty where ``missing`` says why there is none.
        normal: the same without comments, docstring and layout: what counts when two are compared.
        file: relative to the working directory where it is below that, else the file's name; a notebook's cell has none.
        line: first line in the file, from 1.
    """

    text: str = ""
    normal: str = ""
    missing: str | None = None
    file: str | None = None
    line: int | None = None


_parsed: dict[tuple[str, int], tuple[ast.Module, dict[tuple[str, int], list[CodeType]]] | None] = {}


def source_of(code: CodeType, func: Any = None) -> Source:
    """The source of a code object; of a function also its defaults, where they are literals, must be those of the text."""
    name = code.co_filename
    shown = _shown(name)
    lines = linecache.getlines(name)
    found = _find(code, lines, func)
    if found is None and lines and os.path.exists(name):
        linecache.checkcache(name)  # the cache may be older than the code
        lines = linecache.getlines(name)
        found = _find(code, lines, func)
    if found is None:
        return Source(missing=_why(name, lines), file=shown, line=code.co_firstlineno)
    text, normal = found
    return Source(text, normal, None, shown, code.co_firstlineno)


def _why(name: str, lines: list[str]) -> str:
    if lines:
        return "its file was edited after it was loaded, or its code was rewritten: the text is not that of the code that ran"
    if name.startswith("<"):
        return f"it was made from text that Python does not keep ({name}): define it in a file or a notebook cell"
    return "its file is not there any more"


def _shown(name: str) -> str | None:
    if name.startswith("<") or "ipykernel" in name:
        return None
    try:
        below = os.path.relpath(name)
    except (OSError, ValueError):  # the working directory is gone
        below = ".."
    return os.path.basename(name) if below.startswith("..") else below


def _find(code: CodeType, lines: list[str], func: Any) -> tuple[str, str] | None:
    parsed = _parse(code.co_filename, lines, code.co_flags & _FUTURES)
    if parsed is None:
        return None
    tree, codes = parsed
    if not any(_same_code(code, other) for other in codes.get((code.co_name, code.co_firstlineno), ())):
        return None
    node = _node_of(tree, code)
    if node is None or not _same_defaults(node, func):
        return None
    if isinstance(node, ast.Lambda):
        segment = ast.get_source_segment("".join(lines), node)
        return None if segment is None else (segment, ast.unparse(node))
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    text = textwrap.dedent("".join(lines[first - 1 : node.end_lineno]))
    return text.rstrip("\n"), _normal(node)


def _normal(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    body = node.body
    if ast.get_docstring(node) is not None:
        body = body[1:] or [ast.Pass()]
    plain = ast.copy_location(
        type(node)(**{field: getattr(node, field) for field in node._fields if hasattr(node, field)} | {"body": body}),
        node,
    )
    return ast.unparse(plain)


def _parse(name: str, lines: list[str], future: int) -> Any:
    """Tree and code of a whole file, under the ``future`` flags that a notebook's cells inherit from each other."""
    text = "".join(lines)
    if not text or len(text) > _MAX_FILE:
        return None
    key = (name, hash((text, future)))
    if key not in _parsed:
        try:
            tree = ast.parse(text)
            whole = compile(text, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | future, dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError):  # a notebook's cell with magic commands is plain Python here
            _parsed[key] = None
        else:
            codes: dict[tuple[str, int], list[CodeType]] = {}
            for inner in _all_codes(whole):
                codes.setdefault((inner.co_name, inner.co_firstlineno), []).append(inner)
            _parsed[key] = tree, codes
    return _parsed[key]


def _all_codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _all_codes(constant)


def _same_code(one: CodeType, other: CodeType) -> bool:
    if (one.co_code, one.co_names, one.co_varnames, one.co_freevars) != (
        other.co_code,
        other.co_names,
        other.co_varnames,
        other.co_freevars,
    ) or len(one.co_consts) != len(other.co_consts):
        return False
    for mine, theirs in zip(one.co_consts, other.co_consts, strict=True):
        if isinstance(mine, CodeType) and isinstance(theirs, CodeType):
            if not _same_code(mine, theirs):
                return False
        elif constant_text(mine) != constant_text(theirs):
            return False
    return True


def _same_defaults(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, func: Any) -> bool:
    """Whether the literal defaults in the text are those of the function: they are no part of its code."""
    written = [*node.args.defaults, *(one for one in node.args.kw_defaults if one is not None)]
    named = [
        one.arg for one, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if default is not None
    ]
    by_name = getattr(func, "__kwdefaults__", None) or {}
    actual = [*(getattr(func, "__defaults__", None) or ()), *(by_name.get(name) for name in named)]
    if func is None or len(written) != len(actual):
        return func is None
    return all(
        constant_text(one.value) == constant_text(value)
        for one, value in zip(written, actual, strict=True)
        if isinstance(one, ast.Constant)
    )


def constant_text(value: Any) -> str:
    """A constant of compiled code as text, with its type; a set's order, which depends on the process, does not count."""
    if isinstance(value, frozenset):
        return f"frozenset({', '.join(sorted(map(constant_text, value)))})"
    if isinstance(value, tuple):
        return f"({', '.join(map(constant_text, value))})"
    return f"{type(value).__name__}:{value!r}"


def _node_of(tree: ast.Module, code: CodeType) -> ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | None:
    if code.co_name == "<lambda>":
        return _lambda_of(tree, code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first == code.co_firstlineno:
                return node
    return None


def _lambda_of(tree: ast.Module, code: CodeType) -> ast.Lambda | None:
    """The innermost lambda whose body spans all the places that the code's instructions name."""
    places = [place for place in code.co_positions() if None not in place and place[2:] != (0, 0)]
    fitting = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno:
            body: Any = node.body
            begin, end = (body.lineno, body.col_offset), (body.end_lineno, body.end_col_offset)
            if all(
                begin <= (first, column) and (last, last_column) <= end for first, last, column, last_column in places
            ):
                fitting.append((end[0] - begin[0], end[1] - begin[1], node))
    fitting.sort(key=lambda found: found[:2])
    return fitting[0][2] if fitting and (places or len(fitting) == 1) else None
