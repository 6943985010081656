"""``python -m tests.chaos.upgrade``: what older versions left on a disk, opened by today's code. Row R25 of the scorecard.

For each golden ledger: it is migrated and every value of every row is as it was; a kill -9 at any statement of the migration
(``--syscalls``: at any system call of it, by strace) leaves it whole in one of the versions, and the next start completes it;
what waited is delivered by real processes to a portal that checks keys, places and chains. For each golden portal the same, but
the last. ``--old-code`` also runs the code of older commits on today's ledger, which must refuse it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from seclea.ledger import migrations
from seclea.ledger.check import check
from seclea.ledger.db import Ledger
from tests.chaos import golden
from tests.contract.keeping_portal import KeepingPortal
from tests.pipeline import ROOT
from tests.unit.writer.chain import check_ledger

Rows = dict[str, tuple[list[str], list[tuple[Any, ...]]]]
# Older commits whose newest ledger is of that version; later ones are made from the commit that brings them.
COMMITS = {1: "7b6c8fe", 2: "1e24f44", 3: "be70a1d", 4: "8c25864", 5: "0613e4b", 6: "eab1f9f", 7: "a45bb69"}


def rows_of(database: Path, like: Rows | None = None) -> Rows:
    """All rows of all tables (of the columns of ``like``, where given), asked of a copy of file and log."""
    with tempfile.TemporaryDirectory(prefix="look-", dir="/tmp") as directory:
        for suffix in ("", "-wal"):
            if (file := database.with_name(database.name + suffix)).exists():
                shutil.copy(file, directory)
        with contextlib.closing(sqlite3.connect(Path(directory) / database.name)) as found:
            if like is None:
                names = [name for (name,) in found.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
                like = {name: ([row[1] for row in found.execute(f"PRAGMA table_info({name})")], []) for name in names}
            rows: Rows = {}
            for name, (columns, _) in like.items():
                listed = ", ".join(f'"{column}"' for column in columns)
                rows[name] = columns, sorted(found.execute(f"SELECT {listed} FROM {name}").fetchall(), key=repr)
            return rows


def what_changed(before: Rows, database: Path) -> list[str]:
    """Tables of which a row that was there before is another one now, or gone, or twice."""
    now = rows_of(database, before)
    mine = ("sqlite_sequence", "alembic_version")
    return [f"table {name} has changed" for name in before if name not in mine and before[name] != now[name]]


# -- kills ---------------------------------------------------------------------------------------------------------------


def migrate_ledger(path: Path, on_statement: Callable[[str], None] | None = None) -> None:
    """What `Ledger` does with an older file, up to its migration."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.set_trace_callback(on_statement)
    migrations.migrate(connection, str(path))
    connection.set_trace_callback(None)
    connection.close()


def migrate_portal(path: Path, on_statement: Callable[[str], None] | None = None) -> None:
    """What the portal does at its start."""
    from sqlalchemy import event

    from seclea.portal import database

    engine = database.make_engine(path, readonly=False)
    if on_statement is not None:

        @event.listens_for(engine, "connect")
        def _listen(connection: Any, _record: Any) -> None:
            connection.set_trace_callback(on_statement)

    database.migrate(engine)
    engine.dispose()


def statements_of(migrate: Callable[..., None], path: Path) -> int:
    """How many statements the migration of a copy takes."""
    seen: list[str] = []
    migrate(path, seen.append)
    return len(seen)


def killed_at(migrate: Callable[..., None], path: Path, number: int) -> bool:
    """Migrate in a forked child that is killed before its ``number``-th statement; whether it came to that."""

    def count(_statement: str) -> None:
        nonlocal number
        number -= 1
        if number == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        code = 1
        try:
            migrate(path, count)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def killed_at_call(migrate: Callable[..., None], path: Path, name: str, number: int) -> bool:
    """The same before the effect of the ``number``-th system call of that name, by strace."""
    work = f"from tests.chaos.upgrade import {migrate.__name__} as m; from pathlib import Path; m(Path({str(path)!r}))"
    inject = f"inject={name}:signal=SIGKILL:when={number}"
    files = [option for suffix in ("", "-wal", "-journal") for option in ("-P", f"{path}{suffix}")]
    done = subprocess.run(
        ["strace", "-f", "-o", os.devnull, *files, "-e", inject, sys.executable, "-c", work],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    return done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)


def after_kill(kind: str, path: Path, before: Rows, versions: set[object]) -> list[str]:
    """What is wrong with a database whose migration was killed, and with what the next start makes of it."""
    wrong = what_changed(before, path)
    if kind == "ledger":
        if (version := golden.ledger_version_of_copy(path.parent)) not in versions:
            wrong.append(f"version {version}")
        ledger = Ledger(path)
        ledger.close()
        wrong += check(path).wrong
        if golden.ledger_version(path) != max(versions):  # type: ignore[type-var]
            wrong.append("the next start did not complete it")
        check_ledger(path)
    else:
        migrate_portal(path)
    return wrong + what_changed(before, path)


def kills(kind: str, version: Any, directory: Path, *, syscalls: bool = False, every: int = 1) -> tuple[int, list[str]]:
    """Kill a golden database's migration everywhere, or at ``every`` so-manieth point; how often, and what was wrong."""
    source, name, migrate = (
        (golden.ledger_file(version), "ledger.sqlite", migrate_ledger)
        if kind == "ledger"
        else (golden.portal_file(version), "portal.db", migrate_portal)
    )
    versions: set[object] = set(range(version, len(migrations.scripts()) + 1)) if kind == "ledger" else set()
    before = rows_of(golden.unpack(source, directory / "before") / name)
    points: list[tuple[str, int]] = []
    if syscalls:
        points = [
            (call, number)
            for call in ("pwrite64", "fdatasync", "fsync", "ftruncate", "unlink")
            for number in range(1, 400)
        ]
    else:
        copy = golden.unpack(source, directory / "counted") / name
        points = [("", number) for number in range(1, statements_of(migrate, copy) + 1, every)]
    done, wrong, over = 0, [], set()
    for call, number in points:
        if call in over:
            continue
        place = golden.unpack(source, directory / f"{call}{number}")
        hit = killed_at_call(migrate, place / name, call, number) if call else killed_at(migrate, place / name, number)
        if not hit:
            over.add(call)
        done += hit
        wrong += [
            f"{kind} {version}, killed at {call} {number}: {what}"
            for what in after_kill(kind, place / name, before, versions)
        ]
        shutil.rmtree(place)
    return done, wrong


# -- delivery --------------------------------------------------------------------------------------------------------------


def deliver(version: int, base: Path) -> list[str]:
    """Have a golden ledger's pending records delivered by today's processes; what is wrong with what came."""
    from seclea.api.tokens import Token, TokenStore

    home = golden.unpack(golden.ledger_file(version), base / "home")
    before = rows_of(home / "ledger.sqlite")
    (base / "run").mkdir(mode=0o700)
    portal = KeepingPortal()
    try:
        waiting = _know(portal, home / "ledger.sqlite")
        with contextlib.closing(sqlite3.connect(home / "ledger.sqlite")) as moved, moved:
            moved.execute("UPDATE destinations SET platform_url = ?, auth_url = ?, breaker = NULL", (portal.url,) * 2)
        TokenStore(home / "tokens").write(portal.url, Token("access"), Token("refresh"), "ada")
        environment = {
            **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
            "HOME": str(base),
            "PYTHONPATH": str(ROOT),
            "SECLEA_HOME": str(home),
            "XDG_RUNTIME_DIR": str(base / "run"),
        }
        code = (
            f"from seclea import SecleaAI; s = SecleaAI('Claims', organization='Acme', platform_url={portal.url!r},"
            f" auth_url={portal.url!r}); s.complete(60)"
        )
        try:
            subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=120)
        finally:
            stop = [sys.executable, "-m", "seclea", "stop"]
            subprocess.run(stop, env=environment, capture_output=True, check=True, timeout=60)
        came = [one.key for one in portal.taken]
        wrong = [f"{key} came {came.count(key)} times" for key in waiting if came.count(key) != 1]
        wrong += [f"{key} came, and was delivered before" for key in came if key not in waiting]
        wrong += [] if waiting else ["nothing waited: the golden ledger is of no use"]
        after = rows_of(home / "ledger.sqlite", before)
        fixed = ("key", "stream", "lane", "first", "last", "chain", "digest", "row_hash", "kind", "entity")
        old, new = [_only(rows["records"], fixed) for rows in (before, after)]
        wrong += [f"a record was altered: {row[0]}" for row in old if row not in new]
        check_ledger(home / "ledger.sqlite")
        return wrong
    finally:
        portal.close()


def _only(table: tuple[list[str], list[tuple[Any, ...]]], columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    places = [table[0].index(column) for column in columns]
    return [tuple(row[place] for place in places) for row in table[1]]


def _know(portal: KeepingPortal, ledger: Path) -> list[str]:
    """Let a portal know what was delivered to the one before it; the keys of what waits, in order."""
    with contextlib.closing(sqlite3.connect(ledger)) as database:
        for uuid, lane, last, chain in database.execute(
            "SELECT s.uuid, r.lane, r.last, r.chain FROM records r JOIN streams s ON s.id = r.stream"
            " WHERE r.status = 'Completed' ORDER BY r.last"
        ):
            portal._heads[str(UUID(bytes=uuid)), lane] = last, chain
        for (entity,) in database.execute(
            "SELECT entity FROM records WHERE status = 'Completed' AND entity IS NOT NULL"
        ):
            portal._aliases[entity] = entity
        found = database.execute(
            "SELECT key FROM records WHERE status = 'Transmitting' AND hold IS NULL ORDER BY position"
        ).fetchall()
    return [key for (key,) in found]


# -- all of it -------------------------------------------------------------------------------------------------------------


def refused_by(commit: str, version: int, base: Path) -> list[str]:
    """What is wrong with how an older commit's code meets today's ledger."""
    home = golden.unpack(golden.ledger_file(version), base / "home")
    before = rows_of(home / "ledger.sqlite")
    code = (
        f"from seclea.ledger.db import Ledger; from pathlib import Path; Ledger(Path({str(home / 'ledger.sqlite')!r}))"
    )
    with golden.code_of(commit) as path:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(path)},
            cwd=base,
            capture_output=True,
            text=True,
            check=False,
        )
    wrong = (
        []
        if "LedgerTooNewError" in done.stderr
        else [f"{commit} did not refuse version {version}: {done.stderr[-300:]}"]
    )
    return wrong + what_changed(before, home / "ledger.sqlite")


def main(arguments: list[str] | None = None) -> int:
    """0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.upgrade")
    parser.add_argument(
        "--make", action="store_true", help="make the golden files of this checkout's versions, where missing"
    )
    parser.add_argument("--commit", help="with --make: of this older commit, in the stead of what is there")
    parser.add_argument("--versions", type=int, nargs="*", help="of ledgers; all by default")
    parser.add_argument("--syscalls", action="store_true", help="kill at every system call, too (minutes)")
    parser.add_argument("--old-code", action="store_true", help="older commits must refuse the newest ledger")
    options = parser.parse_args(arguments)
    if options.make:
        return make(options.commit)
    began = time.monotonic()
    wrong: list[str] = []
    base = Path(tempfile.mkdtemp(prefix="u-", dir="/tmp"))
    newest = len(migrations.scripts())
    for version in options.versions or range(1, newest + 1):
        place = base / str(version)
        place.mkdir(mode=0o700)
        counts = {}
        for way in ("statements", "calls") if options.syscalls else ("statements",):
            (place / way).mkdir()
            counts[way], found = kills("ledger", version, place / way, syscalls=way == "calls")
            wrong += found
        (place / "deliver").mkdir(mode=0o700)
        wrong += [f"ledger {version}, delivered: {what}" for what in deliver(version, place / "deliver")]
        if options.old_code and version < newest:
            (place / "old").mkdir()
            wrong += refused_by(COMMITS[version], newest, place / "old")
        said = ", ".join(f"{count} kills at {way}" for way, count in counts.items())
        print(f"ledger {version}: {said}; migrated, delivered; {len(wrong)} things wrong so far", flush=True)
    for portal in golden.portal_versions():
        place = base / portal
        place.mkdir()
        count, found = kills("portal", portal, place)
        wrong += found
        print(f"portal {portal}: {count} kills at statements; {len(wrong)} things wrong so far", flush=True)
    for what in wrong[:20]:
        print(f"  {what}")
    print(f"{len(wrong)} things wrong in {time.monotonic() - began:.0f} s")
    if wrong:
        print(f"left in place: {base}")
        return 1
    shutil.rmtree(base)
    return 0


def make(commit: str | None) -> int:
    """Make golden files; those that are there stay, unless an older commit is named."""
    from seclea.portal.database import SCHEMA_VERSIONS

    with golden.code_of(commit) as code:
        if commit or not golden.ledger_file(len(migrations.scripts())).exists():
            print(f"made the golden ledger of version {golden.make_ledger(code)}")
        if commit or not golden.portal_file(SCHEMA_VERSIONS[-1]).exists():
            print(f"made the golden portal of version {golden.make_portal(code)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
