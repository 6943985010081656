"""Fetches what a ledger and a portal hold, for `seclea.verify`: at once, or written down as an export (docs/wire.md).

Standard library only, and nothing of seclea: what is told here is what lies in the file and what the portal answers, as it is.

Rule 1  A pipeline may go on meanwhile. Heads of the portal are asked for before the ledger is read and again after it: what
        came in between is told (`Live.moved`), and is no contradiction.
Rule 2  The ledger is read in one short transaction.
Rule 3  Bodies of metrics pass through one page at a time.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import sqlite3
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

Json = dict[str, Any]
Place = tuple[str, str]  # stream and lane
PATHS = {
    "project": "projects", "model": "models", "dataset": "datasets", "dataset_transformation": "dataset-transformations",
    "training_run": "training-runs", "model_state": "model-states",
}  # fmt: skip
KIND_OF = {path: kind for kind, path in PATHS.items()}
_ROW = (
    "id", "first", "last", "kind", "status", "key", "receipt", "hold", "error", "points", "entity", "run", "stands_for",
    "sent_again", "reopened_ns", "digest", "chain", "row_hash",
)  # fmt: skip


class CannotRead(Exception):
    """What a person has to put right first, in words that say how."""


class Portal:
    """A portal over HTTP, read only."""

    def __init__(self, url: str, token: str, organization: str, ca_file: str | None = None) -> None:
        self.url, self._token, self.organization = url.rstrip("/"), token, ""
        context = ssl.create_default_context(cafile=ca_file) if url.startswith("https:") else None
        self._http = urllib.request.build_opener(
            _NoRedirect, *([urllib.request.HTTPSHandler(context=context)] if context else [])
        )
        told = self.json("/api/capabilities", missing={})
        self.extensions: list[str] = told.get("extensions", []) if isinstance(told, dict) else []
        found = [one for one in self.json("/organization/") if organization in (one["name"], one["uuid"])]
        if not found:
            raise CannotRead(f"{self.url} knows no organization {organization!r} of yours: is it the right login?")
        self.organization = found[0]["uuid"]

    def open(self, path: str, **query: Any) -> Any:
        """A reply to be read."""
        named = {"organization": self.organization, **query} if self.organization else query
        address = f"{self.url}{path}" + (f"?{urllib.parse.urlencode(named)}" if named else "")
        asked = urllib.request.Request(address, headers={"Cookie": f"access_token={self._token}"})  # noqa: S310 (a portal)
        return self._http.open(asked, timeout=60)

    def json(self, path: str, missing: Any = None, link: list[str] | None = None, **query: Any) -> Any:
        """A reply's JSON; ``missing`` in place of a 404."""
        try:
            with self.open(path, **query) as reply:
                if link is not None:
                    link[:] = re.findall(r'[?&]cursor=([^&>]+)[^>]*>; rel="next"', reply.headers.get("Link") or "")
                return json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404 and missing is not None:
                    return missing
                words = error.read(300).decode("utf-8", "replace")
            hint = " Log in first: `seclea login`." if error.code in (401, 403) else ""
            raise CannotRead(f"{self.url} answers {error.code} to {path}: {words}.{hint}") from None
        except (OSError, ValueError) as error:  # of which a URLError is one
            raise CannotRead(f"{self.url} cannot be read: {error}. Is it up, and is this its address?") from None

    def listed(self, kind: str, **query: Any) -> Iterator[Json]:
        """What is shown of a kind, page after page."""
        link, asked = [""], dict(query)
        while link:
            if link[0]:
                asked["cursor"] = urllib.parse.unquote(link[0])
            yield from self.json(f"/collection/{PATHS[kind]}", [], link=link, **asked)

    def heads(self, runs: Sequence[str], streams: Iterable[str]) -> list[Json]:
        """The heads of all streams; of those of some runs, and of some streams, where runs are named."""
        found: list[Json] = []
        if "records" in self.extensions and not runs:
            page: Json = {"next": ""}
            while page["next"] is not None:
                page = self.json("/collection/streams", after=page["next"])
                found += [*page["streams"], *({**one, "sequence": None} for one in page.get("strays", ()))]
        elif "receipts" in self.extensions:
            for name, uuid in [*(("training_run", run) for run in runs), *(("stream", one) for one in sorted(streams))]:
                query: Json = {name: uuid}
                found += self.json("/collection/receipts", **query)
        unique = {(one["stream"], one["lane"]): one for one in found}
        return [unique[place] for place in sorted(unique)]

    def records(self, stream: str, lane: str) -> Iterator[Json]:
        """The records of a lane with their bodies, page after page."""
        after: int | None = 0
        while after is not None and "records" in self.extensions:
            empty: Json = {"records": [], "next": None}
            page = self.json("/collection/records", empty, stream=stream, lane=lane, after=after)
            yield from page["records"]
            after = page["next"]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:  # the token goes to the address that was named, and nowhere else
        return None


def _uuid(value: bytes) -> str:
    return re.sub(r"(.{8})(.{4})(.{4})(.{4})(.{12})", r"\1-\2-\3-\4-\5", value.hex())


class LedgerFile:
    """A ledger's file: destinations, heads of lanes, rows of records, entities."""

    def __init__(self, path: str) -> None:
        self.path = path
        if not os.path.exists(path):
            raise CannotRead(f"There is no ledger {path}: nothing was recorded in this home.")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            address = f"file:{urllib.parse.quote(self.path)}?mode=ro"
            with contextlib.closing(sqlite3.connect(address, uri=True, timeout=10)) as connection:
                connection.row_factory = sqlite3.Row
                connection.execute("BEGIN")
                yield connection
        except (sqlite3.Error, TypeError, AttributeError) as error:
            raise CannotRead(
                f"{self.path} is no ledger that can be read: {error}. `seclea status` says more."
            ) from None

    def destinations(self) -> list[Json]:
        """Where this ledger's records go."""
        with self._opened() as connection:
            return [dict(row) for row in connection.execute("SELECT * FROM destinations ORDER BY id")]

    def read(self, destination: int) -> tuple[list[Json], dict[Place, list[Json]], list[Json]]:
        """Heads of the lanes that something was recorded in, their rows in order (without bodies), and the entities."""
        with self._opened() as connection:
            streams, heads = {}, []
            for row in connection.execute(
                "SELECT s.id, s.uuid, s.run, s.project, l.lane, l.sequence, l.chain FROM streams s"
                " JOIN lanes l ON l.stream = s.id WHERE s.destination = ? ORDER BY s.uuid, l.lane",
                (destination,),
            ):
                streams[row["id"]] = _uuid(row["uuid"])
                told = {"stream": _uuid(row["uuid"]), "lane": row["lane"], "sequence": row["sequence"]}
                heads.append(
                    {**told, "chain": row["chain"].hex(), "training_run": row["run"], "project": row["project"]}
                )
            rows: dict[Place, list[Json]] = {}
            columns = ", ".join(_ROW)
            for row in connection.execute(
                f"SELECT stream, lane, {columns} FROM records WHERE destination = ? ORDER BY first IS NULL, first, id",  # noqa: S608
                (destination,),
            ):
                told = {name: row[name].hex() if isinstance(row[name], bytes) else row[name] for name in _ROW}
                rows.setdefault((streams.get(row["stream"], "none"), row["lane"]), []).append(told)
            kept = [one for one in heads if one["sequence"] or (one["stream"], one["lane"]) in rows]
            for stream, lane in rows.keys() - {(one["stream"], one["lane"]) for one in kept}:
                kept.append(
                    {
                        "stream": stream,
                        "lane": lane,
                        "sequence": None,
                        "chain": "",
                        "training_run": None,
                        "project": None,
                    }
                )
            columns = (
                "uuid, kind, project, run, name, digest, framework, sequence_num, remote_id, same_as, refused, json"
            )
            found = connection.execute(f"SELECT {columns} FROM entities WHERE destination = ?", (destination,))  # noqa: S608
            return kept, rows, [dict(row) for row in found]

    def with_bodies(self, rows: Sequence[Json]) -> Iterator[Json]:
        """The rows with their bodies, as far as these are kept; a page at a time, as the writer is not to wait for us."""
        for start in range(0, len(rows), 20):
            page = rows[start : start + 20]
            ids = ", ".join(str(int(row["id"])) for row in page)
            with self._opened() as connection:
                found = connection.execute(f"SELECT id, body FROM records WHERE id IN ({ids})")  # noqa: S608 (numbers)
                bodies = {row["id"]: row["body"] for row in found}
            for row in page:
                body = bodies.get(row["id"])
                yield {**row, "body": base64.b64encode(body).decode("ascii") if isinstance(body, bytes) else body}


# ------------------------------------------------------------------------------------------------------------------


class Source(Protocol):
    """What `seclea.verify` reads: the files of an export, or the same asked for when it is needed."""

    about: Json

    def lines(self, name: str) -> Iterable[Json]:
        """The JSON lines of a file."""

    def more(self, uuid: str) -> list[Json]:
        """The heads of further streams that say something of an object."""

    def content(self, kind: str, shown: Json) -> Iterator[bytes]:
        """The payload of a dataset or model state."""


class Live:
    """Portal and ledger as they stand now, one of them or both; all of it, or some runs and what they were made from.

    ``own``: nobody but this ledger's writer sends to this portal.
    """

    def __init__(
        self,
        portal: Portal | None,
        ledger: LedgerFile | None,
        destination: int = 0,
        runs: Sequence[str] = (),
        *,
        own: bool = False,
    ) -> None:
        self._portal, self._ledger, self._runs, self._asked = portal, ledger, list(runs), set[str]()
        self.damaged: list[str] = []
        before = {} if portal is None else self._places(())
        heads, self._rows, self._entities = ([], {}, []) if ledger is None else ledger.read(destination)
        if runs:
            projects = {head["project"] for head in heads if head["training_run"] in runs}
            heads = [one for one in heads if one["training_run"] in runs or
                     (one["training_run"] is None and one["project"] in projects)]  # fmt: skip
        self._streams = {one["stream"] for one in heads}
        after = {} if portal is None else self._places(self._streams)
        for place, head in after.items():  # what the portal had before the ledger was read, the ledger must have
            head["before"] = before.get(place, {"sequence": 0})["sequence"]
        self._files: dict[str, list[Json]] = {"ledger/heads.jsonl": heads, "portal/heads.jsonl": list(after.values())}
        self.about: Json = {
            "format": "seclea-export", "version": 1, "made_ns": time.time_ns(), "runs": self._runs, "own": own,
            "ledger": ledger is not None, "portal": None if portal is None else portal.url,
            "extensions": [] if portal is None else portal.extensions,
            "organization": None if portal is None else portal.organization,
        }  # fmt: skip

    def _places(self, streams: Iterable[str]) -> dict[Place, Json]:
        assert self._portal is not None
        return {(one["stream"], one["lane"]): one for one in self._portal.heads(self._runs, streams)}

    def moved(self) -> bool:
        """Whether the portal has got more since."""
        if self._portal is None:
            return False
        known = {(one["stream"], one["lane"]): one["sequence"] for one in self._files["portal/heads.jsonl"]}
        now = self._places(self._streams | {place[0] for place in known})
        return any(known.get(place, 0) < one["sequence"] for place, one in now.items())

    def lines(self, name: str) -> Iterable[Json]:
        """A file of the export, as it is now."""
        if name in self._files:
            return self._files[name]
        folder, _, rest = name.removesuffix(".jsonl").partition("/")
        stream, _, lane = rest.partition(".")
        if folder == "ledger":
            rows = self._rows.get((stream, lane), [])
            return self._entities if rest == "entities" else self._ledger.with_bodies(rows) if self._ledger else []
        if self._portal is None:
            return []
        if rest == "metric-keys":
            return self._keys()
        return self._objects(KIND_OF[rest]) if rest in KIND_OF else self._portal.records(stream, lane)

    def _objects(self, kind: str) -> Iterator[Json]:
        portal = self._portal
        assert portal is not None
        if not self._runs:
            yield from portal.listed(kind)
            return
        shown = {
            uuid: portal.json(f"/collection/{PATHS[kind]}/{uuid}", {}) for uuid in sorted({*self._asked, *self._runs})
        }
        if kind == "model_state":
            shown |= {one["uuid"]: one for run in self._runs for one in portal.listed(kind, training_run=run)}
        if kind == "dataset_transformation":
            shown |= {one["uuid"]: one for uuid in sorted(self._asked) for one in portal.listed(kind, dataset=uuid)}
        yield from {one["uuid"]: one for one in shown.values() if one}.values()

    def _keys(self) -> Iterator[Json]:
        assert self._portal is not None
        for run in self._runs or [one["uuid"] for one in self._portal.listed("training_run")]:
            for one in self._portal.json(f"/collection/training-runs/{run}/metric-keys", []):
                yield {"training_run": run, **one}

    def more(self, uuid: str) -> list[Json]:
        """The heads of streams, not told before, that made this object."""
        if self._portal is None or uuid in self._asked:
            return []
        self._asked.add(uuid)
        if not self._runs or "records" not in self._portal.extensions:
            return []
        known = {one["stream"] for one in self._files["portal/heads.jsonl"]}
        made = {one["stream"] for one in self._portal.json("/collection/records", object=uuid)["records"]} - known
        heads = [
            {**head, "before": 0}
            for stream in sorted(made)
            for head in self._portal.json("/collection/receipts", stream=stream)
        ]
        self._files["portal/heads.jsonl"] += heads
        return heads

    def content(self, kind: str, shown: Json) -> Iterator[bytes]:
        """The payload as the portal serves it."""
        assert self._portal is not None
        try:
            with self._portal.open(f"/collection/{PATHS[kind]}/{shown['uuid']}/content") as reply:
                while piece := reply.read(1 << 20):
                    yield piece
        except OSError as error:
            raise ValueError(f"cannot be read: {error}") from None


# ------------------------------------------------------------------------------------------------------------------


class _Writer:
    """Files of an export, in a directory or a zip, with their digests."""

    def __init__(self, path: str) -> None:
        self.path, self.digests, self._zip = path, dict[str, str](), None
        if os.path.exists(path):
            raise CannotRead(f"{path} is there already: an export is not written over.")
        if path.endswith(".zip"):
            self._zip = zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED)
        else:
            Path(path).mkdir(parents=True, mode=0o700)

    def _open(self, name: str) -> IO[bytes]:
        if self._zip is not None:
            return self._zip.open(name, "w", force_zip64=True)
        place = Path(self.path, name)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        return place.open("xb")

    def add(self, name: str, pieces: Iterable[bytes]) -> None:
        digest = hashlib.sha256()
        with self._open(name) as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        self.digests[name] = digest.hexdigest()

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()


def write_export(source: Source, path: str, *, content: bool) -> Json:
    """Write an export; what it holds. Its ``export.json`` comes last: without it there is none.

    Raises:
        CannotRead: something is there already, or cannot be fetched.
    """
    files = _Writer(path)
    counts = {"files": 0, "payloads": 0}
    try:
        payloads: dict[str, tuple[str, Json]] = {}
        for kind, name in PATHS.items():
            files.add(f"portal/{name}.jsonl", _lines(_noted(source.lines(f"portal/{name}.jsonl"), kind, payloads)))
        for name in ("portal/metric-keys", "ledger/entities", "portal/heads", "ledger/heads"):
            files.add(f"{name}.jsonl", _lines(source.lines(f"{name}.jsonl")))
        for side in ("portal", "ledger"):
            for head in source.lines(f"{side}/heads.jsonl"):
                name = f"{side}/{head['stream']}.{head['lane']}.jsonl"
                files.add(name, _lines(source.lines(name)))
        for sha256, (kind, shown) in payloads.items() if content else ():
            try:
                files.add(f"content/{sha256}", source.content(kind, shown))
            except ValueError as error:
                raise CannotRead(f"The payload of {kind} {shown['uuid']} {error}. Export without --content.") from None
            counts["payloads"] += 1
        counts["files"] = len(files.digests)
        about = {**source.about, "content": content, "files": files.digests}
        files.add("export.json", [json.dumps(about, indent=1).encode()])
    finally:
        files.close()
    return counts


def _noted(shown: Iterable[Json], kind: str, payloads: dict[str, tuple[str, Json]]) -> Iterator[Json]:
    for one in shown:
        if one.get("sha256"):
            payloads[one["sha256"]] = kind, one
        yield one


def _lines(rows: Iterable[Json]) -> Iterator[bytes]:
    for row in rows:
        yield json.dumps(row, separators=(",", ":")).encode() + b"\n"
