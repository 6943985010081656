"""The base interface, in the dialects of both generations of clients (shared/PORTAL_API.md)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import pytest

from tests.contract.portal_server import PortalServer, Session, running_portal


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalServer]:
    with running_portal(tmp_path_factory.mktemp("portal") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def client(portal: PortalServer) -> Session:
    return portal.add_member("ada", "Acme")


@pytest.fixture(scope="module")
def organization(client: Session) -> str:
    (found,) = client.get("/organization/?name=Acme").json()
    assert found["name"] == "Acme"
    return str(found["uuid"])


@pytest.fixture
def project(client: Session, organization: str) -> str:
    body = {"name": f"p {uuid.uuid4()}", "description": "", "organization": organization}
    reply = client.post("/collection/projects", json=body)
    assert reply.status_code == 201
    return str(reply.json()["uuid"])


def post_dataset(client: Session, project: str, name: str, digest: str, **fields: str) -> dict[str, object]:
    reply = client.post(
        "/collection/datasets",
        data={"project": project, "name": name, "hash": digest, **fields},
        files={
            "metadata": (None, json.dumps({"index": None}), "application/json"),
            "dataset": ("d.csv", b"a,b\n1,2\n"),
        },
    )
    assert reply.status_code == 201, reply.text
    return dict(reply.json())


def test_a_project_is_made_once_and_found_by_name_and_by_uuid(client: Session, organization: str) -> None:
    body = {"name": "Claims", "description": "d", "organization": organization}
    made = client.post(f"/collection/projects?organization={organization}", json=body)
    assert made.status_code == 201
    found = client.get(f"/collection/projects?organization={organization}&name=Claims")
    assert (found.status_code, [item["uuid"] for item in found.json()]) == (200, [made.json()["uuid"]])
    one = client.get(f"/collection/projects/{made.json()['uuid']}?organization={organization}")
    assert (one.status_code, one.json()["description"]) == (200, "d")
    again = client.post(f"/collection/projects?organization={organization}", json=body)
    assert again.status_code == 400 and "already exists" in again.text
    assert client.get(f"/collection/projects/{uuid.uuid4()}").status_code == 404
    assert client.get("/collection/projects?name=nothing").json() == []


def test_the_newer_client_makes_its_own_uuid(client: Session, organization: str) -> None:
    own = str(uuid.uuid4())
    body = {"uuid": own, "name": "own uuid", "description": "", "organization": organization}
    assert client.post("/collection/projects", json=body).json()["uuid"] == own
    again = client.post("/collection/projects", json={**body, "name": "another"})
    assert again.status_code == 400 and "already exists" in again.text


def test_a_project_can_be_sent_as_a_form(client: Session, organization: str) -> None:
    made = client.post("/collection/projects", data={"name": "form", "description": "", "organization": organization})
    assert made.status_code == 201 and made.json()["name"] == "form"


def test_a_dataset_arrives_as_multipart_and_its_child_names_the_parent_by_hash_or_uuid(
    client: Session, project: str
) -> None:
    parent = post_dataset(client, project, "raw", "h1")
    assert parent["metadata"] == {"index": None}
    older = post_dataset(client, project, "clean", "h2", parent_hash="h1")
    newer = post_dataset(client, project, "split", "h3", parent=str(parent["uuid"]), uuid=str(uuid.uuid4()))
    assert older["parent"] == newer["parent"] == parent["uuid"]
    assert [item["uuid"] for item in client.get(f"/collection/datasets?project={project}&hash=h2").json()] == [
        older["uuid"]
    ]
    content = client.get(f"/collection/datasets/{parent['uuid']}/content")
    assert (content.status_code, content.content) == (200, b"a,b\n1,2\n")


def test_a_second_dataset_of_one_hash_or_name_is_refused_in_the_words_that_clients_know(
    client: Session, project: str
) -> None:
    first = post_dataset(client, project, "table", "hash")
    for name, digest in (("other", "hash"), ("table", "other")):
        reply = client.post(
            "/collection/datasets",
            data={"project": project, "name": name, "hash": digest, "metadata": "{}"},
            files={"dataset": ("d.csv", b"x")},
        )
        assert reply.status_code == 400
        assert "already exists" in reply.json()["detail"]
        assert reply.json()["uuid"] == first["uuid"]
        if digest == "hash":
            assert "fields project, hash must make a unique set" in reply.json()["detail"]


def test_a_run_takes_datasets_as_uuids_or_as_hashes(client: Session, organization: str, project: str) -> None:
    dataset = post_dataset(client, project, "table", "the-hash")
    model = client.post(
        "/collection/models",
        json={"organization": organization, "project": project, "name": "RandomForest", "framework": "sklearn"},
    )
    assert model.status_code == 201
    body = {"organization": organization, "project": project, "model": model.json()["uuid"], "params": {"depth": 3}}
    older = client.post(
        "/collection/training-runs", json={**body, "name": "Training Run 0", "datasets": ["the-hash"], "metadata": {}}
    )
    newer = client.post(
        "/collection/training-runs",
        json={**body, "name": "Training Run 1", "datasets": [dataset["uuid"]], "uuid": str(uuid.uuid4())},
    )
    assert (older.status_code, newer.status_code) == (201, 201)
    assert older.json()["datasets"] == newer.json()["datasets"] == [dataset["uuid"]]
    found = client.get(f"/collection/training-runs?model={model.json()['uuid']}&name=Training Run 1").json()
    assert [item["params"] for item in found] == [{"depth": 3}]


def test_model_states_are_numbered_once_per_run(client: Session, organization: str, project: str) -> None:
    run = client.post("/collection/training-runs", json={"project": project, "name": "r", "datasets": []}).json()[
        "uuid"
    ]
    form = {"project": project, "training_run": run, "sequence_num": "0", "final_state": "True"}
    made = client.post("/collection/model-states", data=form, files={"state": ("s.bin", b"\x00weights")})
    assert made.status_code == 201
    assert (made.json()["sequence_num"], made.json()["final_state"]) == (0, True)
    again = client.post("/collection/model-states", data=form, files={"state": ("s.bin", b"other")})
    assert again.status_code == 400 and "already exists" in again.text
    found = client.get(f"/collection/model-states?training_run={run}&sequence_num=0").json()
    assert [item["uuid"] for item in found] == [made.json()["uuid"]]


def test_transformations_are_listed_by_run_as_the_older_client_asks(client: Session, project: str) -> None:
    dataset = post_dataset(client, project, "table", "h")
    step = {
        "name": "scale",
        "code_raw": "def f(): ...",
        "code_encoded": "gASVAAAA",
        "dataset": dataset["uuid"],
        "order": 1,
    }
    made = client.post("/collection/dataset-transformations", json=step)
    assert made.status_code == 201 and made.json()["code_encoded"] == "gASVAAAA"
    run = client.post(
        "/collection/training-runs", json={"project": project, "name": "r", "datasets": [dataset["uuid"]]}
    ).json()["uuid"]
    found = client.get(f"/collection/dataset-transformations?training_run={run}").json()
    assert [item["uuid"] for item in found] == [made.json()["uuid"]]
    assert client.get(f"/collection/dataset-transformations?training_run={uuid.uuid4()}").json() == []


def test_a_model_is_one_per_name_and_framework(client: Session, organization: str, project: str) -> None:
    body = {"organization": organization, "project": project, "name": "M", "framework": "sklearn"}
    assert client.post("/collection/models", json=body).status_code == 201
    assert client.post("/collection/models", json={**body, "framework": "xgboost"}).status_code == 201
    assert client.post("/collection/models", json=body).status_code == 400
    assert len(client.get(f"/collection/models?project={project}&name=M&framework=sklearn").json()) == 1


def test_lists_are_paged_by_a_link_and_stay_plain_lists(client: Session, project: str) -> None:
    made = [
        client.post("/collection/models", json={"project": project, "name": f"m{n}", "framework": "f"}).json()["uuid"]
        for n in range(5)
    ]
    seen: list[str] = []
    address: str | None = f"/collection/models?project={project}&limit=2"
    while address:
        reply = client.get(address)
        assert len(reply.json()) <= 2
        seen += [item["uuid"] for item in reply.json()]
        address = reply.links.get("next", {}).get("url")
    assert seen == made
    assert client.get("/collection/models?cursor=???").status_code == 400


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("projects", {"name": "x" * 251}),
        ("projects", {"name": "x", "description": "x" * 5001}),
        ("projects", {"name": ""}),
        ("projects", {}),
        ("projects", {"name": "nul\x00"}),
        ("projects", {"name": 7}),
        ("projects", {"name": "x", "uuid": "not-a-uuid"}),
        ("models", {"name": "x" * 101, "framework": "f"}),
        ("models", {"name": "x", "framework": "f" * 101}),
        ("training-runs", {"name": "x", "datasets": "no list"}),
        ("training-runs", {"name": "x", "params": []}),
        ("training-runs", {"name": "x", "model": "?"}),
        ("model-states", {"training_run": "7"}),
        ("dataset-transformations", {"name": "x", "dataset": 3}),
        ("datasets", {"name": "x" * 257, "hash": "h"}),
        ("datasets", {"name": "x", "hash": "h" * 201}),
    ],
)
def test_fields_beyond_their_limits_are_refused_with_400(
    client: Session, organization: str, project: str, path: str, fields: dict[str, object]
) -> None:
    body = {"organization": organization, "project": project, **fields}
    reply = client.post(f"/collection/{path}", json=body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["detail"] and reply.json()["request_id"] == reply.headers["X-Request-Id"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"text"',
        b'{"name": NaN}',
        b'{"name": 1e999}',
        b'{"name": "\\ud800"}',
        b'{"\\udfff": 1, "name": "x"}',
        b'{"name": "\xff"}',
        b'{"name": ' + b"9" * 5000 + b"}",
        b'{"name": "x", "params": ' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"name": ' + b"[" * 100_000,
        b"",
    ],
)
def test_what_is_no_json_that_can_be_kept_is_refused_with_400(client: Session, organization: str, body: bytes) -> None:
    reply = client.post(
        f"/collection/projects?organization={organization}", data=body, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code == 400, reply.text


def test_a_body_beyond_the_limit_is_refused_with_413_whether_it_says_its_length_or_not(
    client: Session, organization: str
) -> None:
    limit = client.get("/api/capabilities").json()["limits"]["body_bytes"]
    address = f"/collection/projects?organization={organization}"
    said = client.post(address, data=b"x" * (limit + 1), headers={"Content-Type": "application/json"})
    assert said.status_code == 413
    silent = client.post(address, data=iter([b"x" * 65536] * (limit // 65536 + 1)))
    assert silent.status_code == 413


def test_a_packed_body_is_unpacked_and_a_bomb_is_refused(client: Session, organization: str) -> None:
    import gzip

    address = f"/collection/projects?organization={organization}"
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    good = client.post(address, data=gzip.compress(b'{"name": "packed"}'), headers=headers)
    assert good.status_code == 201 and good.json()["name"] == "packed"
    assert client.post(address, data=gzip.compress(bytes(100 << 20)), headers=headers).status_code == 413
    assert client.post(address, data=b"no gzip", headers=headers).status_code == 400
    assert client.post(address, data=b"{}", headers={**headers, "Content-Encoding": "br"}).status_code == 415


def test_a_body_packed_by_zstd_is_unpacked_and_a_bomb_is_refused(client: Session, organization: str) -> None:
    zstd = pytest.importorskip("backports.zstd")
    address = f"/collection/projects?organization={organization}"
    headers = {"Content-Type": "application/json", "Content-Encoding": "zstd"}
    good = client.post(address, data=zstd.compress(b'{"name": "packed by zstd"}'), headers=headers)
    assert good.status_code == 201 and good.json()["name"] == "packed by zstd"
    assert client.post(address, data=zstd.compress(bytes(100 << 20)), headers=headers).status_code == 413
    whole = zstd.compress(b'{"name": "cut"}')
    for broken in (b"no zstd", whole[:-2], whole + b"more", b""):
        assert client.post(address, data=broken, headers=headers).status_code == 400
    # A frame that asks for 2 GiB of memory before it says anything.
    assert client.post(address, data=bytes.fromhex("28b52ffd00a8"), headers=headers).status_code == 400


def test_a_missing_parent_is_named(client: Session, project: str) -> None:
    absent = str(uuid.uuid4())
    reply = client.post("/collection/training-runs", json={"project": absent, "name": "r"})
    assert (reply.status_code, reply.json()["code"], reply.json()["missing"]) == (404, "missing_parent", absent)
    reply = client.post(
        "/collection/training-runs", json={"project": project, "name": "r", "datasets": ["no-such-hash"]}
    )
    assert (reply.status_code, reply.json()["missing"]) == (404, "no-such-hash")


def test_names_are_data_and_never_statements_or_paths(client: Session, organization: str) -> None:
    for name in (
        "'; DROP TABLE projects; --",
        "../../etc/passwd",
        "<script>alert(1)</script>",
        "%00",
        "a\r\nSet-Cookie: x=1",
    ):
        made = client.post("/collection/projects", json={"name": name, "organization": organization})
        assert made.status_code == 201
        found = client.get("/collection/projects", params={"name": name}).json()
        assert [item["name"] for item in found] == [name]


def test_unknown_addresses_and_methods_answer_in_json(client: Session) -> None:
    assert client.get("/collection/nothing").json()["detail"] == "Not Found"
    reply = client.delete("/collection/projects")
    assert reply.status_code == 405 and "request_id" in reply.json()


def test_capabilities_need_no_login(portal: PortalServer) -> None:
    told = portal.tcp().get("/api/capabilities").json()
    assert told["version"] == "1"
    named = {"chunks", "metrics", "receipts", "streams", "tombstones", "finish", "content", "lineage"}
    assert named <= set(told["extensions"])
    assert told["encodings"] == ["zstd", "gzip", "identity"]
    assert set(told["limits"]) == {"body_bytes", "chunk_bytes", "chunks"}
