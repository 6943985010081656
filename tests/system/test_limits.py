"""R20: the limits with real processes, small limits, and usage looked at from outside all the time."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from seclea.client.status import status
from seclea.writer.limits import resident_bytes
from tests.contract.fault_portal import Answer
from tests.pipeline import PipelineHome, WillingPortal, until

DISK = 16_000_000
RECORD = 1_120_000  # the largest batch of metrics: usage never passes a limit by more than one record
MB = 1_000_000

LIMITS = """
[limits]
disk = "16MB"
min_free_disk = "1MB"
resume_below = 0.7
"""


def disk_bytes(home: PipelineHome) -> int:
    """What lies in ledger and spool, by their files."""
    total = 0
    for top in [*home.path.glob("ledger.sqlite*"), home.home.spool]:
        for path in [top, *top.rglob("*")] if top.is_dir() else [top]:
            try:
                facts = os.lstat(path)
            except FileNotFoundError:
                continue
            total += facts.st_size if path.is_file() else 0
    return total


def memory_bytes(home: PipelineHome) -> int:
    """Rings by their files; writer and sender without what they share."""
    rings = 0
    for path in home.home.rings.glob("*.ring"):
        with suppress(FileNotFoundError):
            rings += path.stat().st_size
    live = home.live()
    return rings + resident_bytes([pid for pid in (live.get("writer"), live.get("sender")) if pid])


class Sampler:
    """Looks at the home all the time: the most that was ever used, and when logging was paused."""

    def __init__(self, home: PipelineHome, used: Callable[[PipelineHome], int] = disk_bytes) -> None:
        self.most = 0
        self._used = used
        self.samples = 0
        self._home = home
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self.most = max(self.most, self._used(self._home))
            self.samples += 1

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def limited(home: PipelineHome, portal: WillingPortal) -> Iterator[PipelineHome]:
    (home.user / ".seclearc").write_text(LIMITS)
    home.log_in(portal.url)
    yield home


@contextmanager
def refusing(portal: WillingPortal) -> Iterator[None]:
    """A portal that takes nothing for now."""
    scripts = dict(portal._scripts)
    for key in scripts:
        portal.on(*key, Answer(503, {"detail": "later"}, {"Retry-After": "1"}))
    yield
    for key, script in scripts.items():
        portal.on(*key, *script)


START = """
    import json, sys, numpy as np
    from seclea import SecleaAI
    client = SecleaAI("Claims")
    run = client.start_training_run("long")
    print("started")
"""
LOG = """
    names = "abcdefgh"
    for step in range({calls}):
        run.log({{name: step * 1.1 + place for place, name in enumerate(names)}}, step)
    run.finish()
    print("logged")
"""


def said(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("seclea: logging")]


def delivered_points(home: PipelineHome) -> int:
    return sum(points for (points,) in home.rows("SELECT points FROM totals WHERE kind = 'metrics'"))


def test_five_times_as_much_as_fits_is_logged_and_never_more_than_the_limit_is_used(
    limited: PipelineHome, portal: WillingPortal
) -> None:
    calls = 480_000  # of 8 points, 168 bytes in the ledger: 80 MB
    with Sampler(limited) as sampler:
        with refusing(portal):
            script = limited.script(START, LOG.format(calls=calls), SECLEA_PLATFORM_URL=portal.url)
            assert script.hear() == "started"
            until(lambda: limited.live().get("paused"), "a pause", 60)
            now = status(limited.home)
            assert now["paused"] and now["paused_reason"].startswith("disk: ") and now["paused_since"]
            assert now["pauses"]["count"] == 1 and delivered_points(limited) == 0
        assert script.hear() == "logged"
        until(lambda: delivered_points(limited) == 8 * calls, "all to be delivered", 60)
        script.end()
    assert sampler.samples > 100
    assert sampler.most <= DISK + RECORD, f"{sampler.most / MB:.1f} MB"
    assert sampler.most > 0.7 * DISK, "the limit is there to be used"
    lines = said(script.errors)
    assert any(line.startswith("seclea: logging is paused (disk: ") for line in lines)
    assert all(line.startswith("seclea: logging is paused (") for line in lines[::2])
    assert lines[1::2] == ["seclea: logging goes on."] * len(lines[1::2])
    now = status(limited.home)
    assert not now["paused"] and not now["left_out"]
    pauses = now["pauses"]["by_reason"]["disk"]
    assert pauses["count"] >= 1 and pauses["seconds"] > 0
    kinds = [
        kind for (kind,) in limited.rows("SELECT kind FROM events WHERE kind IN ('paused', 'resumed') ORDER BY id")
    ]
    assert kinds == ["paused", "resumed"] * (len(kinds) // 2)
    until(lambda: disk_bytes(limited) < DISK // 4, "the space to come back")


def test_states_of_two_processes_wait_for_room_before_they_are_written(
    limited: PipelineHome, portal: WillingPortal
) -> None:
    code = """
        model = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
        for number in range(5):
            model.coef_ = np.random.rand(375_000)
            run.log_model_state(model, step=number)
        run.finish()
        print(json.dumps(client.complete(60).done))
    """
    pytest.importorskip("sklearn")
    with Sampler(limited) as sampler:
        with refusing(portal):
            scripts = [
                limited.script(
                    "from sklearn.linear_model import LinearRegression", START, code, SECLEA_PLATFORM_URL=portal.url
                )
                for _ in range(2)
            ]
            for script in scripts:
                assert script.hear() == "started"
            until(lambda: (live := limited.live()).get("refused_payloads") or live.get("paused"), "one that waits", 60)
        for script in scripts:
            assert script.hear() == "true"
            script.end()
    assert sampler.most <= DISK, f"{sampler.most / MB:.1f} MB"
    assert len([one for one in portal.records() if one[0] == "model-states"]) == 10
    assert list(limited.home.making.rglob("*.safetensors")) == []


def test_a_dataset_larger_than_the_disk_limit_is_refused_before_a_byte_is_written(
    limited: PipelineHome, portal: WillingPortal
) -> None:
    pytest.importorskip("pyarrow")
    (limited.work / "large.csv").write_text("a\n" + "1234567\n" * 2_100_000)
    code = """
        from seclea.errors import TooLargeError
        try:
            client.upload_dataset("large.csv", "Large")
        except TooLargeError as error:
            print(error)
        input()
    """
    with Sampler(limited) as sampler:
        script = limited.script(START, code, SECLEA_PLATFORM_URL=portal.url)
        assert script.hear() == "started"
        assert script.hear() == (
            "The dataset, or a step on the way to it, has 17 MB or more; the disk limit is 16 MB."
            " Raise limits.disk in .seclearc, or record less."
        )
        assert list(limited.home.making.rglob("*.csv")) == []
        script.tell()
        script.end()
    assert sampler.most < 2 * MB


def test_limits_that_are_edited_take_effect_in_what_runs_and_a_wrong_edit_changes_nothing(
    limited: PipelineHome, portal: WillingPortal
) -> None:
    file = limited.user / ".seclearc"
    script = limited.script(START, LOG.format(calls=150_000), SECLEA_PLATFORM_URL=limited.closed_url)
    assert script.hear() == "started"
    until(lambda: limited.live().get("paused"), "a pause", 60)
    file.write_text(LIMITS.replace('disk = "16MB"', 'disk = "lots"'))
    trouble = until(lambda: status(limited.home)["limits_trouble"], "the wrong edit to be said")
    assert f"{file}:3: limits.disk = 'lots'" in trouble and '"512MB"' in trouble and "stay as they were" in trouble
    assert limited.live()["limits"]["disk"] == DISK and limited.live()["paused"]
    file.write_text(LIMITS.replace("16MB", "100MB"))
    assert script.hear() == "logged"
    script.end()
    assert limited.live()["limits"]["disk"] == 100 * MB
    assert status(limited.home)["limits_trouble"] is None
    assert limited.logs().count("'lots'") == 1, "said once"
    assert not status(limited.home)["left_out"]


def test_rings_of_many_processes_stay_within_the_memory_limit(home: PipelineHome, portal: WillingPortal) -> None:
    """64 MB, of which writer and sender take most: rings are made smaller, then one after the other."""
    home.log_in(portal.url)
    crowd = """
        import os
        from seclea.director import pipeline as director
        director.in_container = lambda: True  # rings in the home
        from seclea import SecleaAI
        client = SecleaAI("Claims")
        run = client.start_training_run("crowd")
        children = []
        for number in range(40):
            if not (child := os.fork()):
                for step in range(100): run.log({"loss": 1.0}, step=1000 * number + step)
                os._exit(0 if client.flush(60).done else 1)
            children.append(child)
        print(*{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}, flush=True)
        """
    with Sampler(home, memory_bytes) as sampler:
        script = home.script(crowd, SECLEA_PLATFORM_URL=portal.url, SECLEA_LIMITS_MEMORY="64MB")
        assert script.hear() == "0"
        script.end()
        until(lambda: len(portal.steps()) == 4000, "all that was logged", 60)
    ring = 4 << 20
    assert sampler.most <= 64_000_000 + ring, f"{sampler.most / MB:.1f} MB"
    assert 40 * ring > 2 * 64_000_000, "rings of the usual size would not fit"
    assert not status(home.home)["left_out"]
