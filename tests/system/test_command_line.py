"""``seclea COMMAND``: exit codes, and what scripts may rely on."""

import json
import urllib.request

import seclea
from seclea.ledger.anchor import anchor_of
from tests.contract.fault_portal import Answer
from tests.pipeline import PipelineHome, WillingPortal, kill, until

LOGS = """
    from seclea import SecleaAI
    seclea = SecleaAI("Claims")
    run = seclea.start_training_run("first")
    run.log({"loss": 1.0})
    run.finish()
    print(seclea.flush(20).done, flush=True)
    """

# The stable form of `seclea status --json`, key by key (docs/reference.md). A list holds one such object per thing.
FORM = {
    "version": int,
    "home": str,
    "settings_problem": None,
    "writer": {"pid": int, "trouble": None, "started": str},
    "sender": {"pid": int, "restarts": int, "trouble": None},
    "clients": [int],
    "paused": bool,
    "paused_reason": None,
    "paused_since": None,
    "pauses": {"count": int, "seconds": (int, float), "by_reason": {}},
    "refused_payloads": int,
    "usage": {
        "memory_bytes": int,
        "ring_bytes": int,
        "disk_bytes": int,
        "reserved_bytes": int,
        "free_disk_bytes": int,
    },
    "limits_trouble": None,
    "kept_here_gone": {"records": int, "points": int},
    "limits": {"memory": int, "disk": int, "min_free_disk": int, "resume_below": float, "when_full": str},
    "records": dict,
    "pending": {"records": int, "bytes": int},
    "delivered": {"records": int, "points": int, "bytes": int},
    "failed": int,
    "held": int,
    "failed_or_held": [{"record": int, "kind": str, "name": (str, type(None)), "status": str, "reason": str}],
    "destinations": [
        {
            "platform_url": str,
            "auth_url": str,
            "organization": str,
            "address": str,
            "logged_in": bool,
            "state": str,
            "do": None,
            "breaker": {"state": str, "failures": int, "seconds_left": (float, type(None))},
            "hold": None,
            "hold_since": None,
            "last_error": None,
            "failing_since": None,
            "next_try_seconds": (float, type(None)),
            "requests": int,
            "retries": int,
            "failed_attempts": [{"reason": str, "count": int}],
            "pending": {"records": int, "bytes": int},
            "delivered": {"records": int, "points": int, "bytes": int},
        }
    ],
    "left_out": [str],
    "damage": (dict, type(None)),
    "ended_by_writer": [{"run": str, "name": str, "status": str, "reason": str}],
    "without_end": [{"run": str, "name": str, "reason": str}],
    "left_out_by_reason": [{"reason": str, "count": int, "last": str}],
}


def check_form(value: object, form: object, where: str = "status") -> None:
    if isinstance(form, dict):
        assert isinstance(value, dict), where
        assert value.keys() == form.keys(), where
        for key, inner in form.items():
            check_form(value[key], inner, f"{where}.{key}")
    elif isinstance(form, list):
        assert isinstance(value, list), where
        for item in value:
            check_form(item, form[0], f"{where}[]")
    elif form is None:
        assert value is None or isinstance(value, str), where
    else:
        assert isinstance(value, form), f"{where}: {value!r}"  # type: ignore[arg-type]


def status(home: PipelineHome, code: int = 0) -> dict[str, object]:
    ran = home.command("status", "--json")
    assert (ran.returncode, ran.stderr) == (code, "")
    found: dict[str, object] = json.loads(ran.stdout)
    return found


def test_status_as_json_has_exactly_the_documented_keys(home: PipelineHome, portal: WillingPortal) -> None:
    home.log_in(portal.url)
    portal.on("POST", "/collection/training-runs", Answer(400, {"detail": "No such thing."}))
    script = home.script(LOGS, "print(seclea.complete(20).done, flush=True)", "input()", SECLEA_PLATFORM_URL=portal.url)
    script.hear()
    script.hear()
    now = status(home, 1)
    check_form(now, FORM)
    assert now["writer"]["pid"] == home.writer_pid()  # type: ignore[index]
    assert (now["failed"], now["held"]) == (1, 2)
    assert now["sender"] == {"pid": home.sender_pid(), "restarts": 0, "trouble": None}
    assert now["clients"] == [script.pid]
    assert now["records"] == {
        "project": {"Completed": 1},
        "training_run": {"Failed": 1},
        "metrics": {"Transmitting": 1},
        "finish": {"Transmitting": 1},
    }
    troubled = now["failed_or_held"]
    assert isinstance(troubled, list)
    assert [(one["kind"], one["status"]) for one in troubled] == [
        ("training_run", "Failed"),
        ("metrics", "held"),
        ("finish", "held"),
    ]
    assert "No such thing" in troubled[0]["reason"]
    assert "'first' was refused" in troubled[1]["reason"]
    assert now["delivered"] == {"records": 1, "points": 0, "bytes": home.rows("SELECT sum(bytes) FROM totals")[0][0]}
    script.tell()
    script.end()


def test_status_tells_a_home_that_never_was_from_one_that_is_stopped(home: PipelineHome) -> None:
    now = status(home)
    assert now["ledger"] == f"There is no ledger at {home.home.ledger} yet."
    assert (now["writer"], now["records"]) == (
        {"pid": None, "trouble": None, "started": None},
        {},
    )
    assert not home.path.exists(), "looking makes nothing"
    home.log_in(home.closed_url)  # or it would be on hold
    home.run(LOGS)
    assert home.command("stop").stdout == "Stopped. 4 records wait for the next start.\n"
    now = status(home)
    assert "ledger" not in now
    assert now["pending"]["records"] == 4  # type: ignore[index]
    text = home.command("status")
    assert text.returncode == 0
    assert "\npipeline   not running; 4 records wait for its next start" in text.stdout
    assert " 4 records (" in text.stdout and ") pending, 0 records (0B) delivered" in text.stdout


def test_flush_waits_for_every_client_of_the_home(home: PipelineHome) -> None:
    nothing = home.command("flush")
    assert (nothing.returncode, nothing.stdout) == (0, "Nothing was ever recorded here.\n")
    script = home.script(LOGS, "for step in range(50): run = seclea.start_training_run()", "print()", "input()")
    script.hear()
    script.hear()
    kill(home.writer_pid(), *home.pids_of("seclea.sender"))
    flushed = home.command("flush")
    assert flushed.returncode == 0, flushed.stderr
    assert flushed.stdout == "Durable. 54 records are still to be delivered.\n"
    assert home.rows("SELECT count(*) FROM records WHERE kind = 'training_run'") == [(51,)]


def test_a_flush_that_cannot_be_done_says_so_and_fails(home: PipelineHome) -> None:
    home.run(LOGS)
    home.command("stop")
    home.home.ledger.write_bytes(b"this is no database, and it is left as it is" * 100)
    anchor_of(home.home.ledger).unlink()  # with it, it would be ours and damaged
    flushed = home.command("flush", "--timeout", "1")
    assert flushed.returncode == 1
    assert "not durable within 1 s" in flushed.stderr
    assert home.home.ledger.read_bytes().startswith(b"this is no database")
    assert str(home.home.ledger) in (home.home.logs / "writer.log").read_text()


def test_config_shows_each_value_and_where_it_came_from(home: PipelineHome) -> None:
    (home.user / ".seclearc").write_text('organization = "Acme"\n')
    (home.work / ".seclearc").write_text('project = "Claims"\n\n[limits]\ndisk = "2GB"\n')
    ran = home.command("config", "--origin", SECLEA_LIMITS_MEMORY="1GB")
    assert (ran.returncode, ran.stderr) == (0, "")
    found = dict(line.split(" = ", 1) for line in ran.stdout.splitlines())
    found = {name.strip(): " ".join(value.split()) for name, value in found.items()}
    assert found["project"] == f"'Claims' # file {home.work}/.seclearc:1"
    assert found["organization"] == f"'Acme' # file {home.user}/.seclearc:1"
    assert found["limits.disk"] == f"2000000000 # file {home.work}/.seclearc:4"
    assert found["limits.memory"] == "1000000000 # environment SECLEA_LIMITS_MEMORY"
    assert found["limits.when_full"] == "'wait' # default"
    assert found["platform_url"] == f"'{home.closed_url}' # environment SECLEA_PLATFORM_URL"
    assert found["home"] == f"'{home.path}'"
    assert "#" not in home.command("config").stdout


def test_wrong_use_is_exit_code_2_and_one_line(home: PipelineHome) -> None:
    (home.work / ".seclearc").write_text('organisation = "Acme"\n')
    ran = home.command("config")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.splitlines() == [
        f"seclea: {home.work}/.seclearc:1: unknown key organisation. Did you mean organization?"
    ]
    (home.work / ".seclearc").unlink()
    assert home.command("no-such-command").returncode == 2
    ran = home.command("login", "--username", "ada", "--platform-url", "local", "--password-stdin")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "needs no login" in ran.stderr and "--platform-url" in ran.stderr
    ran = home.command("login", "--password-stdin")
    assert ran.returncode == 2
    assert "--username" in ran.stderr
    ran = home.command("login", "--username", "ada")
    assert ran.returncode == 2
    assert "--password-stdin" in ran.stderr


def test_a_login_at_a_portal_that_is_away_is_exit_code_1(home: PipelineHome) -> None:
    ran = home.command("login", "--username", "ada", "--password-stdin", text="secret\n")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert home.closed_url in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_stop_where_nothing_runs_is_done_at_once(home: PipelineHome) -> None:
    ran = home.command("stop")
    assert (ran.returncode, ran.stdout) == (0, "Stopped.\n")
    assert not home.path.exists()


def test_the_version_is_said(home: PipelineHome) -> None:
    assert home.command("--version").stdout == f"seclea {seclea.__version__}\n"


def test_the_homes_own_portal_is_started_on_demand_and_a_token_of_it_opens_it(home: PipelineHome) -> None:
    """The one test here with the embedded portal: records delivered, `seclea token`, and that `seclea stop` takes it along."""
    printed = home.run(LOGS, "result = seclea.complete(30)", "print(result.done, result.delivered)",
                       SECLEA_PLATFORM_URL="local")  # fmt: skip
    assert printed.splitlines() == ["True", "True 4"]
    ran = home.command("token")
    assert (ran.returncode, ran.stderr) == (0, "")
    token = ran.stdout.strip()
    assert token.count(".") == 2
    url = json.loads((home.home.portal / "address.json").read_text())["url"]
    request = urllib.request.Request(f"{url}/organization/", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=20) as reply:
        assert [one["name"] for one in json.loads(reply.read())] == ["local"]
    assert status(home)["destinations"][0]["address"] == url  # type: ignore[index]
    until(lambda: home.pids_of("seclea.portal"), "the portal")
    assert home.command("stop").returncode == 0
    until(lambda: not home.processes(), "every process to be gone", 5.0)
    for socket in (home.home.socket, home.home.portal_socket):
        assert not socket.exists()


def test_a_home_that_cannot_be_one_is_named(home: PipelineHome) -> None:
    (home.work / "file").touch()
    ran = home.command("flush", SECLEA_HOME=home.work / "file" / "home")
    assert ran.returncode == 2
    assert f"SECLEA_HOME: {home.work}/file/home cannot be used: {home.work}/file is no directory" in ran.stderr
