from __future__ import annotations

import errno
import mmap
import os
import re
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from seclea.queues import segment
from seclea.queues.ring import Producer


def test_a_private_directory_is_made_0700_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = segment.private_directory(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(before)
    assert [stat.S_IMODE(os.stat(p).st_mode) for p in (path, path.parent, path.parent.parent)] == [0o700] * 3


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(segment.private_directory(tmp_path / "mine"))
    (tmp_path / "file").touch()
    for name in ("open", "link", "file"):
        with pytest.raises(PermissionError):
            segment.private_directory(tmp_path / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_directory_of_another_user_is_refused_also_as_a_parent_in_a_common_place(tmp_path: Path) -> None:
    common = tmp_path / "common"
    common.mkdir()
    common.chmod(0o1777)
    squatted = common / "seclea-0"
    squatted.mkdir(mode=0o777)
    os.chown(squatted, 12345, 12345)
    for path in (squatted, squatted / "rings"):
        with pytest.raises(PermissionError, match="another user"):
            segment.private_directory(path)


def test_a_file_appears_under_its_name_only_when_it_is_whole_and_locked(tmp_path: Path) -> None:
    path = tmp_path / "a"
    descriptor = segment.create_unfinished(path, 8192)
    assert os.listdir(tmp_path) == ["a.new"] and os.stat(f"{path}.new").st_blocks * 512 >= 8192
    with pytest.raises(FileExistsError):
        segment.create_unfinished(path, 8192)
    segment.finish(path)
    assert os.listdir(tmp_path) == ["a"]
    with pytest.raises(FileExistsError):
        segment.create_unfinished(path, 8192)
    pid = os.fork()
    if not pid:
        os._exit(73 if segment.is_locked(segment.open_existing(path)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 73
    os.close(descriptor)
    descriptor = segment.open_existing(path)
    assert not segment.is_locked(descriptor)
    os.close(descriptor)


def test_a_link_in_the_place_of_the_new_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "a.new").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError):
        segment.create_unfinished(tmp_path / "a", 8192)
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_file_too_large_for_the_limits_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """In a child: RLIMIT_FSIZE stays for good."""
    pid = os.fork()
    if not pid:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
            try:
                Producer.create(tmp_path / "rings", capacity_bytes=4 << 20)
            except OSError as error:
                os._exit(73 if error.errno == errno.EFBIG and not os.listdir(tmp_path / "rings") else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 73


@pytest.fixture
def small_memory(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("cannot mount a small tmpfs")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_tmpfs_is_an_oserror_and_never_a_signal(small_memory: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        Producer.create(small_memory, capacity_bytes=4 << 20)
    assert caught.value.errno == errno.ENOSPC and not os.listdir(small_memory)
    producer = Producer.create(small_memory, capacity_bytes=512 << 10)
    with pytest.raises(OSError):
        (small_memory / "filler").write_bytes(bytes(1 << 20))
    # The disk is full to the last page now, and every byte of the ring can be written all the same.
    while producer.put(1, b"x" * 5000):
        pass
    assert producer.used_bytes > 500_000
    producer.close()
    assert segment.roomy_directory([small_memory, tmp_path / "disk"], 1 << 20) == tmp_path / "disk"
    with pytest.raises(OSError):
        segment.roomy_directory([small_memory], 1 << 20)


def test_the_first_roomy_directory_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    candidates = [tmp_path / "open", tmp_path / "a", tmp_path / "b"]
    assert segment.roomy_directory(candidates, 4096) == tmp_path / "a", "one that others may enter is passed over"
    monkeypatch.setattr(segment, "filesystem_type", lambda path: "nfs4" if path.name == "a" else "ext4")
    assert segment.roomy_directory(candidates, 4096) == tmp_path / "b"
    space = os.statvfs(tmp_path)
    tight = space.f_bavail * space.f_frsize // 2
    assert segment.roomy_directory(candidates, tight) == tmp_path / "b", "better tight than none"


def test_the_file_system_of_a_path_is_known() -> None:
    assert segment.filesystem_type(Path("/proc")) in ("proc", "")
    assert segment.filesystem_type(Path("/no/such/path")) == ""


def test_what_killed_makers_left_is_swept_but_not_what_is_being_made(tmp_path: Path) -> None:
    live = segment.create_unfinished(tmp_path / "live", 4096)
    for name in ("dead.new", "young.new", "kept"):
        (tmp_path / name).touch()
    for name in ("dead.new", "live.new", "kept"):
        os.utime(tmp_path / name, (1, 1))
    assert segment.sweep_unfinished(tmp_path) == 1
    assert sorted(os.listdir(tmp_path)) == ["kept", "live.new", "young.new"]
    os.close(live)


def test_a_process_is_known_by_its_start_and_a_zombie_is_none() -> None:
    assert segment.process_start(os.getpid()) > 0
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert segment.process_start(pid) == 0
    os.waitpid(pid, 0)
    assert segment.process_start(pid) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux faults pages in for writing")
def test_the_first_lap_of_a_ring_meets_no_page_faults(tmp_path: Path) -> None:
    if tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) < (5, 14):
        pytest.skip("this kernel has no MADV_POPULATE_WRITE")
    pages = 1024
    producer = Producer.create(tmp_path / "rings", capacity_bytes=pages * mmap.PAGESIZE)
    payload = bytes(1000)
    try:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        while producer.put(1, payload):
            pass
        after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        assert producer.used_bytes > (pages - 1) * mmap.PAGESIZE
    finally:
        producer.close()
    assert after - before < pages // 10
