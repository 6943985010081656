"""Real file systems of a few megabytes, to be filled and emptied; and what stands in for none of them.

Mounting needs rights that not everybody has: `small_disk` skips the test with the reason. Nothing stays mounted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

KINDS = ("bytes", "inodes", "ext4")
_SIZE = {"bytes": "size=24m", "inodes": "size=64m,nr_inodes=600"}
_EXT4_BYTES = 24 << 20  # a ring takes 4 of them


@dataclass
class SmallDisk:
    """A file system of its own at ``path``; ``kind`` says what it runs out of first."""

    path: Path
    kind: str
    _ballast: list[Path] = field(default_factory=list)

    def fill(self) -> None:
        """Take all that is left, to the last byte (or inode)."""
        folder = self.path / "ballast"
        folder.mkdir(exist_ok=True) if not folder.exists() else None
        if self.kind == "inodes":
            with contextlib.suppress(OSError):
                while True:
                    path = folder / str(len(self._ballast))
                    path.touch()
                    self._ballast.append(path)
            return
        path = folder / "bytes"
        self._ballast.append(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for size in (1 << 20, 1 << 16, 1 << 12, 1):
                block = b"\1" * size
                try:
                    while os.write(descriptor, block) == size:
                        pass
                except OSError as error:
                    assert error.errno == errno.ENOSPC
        finally:
            os.close(descriptor)

    def free(self) -> None:
        """Give back what `fill` took."""
        for path in self._ballast:
            path.unlink(missing_ok=True)
        self._ballast.clear()

    def remount(self, options: str) -> None:
        """``ro`` or ``rw``."""
        subprocess.run(["mount", "-o", f"remount,{options}", os.fspath(self.path)], check=True, capture_output=True)


@contextlib.contextmanager
def small_disk(kind: str) -> Iterator[SmallDisk]:
    """A mounted file system of that kind; unmounted at the end, also when something still uses it."""
    if os.getuid() != 0:
        pytest.skip("may not mount a file system of its own (needs root)")
    path = Path(tempfile.mkdtemp(prefix="disk-", dir="/tmp"))
    image = path.with_suffix(".img")
    try:
        if kind == "ext4":
            if shutil.which("mkfs.ext4") is None:
                pytest.skip("there is no mkfs.ext4")
            with image.open("wb") as file:
                file.truncate(_EXT4_BYTES)
            subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", os.fspath(image)], check=True, capture_output=True)
            command = ["mount", "-o", "loop", os.fspath(image), os.fspath(path)]
        else:
            command = ["mount", "-t", "tmpfs", "-o", _SIZE[kind], "tmpfs", os.fspath(path)]
        mounted = subprocess.run(command, capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"may not mount a file system of its own: {mounted.stderr.strip()}")
        try:
            yield SmallDisk(path, kind)
        finally:
            # Lazily: a process that outlives its test must not keep the mount, its own check says that it is there.
            subprocess.run(["umount", "-l", os.fspath(path)], check=True, capture_output=True)
    finally:
        path.rmdir()
        image.unlink(missing_ok=True)
