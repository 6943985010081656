"""What the home may still take: promises for files, room for frames, pauses written down, space given back."""

import json
import time
import uuid
from pathlib import Path

import pytest

from seclea.entities import TrainingRun
from seclea.ledger.view import OPEN_PAUSE, PAUSES, THINNED
from seclea.settings import Limits
from seclea.writer import tidy as tidy_module
from seclea.writer.account import TOO_LARGE, Account
from seclea.writer.limits import fits, frames_that_fit, margin, room_to_resume
from seclea.writer.pauses import Pauses
from seclea.writer.tidy import Tidy
from tests.unit.writer.client import Client, Desk

MB = 1_000_000
RING = "ab" * 16


@pytest.fixture
def account(desk: Desk) -> Account:
    made = Account(desk.home, desk.ledger)
    made.limits = Limits(disk=16 * MB, min_free_disk=0)
    return made


def making(desk: Desk, size: int = 0) -> tuple[Path, str]:
    """A file that a client has begun, and the name it will have."""
    directory = desk.home.making / RING
    directory.mkdir(exist_ok=True)
    path = directory / f"{uuid.uuid4().hex}.pickle"
    path.write_bytes(bytes(size))
    return path, RING + path.stem


def test_a_promise_counts_until_the_file_is_handed_over_or_gone(desk: Desk, account: Account) -> None:
    (first, name), (second, other) = making(desk), making(desk)
    assert account.reserve(name, 5 * MB, 5 * MB) == 5 * MB
    assert account.reserved == 5 * MB
    assert account.reserve(other, 4 * MB, 4 * MB) == 4 * MB
    first.write_bytes(bytes(MB))
    first.rename(desk.home.incoming / name)
    account.measure()
    assert account.reserved == 4 * MB, "what is handed over has its size"
    second.unlink()
    account.measure()
    assert account.reserved == 0, "nobody had to give it back"


def test_room_is_kept_for_the_chunks_of_the_largest_and_one_alone_may_have_all(desk: Desk, account: Account) -> None:
    (_, name), (_, other) = making(desk), making(desk)
    assert account.reserve(name, 9 * MB, 9 * MB) == 9 * MB, "alone"
    assert account.reserve(other, 1 * MB, 1 * MB) == 0
    assert account.refused == 1
    assert account.reserve(name, 17 * MB, 17 * MB) == TOO_LARGE
    assert account.reserve(name, 2 * MB, 2 * MB) == 2 * MB, "what was promised can become less"
    assert account.reserve(other, 1 * MB, 1 * MB) == 1 * MB


def test_of_a_guess_half_of_the_limit_is_promised_and_what_is_certain_where_that_fits_not(
    desk: Desk, account: Account
) -> None:
    (_, name), (_, other) = making(desk), making(desk)
    assert account.reserve(name, 500 * MB, 1) == 8 * MB
    assert account.reserve(name, 3 * MB, 3 * MB) == 3 * MB
    assert account.reserve(other, 500 * MB, 2 * MB) == 2 * MB


@pytest.mark.parametrize(
    ("size", "room", "others", "expected"),
    [(5, 10, [], True), (5, 9, [], True), (5, 4, [], False), (5, 9, [1], False), (5, 10, [1], True), (1, 9, [8], True)],
)
def test_a_payload_fits_with_its_chunks_or_alone(size: int, room: int, others: list[int], expected: bool) -> None:
    assert fits(size, room, others) is expected


@pytest.mark.parametrize("disk", [16 * MB, 100 * MB, 10**10])
def test_frames_are_taken_only_as_far_as_their_rows_fit(disk: int) -> None:
    limits = Limits(disk=disk)
    assert frames_that_fit(margin(limits), limits) == 0
    assert frames_that_fit(disk, limits) * 4 < disk
    assert frames_that_fit(room_to_resume(limits), limits) > 0, "what resumes does not pause again at once"
    assert room_to_resume(limits) < disk * 0.2, "with the share that is the default it is no further limit"


def test_the_length_and_reason_of_each_pause_are_written_down(desk: Desk) -> None:
    pauses = Pauses(desk.ledger)
    pauses.begin("disk: 15 MB of 16 MB are in use")
    first = pauses.mark
    pauses.begin("disk: 16 MB of 16 MB are in use")
    assert pauses.mark == first, "it is the same pause"
    assert json.loads(desk.ledger.meta(OPEN_PAUSE) or "")[1].startswith("disk: ")
    pauses.end(2.0)
    pauses.begin("memory: 70 MB of 64 MB are in use")
    assert pauses.mark not in (0, first)
    pauses.end(0.5)
    pauses.end()
    assert json.loads(desk.ledger.meta(PAUSES) or "") == {"disk": [1, 2.0], "memory": [1, 0.5]}
    rows = [tuple(row) for row in desk.ledger._all("SELECT kind, detail FROM events ORDER BY id")]
    assert [kind for kind, _ in rows] == ["paused", "resumed", "paused", "resumed"]
    assert rows[1] == ("resumed", "2.0 s: disk: 16 MB of 16 MB are in use")


def test_a_pause_whose_writer_was_killed_is_ended_by_the_next(desk: Desk) -> None:
    Pauses(desk.ledger).begin("disk: full")
    again = Pauses(desk.ledger)
    again.recover()
    assert again.reason is None
    assert json.loads(desk.ledger.meta(PAUSES) or "")["disk"][0] == 1
    assert not desk.ledger.meta(OPEN_PAUSE)


def test_a_pause_whose_writer_was_killed_is_as_long_as_it_was_though_the_clock_was_set(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: began - 10**18)
    Pauses(desk.ledger).begin("disk: full")
    monkeypatch.undo()
    Pauses(desk.ledger).recover()
    assert 0 <= json.loads(desk.ledger.meta(PAUSES) or "")["disk"][1] < 3600


def test_a_pause_that_an_older_version_left_open_is_ended(desk: Desk) -> None:
    with desk.ledger.transaction():
        desk.ledger.set_meta(OPEN_PAUSE, json.dumps([time.time_ns() - 5 * 10**9, "disk: full"]))
    Pauses(desk.ledger).recover()
    assert json.loads(desk.ledger.meta(PAUSES) or "")["disk"][1] >= 5.0


def test_what_the_disk_refuses_to_take_down_is_written_later(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = Pauses(desk.ledger)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(desk.ledger, "add_event", refuse)
        pauses.begin("the disk refuses: full")
        pauses.end(1.0)
    assert desk.ledger.meta(PAUSES) is None
    pauses.write()
    assert json.loads(desk.ledger.meta(PAUSES) or "") == {"the disk refuses": [1, 1.0]}


# -- space ---------------------------------------------------------------------------------------------------------


def logged(desk: Desk, batches: int, verdict: str, points: int = 2000) -> Client:
    """A run with so many batches of metrics, which came to ``verdict``; the run and its end are delivered."""
    client = Client()
    index, _ = client.run(name="one")
    for _ in range(batches):
        for step in range(points):
            client.log(index, step, loss=step * 1.1)
        begun = len(client.frames)
        desk.take(client)
        client.frames[:] = client.frames[:begun]
    client.finish(index)
    desk.take(client)
    for (record,) in desk.rows("id", "status = 'Transmitting'"):
        desk.settle(record, verdict)
    return client


def test_the_ledger_and_its_log_shrink_once_all_is_delivered(desk: Desk) -> None:
    desk.settler.keep_bytes = 1 << 18  # what a limit of 16 MB leaves for a portal that loses something
    logged(desk, 40, "delivered")
    before = desk.ledger.file_bytes()
    assert before > 2 * MB
    heads = [tuple(row) for row in desk.ledger._all("SELECT * FROM lanes")]
    entities = [tuple(row) for row in desk.ledger._all("SELECT * FROM entities")]
    totals = [tuple(row) for row in desk.ledger._all("SELECT * FROM totals")]
    Tidy(desk.ledger).step(time.monotonic(), before, 100 * MB, Limits(disk=16 * MB))
    assert desk.ledger.log_bytes() == 0
    assert desk.ledger.file_bytes() < before / 4
    assert desk.ledger.path.stat().st_size < before / 4
    assert [tuple(row) for row in desk.ledger._all("SELECT * FROM lanes")] == heads
    assert [tuple(row) for row in desk.ledger._all("SELECT * FROM entities")] == entities
    assert [tuple(row) for row in desk.ledger._all("SELECT * FROM totals")] == totals
    assert desk.rows("count(*)", "kind = 'metrics'") == [(40,)], "few rows stay, for people to look at"


def test_rows_go_by_amount_and_age_and_what_is_not_done_stays(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    logged(desk, 10, "delivered", points=3)
    client = Client()
    index, _ = client.run(name="open")
    client.log(index, 1, loss=1.0)
    desk.take(client)
    monkeypatch.setattr(tidy_module, "KEEP_ROWS", 4)
    Tidy(desk.ledger).step(time.monotonic(), 0, 100 * MB, Limits())
    assert desk.rows("count(*)", "kind = 'metrics'") == [(5,)], "four that are done, one that is not"
    monkeypatch.setattr(tidy_module, "KEEP_SECONDS", -10.0)
    Tidy(desk.ledger).step(time.monotonic(), 0, 100 * MB, Limits())
    assert desk.rows("status", "kind = 'metrics'") == [("Transmitting",)]
    assert len(desk.rows("id", "kind = 'training_run'")) == 2 and desk.rows("id", "kind = 'finish'")
    assert not desk.ledger._all("PRAGMA foreign_key_check")


def test_what_no_portal_has_a_place_for_goes_for_the_disk_limit_only_and_no_more_than_it_needs(desk: Desk) -> None:
    logged(desk, 40, "kept locally")
    used = desk.ledger.file_bytes()
    roomy, tight = Limits(disk=10 * used), Limits(disk=int(used * 1.3), resume_below=0.8)
    tidy = Tidy(desk.ledger)
    tidy.step(time.monotonic(), used, 100 * MB, roomy)
    assert desk.rows("count(*)", "kind = 'metrics'") == [(40,)]
    assert desk.ledger.meta(THINNED) is None
    used = desk.ledger.file_bytes()
    tight = Limits(disk=int(used * 1.3), resume_below=0.8)
    tidy.step(time.monotonic(), used, 100 * MB, tight)
    ((left,),) = desk.rows("count(*)", "kind = 'metrics'")
    assert 30 <= left < 40, "no more than it needs"
    assert json.loads(desk.ledger.meta(THINNED) or "") == [40 - left, (40 - left) * 2000]
    assert desk.ledger.file_bytes() < used
    assert desk.ledger.counts()["metrics"] == {"Completed (local only)": 40}, "the totals stay"


def test_a_run_whose_metrics_are_thinned_still_ends_with_its_heads(desk: Desk) -> None:
    client = logged(desk, 3, "delivered", points=5)
    with desk.ledger.transaction():
        assert desk.ledger.thin(100) == (3, 15)
    index = len(client.streams)
    run = TrainingRun(name="two")
    client.stream(run.uuid)
    client.entity(index, run)
    client.log(index, 1, loss=1.0)
    desk.take(client)
    assert desk.rows("status", "kind = 'metrics'") == [("Transmitting",)]
