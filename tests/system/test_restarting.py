"""Writer and sender die, at any moment; the other one, or the next call, starts them, and nothing is lost or sent twice."""

import hashlib
import json

import pytest

from tests.contract.fault_portal import Answer, Fault
from tests.pipeline import PipelineHome, Script, WillingPortal, is_running, kill, until

# Logs a number for each line that it is told; "flush", "complete" and "state" do what they say.
OBEYS = """
    import sys
    from seclea import SecleaAI
    seclea = SecleaAI("Claims")
    run = seclea.start_training_run()
    print(run.uuid, flush=True)
    for line in sys.stdin:
        word = line.strip()
        if word == "flush":
            print(bool(seclea.flush(timeout=20)), flush=True)
        elif word == "complete":
            print(seclea.complete(timeout=20), flush=True)
        elif word == "dataset":
            with open("claims.csv", "w") as file:
                file.write("claim,paid\\n1,2.5\\n2,3.5\\n")
            dataset = seclea.upload_dataset("claims.csv", "Claims")
            print(dataset.uuid, dataset.sha256, flush=True)
        elif word == "finish":
            run.finish()
        else:
            run.log({"loss": float(word)}, step=int(word))
            print("logged", flush=True)
    """

# A writer that dies at a named point. {point} runs before it starts.
DIES = """
    import os, sys
    import seclea.writer.__main__ as main
    from seclea.ledger import blobs, db
    from seclea.queues.ring import Consumer
    from seclea.writer import damage, waiting

    def die(*_, **__):
        os._exit(73)

    {point}
    sys.exit(main.main(["--home", os.environ["SECLEA_HOME"]]))
    """


def logs(script: Script, *steps: int) -> None:
    for step in steps:
        script.tell(str(step))
        assert script.hear() == "logged"


def flushes(script: Script) -> None:
    script.tell("flush")
    assert script.hear() == "True"


def obeying(home: PipelineHome, **environment: object) -> Script:
    script = home.script(OBEYS, **environment)
    script.hear()
    return script


def check_sent_once(portal: WillingPortal) -> None:
    keys = [key for _, key in portal.records()]
    assert len(set(keys)) == len(keys), f"sent twice: {keys}"


def test_a_killed_sender_is_restarted_by_the_writer_and_delivers_what_is_left(
    home: PipelineHome, portal: WillingPortal
) -> None:
    home.log_in(portal.url)
    script = obeying(home, SECLEA_PLATFORM_URL=portal.url)
    logs(script, 0, 1)
    until(lambda: portal.steps() == [0, 1], "the first two at the portal")
    writer, sender = home.writer_pid(), home.sender_pid()
    kill(sender)
    logs(script, 2, 3)
    until(lambda: portal.steps() == [0, 1, 2, 3], "the rest at the portal")
    assert home.writer_pid() == writer
    assert home.sender_pid() != sender
    assert home.live()["sender_restarts"] == 1
    check_sent_once(portal)


def test_a_killed_writer_is_replaced_by_the_sender_which_leaves_and_logging_goes_on(
    home: PipelineHome, portal: WillingPortal
) -> None:
    home.log_in(portal.url)
    script = obeying(home, SECLEA_PLATFORM_URL=portal.url)
    logs(script, 0, 1)
    until(lambda: portal.steps() == [0, 1], "the first two at the portal")
    writer, sender = home.writer_pid(), home.sender_pid()
    kill(writer)
    logs(script, 2)  # nobody is there, and nobody waits
    until(lambda: not is_running(sender), "the sender to leave")
    assert home.writer_pid() != writer
    assert home.sender_pid() != sender
    logs(script, 3)
    until(lambda: portal.steps() == [0, 1, 2, 3], "the rest at the portal")
    check_sent_once(portal)


def test_after_both_were_killed_the_next_log_calls_start_them(home: PipelineHome) -> None:
    script = obeying(home)
    logs(script, 0)
    kill(home.writer_pid(), home.sender_pid())
    step = 0

    def logs_one_more() -> bool:
        nonlocal step
        step += 1
        logs(script, step)
        return bool(home.live())

    # A silent writer is looked for after two seconds, by a call that logs; long before the ring is full.
    until(logs_one_more, "a log call to start another writer", 10)
    until(lambda: home.steps() == list(range(step + 1)), "every point in the ledger, once")


def test_after_both_were_killed_a_flush_starts_them(home: PipelineHome) -> None:
    script = obeying(home)
    home.sender_pid()
    kill(home.writer_pid(), *home.pids_of("seclea.sender"))
    logs(script, 0, 1, 2)
    flushes(script)
    assert home.steps() == [0, 1, 2]


def test_what_was_in_flight_when_both_were_killed_is_sent_again_with_the_same_key(
    home: PipelineHome, portal: WillingPortal
) -> None:
    home.log_in(portal.url)
    portal.on("POST", "/collection/training-runs", Answer(fault=Fault.STALLED))
    script = obeying(home, SECLEA_PLATFORM_URL=portal.url)
    until(lambda: portal.count("POST", "/collection/training-runs") == 1, "the run's record in flight")
    assert home.rows("SELECT status FROM records WHERE kind = 'training_run'") == [("Transmitting",)]
    kill(home.writer_pid(), home.sender_pid())
    portal.extended()
    logs(script, 5)
    script.tell("complete")
    assert "done=True" in script.hear()
    sent = [key for path, key in portal.records() if path == "training-runs"]
    assert len(sent) == 2 and sent[0] == sent[1], "the same request, with the same key"
    assert [path for path, _ in portal.records()] == ["projects", "training-runs", "training-runs", "metrics"]
    assert home.rows("SELECT DISTINCT status FROM records") == [("Completed",)]


def test_an_answer_that_was_lost_with_the_sender_is_asked_for_again(home: PipelineHome, portal: WillingPortal) -> None:
    """The portal has committed, the receipt was never heard."""
    home.log_in(portal.url)
    portal.on("POST", "/collection/metrics", Answer(fault=Fault.STALLED))
    script = obeying(home, SECLEA_PLATFORM_URL=portal.url)
    logs(script, 5)
    until(lambda: portal.count("POST", "/collection/metrics") == 1, "the metrics in flight")
    kill(home.sender_pid())
    portal.extended()
    script.tell("complete")
    assert "done=True" in script.hear()
    first, second = (one for one in portal.asked if one.path == "/collection/metrics")
    assert first.body == second.body
    assert {one: first.headers[one] for one in first.headers if one.startswith(("seclea", "idem"))} == {
        one: second.headers[one] for one in second.headers if one.startswith(("seclea", "idem"))
    }


@pytest.mark.parametrize(
    ("point", "known", "stored"),
    [
        pytest.param(
            """
class Dying(db.Ledger):
    def __init__(self, path):
        super().__init__(path)
        self._connection.set_trace_callback(self.look)
    def look(self, sql):
        if sql == "COMMIT" and self._connection.execute("SELECT 1 FROM records WHERE status = 'Saving'").fetchone():
            die()
damage.Ledger = Dying
""",
            0,
            0,
            id="before_the_commit_that_reserves_it",
        ),
        pytest.param("Consumer.commit = die", None, 0, id="after_the_commit_and_before_the_ring_moves"),
        pytest.param(
            "blobs.sync_descriptor = lambda it: os.path.isdir(f'/dev/fd/{it}') or die()",
            1,
            0,
            id="while_its_payload_is_written",
        ),
        pytest.param("blobs.Spool.settled = die", 0, 1, id="after_the_commit_that_seals_it"),
        pytest.param("blobs.Spool.delete_incoming = die", 0, 1, id="before_its_incoming_file_is_removed"),
    ],
)
def test_a_dataset_is_recorded_once_when_the_writer_dies(
    home: PipelineHome, point: str, known: int | None, stored: int
) -> None:
    """``known``: records that are Saving when it died, ``stored``: with their place and payload. None: not asked."""
    dying = home.script(DIES.replace("{point}", point.strip().replace("\n", "\n    ")))
    until(lambda: home.live(), "the writer that will die")
    script = home.script(OBEYS)
    script.hear()
    script.tell("dataset")
    uuid, sha256 = script.hear().split()
    dying.end(73)
    kill(*home.pids_of("seclea.sender"))  # it would start a writer before we have looked
    if known is not None and not home.live():
        rows = home.rows("SELECT status FROM records WHERE kind = 'dataset' ORDER BY id")
        assert rows == [("Saving",)] * known + [("Transmitting",)] * stored
    logs(script, 1)
    flushes(script)
    ((status, size, body),) = home.rows("SELECT status, size, body FROM records WHERE kind = 'dataset'")
    assert status == "Transmitting"
    body = json.loads(body)
    assert (body["uuid"], body["sha256"]) == (uuid, sha256)
    chunks = [(home.home.chunks / name[:2] / name).read_bytes() for name, _ in body["chunks"]]
    assert hashlib.sha256(b"".join(chunks)).hexdigest() == sha256
    assert size == len(b"".join(chunks)) + len(json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode())
    assert home.rows("SELECT refs FROM chunks") == [(1,)] * len(chunks)
    assert home.steps() == [1]
    assert home.rows("SELECT detail FROM events WHERE kind IN ('gap', 'unreadable', 'damaged')") == []
    script.process.stdin.close()  # type: ignore[union-attr]
    script.end()
    until(lambda: list(home.home.incoming.iterdir()) == [], "what was sealed to be removed from incoming")


def test_the_limits_that_a_client_asked_for_hold_after_the_writer_was_killed(home: PipelineHome) -> None:
    script = obeying(home, SECLEA_LIMITS_DISK="123MB")
    until(lambda: home.live().get("limits", {}).get("disk") == 123_000_000, "the limits")
    kill(home.writer_pid(), *home.pids_of("seclea.sender"))
    logs(script, 1)
    flushes(script)
    assert home.live()["limits"]["disk"] == 123_000_000


def test_log_calls_are_recorded_once_when_the_writer_dies_between_its_commit_and_the_rings(home: PipelineHome) -> None:
    point = """
read, seen = Consumer.read, []
def look(self, *arguments, **named):
    frames = read(self, *arguments, **named)
    seen.extend(self for kind, _, _ in frames if kind == 3)
    return frames
commit = Consumer.commit
Consumer.read = look
Consumer.commit = lambda self: die() if self in seen else commit(self)
"""
    dying = home.script(DIES.replace("{point}", point.strip().replace("\n", "\n    ")))
    until(lambda: home.live(), "the writer that will die")
    script = obeying(home)
    logs(script, 0, 1, 2)
    dying.end(73)
    assert home.steps() != [], "it had committed"
    logs(script, 3)
    flushes(script)
    assert home.steps() == [0, 1, 2, 3]


def test_flush_waits_for_payloads_that_are_still_being_stored(home: PipelineHome) -> None:
    gate = home.work / "gate"
    point = f"""
import time
store = blobs.Spool.store
def slowly(self, name):
    while not os.path.exists({str(gate)!r}):
        time.sleep(0.005)
    return store(self, name)
blobs.Spool.store = slowly
"""
    slow = home.script(DIES.replace("{point}", point.strip().replace("\n", "\n    ")))
    until(lambda: home.live(), "the writer that is slow")
    script = home.script(OBEYS.replace("timeout=20", "timeout=1.0"))
    script.hear()
    script.tell("dataset")
    script.hear()
    script.tell("flush")
    assert script.hear() == "False", "its payload is not in the spool"
    assert home.rows("SELECT status FROM records WHERE kind = 'dataset'") == [("Saving",)]
    gate.touch()
    until(lambda: home.rows("SELECT 1 FROM records WHERE kind = 'dataset' AND status = 'Transmitting'"), "the payload")
    flushes(script)
    home.command("stop")
    slow.end(0)
