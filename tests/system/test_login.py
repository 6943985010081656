"""A real portal over TCP: users, passwords, tokens; what is refused at the call, and that no secret leaves its place."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from seclea import AuthenticationError, ConfigurationError, SecleaAI, UnknownOrganizationError
from seclea.api.tokens import TokenStore
from tests.contract.portal_server import PortalServer, running_portal
from tests.pipeline import CANARY, PipelineHome, until

PASSWORD = f"pass-{CANARY}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalServer]:
    """A portal with the organization Acme and its member ada, made as an administrator does."""
    data = tmp_path_factory.mktemp("portal") / "data"
    with running_portal(data) as running:
        for arguments in (["org", "add", "Acme"], ["user", "add", "ada", "--organization", "Acme", "--password-stdin"]):
            subprocess.run(
                [sys.executable, "-m", "seclea", "portal", *arguments, "--data", str(data)],
                input=PASSWORD + "\n",
                text=True,
                check=True,
                timeout=60,
            )
        yield running


def client(server: PortalServer, password: str = PASSWORD, organization: str = "Acme") -> SecleaAI:
    return SecleaAI("Claims", organization, platform_url=server.url, username="ada", password=password)


def test_a_wrong_password_is_refused_at_the_call_and_not_repeated(home: PipelineHome, server: PortalServer) -> None:
    with pytest.raises(AuthenticationError) as caught:
        client(server, password="wrong-" + CANARY)
    assert type(caught.value) is AuthenticationError
    assert server.url in str(caught.value)
    assert "ada" in str(caught.value) or "user name" in str(caught.value)
    assert CANARY not in repr(caught.value)
    assert not home.home.ledger.exists(), "nothing was started"


def test_an_unknown_organization_is_refused_at_the_call_with_those_that_there_are(
    home: PipelineHome, server: PortalServer
) -> None:
    with pytest.raises(UnknownOrganizationError) as caught:
        client(server, organization="Acne")
    assert "'Acne'" in str(caught.value)
    assert server.url in str(caught.value)
    assert "There are: Acme." in str(caught.value)


def test_an_address_with_a_wrong_scheme_is_refused_at_the_call(home: PipelineHome, server: PortalServer) -> None:
    address = server.url.removeprefix("http://")
    with pytest.raises(ConfigurationError) as caught:
        SecleaAI("Claims", "Acme", platform_url=address, username="ada", password=PASSWORD)
    assert f"platform_url = '{address}'" in str(caught.value)
    assert "https://portal.example.com" in str(caught.value)


def test_a_portal_that_does_not_answer_is_no_error_and_nothing_is_lost(
    home: PipelineHome, capfd: pytest.CaptureFixture[str]
) -> None:
    away = SecleaAI("Claims", "Acme", platform_url=home.closed_url, username="ada", password=PASSWORD)
    away.start_training_run().log({"loss": 1.0})
    assert away.flush(20).done
    said = capfd.readouterr().err
    assert home.closed_url in said
    assert "What is logged is kept and sent later." in said
    assert home.steps() == [0]


def test_without_a_login_everything_is_kept_and_goes_out_after_seclea_login(
    home: PipelineHome, server: PortalServer
) -> None:
    there = {"SECLEA_PLATFORM_URL": server.url, "SECLEA_ORGANIZATION": "Acme"}
    script = home.script(
        """
        from seclea import SecleaAI
        seclea = SecleaAI("Claims later")
        run = seclea.start_training_run()
        run.log({"loss": 1.0})
        print(seclea.flush(20).done, flush=True)
        input()
        result = seclea.complete(timeout=30)
        print(result.done, result.delivered, *result.reasons)
        """,
        **there,
    )
    assert script.hear() == "True"
    until(lambda: home.rows("SELECT 1 FROM destinations WHERE hold IS NOT NULL"), "the destination on hold")
    status = home.command("status", **there)
    assert status.returncode == 1
    assert "seclea login" in status.stdout
    wrong = home.command("login", "--username", "ada", "--password-stdin", text="wrong\n", **there)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "seclea: " in wrong.stderr and server.url in wrong.stderr
    right = home.command("login", "--username", "ada", "--password-stdin", text=PASSWORD + "\n", **there)
    assert (right.returncode, right.stderr) == (0, "")
    assert right.stdout == f"Logged in to {server.url} as ada.\n"
    script.tell()
    assert script.end().startswith("True 3")


def test_login_delivers_over_tcp_with_tokens_and_no_secret_leaves_the_token_store(
    home: PipelineHome, server: PortalServer
) -> None:
    seclea = client(server)
    run = seclea.start_training_run("over tcp", params={"rate": 0.1})
    for step in range(10):
        run.log({"loss": 1 / (step + 1)}, step=step)
    csv = home.work / "claims.csv"
    csv.write_text("claim,paid\n1,2.5\n2,3.5\n")
    dataset = seclea.upload_dataset(csv, "Claims", metadata={"outputs": ["paid"]})
    run.finish()
    result = seclea.complete(timeout=30)
    assert result.done, result.reasons
    assert seclea.status()["destinations"][0]["logged_in"] is True

    session = server.login("ada", PASSWORD)
    organization = session.get("/organization/", params={"name": "Acme"}).json()[0]["uuid"]
    scope = {"organization": organization}
    curve = session.get(f"/collection/training-runs/{run.uuid}/metrics", params={**scope, "key": "loss"}).json()
    assert curve["steps"] == list(range(10))
    assert curve["values"] == [1 / (step + 1) for step in range(10)]
    stored = session.get(f"/collection/datasets/{dataset.uuid}/content", params=scope)
    assert stored.headers.get("Content-Length") == str(dataset.size)
    assert session.get(f"/collection/training-runs/{run.uuid}", params=scope).json()["status"] == "finished"

    tokens = TokenStore(home.home.tokens).read(server.url)
    assert tokens is not None and tokens.refresh is not None
    assert [path for path in home.home.tokens.iterdir() if path.stat().st_mode & 0o077] == []
    secrets = {CANARY, tokens.access.reveal(), tokens.refresh.reveal()}
    assert home.leaks() == []
    for secret in secrets:
        for pid in (home.writer_pid(), home.sender_pid()):
            for name in ("cmdline", "environ"):
                assert secret.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
        assert secret not in str(seclea.status())
        assert secret not in home.command("status", "--json").stdout
    assert os.listdir(home.runtime / "seclea"), "the sockets are where they are looked for"
