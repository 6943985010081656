"""What a function is: its source, and everything that its result was seen to depend on.

Rule 1  The fingerprint covers the code (source without comments, else bytecode), defaults, closure, arguments bound by
        partial, attributes of the object it is bound to, globals that it reads, and the same of every function of the
        user's that it reaches. A library's function is its qualified name and the library's version.
Rule 2  What cannot be compared by content (an open file, an object of a compiled type) is named in `unverifiable`: it is
        in the fingerprint by its type only, and the record says so.
Rule 3  Nothing is called, imported or changed, and nothing is pickled.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import importlib.metadata
import os
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

from seclea.client.lineage.sources import Source, source_of
from seclea.client.lineage.values import Described, Walker
from seclea.records import canonical_json

_DOMAIN = b"seclea-function-v1\n"
MAX_HELPERS = 200  # functions of the user's that a step reaches; more are named, not kept


@dataclass(slots=True)
class Function:
    """A function as it is recorded (docs/lineage.md, ``details``)."""

    qualified_name: str
    module: str
    kind: str
    source: Source
    captured: list[dict[str, Any]] = field(default_factory=list)
    helpers: list[dict[str, Any]] = field(default_factory=list)
    unverifiable: list[str] = field(default_factory=list)
    libraries: set[str] = field(default_factory=set)
    fingerprint: str = ""


def describe_function(func: Any) -> Function:
    """Describe a function, lambda, method, partial, or any callable."""
    return _Describer().describe(func)


class _Describer:
    """One description: what was reached already, and what was found on the way."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}  # id of a code object or class → its number, so that recursion ends
        self._forms: list[Any] = []  # what the fingerprint is made of, in the order reached
        self._helpers: list[dict[str, Any]] = []
        self._walker = Walker(self._reached)
        self._held: list[Any] = []  # so that no id is given out again meanwhile

    def describe(self, func: Any) -> Function:
        captured: list[dict[str, Any]] = []
        outer, kind = func, "function"
        while isinstance(outer, functools.partial):
            kind = "partial"
            bound = [(str(number), value) for number, value in enumerate(outer.args)] + list(outer.keywords.items())
            captured += self._captured("partial", bound)
            outer = outer.func
        if isinstance(outer, types.MethodType):
            kind = "method" if kind == "function" else kind
            captured += self._captured("attribute", [("self", outer.__self__)])
            outer = outer.__func__
        if not isinstance(outer, FunctionType) and not _is_compiled(outer) and not isinstance(outer, type):
            kind = "callable"  # an object with __call__
            captured += self._captured("attribute", [("self", outer)])
            outer = type(outer).__call__
        code = getattr(outer, "__code__", None)
        if not isinstance(code, CodeType):
            return self._compiled(outer, kind, captured)
        inner = _unwrapped(outer)
        if inner is not outer:  # what a decorator put around it depends on things too
            captured += self._captured("closure", [("decorator", outer)])
        if inner.__code__.co_name == "<lambda>" and kind == "function":
            kind = "lambda"
        source = source_of(inner.__code__)
        self._number(inner.__code__)
        captured += self._depends(inner)
        form = {"code": _code_form(inner.__code__, source), "kind": kind, "captured": captured, "reached": self._forms}
        found = self._finish(inner, kind, source, captured, form)
        found.libraries.add(_top(inner.__module__)) if is_library(inner.__module__) else None
        return found

    def _compiled(self, func: Any, kind: str, captured: list[dict[str, Any]]) -> Function:
        module = str(getattr(func, "__module__", None) or type(func).__module__)
        version = version_of(_top(module))
        what = f"a class of {_top(module)}" if isinstance(func, type) else "compiled code"
        missing = f"it is {what}: its name and version {version or 'of Python'} stand for it"
        if isinstance(func, type) and not is_library(module):
            missing = "it is a class"
            captured += self._captured("global", [(func.__name__, func)])
        form = {"code": [module, _qualified(func), version], "kind": kind, "captured": captured, "reached": self._forms}
        kind = "compiled" if kind == "function" else kind
        return self._finish(func, kind, Source(missing=missing), captured, form)

    def _finish(
        self, func: Any, kind: str, source: Source, captured: list[dict[str, Any]], form: dict[str, Any]
    ) -> Function:
        module = str(getattr(func, "__module__", None) or type(func).__module__)
        return Function(
            qualified_name=f"{module}.{_qualified(func)}",
            module=module,
            kind=kind,
            source=source,
            captured=captured,
            helpers=self._helpers,
            unverifiable=sorted(set(self._walker.unverifiable)),
            libraries=self._walker.libraries | ({_top(module)} if is_library(module) else set()),
            fingerprint=hashlib.sha256(_DOMAIN + canonical_json(form)).hexdigest(),
        )

    # -- what it depends on --------------------------------------------------------------------------------------

    def _captured(self, where: str, items: Any) -> list[dict[str, Any]]:
        return [{"where": where, "name": name, "value": self._walker.describe(value, name)} for name, value in items]

    def _depends(self, func: FunctionType) -> list[dict[str, Any]]:
        """Defaults, closure and globals of one function, by name."""
        code = func.__code__
        names = code.co_varnames[: code.co_argcount]
        defaults = func.__defaults__ or ()
        found = self._captured("default", list(zip(names[len(names) - len(defaults) :], defaults, strict=True)))
        found += self._captured("default", list((func.__kwdefaults__ or {}).items()))
        cells = zip(code.co_freevars, func.__closure__ or (), strict=True)
        found += self._captured("closure", [(name, _content(cell)) for name, cell in cells if name != "__class__"])
        for path, value in sorted(dict(_globals_read(code, func.__globals__)).items()):
            found += self._captured("global", [(path, value)])
        return found

    def _number(self, thing: Any) -> int | None:
        """The number of something reached before; a new one is noted, and None."""
        known = self._numbers.get(id(thing))
        if known is None:
            self._numbers[id(thing)] = len(self._numbers)
            self._held.append(thing)
        return known

    def _reached(self, value: Any) -> Described | None:
        """A function or class on the way: the user's is described in its turn, a library's is its name and version."""
        if isinstance(value, types.MethodType):
            inner, bound = self._reached(value.__func__), self._walker.describe(value.__self__, "self")
            return Described({"method": inner.form if inner else _qualified(value), "of": bound})
        if isinstance(value, functools.partial):
            parts = {"func": value.func, "args": value.args, "keywords": value.keywords}
            return Described({"partial": self._walker.describe(parts, "partial")})
        if isinstance(value, types.ModuleType):
            return (
                self._library(value.__name__, value.__name__)
                if is_library(value.__name__)
                else Described({"module": value.__name__})
            )
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, FunctionType):
            return self._function(value)
        if _is_compiled(value):
            module = str(getattr(value, "__module__", None) or type(value).__module__)
            return self._library(module, f"{module}.{_qualified(value)}")
        return None

    def _library(self, module: str, name: str) -> Described:
        self._walker.libraries.add(_top(module))
        return Described({"library": name, "version": version_of(_top(module))})

    def _function(self, func: FunctionType) -> Described:
        name = f"{func.__module__}.{func.__qualname__}"
        if is_library(func.__module__):
            return self._library(func.__module__, name)
        known = self._number(func.__code__)
        if known is not None:
            return Described({"function": name, "number": known})
        number = self._numbers[id(func.__code__)]
        source = source_of(func.__code__)
        slot = len(self._forms)
        self._forms.append(None)
        depends = self._depends(func)
        self._forms[slot] = {"number": number, "code": _code_form(func.__code__, source), "captured": depends}
        if len(self._helpers) < MAX_HELPERS:
            entry = {"qualified_name": name, "source": source.text, "missing": source.missing, "captured": depends}
            self._helpers.append(entry)
        return Described({"function": name, "number": number})

    def _class(self, cls: type) -> Described:
        name = f"{cls.__module__}.{cls.__qualname__}"
        if is_library(cls.__module__):
            return self._library(cls.__module__, name)
        if self._number(cls) is None:
            slot = len(self._forms)
            self._forms.append(None)
            members = {
                key: self._walker.describe(getattr(member, "__func__", getattr(member, "fget", member)), key)
                for key, member in sorted(vars(cls).items())
                if key not in _CLASS_NOISE
                and not isinstance(member, types.GetSetDescriptorType | types.MemberDescriptorType)
            }
            bases = [self._walker.describe(base, "base") for base in cls.__bases__ if base is not object]
            self._forms[slot] = {"number": self._numbers[id(cls)], "class": name, "members": members, "bases": bases}
        return Described({"class": name, "number": self._numbers[id(cls)]})


_CLASS_NOISE = frozenset(
    {"__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__", "__firstlineno__",
     "__static_attributes__", "__slots__", "__match_args__", "__annotate__", "__annotate_func__", "_abc_impl"}
)  # fmt: skip


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _unwrapped(func: FunctionType) -> FunctionType:
    """The function that decorators (functools.wraps) stand around."""
    seen = {id(func)}
    while isinstance(inner := getattr(func, "__wrapped__", None), FunctionType) and id(inner) not in seen:
        seen.add(id(inner))
        func = inner
    return func


def _code_form(code: CodeType, source: Source) -> Any:
    return {"source": source.normal} if source.missing is None else {"bytecode": _bytecode(code)}


def _bytecode(code: CodeType) -> str:
    whole = hashlib.sha256(code.co_code + repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
    for constant in code.co_consts:
        inner = _bytecode(constant) if isinstance(constant, CodeType) else f"{type(constant).__name__}:{constant!r}"
        whole.update(inner.encode("utf-8", "backslashreplace") + b"\0")
    whole.update(sys.implementation.cache_tag.encode() if sys.implementation.cache_tag else b"")
    return whole.hexdigest()


_MISSING = object()


def _globals_read(code: CodeType, namespace: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(name, value) of the globals that a code object reads; of a user's module ("config.RATE") what is read of it."""
    instructions = list(dis.get_instructions(code))
    for number, instruction in enumerate(instructions):
        if instruction.opname not in ("LOAD_GLOBAL", "LOAD_NAME"):
            continue
        path = str(instruction.argval)
        value = namespace.get(path, _MISSING)
        if value is _MISSING:  # a builtin, or a name that is not there
            continue
        for following in instructions[number + 1 :]:
            if following.opname not in ("LOAD_ATTR", "LOAD_METHOD") or not isinstance(value, types.ModuleType):
                break
            if is_library(value.__name__):
                break
            path, value = f"{path}.{following.argval}", getattr(value, str(following.argval), None)
        yield path, value
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals_read(constant, namespace)


# ------------------------------------------------------------------------------------------------------------------
# Libraries


def _is_compiled(value: Any) -> bool:
    if isinstance(value, types.BuiltinFunctionType | types.MethodDescriptorType | types.WrapperDescriptorType):
        return True
    return type(value).__name__ in (
        "ufunc",
        "_ArrayFunctionDispatcher",
        "cython_function_or_method",
        "builtin_function",
    )


def _qualified(func: Any) -> str:
    return str(getattr(func, "__qualname__", None) or getattr(func, "__name__", None) or type(func).__qualname__)


def _top(module: str) -> str:
    return module.partition(".")[0]


@functools.cache
def _library_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    roots = {os.path.realpath(paths[name]) for name in ("purelib", "platlib") if name in paths}
    for entry in sys.path:  # other places of installed packages: distributions' own, --user, several environments
        if os.path.basename(entry) in ("site-packages", "dist-packages"):
            roots.add(os.path.realpath(entry))
    return tuple(sorted(roots))


def is_library(module: str) -> bool:
    """Whether a module is installed or Python's own: its version stands for its text."""
    top = _top(module)
    if top in ("seclea", "builtins") or top in sys.stdlib_module_names:
        return True
    loaded = sys.modules.get(top)
    place = getattr(loaded, "__file__", None) or next(iter(getattr(loaded, "__path__", ())), None)
    return place is not None and top not in ("__main__", "__mp_main__") and _is_installed(place)


@functools.cache
def _is_installed(place: str) -> bool:
    place = os.path.realpath(place)
    return ("site-packages" in place or "dist-packages" in place) and any(
        place.startswith(root + os.sep) for root in _library_roots()
    )


def version_of(top: str) -> str:
    """The version of a loaded top-level package; "" where it has none (or is Python's own)."""
    if top in sys.stdlib_module_names or top == "builtins":
        return ""
    version = getattr(sys.modules.get(top), "__version__", None)
    return version if isinstance(version, str) else _installed_version(top)


@functools.cache
def _installed_version(top: str) -> str:
    try:
        return importlib.metadata.version(top)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return ""


def versions(libraries: set[str]) -> dict[str, str]:
    """Python's version and those of the libraries, as far as they have one."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    return found | {name: version for name in sorted(libraries) if (version := version_of(name))}
