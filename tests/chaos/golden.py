"""Golden ledgers and portal databases: what an older seclea left on a disk, made by running just that seclea.

``python -m tests.chaos.upgrade --make`` makes what is missing for the version of this checkout, with ``--commit C`` for that
of an older commit. One file per version of the ledger, ``tests/golden/ledger-0007.tar.xz``: a home whose processes were all
killed, with a run that was delivered, one that was refused, and two that wait, with datasets and states in the spool and rows
in the log that were not folded into the file. And one per version of the portal's database, ``portal-0003.tar.xz``.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from seclea.contract import Home
from tests.contract.fault_portal import Answer, Asked
from tests.contract.keeping_portal import KeepingPortal
from tests.pipeline import ROOT, kill

FOLDER = ROOT / "tests" / "golden"
HOW = "python -m tests.chaos.upgrade --make"
_KEPT = ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "home.json", "spool/chunks", "spool/incoming")

# Only what every version has had from the first on.
_JOB = """
import os, sys
from seclea import SecleaAI
from seclea.api.tokens import Token, TokenStore
from seclea.contract import Home
from sklearn.linear_model import LinearRegression

url = sys.argv[1]
TokenStore(Home(os.environ["SECLEA_HOME"]).tokens).write(url, Token("access"), Token("refresh"), "ada")

def table(name, rows):
    with open(name, "w") as file:
        file.write("claim,paid\\n" + "".join(f"{row},{row}.5\\n" for row in range(rows)))
    return name

def state(slope):
    return LinearRegression().fit([[0.0], [1.0]], [0.0, slope])

seclea = SecleaAI("Claims", organization="Acme", platform_url=url, auth_url=url)
first = seclea.upload_dataset(table("first.csv", 20), "first")
run = seclea.start_training_run("delivered", params={"depth": 3}, datasets=[first])
for step in range(30):
    run.log({"loss": 1.0 / (step + 1), "accuracy": step / 30}, step=step)
run.log_model_state(state(1.0), step=30)
run.finish()
assert seclea.complete(timeout=60).done
refused = seclea.start_training_run("refused")
refused.log({"loss": float("nan")}, step=0)
refused.finish()
seclea.complete(timeout=3)
print("delivered", flush=True)
input()
second = seclea.upload_dataset(table("second.csv", 40), "second")
for name in ("waiting", "unfinished"):
    run = seclea.start_training_run(name, datasets=[first, second])
    for step in range(25):
        run.log({"loss": float(step)}, step=step)
        if step % 10 == 0:
            run.log_model_state(state(step + 2.0), step=step)
    if name == "waiting":
        run.finish()
assert seclea.flush(timeout=60)
print("waiting", flush=True)
input()
"""

_PORTAL = """
import os, sys
from seclea import SecleaAI
from sklearn.linear_model import LinearRegression

with open("claims.csv", "w") as file:
    file.write("claim,paid\\n1,2.5\\n2,3.5\\n")
seclea = SecleaAI("Claims", platform_url="local")
dataset = seclea.upload_dataset("claims.csv", "Claims")
run = seclea.start_training_run("first", params={"depth": 3}, datasets=[dataset])
for step in range(30):
    run.log({"loss": 1.0 / (step + 1)}, step=step)
run.log_model_state(LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]), step=30)
run.finish()
assert seclea.complete(timeout=60).done
print("delivered", flush=True)
input()
"""


class Refusing(KeepingPortal):
    """Refuses the run that is named so."""

    def answer_to(self, asked: Asked) -> Answer:
        if asked.path == "/collection/training-runs" and asked.method == "POST" and b'"refused"' in asked.body:
            return Answer(422, {"detail": "This run is refused."})
        return super().answer_to(asked)


@contextlib.contextmanager
def code_of(commit: str | None) -> Iterator[Path]:
    """A directory with the package as it was at a commit; this checkout where there is none."""
    if commit is None:
        yield ROOT
        return
    with tempfile.TemporaryDirectory(prefix="code-", dir="/tmp") as directory:
        packed = subprocess.run(["git", "archive", commit, "seclea"], cwd=ROOT, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(directory, filter="data")
        yield Path(directory)


def ledger_version(path: Path) -> int:
    """The version of a ledger's schema."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        return int(database.execute("PRAGMA user_version").fetchone()[0])


def ledger_file(version: int) -> Path:
    """Where the golden ledger of a version is kept."""
    return FOLDER / f"ledger-{version:04d}.tar.xz"


def portal_file(version: str) -> Path:
    """Where the golden portal of a version is kept."""
    return FOLDER / f"portal-{version}.tar.xz"


def pack(root: Path, names: tuple[str, ...], target: Path) -> None:
    """Keep these files and folders, the same bytes for the same content."""
    FOLDER.mkdir(exist_ok=True)
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for name in names:
            for path in sorted([root / name, *(root / name).rglob("*")]):
                if path.exists():
                    info = archive.gettarinfo(path, str(path.relative_to(root)))
                    info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
                    with path.open("rb") if path.is_file() else contextlib.nullcontext() as file:
                        archive.addfile(info, file)


def unpack(source: Path, target: Path) -> Path:
    """A golden file's content in a new directory, owned by us."""
    target.mkdir(mode=0o700)
    with tarfile.open(source) as archive:
        archive.extractall(target, filter="data")
    return target


def portal_versions() -> list[str]:
    """The versions of the portal's database that there is a golden one of."""
    return [path.name[len("portal-") :].split(".")[0] for path in sorted(FOLDER.glob("portal-*"))]


def make_ledger(code: Path) -> int:
    """Run the job with that code and keep its home; the version of its ledger. Raises RuntimeError where it fails."""
    with _killed_after(code, _JOB, ("delivered", "waiting")) as home:
        version = ledger_version_of_copy(home)
        pack(home, _KEPT, ledger_file(version))
        return version


def make_portal(code: Path) -> str:
    """The same for the portal in a home; the version of its database."""
    with _killed_after(code, _PORTAL, ("delivered",)) as home:
        with tempfile.TemporaryDirectory(prefix="look-", dir="/tmp") as directory:
            for path in (home / "portal").glob("portal.db*"):
                shutil.copy(path, directory)
            with contextlib.closing(sqlite3.connect(Path(directory) / "portal.db")) as database:
                version = str(database.execute("SELECT version_num FROM alembic_version").fetchone()[0])
        pack(home / "portal", ("portal.db", "portal.db-wal"), portal_file(version))
        return version


@contextlib.contextmanager
def _killed_after(code: Path, job: str, words: tuple[str, ...]) -> Iterator[Path]:
    """The home that a job leaves whose every process is killed after its last word. The portal goes after the first."""
    base = Path(tempfile.mkdtemp(prefix="g-", dir="/tmp"))
    home = base / "home"
    for name in ("run", "user", "work"):
        (base / name).mkdir(mode=0o700)
    portal = Refusing()
    environment = {
        **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
        "HOME": str(base / "user"),
        "PYTHONPATH": str(code),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SECLEA_HOME": str(home),
        "XDG_RUNTIME_DIR": str(base / "run"),
    }
    with (base / "errors").open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", job, portal.url],
            env=environment,
            cwd=base / "work",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            for word in words:
                if (said := process.stdout.readline()) != f"{word}\n":
                    errors.seek(0)
                    raise RuntimeError(f"the job said {said!r}, not {word!r}: {errors.read()[-3000:]}")
                if word != words[-1]:
                    portal.close()
                    process.stdin.write("\n")
                    process.stdin.flush()
            process.kill()
            kill(*_processes(home))
            yield home
        finally:
            portal.close()
            process.kill()
            process.communicate()
            kill(*_processes(home))
            shutil.rmtree(Home(home).shared_rings, ignore_errors=True)
            shutil.rmtree(base)


def ledger_version_of_copy(home: Path) -> int:
    """The version, asked of a copy: sqlite would fold the log into the file."""
    with tempfile.TemporaryDirectory(prefix="look-", dir="/tmp") as directory:
        for suffix in ("", "-wal"):
            if (home / f"ledger.sqlite{suffix}").exists():
                shutil.copy(home / f"ledger.sqlite{suffix}", directory)
        return ledger_version(Path(directory) / "ledger.sqlite")


def _processes(home: Path) -> list[int]:
    wanted = os.fsencode(home)
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in Path("/proc", entry, "cmdline").read_bytes():
                    found.append(int(entry))
    return found
