"""Every route against input that nobody sane would send: an answer in the four hundreds, never a five hundred (S5, S6, S10)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from seclea.portal.app import create_app
from seclea.portal.config import PortalConfig
from tests.contract.portal_server import PortalServer, Session, running_portal

ODD = [
    "", " ", "0", "-1", "²", "1e9", "9" * 25, "null", "NaN", "../../x", "%00", "\x00", "a\r\nb", "'; --", "\u202e", "é" * 300,
    "x" * 5000, "{}", "[]", "00000000-0000-0000-0000-000000000000", "zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz", "true", "😀", "*",
]  # fmt: skip
VALUES = [
    None,
    True,
    -1,
    2**70,
    0.5,
    "",
    "x",
    "x" * 6000,
    [],
    [1],
    [None],
    {},
    {"a": None},
    [[]],
    "\x00",
    ["x"] * 1001,
    "²",
]
FIELDS = [
    "uuid", "name", "description", "organization", "project", "framework", "hash", "metadata", "parent",
    "parent_hash", "chunks", "size", "sha256", "datasets", "model", "params", "training_run", "sequence_num",
    "step", "final_state", "format", "dataset", "order", "code_raw", "kind", "count", "reason", "stands_for",
    "status", "streams", "started_ns", "created_ns", "username", "password", "intermediate", "finished_ns",
    "detail", "inputs", "dataset_roles", "details",
]  # fmt: skip
QUERIES = [
    "organization", "project", "name", "limit", "cursor", "sequence_num", "training_run", "hash", "parent", "model", "key",
    "points", "stream", "next", "code", "dataset", "model_state", "direction", "input", "intermediate",
]  # fmt: skip


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalServer]:
    with running_portal(tmp_path_factory.mktemp("portal") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def client(portal: PortalServer) -> Session:
    return portal.add_member("ada", "Acme")


def routes(folder: Path) -> list[tuple[str, str]]:
    """Every route of the application, so that a new one is tried without being named here."""
    app = create_app(PortalConfig(folder))
    app.state.portal.close()
    found = []
    for route in walk(app.routes):
        found += [(method, route.path) for method in sorted(getattr(route, "methods", None) or ())]
    assert ("POST", "/collection/metrics") in found and ("GET", "/runs/{uuid}") in found
    return found


def walk(listed: list) -> Iterator:  # type: ignore[type-arg]
    for route in listed:
        inner = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
        if inner:
            yield from walk(inner)
        elif hasattr(route, "path"):
            yield route


def test_no_route_answers_odd_input_with_a_failure(portal: PortalServer, client: Session, tmp_path: Path) -> None:
    source = random.Random(7)
    for method, path in routes(tmp_path):
        for _ in range(25):
            target = path
            for name in ("uuid", "sha256", "kind"):
                odd = source.choice([*ODD[1:], "datasets", "0" * 64])
                target = target.replace("{" + name + "}", "".join(f"%{byte:02X}" for byte in odd.encode()))
            query = {name: source.choice(ODD) for name in source.sample(QUERIES, 3)}
            body = {name: source.choice(VALUES) for name in source.sample(FIELDS, 12)}
            how = source.choice(["json", "data", "raw", "multipart"])
            kwargs: dict[str, object] = {}
            if method in ("POST", "PUT"):
                if how == "json":
                    kwargs["json"] = body
                elif how == "data":
                    kwargs["data"] = {name: str(value) for name, value in body.items()}
                elif how == "raw":
                    kwargs["data"] = source.randbytes(source.randrange(200))
                    kwargs["headers"] = {
                        "Content-Type": source.choice(["multipart/form-data; boundary=x", "application/json", ""])
                    }
                else:
                    kwargs["files"] = {name: (name, source.randbytes(20)) for name in source.sample(FIELDS, 4)}
            reply = client.request(method, target, params=query, allow_redirects=False, **kwargs)
            assert reply.status_code < 500, (method, target, query, kwargs, reply.text)
            assert "X-Request-Id" in reply.headers
    assert portal.owner().get("/internal/health").status_code == 200


def test_odd_headers_are_answered(portal: PortalServer, client: Session) -> None:
    for name in (
        "Cookie",
        "Authorization",
        "Idempotency-Key",
        "Seclea-Stream",
        "Range",
        "Content-Type",
        "X-Request-Id",
        "Origin",
    ):
        for odd in ("", "x" * 3000, "é", "bytes=0-", "Bearer", "Bearer a.b.c", "multipart/form-data", 'a="'):
            for method, path in (("GET", "/organization/"), ("POST", "/collection/projects"), ("GET", "/")):
                reply = portal.tcp().request(method, path, headers={name: odd.encode("latin-1")})
                assert reply.status_code < 500, (name, odd, path, reply.text)
    portal.close_sessions()
