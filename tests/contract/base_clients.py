"""Two clients as existing deployments have them, written from shared/PORTAL_API.md alone. Nothing of seclea is used.

Both ask before they make, take exactly 200 for a read and 201 for a create, know a duplicate by the words of its 400, and
answer a 401 by one refresh. What they asked for is kept in `Client.asked`, for the test that nothing was left out.
"""

from __future__ import annotations

import json
import re
import uuid as uuids
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import requests

Object = dict[str, Any]
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SCOPE = {"organization", "project"}
OBTAIN, REFRESH, VERIFY = "/api/token/obtain/", "/api/token/refresh/", "/api/token/verify/"
PROJECTS, DATASETS, MODELS = "/collection/projects", "/collection/datasets", "/collection/models"
RUNS, STATES, STEPS = "/collection/training-runs", "/collection/model-states", "/collection/dataset-transformations"


class NotAsAgreed(AssertionError):
    """A reply that such a client cannot use."""


class Refused(Exception):
    """A 400: what the portal does not take, in its words."""

    def __init__(self, reply: requests.Response) -> None:
        super().__init__(reply.text)
        self.reply = reply


class Duplicate(Refused):
    """A 400 that says that the object is there."""


@dataclass
class Client(ABC):
    """What both generations have in common."""

    url: str
    username: str
    password: str
    organization_uuid: str = ""
    project_uuid: str = ""
    refreshes: int = 0
    asked: set[tuple[str, str, frozenset[str]]] = field(default_factory=set)
    makes: int = 0  # creates that were answered with 201
    session: requests.Session = field(default_factory=requests.Session)

    generation: ClassVar[str]

    def __post_init__(self) -> None:
        self.session.trust_env = False

    def close(self) -> None:
        self.session.close()

    # -- the wire ----------------------------------------------------------------------------------------------------

    def headers(self) -> dict[str, str]:
        return {}

    def send(self, method: str, path: str, *, filters: Object | None = None, **body: Any) -> requests.Response:
        """One request, with the scope that has been reached."""
        query = dict(filters or {})
        if path.startswith("/collection/"):
            query |= {"organization": self.organization_uuid}
            query |= {"project": self.project_uuid} if self.project_uuid else {}
        self.asked.add((method, _UUID.sub("<uuid>", path), frozenset(query.keys() - _SCOPE)))
        return self.session.request(
            method, self.url + path, params=query, headers=self.headers(), timeout=30, allow_redirects=False, **body
        )

    def call(self, method: str, path: str, **rest: Any) -> requests.Response:
        reply = self.send(method, path, **rest)
        if reply.status_code == 401:
            self.refresh()
            reply = self.send(method, path, **rest)
        return reply

    def read(self, path: str, **filters: Any) -> Any:
        """Exactly 200, and JSON."""
        reply = self.call("GET", path, filters=filters)
        if reply.status_code != 200 or reply.headers["Content-Type"].split(";")[0] != "application/json":
            raise NotAsAgreed(f"GET {path}: {reply.status_code} {reply.text[:200]}")
        return reply.json()

    def find(self, path: str, **filters: Any) -> list[Object]:
        found = self.read(path, **filters)
        if not isinstance(found, list):
            raise NotAsAgreed(f"GET {path} is no list: {found!r:.200}")
        return found

    def get(self, path: str, uuid: str) -> Object | None:
        """One object; None for a 404."""
        reply = self.call("GET", f"{path}/{uuid}")
        if reply.status_code == 404:
            return None
        if reply.status_code != 200:
            raise NotAsAgreed(f"GET {path}: {reply.status_code} {reply.text[:200]}")
        return dict(reply.json())

    def make(self, path: str, **body: Any) -> Object:
        """Exactly 201; a 400 is a duplicate or a refusal."""
        reply = self.call("POST", path, **body)
        if reply.status_code == 400:
            raise (Duplicate if self.says_duplicate(path, reply.text) else Refused)(reply)
        if reply.status_code != 201:
            raise NotAsAgreed(f"POST {path}: {reply.status_code} {reply.text[:200]}")
        self.makes += 1
        return dict(reply.json())

    def says_duplicate(self, path: str, text: str) -> bool:
        return "already exists" in text or (path == DATASETS and "fields project, hash must make a unique set" in text)

    # -- the login ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def login(self) -> None: ...

    @abstractmethod
    def refresh_body(self) -> Object: ...

    def take_login(self, reply: requests.Response) -> None:
        if reply.status_code != 200 or not {"access_token", "refresh_token"} <= set(self.session.cookies.keys()):
            raise NotAsAgreed(f"login: {reply.status_code} {reply.text[:200]}")

    def refresh(self) -> None:
        before = self.session.cookies["access_token"]
        reply = self.send("POST", REFRESH, **self.refresh_body())
        if reply.status_code != 200 or self.session.cookies["access_token"] == before:
            raise NotAsAgreed(f"refresh: {reply.status_code} {reply.text[:200]}")
        self.refreshes += 1

    def verify(self) -> bool:
        """Whether the access token is good: 200, or 401."""
        reply = self.send("POST", VERIFY, json={})
        if reply.status_code not in (200, 401):
            raise NotAsAgreed(f"verify: {reply.status_code} {reply.text[:200]}")
        return reply.status_code == 200

    # -- objects -----------------------------------------------------------------------------------------------------

    def own_uuid(self) -> Object:
        """What a create says of its uuid."""
        return {}

    @abstractmethod
    def organization(self, name: str) -> str: ...

    def project(self, name: str, description: str = "") -> Object:
        found = self.find(PROJECTS, name=name)
        made = found[0] if found else self.make_project(name, description)
        self.project_uuid = made["uuid"]
        return made

    def make_project(self, name: str, description: str = "") -> Object:
        fields = {"name": name, "description": description, "organization": self.organization_uuid}
        return self.make(PROJECTS, json={**fields, **self.own_uuid()})

    def find_dataset(self, digest: str) -> Object | None:
        return next(iter(self.find(DATASETS, hash=digest)), None)

    def dataset(
        self, name: str, content: bytes, digest: str, metadata: Object, parent: Object | None = None
    ) -> tuple[Object, bool]:
        """The dataset, and whether it was made now."""
        found = self.find_dataset(digest)
        if found is not None:
            return found, False
        return self.make_dataset(name, content, digest, metadata, parent), True

    def make_dataset(
        self, name: str, content: bytes, digest: str, metadata: Object, parent: Object | None = None
    ) -> Object:
        form = {"project": self.project_uuid, "name": name, "hash": digest, **self.own_uuid()}
        if parent is not None:
            form |= self.parent_of(parent)
        files = {
            "metadata": (None, json.dumps(metadata), "application/json"),
            "dataset": (f"{digest}.csv", content, "text/csv"),
        }
        return self.make(DATASETS, data=form, files=files)

    @abstractmethod
    def parent_of(self, parent: Object) -> Object: ...

    def model(self, name: str, framework: str) -> Object:
        found = self.find(MODELS, name=name, framework=framework)
        return found[0] if found else self.make_model(name, framework)

    def make_model(self, name: str, framework: str) -> Object:
        return self.make(MODELS, json={**self.in_project(), "name": name, "framework": framework, **self.own_uuid()})

    def in_project(self) -> Object:
        return {"organization": self.organization_uuid, "project": self.project_uuid}

    def transformation(self, name: str, code: str, encoded: str, dataset: Object, order: int) -> Object:
        fields = {"name": name, "code_raw": code, "code_encoded": encoded, "dataset": dataset["uuid"]}
        return self.make(STEPS, json={**fields, **self.place(order), **self.own_uuid()})

    def place(self, order: int) -> Object:
        return {}

    def training_run(self, name: str, model: Object, datasets: list[Object], params: Object) -> Object:
        found = self.find(RUNS, name=name, model=model["uuid"])
        if found:
            return found[0]
        fields = {**self.in_project(), "name": name, "model": model["uuid"], "params": params}
        return self.make(RUNS, json={**fields, **self.of_run(datasets), **self.own_uuid()})

    @abstractmethod
    def of_run(self, datasets: list[Object]) -> Object: ...

    def model_state(self, run: Object, number: int, content: bytes, *, final: bool = False) -> Object:
        found = self.find(STATES, training_run=run["uuid"], sequence_num=number)
        return found[0] if found else self.make_state(run, number, content, final=final)

    def make_state(self, run: Object, number: int, content: bytes, *, final: bool = False) -> Object:
        form = {"project": self.project_uuid, "training_run": run["uuid"], "sequence_num": str(number)}
        form |= {**self.is_final(final), **self.own_uuid()}
        return self.make(STATES, data=form, files={"state": ("model", content, "application/octet-stream")})

    def is_final(self, final: bool) -> Object:
        return {}


class OlderClient(Client):
    """JSON login, its cookies also in a JSON header, no uuids of its own, parents and datasets by hash."""

    generation = "older"

    def headers(self) -> dict[str, str]:
        return {"HTTP_COOKIE": json.dumps(dict(self.session.cookies))}

    def login(self) -> None:
        self.take_login(self.send("POST", OBTAIN, json={"username": self.username, "password": self.password}))

    def refresh_body(self) -> Object:
        return {"json": {}}

    def organization(self, name: str) -> str:
        """All of the caller's, looked through."""
        found = [item["uuid"] for item in self.find("/organization/") if item["name"] == name]
        if len(found) != 1:
            raise NotAsAgreed(f"{len(found)} organizations are named {name!r}")
        self.organization_uuid = found[0]
        return self.organization_uuid

    def parent_of(self, parent: Object) -> Object:
        return {"parent_hash": parent["hash"]}

    def place(self, order: int) -> Object:
        return {"order": order}

    def of_run(self, datasets: list[Object]) -> Object:
        return {"datasets": [item["hash"] for item in datasets], "metadata": {"class": "SGDClassifier"}}

    def is_final(self, final: bool) -> Object:
        return {"final_state": str(final)}

    def steps_of_run(self, run: Object) -> list[Object]:
        """The transformations of all datasets of a run."""
        return self.find(STEPS, training_run=run["uuid"])

    def next_run_name(self, model: Object) -> str:
        """As it numbers runs: by those that the model has."""
        return f"Training Run {len(self.find(RUNS, model=model['uuid']))}"


class NewerClient(Client):
    """Form login, uuids of its own, parents and datasets by uuid."""

    generation = "newer"

    def login(self) -> None:
        self.take_login(self.send("POST", OBTAIN, data={"username": self.username, "password": self.password}))

    def refresh_body(self) -> Object:
        return {}  # an empty body

    def own_uuid(self) -> Object:
        self.last_uuid = str(uuids.uuid4())
        return {"uuid": self.last_uuid}

    def make(self, path: str, **body: Any) -> Object:
        made = super().make(path, **body)
        if made["uuid"] != self.last_uuid:
            raise NotAsAgreed(f"POST {path}: the portal made the uuid {made['uuid']} of {self.last_uuid}")
        return made

    def organization(self, name: str) -> str:
        found = self.find("/organization/", name=name)
        if [item["name"] for item in found] != [name]:
            raise NotAsAgreed(f"asked for the organization {name!r}: {found!r:.200}")
        self.organization_uuid = found[0]["uuid"]
        return self.organization_uuid

    def parent_of(self, parent: Object) -> Object:
        return {"parent": parent["uuid"]}

    def of_run(self, datasets: list[Object]) -> Object:
        return {"datasets": [item["uuid"] for item in datasets]}

    def steps_of(self, dataset: Object, name: str) -> list[Object]:
        """The transformations of that name that led to a dataset."""
        return self.find(STEPS, dataset=dataset["uuid"], name=name)
