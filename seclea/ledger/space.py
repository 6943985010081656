"""Space that the ledger gives back: rows nobody asks for again, free pages, the write-ahead log. The writer's alone."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from seclea.ledger.view import Reader

_PAGE_BYTES = 4096

# In the words of the indices records_delivered and records_kept_here: sqlite takes those only for a query that says just this.
_DONE = "status = 'Completed' AND kind IN ('metrics', 'tombstone') AND stands_for IS NULL"
_DELIVERED = f"{_DONE} AND receipt <> '{{\"local_only\":true}}'"
_KEPT_HERE = f"{_DONE} AND receipt = '{{\"local_only\":true}}'"


class Space(Reader):
    """What a ledger takes on the disk, and how it becomes less."""

    path: Path

    def give_back_space(self, pages: int = 1000) -> None:
        """Return free pages to the file system, a bounded number at a time. The file shrinks at the next `checkpoint`."""
        # Not by `execute`: the statement gives pages back one a step, has no columns, and so is stepped once there.
        self._connection.executescript(f"PRAGMA incremental_vacuum({int(pages)})")

    def file_bytes(self) -> int:
        """Bytes of the file once the log is folded into it; of the log's file, and its index, too."""
        pages = self._one("PRAGMA page_count")
        total = int(pages[0]) * _PAGE_BYTES if pages is not None else 0
        sizes = []
        for suffix in ("", "-wal", "-shm"):
            try:
                sizes.append(os.stat(f"{self.path}{suffix}").st_size)
            except OSError:
                sizes.append(0)
        return max(total, sizes[0]) + sizes[1] + sizes[2]

    def free_pages(self) -> int:
        """Pages in the file that nothing uses."""
        row = self._one("PRAGMA freelist_count")
        return int(row[0]) if row is not None else 0

    def bound_log(self, size: int) -> None:
        """Fold the log into the file whenever it has ``size`` bytes (at most what is usual, 4 MB), and keep its file short."""
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {max(64, min(1000, size // _PAGE_BYTES))}")
        self._connection.execute(f"PRAGMA journal_size_limit = {max(64 * _PAGE_BYTES, min(8 << 20, 2 * size))}")

    def log_bytes(self) -> int:
        """Bytes of the write-ahead log's file."""
        try:
            return os.stat(f"{self.path}-wal").st_size
        except OSError:
            return 0

    def checkpoint(self) -> bool:
        """Fold the log into the file and truncate both; False when a reader is in the way. Waits for none."""
        (timeout,) = self._connection.execute("PRAGMA busy_timeout").fetchone()
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {int(timeout)}")
        return not busy

    def thin(
        self, limit: int, *, keep: int = 0, before_ns: int = 0, kept_here: bool = False, enough: int = 1 << 62
    ) -> tuple[int, int]:
        """Delete completed metrics and tombstones, the oldest first; totals and the heads of lanes stay.

        Args:
            limit: rows at most.
            keep: as many of the latest stay, but for those that were settled before ``before_ns``.
            kept_here: those that no portal has; else those that one has.
            enough: bytes of bodies after which no more go.
        Returns:
            Rows and metric points that are gone.
        """
        done = _KEPT_HERE if kept_here else _DELIVERED
        rows = self._all(
            f"SELECT id, points, size FROM records WHERE {done}"  # noqa: S608
            " AND id NOT IN (SELECT sent_again FROM records WHERE sent_again IS NOT NULL) AND (settled_ns < ?1 OR id <="
            f" (SELECT id FROM records WHERE {done} ORDER BY id DESC LIMIT 1 OFFSET ?2)) ORDER BY id LIMIT ?3",
            (before_ns, keep, limit),
        )
        before = itertools.accumulate((row["size"] for row in rows), initial=0)
        rows = [row for row, size in zip(rows, before, strict=False) if size < enough]
        self._connection.executemany("DELETE FROM records WHERE id = ?", [(row["id"],) for row in rows])
        return len(rows), sum(row["points"] for row in rows)

    def thin_events(self, keep: int) -> None:
        """Delete all but the latest events."""
        self._connection.execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (keep,))

    def chunk_bytes(self) -> int:
        """Bytes of all chunks that a row names."""
        row = self._one("SELECT coalesce(sum(bytes), 0) FROM chunks")
        return int(row[0]) if row is not None else 0
