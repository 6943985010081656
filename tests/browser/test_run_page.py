"""The portal's pages in a real browser: curves are drawn, states are listed, and nothing is asked of anybody else."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
from playwright.sync_api import expect, sync_playwright

from tests.contract.portal_server import PortalServer, Session, Stream, running_portal, upload

expect.set_options(timeout=20_000)
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not Path(CHROMIUM).exists() and not os.environ.get("CI"),
        reason=f"there is no {CHROMIUM}: apt-get install chromium",
    ),
]


class Job:
    """What a script would have logged: a project, a run with two metrics, two states."""

    def __init__(self, portal: PortalServer) -> None:
        self.owner: Session = portal.owner()
        self.organization = self.owner.get("/organization/").json()[0]["uuid"]
        self.stream = Stream(self.owner, self.organization)
        self.project, self.model, self.dataset, self.run = (str(uuid.uuid4()) for _ in range(4))
        named = {
            "name": f'Claims <b>"fraud"</b> {self.project}',
            "description": "</script><script>document.title = 'run'</script>",
        }
        self.send("ordered", "project", "projects", {"uuid": self.project, **named})
        in_project = {"project": self.project}
        self.send(
            "ordered", "model", "models", {"uuid": self.model, "name": "MLP", "framework": "sklearn", **in_project}
        )
        table = {"uuid": self.dataset, "name": "claims", "hash": "h", "metadata": {"num_samples": 2}, "format": "csv"}
        self.send(
            "bulk", "dataset", "datasets", {**table, **in_project, **upload(self.owner, self.organization, b"a,b\n")}
        )
        run: dict[str, Any] = {
            "uuid": self.run,
            "name": "Training Run 1",
            "model": self.model,
            "datasets": [self.dataset],
        }
        run |= {
            "params": {"learning_rate": 0.01, "seed": {"__float__": "NaN"}},
            "started_ns": 1_700_000_000_000_000_000,
        }
        self.send("ordered", "training_run", "training-runs", {**run, **in_project})
        self.log(0, 100)
        for number in range(2):
            self.save(number)

    def send(self, lane: str, kind: str, path: str, body: dict[str, Any]) -> None:
        reply = self.stream.send(lane, kind, f"/collection/{path}", body)
        assert reply.status_code == 201, reply.text

    def log(self, start: int, end: int) -> None:
        calls = [{"loss": 1 / (step + 1), "accuracy": step / 100} for step in range(start, end)]
        assert self.stream.send_metrics(self.run, calls, step=start).status_code == 201

    def save(self, number: int) -> None:
        state = {"uuid": str(uuid.uuid4()), "training_run": self.run, "sequence_num": number, "step": number * 50}
        state |= {"format": "safetensors", "created_ns": 1_700_000_000_000_000_000}
        payload = upload(self.owner, self.organization, b"w" * 2048 * (number + 1))
        self.send("bulk", "model_state", "model-states", {**state, "final_state": False, **payload})

    def finish(self) -> None:
        body = {"status": "finished", "finished_ns": 1_700_000_060_000_000_000, "streams": []}
        self.send("ordered", "finish", f"training-runs/{self.run}/finish", body)


class Watched:
    """A page whose console, requests and errors are kept."""

    def __init__(self, context: Any, portal: PortalServer) -> None:
        self.page = context.new_page()
        self.problems: list[str] = []
        self.page.set_default_timeout(15_000)
        self.page.on("console", lambda message: self._note(message.type in ("error", "warning"), message.text))
        self.page.on("pageerror", lambda error: self._note(True, str(error)))
        self.page.on("request", lambda request: self._note(not request.url.startswith(portal.url), request.url))
        self.page.on("response", lambda reply: self._note(reply.status >= 400, f"{reply.status} {reply.url}"))

    def _note(self, wrong: bool, what: str) -> None:
        if wrong:
            self.problems.append(what)


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalServer]:
    with running_portal(tmp_path_factory.mktemp("portal") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["desk, light", "phone, dark"])
def watched(request: pytest.FixtureRequest, chromium: Any, portal: PortalServer) -> Iterator[Watched]:
    width, scheme = request.param
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened = Watched(context, portal)
    opened.page.goto(portal.owner().post("/internal/link").json()["url"])
    yield opened
    context.close()


@pytest.fixture(scope="module")
def job(portal: PortalServer) -> Job:
    return Job(portal)


DRAWN = """() => [...document.querySelectorAll('.curve canvas')].map((canvas) => {
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let painted = 0;
  for (let index = 3; index < data.length; index += 4) painted += data[index] > 0;
  return painted;
})"""


def test_the_run_page_draws_every_curve_and_lists_every_state(watched: Watched, job: Job, portal: PortalServer) -> None:
    page = watched.page
    page.goto(f"{portal.url}/runs/{job.run}")
    expect(page.locator(".curve canvas")).to_have_count(2)
    assert page.locator(".curve .key").all_text_contents() == ["accuracy", "loss"]
    assert all(painted > 500 for painted in page.evaluate(DRAWN))
    assert "0.01 at step 99" in page.locator(".curve .last").all_text_contents()[1]
    states = job.owner.get(f"/collection/model-states?training_run={job.run}").json()
    rows = page.locator("#states tbody tr")
    assert rows.count() == len(states) == 2
    for row, state in zip(rows.all(), reversed(states), strict=True):
        said = row.text_content()
        assert state["sha256"][:16] in said and f"{state['size'] // 1024}.0 KiB" in said
    with page.expect_download() as download:
        rows.first.get_by_text("Download").click()
    assert Path(download.value.path()).read_bytes() == b"w" * 4096
    assert page.locator("dl.facts").first.locator("dd").all_text_contents() == ["0.01", "NaN"]
    assert not watched.problems


def test_no_page_is_wider_than_the_screen_or_runs_what_was_logged(
    watched: Watched, job: Job, portal: PortalServer
) -> None:
    for path in ("/", f"/projects/{job.project}", f"/runs/{job.run}", f"/datasets/{job.dataset}"):
        watched.page.goto(portal.url + path)
        assert watched.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert watched.page.title() != "run"
    watched.page.goto(f"{portal.url}/projects/{job.project}")
    assert 'Claims <b>"fraud"</b>' in watched.page.locator("h1").text_content()
    assert not watched.problems


def test_a_running_run_is_followed_until_it_ends(chromium: Any, portal: PortalServer) -> None:
    job = Job(portal)
    context = chromium.new_context()
    watched = Watched(context, portal)
    page = watched.page
    page.goto(portal.owner().post("/internal/link").json()["url"])
    page.goto(f"{portal.url}/runs/{job.run}")
    expect(page.locator(".curve canvas")).to_have_count(2)
    assert page.locator("#status").text_content().strip() == "running"
    job.log(100, 150)
    job.save(2)
    expect(page.locator("#states tbody tr")).to_have_count(3)
    expect(page.locator(".curve .last").first).to_have_text("1.49 at step 149")
    job.finish()
    expect(page.locator("#status")).to_have_text("finished")
    assert not watched.problems
    context.close()


def test_a_hole_in_a_curve_is_written_below_it(chromium: Any, portal: PortalServer) -> None:
    import sqlite3

    job = Job.__new__(Job)
    job.owner = portal.owner()
    job.organization = job.owner.get("/organization/").json()[0]["uuid"]
    job.stream = Stream(job.owner, job.organization)
    project, job.run = str(uuid.uuid4()), str(uuid.uuid4())
    job.send("ordered", "project", "projects", {"uuid": project, "name": "holes"})
    job.send(
        "ordered", "training_run", "training-runs", {"uuid": job.run, "project": project, "name": "r", "started_ns": 1}
    )
    job.log(0, 10)
    job.log(10, 20)
    database = sqlite3.connect(portal.data / "portal.db", timeout=10, isolation_level=None)
    database.execute("DELETE FROM metric_batches WHERE stream = ? AND first > 3", (job.stream.id,))
    database.close()
    context = chromium.new_context()
    watched = Watched(context, portal)
    watched.page.goto(portal.owner().post("/internal/link").json()["url"])
    watched.page.goto(f"{portal.url}/runs/{job.run}")
    note = watched.page.locator(".curve .note").first
    note.wait_for(state="visible")
    assert re.search(r"Missing \(missing\): log calls 13 to 22 of stream", note.text_content())
    context.close()


def test_a_stranger_sees_the_login_form_and_gets_in_with_a_password(chromium: Any, portal: PortalServer) -> None:
    portal.add_member("ada", "Acme")
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{portal.url}/")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("do not go together")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("correct horse")
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("h1")).to_have_text("Projects")
    expect(page.locator("main")).to_contain_text("Nothing has arrived yet")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Password")).to_be_visible()
    context.close()
