"""An upload without a pipeline: what is handed over is kept in a list, its files in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from seclea.client.lineage.known import KnownDatasets
from seclea.client.uploading import Upload
from seclea.contract import LOCAL, Destination, Home
from seclea.entities import Dataset, DatasetTransformation, Entity
from seclea.errors import PortalUnavailable


class Desk:
    """One client's uploads into one project, without a ledger."""

    def __init__(self, directory: Path, open_api: Any = None, platform: str = LOCAL) -> None:
        self.home = Home(directory)
        self.handed: list[Entity] = []
        self.files: dict[str, Path] = {}
        self.disk_limit = 1 << 30
        self.known = KnownDatasets(
            self.home, Destination(platform, platform, "Acme"), "Claims", open_api or self._no_portal
        )

    def _no_portal(self) -> Any:
        raise PortalUnavailable("no portal")

    def _hand_over(self, entity: Entity, payload: Path | None = None) -> None:
        self.handed.append(entity)
        if payload is not None:
            kept = self.home.path / "kept" / payload.name
            kept.parent.mkdir(exist_ok=True)
            self.files[entity.uuid] = payload.rename(kept)

    def _upload(self) -> Upload:
        return Upload(self.home, "Claims", self.known, self._hand_over, self.disk_limit)

    def table(self, data: Any, name: str, metadata: Any = None, transformations: Any = None) -> Dataset:
        with self._upload() as upload:
            return upload.table(data, name, metadata, transformations)

    def split(self, X: Any, y: Any, name: str, metadata: Any = None, transformations: Any = None) -> Dataset:
        with self._upload() as upload:
            return upload.split(X, y, name, metadata, transformations)

    @property
    def datasets(self) -> list[Dataset]:
        return [one for one in self.handed if isinstance(one, Dataset)]

    @property
    def steps(self) -> list[DatasetTransformation]:
        return [one for one in self.handed if isinstance(one, DatasetTransformation)]

    def left_behind(self) -> list[str]:
        incoming = self.home.incoming
        return sorted(path.name for path in incoming.iterdir()) if incoming.exists() else []

    def read(self, dataset: Dataset) -> Any:
        """The stored table of a dataset."""
        return parquet.read_table(self.files[dataset.uuid])
