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
import enum
import functools
import hashlib
import importlib.metadata
import os
import re
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

from seclea.client.lineage.sources import Source, constant_text, source_of
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


@dataclass(frozen=True, slots=True)
class Arguments:
    """Arguments of a call as they are recorded; ``form`` is what counts when two calls are compared."""

    described: dict[str, Any]
    form: Any
    helpers: list[dict[str, Any]]
    unverifiable: list[str]
    libraries: set[str]


def describe_arguments(arguments: Mapping[str, Any]) -> Arguments:
    """Describe the values that a function is called with, and the functions and classes among them."""
    describer = _Describer()
    described = {name: describer.argument(name, value) for name, value in arguments.items()}
    return describer.finish_arguments(described)


class _Describer:
    """One description: what was reached already, and what was found on the way."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}  # id of a function or class → its number, so that recursion ends
        self._waiting: deque[Any] = (
            deque()
        )  # numbered, not looked at yet: a work list, as chains of helpers may be long
        self._forms: list[Any] = []  # what the fingerprint is made of, in the order reached
        self._helpers: list[dict[str, Any]] = []
        self._walker = Walker(self._reached, is_library)
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
        if _is_library_wrapper(outer):
            captured += [
                {"where": "attribute", "name": "wrapper", "value": f"{_module(type(outer))}.{_qualified(type(outer))}"}
            ]
            outer = outer.__wrapped__  # functools.lru_cache
        if not isinstance(outer, FunctionType) and not _is_compiled(outer) and not isinstance(outer, type):
            kind = "callable"  # an object with __call__
            captured += self._captured("attribute", [("self", outer)])
            outer = type(outer).__call__
        if not isinstance(outer, FunctionType):
            return self._compiled(outer, kind, captured)
        inner = _unwrapped(outer)
        if inner is not outer:  # what a decorator put around it depends on things too
            captured += self._captured("closure", [("decorator", outer)])
        if inner.__code__.co_name == "<lambda>" and kind == "function":
            kind = "lambda"
        source = source_of(inner.__code__, inner)
        self._number(inner)
        captured += self._depends(inner)
        return self._finish(inner, kind, source, captured, _code_form(inner.__code__, source))

    def argument(self, name: str, value: Any) -> Any:
        """An argument's value; a function among them by its name, fingerprint and source."""
        if callable(value) and not isinstance(value, type):
            inner = describe_function(value)
            self._walker.libraries |= inner.libraries
            for what in inner.unverifiable:
                self._walker.unknown(value, f"{name}: {what}")
            return {"function": inner.qualified_name, "fingerprint": inner.fingerprint, "source": inner.source.text}
        return self._walker.describe(value, name)

    def finish_arguments(self, described: dict[str, Any]) -> Arguments:
        self._drain()
        form = {"arguments": described, "reached": self._forms}
        return Arguments(described, form, self._helpers, self._walker.unverifiable, self._walker.libraries)

    def _compiled(self, func: Any, kind: str, captured: list[dict[str, Any]]) -> Function:
        module = _module(func)
        version = version_of(_top(module))
        what = f"a class of {_top(module)}" if isinstance(func, type) else "compiled code"
        missing = f"it is {what}: its name and version {version or 'of Python'} stand for it"
        if isinstance(func, type) and not is_library(module):
            missing = "it is a class"
            captured += self._captured("global", [(func.__name__, func)])
        kind = "compiled" if kind == "function" else kind
        return self._finish(func, kind, Source(missing=missing), captured, [module, _qualified(func), version])

    def _finish(self, func: Any, kind: str, source: Source, captured: list[dict[str, Any]], code: Any) -> Function:
        self._drain()
        module = _module(func)
        form = {"code": code, "kind": kind, "captured": captured, "reached": self._forms}
        return Function(
            qualified_name=f"{module}.{_qualified(func)}",
            module=module,
            kind=kind,
            source=source,
            captured=captured,
            helpers=self._helpers,
            unverifiable=self._walker.unverifiable,
            libraries=self._walker.libraries | ({_top(module)} if is_library(module) else set()),
            fingerprint=hashlib.sha256(_DOMAIN + canonical_json(form)).hexdigest(),
        )

    # -- what it depends on --------------------------------------------------------------------------------------

    def _captured(self, where: str, items: Any) -> list[dict[str, Any]]:
        return [{"where": where, "name": name, "value": self._walker.describe(value, name)} for name, value in items]

    def _depends(self, func: FunctionType) -> list[dict[str, Any]]:
        """Defaults, closure, attributes and globals of one function, by name."""
        code = func.__code__
        names = code.co_varnames[: code.co_argcount]
        defaults = func.__defaults__ or ()
        found = self._captured("default", list(zip(names[len(names) - len(defaults) :], defaults, strict=True)))
        found += self._captured("default", list((func.__kwdefaults__ or {}).items()))
        cells = zip(code.co_freevars, func.__closure__ or (), strict=True)
        found += self._captured("closure", [(name, _content(cell)) for name, cell in cells if name != "__class__"])
        own = sorted((name, value) for name, value in vars(func).items() if name != "__wrapped__")
        found += self._captured("attribute", own)
        reads = _Reads(func.__globals__)
        reads.look(code, {})
        for path, value in sorted(reads.found.items()):
            found += self._captured("global", [(path, value)])
        for what in reads.unclear:
            self._walker.unknown(func, f"{func.__qualname__}: {what}", "what it reads by name cannot be told")
        return found

    def _number(self, thing: Any) -> int:
        """The number of a function or class."""
        known = self._numbers.get(id(thing))
        if known is None:
            known = self._numbers[id(thing)] = len(self._numbers)
            self._held.append(thing)
        return known

    def _later(self, thing: Any) -> int:
        """The number of a function or class of the user's, which is looked at in its turn."""
        if id(thing) not in self._numbers:
            self._waiting.append(thing)
        return self._number(thing)

    def _drain(self) -> None:
        while self._waiting:
            thing = self._waiting.popleft()
            form = self._class_form(thing) if isinstance(thing, type) else self._helper_form(thing)
            self._forms.append({"number": self._numbers[id(thing)], **form})

    def _reached(self, value: Any) -> Described | None:
        """A function or class on the way: the user's is described in its turn, a library's is its name and version."""
        if isinstance(value, types.MethodType):
            inner, bound = self._reached(value.__func__), self._walker.describe(value.__self__, "self")
            return Described({"method": inner.form if inner else _qualified(value), "of": bound})
        if isinstance(value, functools.partial):
            parts = {"func": value.func, "args": value.args, "keywords": value.keywords}
            return Described({"partial": self._walker.describe(parts, "partial")})
        if isinstance(value, types.ModuleType):
            if is_library(value.__name__):
                return self._library(value.__name__, value.__name__)
            return Described(self._walker.unknown(value, value.__name__, "module used as a whole"))
        if isinstance(value, type | FunctionType):
            name = f"{_module(value)}.{value.__qualname__}"
            if is_library(_module(value)):
                return self._library(_module(value), name)
            return Described({"class" if isinstance(value, type) else "function": name, "number": self._later(value)})
        if _is_library_wrapper(value):
            return Described(
                {"wrapper": _qualified(type(value)), "of": self._walker.describe(value.__wrapped__, "wrapped")}
            )
        if _is_compiled(value):
            return self._library(_module(value), f"{_module(value)}.{_qualified(value)}")
        return None

    def _library(self, module: str, name: str) -> Described:
        self._walker.libraries.add(_top(module))
        return Described({"library": name, "version": version_of(_top(module))})

    def _helper_form(self, func: FunctionType) -> dict[str, Any]:
        source = source_of(func.__code__, func)
        depends = self._depends(func)
        if len(self._helpers) < MAX_HELPERS:
            name = f"{_module(func)}.{func.__qualname__}"
            entry = {"qualified_name": name, "source": source.text, "missing": source.missing, "captured": depends}
            self._helpers.append(entry)
        return {"code": _code_form(func.__code__, source), "captured": depends}

    def _class_form(self, cls: type) -> dict[str, Any]:
        members = {
            key: self._walker.describe(_member(member), key)
            for key, member in sorted(vars(cls).items())
            if key not in _CLASS_NOISE
            and not key.startswith("__pydantic_")  # made from the annotations, with addresses in it
            and not isinstance(member, types.GetSetDescriptorType | types.MemberDescriptorType)
            and not (key == "__new__" and issubclass(cls, enum.Enum))  # put there by the enum
        }
        bases = [self._walker.describe(base, "base") for base in cls.__bases__ if base is not object]
        form = {"class": f"{_module(cls)}.{cls.__qualname__}", "members": members, "bases": bases}
        return (
            form
            if is_library(_module(type(cls)))
            else form | {"metaclass": self._walker.describe(type(cls), "metaclass")}
        )


_CLASS_NOISE = frozenset(
    {"__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__", "__firstlineno__",
     "__static_attributes__", "__slots__", "__match_args__", "__annotate__", "__annotate_func__", "_abc_impl",
     "_member_map_", "_member_names_", "_value2member_map_", "_hashable_values_", "_unhashable_values_"}
)  # fmt: skip


def _member(member: Any) -> Any:
    """The functions behind what stands in a class."""
    if isinstance(member, property):
        return [member.fget, member.fset, member.fdel]
    return getattr(member, "__func__", member)


def _is_library_wrapper(value: Any) -> bool:
    """Whether it is what functools.lru_cache and its like put around a function; a user's own class is looked into."""
    return (
        not isinstance(value, FunctionType | types.MethodType)
        and callable(value)
        and isinstance(getattr(value, "__wrapped__", None), FunctionType)
        and is_library(_module(type(value)))
    )


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
        inner = _bytecode(constant) if isinstance(constant, CodeType) else constant_text(constant)
        whole.update(inner.encode("utf-8", "backslashreplace") + b"\0")
    whole.update(sys.implementation.cache_tag.encode() if sys.implementation.cache_tag else b"")
    return whole.hexdigest()


_MISSING = object()
_AT_NAME = re.compile(r"(?<![\w@.])@([A-Za-z_]\w*)")  # in a text for DataFrame.query and eval
_BY_NAME = frozenset({"globals", "eval", "exec", "__import__", "import_module", "vars"})


class _Reads:
    """What code reads from outside: globals, what it imports by itself, and ``@names`` in texts for DataFrame.query.

    Attributes:
        found: path → value; of a user's module ("config.RATE") what is read of it. A library's module stands for itself.
        unclear: names of functions by which it may read things that cannot be told from its code.
    """

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self._namespace = namespace
        self.found: dict[str, Any] = {}
        self.unclear: set[str] = set()

    def look(self, code: CodeType, bound: Mapping[str, Any]) -> None:
        """Look at a code object and those in it; ``bound`` are local names of modules that outer code imported."""
        imported: dict[str, Any] = dict(bound)
        instructions = list(dis.get_instructions(code))
        module: Any = None
        for number, instruction in enumerate(instructions):
            name, path = instruction.opname, str(instruction.argval)
            following = instructions[number + 1] if number + 1 < len(instructions) else None
            if name == "IMPORT_NAME":
                level, names = (
                    (instructions[number - 2].argval, instructions[number - 1].argval) if number >= 2 else (0, None)
                )
                module = _imported(path, level, self._namespace)
                if names is None:  # import a.b binds a, import a.b as c the module itself, by way of IMPORT_FROM
                    store = next((one for one in instructions[number + 1 :] if one.opname.startswith("STORE_")), None)
                    bound_to = sys.modules.get(_top(path)) if store is following else module
                    if store is not None and bound_to is not None:
                        imported[str(store.argval)] = bound_to
                    module = None
            elif name == "IMPORT_FROM" and module is not None:
                value = getattr(module, path, None)
                if value is None:
                    value = sys.modules.get(f"{module.__name__}.{path}")
                if isinstance(value, types.ModuleType) and following is not None:
                    imported[str(following.argval)] = value
                else:
                    self.found[f"{module.__name__}.{path}"] = value
            elif name in ("LOAD_GLOBAL", "LOAD_NAME") or name.startswith(
                ("LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF")
            ):
                self._loaded(instructions[number:], path, imported, name in ("LOAD_GLOBAL", "LOAD_NAME"))
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self.look(constant, imported)
            elif isinstance(constant, str) and "@" in constant:
                for path in _AT_NAME.findall(constant):
                    if path in self._namespace:
                        self.found[path] = self._namespace[path]

    def _loaded(self, instructions: list[Any], path: str, imported: Mapping[str, Any], is_global: bool) -> None:
        value = imported.get(path, _MISSING)
        if value is _MISSING and is_global:
            value = self._namespace.get(path, _MISSING)
            if value is _MISSING and path in _BY_NAME:
                self.unclear.add(path)
        if value is _MISSING:  # a builtin, a local, or a name that is not there
            return
        for following in instructions[1:]:
            if following.opname not in ("LOAD_ATTR", "LOAD_METHOD") or not isinstance(value, types.ModuleType):
                break
            if str(following.argval) in _BY_NAME:
                self.unclear.add(str(following.argval))
            if is_library(value.__name__):
                break
            path, value = f"{path}.{following.argval}", getattr(value, str(following.argval), None)
        self.found[path] = value


def _imported(name: str, level: Any, namespace: Mapping[str, Any]) -> Any:
    """The module that an import statement within a function names, as far as it is loaded."""
    if isinstance(level, int) and level > 0:
        package = str(namespace.get("__package__") or namespace.get("__name__") or "")
        parts = package.split(".")
        name = ".".join([*parts[: len(parts) - level + 1], *([name] if name else [])])
    return sys.modules.get(name)


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


def _module(thing: Any) -> str:
    return str(getattr(thing, "__module__", None) or type(thing).__module__ or "")


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
    if top in ("seclea", "builtins"):
        return True
    loaded = sys.modules.get(top)
    place = getattr(loaded, "__file__", None) or next(iter(getattr(loaded, "__path__", ())), None)
    if place is None:  # compiled into Python, or not loaded
        return top in sys.stdlib_module_names
    return top not in ("__main__", "__mp_main__") and _is_installed(place)


@functools.cache
def _is_installed(place: str) -> bool:
    place = os.path.realpath(place)
    if any(place.startswith(root + os.sep) for root in _library_roots()):
        return True
    return "site-packages" not in place and any(place.startswith(root + os.sep) for root in _standard_roots())


@functools.cache
def _standard_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(sorted({os.path.realpath(paths[name]) for name in ("stdlib", "platstdlib")}))


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
