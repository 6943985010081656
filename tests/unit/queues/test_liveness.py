"""`seclea.processes.liveness`: a process is told apart from all that had its pid before or will have it later."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
from collections.abc import Iterator

import pytest

from seclea.processes import liveness
from seclea.processes.liveness import ProcessIdentity, identity_of, is_alive, open_pidfd


@pytest.fixture
def child() -> Iterator[int]:
    pid = os.fork()
    if not pid:
        signal.pause()
        os._exit(0)
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def test_this_process_lives_and_its_identity_travels_as_json() -> None:
    identity = identity_of()
    assert identity.pid == os.getpid() and identity.start_ticks > 0 and is_alive(identity)
    assert ProcessIdentity.from_json(json.loads(json.dumps(identity.to_json()))) == identity


def test_the_same_pid_with_another_start_boot_or_machine_is_not_the_same_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    identity = identity_of()
    assert not is_alive(dataclasses.replace(identity, start_ticks=identity.start_ticks - 1))
    assert not is_alive(dataclasses.replace(identity, boot_id="another"))
    assert not is_alive(dataclasses.replace(identity, pid=2**22 + 1))
    assert not is_alive(dataclasses.replace(identity, pid=0))
    assert is_alive(dataclasses.replace(identity, start_ticks=0))
    assert is_alive(dataclasses.replace(identity, pid=2**22 + 1, namespace=7)), "unseen from here: not for us to bury"


def test_a_killed_child_is_dead_before_and_after_it_is_reaped(child: int) -> None:
    identity = identity_of(child)
    descriptor = open_pidfd(identity)
    assert descriptor is not None and is_alive(identity)
    assert select.select([descriptor], [], [], 0)[0] == []
    os.kill(child, signal.SIGKILL)
    assert select.select([descriptor], [], [], 10)[0] == [descriptor]
    os.close(descriptor)
    assert not is_alive(identity), "a zombie"
    assert open_pidfd(identity) is None
    os.waitpid(child, 0)
    assert not is_alive(identity) and open_pidfd(identity) is None
    with pytest.raises(ProcessLookupError):
        identity_of(child)


def test_without_proc_only_the_pid_is_known(monkeypatch: pytest.MonkeyPatch, child: int) -> None:
    class Nowhere(type(liveness.Path())):  # type: ignore[misc]
        def __new__(cls, path: str) -> Nowhere:
            return super().__new__(cls, "/no/such/place" + path)  # type: ignore[no-any-return]

    monkeypatch.setattr(liveness, "Path", Nowhere)
    identity = identity_of(child)
    assert (identity.start_ticks, identity.boot_id) == (0, "") and is_alive(identity)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not is_alive(identity)
