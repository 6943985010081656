"""A portal whose database was put back to an earlier copy: what it lost is sent again, or held."""

import shutil
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from tests.pipeline import PipelineHome, Script, edited, kill, until

JOB = """
    import numpy, pandas, sys
    from seclea import SecleaAI
    seclea = SecleaAI("Claims")
    run = seclea.start_training_run("first")
    step = 0
    for line in sys.stdin:
        word = line.strip()
        if word in ("log", "log in vain"):
            for step in range(step, step + 10):
                run.log({"loss": float(step)}, step=step)
            step += 1
        elif word == "dataset":
            seclea.upload_dataset(pandas.DataFrame({"a": [1.0, 2.0]}), "table", metadata={})
        elif word == "other":
            other = seclea.start_training_run("second")
            other.log({"loss": 0.5}, step=0)
            other.finish()
        done = seclea.complete(timeout=3 if word == "log in vain" else 60)
        print(done.done, done.pending, *done.reasons, flush=True)
    """


class Copies:
    """The embedded portal's database, copied and put back."""

    def __init__(self, home: PipelineHome) -> None:
        self.home = home
        self.path = home.home.portal / "portal.db"
        self.copy = home.root / "copy.db"

    def take(self) -> None:
        with closing(sqlite3.connect(self.path)) as source, closing(sqlite3.connect(self.copy)) as target:
            source.backup(target)

    def put_back(self) -> None:
        kill(*self.home.pids_of("seclea.portal"))
        for name in ("portal.db-wal", "portal.db-shm"):
            self.path.with_name(name).unlink(missing_ok=True)
        shutil.copy(self.copy, self.path)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as portal:
            return portal.execute(sql).fetchall()

    def points(self) -> int:
        return int(self.rows("SELECT coalesce(sum(count), 0) FROM metric_batches")[0][0])


@pytest.fixture
def copies(home: PipelineHome) -> Copies:
    return Copies(home)


def started(home: PipelineHome) -> Script:
    return home.script(JOB, SECLEA_PLATFORM_URL="local")


def say(script: Script, *words: str) -> list[str]:
    heard = []
    for word in words:
        script.tell(word)
        heard.append(script.hear())
    return heard


def heads(home: PipelineHome) -> set[tuple[str, str, int, str]]:
    rows = home.rows("SELECT s.uuid, l.lane, l.sequence, l.chain FROM lanes l JOIN streams s ON s.id = l.stream")
    return {(uuid.hex(), lane, sequence, chain.hex()) for uuid, lane, sequence, chain in rows if sequence}


def portal_heads(copies: Copies) -> set[tuple[str, str, int, str]]:
    rows = copies.rows("SELECT stream, lane, sequence, chain FROM streams")
    return {(stream.replace("-", ""), lane, sequence, chain.hex()) for stream, lane, sequence, chain in rows}


def test_what_a_portal_lost_is_sent_again_also_of_streams_that_had_ended(home: PipelineHome, copies: Copies) -> None:
    script = started(home)
    assert say(script, "log") == ["True 0"]
    copies.take()
    assert say(script, "log", "other", "log") == ["True 0"] * 3
    assert copies.points() == 31
    copies.put_back()
    assert copies.points() == 10
    assert say(script, "log") == ["True 0"]
    until(lambda: portal_heads(copies) == heads(home), "the portal to have all streams again")
    assert copies.points() == 41
    assert sorted(copies.rows("SELECT name, status FROM training_runs")) == [
        ("first", "running"),
        ("second", "finished"),
    ]
    assert home.rows("SELECT count(*) FROM records WHERE kind = 'tombstone'") == [(0,)]
    script.kill()


def test_parents_that_a_portal_lost_go_before_what_names_them(home: PipelineHome, copies: Copies) -> None:
    home.run("import seclea", "seclea.SecleaAI('Before').complete(60)", SECLEA_PLATFORM_URL="local")
    copies.take()
    script = started(home)
    assert say(script, "log", "other") == ["True 0"] * 2
    copies.put_back()
    assert copies.rows("SELECT name FROM projects") == [("Before",)]
    assert say(script, "other") == ["True 0"]
    until(lambda: portal_heads(copies) == heads(home), "the portal to have all streams again")
    assert copies.rows("SELECT name FROM projects ORDER BY name") == [("Before",), ("Claims",)]
    assert copies.points() == 12
    script.kill()


def test_a_payload_that_went_with_its_receipt_is_held_and_the_rest_goes_on(home: PipelineHome, copies: Copies) -> None:
    script = started(home)
    assert say(script, "log") == ["True 0"]
    copies.take()
    assert say(script, "dataset", "log") == ["True 0"] * 2
    copies.put_back()
    (heard,) = say(script, "log")
    assert heard.startswith("False 0") and "dataset table: the portal has lost it" in heard
    assert copies.points() == 30
    assert "sent again: 1." in home.command("retry").stdout
    until(lambda: portal_heads(copies) == heads(home), "a tombstone to stand in its place")
    assert copies.rows("SELECT kind, reason FROM tombstones") == [("dataset", "damaged")]
    script.kill()


def test_what_is_not_kept_any_more_is_held_and_goes_on_behind_a_tombstone_when_a_person_says_so(
    home: PipelineHome, copies: Copies
) -> None:
    script = started(home)
    assert say(script, "log") == ["True 0"]
    copies.take()
    assert say(script, "log") == ["True 0"]
    home.command("stop")
    with edited(home.home.ledger) as ledger:  # as if so much had been logged since
        ledger.execute("UPDATE records SET body = NULL WHERE kind = 'metrics'")
    copies.put_back()
    assert say(script, "log in vain")[0].startswith("False")
    until(lambda: home.rows("SELECT 1 FROM records WHERE hold LIKE 'the portal has lost it%'"), "the loss to be found")
    listed = home.command("status").stdout
    assert "the portal has lost it" in listed and "seclea retry" in listed
    retried = home.command("retry")
    assert "sent again: 1." in retried.stdout, retried.stdout + retried.stderr
    assert say(script, "log")[0].startswith("False 0"), "the loss stays to be seen"
    assert copies.points() == 30
    assert copies.rows("SELECT kind, reason FROM tombstones") == [("metrics", "damaged")]
    assert portal_heads(copies) == heads(home)
    script.kill()


def test_a_portal_that_has_more_than_the_ledger_knows_is_believed_by_its_chain(
    home: PipelineHome, copies: Copies
) -> None:
    """The other way round: keys forgotten at the portal, while the ledger has not heard of the receipts."""
    script = started(home)
    assert say(script, "log") == ["True 0"]
    home.command("stop")
    with closing(sqlite3.connect(copies.path)) as portal, portal:
        portal.execute("DELETE FROM requests")
    with edited(home.home.ledger) as ledger:
        ledger.execute("UPDATE records SET status = 'Transmitting', receipt = NULL, settled_ns = NULL")
        ledger.execute("UPDATE entities SET remote_id = NULL")
    assert say(script, "log") == ["True 0"]
    assert copies.points() == 20
    assert portal_heads(copies) == heads(home)
    script.kill()
