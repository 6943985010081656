"""The ways to a portal that is not straight ahead: proxies of the environment, a private authority, IPv6 (R15, S14)."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from requests.utils import select_proxy

from seclea.api.replies import outcome_of
from seclea.api.session import NotReached, NotTrusted, ProxyUnusable, Session
from seclea.api.tokens import Token
from seclea.contract import Verdict
from seclea.errors import ConfigurationError
from tests.contract.fault_portal import Answer, FaultPortal, fault_portal
from tests.contract.fault_proxy import fault_proxy

CANARY = "canary-0b5ad2c1"
PASSWORD = "proxy-canary-77d0"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle")


@pytest.fixture(autouse=True)
def no_ways_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class ConnectProxy:
    """An HTTP proxy that knows CONNECT: every tunnel leads to ``portal``, as if it knew the way there."""

    def __init__(self, portal: tuple[str, int], answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> None:
        self.heads: list[bytes] = []
        self._portal = portal
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self._open: list[socket.socket] = []

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            self.heads.append(head)
            client.sendall(self._answer)
            if b" 200 " not in self._answer:
                client.close()
                continue
            portal = socket.create_connection(self._portal)
            self._open += [client, portal]
            for source, target in ((client, portal), (portal, client)):
                self._threads.append(threading.Thread(target=_pour, args=(source, target)))
                self._threads[-1].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for one in self._open:
            one.close()


def _pour(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def connect_proxy(portal: FaultPortal, **options: Any) -> Iterator[ConnectProxy]:
    proxy = ConnectProxy(portal._server.server_address[:2], **options)
    try:
        yield proxy
    finally:
        proxy.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A private authority, and a certificate that it gave to portal.invalid and ::1."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("tls")
    names = folder / "names"
    names.write_text("subjectAltName=DNS:portal.invalid,IP:::1,IP:127.0.0.1\n")
    curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for command in (
        f"req -x509 {curve} -days 30 -subj /CN=authority -keyout {folder}/ca.key -out {folder}/ca.pem",
        f"req {curve} -subj /CN=portal -keyout {folder}/portal.key -out {folder}/portal.csr",
        f"x509 -req -in {folder}/portal.csr -CA {folder}/ca.pem -CAkey {folder}/ca.key -CAcreateserial -days 30"
        f" -extfile {names} -out {folder}/portal.pem",
    ):
        subprocess.run([openssl, *command.split()], check=True, capture_output=True, timeout=30)
    return {"ca": folder / "ca.pem", "chain": folder / "portal.pem", "key": folder / "portal.key"}


@pytest.fixture
def secure(authority: dict[str, Path]) -> Iterator[FaultPortal]:
    with fault_portal(certificate=(authority["chain"], authority["key"])) as portal:
        portal.on("GET", "/x", Answer(200, {"a": 1}))
        yield portal


# -- proxies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy"])
def test_the_environments_proxy_is_told_the_host_and_nothing_else(
    secure: FaultPortal, authority: dict[str, Path], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect_proxy(secure) as proxy:
        monkeypatch.setenv(variable, f"http://{proxy.url}")
        session = Session("https://portal.invalid", ca_bundle=str(authority["ca"]))
        assert session.request("GET", "/x", token=Token(CANARY)).json() == {"a": 1}
        session.close()
        (head,) = proxy.heads
        assert head.startswith(b"CONNECT portal.invalid:443 ")
        assert CANARY.encode() not in head
    assert secure.last("GET", "/x").cookies == {"access_token": CANARY}


def test_a_portals_certificate_is_verified_through_a_proxy_too(
    secure: FaultPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect_proxy(secure) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy.url}")
        session = Session("https://portal.invalid")
        with pytest.raises(NotTrusted):
            session.request("GET", "/x", token=Token(CANARY))
        session.close()
    assert secure.asked == []


@pytest.mark.parametrize(
    "value", ["portal.invalid", ".invalid", "other.example,portal.invalid", "portal.invalid:8443", "*"]
)
def test_no_proxy_is_heeded_in_its_usual_forms(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", value)
    session = Session("https://portal.invalid:8443")
    assert select_proxy(session.base_url, session._proxies) is None


@pytest.mark.parametrize("value", ["10.1.2.3", "10.0.0.0/8"])
def test_no_proxy_may_name_addresses(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", value)
    near, far = Session("https://10.1.2.3"), Session("https://11.1.2.3")
    assert select_proxy(near.base_url, near._proxies) is None
    assert select_proxy(far.base_url, far._proxies) == "http://proxy.example:3128"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "a.localhost", "127.9.9.9"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_this_machine_is_never_asked_for_through_a_proxy(
    scheme: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://proxy.example:3128")
    assert Session(f"{scheme}://{host}:8000")._proxies == {}


def test_a_proxy_that_wants_a_login_is_named_and_holds(secure: FaultPortal, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect_proxy(secure, answer=b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as proxy:
        monkeypatch.setenv("https_proxy", f"http://ann:{PASSWORD}@{proxy.url}")
        session = Session("https://portal.invalid")
        with pytest.raises(NotReached, match="proxy") as caught:
            session.request("GET", "/x", token=Token(CANARY))
        session.close()
    assert "407" in str(caught.value)
    assert PASSWORD not in str(caught.value) + repr(caught.value) + repr(session)
    assert outcome_of(caught.value).verdict is Verdict.HOLD


def test_a_proxy_that_is_not_there_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with fault_portal() as gone:
        address = gone.url.removeprefix("http://")
    monkeypatch.setenv("https_proxy", f"http://ann:{PASSWORD}@{address}")
    session = Session("https://portal.invalid")
    with pytest.raises(NotReached, match="proxy") as caught:
        session.request("GET", "/x")
    session.close()
    assert PASSWORD not in str(caught.value)
    assert outcome_of(caught.value).verdict is Verdict.UNAVAILABLE


@pytest.mark.parametrize("value", ["socks5://proxy.example:1080", "ftp://proxy.example", "http://proxy.example:port"])
def test_a_proxy_of_a_kind_that_we_cannot_use_is_named_and_holds(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", value)
    session = Session("https://portal.invalid")
    with pytest.raises(ProxyUnusable, match="Set HTTPS_PROXY to http://") as caught:
        session.request("GET", "/x", token=Token(CANARY))
    session.close()
    assert value in str(caught.value)
    assert (outcome_of(caught.value).verdict, caught.value.outcome_unknown) == (Verdict.HOLD, False)


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [f"https://ann:{PASSWORD}@portal.example", f"http://{PASSWORD}@127.0.0.1"])
def test_a_user_or_password_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="without user name") as caught:
        Session(url)
    assert PASSWORD not in str(caught.value)


@contextlib.contextmanager
def over_ipv6(portal: FaultPortal) -> Iterator[int]:
    """A port of ::1 that leads to the portal."""
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 on this machine")
    ends: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                onward = socket.create_connection(portal._server.server_address[:2])
                ends.extend([client, onward])
                for source, target in ((client, onward), (onward, client)):
                    threads.append(threading.Thread(target=_pour, args=(source, target)))
                    threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join()
        listener.close()
        for one in ends:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for one in ends:
            one.close()


def test_an_ipv6_address_is_written_in_brackets_and_works() -> None:
    with fault_portal() as portal, over_ipv6(portal) as port:
        portal.on("GET", "/x", Answer(200, {"a": 1}))
        session = Session(f"http://[::1]:{port}")
        assert session.request("GET", "/x").json() == {"a": 1}
        assert portal.last("GET", "/x").headers["host"] == f"[::1]:{port}"
        session.close()


def test_an_ipv6_address_may_have_a_certificate(secure: FaultPortal, authority: dict[str, Path]) -> None:
    with over_ipv6(secure) as port:
        session = Session(f"https://[::1]:{port}", ca_bundle=str(authority["ca"]))
        assert session.request("GET", "/x").json() == {"a": 1}
        session.close()


@pytest.mark.parametrize("way", ["refused", "silent"])
def test_a_host_whose_ipv6_address_is_dead_is_reached_by_its_other_one(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo
    with fault_portal() as portal, fault_proxy(portal.url) as dead:
        portal.on("GET", "/x", Answer(200, {"a": 1}))
        dead.down() if way == "refused" else dead.deaf()
        port = int(portal.url.rpartition(":")[2])

        def both(host: str, *arguments: Any, **options: Any) -> Any:
            if host != "portal.localhost":
                return resolve(host, *arguments, **options)
            # The first stands for the dead IPv6 address: what a connection to it comes to is the same.
            places = (("127.0.0.1", dead.port), ("127.0.0.1", port))
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", place) for place in places]

        monkeypatch.setattr(socket, "getaddrinfo", both)
        session = Session(f"http://portal.localhost:{port}", connect_timeout_seconds=0.2)
        assert session.request("GET", "/x").json() == {"a": 1}
        assert session.request("GET", "/x").json() == {"a": 1}
        assert len(portal.asked) == 2
        session.close()


# -- a private authority -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_an_authority_of_the_environment_is_trusted_and_the_setting_comes_before_it(
    secure: FaultPortal, authority: dict[str, Path], variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, str(authority["ca"]))
    session = Session(secure.url)
    assert session.request("GET", "/x").json() == {"a": 1}
    session.close()
    empty = tmp_path / "another.pem"
    shutil.copy(authority["chain"], empty)
    other = Session(secure.url, ca_bundle=str(empty))
    with pytest.raises(NotTrusted):
        other.request("GET", "/x")
    other.close()


def test_a_bundle_that_holds_no_certificate_is_named(secure: FaultPortal, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("this is no certificate\n")
    session = Session(secure.url, ca_bundle=str(bundle))
    with pytest.raises(NotTrusted, match=r"bundle\.pem"):
        session.request("GET", "/x", token=Token(CANARY))
    session.close()
