"""The portal as a process: one per folder, killed and started again, leaving when nobody needs it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.contract.portal_server import ROOT, PortalServer, Stream, running_portal, upload, wait_until


def test_what_was_answered_is_there_after_a_kill(tmp_path: Path) -> None:
    with running_portal(tmp_path / "data") as server:
        owner = server.owner()
        organization = owner.get("/organization/").json()[0]["uuid"]
        stream = Stream(owner, organization)
        project, run = str(uuid.uuid4()), str(uuid.uuid4())
        body = {"uuid": project, "name": "p", "description": ""}
        assert stream.send("ordered", "project", "/collection/projects", body).status_code == 201
        body = {"uuid": run, "project": project, "name": "r", "started_ns": 1}
        assert stream.send("ordered", "training_run", "/collection/training-runs", body).status_code == 201
        sent = 0
        for round_ in range(4):
            stream.session = owner = server.owner()
            for _ in range(10):
                assert stream.send_metrics(run, [{"loss": float(sent)}], step=sent).status_code == 201
                sent += 1
            payload = upload(owner, organization, b"weights %d" % round_)
            state = {"uuid": str(uuid.uuid4()), "training_run": run, "sequence_num": round_, **payload}
            made = stream.send("bulk", "model_state", "/collection/model-states", state)
            assert made.status_code == 201
            server.kill()
            server.start()
            owner = server.owner()
            told = owner.get(f"/collection/training-runs/{run}/metrics?key=loss").json()
            assert (told["values"], told["gaps"]) == ([float(n) for n in range(sent)], [])
            content = owner.get(f"/collection/model-states/{state['uuid']}/content")
            assert content.content == b"weights %d" % round_
            lanes = {item["lane"]: item for item in owner.get(f"/collection/receipts?stream={stream.id}").json()}
            for lane, (sequence, chain) in stream.heads.items():
                assert (lanes[lane]["sequence"], lanes[lane]["chain"]) == (sequence, chain.hex())


def test_tokens_and_logins_outlive_a_restart(tmp_path: Path) -> None:
    with running_portal(tmp_path / "data") as server:
        session = server.add_member("ada", "Acme")
        cookies = session.cookies.get_dict()
        server.kill()
        server.start()
        assert server.tcp().post("/api/token/verify/", cookies=cookies).status_code == 200


def test_a_second_portal_of_a_folder_leaves_with_exit_code_3_and_says_why(tmp_path: Path) -> None:
    with running_portal(tmp_path / "data") as server:
        second = subprocess.run(server.command(), capture_output=True, text=True, timeout=20, cwd=ROOT)
        assert second.returncode == 3
        assert "Another portal serves" in second.stderr and "address.json" in second.stderr
        assert server.owner().get("/internal/health").status_code == 200


def test_it_stops_within_two_seconds_and_leaves_no_socket_and_no_address(tmp_path: Path) -> None:
    with running_portal(tmp_path / "data") as server:
        session = server.tcp()
        session.get("/api/capabilities")  # a connection that stays open
        start = time.monotonic()
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert time.monotonic() - start < 2.0
        assert not (server.data / "address.json").exists() and not (server.data / "portal.sock").exists()
        assert (server.data / "portal.lock").exists()  # never unlinked
        assert not (server.data / "portal.db-wal").exists()


def test_a_portal_that_was_asked_to_stop_stops(tmp_path: Path) -> None:
    with running_portal(tmp_path / "data") as server:
        assert server.owner().post("/internal/stop").status_code == 200
        assert server.process is not None and server.process.wait(5) == 0


def test_an_embedded_portal_leaves_when_idle_but_not_while_the_owner_lives(tmp_path: Path) -> None:
    lock = tmp_path / "writer.lock"
    handle = os.open(lock, os.O_CREAT | os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with running_portal(tmp_path / "data", "--embedded", "--idle-timeout", "0.3", "--owner-lock", str(lock)) as server:
        assert server.process is not None
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(1.5)
        os.close(handle)
        assert server.process.wait(5) == 0


def test_an_embedded_portal_that_was_asked_to_stay_stays(tmp_path: Path) -> None:
    with running_portal(tmp_path / "data", "--embedded", "--idle-timeout", "0.5") as server:
        assert server.owner().post("/internal/stay").json() == {"stays": True}
        assert server.process is not None
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(1.5)


def test_a_newcomer_waits_for_a_portal_that_is_leaving(tmp_path: Path) -> None:
    with running_portal(tmp_path / "data") as server:
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not (server.data / "address.json").exists(), 5, "the address stayed")
        second = PortalServer(tmp_path / "data")
        try:
            second.start()
            assert second.owner().get("/internal/health").status_code == 200
        finally:
            second.close()


def test_a_stale_socket_of_a_killed_portal_is_in_nobodys_way(tmp_path: Path) -> None:
    with running_portal(tmp_path / "data") as server:
        server.kill()
        assert (server.data / "portal.sock").exists()
        server.start()
        assert server.owner().get("/internal/health").json()["pid"] == server.address["pid"]


def test_a_folder_with_a_very_long_name_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    with running_portal(tmp_path / ("x" * 120)) as server:
        assert len(server.address["socket"]) <= 107
        assert server.owner().get("/internal/health").status_code == 200


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    from seclea.portal.database import make_engine

    with running_portal(tmp_path / "data") as server:
        server.stop()
        engine = make_engine(server.data / "portal.db", readonly=False)
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        engine.dispose()
        started = subprocess.run(server.command(), capture_output=True, text=True, timeout=20, cwd=ROOT)
        assert started.returncode == 1 and "newer seclea" in started.stderr


def seclea_portal(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    program = "import sys; from seclea.portal.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, cwd=ROOT)


@pytest.mark.parametrize("served", [False, True])
def test_users_and_organizations_are_added_whether_the_portal_runs_or_not(tmp_path: Path, served: bool) -> None:
    data = tmp_path / "data"
    server = PortalServer(data)
    try:
        if served:
            server.start()
        made = seclea_portal("--data", str(data), "org", "add", "Acme")
        assert made.returncode == 0 and made.stdout.startswith("organization Acme: "), made.stderr
        again = seclea_portal("--data", str(data), "org", "add", "Acme")
        assert again.returncode == 1 and "already exists" in again.stderr
        add = ("--data", str(data), "user", "add", "ada", "--organization", "Acme", "--password-stdin")
        assert seclea_portal(*add, given="correct horse\n").returncode == 0
        again = seclea_portal(*add, given="correct horse\n")
        assert again.returncode == 1 and "already exists" in again.stderr
        nowhere = seclea_portal(
            "--data", str(data), "user", "add", "bob", "--organization", "None", "--password-stdin", given="x\n"
        )
        assert nowhere.returncode == 1 and "no organization" in nowhere.stderr
        if not served:
            server.start()
        assert [item["name"] for item in server.login("ada").get("/organization/").json()] == ["Acme"]
        assert "Acme" in [item["name"] for item in server.owner().get("/organization/").json()]
        assert server.tcp().post("/api/token/obtain/", json={"username": "bob", "password": "x"}).status_code == 401
    finally:
        server.close()


def test_a_missing_package_is_named_with_the_way_to_install_it(tmp_path: Path) -> None:
    program = (
        "import sys, importlib.util as u; real = u.find_spec;"
        "u.find_spec = lambda name, *a: None if name == 'fastapi' else real(name, *a);"
        "from seclea.portal.cli import main; sys.exit(main(['--data', sys.argv[1]]))"
    )
    said = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert said.returncode == 1 and 'pip install "seclea[portal]"' in said.stderr


def test_importing_the_package_loads_nothing_of_the_extra() -> None:
    program = (
        "import sys, seclea.portal, seclea.portal.cli, json;"
        "print(json.dumps([m for m in sys.modules if m.split('.')[0] in ('fastapi', 'sqlalchemy', 'uvicorn', 'jinja2')]))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(said.stdout) == []


def test_the_migrations_make_the_tables_that_the_code_knows(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from seclea.portal import database
    from seclea.portal.tables import metadata

    engine = database.make_engine(tmp_path / "portal.db", readonly=False)
    database.migrate(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
    engine.dispose()
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    script = ScriptDirectory.from_config(config)
    assert tuple(item.revision for item in reversed(list(script.walk_revisions()))) == database.SCHEMA_VERSIONS
