"""Logins, tokens, and what only the owner at the unix socket may do."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.portal_server import PortalServer, running_portal


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalServer]:
    with running_portal(tmp_path_factory.mktemp("portal") / "data") as server:
        server.add_member("ada", "Acme")
        yield server


@pytest.mark.parametrize("dialect", ["json", "data"])
def test_a_login_sets_cookies_that_scripts_cannot_read(portal: PortalServer, dialect: str) -> None:
    session = portal.tcp()
    login = {"username": "ada", "password": "correct horse"}
    reply = session.post("/api/token/obtain/", **{dialect: login})
    assert reply.status_code == 200
    assert {cookie.name for cookie in session.cookies} == {"access_token", "refresh_token"}
    for cookie in session.cookies:
        assert cookie.has_nonstandard_attr("HttpOnly") and cookie.get_nonstandard_attr("SameSite").lower() == "lax"
        assert not cookie.secure  # the loopback has no TLS
    assert session.post("/api/token/verify/").status_code == 200
    assert session.get("/organization/").json()[0]["name"] == "Acme"


def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(portal: PortalServer) -> None:
    replies = [
        portal.tcp().post("/api/token/obtain/", json={"username": name, "password": password})
        for name, password in (("ada", "wrong"), ("nobody", "wrong"), ("local", ""), ("ada", "x" * 100_000))
    ]
    assert {reply.status_code for reply in replies} == {401}
    assert len({reply.json()["detail"] for reply in replies}) == 1
    assert not any(reply.cookies for reply in replies)


def test_without_a_login_nothing_is_told(portal: PortalServer) -> None:
    session = portal.tcp()
    for path in (
        "/organization/",
        "/collection/projects",
        "/collection/receipts?stream=x",
        "/collection/datasets/x/content",
    ):
        reply = session.get(path)
        assert (reply.status_code, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert session.post("/api/token/verify/").status_code == 401
    for token in ("", "x", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0."):
        assert session.get("/organization/", headers={"Authorization": f"Bearer {token}"}).status_code == 401


def test_the_header_in_which_older_clients_repeat_their_cookies_is_ignored(portal: PortalServer) -> None:
    session = portal.login("ada")
    repeated = {"HTTP_COOKIE": json.dumps({"access_token": "wrong", "refresh_token": "wrong"})}
    assert session.get("/organization/", headers=repeated).status_code == 200
    token = session.cookies["access_token"]
    alone = portal.tcp().get("/organization/", headers={"HTTP_COOKIE": json.dumps({"access_token": token})})
    assert alone.status_code == 401


def test_an_access_token_works_as_bearer(portal: PortalServer) -> None:
    token = portal.login("ada").cookies["access_token"]
    reply = portal.tcp().get("/organization/", headers={"Authorization": f"Bearer {token}"})
    assert reply.status_code == 200 and len(reply.json()) == 1


def test_a_refresh_gives_new_tokens_and_a_lost_reply_can_be_repeated(portal: PortalServer) -> None:
    session = portal.login("ada")
    old = session.cookies["refresh_token"]
    assert session.post("/api/token/refresh/", json={}).status_code == 200
    assert session.cookies["refresh_token"] != old
    lost = portal.tcp()
    assert lost.post("/api/token/refresh/", cookies={"refresh_token": old}).status_code == 200
    assert session.post("/api/token/verify/").status_code == 200
    assert portal.tcp().post("/api/token/refresh/").status_code == 401


def test_a_logout_ends_the_session_at_once_for_every_token_of_it(portal: PortalServer) -> None:
    session = portal.login("ada")
    access, refresh = session.cookies["access_token"], session.cookies["refresh_token"]
    assert session.post("/api/token/logout/").status_code == 200
    assert not session.cookies
    stale = portal.tcp()
    assert stale.post("/api/token/verify/", cookies={"access_token": access}).status_code == 401
    assert stale.post("/api/token/refresh/", cookies={"refresh_token": refresh}).status_code == 401


def test_a_logout_by_the_refresh_token_alone_ends_the_session_too(portal: PortalServer) -> None:
    """The access token may have run out by then."""
    session = portal.login("ada")
    access, refresh = session.cookies["access_token"], session.cookies["refresh_token"]
    assert portal.tcp().post("/api/token/logout/", cookies={"refresh_token": refresh}).status_code == 200
    stale = portal.tcp()
    assert stale.post("/api/token/verify/", cookies={"access_token": access}).status_code == 401
    assert stale.post("/api/token/refresh/", cookies={"refresh_token": refresh}).status_code == 401


def test_the_owner_needs_no_login_and_has_an_organization(portal: PortalServer) -> None:
    names = [item["name"] for item in portal.owner().get("/organization/").json()]
    assert names[0] == "local" and "Acme" in names


def test_an_organization_is_made_once_and_asked_for_often(portal: PortalServer) -> None:
    owner = portal.owner()
    made, again = (owner.post("/internal/organizations", json={"name": "Twice"}) for _ in range(2))
    assert (made.status_code, again.status_code) == (201, 200) and made.json() == again.json()
    assert owner.get("/organization/?name=Twice").json() == [made.json()]


def test_an_owners_token_works_over_tcp(portal: PortalServer) -> None:
    told = portal.owner().post("/internal/token").json()
    assert told["expires_in"] > 0
    headers = {"Authorization": f"Bearer {told['access_token']}"}
    assert portal.tcp().get("/organization/?name=local", headers=headers).json()[0]["name"] == "local"


def test_what_is_internal_does_not_exist_over_tcp(portal: PortalServer) -> None:
    session = portal.login("ada")
    for method, path in (
        ("GET", "/internal/health"),
        ("POST", "/internal/token"),
        ("POST", "/internal/link"),
        ("POST", "/internal/stay"),
        ("POST", "/internal/stop"),
        ("POST", "/internal/users"),
        ("POST", "/internal/organizations"),
    ):
        for headers in ({}, {"X-Forwarded-For": "unix"}, {"X-Seclea-Door": "unix"}):
            assert session.request(method, path, headers=headers).status_code == 404
    assert portal.owner().get("/internal/health").json()["status"] == "ok"


def test_a_link_lets_one_browser_in_once(portal: PortalServer) -> None:
    url = portal.owner().post("/internal/link").json()["url"]
    assert url.startswith(portal.url)
    browser = portal.tcp()
    reply = browser.get(url, allow_redirects=False)
    assert (reply.status_code, reply.headers["Location"]) == (303, "/")
    assert browser.get("/organization/").status_code == 200
    second = portal.tcp()
    assert second.get(url, allow_redirects=False).headers["Location"].startswith("/login")
    assert second.get("/organization/").status_code == 401


def test_a_page_without_a_login_is_the_login_form_and_leads_back(portal: PortalServer) -> None:
    browser = portal.tcp()
    page = browser.get("/projects/x", headers={"Accept": "text/html"})
    assert page.status_code == 401 and 'name="password"' in page.text and 'value="/projects/x"' in page.text
    form = {"username": "ada", "password": "correct horse", "next": "//evil.example/"}
    assert browser.post("/login", data=form, allow_redirects=False).headers["Location"] == "/"
    assert "Acme" in browser.get("/").text or browser.get("/").status_code == 200


def test_a_browser_whose_access_token_has_run_out_is_renewed_on_the_way(portal: PortalServer) -> None:
    browser = portal.login("ada")
    refresh = browser.cookies["refresh_token"]
    reply = portal.tcp().get("/", cookies={"refresh_token": refresh}, headers={"Accept": "text/html"})
    assert reply.status_code == 200 and "access_token" in reply.cookies


def test_another_host_name_and_another_origin_are_turned_away(portal: PortalServer) -> None:
    session = portal.login("ada")
    assert session.get("/organization/", headers={"Host": "evil.example"}).status_code == 400
    assert session.get("/organization/", headers={"Host": f"localhost:{portal.url.rsplit(':', 1)[1]}"}).status_code in (
        200,
        401,
    )
    cross = session.post("/collection/projects", json={"name": "x"}, headers={"Origin": "http://127.0.0.1:1"})
    assert cross.status_code == 403
    own = session.post("/collection/projects", json={"name": "own origin"}, headers={"Origin": portal.url})
    assert own.status_code == 201


def test_secrets_and_sockets_are_the_owners_alone(portal: PortalServer) -> None:
    for name in ("secret", "portal.sock", "address.json", "portal.db", "portal.lock"):
        about = os.lstat(portal.data / name)
        assert stat.S_IMODE(about.st_mode) & 0o077 == 0, name
    assert stat.S_IMODE(os.stat(portal.data).st_mode) == 0o700


def test_a_portal_that_crashes_leaves_no_core_in_which_its_signing_key_stands(portal: PortalServer) -> None:
    assert portal.process is not None
    limits = Path(f"/proc/{portal.process.pid}/limits").read_text()
    assert re.search(r"Max core file size +0 +0 ", limits)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_is_not_let_in_at_the_socket(portal: PortalServer) -> None:
    path = portal.data / "portal.sock"
    opened = [path, *list(path.parents)[:-1]]
    modes = [os.stat(item).st_mode for item in opened]
    child = os.fork()
    if child == 0:
        code = 2
        try:
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(path))
                peer.sendall(b"GET /organization/ HTTP/1.1\r\nHost: x\r\n\r\n")
                code = 1 if peer.recv(100) else 0
        except (PermissionError, ConnectionResetError, BrokenPipeError):
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for item in opened:  # even where every folder and the socket are open to all, the peer's uid is looked at
        os.chmod(item, 0o777)
    try:
        child = os.fork()
        if child == 0:
            code = 2
            try:
                os.setuid(65534)
                with socket.socket(socket.AF_UNIX) as peer:
                    peer.connect(str(path))
                    peer.sendall(b"GET /organization/ HTTP/1.1\r\nHost: x\r\n\r\n")
                    code = 1 if peer.recv(100) else 0
            except (ConnectionResetError, BrokenPipeError):
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        for item, mode in zip(opened, modes, strict=True):
            os.chmod(item, stat.S_IMODE(mode))


def test_a_login_with_an_unknown_name_takes_as_long_as_with_a_known_one(portal: PortalServer) -> None:
    def seconds(name: str) -> float:
        session = portal.tcp()
        times = []
        for _ in range(5):
            start = time.perf_counter()
            session.post("/api/token/obtain/", json={"username": name, "password": "wrong"})
            times.append(time.perf_counter() - start)
        return min(times)

    seconds("nobody")  # the first one hashes the dummy
    known, unknown = seconds("ada"), seconds("nobody")
    assert 0.4 < known / unknown < 2.5
