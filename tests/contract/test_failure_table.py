"""Every way to fail × the first, middle and last record of a chain (R14, R15, S14): nothing lost, twice or out of order."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.failure_bench import ACCESS, KINDS, REFRESH, Bench, Judgement, judge, virtual_time
from tests.chaos.failure_rows import ROWS, End, Row
from tests.chaos.failure_table import PLACES, certificates, run_cell, undisturbed_order
from tests.contract.fault_proxy import Certificate

# What waits when a record is refused for good.
WAITS = {
    "project": set(KINDS) - {"project"},
    "training_run": {"metrics", "model_state", "finish"},
    "finish": set(),
}
PROBES_AN_HOUR = 60  # of a destination that is on hold: at most one a minute
CELLS = [(row, place) for row in ROWS for place in PLACES if place == "first" or not row.only_first]


@pytest.fixture(scope="module")
def tls() -> Iterator[dict[str, Certificate] | None]:
    with certificates() as found:
        yield found


@pytest.mark.parametrize(("row", "place"), CELLS, ids=[f"{row.name}, {place}" for row, place in CELLS])
def test_nothing_is_lost_or_twice_or_out_of_order_and_the_user_is_told(
    row: Row, place: str, tmp_path: Path, tls: dict[str, Certificate] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if row.tls and tls is None:
        pytest.skip("no openssl to make a certificate with")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    cell = run_cell(row, PLACES[place], tmp_path, tls if row.tls else None)
    assert cell.judgement == Judgement(lost=0, twice=0, disordered=0)
    assert cell.stolen == 0
    assert bool(cell.told) is not row.quiet
    assert not any(secret in words for words in cell.told for secret in (ACCESS, REFRESH, "renewed", "granted"))
    if row.end is End.REFUSED:
        assert cell.failed == (PLACES[place],)
        assert set(cell.held) == WAITS[PLACES[place]]
        return
    assert (cell.failed, cell.held) == ((), ())
    more = cell.requests - (cell.held_requests or 0)
    assert more <= row.each * row.times
    if row.end is End.HELD:
        assert cell.held_requests is not None
        assert cell.held_requests <= PROBES_AN_HOUR


@pytest.fixture
def delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with virtual_time() as clock:
        bench = Bench(tmp_path, clock)
        bench.run_until(bench.is_at_rest)
        yield bench
        bench.close()


def test_the_judge_finds_nothing_where_nothing_is_wrong(delivered: Bench) -> None:
    assert judge(delivered) == Judgement(0, 0, 0)
    assert sorted(undisturbed_order()) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_judge_sees_what_is_lost_twice_or_out_of_order(delivered: Bench, kind: str) -> None:
    (index,) = (number for number, one in enumerate(delivered.portal.taken) if one.kind == kind)
    one = delivered.portal.taken.pop(index)
    assert judge(delivered).lost == 1
    delivered.portal.taken.insert(index, one)
    again = replace(one, key="another", stream="of another home")
    delivered.portal.taken.append(again)
    assert judge(delivered).twice >= (kind not in ("metrics", "finish"))
    delivered.portal.taken[-1] = one
    assert judge(delivered).twice >= 1
    delivered.portal.taken.pop()
    if kind not in ("finish", "model_state"):
        delivered.portal.taken.append(delivered.portal.taken.pop(index))
        assert judge(delivered).disordered >= 1


def test_a_record_that_failed_without_a_word_or_without_its_body_is_lost(delivered: Bench) -> None:
    for change in ("error = NULL", "error = 'so', body = NULL"):
        delivered.portal.taken[:] = [one for one in delivered.portal.taken if one.kind != "finish"]
        with delivered.desk.ledger.transaction():
            delivered.desk.ledger._connection.execute(
                f"UPDATE records SET status = 'Failed', {change} WHERE kind = 'finish'"
            )
        assert judge(delivered).lost == 1
