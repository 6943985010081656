"""What was taken from a queue is given to whoever asked, also where its file cannot be removed."""

import errno
import os
from pathlib import Path

import pytest

from seclea.queues.queue import Queue


def test_an_item_whose_file_cannot_be_removed_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "queue").mkdir(mode=0o700)
    queue = Queue(directory=tmp_path / "queue", allow_pickle=False)
    large = b"x" * (1 << 20)
    queue.put(large)
    assert len(os.listdir(tmp_path / "queue")) > 1, "it has a file of its own"

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        assert queue.get() == large
    queue.put("next")
    assert queue.get() == "next"
    queue.close()
