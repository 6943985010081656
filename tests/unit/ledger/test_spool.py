"""Payloads: durable before any row names them, stored once, deleted when nobody counts on them."""

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from seclea.contract import Home
from seclea.errors import LedgerError
from seclea.ledger import blobs
from seclea.ledger.blobs import CHUNK_BYTES, Spool
from seclea.processes.rendezvous import prepare

_watching: list[list[tuple[str, str]]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event == "os.rename":
        _watching[-1].append(("rename", f"{arguments[0]} {arguments[1]}"))


sys.addaudithook(_hook)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    made = Home(tmp_path / "home")
    prepare(made)
    return made


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """What was synced and renamed, in order."""
    seen: list[tuple[str, str]] = []
    real = blobs.sync_descriptor

    def sync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        seen.append(("sync directory" if os.path.isdir(path) else "sync file", path))
        real(descriptor)

    monkeypatch.setattr(blobs, "sync_descriptor", sync)
    _watching.append(seen)
    yield seen
    _watching.remove(seen)


def incoming(home: Home, content: bytes, name: str = "payload") -> str:
    (home.incoming / name).write_bytes(content)
    return name


def chunk_files(home: Home) -> list[Path]:
    return sorted(path for path in home.chunks.rglob("*") if path.is_file())


def test_a_chunk_is_synced_then_renamed_then_its_directory_is_synced(home: Home, order: list[tuple[str, str]]) -> None:
    stored = Spool(home).store(incoming(home, b"weights"))
    (name,) = (sha256 for sha256, _ in stored.chunks)
    final = home.chunks / name[:2] / name
    assert final.read_bytes() == b"weights"
    temporary = order[1][1]
    assert order == [
        ("sync directory", str(home.chunks)),  # the new directory's own name
        ("sync file", temporary),
        ("rename", f"{temporary} {final}"),
        ("sync directory", str(final.parent)),
    ]
    assert os.path.dirname(temporary) == str(final.parent), "a rename within one directory"


def test_a_directory_that_another_made_is_synced_by_whoever_counts_on_it(
    home: Home, order: list[tuple[str, str]]
) -> None:
    """R4. It died before it came to that, or is a thread that has yet to."""
    (home.chunks / hashlib.sha256(b"weights").hexdigest()[:2]).mkdir(mode=0o700)
    Spool(home).store(incoming(home, b"weights"))
    assert order[0] == ("sync directory", str(home.chunks))


def test_the_names_above_the_spool_are_synced_once_and_cover_what_is_there(
    home: Home, order: list[tuple[str, str]]
) -> None:
    """R4."""
    (home.chunks / hashlib.sha256(b"weights").hexdigest()[:2]).mkdir(mode=0o700)
    spool = Spool(home)
    spool.sync_names()
    names = [path for what, path in order if what == "sync directory"]
    assert names[:4] == [str(path) for path in (home.chunks, home.spool, home.path, home.path.parent)]
    order.clear()
    spool.store(incoming(home, b"weights"))
    assert [what for what, _ in order] == ["sync file", "rename", "sync directory"]


def test_the_same_content_is_stored_once_and_its_directory_synced_all_the_same(
    home: Home, order: list[tuple[str, str]]
) -> None:
    spool = Spool(home)
    first = spool.store(incoming(home, b"weights"))
    order.clear()
    assert spool.store(incoming(home, b"weights")) == first
    # Whoever renamed it may not have come to sync the directory yet.
    assert [what for what, _ in order] == ["sync directory"]
    assert len(chunk_files(home)) == 1


def test_a_large_payload_is_cut_and_read_back(home: Home) -> None:
    content = os.urandom(1000) + bytes(2 * CHUNK_BYTES)
    spool = Spool(home)
    stored = spool.store(incoming(home, content))
    assert [size for _, size in stored.chunks] == [CHUNK_BYTES, CHUNK_BYTES, 1000]
    assert b"".join(spool.read(sha256) for sha256, _ in stored.chunks) == content
    assert (stored.size, stored.sha256) == (len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("content", [b"", b"x", bytes(CHUNK_BYTES)])
def test_every_size_has_at_least_one_chunk(home: Home, content: bytes) -> None:
    stored = Spool(home).store(incoming(home, content))
    assert stored.chunks == ((hashlib.sha256(content).hexdigest(), len(content)),)


def test_a_sync_that_fails_leaves_no_file_that_could_be_counted_on(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        if not os.path.isdir(os.readlink(f"/proc/self/fd/{descriptor}")):
            raise OSError(5, "Input/output error")

    spool = Spool(home)
    monkeypatch.setattr(blobs, "sync_descriptor", fail)
    with pytest.raises(OSError, match="Input/output"):
        spool.store(incoming(home, b"weights"))
    assert chunk_files(home) == []
    monkeypatch.undo()
    assert spool.store("payload").size == 7


def test_a_sync_that_failed_is_not_asked_for_again_on_the_same_data(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    # R6: after a failed fsync the kernel may have dropped the pages and says yes the next time.
    asked: list[int] = []
    real = os.fsync

    def fail_once(descriptor: int) -> None:
        inode = os.fstat(descriptor).st_ino
        asked.append(inode)
        if asked.count(inode) == 1 and not os.path.isdir(os.readlink(f"/proc/self/fd/{descriptor}")):
            raise OSError(5, "Input/output error")
        real(descriptor)

    spool = Spool(home)
    name = incoming(home, b"weights")
    monkeypatch.setattr(os, "fsync", fail_once)
    with pytest.raises(OSError, match="Input/output"):
        spool.store(name)
    assert chunk_files(home) == []


def test_a_payload_that_is_gone_is_said_to_be(home: Home) -> None:
    with pytest.raises(FileNotFoundError):
        Spool(home).store("nothing")
    with pytest.raises(LedgerError, match="no name of an incoming payload"):
        Spool(home).incoming("../ledger")


def test_a_chunk_that_was_altered_or_lost_is_never_given_out(home: Home) -> None:
    spool = Spool(home)
    ((sha256, _),) = spool.store(incoming(home, b"weights")).chunks
    spool.chunk_path(sha256).write_bytes(b"weighty")
    with pytest.raises(LedgerError, match=f"{sha256}.*damaged"):
        spool.read(sha256)
    spool.chunk_path(sha256).unlink()
    with pytest.raises(LedgerError, match=f"{sha256}.*cannot be read"):
        spool.read(sha256)


def test_a_chunk_is_not_deleted_while_a_payload_that_is_being_stored_counts_on_it(home: Home) -> None:
    spool = Spool(home)
    stored = spool.store(incoming(home, b"weights"))  # its row is not committed yet
    ((sha256, _),) = stored.chunks
    spool.delete([sha256])
    assert spool.chunk_path(sha256).exists()
    spool.settled(stored.chunks)
    spool.delete([sha256])
    assert not spool.chunk_path(sha256).exists()


def test_a_sweep_takes_what_no_row_names_and_leaves_what_may_be_on_its_way(home: Home) -> None:
    spool = Spool(home)
    kept, lost = (spool.store(incoming(home, content)).chunks[0][0] for content in (b"kept", b"lost"))
    half = spool.chunk_path(kept).with_suffix(".123.new")
    half.write_bytes(b"ke")
    for name in ("waiting", "fresh", "abandoned"):
        incoming(home, b"", name)
    old = time.time() - 2 * 3600
    for name in ("waiting", "abandoned"):
        os.utime(home.incoming / name, (old, old))
    assert spool.sweep(lambda sha256: sha256 == kept, {"waiting"}) == 3
    assert chunk_files(home) == [spool.chunk_path(kept)]
    assert not spool.chunk_path(lost).exists()
    assert sorted(path.name for path in home.incoming.iterdir()) == ["fresh", "payload", "waiting"]


def test_what_a_ring_that_is_gone_left_behind_is_removed(home: Home) -> None:
    ring, other = b"\x01" * 16, b"\x02" * 16
    for name in (f"{ring.hex()}aa", f"{ring.hex()}bb", f"{other.hex()}cc"):
        incoming(home, b"", name)
    Spool(home).sweep_ring(ring, {f"{ring.hex()}bb"})
    assert sorted(path.name for path in home.incoming.iterdir()) == [f"{ring.hex()}bb", f"{other.hex()}cc"]
