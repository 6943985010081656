"""The portal's database: one thread writes, many read.

Rule 1  One connection writes, in one thread. Work that waits is committed together (group commit): a commit with
        ``synchronous=FULL`` costs an fsync, however many records it holds.
Rule 2  A piece of work that fails is undone alone; the others of its group are committed.
Rule 3  A future is resolved after its commit returned, never before.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, Select, create_engine, event, inspect, text

from seclea.errors import SecleaError

logger = logging.getLogger(__name__)
T = TypeVar("T")
Work = Callable[[Connection], T]

SCHEMA_VERSIONS = ("0001", "0002", "0003", "0004")  # oldest first; the migrations' own names
GROUP = 64  # pieces of work per commit, at most
READERS = 4  # connections that read at the same time


class DatabaseTooNew(SecleaError):
    """The folder was written by a newer portal; it is left untouched."""


def now_ns() -> int:
    """Nanoseconds since 1970 UTC."""
    return time.time_ns()


def make_engine(path: Path, *, readonly: bool) -> Engine:
    """An engine for the sqlite file. The writer's transactions are immediate, a reader's see one snapshot."""
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": 10.0, "check_same_thread": False},
        pool_size=READERS if readonly else 1,
        max_overflow=0,
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves; sqlite3's own timing of it is none
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout=10000")
        cursor.execute("PRAGMA trusted_schema=OFF")
        cursor.execute("PRAGMA temp_store=MEMORY")
        if readonly:
            cursor.execute("PRAGMA query_only=ON")
        else:
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA fullfsync=ON")
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.execute("PRAGMA journal_size_limit=67108864")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")

    return engine


def migrate(engine: Engine) -> None:
    """Bring the schema up to date. Loads alembic only where there is something to do.

    Raises:
        DatabaseTooNew: the schema is newer than this version.
    """
    with engine.connect() as connection:
        version = None
        if inspect(connection).has_table("alembic_version"):
            version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if version == SCHEMA_VERSIONS[-1]:
        return
    if version is not None and version not in SCHEMA_VERSIONS:
        raise DatabaseTooNew(
            f"The portal's database has schema {version}; this version knows up to {SCHEMA_VERSIONS[-1]}.",
            "Use a newer seclea.",
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


class Database:
    """The tables behind a writing thread and a pool of readers."""

    def __init__(self, path: Path) -> None:
        self._writer = make_engine(path, readonly=False)
        migrate(self._writer)
        self._readers = make_engine(path, readonly=True)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="portal-read")
        self._jobs: queue.SimpleQueue[tuple[Work[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="portal-write", daemon=True)
        self._thread.start()

    async def write(self, work: Work[T]) -> T:
        """Run ``work`` in a transaction; it is durable when this returns. What it raises is raised here, undone."""
        return await asyncio.wrap_future(self.submit(work))

    def submit(self, work: Work[T]) -> Future[T]:
        """The same without an event loop."""
        future: Future[T] = Future()
        self._jobs.put((work, future))
        return future

    async def read(self, work: Work[T]) -> T:
        """Run ``work`` on one snapshot, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.read_now, work)

    def read_now(self, work: Work[T]) -> T:
        """Run ``work`` on one snapshot, here."""
        with self._readers.connect() as connection:
            return work(connection)

    def close(self) -> None:
        """Finish what is queued, then close. Readers go first, so that the writer's close can empty the WAL."""
        self._jobs.put(None)
        self._thread.join()
        self._threads.shutdown(wait=True)
        self._readers.dispose()
        try:
            with self._writer.connect() as connection:
                connection.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except Exception:
            logger.warning("the write-ahead log could not be emptied; it will be at the next start", exc_info=True)
        self._writer.dispose()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            group: list[tuple[Work[Any], Future[Any]]] = []
            job = self._jobs.get()
            while True:
                if job is None:
                    stopping = True
                elif job[1].set_running_or_notify_cancel():
                    group.append(job)
                if stopping or len(group) >= GROUP:
                    break
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            if group:
                self._commit(group)

    def _commit(self, group: list[tuple[Work[Any], Future[Any]]]) -> None:
        if len(group) == 1:
            work, future = group[0]
            try:
                with self._writer.begin() as connection:
                    value = work(connection)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(value)
            return
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with self._writer.begin() as connection:
                for work, future in group:
                    try:
                        with connection.begin_nested():
                            outcomes.append((future, work(connection), None))
                    except Exception as error:
                        outcomes.append((future, None, error))
        except Exception as error:  # begin or commit failed: nothing of the group was written
            for _, future in group:
                future.set_exception(error)
            return
        for future, value, failure in outcomes:
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result(value)


def first_row(connection: Connection, statement: Select[Any]) -> Any | None:
    """The first row as a mapping, or None."""
    return connection.execute(statement.limit(1)).mappings().first()
