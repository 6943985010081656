"""A token file that somebody hands over: taken once, refused where others may know what is in it (S2)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from seclea.api.age import Instant
from seclea.api.auth import AuthService, Token, TokenStore
from seclea.api.session import Session
from seclea.api.token_file import read_token_file
from seclea.errors import AuthenticationError
from tests.pipeline import CANARY

URL = "https://auth.example.com"
TOKENS = {"access_token": f"access-{CANARY}", "refresh_token": f"refresh-{CANARY}", "username": "ann"}


def made(path: Path, content: object = TOKENS, mode: int = 0o600) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "home" / "tokens")


@pytest.fixture
def auth(store: TokenStore) -> AuthService:
    return AuthService(Session(URL), store)


def test_what_it_says_is_read_and_its_age_counts_from_when_it_was_written(tmp_path: Path) -> None:
    path = made(tmp_path / "tokens.json", {**TOKENS, "expires_in": 900, "auth_url": URL + "/"})
    os.utime(path, ns=(5, 7_000_000_000))
    handed = read_token_file(path, URL)
    assert (handed.access, handed.refresh) == (Token(f"access-{CANARY}"), Token(f"refresh-{CANARY}"))
    assert (handed.username, handed.expires_in, handed.written) == ("ann", 900, Instant(7_000_000_000))
    assert CANARY not in repr(handed)


def test_an_access_token_alone_will_do(tmp_path: Path) -> None:
    handed = read_token_file(made(tmp_path / "tokens.json", {"access_token": "a"}), URL)
    assert (handed.access, handed.refresh, handed.expires_in) == (Token("a"), None, None)


def test_a_link_is_followed_as_schedulers_lay_them(tmp_path: Path) -> None:
    made(tmp_path / "real.json")
    (tmp_path / "link.json").symlink_to("real.json")
    assert read_token_file(tmp_path / "link.json", URL).username == "ann"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666, 0o601])
def test_one_that_others_can_open_is_refused_with_the_way_out(tmp_path: Path, mode: int) -> None:
    path = made(tmp_path / "tokens.json", mode=mode)
    with pytest.raises(AuthenticationError, match=rf"open to other users \(mode {mode:04o}\).*chmod 600") as caught:
        read_token_file(path, URL)
    assert str(path) in str(caught.value)
    assert CANARY not in str(caught.value)


def test_one_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path = made(tmp_path / "tokens.json")
    os.chown(path, 12345, 12345)
    with pytest.raises(AuthenticationError, match=r"belongs to another user \(uid 12345\)"):
        read_token_file(path, URL)


@pytest.mark.parametrize(
    "content",
    ["", "{", "null", "[]", '"text"', "[" * 20_000, {}, {"access_token": 7}, {"access_token": ""}, f"token {CANARY}"],
)
def test_a_damaged_one_is_refused_with_what_would_be_right(tmp_path: Path, content: object) -> None:
    with pytest.raises(AuthenticationError, match=r'is damaged\. It holds JSON: {"access_token"') as caught:
        read_token_file(made(tmp_path / "tokens.json", content), URL)
    assert CANARY not in str(caught.value)


def test_one_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuthenticationError, match="is damaged"):
        read_token_file(made(tmp_path / "tokens.json", json.dumps(TOKENS) + " " * 70_000), URL)


def test_one_for_another_auth_server_is_refused_before_that_server_sees_a_token(tmp_path: Path) -> None:
    path = made(tmp_path / "tokens.json", {**TOKENS, "auth_url": "https://other.example.com"})
    with pytest.raises(AuthenticationError, match=r"is for https://other\.example\.com, not for https://auth"):
        read_token_file(path, URL)


def test_what_is_no_file_is_refused_and_hangs_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name, why in (("fifo", "is no plain file"), ("missing", "No such file"), (".", "is no plain file")):
        with pytest.raises(AuthenticationError, match=why):
            read_token_file(tmp_path / name, URL)


def test_a_file_is_taken_once_and_what_came_of_it_since_is_not_put_back(
    auth: AuthService, store: TokenStore, tmp_path: Path
) -> None:
    """The next job has the same file; its refresh token is spent by then, and would look stolen."""
    path = made(tmp_path / "tokens.json")
    assert auth.adopt(path) is True
    assert auth.adopt(path) is False
    assert auth.access_token() == Token(f"access-{CANARY}")
    store.write(URL, Token("renewed"), Token("rotated"), "ann")
    assert auth.adopt(path) is False
    assert AuthService(Session(URL), TokenStore(store.directory)).adopt(path) is False
    assert auth.access_token() == Token("renewed")
    generation = auth.generation()
    assert auth.adopt(made(path, {"access_token": "newer"})) is True
    assert auth.access_token() == Token("newer")
    assert auth.generation() != generation


def test_a_refused_file_leaves_the_login_that_there_is(auth: AuthService, store: TokenStore, tmp_path: Path) -> None:
    store.write(URL, Token("mine"), None)
    with pytest.raises(AuthenticationError):
        auth.adopt(made(tmp_path / "tokens.json", mode=0o644))
    assert auth.access_token() == Token("mine")
