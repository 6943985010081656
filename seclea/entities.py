"""What is recorded: projects, datasets, transformations, models, training runs and model states.

Entities are values. They know their JSON form and nothing of disks or wires. A ``uuid`` is ours, made where the
entity is made and ordered by time, so that sending it again is sending the same thing; a ``remote_id`` is the portal's
name for it, which differs only with portals that make their own.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import enum
import math
import os
import time
from collections import deque
from collections.abc import Callable, ItemsView, KeysView, Mapping, ValuesView
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any, ClassVar, Self

from seclea.errors import UsageError


class Kind(StrEnum):
    """The kinds of entity, with their names on the wire."""

    PROJECT = "project"
    DATASET = "dataset"
    DATASET_TRANSFORMATION = "dataset_transformation"
    MODEL = "model"
    TRAINING_RUN = "training_run"
    MODEL_STATE = "model_state"


class RunStatus(StrEnum):
    """How a training run stands; the last three are ends."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    PREEMPTED = "preempted"


def new_uuid() -> str:
    """A time-ordered uuid (version 7) in canonical text. Source: RFC 9562, section 5.7."""
    value = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


# ------------------------------------------------------------------------------------------------------------------
# JSON forms of single values. A tag is an object with exactly one key that starts and ends with two underscores.

_FLOAT_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_MAX_DEPTH = 64  # nested containers; deeper is a mistake (or a cycle), and JSON readers refuse it too


# Foreign values whose text says all there is: where they come from, and the name of their class or of one above it.
_AS_TEXT = frozenset(
    {
        ("fractions", "Fraction"),
        ("pathlib", "PurePath"),
        ("uuid", "UUID"),
        ("zoneinfo", "ZoneInfo"),
        ("datetime", "timezone"),
        ("numpy", "dtype"),
    }
    | {("pandas", name) for name in ("Period", "Interval", "ExtensionDtype", "BaseOffset")}
    | {("torch", "dtype"), ("torch", "device")}
)


def _float_to_json(value: float) -> Any:
    if math.isfinite(value):
        return value
    return {"__float__": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}


def to_json_value(value: Any, _depth: int = 0) -> Any:
    """A JSON-ready form of a user's value, the same in every process, that `from_json_value` reads back.

    NaN and infinities, complex numbers, whole numbers beyond 64 bits, bytes, dates and times, decimals, sets, ranges and
    mappings with keys that are no text are tagged. numpy and pandas scalars become the Python value they stand for, arrays
    lists, dataclass instances dicts of their fields; what Python has no type for (nanoseconds, periods, paths, uuids) its
    text. Anything else (a callable, a class, an enum, an iterator, an object) is kept as a tagged description that reads back
    as text: recorded, not rebuilt. No iterator is advanced, and what an object of yours raises stays with it.

    Raises:
        UsageError: nested deeper than 64 levels, which is what a container that holds itself is.
    """
    if _depth > _MAX_DEPTH:
        raise UsageError(
            f"A value is nested deeper than {_MAX_DEPTH} levels, or holds itself.", "Flatten it, or pass str(value)."
        )
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        # Beyond 64 bits neither msgpack nor most readers of JSON follow; hexadecimal has no limit of digits in Python.
        return value if -(1 << 63) <= value < 1 << 64 else {"__int__": hex(value)}
    if kind is str:
        # A lone surrogate is no UTF-8: the wire could not carry it.
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if kind is float:
        return _float_to_json(value)
    try:
        return _other_to_json(value, kind, _depth)
    except UsageError:
        raise
    except Exception:  # whatever a user's own class raises when it is looked at
        return _description(kind)


def _other_to_json(value: Any, kind: type, depth: int) -> Any:
    if kind is complex:
        return {"__complex__": [_float_to_json(value.real), _float_to_json(value.imag)]}
    if isinstance(value, Mapping):
        return _mapping_to_json(value, depth)
    if isinstance(value, list | tuple | deque | KeysView | ValuesView | ItemsView):
        return [to_json_value(item, depth + 1) for item in value]
    if isinstance(value, set | frozenset):
        return {"__set__": sorted((to_json_value(item, depth + 1) for item in value), key=repr)}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"__bytes__": base64.b64encode(bytes(value)).decode("ascii")}
    if kind is range:
        return {"__range__": [to_json_value(part) for part in (value.start, value.stop, value.step)]}
    if kind.__name__ in ("NaTType", "NAType") and kind.__module__.startswith("pandas."):
        return None
    if isinstance(value, dt.datetime | dt.date | dt.time | dt.timedelta | decimal.Decimal):
        return _time_or_decimal_to_json(value)
    return _foreign_to_json(value, kind, depth)


def _mapping_to_json(value: Mapping[Any, Any], depth: int) -> Any:
    if all(isinstance(key, str) for key in value):
        body = {str(to_json_value(str.__str__(key))): to_json_value(item, depth + 1) for key, item in value.items()}
        if len(body) == len(value) and not (len(body) == 1 and next(iter(body))[:2] == "__" == next(iter(body))[-2:]):
            return body
    # Keys that are no text, or that are not told apart as text, or a user's own dict that looks like a tag.
    return {"__items__": [[to_json_value(k, depth + 1), to_json_value(v, depth + 1)] for k, v in value.items()]}


def _time_or_decimal_to_json(value: Any) -> Any:
    if isinstance(value, decimal.Decimal):
        return {"__decimal__": str(value)}
    if getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0):
        # Of pandas; Python has microseconds only.
        return value.isoformat() if isinstance(value, dt.datetime) else str(value)
    if isinstance(value, dt.timedelta):
        form: dict[str, Any] = {"__timedelta__": [value.days, value.seconds, value.microseconds]}
    else:
        name = "datetime" if isinstance(value, dt.datetime) else "date" if isinstance(value, dt.date) else "time"
        form = {f"__{name}__": value.isoformat()}
    try:
        from_json_value(form)
    except ValueError:  # pandas' years go beyond 9999
        return str(value)
    return form


def _foreign_to_json(value: Any, kind: type, depth: int) -> Any:
    if isinstance(value, enum.Enum) and not isinstance(value, int | str):
        return {"__repr__": f"{kind.__module__}.{kind.__qualname__}.{value.name}"}
    for base in (int, float, str, complex):  # subclasses: enums of int, numpy.float64, ...; not asked how they print
        if isinstance(value, base):
            return to_json_value(getattr(base, f"__{base.__name__}__")(value), depth + 1)
    if isinstance(value, type):
        return {"__callable__": f"{value.__module__}.{value.__qualname__}"}
    if any((cls.__module__.partition(".")[0], cls.__name__) in _AS_TEXT for cls in kind.__mro__):
        return to_json_value(str(value), depth + 1)
    if getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M") and kind.__module__.startswith("numpy"):
        return _numpy_times_to_json(value, depth)
    if callable(getattr(value, "tolist", None)):  # numpy's scalars and arrays, pandas' columns, tensors
        plain = value.tolist()
        if type(plain).__module__ in ("builtins", "datetime", "decimal"):
            return to_json_value(plain, depth + 1)
        if kind.__module__.startswith("numpy"):  # long doubles are the one number that Python has no equal for
            return to_json_value(complex(value) if value.dtype.kind == "c" else float(value), depth + 1)
    if is_dataclass(value):
        return _mapping_to_json({item.name: getattr(value, item.name) for item in fields(value)}, depth)
    if kind.__name__ in ("SimpleNamespace", "Namespace"):  # of types and argparse
        return _mapping_to_json(vars(value), depth)
    name = getattr(value, "__qualname__", None)
    if callable(value) and isinstance(name, str):
        return {"__callable__": f"{value.__module__}.{name}"}
    return _description(kind)


def _numpy_times_to_json(value: Any, depth: int) -> Any:
    """Exactly: as what Python has for it, else (units above days and below microseconds, far years) as numpy's text."""
    if value.ndim:
        return [to_json_value(item, depth + 1) for item in value]
    plain = value.tolist()
    if value.dtype.kind == "M" and type(plain) is int and value.dtype == "datetime64[ns]" and plain % 1000 == 0:
        plain = value.astype("datetime64[us]").tolist()
    if value.dtype == "timedelta64[ns]" and type(plain) is int and plain % 1000 == 0:
        plain = value.astype("timedelta64[us]").tolist()
    return to_json_value(str(value) if type(plain) is int else plain, depth + 1)


def _description(kind: type) -> Any:
    return {"__repr__": f"{kind.__module__}.{kind.__qualname__}"}


def from_json_value(value: Any) -> Any:
    """The value that `to_json_value` wrote. Tuples come back as lists, callables and objects as text.

    Raises:
        ValueError: a tag with something that it cannot hold.
    """
    if isinstance(value, list):
        return [from_json_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        tag, inner = next(iter(value.items()))
        if tag in _UNTAG:
            try:
                return _UNTAG[tag](inner)
            except (ValueError, KeyError, TypeError, ArithmeticError) as error:
                raise ValueError(f"{tag} cannot hold {inner!r:.80}") from error
    return {key: from_json_value(item) for key, item in value.items()}


def _hashable(value: Any) -> Any:
    if isinstance(value, set):
        return frozenset(value)
    if isinstance(value, dict):  # a frozen dataclass, as a key
        return tuple((key, _hashable(item)) for key, item in value.items())
    return tuple(_hashable(item) for item in value) if isinstance(value, list) else value


_UNTAG: dict[str, Any] = {
    "__float__": lambda inner: _FLOAT_WORDS[inner],
    "__complex__": lambda inner: complex(*(from_json_value(part) for part in inner)),
    "__int__": lambda inner: int(inner, 16),
    "__bytes__": lambda inner: base64.b64decode(inner, validate=True),
    "__datetime__": dt.datetime.fromisoformat,
    "__date__": dt.date.fromisoformat,
    "__time__": dt.time.fromisoformat,
    "__timedelta__": lambda inner: dt.timedelta(*inner),
    "__decimal__": decimal.Decimal,
    "__range__": lambda inner: range(*(from_json_value(part) for part in inner)),
    "__set__": lambda inner: {_hashable(from_json_value(item)) for item in inner},
    "__items__": lambda inner: {_hashable(from_json_value(k)): from_json_value(v) for k, v in inner},
    "__callable__": str,
    "__repr__": str,
}


# ------------------------------------------------------------------------------------------------------------------

# What a field may hold when it comes from elsewhere, by its annotation (text, since annotations are not evaluated here).
_FITS: dict[str, Any] = {
    "str": lambda value: type(value) is str,
    "str | None": lambda value: value is None or type(value) is str,
    "int": lambda value: type(value) is int,
    "int | None": lambda value: value is None or type(value) is int,
    "bool": lambda value: type(value) is bool,
    "dict[str, Any]": lambda value: isinstance(value, dict),
    "tuple[str, ...]": lambda value: isinstance(value, list) and all(type(item) is str for item in value),
}


def checked_fields(cls: Any, value: Any, read: Callable[[Any], Any]) -> dict[str, Any]:
    """The fields of a dataclass out of a JSON object; keys that it does not have are left out.

    Raises:
        ValueError: it is no object, or a field is malformed; class and field are named.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{cls.__name__}: no object")
    found = {}
    for item in fields(cls):
        if item.name not in value:
            continue
        try:
            plain = read(value[item.name])
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{cls.__name__}.{item.name}: {error}") from error
        if not _FITS[str(item.type)](plain):
            raise ValueError(f"{cls.__name__}.{item.name} cannot be {plain!r:.80}")
        found[item.name] = plain
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """What all entities have: our ``uuid``, a ``name`` and, once known, the portal's ``remote_id``."""

    kind: ClassVar[Kind]

    name: str = ""
    uuid: str = field(default_factory=new_uuid)
    remote_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict, read back by `from_json`."""
        return {item.name: to_json_value(getattr(self, item.name)) for item in fields(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The entity that `to_json` wrote. Keys that this version does not know are left out.

        Raises:
            ValueError: no mapping, or a field of another type than it has; the field is named.
        """
        return cls(**checked_fields(cls, value, from_json_value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Project(Entity):
    """What datasets, models and runs belong to. One per name and organization: asked for before it is made."""

    kind: ClassVar[Kind] = Kind.PROJECT
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset(Entity):
    """A table, perhaps with roles and a split label (docs/lineage.md).

    ``digest`` is its identity (64 hex digits): the content digest, unless it has roles or a label. ``size`` is the bytes of
    its stored file, ``sha256`` that file's digest, ``parent`` the uuid of the dataset it was derived from, ``parent_hash``
    the identity of a parent that only the portal may know, ``intermediate`` true for a step between two named ones.
    ``at_portal`` are uuids among its parents that the portal was seen to have, so that nothing here waits for them.
    """

    kind: ClassVar[Kind] = Kind.DATASET
    digest: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None
    parent_hash: str = ""
    at_portal: tuple[str, ...] = ()
    intermediate: bool = False
    format: str = ""
    file_path: str = ""
    size: int = 0
    sha256: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "at_portal", tuple(self.at_portal))

    def __repr__(self) -> str:
        rows, columns = self.metadata.get("num_samples"), len(self.metadata.get("features") or ())
        label = f", {self.metadata['split']}" if self.metadata.get("split") else ""
        return f"Dataset({self.name!r}{label}, {rows} rows, {columns} columns, digest {self.digest[:12]}…)"

    @property
    def content_digest(self) -> str:
        """The digest of the table alone, 64 hex digits."""
        return str(self.metadata.get("content_digest") or self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetTransformation(Entity):
    """One step that led to ``dataset`` (uuid) from ``inputs`` (uuids, primary parent first). What happened, not what to run.

    ``code_raw`` is the source text, ``details`` arguments, digests, versions and what changed (docs/lineage.md).
    ``digest`` names the step (64 hex digits): by the identities that it leads from and to, fingerprint and arguments.
    """

    kind: ClassVar[Kind] = Kind.DATASET_TRANSFORMATION
    digest: str = ""
    dataset: str = ""
    inputs: tuple[str, ...] = ()
    at_portal: tuple[str, ...] = ()
    order: int = 0
    code_raw: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "at_portal", tuple(self.at_portal))


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Entity):
    """A kind of model: class name and framework. One per (name, framework) in a project."""

    kind: ClassVar[Kind] = Kind.MODEL
    framework: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun(Entity):
    """One training: parameters, the model (uuid) and the datasets (uuids). An empty name is numbered by the writer.

    ``dataset_roles`` says of each dataset "train", "test", "validation", or "" where nobody said.
    """

    kind: ClassVar[Kind] = Kind.TRAINING_RUN
    model: str | None = None
    datasets: tuple[str, ...] = ()
    dataset_roles: tuple[str, ...] = ()
    at_portal: tuple[str, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    started_ns: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "datasets", tuple(self.datasets))
        object.__setattr__(self, "dataset_roles", tuple(self.dataset_roles))
        object.__setattr__(self, "at_portal", tuple(self.at_portal))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState(Entity):
    """A model's weights at one moment of a training run. ``sequence_num`` is given by the writer (-1 until then)."""

    kind: ClassVar[Kind] = Kind.MODEL_STATE
    training_run: str = ""
    sequence_num: int = -1
    step: int | None = None
    final_state: bool = False
    format: str = ""
    framework: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    created_ns: int = 0
    file_path: str = ""
    size: int = 0
    sha256: str = ""


ENTITY_TYPES: dict[Kind, type[Entity]] = {
    cls.kind: cls for cls in (Project, Dataset, DatasetTransformation, Model, TrainingRun, ModelState)
}
