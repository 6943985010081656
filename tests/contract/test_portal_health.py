"""The health of a run on its page: what its client left out and why, holes in its streams, when it last came."""

from __future__ import annotations

import re
import sqlite3
import uuid
from pathlib import Path

from tests.contract.portal_server import PortalServer, Session, Stream, running_portal


def page_of(owner: Session, run: str) -> str:
    reply = owner.get(f"/runs/{run}", headers={"Accept": "text/html"})
    assert reply.status_code == 200
    (section,) = re.findall(r'<section id="health">.*?</section>', reply.text, re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", section).split())


def test_the_page_of_a_run_says_what_is_missing_and_why(tmp_path: Path) -> None:
    with running_portal(tmp_path / "data") as portal:
        run, stream = _made(portal)
        assert re.fullmatch(
            r"Health Nothing is missing: 1 stream, the last record came .* UTC \."
            r" What is logged and not sent yet is known to seclea status on its machine\.",
            page_of(portal.owner(), run),
        )
        for count, reason, detail in (
            (12, "dropped", "paused"), (30, "dropped", "paused"), (1, "dropped", "its process ended"),
            (1, "damaged", "<b>the words of an error</b>"),
        ):  # fmt: skip
            stone = {"kind": "metrics", "count": count, "reason": reason, "detail": detail}
            assert stream.send("ordered", "tombstone", "/collection/tombstones", stone).status_code == 201
        more = [{"stream": str(uuid.uuid4()), "lane": "ordered", "sequence": 9}]
        body = {"status": "finished", "finished_ns": 1_700_000_060_000_000_000, "streams": more}
        assert stream.send("ordered", "finish", f"/collection/training-runs/{run}/finish", body).status_code == 201
        text = page_of(portal.owner(), run)
        assert re.search(
            r"^Health 9 records still to come: they were logged before the run ended\..*"
            r" Left out What Why Last 42 metrics logging was paused: a limit of the client was reached .* UTC"
            r" 1 metrics its process ended before they were taken over .* UTC"
            r" 1 metrics damaged on the client&#39;s machine .* UTC 1 stream, the last record came",
            text,
        ), text
        assert "Nothing is missing" not in text and "not sent yet" not in text
        portal.stop()
        with sqlite3.connect(portal.data / "portal.db") as database:  # somebody takes the batch of three calls away
            assert database.execute("DELETE FROM records WHERE kind = 'metrics'").rowcount == 1
        database.close()
        portal.start()
        assert "3 records missing: places in its streams that hold nothing" in page_of(portal.owner(), run)


def _made(portal: PortalServer) -> tuple[str, Stream]:
    owner = portal.owner()
    organization = owner.get("/organization/").json()[0]["uuid"]
    session, stream = (Stream(owner, organization) for _ in range(2))
    project, run = str(uuid.uuid4()), str(uuid.uuid4())
    named = {"uuid": project, "name": "Claims", "description": ""}
    assert session.send("ordered", "project", "/collection/projects", named).status_code == 201
    started: dict[str, object] = {"uuid": run, "project": project, "name": "Training Run 1", "model": None}
    started |= {"datasets": [], "params": {}, "metadata": {}, "started_ns": 1_700_000_000_000_000_000}
    assert stream.send("ordered", "training_run", "/collection/training-runs", started).status_code == 201
    assert stream.send_metrics(run, [{"loss": 1.0}, {"loss": 0.5}, {"loss": 0.25}]).status_code == 201
    return run, stream
