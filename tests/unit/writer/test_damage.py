"""A damaged ledger at a writer's start: named, moved aside whole, salvaged; what is not ours stays as it is."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from seclea.contract import Home
from seclea.errors import LedgerDamagedError, LedgerError, LedgerTooNewError
from seclea.ledger.anchor import anchor_of
from seclea.ledger.check import check
from seclea.ledger.db import Ledger
from seclea.queues.queue import Queue
from seclea.writer import damage
from seclea.writer.damage import Rescue, ledger_of, suspect
from seclea.writer.waiting import _queue
from tests.chaos.damage import campaign
from tests.unit.writer.client import Client, Desk


@pytest.fixture
def made(desk: Desk) -> Iterator[tuple[Desk, Client]]:
    """A home whose client has logged; its ledger is closed."""
    client = Client()
    client.stream()
    index, _ = client.run()
    for step in range(4):
        client.log(index, step, loss=float(step))
        desk.take(client)
    desk.ledger.close()
    yield desk, client


def rescued(desk: Desk) -> Rescue:
    """Start as a writer does; the rescue that there must be."""
    desk.ledger, rescue = ledger_of(desk.home)
    assert rescue is not None
    return rescue


def test_a_whole_ledger_is_opened_and_nothing_is_moved(made: tuple[Desk, Client]) -> None:
    desk, _ = made
    desk.ledger, rescue = ledger_of(desk.home)
    assert rescue is None and not desk.home.damaged.exists()


def test_a_body_that_was_altered_leaves_a_tombstone_in_its_place_and_the_rest_goes_on(
    made: tuple[Desk, Client],
) -> None:
    desk, _ = made
    before = desk.home.ledger.read_bytes()
    at = before.index(b"\xa4loss", before.index(b"\xa4loss") + 1)  # in a body
    desk.home.ledger.write_bytes(before[:at] + b"\xa4LOSS" + before[at + 5 :])
    rescue = rescued(desk)
    assert "1 bodies of records are not what was committed" in rescue.why
    assert rescue.found.words() == "nothing", "all rows are whole"
    (failed,) = desk.rows("id, kind, first, chain", "status = 'Failed'")
    (stone,) = desk.rows("stands_for, kind, first, chain", "stands_for IS NOT NULL")
    assert failed[1] == "metrics" and stone == (failed[0], "tombstone", *failed[2:])
    assert check(desk.home.ledger).wrong == [], "or each start would find it again"
    kept = rescue.place / "ledger.sqlite"
    assert kept.read_bytes()[at : at + 5] == b"\xa4LOSS", "the original lies aside as it was"
    time_ns, words, place = json.loads(desk.ledger.meta("damage") or "")
    assert time_ns and words == rescue.words() and place == str(rescue.place)
    assert [row["detail"] for row in desk.ledger._all("SELECT detail FROM events WHERE kind = 'salvaged'")] == [words]


def test_a_body_that_is_altered_in_one_image_of_its_page_comes_from_another(desk: Desk, tmp_path: Path) -> None:
    desk.ledger._connection.execute("PRAGMA wal_autocheckpoint = 0")
    client = Client()
    client.stream()
    index, _ = client.run()
    client.log(index, 0, loss=0.0)
    desk.take(client)
    desk.ledger.checkpoint()
    client.log(index, 1, loss=1.0)
    desk.take(client)  # in the log: the page with both rows, once more
    (first, body), _ = desk.rows("id, body", "kind = 'metrics'")
    home = Home(tmp_path / "killed")
    shutil.copytree(desk.home.path, home.path, ignore=shutil.ignore_patterns("*-shm", "*.lock"))
    log = Path(f"{home.ledger}-wal")
    data = log.read_bytes()
    assert data.count(body) == 1 and body in home.ledger.read_bytes()
    log.write_bytes(data.replace(body, body.replace(b"loss", b"LOSS")))
    desk.ledger.close()
    desk.ledger, rescue = ledger_of(home)
    assert rescue is not None and rescue.found.words() == "nothing"
    assert desk.rows("body, status", f"id = {first}") == [(body, "Transmitting")]


def test_a_ledger_that_was_put_back_goes_on_in_new_streams(made: tuple[Desk, Client]) -> None:
    """Its keys may have been used for what it no longer knows."""
    desk, client = made
    old = desk.home.ledger.read_bytes()
    desk.restart()
    client.log(1, 9, loss=9.0)
    desk.take(client)
    desk.ledger.close()
    desk.home.ledger.write_bytes(old)
    rescue = rescued(desk)
    assert "has lost its latest 1 commits" in rescue.why and rescue.found.lost_commits == 1
    streams = {row["ring_index"]: row["uuid"] for row in desk.ledger.streams_of_ring(client.ring)}
    assert {0, 1} <= streams.keys() and not {streams[0], streams[1]} & set(client.streams)
    keys = {row[0] for row in desk.rows("key", "stream IN (SELECT id FROM streams WHERE ring_index >= 0)")}
    assert keys == {f"{streams[0].hex()}.ordered.1", f"{streams[1].hex()}.ordered.1"}, "a tombstone begins each"


def test_a_ledger_that_is_gone_is_said_to_be(made: tuple[Desk, Client]) -> None:
    desk, _ = made
    desk.home.ledger.unlink()
    rescue = rescued(desk)
    assert "is gone, with its" in rescue.why and rescue.found.rows["records"] == 0
    assert (rescue.place / "ledger.anchor").exists() and anchor_of(desk.home.ledger).exists()


def test_another_program_s_file_and_a_newer_ledger_stay_as_they_are(made: tuple[Desk, Client]) -> None:
    desk, _ = made
    path = desk.home.ledger
    anchor_of(path).unlink()
    for sql, error in (("PRAGMA user_version = 999", LedgerTooNewError), ("PRAGMA application_id = 7", LedgerError)):
        editor = sqlite3.connect(path)
        editor.execute(sql)
        editor.close()
        before = path.read_bytes()
        with pytest.raises(error):
            ledger_of(desk.home)
        assert path.read_bytes() == before and not desk.home.damaged.exists()
    path.write_bytes(b"some notes of mine " * 500)
    with pytest.raises(LedgerDamagedError):
        ledger_of(desk.home)
    assert path.read_bytes() == b"some notes of mine " * 500
    path.unlink()
    desk.ledger = Ledger(path)


def test_a_version_that_a_flipped_bit_made_newer_is_damage(made: tuple[Desk, Client]) -> None:
    desk, _ = made
    editor = sqlite3.connect(desk.home.ledger)
    editor.execute("PRAGMA user_version = 1032")
    editor.close()
    assert "header was altered" in rescued(desk).why


@pytest.mark.parametrize("step", ["rename", "salvage", "mend"])
def test_a_rescue_that_is_cut_short_is_taken_up(
    made: tuple[Desk, Client], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, _ = made
    count = Ledger(desk.home.ledger).last_record()
    suspect(desk.home, "somebody saw something")

    class Killed(BaseException):
        pass

    def dies(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(damage.os if step == "rename" else damage, step, dies)
        with pytest.raises(Killed):
            ledger_of(desk.home)
    if step == "rename":  # the plan was not made yet: the suspicion still stands, and is a minute old
        shutil.rmtree(desk.home.damaged)
    rescue = rescued(desk)
    assert rescue.why == "somebody saw something" and rescue.found.words() == "nothing"
    assert desk.ledger.last_record() == count
    assert not list(desk.home.damaged.glob("*/unfinished.json"))
    assert not desk.home.suspicion.exists()


def test_what_cannot_be_mended_is_not_copied_again_and_again(made: tuple[Desk, Client]) -> None:
    desk, _ = made
    suspect(desk.home, "first")
    rescued(desk)
    desk.ledger.close()
    suspect(desk.home, "second")
    with pytest.raises(LedgerDamagedError, match=r"second.*a moment ago"):
        ledger_of(desk.home)
    assert len(list(desk.home.damaged.iterdir())) == 1
    desk.home.suspicion.unlink()
    desk.ledger, _ = ledger_of(desk.home)


def test_a_queue_that_is_damaged_is_made_anew(tmp_path: Path) -> None:
    directory = tmp_path / "send"
    first = Queue(directory=directory, allow_pickle=False)
    first.put({"op": "work"})
    first.close()
    for path in directory.rglob("*"):
        if path.is_file():
            path.write_bytes(b"\xff" * path.stat().st_size)
    queue = _queue(directory)
    queue.put({"op": "later"})
    assert queue.get(timeout=5) == {"op": "later"}
    queue.close()


def test_twenty_four_damaged_ledgers_are_named_salvaged_and_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m tests.chaos.damage`, in short: two of each kind of damage."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    figures, _ = campaign(tmp_path, 24, 5)
    assert figures.wrong == []
    assert (figures.ledgers, figures.named, figures.salvaged) == (24, figures.changed, figures.whole)
    assert figures.changed > 8 and figures.whole > 500 and figures.damaged_rows > 100
