"""What the pages say of a step: `details` of docs/lineage.md, as far as it has that form.

Rule 1  Clients send what they like. A part that has another form is left out, never an error: the record as it was sent is
        one link away.
Rule 2  Nothing that is shown is longer than a person can read; what was cut is said.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_

from seclea.portal.creates import IN_LIST
from seclea.portal.objects import TRANSFORMATIONS, show_rows
from seclea.portal.rendering import value

REPRODUCED = "reproduced"
ITEMS = 200  # of a list on a page
COLUMNS = 1000  # of a dataset on a page
SOURCE = 100_000  # characters of source text on a page
TEXT = 2_000  # characters of a captured value or an argument
Json = dict[str, Any]
_STATS = (("rows", "Rows"), ("columns", "Columns"), ("nulls", "Missing values"))
_FLAGS = (
    ("reordered", "columns in another order"),
    ("roles", "other roles"),
    ("split", "other split"),
    ("index", "other index"),
)


def read_step(step: Json, names: Mapping[str, str]) -> Json:
    """A transformation for the template ``step.html``.

    Args:
        step: as `objects.show_row` has it.
        names: of datasets, by uuid: these are links.
    """
    details = _dict(step.get("details"))
    function, source = _dict(details.get("function")), _dict(details.get("source"))
    arguments = _dict(details.get("arguments"))
    verdict = _text(details.get("verdict"), 100)
    return {
        "uuid": step["uuid"],
        "name": step["name"],
        "order": step["order"],
        "qualified_name": _text(function.get("qualified_name")),
        "module": _text(function.get("module")),
        "kind": _text(function.get("kind"), 50),
        "fingerprint": _text(function.get("fingerprint")),
        "file": _text(source.get("file")),
        "line": source.get("line") if type(source.get("line")) is int else None,
        "missing": _text(source.get("missing")),
        "code": _cut(step["code_raw"], SOURCE),
        "captured": [
            (_text(item.get("where"), 50), _text(item.get("name")), _value(item.get("value")))
            for item in _dicts(details.get("captured"))
        ],
        "helpers": [
            (_text(item.get("qualified_name")), _cut(_text(item.get("source"), SOURCE), SOURCE))
            for item in _dicts(details.get("helpers"))
        ],
        "unverifiable": _texts(details.get("unverifiable")),
        "data": [
            {
                "name": _text(item.get("name")),
                "dataset": _known(item.get("dataset"), names),
                "inherited": item.get("inherited") is True,
            }
            for item in _dicts(arguments.get("data"))
        ],
        "kwargs": [(_cut(name, TEXT), _value(item)) for name, item in _first(_dict(arguments.get("kwargs")).items())],
        "verdict": verdict,
        "reproduced": verdict == REPRODUCED,
        "stats": _stats(_dict(details.get("before")), _dict(details.get("after"))),
        "changes": _changes(_dict(details.get("changes"))),
        "summary": _summary(details),
        "split": _text(details.get("split"), 100),
        "versions": [(_cut(name, 100), _value(item)) for name, item in _first(_dict(details.get("versions")).items())],
        "inputs": [_known(uuid, names) for uuid in step["inputs"][:ITEMS]],
        "made": _known(step["dataset"], names),
    }


def read_steps(
    connection: Connection, organization_id: int, uuids: Sequence[str], names: Mapping[str, str]
) -> dict[str, Json]:
    """Transformations for the template, by uuid."""
    found: dict[str, Json] = {}
    own = TRANSFORMATIONS.table.c
    for start in range(0, len(uuids), IN_LIST):
        wanted = and_(own.organization_id == organization_id, own.uuid.in_(uuids[start : start + IN_LIST]))
        found.update((step["uuid"], read_step(step, names)) for step in show_rows(connection, TRANSFORMATIONS, wanted))
    return found


def _stats(before: Json, after: Json) -> list[tuple[str, int | None, int | None]]:
    rows = [(title, _number(before.get(name)), _number(after.get(name))) for name, title in _STATS]
    return [row for row in rows if row[1] is not None or row[2] is not None]


def _changes(changes: Json) -> Json:
    told = {name: _texts(changes.get(name)) for name in ("added", "removed", "changed")}
    if _other_rows(
        changes
    ):  # the columns differ because the rows do; nobody has compared the values of rows that stayed
        told["changed"] = []
    flags = [words for name, words in _FLAGS if changes.get(name) is True]
    return {**told, "flags": flags}


def _other_rows(changes: Json) -> bool:
    return bool(_number(changes.get("rows"))) or changes.get("index") is True


def _summary(details: Json) -> str:
    """What a step did, in a few words."""
    changes = _dict(details.get("changes"))
    before, after = _dict(details.get("before")), _dict(details.get("after"))
    words = []
    if rows := _number(changes.get("rows")):
        was, now = _number(before.get("rows")), _number(after.get("rows"))
        told = None in (was, now)
        words.append(f"{rows:+,} rows".replace("-", "−") if told else f"{was:,} → {now:,} rows")
    elif changes.get("index") is True:
        words.append("other rows")
    for name in ("added", "removed") if _other_rows(changes) else ("added", "removed", "changed"):
        if columns := len(_texts(changes.get(name))):
            words.append(f"{columns} column{'' if columns == 1 else 's'} {name}")
    nulls = [_number(side.get("nulls")) for side in (before, after)]
    if nulls[0] is not None and nulls[1] is not None and nulls[0] != nulls[1]:
        words.append(f"missing values {nulls[0]:,} → {nulls[1]:,}")
    return " · ".join(words)


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _dicts(listed: Any) -> list[Json]:
    return [item for item in listed[:ITEMS] if isinstance(item, dict)] if isinstance(listed, list) else []


def _first(items: Iterable[Any]) -> list[Any]:
    return list(items)[:ITEMS]


def _texts(listed: Any) -> list[str]:
    return [item if isinstance(item, str) else _value(item) for item in listed] if isinstance(listed, list) else []


def _text(item: Any, most: int = TEXT) -> str:
    return _cut(item, most) if isinstance(item, str) else ""


def _value(item: Any) -> str:
    return _cut(value(item), TEXT)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most:,} more characters)"


def _number(item: Any) -> int | None:
    return item if type(item) is int else None


def _known(uuid: Any, names: Mapping[str, str]) -> Json:
    """A dataset by name; as sent where nothing of that name is here."""
    if isinstance(uuid, str) and uuid.lower() in names:
        return {"uuid": uuid.lower(), "name": names[uuid.lower()]}
    return {"uuid": None, "name": _text(uuid, 100)}


# ----------------------------------------------------------------------------------------------------------- the way


def way_to(graph: Json, dataset: str) -> list[Json]:
    """The way from the origin to a dataset along the primary parents, in a graph of `lineage`.

    Returns:
        The origin first; of each dataset its node, the edges of the steps that made it (one for each step) and whatever else
        went into these.
    """
    nodes = {node["uuid"]: node for node in graph["nodes"]}
    into: dict[str, list[Json]] = {}
    for edge in graph["edges"]:
        if edge["kind"] in ("transformation", "parent"):
            into.setdefault(edge["to"], []).append(edge)
    way: list[Json] = []
    seen: set[str] = set()
    current: str | None = dataset
    while current is not None and current in nodes and current not in seen:
        seen.add(current)
        edges = sorted(into.get(current, []), key=lambda edge: (edge.get("order", 0), edge.get("position", 0)))
        steps = {edge["transformation"]: edge for edge in reversed(edges) if edge["kind"] == "transformation"}
        primary = next((edge["from"] for edge in edges if edge["from"] not in seen), None)
        others = dict.fromkeys(edge["from"] for edge in edges if edge["from"] not in (primary, current))
        way.append(
            {
                "dataset": nodes[current],
                "steps": [edge for edge in edges if steps.get(edge.get("transformation", "")) is edge],
                "others": [nodes[uuid] for uuid in others],
            }
        )
        current = primary
    return way[::-1]


def verdict_of(graph: Json) -> Json:
    """How many steps a graph has, and how many of these were reproduced."""
    steps = {edge["transformation"]: edge["verdict"] for edge in graph["edges"] if edge["kind"] == "transformation"}
    return {"steps": len(steps), "reproduced": sum(verdict == REPRODUCED for verdict in steps.values())}


def names_of(graph: Json) -> dict[str, str]:
    """The datasets' names, by uuid."""
    return {node["uuid"]: node["name"] for node in graph["nodes"] if node["kind"] == "dataset"}


def columns_of(metadata: Json) -> list[Json]:
    """What the metadata says of each column, as far as it has the form that seclea gives it."""
    roles = _dict(metadata.get("roles"))
    features, outputs = _texts(roles.get("X")), _texts(roles.get("y"))
    values = _by_name(metadata.get("categorical_values")) | _by_name(metadata.get("outputs_info"))
    categorical = {*_texts(metadata.get("categorical_features")), *_by_name(metadata.get("categorical_values"))}
    digests = _digests(metadata.get("column_digests"))
    index = [name for name, told in digests.items() if told.get("role") == "index"]
    listed = [*_texts(metadata.get("features")), *features, *outputs, *digests, *values]
    return [
        {
            "name": _cut(name, TEXT),
            "role": "y" if name in outputs else "X" if name in features else "index" if name in index else "",
            "type": _text(digests.get(name, {}).get("type"), 100) or ("categorical" if name in categorical else ""),
            "values": _words(values.get(name)),
            "digest": _text(digests.get(name, {}).get("digest"), 100),
        }
        for name in list(dict.fromkeys(listed))[:COLUMNS]
    ]


def _by_name(item: Any) -> Json:
    """A mapping, or several in a list."""
    return {
        str(name): told for part in ([item] if isinstance(item, dict) else _dicts(item)) for name, told in part.items()
    }


def _digests(item: Any) -> dict[str, Json]:
    """Columns' digests by name: from a mapping, or a list of columns (each a mapping, or role, name, type and digest)."""
    if isinstance(item, dict):
        return {name: told if isinstance(told, dict) else {"digest": told} for name, told in item.items()}
    found: dict[str, Json] = {}
    for part in item if isinstance(item, list) else []:
        told = dict(zip(("role", "name", "type", "digest"), part, strict=False)) if isinstance(part, list) else part
        if isinstance(told, dict) and isinstance(told.get("name"), str):
            found[told["name"]] = told
    return found


def _words(item: Any) -> str:
    if isinstance(item, list):
        return _cut(", ".join(value(word) for word in item[:ITEMS]), TEXT)
    return "" if item is None else _cut(json.dumps(item, ensure_ascii=False), TEXT)
