from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.writer.client import Desk


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    made = Desk(tmp_path)
    try:
        yield made
    finally:
        made.ledger.close()
