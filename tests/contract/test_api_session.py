"""One request over real sockets: what is sent, what comes back, and what is known when nothing does (R14, R15, S14)."""

import gzip
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from seclea.api import pace, reading
from seclea.api.body import PIECE_BYTES, Part
from seclea.api.session import NoReply, NotReached, NotTrusted, ReplyLost, Session
from seclea.api.tokens import Token
from seclea.errors import ConfigurationError, PortalError, PortalUnavailable, UsageError
from tests.contract.fault_portal import Answer, Fault, FaultPortal, fault_portal, page, unused_port

CANARY = "canary-5f3759df"


@pytest.fixture(params=["tcp", "unix"])
def portal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FaultPortal]:
    with fault_portal(tmp_path / "p.sock" if request.param == "unix" else None) as portal:
        yield portal


@pytest.fixture
def session(portal: FaultPortal) -> Iterator[Session]:
    session = Session(portal.url, unix_socket=portal.unix_socket, read_timeout_seconds=10)
    yield session
    session.close()


def shown(error: BaseException) -> str:
    """Everything that a log, a terminal or a crash reporter could print of an error, locals included."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(report.format()) + repr(error) + str(error.__context__) + str(error.__cause__)


# -- the ordinary way --------------------------------------------------------------------------------------------------


def test_a_request_arrives_as_it_was_meant_and_the_reply_comes_back_whole(
    session: Session, portal: FaultPortal
) -> None:
    portal.on("POST", "/collection/models", Answer(201, {"uuid": "u"}, {"X-Request-Id": "7"}))
    reply = session.request(
        "POST",
        "/collection/models",
        params={"organization": "o & o"},
        json={"name": "ä"},
        headers={"Idempotency-Key": "k"},
    )
    asked = portal.last("POST", "/collection/models")
    assert (asked.query, asked.json) == ({"organization": ["o & o"]}, {"name": "ä"})
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["idempotency-key"] == "k"
    assert asked.headers["user-agent"].startswith("seclea/")
    assert (reply.status, reply.json(), reply.headers["x-request-id"]) == (201, {"uuid": "u"}, "7")


@pytest.mark.parametrize("status", [200, 204, 304, 400, 401, 404, 409, 429, 500, 503])
def test_a_reply_of_any_status_is_a_reply(session: Session, portal: FaultPortal, status: int) -> None:
    portal.on("GET", "/x", Answer(status, b"" if status in (204, 304) else b"{}"))
    assert session.request("GET", "/x").status == status


def test_connections_are_kept_and_nothing_is_tried_twice(session: Session, portal: FaultPortal) -> None:
    ports: set[Any] = set()
    portal.on("GET", "/x", Answer(503, b"", {"Retry-After": "0"}))
    finish = portal._server.finish_request

    def counting(request: Any, address: Any) -> None:
        ports.add(request.fileno())
        finish(request, address)

    portal._server.finish_request = counting  # type: ignore[method-assign]
    for _ in range(5):
        session.request("GET", "/x")
    assert portal.count("GET", "/x") == 5
    assert len(ports) == 1


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3_000_000])
def test_a_body_of_any_size_arrives_byte_for_byte(session: Session, portal: FaultPortal, size: int) -> None:
    portal.on("PUT", "/c", Answer(201))
    content = os.urandom(size)
    session.request("PUT", "/c", content=content)
    asked = portal.last("PUT", "/c")
    assert asked.body == content
    assert "transfer-encoding" not in asked.headers


def test_a_form_is_streamed_with_its_length_and_quoted_names(session: Session, portal: FaultPortal) -> None:
    portal.on("POST", "/f", Answer(201))
    pieces = [os.urandom(100_000) for _ in range(5)]
    parts = [
        Part("name", "Claims – ü".encode()),
        Part("metadata", b'{"a":1}', content_type="application/json"),
        Part("dataset", lambda: iter(pieces), 500_000, filename='a"b\r\n.csv', content_type="text/csv"),
    ]
    session.request("POST", "/f", files=parts)
    asked = portal.last("POST", "/f")
    boundary = asked.headers["content-type"].partition("boundary=")[2].encode()
    fields = [item.strip(b"\r\n").partition(b"\r\n\r\n") for item in asked.body.split(b"--" + boundary)[1:-1]]
    assert [content for _, _, content in fields[:2]] == ["Claims – ü".encode(), b'{"a":1}']
    assert b"".join(pieces) in asked.body
    assert b'filename="a%22b%0D%0A.csv"' in asked.body


def test_a_part_that_cannot_be_read_is_our_error_and_not_the_networks(session: Session, portal: FaultPortal) -> None:
    portal.on("POST", "/f", Answer(201))

    def broken() -> Iterator[bytes]:
        yield b"x" * 10
        raise FileNotFoundError("the chunk is gone")

    with pytest.raises(FileNotFoundError, match="gone"):
        session.request("POST", "/f", files=[Part("dataset", broken, 100)])
    with pytest.raises(ValueError, match="announced"):
        session.request("POST", "/f", files=[Part("dataset", lambda: [b"short"], 100)])
    with pytest.raises(ValueError, match="announced"):
        session.request("POST", "/f", files=[Part("dataset", lambda: [b"much too long"], 3)])


# -- trouble -----------------------------------------------------------------------------------------------------------


def test_a_refused_connection_means_that_nothing_was_sent(tmp_path: Path) -> None:
    tcp = Session(f"http://127.0.0.1:{unused_port()}")
    unix = Session("", unix_socket=tmp_path / "nobody.sock")
    for session in (tcp, unix):
        with pytest.raises(NotReached) as caught:
            session.request("GET", "/x")
        assert caught.value.outcome_unknown is False
        session.close()


def test_a_host_without_an_address_means_that_nothing_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_host(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    with pytest.raises(NotReached, match="Name or service not known"):
        Session("https://portal.invalid").request("GET", "/x")


def test_a_connection_that_does_not_come_about_in_time_means_that_nothing_was_sent() -> None:
    # A listener whose backlog is full answers no further SYN.
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        session = Session(
            f"http://127.0.0.1:{full.getsockname()[1]}", connect_timeout_seconds=0.1, read_timeout_seconds=30
        )
        with pytest.raises(NotReached, match=r"within 0\.1 s"):
            session.request("GET", "/x")
        session.close()
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.LOST, Fault.TRUNCATED])
def test_a_reply_that_does_not_come_whole_leaves_the_outcome_unknown(
    session: Session, portal: FaultPortal, fault: Fault
) -> None:
    portal.on("POST", "/x", Answer(201, {"uuid": "u" * 100}, fault=fault))
    with pytest.raises(ReplyLost) as caught:
        session.request("POST", "/x", json={})
    assert caught.value.outcome_unknown is True
    assert portal.count("POST", "/x") == 1
    portal.on("GET", "/x", Answer(200, {"uuid": "u" * 100}, fault=fault))
    with pytest.raises(ReplyLost):
        session.request("GET", "/x")
    assert portal.count("GET", "/x") == 1
    portal.on("POST", "/x", Answer(201, {"uuid": "u"}))
    assert session.request("POST", "/x", json={}).status == 201


def test_a_reply_that_does_not_come_in_time_leaves_the_outcome_unknown(session: Session, portal: FaultPortal) -> None:
    portal.on("POST", "/x", Answer(fault=Fault.STALLED))
    with pytest.raises(ReplyLost, match="no reply in time"):
        session.request("POST", "/x", json={}, timeout=0.05)


def test_the_body_is_sent_under_the_reading_timeout_not_the_shorter_connecting_one() -> None:
    with fault_portal() as portal:
        portal.on("PUT", "/c", Answer(201))
        session = Session(portal.url, connect_timeout_seconds=0.25, read_timeout_seconds=30)
        timeouts: list[tuple[str, float | None]] = []
        connect, sendall = socket.socket.connect, socket.socket.sendall

        def connecting(self: socket.socket, address: Any) -> None:
            timeouts.append(("connect", self.gettimeout()))
            connect(self, address)

        def sending(self: socket.socket, data: Any, *flags: int) -> None:
            if self.getpeername() == address:
                timeouts.append(("send", self.gettimeout()))
            sendall(self, data, *flags)

        address = portal._server.server_address
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(socket.socket, "connect", connecting)
            patched.setattr(socket.socket, "sendall", sending)
            for _ in range(2):  # on a new connection, and on one kept alive
                session.request("PUT", "/c", content=b"x" * (3 * PIECE_BYTES))
        assert timeouts[0] == ("connect", 0.25)
        assert set(timeouts[1:]) == {("send", 30.0)}
        assert len(timeouts) > 6
        session.close()


def test_what_a_caller_was_handling_does_not_colour_its_next_request(session: Session, portal: FaultPortal) -> None:
    portal.on("POST", "/x", Answer(fault=Fault.RESET))
    try:
        raise urllib3.exceptions.NewConnectionError(None, "of an earlier request")  # type: ignore[arg-type]
    except urllib3.exceptions.NewConnectionError:
        with pytest.raises(ReplyLost):
            session.request("POST", "/x", json={})


@pytest.mark.parametrize("size", [0, 10])
def test_a_reply_with_a_wrong_length_is_not_whole(session: Session, portal: FaultPortal, size: int) -> None:
    portal.on("GET", "/x", Answer(200, b"x" * size, {"Content-Length": str(size + 1)}))
    with pytest.raises(ReplyLost):
        session.request("GET", "/x", timeout=0.2)


def test_a_reply_larger_than_the_limit_is_not_read_to_its_end(
    session: Session, portal: FaultPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_REPLY_BYTES", 100_000)
    portal.on("GET", "/fits", Answer(200, b"x" * 100_000))
    portal.on("GET", "/large", Answer(200, b"x" * 100_001))
    assert len(session.request("GET", "/fits").body) == 100_000
    with pytest.raises(ReplyLost, match="larger than 100000 bytes"):
        session.request("GET", "/large")


def test_a_compressed_reply_is_read_although_nobody_asked_and_a_bomb_is_not(
    session: Session, portal: FaultPortal
) -> None:
    coded = {"Content-Encoding": "gzip"}
    portal.on("GET", "/gzip", Answer(200, gzip.compress(b'{"a":1}'), coded))
    portal.on("GET", "/deflate", Answer(200, zlib.compress(b'{"a":1}'), {"Content-Encoding": "deflate"}))
    portal.on("GET", "/bomb", Answer(200, gzip.compress(bytes(reading.MAX_REPLY_BYTES + 1)), coded))
    portal.on("GET", "/cut", Answer(200, gzip.compress(b"x" * 1000)[:-9], coded))
    portal.on("GET", "/no", Answer(200, b"not gzip at all", coded))
    portal.on("GET", "/odd", Answer(200, b"x", {"Content-Encoding": "br"}))
    assert session.request("GET", "/gzip").json() == {"a": 1}
    assert session.request("GET", "/deflate").json() == {"a": 1}
    assert portal.last("GET", "/gzip").headers["accept-encoding"] == "identity"
    for path in ("/bomb", "/cut", "/no", "/odd"):
        with pytest.raises(ReplyLost):
            session.request("GET", path)


def test_headers_without_end_are_not_read_to_their_end(session: Session, portal: FaultPortal) -> None:
    portal.on("GET", "/many", Answer(200, b"{}", {f"X-{number}": "x" for number in range(200)}))
    portal.on("GET", "/long", Answer(200, b"{}", {"X": "x" * 100_000}))
    for path in ("/many", "/long"):
        with pytest.raises(ReplyLost):
            session.request("GET", path)


def test_a_reply_that_trickles_is_given_up(
    session: Session, portal: FaultPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(0, 10**9, 60))  # a minute from one receive to the next
    monkeypatch.setattr(pace.time, "monotonic", lambda: next(ticks))
    portal.on("GET", "/body", Answer(200, b"x" * 1_000_000))
    portal.on("GET", "/head", Answer(200, b"", {f"X-{number}": "x" * 1000 for number in range(90)}))
    for path in ("/body", "/head"):
        with pytest.raises(ReplyLost, match="no reply in time"):
            session.request("GET", path)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b"\xff", b"[" * 100_000, b"9" * 10_000])
def test_a_body_that_is_no_json_is_a_portal_error(session: Session, portal: FaultPortal, body: bytes) -> None:
    portal.on("GET", "/x", Answer(200, body))
    reply = session.request("GET", "/x")
    with pytest.raises(PortalError, match="no JSON"):
        reply.json()


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_the_token_goes_as_a_cookie_and_cookies_come_back_as_tokens(session: Session, portal: FaultPortal) -> None:
    portal.on("POST", "/t", Answer(200, {}, cookies={"access_token": "new", "refresh_token": '"r"', "other": "x"}))
    reply = session.request("POST", "/t", json={}, token=Token("abc"), cookies={"refresh_token": Token("r0")})
    assert portal.last("POST", "/t").cookies == {"access_token": "abc", "refresh_token": "r0"}
    assert reply.tokens == {"access_token": Token("new"), "refresh_token": Token("r")}
    assert "Set-Cookie" not in reply.headers


def test_a_cookie_is_not_sent_back_unless_it_is_given(session: Session, portal: FaultPortal) -> None:
    portal.on("GET", "/t", Answer(200, {}, cookies={"access_token": "new"}))
    session.request("GET", "/t")
    session.request("GET", "/t")
    assert portal.last("GET", "/t").cookies == {}


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.TRUNCATED])
def test_no_error_shows_a_token_or_a_secret_body_whatever_is_printed_of_it(
    session: Session, portal: FaultPortal, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    portal.on("POST", "/t", Answer(200, {"x": 1}, cookies={"access_token": CANARY}, fault=fault))
    with pytest.raises(NoReply) as caught:
        session.request(
            "POST",
            "/t",
            content=Token(f'{{"password":"{CANARY}"}}'),
            token=Token(CANARY),
            cookies={"refresh_token": Token(CANARY)},
        )
    assert CANARY in portal.last("POST", "/t").body.decode()
    assert CANARY not in shown(caught.value)
    assert CANARY not in caplog.text
    assert CANARY not in repr(session)


def test_no_reply_shows_a_token(session: Session, portal: FaultPortal) -> None:
    portal.on("POST", "/t", Answer(200, {}, cookies={"access_token": CANARY}))
    assert CANARY not in repr(session.request("POST", "/t", json={}))


def test_netrc_and_other_habits_of_the_environment_add_no_credentials(
    session: Session, portal: FaultPortal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login a password {CANARY}\nmachine localhost login a password {CANARY}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    portal.on("GET", "/x", Answer(200))
    session.request("GET", "/x")
    assert "authorization" not in portal.last("GET", "/x").headers


# -- redirects, plain http, proxies, TLS -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_reported_and_neither_the_token_nor_anything_else_follows_it(status: int) -> None:
    with fault_portal() as portal, fault_portal() as other:
        other.on("POST", "/steal", Answer(200, {}))
        other.on("GET", "/steal", Answer(200, {}))
        portal.on("POST", "/x", Answer(status, page().body, {"Location": f"{other.url}/steal"}))
        session = Session(portal.url)
        reply = session.request("POST", "/x", json={}, token=Token(CANARY))
        assert (reply.status, reply.headers["Location"]) == (status, f"{other.url}/steal")
        assert other.asked == []
        session.close()


@pytest.mark.parametrize("url", ["http://portal.example.com", "http://10.0.0.1", "http://0.0.0.0", "http://[::2]"])
def test_plain_http_to_another_machine_is_refused_with_a_hint(url: str) -> None:
    with pytest.raises(UsageError, match=r"plain http.*Use https://"):
        Session(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "http://127.8.9.1", "https://a.b"]
)
def test_plain_http_to_this_machine_and_https_are_fine(url: str) -> None:
    Session(url)


@pytest.mark.parametrize(
    "url",
    ["", "local", "portal", "ftp://a", "https://", "https://u:p@a", "https://a?x=1", "https://a:port", "https://[a"],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Session(url)


def test_a_proxy_of_the_environment_is_used_for_other_machines_only_and_only_when_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with fault_portal() as proxy, fault_portal() as portal:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("https_proxy", proxy.url)
        portal.on("GET", "/x", Answer(200))
        here = Session(portal.url)
        assert here.request("GET", "/x").status == 200
        assert proxy.asked == []
        here.close()
        away = Session("https://portal.invalid", read_timeout_seconds=2)
        with pytest.raises(NotReached):  # the scripted proxy knows no CONNECT
            away.request("GET", "/x", token=Token(CANARY))
        away.close()
        assert Session("https://portal.invalid", trust_env_proxies=False)._proxies == {}
        monkeypatch.setenv("no_proxy", "portal.invalid")
        assert Session("https://portal.invalid")._proxies == {}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    chain, key = folder / "chain.pem", folder / "key.pem"
    command = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=test"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {chain}"
    subprocess.run(command.split(), check=True, capture_output=True, timeout=30)
    return chain, key


def test_a_certificate_of_an_unknown_authority_is_refused_and_says_what_to_set(certificate: tuple[Path, Path]) -> None:
    with fault_portal(certificate=certificate) as portal:
        session = Session(portal.url)
        with pytest.raises(NotTrusted, match=r"self.signed certificate.*ca_bundle") as caught:
            session.request("GET", "/x", token=Token(CANARY))
        assert caught.value.outcome_unknown is False
        assert caught.value.waiting_is_vain is True
        assert portal.asked == []
        session.close()


@pytest.mark.parametrize("way", ["setting", "environment"])
def test_a_private_authority_is_trusted_when_it_is_named(
    certificate: tuple[Path, Path], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = str(certificate[0])
    if way == "environment":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    with fault_portal(certificate=certificate) as portal:
        portal.on("GET", "/x", Answer(200, {"a": 1}))
        session = Session(portal.url, ca_bundle=bundle if way == "setting" else None)
        assert session.request("GET", "/x").json() == {"a": 1}
        session.close()


def test_a_certificate_for_another_name_is_refused(certificate: tuple[Path, Path]) -> None:
    with fault_portal(certificate=certificate) as portal:
        session = Session(portal.url.replace("127.0.0.1", "localhost"), ca_bundle=str(certificate[0]))
        with pytest.raises(NotTrusted):
            session.request("GET", "/x")
        session.close()


def test_a_bundle_that_is_not_there_or_vanishes_is_named(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    bundle = tmp_path / "bundle.pem"
    shutil.copy(certificate[0], bundle)
    with fault_portal(certificate=certificate) as portal:
        session = Session(portal.url, ca_bundle=str(tmp_path / "none.pem"))
        with pytest.raises(NotTrusted, match=r"there is no .*none\.pem.*ca_bundle"):
            session.request("GET", "/x")
        session.close()
        session = Session(portal.url, ca_bundle=str(bundle))
        bundle.unlink()
        with pytest.raises(NotTrusted):
            session.request("GET", "/x")
        session.close()


def test_tls_where_plain_http_is_spoken_is_an_error_of_the_network_and_not_of_trust() -> None:
    with fault_portal() as portal:
        session = Session(portal.url.replace("http:", "https:"))
        with pytest.raises(NoReply) as caught:
            session.request("GET", "/x")
        assert not caught.value.waiting_is_vain
        session.close()


def test_no_tls_below_1_2_is_spoken() -> None:
    import ssl

    from seclea.api.transport import _tls

    assert _tls().minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_unix_socket_of_another_user_is_not_spoken_to() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    script = (
        "import os, socket, sys\n"
        "os.setuid(12345)\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print('up', flush=True)\n"
        "c, _ = s.accept(); print(len(c.recv(65536)), flush=True); c.close(); s.close()\n"
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # one that the other user can reach
        os.chmod(folder, 0o777)
        path = Path(folder, "p.sock")
        child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        with child.stdout:
            assert child.stdout.readline() == "up\n"
            session = Session("", unix_socket=path)
            with pytest.raises(NotReached, match="cannot be reached"):
                session.request("GET", "/x", token=Token(CANARY))
            session.close()
            assert child.stdout.readline() == "0\n"  # not a byte
        assert child.wait(10) == 0


# -- forks, threads, pickles -------------------------------------------------------------------------------------------


FORKING = """
import os, sys
from pathlib import Path
from seclea.api.session import Session
kind, address = sys.argv[1:]
session = Session(address, unix_socket=Path(address) if kind == "unix" else None)
assert session.request("GET", "/x").status == 200
child = os.fork()
ok = all(session.request("GET", "/x", headers={"X-Who": str(child)}).headers["X-Who"] == str(child) for _ in range(50))
if child == 0:
    os._exit(0 if ok else 1)
assert ok and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_parent_and_forked_child_do_not_share_a_connection(portal: FaultPortal) -> None:
    portal.on("GET", "/x", lambda asked: Answer(200, b"", {"X-Who": asked.headers.get("x-who", "")}))
    arguments = ["unix", str(portal.unix_socket)] if portal.unix_socket else ["tcp", portal.url]
    subprocess.run([sys.executable, "-c", FORKING, *arguments], check=True, timeout=60)
    assert portal.count("GET", "/x") == 101


def test_many_threads_can_ask_at_once(session: Session, portal: FaultPortal) -> None:
    portal.on("GET", "/x", lambda asked: Answer(200, {"n": asked.headers["x-n"]}))
    wrong: list[int] = []

    def ask(number: int) -> None:
        for _ in range(10):
            if session.request("GET", "/x", headers={"X-N": str(number)}).json() != {"n": str(number)}:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert portal.count("GET", "/x") == 40


@pytest.mark.parametrize("kind", [NoReply, NotReached, ReplyLost, NotTrusted])
def test_the_errors_cross_processes_and_say_to_wait(kind: type[NoReply]) -> None:
    import pickle

    error = kind("what happened", "what to do")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.outcome_unknown) == (str(error), error.outcome_unknown)
    assert isinstance(error, PortalUnavailable)
