"""What is recorded: projects, datasets, transformations, models, training runs and model states.

Entities are values. They know their JSON form and nothing of disks or wires. A ``uuid`` is ours, made where the
entity is made and ordered by time, so that sending it again is sending the same thing; a ``remote_id`` is the portal's
name for it, which differs only with portals that make their own.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
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


def _float_to_json(value: float) -> Any:
    if math.isfinite(value):
        return value
    return {"__float__": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}


def to_json_value(value: Any, _depth: int = 0) -> Any:
    """A JSON-ready form of a user's value that `from_json_value` reads back.

    NaN and infinities, bytes, dates and times, decimals, sets and mappings with keys that are no text are tagged. numpy and
    pandas scalars become the Python number or date they stand for, arrays lists. Anything else (a callable, a class,
    an object) is kept as a tagged description and reads back as text: recorded, not rebuilt.

    Raises:
        UsageError: nested deeper than 64 levels.
    """
    if _depth > _MAX_DEPTH:
        raise UsageError(f"A value is nested deeper than {_MAX_DEPTH} levels.", "Flatten it, or pass str(value).")
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
    if isinstance(value, Mapping):
        return _mapping_to_json(value, _depth)
    if isinstance(value, list | tuple):
        return [to_json_value(item, _depth + 1) for item in value]
    if isinstance(value, set | frozenset):
        return {"__set__": sorted((to_json_value(item, _depth + 1) for item in value), key=repr)}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"__bytes__": base64.b64encode(bytes(value)).decode("ascii")}
    if kind.__name__ in ("NaTType", "NAType") and kind.__module__.startswith("pandas."):
        return None
    if isinstance(value, dt.datetime):
        return {"__datetime__": value.isoformat()}
    if isinstance(value, dt.date):
        return {"__date__": value.isoformat()}
    if isinstance(value, dt.time):
        return {"__time__": value.isoformat()}
    if isinstance(value, dt.timedelta):
        return {"__timedelta__": [value.days, value.seconds, value.microseconds]}
    if isinstance(value, decimal.Decimal):
        return {"__decimal__": str(value)}
    return _foreign_to_json(value, _depth)


def _mapping_to_json(value: Mapping[Any, Any], depth: int) -> Any:
    if all(type(key) is str for key in value):
        body = {str(to_json_value(key)): to_json_value(item, depth + 1) for key, item in value.items()}
        if not (len(body) == 1 and next(iter(body))[:2] == "__" == next(iter(body))[-2:]):
            return body
    # Keys that are no text, or a user's own dict that looks like a tag.
    return {"__items__": [[to_json_value(k, depth + 1), to_json_value(v, depth + 1)] for k, v in value.items()]}


def _foreign_to_json(value: Any, depth: int) -> Any:
    if isinstance(value, bool | int | float | str):  # subclasses: enums of int, numpy.float64, ...
        for base in (bool, int, float, str):
            if isinstance(value, base):
                return to_json_value(base(value), depth + 1)
    if callable(getattr(value, "isoformat", None)):
        return {"__datetime__": str(value.isoformat())}
    if callable(getattr(value, "tolist", None)) and not isinstance(value, type):  # numpy scalars and arrays
        if str(getattr(value, "dtype", "")) in ("datetime64[ns]", "timedelta64[ns]"):
            value = value.astype(str(value.dtype).replace("ns", "us"))  # of nanoseconds it would make bare numbers
        plain = value.tolist()
        if type(plain) is not type(value):
            return to_json_value(plain, depth + 1)
    if callable(value):
        return {"__callable__": f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', type(value))}"}
    return {"__repr__": f"{type(value).__module__}.{type(value).__qualname__}"}


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
    return tuple(_hashable(item) for item in value) if isinstance(value, list) else value


_UNTAG: dict[str, Any] = {
    "__float__": lambda inner: _FLOAT_WORDS[inner],
    "__int__": lambda inner: int(inner, 16),
    "__bytes__": lambda inner: base64.b64decode(inner),
    "__datetime__": dt.datetime.fromisoformat,
    "__date__": dt.date.fromisoformat,
    "__time__": dt.time.fromisoformat,
    "__timedelta__": lambda inner: dt.timedelta(*inner),
    "__decimal__": decimal.Decimal,
    "__set__": lambda inner: {_hashable(from_json_value(item)) for item in inner},
    "__items__": lambda inner: {_hashable(from_json_value(k)): from_json_value(v) for k, v in inner},
    "__callable__": str,
    "__repr__": str,
}


# ------------------------------------------------------------------------------------------------------------------


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
        """The entity that `to_json` wrote. Keys that this version does not know are left out."""
        known = {item.name for item in fields(cls)}
        return cls(**{key: from_json_value(item) for key, item in value.items() if key in known})


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
