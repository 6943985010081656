"""What is traced: a client and the writer that it starts, with a word in the trace for what no system call shows.

``python -m tests.chaos.order_job client HOME URL`` starts ``… writer HOME`` itself. ``SECLEA_PLANT`` names a bug to be planted
into these two (`PLANTS`): the judge must find each.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.chaos.order_trace import MARK


def say(*words: object) -> None:
    """Leave a word in the trace: a question after a path that does not exist."""
    os.access(MARK + "/".join(map(str, words)), os.F_OK)


# -- planted bugs ----------------------------------------------------------------------------------------------------


class _Instead:
    """A module with some of its names replaced, for one other module only."""

    def __init__(self, module: Any, **names: Any) -> None:
        self.__dict__.update(vars(module), **names)


def _no_directory() -> None:
    from seclea.ledger import blobs

    blobs.sync_directory = lambda path: None


def _no_new_directory() -> None:
    from seclea.ledger import blobs

    real = blobs.sync_directory
    blobs.sync_directory = lambda path: None if path.name == "chunks" else real(path)


def _no_home() -> None:
    from seclea.ledger import blobs

    real = blobs.sync_directory
    blobs.sync_directory = lambda path: None if path.name not in ("chunks",) and len(path.name) != 2 else real(path)


def _no_file() -> None:
    from seclea.ledger import blobs

    real = blobs.sync_descriptor
    blobs.sync_descriptor = lambda fd: real(fd) if os.path.isdir(f"/proc/self/fd/{fd}") else None


def _rename_first() -> None:
    from seclea.ledger import blobs

    _no_file()
    real = blobs.Spool._write

    def write(spool: Any, sha256: str, data: bytes) -> Path:
        directory = real(spool, sha256, data)
        with open(spool.chunk_path(sha256), "rb") as file:
            os.fsync(file.fileno())
        return directory

    blobs.Spool._write = write  # type: ignore[method-assign]


def _delete_first() -> None:
    from seclea.ledger import db

    real = db.Ledger.release_chunks

    def release(ledger: Any, record: int) -> list[str]:
        free = real(ledger, record)
        for sha256 in free:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(ledger.path.parent / "spool" / "chunks" / sha256[:2] / sha256)
        return free

    db.Ledger.release_chunks = release  # type: ignore[method-assign]


def _synchronous(how: str) -> None:
    from seclea.ledger import db

    real = db.Ledger._set_up

    def set_up(ledger: Any) -> None:
        real(ledger)
        ledger._connection.execute(f"PRAGMA synchronous = {how}")

    db.Ledger._set_up = set_up  # type: ignore[method-assign]


def _cursor_first() -> None:
    from seclea.writer import gate

    real = gate.Gate.read_rings

    def read_rings(self: Any) -> Any:
        found = real(self)
        for ring in self._rings.values():
            ring.commit()
        return found

    gate.Gate.read_rings = read_rings  # type: ignore[method-assign]


def _told_at_once() -> None:
    from seclea.client import waiting
    from seclea.director import pipeline

    waiting.ask_until = lambda *_, **__: True
    pipeline.ask_until = lambda *_, **__: True


def _no_token_file() -> None:
    from seclea.api import tokens

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            os.fsync(descriptor)

    tokens.os = _Instead(os, fsync=fsync)  # type: ignore[assignment]


def _no_token_directory() -> None:
    from seclea.api import tokens

    tokens._sync_directory = lambda path: None


PLANTS: dict[str, Callable[[], None]] = {
    "a chunk's directory is not synced": _no_directory,
    "a new directory's name is not synced": _no_new_directory,
    "the home's own names are not synced": _no_home,
    "a chunk is not synced": _no_file,
    "a chunk is renamed before it is synced": _rename_first,
    "a chunk is deleted before the commit": _delete_first,
    "synchronous = NORMAL": lambda: _synchronous("NORMAL"),
    "synchronous = OFF": lambda: _synchronous("OFF"),
    "the ring's cursor moves before the commit": _cursor_first,
    "durable is said at once": _told_at_once,
    "a token file is not synced": _no_token_file,
    "the tokens' directory is not synced": _no_token_directory,
}


def plant() -> None:
    """Plant what the environment names."""
    if name := os.environ.get("SECLEA_PLANT"):
        PLANTS[name]()


# -- the two processes -----------------------------------------------------------------------------------------------


def writer(home: str) -> int:
    """The writer, which says when a ring's cursor is about to move (a store into memory shows in no trace)."""
    import seclea.writer.__main__ as real
    from seclea.queues.consumer import Consumer

    plant()
    commit = Consumer.commit

    def commit_and_say(ring: Consumer) -> None:
        if ring._position != ring._committed and "queues" not in ring.path.parts:
            say("ring", ring.ring_id.hex(), ring._expected - 1)
        commit(ring)

    Consumer.commit = commit_and_say  # type: ignore[method-assign]
    return real.main(["--home", home])


@contextlib.contextmanager
def started_writer(home: str) -> Iterator[None]:
    """The writer above, as a child; gone afterwards."""
    from seclea.contract import Home
    from seclea.processes.rendezvous import ask

    process = subprocess.Popen([sys.executable, "-m", "tests.chaos.order_job", "writer", home], start_new_session=True)
    try:
        deadline = time.monotonic() + 60.0
        while ask(Home(home), {"op": "status"}, 30.0) is None:
            assert process.poll() is None and time.monotonic() < deadline, "no writer"
            time.sleep(0.01)
        yield
        ask(Home(home), {"op": "stop"}, 30.0)
        process.wait(60.0)
    finally:
        process.kill()
        process.wait()


def client(home: str, url: str, size: int) -> int:
    """Log in, log metrics, datasets and states, and say after each wait what it was told."""
    import numpy as np
    from sklearn.linear_model import LinearRegression

    from seclea import SecleaAI
    from seclea.api.tokens import Token, TokenStore
    from seclea.contract import Home

    plant()
    with started_writer(home):
        store = TokenStore(Home(home).tokens)
        for access in ("first", "second"):
            store.write(url, Token(f"access-{access}"), Token(f"refresh-{access}"), "ada")
            say("login", store.path(url).name)
        work = Path(home).parent
        seclea = SecleaAI("Claims", organization="local", platform_url=url, auth_url=url)
        run = seclea.start_training_run("first")
        random = np.random.default_rng(1)
        points = payloads = 0
        for number in range(size):
            table = work / f"claims{number}.csv"
            table.write_text("claim,paid\n" + "".join(f"{row},{row * number}.5\n" for row in range(50)), "utf-8")
            seclea.upload_dataset(str(table), f"Claims {number}")
            for step in range(40):
                run.log({"loss": 1.0 / (points + 1)}, step=points)
                points += 1
                if step % 20 == 0:
                    run.log_model_state(LinearRegression().fit(random.random((4, 2)), random.random(4)), step=points)
                    payloads += 1
            payloads += 1
            if number % 2 == 0:
                assert seclea.flush(timeout=60), "not durable"
                say("durable", points, payloads)
        run.finish()
        assert seclea.complete(timeout=90).done, "not delivered"
        say("durable", points, payloads)
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "writer":
        sys.exit(writer(sys.argv[2]))
    sys.exit(client(sys.argv[2], sys.argv[3], int(sys.argv[4])))
