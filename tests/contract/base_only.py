"""Our portal as a deployment that knows the base interface and nothing else, as a process of its own.

shared/PORTAL_API.md says what two generations of clients send, not what their portals did with the rest. Decided here:

older    makes its own uuids and takes no notice of ours; knows a parent by ``parent_hash`` and a run's datasets by their
         hashes; lists all organizations, and transformations by training run only; logins are JSON. What it does not know
         it ignores, as Django REST framework does, whose words the duplicates are in.
strict   the same, and a field that it does not know is a 400.
newer    takes the client's uuid; parent and a run's datasets are uuids; logins are forms; it knows no ``final_state``, no
         ``order`` and no ``metadata`` of a run.
all      other routes are 404, headers of the extensions are not seen; replies hold base fields only, refusals no codes,
         lists have no pages; a missing parent is a 400.

The owner's unix socket stays the whole portal's, so that a test can look at what is there. Every request is a line in
``asked.jsonl`` beside the data folder, written once the portal has acted on it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from seclea.portal import serve as serving
from seclea.portal.app import create_app
from seclea.portal.config import PortalConfig
from tests.contract.portal_server import PortalServer

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

GENERATIONS = ("older", "strict", "newer")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ONE = re.compile(rf"(/collection/(?:projects|datasets))/{_UUID.pattern}")
_LOGIN = {"/api/token/obtain/", "/api/token/refresh/", "/api/token/verify/"}
_FIELDS = {
    "/collection/projects": {"name", "description", "organization"},
    "/collection/datasets": {"project", "name", "metadata", "hash", "dataset"},
    "/collection/models": {"organization", "project", "name", "framework"},
    "/collection/training-runs": {"organization", "project", "datasets", "model", "name", "params"},
    "/collection/model-states": {"project", "sequence_num", "training_run", "state"},
    "/collection/dataset-transformations": {"name", "code_raw", "code_encoded", "dataset"},
}
_OLDER = {
    "/collection/datasets": {"parent_hash"},
    "/collection/training-runs": {"metadata"},
    "/collection/model-states": {"final_state"},
    "/collection/dataset-transformations": {"order"},
}
_FILES = {"/collection/datasets": {"dataset"}, "/collection/model-states": {"state"}}
_FILTERS: dict[str, set[str]] = {
    "/organization/": set(),
    "/collection/projects": {"name"},
    "/collection/datasets": {"hash", "name"},
    "/collection/models": {"name", "framework"},
    "/collection/training-runs": {"model", "name"},
    "/collection/model-states": {"training_run", "sequence_num"},
    "/collection/dataset-transformations": {"training_run"},
}
_NEWER_FILTERS = {"/organization/": {"name"}, "/collection/dataset-transformations": {"dataset", "name"}}


class BaseOnly:
    """Around the whole application: what goes in and comes out, cut down to the base interface of one generation."""

    def __init__(self, app: Any, generation: str, log: Path, lose_first: bool) -> None:
        self._app = app
        self._newer = generation == "newer"
        self._strict = generation == "strict"
        self._log = log
        self._losing = set(_FIELDS) if lose_first else set()  # the first reply to each is lost

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope.get("seclea.door") == "unix":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, await _whole(receive))
        status, headers, content = await self._answer(exchange)
        lost = status == 201 and exchange.path in self._losing
        self._losing -= {exchange.path} if lost else set()
        with self._log.open("a") as log:
            print(json.dumps({**exchange.seen, "status": status, "lost": lost}), file=log)
        if lost:  # acted upon; who asked never hears of it
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        kept = [(name, value) for name, value in headers if name not in (b"content-length", b"link")]
        headers = [*kept, (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, exchange: _Exchange) -> tuple[int, list[Any], bytes]:
        refused = self._refuse(exchange)
        if refused is not None:
            status, body = refused
            return status, [(b"content-type", b"application/json")], json.dumps(body).encode()
        status, headers, content = await exchange.through(self._app)
        if (b"content-type", b"application/json") in headers:
            content = json.dumps(self._shown(exchange, status, json.loads(content))).encode()
        return (400 if status == 404 and exchange.method == "POST" else status), headers, content

    # -- what goes in ------------------------------------------------------------------------------------------------

    def _refuse(self, exchange: _Exchange) -> tuple[int, Any] | None:
        """Why it is not passed on; else it is cut down to what this generation knows."""
        method, path = exchange.method, exchange.path
        if method == "POST" and path in _LOGIN:
            if path == "/api/token/obtain/" and exchange.is_json is self._newer:
                return 415, {"detail": f"Unsupported media type {exchange.content_type!r} in request."}
            return None
        if not self._has(method, path):
            return 404, {"detail": "Not found."}
        if method == "GET":
            known = {"organization", "project"} | _FILTERS.get(path, set())
            known |= _NEWER_FILTERS.get(path, set()) if self._newer else set()
            exchange.keep_query(known)
            return None
        exchange.keep_query({"organization", "project"})
        unknown = exchange.fields - self._fields(path)
        if unknown and self._strict:
            return 400, {name: ["This field is not known."] for name in sorted(unknown)}
        exchange.drop_fields(unknown)
        if path == "/collection/training-runs":
            for item in exchange.json().get("datasets", ()):
                if self._newer and not _UUID.fullmatch(item):
                    return 400, {"datasets": [f"“{item}” is not a valid UUID."]}
                if not self._newer and _UUID.fullmatch(item):
                    return 400, {"datasets": [f"Object with hash={item} does not exist."]}
        return None

    def _has(self, method: str, path: str) -> bool:
        if method == "GET":
            return path in _FILTERS or _ONE.fullmatch(path) is not None
        return method == "POST" and path in _FIELDS

    def _fields(self, path: str) -> set[str]:
        more = {"uuid"} | ({"parent"} if path == "/collection/datasets" else set())
        return _FIELDS[path] | (more if self._newer else _OLDER.get(path, set()))

    # -- what comes out ----------------------------------------------------------------------------------------------

    def _shown(self, exchange: _Exchange, status: int, value: Any) -> Any:
        if status >= 400:
            return {"detail": value.get("detail", "")}
        match = _ONE.fullmatch(exchange.path)
        path = match[1] if match else exchange.path
        if path not in _FIELDS:
            return value
        shown = (self._fields(path) | {"uuid"}) - _FILES.get(path, set())
        items = value if isinstance(value, list) else [value]
        cut = [{name: item for name, item in one.items() if name in shown} for one in items]
        return cut if isinstance(value, list) else cut[0]


class _Exchange:
    """One request with its whole body, to be changed and passed on."""

    def __init__(self, scope: Message, body: bytes) -> None:
        self.scope = {**scope, "headers": []}
        self.method, self.path = scope["method"], scope["path"]
        ours = []
        for name, value in scope["headers"]:
            if name == b"idempotency-key" or name.startswith(b"seclea-"):
                ours.append(name.decode())
            else:
                self.scope["headers"].append((name, value))
        headers = dict(scope["headers"])
        self.content_type = headers.get(b"content-type", b"").decode()
        self.is_json = self.content_type == "application/json"
        self.body = body
        query = dict(parse_qsl(scope["query_string"].decode()))
        fields = {name: self._text(name) for name in self.fields} if self.path in _FIELDS else {}
        self.seen = {"method": self.method, "path": self.path, "query": query, "fields": fields, "ours": ours}

    @property
    def _boundary(self) -> bytes:
        return b"\r\n--" + self.content_type.partition("boundary=")[2].encode()

    def _parts(self) -> dict[str, bytes]:
        if not self.content_type.startswith("multipart/form-data"):
            return {}
        parts = (b"\r\n" + self.body).split(self._boundary)[1:-1]
        return {part.partition(b'name="')[2].partition(b'"')[0].decode(): part for part in parts}

    def json(self) -> dict[str, Any]:
        """The fields of a JSON body."""
        return dict(json.loads(self.body)) if self.is_json and self.body else {}

    @property
    def fields(self) -> set[str]:
        """The names of what is sent."""
        return set(self.json()) | set(self._parts())

    def _text(self, name: str) -> Any:
        content = self._parts().get(name, b"").partition(b"\r\n\r\n")[2]
        return self.json().get(name, content.decode("utf-8", "replace") if len(content) < 5000 else "a file")

    def keep_query(self, known: set[str]) -> None:
        """Drop the rest of the query."""
        pairs = [pair for pair in parse_qsl(self.scope["query_string"].decode()) if pair[0] in known]
        self.scope["query_string"] = urlencode(pairs).encode()

    def drop_fields(self, names: set[str]) -> None:
        """Pass the body on without these."""
        if self.is_json:
            self.body = json.dumps({name: value for name, value in self.json().items() if name not in names}).encode()
        elif parts := self._parts():
            kept = [part for name, part in parts.items() if name not in names]
            self.body = (b"".join(self._boundary + part for part in kept) + self._boundary + b"--\r\n")[2:]

    async def through(self, app: Any) -> tuple[int, list[Any], bytes]:
        """What the portal answers."""
        rest = [pair for pair in self.scope["headers"] if pair[0] not in (b"content-length", b"transfer-encoding")]
        self.scope["headers"] = [*rest, (b"content-length", str(len(self.body)).encode())]
        waiting: list[Message] = [{"type": "http.request", "body": self.body, "more_body": False}]
        answer: list[Message] = []

        async def receive() -> Message:
            return waiting.pop() if waiting else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            answer.append(message)

        await app(self.scope, receive, send)
        return (
            answer[0]["status"],
            list(answer[0]["headers"]),
            b"".join(part.get("body", b"") for part in answer[1:]),
        )


async def _whole(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


# ------------------------------------------------------------------------------------------------------------------


class BaseOnlyServer(PortalServer):
    """The process, from the outside. Without a generation it is the whole portal, with tokens that may be short-lived."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.contract.base_only", "--data", str(self.data), *self.arguments]

    def asked(self, method: str = "POST", path: str = "/collection/") -> list[dict[str, Any]]:
        """The requests that were acted upon so far, in order."""
        log = _log_of(self.data)
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [line for line in lines if line["method"] == method and line["path"].startswith(path)]


def _log_of(data: Path) -> Path:
    return data.with_name(data.name + ".asked.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--generation", choices=GENERATIONS)
    parser.add_argument("--lose-first", action="store_true")
    parser.add_argument("--access-seconds", type=int, default=900)
    arguments = parser.parse_args()

    def create(config: PortalConfig) -> Any:
        app = create_app(config)
        if arguments.generation:
            app.add_middleware(
                BaseOnly,
                generation=arguments.generation,
                log=_log_of(arguments.data),
                lose_first=arguments.lose_first,
            )
        return app

    vars(serving)["create_app"] = create
    serving.serve(PortalConfig(arguments.data, access_seconds=arguments.access_seconds))


if __name__ == "__main__":
    main()
