import os
import pickle
from pathlib import Path

import pytest

from seclea import settings
from seclea.errors import ConfigurationError
from seclea.settings import Limits, Origin, Settings, format_size, home_directory, load, parse_size
from seclea.settings import home as home_module


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A user's home and a project root, both empty, and an environment that names the first."""
    (tmp_path / "home").mkdir()
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "home", tmp_path / "project", {"HOME": str(tmp_path / "home")}


def rc(directory: Path, text: str) -> Path:
    path = directory / ".seclearc"
    path.write_text(text)
    return path


def refused(environ, root=None, **arguments) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(root, environ, arguments)
    return str(caught.value)


# --- order and origins


def test_without_files_everything_is_default(places):
    resolved = load(environ=places[2])
    assert resolved.settings == Settings()
    assert set(resolved.origins) == set(settings.KEYS)
    assert set(resolved.origins.values()) == {Origin("default")}
    assert resolved.settings.organization == "local" == resolved.settings.auth_url


def test_each_source_overrides_the_one_before_it_and_is_named(places):
    home, project, environ = places
    user_rc = rc(home, 'project = "P1"\norganization = "O1"\nidle_timeout_seconds = 1\n\n[limits]\nmemory = "100MB"\n')
    project_rc = rc(project, '# ours\norganization = "O2"\nidle_timeout_seconds = 2\n')
    environ |= {"SECLEA_IDLE_TIMEOUT_SECONDS": "3", "SECLEA_LIMITS_DISK": "2GB", "SECLEA_PLATFORM_URL": "https://e"}
    resolved = load(
        environ=environ, arguments={"platform_url": "https://a/", "limits.when_full": "drop", "project": None}
    )
    found, origins = resolved.settings, resolved.origins
    assert (found.project, found.organization, found.idle_timeout_seconds, found.platform_url) == (
        "P1",
        "O2",
        3,
        "https://a",
    )
    assert found.limits == Limits(memory=100 * 10**6, disk=2 * 10**9, when_full="drop")
    assert origins["project"] == Origin("file", f"{user_rc}:1")
    assert origins["organization"] == Origin("file", f"{project_rc}:2")
    assert origins["limits.memory"] == Origin("file", f"{user_rc}:6")
    assert origins["idle_timeout_seconds"] == Origin("environment", "SECLEA_IDLE_TIMEOUT_SECONDS")
    assert origins["limits.disk"] == Origin("environment", "SECLEA_LIMITS_DISK")
    assert origins["platform_url"] == Origin("argument", "platform_url")
    assert origins["auth_url"] == origins["platform_url"]
    assert str(origins["limits.resume_below"]) == "default"


def test_the_project_root_argument_is_where_the_project_file_is_looked_for(places, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    rc(tmp_path / "elsewhere", 'project = "There"')
    assert load(tmp_path / "elsewhere", places[2]).settings.project == "There"


def test_a_project_root_that_is_the_users_home_is_read_once(places, monkeypatch):
    path = rc(places[0], 'project = "P"')
    monkeypatch.chdir(places[0])
    assert load(environ=places[2]).origins["project"] == Origin("file", f"{path}:1")


def test_a_project_root_that_does_not_exist_is_refused(places, tmp_path):
    assert "is no directory" in refused(places[2], tmp_path / "nowhere")


def test_a_deleted_working_directory_does_no_harm(places, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert load(environ=places[2]).settings == Settings()


def test_an_empty_environment_variable_counts_as_not_set(places):
    assert load(environ=places[2] | {"SECLEA_PROJECT": "", "SECLEA_LIMITS_MEMORY": " "}).settings == Settings()


def test_arguments_may_be_nested_or_a_limits_value(places):
    assert load(environ=places[2], arguments={"limits": {"disk": "1GB"}}).settings.limits.disk == 10**9
    assert load(environ=places[2], arguments={"limits": Limits(disk=10**8)}).settings.limits == Limits(disk=10**8)


def test_a_ca_bundle_in_a_file_is_looked_for_beside_that_file(places, monkeypatch):
    rc(places[0], 'ca_bundle = "ca.pem"')
    assert load(environ=places[2]).settings.ca_bundle == str(places[0] / "ca.pem")


# --- files that are wrong


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('project = "P"\norganisation = "A"', 2, "unknown key organisation. Did you mean organization?"),
        ('[limits]\nmemroy = "1GB"', 2, "unknown key limits.memroy. Did you mean limits.memory?"),
        ('\nmemory = "1GB"', 2, "unknown key memory. It belongs under [limits]."),
        ('[limits]\ndisk = "1GB"\nproject = "P"', 3, "limits.project. It belongs above the first [table]."),
        ('limits = "1GB"', 1, "It is a table: write [limits]"),
        ('password = "x"', 1, "use `seclea login`"),
        ("colour = 3", 1, "Known keys: project, organization"),
        ('limits = { memory = "1GB", speed = 3 }', 1, "unknown key limits.speed"),
        ('note = """\nproject = 5\n"""', 1, "unknown key note"),
        ("project = 5", 1, "project = 5: must be text"),
        ('project = ""', 1, "must be text that is not empty"),
        ('a = """\n\n"""\n[limits]\nmemory = 1', 1, "unknown key a"),
        ('[limits]\n\nmemory = "lots"', 3, "limits.memory = 'lots': must be a size such as \"512MB\""),
        ('[limits]\nmemory = "512"', 2, "must be a size"),
        ("[limits]\nmemory = 1e9", 2, "must be a size"),
        ("[limits]\nmemory = true", 2, "must be a size"),
        ('[limits]\nmemory = "1MB"', 2, "must be 64MB or more"),
        ("[limits]\nmin_free_disk = -1", 2, "must be 0B or more"),
        ("[limits]\nresume_below = 1.5", 2, "must be a number from 0.1 to 0.95"),
        ("[limits]\nresume_below = nan", 2, "must be a number"),
        ("limits.wait_timeout_seconds = inf", 1, "must be a number from 0 to 604800"),
        ("idle_timeout_seconds = false", 1, "must be a number"),
        ('"limits".when_full = "stop"', 1, 'must be "wait", "raise" or "drop"'),
        ('platform_url = "portal.example.com"', 1, 'must be "local" or an address'),
        ('platform_url = "https://p/?x=1"', 1, 'must be "local" or an address'),
        ("project = P", 1, "no valid TOML"),
        ('project = "P"\n\n[limits', 3, "no valid TOML"),
        ('project = "P"\nproject = "Q"', 2, "no valid TOML"),
        ('project = """', 1, "no valid TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_line(places, text, line, words):
    path = rc(places[1], text)
    message = refused(places[2])
    assert message.startswith(f"{path}:{line}: "), message
    assert words in message


def test_a_password_in_an_address_is_refused_and_not_repeated(places):
    message = refused(places[2], platform_url="https://ann:s3cret@p.example")
    assert "s3cret" not in message and "ann" not in message
    assert "`seclea login`" in message


def test_a_file_that_is_no_utf8_is_named_with_its_line(places):
    (places[1] / ".seclearc").write_bytes(b'project = "P"\norganization = "\xff"')
    assert ":2: not UTF-8" in refused(places[2])


def test_a_file_with_windows_line_ends_and_byte_order_mark_is_read(places):
    (places[1] / ".seclearc").write_bytes(b'\xef\xbb\xbfproject = "P"\r\n[limits]\r\ndisk = "1.5GiB"\r\n')
    resolved = load(environ=places[2])
    assert resolved.settings.limits.disk == 3 * 2**29
    assert resolved.origins["limits.disk"].where.endswith(":3")


def test_a_directory_in_the_files_place_is_refused(places):
    (places[1] / ".seclearc").mkdir()
    assert "cannot be read: Is a directory" in refused(places[2])


# --- environment and arguments that are wrong


@pytest.mark.parametrize(
    ("variable", "guess"),
    [
        ("SECLEA_ORGANISATION", "SECLEA_ORGANIZATION"),
        ("SECLEA_LIMIT_MEMORY", "SECLEA_LIMITS_MEMORY"),
        ("SECLEA_USER_NAME", "SECLEA_USERNAME"),
    ],
)
def test_a_misspelt_variable_is_refused(places, variable, guess):
    assert refused(places[2] | {variable: "x"}) == f"{variable}: unknown environment variable. Did you mean {guess}?"


def test_other_variables_are_left_alone(places):
    extra = {"SECLEA_DEPLOY_COLOUR": "x", "SECLEA_RUN": "r", "SECLEA_HOME": "/x", "SECLEA_PASSWORD": "p"}
    assert load(environ=places[2] | extra).settings == Settings()


def test_a_wrong_value_names_its_variable_or_argument(places):
    message = refused(places[2] | {"SECLEA_LIMITS_DISK": "ten"})
    assert message.startswith("SECLEA_LIMITS_DISK: limits.disk = 'ten': must be a size")
    assert refused(places[2], organization=7).startswith("organization: organization = 7")
    assert "argument organisation: unknown key" in refused(places[2], organisation="A")


# --- values


@pytest.mark.parametrize(
    ("text", "count"),
    [("512MB", 512 * 10**6), ("10GB", 10**10), ("1.5GiB", 3 * 2**29), ("0B", 0), (" 2 kib ", 2048), ("1tb", 10**12)],
)
def test_sizes_are_read(text, count):
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1", "1.GB", "1GBB", "1e3MB", "١GB1"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


@pytest.mark.parametrize("count", [0, 999, 1000, 1_500_000, 512 * 10**6, 10**10, 123_456_789_012, 5 * 10**15])
def test_sizes_for_people_read_back_within_a_percent(count):
    assert abs(parse_size(format_size(count)) - count) <= count / 100


def test_settings_survive_json_and_pickle_and_leave_out_what_they_do_not_know():
    original = Settings(project="P", platform_url="https://p", limits=Limits(memory=10**9, when_full="raise"))
    body = original.to_json()
    assert Settings.from_json(body) == original == pickle.loads(pickle.dumps(original))
    body["later"] = 1
    body["limits"] |= {"later": 2}
    assert Settings.from_json(body) == original
    assert Settings.from_json({}) == Settings()


# --- the home directory


def test_the_home_is_named_or_in_the_state_directory(tmp_path):
    environ = {"HOME": str(tmp_path)}
    assert home_directory(environ) == (tmp_path / ".local/state/seclea", "")
    assert home_directory(environ | {"XDG_STATE_HOME": str(tmp_path / "s")}).path == tmp_path / "s/seclea"
    assert home_directory(environ | {"XDG_STATE_HOME": "s"}).path == tmp_path / ".local/state/seclea"
    assert home_directory(environ | {"SECLEA_HOME": str(tmp_path / "x")}).path == tmp_path / "x"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "lustre", "9p", "fuse.sshfs", "ceph", "gpfs", "beegfs", "afs"])
def test_a_home_on_a_network_file_system_moves_to_this_machine(tmp_path, monkeypatch, kind):
    point = tmp_path / "net work"
    point.mkdir()
    escaped = str(point).replace(" ", "\\040")
    mounts = f"/dev/sda / ext4 rw 0 0\nautofs {escaped} autofs rw 0 0\nserver:/x {escaped} {kind} rw 0 0\n"
    monkeypatch.setattr(home_module, "_mounts", lambda: mounts)
    choice = home_directory({"SECLEA_HOME": str(point / "deep" / "home")})
    assert choice.path.parent == Path(f"/var/tmp/seclea-{os.getuid()}")
    assert f"({kind}); using {choice.path} instead." in choice.reason
    assert home_directory({"SECLEA_HOME": str(point / "other")}).path != choice.path
    assert home_directory({"SECLEA_HOME": str(choice.path)}) == (choice.path, "")


def test_a_local_mount_below_a_network_one_is_local(tmp_path, monkeypatch):
    mounts = f"server:/ / nfs rw 0 0\n/dev/sdb {tmp_path} xfs rw 0 0\n"
    monkeypatch.setattr(home_module, "_mounts", lambda: mounts)
    assert home_directory({"SECLEA_HOME": str(tmp_path / "home")}).reason == ""


def test_where_everything_is_on_the_network_some_fallback_is_still_named_once(tmp_path, monkeypatch):
    monkeypatch.setattr(home_module, "_mounts", lambda: "server:/ / nfs rw 0 0\n")
    choice = home_directory({"SECLEA_HOME": str(tmp_path)})
    assert "nfs" in choice.reason
    assert home_directory({"SECLEA_HOME": str(choice.path)}) == (choice.path, "")


def test_a_home_that_cannot_be_written_moves(tmp_path):
    (tmp_path / "file").write_text("")
    choice = home_directory({"HOME": str(tmp_path / "file")})
    assert str(choice.path).startswith(f"/var/tmp/seclea-{os.getuid()}/")
    assert "is no directory" in choice.reason


def test_a_home_that_was_named_but_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"SECLEA_HOME: .* is no directory"):
        home_directory({"SECLEA_HOME": str(tmp_path / "file" / "home")})


def test_somebody_elses_directory_is_not_used_as_a_fallback(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / f"seclea-{os.getuid()}").symlink_to(tmp_path)
    monkeypatch.setattr(home_module, "_FALLBACKS", (str(tmp_path / "a"), str(tmp_path / "b")))
    (tmp_path / "file").write_text("")
    choice = home_directory({"HOME": str(tmp_path / "file")})
    assert choice.path.parent.parent == tmp_path / "b"
