"""R4: what a row names is on the disk before the row is, and goes only after it; from a trace of the real processes.

Long, and with bugs planted into the processes themselves: ``python -m tests.chaos.order --plants``. Here they are planted into
the trace, which costs nothing.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos import order, order_trace
from tests.chaos.order_judge import Judge
from tests.chaos.order_trace import Call

Moment = tuple[str, Call]
Lie = Callable[[list[Moment]], list[Moment]]

pytestmark = pytest.mark.xdist_group("order")


class Traced:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        trace = order.record(directory, 1)
        with trace.open(encoding="ascii") as lines:
            self.moments = list(order_trace.read(lines))
        trace.unlink()

    def judge(self, lie: Lie = lambda moments: moments) -> Judge:
        return Judge(str(self.directory), str(self.directory / "state" / "home")).judge(lie(self.moments))


@pytest.fixture(scope="module")
def traced() -> Iterator[Traced]:
    if (reason := order.why_not()) is not None:
        pytest.skip(reason)
    directory = Path(tempfile.mkdtemp(prefix="order-", dir="/tmp"))
    try:
        yield Traced(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        directory.with_name(f"{directory.name}.trace").unlink(missing_ok=True)


def test_everything_that_a_commit_names_was_synced_before_it(traced: Traced) -> None:
    judge = traced.judge()
    assert judge.wrong == []
    assert judge.seen["chunks deleted"] == judge.seen["incoming files deleted"] == 3
    assert judge.seen["heard: login"] == judge.seen["heard: durable"] == 2
    assert judge.seen["heard: ring"] > 1 and judge.seen["commits"] > 10


def without_sync(wanted: Callable[[str], bool]) -> Lie:
    return lambda moments: [
        (moment, call)
        for moment, call in moments
        if not (call.name in ("fsync", "fdatasync") and wanted(call.paths[0]))
    ]


def deleted_early(moments: list[Moment]) -> list[Moment]:
    """Chunks go just before the log is synced that lets go of them."""
    found = list(moments)
    for one in [one for one in moments if one[1].name.startswith("unlink") and "/chunks/" in one[1].paths[0]]:
        place = found.index(one)
        found.remove(one)
        while not (found[place][0] == "begin" and found[place][1].name == "fdatasync"):
            place -= 1
        found.insert(place, one)
    return found


def renamed_early(moments: list[Moment]) -> list[Moment]:
    """Chunks take their names when they are opened, and are written and synced under these."""
    names = {
        call.paths[0]: (moment, call)
        for moment, call in moments
        if moment == "begin" and call.name.startswith("rename")
    }
    found: list[Moment] = []
    for moment, call in moments:
        if call.paths and (rename := names.get(call.paths[0])) is not None and "/chunks/" in call.paths[0]:
            if call.name.startswith("rename"):
                continue
            if call.name in ("fsync", "fdatasync"):
                if moment == "begin":
                    found.append(rename)
                call = Call(call.number, call.pid, call.name, rename[1].paths[1:], call.returned)
        found.append((moment, call))
    return found


LIES: list[tuple[Lie, str]] = [
    (without_sync(lambda path: "/chunks/" in path and path.endswith(".new")), "rule 1.*bytes of .* are not synced"),
    (without_sync(lambda path: len(path.rpartition("/chunks/")[2]) == 2), r"rule 1.*chunks/../\w* is not synced"),
    (without_sync(lambda path: path.endswith("/chunks")), r"rule 1.*chunks/.. is not synced"),
    (
        without_sync(lambda path: path.endswith("/home")),
        "rule 1.*the name of state/home/ledger.sqlite is not synced",
    ),
    (without_sync(lambda path: path.endswith("/state")), "rule 1.*the name state/home is not synced"),
    (without_sync(lambda path: path.endswith("-wal")), "rule 3.*cursor moves"),
    (without_sync(lambda path: path.endswith("-wal")), "rule 5.*said to be durable"),
    (without_sync(lambda path: "/tokens/." in path), "rule 4.*tokens"),
    (without_sync(lambda path: path.endswith("/tokens")), "rule 5: a login"),
    (deleted_early, "rule 2: the chunk"),
    (renamed_early, "rule 4: .*chunks"),
]


def test_a_trace_that_breaks_a_rule_is_found_out(traced: Traced) -> None:
    # In one test: each worker that had one of them would make a trace of its own.
    for lie, rule in LIES:
        wrong = traced.judge(lie).wrong
        assert any(re.search(rule, what) for what in wrong), (rule, wrong)
