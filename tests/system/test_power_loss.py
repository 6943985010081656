"""R3: what was told durable is there after the power has failed, on a disk whose every write and flush is known.

Long: ``python -m tests.chaos.power --images 10000 --filesystem ext4`` (or btrfs, xfs).
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import power, power_disk
from tests.chaos.power_disk import Image
from tests.pipeline import ROOT


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short path, as sockets need it."""
    path = Path(tempfile.mkdtemp(prefix="p-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def fails(directory: Path, images: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Let the power fail so often; in a process of its own, for its mounts."""
    if (reason := power.why_not("ext4")) is not None:
        pytest.skip(reason)
    command = [sys.executable, "-m", "tests.chaos.power", "--images", str(images), "--lanes", "1", *options]
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_what_was_told_durable_is_there_whatever_the_drive_had_in_its_cache(short: Path) -> None:
    done = fails(short, 36, "--rounds", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "36 images" in done.stdout and "0 things wrong" in done.stdout
    assert list(short.iterdir()) == []


def test_a_chunk_that_was_not_synced_is_found_out(short: Path) -> None:
    done = fails(short, 12, "--rounds", "4", "--plant", "a chunk is not synced")
    assert done.returncode == 1 and "is empty" in done.stdout, done.stdout + done.stderr


def test_an_image_is_the_bytes_that_were_written(tmp_path: Path) -> None:
    start = bytearray(os.urandom(3 * Image.BLOCK) + bytes(5 * Image.BLOCK))
    (tmp_path / "start").write_bytes(start)
    image = Image(tmp_path / "start")
    for offset, data in (
        (512, b"a" * 512),
        (Image.BLOCK - 512, b"b" * 1024),
        (5 * Image.BLOCK, b"c" * 2 * Image.BLOCK),
    ):
        image.write(offset, data)
        start[offset : offset + len(data)] = data
    image.copy().write(0, b"d" * 512)
    image.save(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == start


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    disk = object.__new__(power_disk.LoggedDisk)
    disk._log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    ends = []
    for kind, offset, data in ((1, 4096, b"x" * 512), (2, 0, b""), (1, 0, b"y" * 1024)):
        disk._append(kind, offset, data)
        ends.append((tmp_path / "log").stat().st_size)
    os.close(disk._log)
    entries = power_disk.read_log(tmp_path / "log")
    assert [(entry.offset, entry.data, entry.is_flush) for entry in entries] == [
        (4096, b"x" * 512, False),
        (0, b"", True),
        (0, b"y" * 1024, False),
    ]
    assert [entry.end for entry in entries] == ends
