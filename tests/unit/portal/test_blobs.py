"""The portal's blobs: whole, durable and named before a row may name them; what is damaged is never given out."""

import hashlib
import os
from pathlib import Path

import pytest

from seclea.portal.blobs import DamagedBlob, FolderBlobs


def test_a_blob_is_synced_then_renamed_then_its_folder_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    done: list[str] = []
    sync, rename = os.fsync, os.rename

    def note_sync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        done.append("sync folder" if os.path.isdir(path) else "sync file")
        sync(descriptor)

    def note_rename(source: Path, target: Path) -> None:
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    body = b"weights"
    blobs.put(hashlib.sha256(body).hexdigest(), body)
    assert done == ["sync file", "rename", "sync folder"]


def test_a_blob_whose_sync_fails_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    sha256 = hashlib.sha256(b"weights").hexdigest()

    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output"):
            blobs.put(sha256, b"weights")
    with pytest.raises(DamagedBlob, match="is missing"):
        blobs.get(sha256)
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


def test_a_damaged_blob_is_not_given_out_and_putting_it_again_heals_it(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    blobs.put(sha256, b"weights")
    blobs.path(sha256).write_bytes(b"weightz")
    with pytest.raises(DamagedBlob, match="is damaged"):
        blobs.get(sha256)
    blobs.put(sha256, b"weights")
    assert blobs.get(sha256) == b"weights"
