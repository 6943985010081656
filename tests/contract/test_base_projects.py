"""Whole projects at our portal as the clients of existing deployments do them (base_clients.py, shared/PORTAL_API.md)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.contract import base_clients
from tests.contract.base_clients import (
    DATASETS,
    MODELS,
    PROJECTS,
    RUNS,
    STATES,
    STEPS,
    Client,
    Duplicate,
    NewerClient,
    Object,
    OlderClient,
    Refused,
)
from tests.contract.base_only import BaseOnlyServer
from tests.contract.portal_server import PortalServer, wait_until

PASSWORD = "correct horse"
Make = Callable[[type[Client]], Client]
GENERATIONS: list[type[Client]] = [OlderClient, NewerClient]

# Every route of the base interface with the filters that PORTAL_API.md lists, and who uses them.
BOTH = [
    ("POST", "/api/token/obtain/", ""),
    ("POST", "/api/token/refresh/", ""),
    ("POST", "/api/token/verify/", ""),
    ("GET", PROJECTS, "name"),
    ("GET", f"{PROJECTS}/<uuid>", ""),
    ("POST", PROJECTS, ""),
    ("GET", DATASETS, ""),
    ("GET", DATASETS, "hash"),
    ("GET", DATASETS, "name"),
    ("GET", f"{DATASETS}/<uuid>", ""),
    ("POST", DATASETS, ""),
    ("GET", MODELS, "name framework"),
    ("POST", MODELS, ""),
    ("GET", RUNS, "model name"),
    ("GET", RUNS, "model"),
    ("GET", RUNS, "name"),
    ("POST", RUNS, ""),
    ("GET", STATES, "training_run"),
    ("GET", STATES, "training_run sequence_num"),
    ("POST", STATES, ""),
    ("POST", STEPS, ""),
]
ONLY = {
    OlderClient: [("GET", "/organization/", ""), ("GET", STEPS, "training_run")],
    NewerClient: [("GET", "/organization/", "name"), ("GET", STEPS, "dataset name")],
}

# The fields of the interface and their types; a reply may say more.
UUID, TEXT = "uuid", "text"
FIELDS: dict[str, dict[str, Any]] = {
    PROJECTS: {"uuid": UUID, "name": TEXT, "description": TEXT, "organization": UUID},
    DATASETS: {"uuid": UUID, "project": UUID, "name": TEXT, "hash": TEXT, "metadata": dict},
    MODELS: {"uuid": UUID, "organization": UUID, "project": UUID, "name": TEXT, "framework": TEXT},
    RUNS: {
        "uuid": UUID, "organization": UUID, "project": UUID, "datasets": list, "model": UUID, "name": TEXT,
        "params": dict, "metadata": dict,
    },
    STATES: {"uuid": UUID, "project": UUID, "training_run": UUID, "sequence_num": int, "final_state": bool},
    STEPS: {"uuid": UUID, "name": TEXT, "code_raw": TEXT, "code_encoded": TEXT, "dataset": UUID, "order": int},
}  # fmt: skip


def check_fields(path: str, item: Object) -> Object:
    """An object as the interface describes it."""
    for name, kind in FIELDS[path].items():
        assert name in item, f"{path}: no {name} in {item}"
        value = item[name]
        if kind == UUID:
            assert isinstance(value, str) and base_clients._UUID.fullmatch(value), (path, name, value)
        else:
            assert type(value) is (str if kind == TEXT else kind), (path, name, value)
    return item


def table(seed: str, rows: int = 20_000) -> bytes:
    """A CSV file of several hundred kB."""
    random_numbers = random.Random(seed)
    lines = [f"{row},{random_numbers.random():.6f},{random_numbers.random():.6f}" for row in range(rows)]
    return "\n".join(["claim,paid,age", *lines, ""]).encode()


@dataclass
class Job:
    """A script of a user of such a client; run twice it finds what it made."""

    client: Client
    project_name: str

    def run(self, between: Callable[[], None] = lambda: None) -> None:
        client, mine = self.client, self.client.generation
        client.login()
        assert client.verify()
        client.organization("Acme")
        self.project = check_fields(PROJECTS, client.project(self.project_name, "What was claimed, and paid"))
        self.content = {name: table(f"{mine} {name}") for name in ("raw", "clean", "train")}
        raw = self._dataset("raw")
        clean = self._dataset(
            "clean", raw, [("drop_empty", "def drop_empty(df): ..."), ("scale", "def scale(df): ...")]
        )
        train = self._dataset("train", clean, [("split", "def split(df, seed): ...")])
        self.datasets = [raw, clean, train]
        between()
        self.model = check_fields(MODELS, client.model("SGDClassifier", "sklearn"))
        params = {"alpha": 0.1, "layers": [1, 2], "note": None, "deep": {"a": True}}
        self.run_name = f"Training Run of the {mine}"
        self.training_run = check_fields(RUNS, client.training_run(self.run_name, self.model, [train, clean], params))
        assert self.training_run["params"] == params
        assert self.training_run["datasets"] == [train["uuid"], clean["uuid"]]
        self.states = [
            check_fields(STATES, client.model_state(self.training_run, number, b"\0weights" * 1000, final=number == 2))
            for number in range(3)
        ]

    def _dataset(self, name: str, parent: Object | None = None, steps: list[tuple[str, str]] | None = None) -> Object:
        content = self.content[name]
        metadata = {"index": None, "continuous_features": ["paid"], "outputs": ["paid"], "split": None}
        title, digest = f"{name} of the {self.client.generation}", hashlib.sha256(content).hexdigest()
        found, is_new = self.client.dataset(title, content, digest, metadata, parent)
        check_fields(DATASETS, found)
        assert (found["name"], found["hash"], found["metadata"]) == (title, digest, metadata)
        assert found["project"] == self.project["uuid"]
        assert (found["parent"], found["parent_hash"]) == ((parent["uuid"], parent["hash"]) if parent else (None, None))
        for order, (step, code) in enumerate(steps or [] if is_new else []):
            made = self.client.transformation(step, code, "gASVBgAAAAAAAACMAmRmlC4=", found, order)
            check_fields(STEPS, made)
            assert (made["name"], made["code_raw"], made["dataset"]) == (step, code, found["uuid"])
        return found

    def read_back(self) -> None:
        """Every GET route and filter."""
        client = self.client
        raw, clean, train = self.datasets
        for path, item in ((PROJECTS, self.project), (DATASETS, raw), (DATASETS, clean), (DATASETS, train)):
            assert client.get(path, item["uuid"]) == item
            assert client.get(path, "01900000-0000-7000-8000-000000000000") is None
        assert client.find(PROJECTS, name=self.project_name) == [self.project]
        assert client.find(PROJECTS, name="nothing of that name") == []
        assert [item for item in client.find(DATASETS) if item in self.datasets] == self.datasets
        for item in self.datasets:
            assert client.find(DATASETS, hash=item["hash"]) == client.find(DATASETS, name=item["name"]) == [item]
        assert client.find(DATASETS, hash="0" * 64) == client.find(DATASETS, name="raw") == []
        assert client.find(MODELS, name="SGDClassifier", framework="sklearn") == [self.model]
        assert client.find(MODELS, name="SGDClassifier", framework="torch") == []
        run = self.training_run
        assert run in client.find(RUNS, model=self.model["uuid"])
        assert client.find(RUNS, name=self.run_name) == [run]
        assert client.find(RUNS, name=self.run_name, model=self.model["uuid"]) == [run]
        assert client.find(STATES, training_run=run["uuid"]) == self.states
        for state in self.states:
            number = state["sequence_num"]
            assert client.find(STATES, training_run=run["uuid"], sequence_num=number) == [state]
        assert client.find(STATES, training_run=run["uuid"], sequence_num=3) == []
        for step in self._steps():
            assert check_fields(STEPS, step)["code_encoded"] == "gASVBgAAAAAAAACMAmRmlC4="

    def _steps(self) -> list[Object]:
        """The transformations, as each generation asks for them."""
        client, (raw, clean, train) = self.client, self.datasets
        if isinstance(client, OlderClient):
            assert [state["final_state"] for state in self.states] == [False, False, True]
            assert client.next_run_name(self.model).startswith("Training Run ")
            steps = client.steps_of_run(self.training_run)
            assert [(step["dataset"], step["name"], step["order"]) for step in steps] == [
                (clean["uuid"], "drop_empty", 0), (clean["uuid"], "scale", 1), (train["uuid"], "split", 0)
            ]  # fmt: skip
            return steps
        assert isinstance(client, NewerClient)
        assert client.steps_of(raw, "scale") == []
        steps = [
            *client.steps_of(clean, "drop_empty"),
            *client.steps_of(clean, "scale"),
            *client.steps_of(train, "split"),
        ]
        assert [step["name"] for step in steps] == ["drop_empty", "scale", "split"]
        return steps


def started(server: PortalServer) -> PortalServer:
    """Running, with a member in each of two organizations."""
    server.start()
    server.add_member("ada", "Acme", PASSWORD)
    server.add_member("bob", "Other", PASSWORD)
    return server


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalServer]:
    server = PortalServer(tmp_path_factory.mktemp("portal") / "data")
    try:
        yield started(server)
    finally:
        server.close()


@pytest.fixture
def make(portal: PortalServer) -> Iterator[Callable[[type[Client]], Client]]:
    clients: list[Client] = []

    def make_client(kind: type[Client]) -> Client:
        clients.append(kind(portal.url, "ada", PASSWORD))
        return clients[-1]

    yield make_client
    for client in clients:
        client.close()


@pytest.fixture(params=GENERATIONS, ids=lambda kind: kind.generation)
def client(request: pytest.FixtureRequest, make: Make) -> Client:
    """A client of either generation in a project of its own."""
    made: Client = make(request.param)
    made.login()
    made.organization("Acme")
    made.project(f"{request.node.name}")
    return made


@pytest.mark.parametrize("kind", GENERATIONS, ids=lambda kind: kind.generation)
def test_a_whole_project_is_made_once_and_read_back_by_every_route_and_filter(make: Make, kind: type[Client]) -> None:
    first = Job(make(kind), f"Claims of the {kind.generation}")
    first.run()
    first.read_back()
    first.client.refresh()
    # project, three datasets, their steps, model, run, three states
    assert first.client.makes == 1 + 3 + 3 + 1 + 1 + 3
    second = Job(make(kind), f"Claims of the {kind.generation}")
    second.run()
    second.read_back()
    assert second.client.makes == 0
    assert (second.project, second.datasets, second.training_run) == (first.project, first.datasets, first.training_run)

    wanted = {(method, path, frozenset(filters.split())) for method, path, filters in [*BOTH, *ONLY[kind]]}
    assert wanted - first.client.asked == set(), "a route or filter of the interface was not tried"
    assert first.client.asked - wanted == set(), "a request that is not in the table of the interface"


@pytest.mark.parametrize("kind", GENERATIONS, ids=lambda kind: kind.generation)
def test_an_access_token_that_expires_in_the_middle_is_refreshed_and_the_work_goes_on(
    tmp_path: Path, kind: type[Client]
) -> None:
    server = BaseOnlyServer(tmp_path / "data", "--access-seconds", "3")
    client = None
    try:
        client = kind(started(server).url, "ada", PASSWORD)
        job = Job(client, "Expired")
        refreshed: list[int] = []

        def expire() -> None:
            wait_until(lambda: not client.verify(), 30, "the access token to expire")
            refreshed.append(client.refreshes)

        job.run(expire)
        assert client.refreshes > refreshed[0]
        expire()
        late = client.make_dataset("late", table("late"), "late-hash", {})  # a file whose first try is a 401
        assert client.refreshes > refreshed[1]
        job.read_back()
        assert client.find(DATASETS) == [*job.datasets, late]
    finally:
        if client is not None:
            client.close()
        server.close()


@pytest.mark.parametrize("order", [[OlderClient, NewerClient], [NewerClient, OlderClient]], ids=["older", "newer"])
def test_both_generations_work_in_one_project_and_see_each_others_objects(
    make: Make, order: list[type[Client]]
) -> None:
    jobs = [Job(make(kind), f"Shared, {order[0].generation} first") for kind in order]
    for job in jobs:
        job.run()
    one, other = jobs
    assert (one.project, one.model) == (other.project, other.model)
    for job, theirs in ((one, other), (other, one)):
        job.read_back()
        client = job.client
        shared = {"datasets": client.find(DATASETS), "runs": client.find(RUNS, model=job.model["uuid"])}
        assert shared["datasets"] == one.datasets + other.datasets
        assert shared["runs"] == [one.training_run, other.training_run]
        assert client.find(STATES, training_run=theirs.training_run["uuid"]) == theirs.states
    # A child of the other's dataset: by hash of one that has a uuid of its maker, and the other way round.
    for job, theirs in ((one, other), (other, one)):
        parent = theirs.datasets[0]
        name = f"{job.client.generation}'s child"
        child = job.client.make_dataset(name, b"a\n1\n", f"child-{name}", {}, parent)
        assert (child["parent"], child["parent_hash"]) == (parent["uuid"], parent["hash"])
        run = job.client.training_run(f"on {name}", job.model, [child, parent], {})
        assert run["datasets"] == [child["uuid"], parent["uuid"]]


@pytest.mark.parametrize("kind", GENERATIONS, ids=lambda kind: kind.generation)
def test_what_such_a_client_wrote_is_on_the_pages(make: Make, kind: type[Client]) -> None:
    job = Job(make(kind), f"Pages of the {kind.generation}")
    job.run()
    raw, clean, train = job.datasets
    browser = requests.Session()
    browser.trust_env = False
    with browser:
        browser.post(f"{job.client.url}/api/token/obtain/", json={"username": "ada", "password": PASSWORD})

        def page(path: str, *names: str) -> None:
            reply = browser.get(job.client.url + path, headers={"Accept": "text/html"}, timeout=30)
            assert (reply.status_code, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
            assert [name for name in names if name not in reply.text] == []

        page("/", job.project_name)
        tables = [item["name"] for item in job.datasets]
        page(f"/projects/{job.project['uuid']}", job.project_name, job.run_name, "SGDClassifier", *tables)
        page(f"/datasets/{clean['uuid']}", *tables, "drop_empty", "scale", "def scale(df): ...", job.run_name)
        page(f"/datasets/{raw['uuid']}", raw["name"], clean["name"], "continuous_features")
        page(f"/runs/{job.training_run['uuid']}", job.run_name, train["name"], "SGDClassifier", "alpha", "0.1")


def test_datasets_come_back_byte_for_byte(make: Make, portal: PortalServer) -> None:
    job = Job(make(OlderClient), "Bytes")
    job.run()
    for item, content in zip(job.datasets, job.content.values(), strict=True):
        assert 300_000 < len(content) < 900_000
        assert portal.owner().get(f"/collection/datasets/{item['uuid']}/content").content == content


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_each_kind_of_duplicate_is_a_400_in_the_agreed_words(client: Client) -> None:
    dataset = client.make_dataset("one", b"a\n1\n", "h1", {})
    model = client.make_model("SGD", "sklearn")
    run = client.training_run("r", model, [dataset], {})
    client.make_state(run, 0, b"w")
    project = client.find(PROJECTS)[-1]
    makes = client.makes
    with pytest.raises(Duplicate, match="fields project, hash must make a unique set") as caught:
        client.make_dataset("another name", b"a\n1\n", "h1", {})
    assert "already exists" in str(caught.value)
    attempts = [
        lambda: client.make_dataset("one", b"a\n2\n", "h2", {}),
        lambda: client.make_project(project["name"]),
        lambda: client.make_model("SGD", "sklearn"),
        lambda: client.make_state(run, 0, b"other weights"),
    ]
    for attempt in attempts:
        with pytest.raises(Duplicate, match="already exists"):
            attempt()
    assert client.makes == makes


def test_a_uuid_of_the_newer_client_is_taken_once_for_every_kind(make: Make) -> None:
    client = make(NewerClient)
    client.login()
    client.organization("Acme")
    client.project("Uuids")
    dataset = client.make_dataset("one", b"a\n1\n", "h1", {})
    model = client.make_model("SGD", "sklearn")
    run = client.training_run("r", model, [dataset], {})
    step = client.transformation("f", "def f(): ...", "", dataset, 0)
    state = client.make_state(run, 0, b"w")
    form = {"project": client.project_uuid, "uuid": dataset["uuid"], "name": "two", "hash": "h2", "metadata": "{}"}
    of_state = {"project": client.project_uuid, "uuid": state["uuid"], "training_run": run["uuid"], "sequence_num": "1"}
    bodies: list[tuple[str, dict[str, Any]]] = [
        (
            PROJECTS,
            {"json": {"name": "another", "organization": client.organization_uuid, "uuid": client.project_uuid}},
        ),
        (DATASETS, {"data": form, "files": {"dataset": ("d.csv", b"a\n2\n")}}),
        (MODELS, {"json": {**client.in_project(), "name": "other", "framework": "f", "uuid": model["uuid"]}}),
        (RUNS, {"json": {**client.in_project(), "name": "other", "model": model["uuid"], "uuid": run["uuid"]}}),
        (STEPS, {"json": {"name": "g", "dataset": dataset["uuid"], "uuid": step["uuid"]}}),
        (STATES, {"data": of_state, "files": {"state": ("s", b"w")}}),
    ]
    for path, body in bodies:
        with pytest.raises(Duplicate, match="already exists"):
            client.make(path, **body)


def test_fields_are_taken_up_to_their_limits_and_refused_beyond_with_a_detail(client: Client) -> None:
    def hold(limit: int, make: Callable[[str], Object]) -> None:
        marked = f"{client.generation}-{len(taken)}-"
        taken.append(make((marked + "ä" * limit)[:limit]))
        with pytest.raises(Refused) as caught:
            make(marked + "ä" * (limit + 1 - len(marked)))
        assert not isinstance(caught.value, Duplicate)
        reply = caught.value.reply
        assert reply.headers["Content-Type"] == "application/json"
        assert isinstance(reply.json()["detail"], str)
        assert str(limit) in reply.json()["detail"]

    taken: list[Object] = []
    hold(250, lambda text: client.make_project(text))
    hold(5000, lambda text: client.make_project(f"described {client.generation} {len(text)}", text))
    hold(256, lambda text: client.make_dataset(text, b"a\n1\n", f"hash of {len(text)}", {}))
    hold(200, lambda text: client.make_dataset(f"named {len(text)}", b"a\n1\n", text, {}))
    hold(100, lambda text: client.make_model(text, "f"))
    hold(100, lambda text: client.make_model("m", text))
    assert client.find(DATASETS, name=taken[2]["name"]) == [taken[2]]
    assert client.find(DATASETS, hash=taken[3]["hash"]) == [taken[3]]
    assert client.find(PROJECTS, name=taken[0]["name"]) == [taken[0]]


def test_addresses_have_a_slash_at_the_end_where_the_interface_says_so_and_nowhere_else(client: Client) -> None:
    for path in (PROJECTS, DATASETS, MODELS, RUNS, STATES, STEPS):
        assert client.send("GET", path).status_code == 200
        assert client.send("GET", f"{path}/").status_code == 404
        assert client.send("POST", f"{path}/", json={"name": "x"}).status_code in (404, 405)
    for path in ("/api/token/obtain", "/api/token/refresh", "/api/token/verify"):
        assert client.send("POST", path, json={}).status_code == 404
    assert client.send("GET", "/organization").status_code == 404


def test_another_organizations_objects_are_not_there(client: Client, portal: PortalServer) -> None:
    dataset = client.make_dataset("ours", b"a\n1\n", "h", {})
    stranger = type(client)(portal.url, "bob", PASSWORD)
    try:
        stranger.login()
        stranger.organization("Other")
        assert stranger.find(PROJECTS) == []
        assert stranger.find(DATASETS, hash="h") == []
        assert stranger.get(DATASETS, dataset["uuid"]) is None
        assert stranger.get(PROJECTS, client.project_uuid) is None
        assert [item["name"] for item in stranger.find("/organization/")] == ["Other"]
        with pytest.raises(base_clients.NotAsAgreed):
            stranger.organization("Acme")
    finally:
        stranger.close()


def test_a_login_with_a_wrong_password_sets_no_cookie(portal: PortalServer) -> None:
    for kind in GENERATIONS:
        client = kind(portal.url, "ada", "wrong")
        with pytest.raises(base_clients.NotAsAgreed, match="login: 401"):
            client.login()
        assert not client.verify()
        client.close()


def test_the_table_of_routes_names_each_once() -> None:
    for only in ONLY.values():
        assert len({*BOTH, *only}) == len([*BOTH, *only])
    source = Path(base_clients.__file__).read_text()
    assert "import seclea" not in source and "from seclea" not in source
