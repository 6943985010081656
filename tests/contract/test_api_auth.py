"""Logging in and staying logged in, over real sockets: one refresh per machine, nothing of a secret in view (S3, S8)."""

import logging
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from seclea.api.age import Instant, instant_now
from seclea.api.auth import AuthService, Token, TokenStore
from seclea.api.exchange import Exchange
from seclea.api.session import NoReply, NotReached, Session
from seclea.contract import Verdict
from seclea.errors import AuthenticationError, PortalError, PortalUnavailable
from tests.contract.fault_portal import Answer, Asked, Fault, FaultPortal, fault_portal, page, unused_port

CANARY = "canary-5f3759df"
OBTAIN, REFRESH, VERIFY = "/api/token/obtain/", "/api/token/refresh/", "/api/token/verify/"
LOGOUT = "/api/token/logout/"


class AuthServer:
    """Gives out numbered tokens; the refresh token rotates, an old one is refused."""

    def __init__(self, portal: FaultPortal, lifetime: float | None = None) -> None:
        self.issued = 0
        self.lifetime = lifetime
        self.lock = threading.Lock()
        portal.on("POST", OBTAIN, self.obtain).on("POST", REFRESH, self.refresh).on("POST", VERIFY, self.verify)

    def tokens(self) -> Answer:
        self.issued += 1
        cookies = {"access_token": f"access-{self.issued}", "refresh_token": f"refresh-{self.issued}"}
        return Answer(200, {"expires_in": self.lifetime} if self.lifetime else {}, cookies=cookies)

    def obtain(self, asked: Asked) -> Answer:
        fields = asked.json
        with self.lock:
            return self.tokens() if fields == {"username": "ann", "password": CANARY} else Answer(401, {"detail": "No"})

    def refresh(self, asked: Asked) -> Answer:
        with self.lock:
            good = asked.cookies.get("refresh_token") == f"refresh-{self.issued}"
            return self.tokens() if good else Answer(401, {"detail": "Token is invalid or expired"})

    def verify(self, asked: Asked) -> Answer:
        return Answer(200 if asked.cookies.get("access_token") == f"access-{self.issued}" else 401, {})


@pytest.fixture
def portal() -> Iterator[FaultPortal]:
    with fault_portal() as portal:
        yield portal


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "tokens")


@pytest.fixture
def session(portal: FaultPortal) -> Iterator[Session]:
    session = Session(portal.url)
    yield session
    session.close()


@pytest.fixture
def auth(session: Session, store: TokenStore) -> AuthService:
    return AuthService(session, store, now=lambda: Instant(0))


def everything(error: BaseException) -> str:
    """What a crash reporter could print, the locals of our frames included (not those of the test)."""
    report = traceback.TracebackException(type(error), error, error.__traceback__, capture_locals=True)
    del report.stack[0]
    return "".join(report.format()) + repr(error) + repr(error.__context__)


# -- logging in --------------------------------------------------------------------------------------------------------


def test_a_login_keeps_the_tokens_and_not_the_password(
    auth: AuthService, store: TokenStore, portal: FaultPortal
) -> None:
    AuthServer(portal)
    assert auth.access_token() is None
    auth.authenticate("ann", CANARY)
    assert auth.access_token() == Token("access-1")
    assert auth.verify() is True
    assert store.path(portal.url).read_text().count("access-1") == 1
    assert not any(CANARY in path.read_text() for path in store.directory.iterdir())
    assert portal.last("POST", OBTAIN).headers["content-type"] == "application/json"


@pytest.mark.parametrize("status", [400, 415, 422])
def test_a_server_that_wants_a_form_gets_one(auth: AuthService, portal: FaultPortal, status: int) -> None:
    def obtain(asked: Asked) -> Answer:
        if asked.headers["content-type"] != "application/x-www-form-urlencoded":
            return Answer(status, {"detail": "form"})
        fields = parse_qs(asked.body.decode())
        assert fields == {"username": ["ann ü"], "password": ["p&=+ ü"]}
        return Answer(200, {}, cookies={"access_token": "a", "refresh_token": "r"})

    portal.on("POST", OBTAIN, obtain)
    auth.authenticate("ann ü", "p&=+ ü")
    assert auth.access_token() == Token("a")
    assert portal.count("POST", OBTAIN) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 422])
def test_a_wrong_password_says_so_and_repeats_nothing_that_the_server_says(
    auth: AuthService, store: TokenStore, portal: FaultPortal, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = {"detail": [{"input": {"username": "ann", "password": CANARY}}]}  # as a framework's validation does
    portal.on("POST", OBTAIN, Answer(status, echo))
    with pytest.raises(AuthenticationError, match="refused the login of 'ann': wrong user name or password") as caught:
        auth.authenticate("ann", CANARY)
    assert CANARY not in everything(caught.value)
    assert CANARY not in caplog.text
    assert not store.directory.exists()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(429, {}), PortalUnavailable),
        (Answer(500, {}), PortalUnavailable),
        (Answer(503, {}), PortalUnavailable),
        (Answer(404, {}), PortalError),
        (Answer(405, {}), PortalError),
        (Answer(302, b"", {"Location": "https://sso.example.com"}), PortalError),
        (Answer(201, {}), PortalError),
        (Answer(200, {}), PortalError),
        (page(), PortalError),
        (Answer(200, {}, cookies={"access_token": ""}), PortalError),
        (Answer(fault=Fault.RESET), NoReply),
    ],
)
@pytest.mark.parametrize("call", ["authenticate", "refresh"])
def test_a_server_that_does_not_answer_as_it_should_is_no_wrong_password_and_costs_no_login(
    auth: AuthService, store: TokenStore, portal: FaultPortal, answer: Answer, kind: type[Exception], call: str
) -> None:
    AuthServer(portal)
    auth.authenticate("ann", CANARY)
    portal.on("POST", OBTAIN, answer).on("POST", REFRESH, answer)
    with pytest.raises(kind) as caught:
        auth.authenticate("ann", CANARY) if call == "authenticate" else auth.refresh()
    assert not isinstance(caught.value, AuthenticationError)
    assert CANARY not in everything(caught.value)
    tokens = store.read(portal.url)
    assert tokens is not None
    assert tokens.refresh == Token("refresh-1")


def test_a_server_that_is_not_there_is_named(store: TokenStore) -> None:
    session = Session(f"http://127.0.0.1:{unused_port()}")
    with pytest.raises(NotReached, match="refused") as caught:
        AuthService(session, store).authenticate("ann", CANARY)
    assert CANARY not in everything(caught.value)
    session.close()


# -- refreshing --------------------------------------------------------------------------------------------------------


def test_a_refresh_keeps_the_rotated_token_before_it_returns(
    auth: AuthService, portal: FaultPortal, store: TokenStore
) -> None:
    AuthServer(portal)
    auth.authenticate("ann", CANARY)
    before = auth.generation()
    assert auth.refresh() == Token("access-2")
    assert auth.refresh() == Token("access-3")
    tokens = TokenStore(store.directory).read(portal.url)
    assert tokens is not None
    assert (tokens.access, tokens.refresh, tokens.username) == (Token("access-3"), Token("refresh-3"), "ann")
    assert auth.generation() != before
    assert portal.last("POST", REFRESH).cookies == {"refresh_token": "refresh-2"}


def test_a_server_that_does_not_rotate_leaves_the_refresh_token(
    auth: AuthService, portal: FaultPortal, store: TokenStore
) -> None:
    AuthServer(portal)
    auth.authenticate("ann", CANARY)
    portal.on("POST", REFRESH, Answer(200, {}, cookies={"access_token": "next"}))
    assert auth.refresh() == Token("next")
    tokens = store.read(portal.url)
    assert tokens is not None
    assert tokens.refresh == Token("refresh-1")


def test_a_token_that_somebody_else_renewed_is_used_without_asking(
    auth: AuthService, session: Session, portal: FaultPortal, store: TokenStore
) -> None:
    AuthServer(portal)
    auth.authenticate("ann", CANARY)
    stale = auth.access_token()
    other = AuthService(session, TokenStore(store.directory))
    other.access_token()
    other.refresh()
    assert auth.refresh(stale) == Token("access-2")
    assert auth.refresh(stale) == Token("access-2")
    assert portal.count("POST", REFRESH) == 1


def test_not_logged_in_and_logged_out_tell_what_to_do(auth: AuthService, portal: FaultPortal) -> None:
    AuthServer(portal)
    with pytest.raises(AuthenticationError, match=r"Not logged in.*seclea login"):
        auth.refresh()
    assert auth.verify() is False
    auth.authenticate("ann", CANARY)
    assert auth.forget() is True
    assert auth.forget() is False
    assert auth.access_token() is None
    assert auth.generation() == 0


def test_a_logout_tells_the_auth_server_and_forgets_the_login_also_where_that_does_not_answer(
    auth: AuthService, portal: FaultPortal, store: TokenStore
) -> None:
    AuthServer(portal)
    assert auth.log_out() == (False, False)
    portal.on("POST", LOGOUT, Answer(200, {}), Answer(fault=Fault.RESET), Answer(404, {}))
    for told in (True, False, False):
        auth.authenticate("ann", CANARY)
        tokens = store.read(portal.url)
        assert tokens is not None and tokens.refresh is not None
        assert auth.log_out() == (True, told)
        sent = {"access_token": tokens.access.reveal(), "refresh_token": tokens.refresh.reveal()}
        assert portal.last("POST", LOGOUT).cookies == sent
        assert auth.access_token() is None
    assert auth.log_out() == (False, False)


@pytest.mark.parametrize("status", [400, 401, 403, 422])
def test_a_spent_login_tells_to_log_in_and_a_new_login_is_seen(
    auth: AuthService, portal: FaultPortal, status: int
) -> None:
    AuthServer(portal)
    auth.authenticate("ann", CANARY)
    generation = auth.generation()
    portal.on("POST", REFRESH, Answer(status, {"detail": CANARY}))
    with pytest.raises(AuthenticationError, match=r"has expired.*seclea login") as caught:
        auth.refresh()
    assert CANARY not in everything(caught.value)
    assert auth.generation() == generation
    auth.authenticate("ann", CANARY)
    assert auth.generation() != generation


def test_a_login_without_a_refresh_token_expires(auth: AuthService, portal: FaultPortal) -> None:
    portal.on("POST", OBTAIN, Answer(200, {}, cookies={"access_token": "only"}))
    auth.authenticate("ann", CANARY)
    with pytest.raises(AuthenticationError, match="expired"):
        auth.refresh()


def test_a_renewed_login_that_the_disk_has_no_room_for_is_used_and_stored_when_there_is(
    auth: AuthService, portal: FaultPortal, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is delivered makes room: a login that stopped for want of it would stop that too."""
    AuthServer(portal)
    auth.authenticate("ann", CANARY)
    with monkeypatch.context() as patched:

        def full(*args: object) -> None:
            raise OSError(28, "No space left on device")

        patched.setattr(store, "_replace", full)
        assert auth.refresh() == Token("access-2")
        assert auth.access_token() == Token("access-2")
        assert auth.refresh() == Token("access-3"), "with the refresh token that came with it"
        tokens = store.read(portal.url)
        assert tokens is not None and tokens.access == Token("access-1")
    assert auth.access_token() == Token("access-3")
    tokens = TokenStore(store.directory).read(portal.url)
    assert tokens is not None
    assert (tokens.access, tokens.refresh, tokens.username) == (Token("access-3"), Token("refresh-3"), "ann")


def test_a_login_that_the_disk_has_no_room_for_ends_no_job(
    auth: AuthService, portal: FaultPortal, store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    AuthServer(portal)
    handed = tmp_path / "handed.json"
    handed.touch(0o600)
    handed.write_text('{"access_token": "a"}')

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_replace", full)
    for log_in in (lambda: auth.authenticate("ann", CANARY), lambda: auth.adopt(handed)):
        with pytest.raises(PortalUnavailable, match=r"cannot be kept on disk: No space left.*Make room") as caught:
            log_in()
        assert CANARY not in everything(caught.value)


def test_a_login_of_somebody_else_wins_over_a_renewed_one_that_could_not_be_stored(
    auth: AuthService, portal: FaultPortal, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    AuthServer(portal)
    auth.authenticate("ann", CANARY)
    with monkeypatch.context() as patched:

        def full(*args: object) -> None:
            raise OSError(28, "No space left on device")

        patched.setattr(store, "_replace", full)
        auth.refresh()
    TokenStore(store.directory).write(portal.url, Token("bob"), None, "bob")
    assert auth.access_token() == Token("bob")


def test_threads_that_find_a_stale_token_together_make_one_refresh(
    auth: AuthService, portal: FaultPortal, session: Session
) -> None:
    AuthServer(portal)
    auth.authenticate("ann", CANARY)
    stale = auth.access_token()
    got: list[Token] = []
    threads = [threading.Thread(target=lambda: got.append(auth.refresh(stale))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [Token("access-2")] * 8
    assert portal.count("POST", REFRESH) == 1


REFRESHING = """
import sys
from seclea.api.age import Instant, instant_now
from seclea.api.auth import AuthService, Token, TokenStore
from seclea.api.session import Session
url, directory = sys.argv[1:]
auth = AuthService(Session(url), TokenStore(directory))
auth.access_token()
print("ready", flush=True)
sys.stdin.readline()
assert auth.refresh() == Token("access-2")
"""


def test_processes_that_find_a_stale_token_together_make_one_refresh(
    auth: AuthService, portal: FaultPortal, store: TokenStore
) -> None:
    server = AuthServer(portal)
    auth.authenticate("ann", CANARY)
    command = [sys.executable, "-c", REFRESHING, portal.url, str(store.directory)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    assert [child.communicate(timeout=30) and child.returncode for child in children] == [0, 0, 0]
    assert portal.count("POST", REFRESH) == 1
    assert server.issued == 2
    assert auth.access_token() == Token("access-2")


def test_a_refresh_that_waits_for_one_that_hangs_gives_up(
    portal: FaultPortal, session: Session, store: TokenStore
) -> None:
    AuthServer(portal)
    auth = AuthService(session, store, lock_seconds=0.05)
    auth.authenticate("ann", CANARY)
    with store.lock(portal.url):
        caught: list[Exception] = []

        def other() -> None:
            try:
                auth.refresh()
            except PortalUnavailable as error:  # no AuthenticationError: nobody need log in for that
                caught.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "Another process" in str(caught[0])


# -- renewing early ----------------------------------------------------------------------------------------------------


def test_a_wall_clock_that_jumps_neither_hastens_nor_hinders_a_renewal(
    session: Session, store: TokenStore, portal: FaultPortal
) -> None:
    AuthServer(portal, lifetime=100)
    year = 365 * 86_400 * 10**9
    now = [Instant(year, "boot", 10**9)]
    auth = AuthService(session, store, now=lambda: now[0])
    auth.authenticate("ann", CANARY)
    now[0] = Instant(11 * year, "boot", 80 * 10**9)  # ten years ahead, 79 s later
    assert auth.access_token() == Token("access-1")
    now[0] = Instant(0, "boot", 83 * 10**9)  # eleven years back, 3 s later
    assert auth.access_token() == Token("access-2")
    now[0] = Instant(0, "another boot", 10**6)
    assert auth.access_token() == Token("access-2")
    now[0] = Instant(81 * 10**9, "another boot", 10**7)  # only the wall clock knows
    assert auth.access_token() == Token("access-3")


def test_now_is_told_by_the_boot_and_the_time_since() -> None:
    one, two = instant_now(), instant_now()
    assert one.boot_id == two.boot_id != ""
    assert 0 < one.up_ns <= two.up_ns


def test_an_old_token_is_renewed_before_it_expires_and_a_young_one_is_not(
    session: Session, store: TokenStore, portal: FaultPortal
) -> None:
    AuthServer(portal, lifetime=100)
    now = [1000.0]
    auth = AuthService(session, store, now=lambda: Instant(int(now[0] * 10**9)))
    auth.authenticate("ann", CANARY)
    now[0] += 79
    assert auth.access_token() == Token("access-1")
    now[0] += 2
    assert auth.access_token() == Token("access-2")
    assert auth.access_token() == Token("access-2")
    assert portal.count("POST", REFRESH) == 1
    now[0] -= 10**6  # a clock set back
    assert auth.access_token() == Token("access-2")
    assert portal.count("POST", REFRESH) == 1


@pytest.mark.parametrize("answer", [Answer(500, {}), Answer(401, {}), page(), Answer(fault=Fault.RESET)])
def test_an_early_renewal_that_fails_hands_out_the_old_token_and_is_not_tried_at_every_request(
    session: Session, store: TokenStore, portal: FaultPortal, answer: Answer
) -> None:
    AuthServer(portal, lifetime=100)
    now = [0]
    auth = AuthService(session, store, now=lambda: Instant(now[0]))
    auth.authenticate("ann", CANARY)
    portal.on("POST", REFRESH, answer)
    now[0] = 90 * 10**9
    assert [auth.access_token() for _ in range(5)] == [Token("access-1")] * 5
    assert portal.count("POST", REFRESH) == 1
    AuthServer(portal).issued = 1
    assert auth.refresh() == Token("access-2")  # the portal's 401 still leads to one


# -- what the portal says to a token -----------------------------------------------------------------------------------


def test_a_403_while_the_auth_server_is_down_is_still_the_portals_no(
    auth: AuthService, session: Session, portal: FaultPortal
) -> None:
    AuthServer(portal)
    auth.authenticate("ann", CANARY)
    portal.on("GET", "/x", Answer(403, {"detail": "not yours"})).on("POST", REFRESH, Answer(fault=Fault.RESET))
    outcome, _ = Exchange(session, auth).call("GET", "/x")
    assert (outcome.verdict, outcome.status) == (Verdict.WAIT, 403)
    assert "not yours" in outcome.detail


def test_a_portal_that_refuses_every_login_leaves_nothing_newer_in_the_store_than_what_it_refused(
    auth: AuthService, session: Session, portal: FaultPortal, store: TokenStore
) -> None:
    """Whoever waits for a newer login than `generation_used` must not be woken by the renewals of the refused one."""
    AuthServer(portal)
    exchange = Exchange(session, auth)
    assert exchange.call("GET", "/x")[0].status == 401
    assert (exchange.generation_used(), exchange.login_generation()) == (0, 0)
    AuthService(session, TokenStore(store.directory)).authenticate("ann", CANARY)
    assert exchange.login_generation() > exchange.generation_used()
    portal.on("GET", "/x", Answer(401, {}))
    for _ in range(3):
        assert exchange.call("GET", "/x")[0].status == 401
        assert exchange.generation_used() == exchange.login_generation() > 0
    portal.on("POST", REFRESH, Answer(401, {}))
    assert exchange.call("GET", "/x")[0].status == 401
    assert exchange.generation_used() == exchange.login_generation()
    store.path(portal.url).chmod(0o644)
    assert exchange.call("GET", "/x")[0].status == 401
    assert exchange.generation_used() == exchange.login_generation() == -1
