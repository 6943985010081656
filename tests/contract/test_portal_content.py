"""Chunks and stored files: whole, in part, and never damaged without a word."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.contract.portal_server import PortalServer, Session, Stream, canonical, running_portal, upload

CUT = 64 * 1024


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalServer]:
    with running_portal(tmp_path_factory.mktemp("portal") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def owner(portal: PortalServer) -> Session:
    return portal.owner()


@pytest.fixture(scope="module")
def organization(owner: Session) -> str:
    return str(owner.get("/organization/").json()[0]["uuid"])


@pytest.fixture(scope="module")
def project(owner: Session, organization: str) -> str:
    return str(owner.post("/collection/projects", json={"name": "p", "organization": organization}).json()["uuid"])


def create(owner: Session, organization: str, project: str, payload: dict[str, Any]) -> requests.Response:
    made = str(uuid.uuid4())
    body = {"uuid": made, "project": project, "name": made, "hash": made, "metadata": {}, "parent": None, **payload}
    body |= {"intermediate": False, "format": "bin"}
    return Stream(owner, organization).send("bulk", "dataset", "/collection/datasets", body)


@pytest.fixture(scope="module")
def stored(owner: Session, organization: str, project: str) -> tuple[str, bytes]:
    """A dataset of four chunks."""
    body = os.urandom(3 * CUT + 100)
    reply = create(owner, organization, project, upload(owner, organization, body, CUT))
    assert reply.status_code == 201, reply.text
    return str(reply.json()["uuid"]), body


def upload_again(body: bytes) -> dict[str, Any]:
    """What a create says of chunks that were put before."""
    parts = [body[start : start + CUT] for start in range(0, len(body), CUT)]
    named = [[hashlib.sha256(part).hexdigest(), len(part)] for part in parts]
    return {"chunks": named, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def blob(portal: PortalServer, part: bytes) -> Any:
    name = hashlib.sha256(part).hexdigest()
    return portal.data / "blobs" / name[:2] / name


def test_a_payload_of_many_chunks_comes_back_whole(owner: Session, stored: tuple[str, bytes]) -> None:
    uuid_, body = stored
    reply = owner.get(f"/collection/datasets/{uuid_}/content")
    assert (reply.status_code, reply.content) == (200, body)
    assert reply.headers["ETag"] == f'"{hashlib.sha256(body).hexdigest()}"'
    assert "attachment" in reply.headers["Content-Disposition"]
    assert owner.head(f"/collection/datasets/{uuid_}/content").headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        (f"bytes={CUT - 1}-{CUT}", CUT - 1, CUT + 1),
        (f"bytes={CUT}-{3 * CUT}", CUT, 3 * CUT + 1),
        ("bytes=100-", 100, 3 * CUT + 100),
        ("bytes=-50", 3 * CUT + 50, 3 * CUT + 100),
        ("bytes=-999999999", 0, 3 * CUT + 100),
        ("bytes=5-999999999", 5, 3 * CUT + 100),
    ],
)
def test_a_range_is_served_across_chunks(
    owner: Session, stored: tuple[str, bytes], asked: str, start: int, end: int
) -> None:
    uuid_, body = stored
    reply = owner.get(f"/collection/datasets/{uuid_}/content", headers={"Range": asked})
    assert (reply.status_code, reply.content) == (206, body[start:end])
    assert reply.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(body)}"


def test_a_range_behind_the_end_is_416_and_what_is_not_understood_is_the_whole(
    owner: Session, stored: tuple[str, bytes]
) -> None:
    uuid_, body = stored
    address = f"/collection/datasets/{uuid_}/content"
    behind = owner.get(address, headers={"Range": f"bytes={len(body)}-"})
    assert (behind.status_code, behind.headers["Content-Range"]) == (416, f"bytes */{len(body)}")
    for odd in ("bytes=5-2", "bytes=0-1,4-5", "lines=1-2", "bytes=-", "bytes=x-y"):
        assert owner.get(address, headers={"Range": odd}).status_code == 200
    changed = owner.get(address, headers={"Range": "bytes=0-1", "If-Range": '"another"'})
    assert changed.status_code == 200 and changed.content == body


def test_a_damaged_chunk_is_named_and_nothing_of_it_is_served(
    portal: PortalServer, owner: Session, organization: str, project: str
) -> None:
    body = os.urandom(3 * CUT)
    uuid_ = create(owner, organization, project, upload(owner, organization, body, CUT)).json()["uuid"]
    address = f"/collection/datasets/{uuid_}/content"
    damaged = body[CUT : 2 * CUT]
    path = blob(portal, damaged)
    sound = path.read_bytes()
    path.write_bytes(sound[:100] + bytes([sound[100] ^ 1]) + sound[101:])
    reply = owner.get(address)
    assert (reply.status_code, reply.json()["chunk"]) == (500, path.name)
    assert reply.json()["code"] == "damaged_chunk"
    assert owner.get(address, headers={"Range": f"bytes=0-{CUT - 1}"}).content == body[:CUT]
    path.unlink()
    assert owner.get(address).json()["chunk"] == path.name
    other = create(owner, organization, project, upload_again(body))
    assert (other.status_code, other.json()["code"], other.json()["missing"]) == (409, "missing_chunks", [path.name])
    again = owner.put(f"/collection/chunks/{path.name}?organization={organization}", data=damaged)
    assert again.status_code == 200  # here already; the bytes that came heal it
    assert owner.get(address).content == body


def test_a_chunk_is_refused_unless_it_hashes_to_its_name(owner: Session, organization: str) -> None:
    body = os.urandom(1000)
    name = hashlib.sha256(body).hexdigest()
    address = f"/collection/chunks/{name}?organization={organization}"
    assert owner.post(f"/collection/chunks/missing?organization={organization}", json=[name, name]).json() == [name]
    assert owner.put(address, data=body[:-1]).status_code == 400
    assert owner.put(address, data=body).status_code == 201
    assert owner.put(address, data=body).status_code == 200
    assert owner.post(f"/collection/chunks/missing?organization={organization}", json=[name]).json() == []
    for odd in ("..%2F..%2Fsecret", "A" * 64, "0" * 63, "%00" * 64):
        assert owner.put(f"/collection/chunks/{odd}?organization={organization}", data=b"").status_code in (400, 404)
    limit = owner.get("/api/capabilities").json()["limits"]["chunk_bytes"]
    assert owner.put(address, data=bytes(limit + 1)).status_code == 413
    for body_ in ({}, ["x"], [1], "x"):
        reply = owner.post(f"/collection/chunks/missing?organization={organization}", json=body_)
        assert reply.status_code == 400


def test_a_create_with_a_chunk_that_is_not_there_names_it(owner: Session, organization: str, project: str) -> None:
    absent = hashlib.sha256(b"absent").hexdigest()
    reply = create(owner, organization, project, {"chunks": [[absent, 6]], "size": 6, "sha256": absent})
    assert (reply.status_code, reply.json()["code"], reply.json()["missing"]) == (409, "missing_chunks", [absent])


def test_a_create_whose_chunks_do_not_make_up_the_whole_is_refused(
    owner: Session, organization: str, project: str
) -> None:
    payload = upload(owner, organization, os.urandom(2 * CUT), CUT)
    turned = {**payload, "chunks": payload["chunks"][::-1]}
    assert create(owner, organization, project, turned).status_code == 400
    assert create(owner, organization, project, {**payload, "size": 1}).status_code == 400
    longer = [[name, length + 1] for name, length in payload["chunks"]]
    assert (
        create(owner, organization, project, {**payload, "chunks": longer, "size": payload["size"] + 2}).status_code
        == 400
    )
    assert create(owner, organization, project, {**payload, "chunks": "x"}).status_code == 400
    assert create(owner, organization, project, payload).status_code == 201


def test_an_empty_payload_is_a_payload(owner: Session, organization: str, project: str) -> None:
    made = create(owner, organization, project, {"chunks": [], "size": 0, "sha256": hashlib.sha256(b"").hexdigest()})
    assert made.status_code == 201
    reply = owner.get(f"/collection/datasets/{made.json()['uuid']}/content")
    assert (reply.status_code, reply.content) == (200, b"")


def test_a_replayed_create_with_chunks_gets_its_first_reply(owner: Session, organization: str, project: str) -> None:
    stream, made = Stream(owner, organization), str(uuid.uuid4())
    payload = upload(owner, organization, os.urandom(2 * CUT), CUT)
    raw = canonical({"uuid": made, "project": project, "name": made, "hash": made, "metadata": {}, **payload})
    headers = stream.headers("bulk", "dataset", hashlib.sha256(raw).digest())
    first, again = (stream.post("/collection/datasets", raw, headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201) and first.content == again.content


def test_a_multipart_create_with_a_key_is_idempotent_whatever_its_boundary(
    owner: Session, organization: str, project: str
) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    form = {"project": project, "name": "multipart", "hash": "multipart", "metadata": "{}"}
    address = f"/collection/datasets?organization={organization}"
    first, again = (owner.post(address, data=form, files={"dataset": ("d", b"1,2")}, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201) and first.json() == again.json()
    other = owner.post(address, data=form, files={"dataset": ("d", b"1,3")}, headers=headers)
    assert other.status_code == 422


def test_a_large_base_upload_is_stored_in_chunks_and_comes_back(
    owner: Session, organization: str, project: str
) -> None:
    body = os.urandom(1 << 20) * 20
    form = {"project": project, "name": "large", "hash": "large", "metadata": "{}"}
    made = owner.post(f"/collection/datasets?organization={organization}", data=form, files={"dataset": ("d", body)})
    assert made.status_code == 201 and made.json()["sha256"] == hashlib.sha256(body).hexdigest()
    assert owner.get(f"/collection/datasets/{made.json()['uuid']}/content").content == body
