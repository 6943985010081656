"""No room: real file systems that are full, of bytes, of inodes, or read-only, with the home of a real job on them.

Whatever is full: logging is paused and that is said, training goes on to the same weights, and when there is room again all of
it arrives, once and in order.
"""

import contextlib
import re
import resource
from collections.abc import Iterator

import pytest

from tests.pipeline import PipelineHome, Script, WillingPortal, until
from tests.small_disk import KINDS, SmallDisk, small_disk

# Weights that depend on every step, and a checksum of them; with seclea or without. Steps go on as it is told.
JOB = """
    import hashlib, sys
    import numpy as np
    WITH = {with_seclea}
    if WITH:
        from seclea import SecleaAI
        client = SecleaAI("Claims")
        run = client.start_training_run("job")
    rng = np.random.default_rng(7)
    weights = rng.normal(size=(64, 64))
    step = 0
    for line in sys.stdin:
        word, _, count = line.strip().partition(" ")
        for _ in range(int(count or 0)):
            weights = np.tanh(weights @ rng.normal(size=(64, 64)) / 8) + weights / 2
            if WITH:
                run.log({{"loss": float(abs(weights).mean())}}, step=step)
                if word != "steps":
                    from torch import from_numpy
                    size = 20 if word == "large" else 1
                    run.log_model_state({{"w": from_numpy(np.tile(weights, (size, size)))}}, step=step)
            step += 1
        if word == "end":
            break
        print(word, step, flush=True)
    if WITH:
        run.finish()
    print(hashlib.sha256(weights.tobytes()).hexdigest())
    """
# The limits are not what pauses here: the disk is.
ROOM = {
    "SECLEA_LIMITS_MIN_FREE_DISK": "0B",
    "SECLEA_LIMITS_WAIT_TIMEOUT_SECONDS": "60",
    "SECLEA_IDLE_TIMEOUT_SECONDS": "60",
}


@pytest.fixture
def disk(request: pytest.FixtureRequest) -> Iterator[SmallDisk]:
    with small_disk(request.param) as made:
        yield made


def job(home: PipelineHome, portal: WillingPortal | None, **environment: object) -> Script:
    if portal is None:
        return home.script(JOB.format(with_seclea=False))
    return home.script(
        # Rings in the home, as in a container: what is full is theirs, too.
        "from seclea.director import pipeline as director; director.in_container = lambda: True",
        JOB.format(with_seclea=True),
        SECLEA_PLATFORM_URL=portal.url,
        **{**ROOM, **environment},
    )


def goes(script: Script, word: str, count: int) -> int:
    """Have it do so many steps, and wait until they are done."""
    script.tell(f"{word} {count}")
    said, step = script.hear().split()
    assert said == word
    return int(step)


def ends(script: Script) -> str:
    script.tell("end")
    return script.end().strip()


def weights_without_seclea(home: PipelineHome, steps: int) -> str:
    script = job(home, None)
    goes(script, "steps", steps)
    return ends(script)


def check_delivered(home: PipelineHome, portal: WillingPortal, steps: int, states: int) -> None:
    try:
        until(
            lambda: home.finishes() and not home.rows("SELECT 1 FROM records WHERE status <> 'Completed'"), "delivery"
        )
    except AssertionError:
        open_ones = home.rows("SELECT id, kind, status, hold, error FROM records WHERE status <> 'Completed'")
        raise AssertionError(f"{open_ones}\n{home.live()}\n{home.logs()}") from None
    assert portal.steps() == list(range(steps)), "each step once, and in order"
    keys = [key for _, key in portal.records()]
    assert len(set(keys)) == len(keys), "sent twice"
    assert [path for path, _ in portal.records()].count("model-states") == states
    assert "tombstones" not in {path for path, _ in portal.records()}


@pytest.mark.torch
@pytest.mark.parametrize("disk", KINDS, indirect=True)
def test_a_full_disk_pauses_logging_and_nothing_is_lost_once_there_is_room(
    disk: SmallDisk, home: PipelineHome, portal: WillingPortal
) -> None:
    home.path = disk.path / "home"
    home.log_in(portal.url)
    script = job(home, portal)
    goes(script, "states", 3)
    until(lambda: portal.steps() == [0, 1, 2], "the first steps at the portal")
    disk.fill()
    script.tell("states 3")
    paused = until(lambda: home.live().get("paused") or "logging is paused" in script.errors, "the pause")
    assert paused
    until(lambda: "logging is paused" in script.errors, "the word on stderr")
    assert script.process.poll() is None
    disk.free()
    assert script.hear() == "states 6"
    goes(script, "steps", 4)
    assert ends(script) == weights_without_seclea(home, 10)
    check_delivered(home, portal, 10, 6)
    assert script.errors.count("logging is paused") == 1, script.errors
    assert home.live()["paused"] is None


@pytest.mark.parametrize("disk", KINDS[::2], indirect=True)
def test_a_ledger_that_cannot_grow_pauses_within_a_second_and_resumes_by_itself(
    disk: SmallDisk, home: PipelineHome, portal: WillingPortal
) -> None:
    home.path = disk.path / "home"
    home.log_in(portal.url)
    script = job(home, portal)
    goes(script, "steps", 3)
    until(lambda: portal.steps() == [0, 1, 2], "the first steps at the portal")
    disk.fill()
    script.tell("steps 20000")
    until(lambda: home.live().get("paused"), "the writer's pause")  # that the disk is full, or has too little left
    disk.free()
    assert script.hear() == "steps 20003"
    assert ends(script) == weights_without_seclea(home, 20_003)
    check_delivered(home, portal, 20_003, 0)
    until(lambda: home.live().get("paused") is None, "the end of the pause")
    until(
        lambda: "seclea: logging goes on" in script.errors or "logging is paused" not in script.errors, "the other word"
    )


@pytest.mark.parametrize("disk", KINDS, indirect=True)
def test_a_job_that_starts_on_a_full_disk_waits_for_room_and_goes_on(
    disk: SmallDisk, home: PipelineHome, portal: WillingPortal
) -> None:
    home.path = disk.path / "home"
    home.log_in(portal.url)
    disk.fill()
    script = job(home, portal)
    until(lambda: "logging is paused" in script.errors, "the word on stderr")
    assert script.process.poll() is None
    disk.free()
    goes(script, "steps", 5)
    assert ends(script) == weights_without_seclea(home, 5)
    check_delivered(home, portal, 5, 0)
    assert script.errors.count("logging is paused") == 1 and script.errors.count("goes on") == 1, script.errors


# -- what a process may take of a machine


LIMITS = {
    # What it may still have; the state that is said.
    "no file may grow": (resource.RLIMIT_FSIZE, 0, "the disk refuses|the ledger cannot be used"),
    "no descriptor is left": (resource.RLIMIT_NOFILE, 3, "Too many open files"),
    "no memory is left": (resource.RLIMIT_AS, 0, "memory|thread"),
}


@contextlib.contextmanager
def limited(pid: int, which: str) -> Iterator[None]:
    """Take from a running process what the kernel gives it."""
    limit, left, _ = LIMITS[which]
    soft, hard = resource.prlimit(pid, limit)
    resource.prlimit(pid, limit, (left, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, limit, (soft, hard))


@pytest.mark.torch
@pytest.mark.parametrize("which", LIMITS)
def test_a_writer_at_a_limit_of_its_process_pauses_and_goes_on(
    home: PipelineHome, portal: WillingPortal, which: str
) -> None:
    home.log_in(portal.url)
    script = job(home, portal)
    goes(script, "steps", 2)  # no payload yet: a thread for the first one is wanting, too
    until(lambda: portal.steps() == [0, 1], "the first steps at the portal")
    writer = home.writer_pid()
    with limited(writer, which):
        script.tell("large 2")
        # Without a descriptor it cannot be asked, without a file that grows it cannot write its log.
        said = until(lambda: home.live().get("paused") or written(home), "the writer's word")
        assert re.search(LIMITS[which][2], said), said
    until(lambda: script.hear() == "large 4", "the steps")
    assert ends(script) == weights_without_seclea(home, 4)
    check_delivered(home, portal, 4, 2)
    assert home.writer_pid() == writer, "it went on, and was not replaced"
    until(lambda: home.live().get("paused") is None, "the end of the pause")


@pytest.mark.torch
@pytest.mark.parametrize("which", LIMITS)
def test_a_sender_at_a_limit_of_its_process_delivers_all_of_it_later(
    home: PipelineHome, portal: WillingPortal, which: str
) -> None:
    home.log_in(portal.url)
    script = job(home, portal)
    goes(script, "states", 2)
    until(lambda: portal.steps() == [0, 1], "the first steps at the portal")
    with limited(home.sender_pid(), which):
        goes(script, "states", 2)
        until(
            lambda: home.rows("SELECT count(*) FROM entities WHERE kind = 'model_state'") == [(4,)],
            "them in the ledger",
        )
        goes(script, "states", 2)
    assert ends(script) == weights_without_seclea(home, 6)
    check_delivered(home, portal, 6, 6)


def written(home: PipelineHome) -> str:
    """Why the writer's log says that it tries again; empty when it does not (yet)."""
    path = home.home.logs / "writer.log"
    found = re.findall("tried again until it works: (.*)", path.read_text("utf-8", "replace")) if path.exists() else []
    return str(found[-1]) if found else ""
