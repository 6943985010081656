"""Tokens do not show, and their files are ours alone from the first moment (S2, S3)."""

import base64
import copy
import json
import logging
import os
import pickle
import stat
import threading
from pathlib import Path

import pytest

from seclea.api.age import Instant
from seclea.api.tokens import Token, Tokens, TokenStore, lifetime_of
from seclea.errors import AuthenticationError, PortalUnavailable

URL = "https://auth.example.com"
CANARY = "canary-5f3759df"


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "home" / "tokens")


def jwt(**claims: object) -> Token:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return Token(f"{part({'alg': 'HS256'})}.{part(claims)}.c2ln")


# -- Token -------------------------------------------------------------------------------------------------------------


def test_a_token_shows_in_no_form_of_text(caplog: pytest.LogCaptureFixture) -> None:
    token = Token(CANARY)
    tokens = Tokens(URL, token, token, "ann")
    logging.getLogger("test").error("%s %r %s", token, token, tokens)
    shown = [
        repr(token),
        str(token),
        f"{token}",
        f"{token!r:>40}",
        f"{token:>40}",
        f"{token}",
        repr(tokens),
        repr([token]),
    ]
    shown += [caplog.text, str({"t": token}), str(vars(Tokens).get("access"))]
    assert not any(CANARY in text for text in shown)
    assert token.reveal() == CANARY


def test_a_token_is_not_pickled_copied_into_json_or_compared_by_accident() -> None:
    token = Token(CANARY)
    with pytest.raises(TypeError, match="not sent"):
        pickle.dumps(token)
    with pytest.raises(TypeError):
        copy.deepcopy(token)
    with pytest.raises(TypeError):
        json.dumps(token)
    assert token == Token(CANARY)
    assert token != Token("other")
    assert token != CANARY
    assert len({token, Token(CANARY)}) == 1


# -- the file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_whatever_the_umask_the_directory_is_0700_and_every_file_0600(store: TokenStore, umask: int) -> None:
    before = os.umask(umask)
    try:
        store.write(URL, Token("a"), Token("r"), "ann")
        store.write(URL, Token("b"), None)
    finally:
        os.umask(before)
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.directory.iterdir()}
    assert set(modes.values()) == {0o600}
    assert len(modes) == 2  # the tokens and the lock, no leftovers


def test_a_file_is_never_wider_than_0600_not_even_under_its_temporary_name(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    rename, chmod_calls = os.rename, []

    def watching(source: Path, target: Path) -> None:
        modes.append(stat.S_IMODE(os.stat(source).st_mode))
        rename(source, target)

    monkeypatch.setattr(os, "rename", watching)
    monkeypatch.setattr(os, "chmod", lambda *args, **kwargs: chmod_calls.append(args))
    before = os.umask(0)
    try:
        store.write(URL, Token("a"), None)
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert chmod_calls == []


def test_a_file_is_synced_then_renamed_then_its_directory_is_synced(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(URL, Token("first"), None)  # the directory is there
    done: list[str] = []
    sync, rename = os.fsync, os.rename

    def note_sync(descriptor: int) -> None:
        done.append("sync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        sync(descriptor)

    def note_rename(source: Path, target: Path) -> None:
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    store.write(URL, Token("second"), None)
    assert done == ["sync file", "rename", "sync directory"]


def test_what_was_written_is_read_back_by_another_process_too(store: TokenStore) -> None:
    written = store.write(URL, Token("access"), Token("refresh"), "ann", expires_in=900, now=Instant(5, "boot", 7))
    assert TokenStore(store.directory).read(URL) == written
    assert (written.expires_in, written.username) == (900, "ann")


def test_auth_servers_do_not_share_a_file(store: TokenStore) -> None:
    store.write(URL, Token("a"), None)
    store.write("https://other.example.com", Token("b"), None)
    found = store.read(URL)
    assert found is not None
    assert found.access == Token("a")
    assert store.read("https://third.example.com") is None


def test_nothing_is_made_by_reading(store: TokenStore) -> None:
    assert store.read(URL) is None
    assert store.generation(URL) == 0
    assert store.delete(URL) is False
    assert not store.directory.exists()


def test_the_generation_changes_with_each_write_also_after_a_logout_and_with_a_clock_set_back(
    store: TokenStore,
) -> None:
    seen = [store.write(URL, Token("same"), None, now=Instant(100)).generation]
    seen.append(store.write(URL, Token("same"), None, now=Instant(50)).generation)
    seen.append(store.write(URL, Token("same"), None, now=Instant(100)).generation)
    store.delete(URL)
    assert store.generation(URL) == 0
    seen.append(store.write(URL, Token("same"), None).generation)
    assert len(set(seen)) == 4
    assert store.generation(URL) == seen[-1]


def test_a_write_by_another_process_is_seen(store: TokenStore) -> None:
    store.write(URL, Token("a"), None)
    assert store.read(URL) is not None
    TokenStore(store.directory).write(URL, Token("b"), None)
    found = store.read(URL)
    assert found is not None
    assert found.access == Token("b")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o644, 0o601])
def test_a_file_that_others_can_read_is_refused_and_says_why(store: TokenStore, mode: int) -> None:
    store.write(URL, Token(CANARY), None)
    store.path(URL).chmod(mode)
    with pytest.raises(AuthenticationError, match=f"other users \\(mode {mode:04o}\\)") as caught:
        TokenStore(store.directory).read(URL)
    assert "seclea login" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_logging_in_again_is_the_way_out_of_a_refused_file(store: TokenStore) -> None:
    store.write(URL, Token("a"), None)
    store.path(URL).chmod(0o644)
    store.write(URL, Token("b"), None)
    assert stat.S_IMODE(store.path(URL).stat().st_mode) == 0o600
    assert store.read(URL) is not None


def test_a_file_of_another_user_is_refused(store: TokenStore) -> None:
    store.write(URL, Token("a"), None)
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(store.path(URL), 12345, 12345)
    with pytest.raises(AuthenticationError, match="another user"):
        store.read(URL)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_that_others_can_enter_is_refused(store: TokenStore, mode: int) -> None:
    store.write(URL, Token("a"), None)
    store.directory.chmod(mode)
    for act in (lambda: store.read(URL), lambda: store.write(URL, Token("b"), None)):
        with pytest.raises(AuthenticationError, match="chmod 700"):
            act()


def test_a_link_in_place_of_the_file_or_the_directory_is_refused(store: TokenStore, tmp_path: Path) -> None:
    store.write(URL, Token("a"), None)
    elsewhere = tmp_path / "elsewhere"
    store.path(URL).rename(elsewhere)
    store.path(URL).symlink_to(elsewhere)
    with pytest.raises(AuthenticationError, match="cannot be opened"):
        store.read(URL)
    linked = TokenStore(tmp_path / "link")
    linked.directory.symlink_to(store.directory)
    with pytest.raises(AuthenticationError, match="not a directory of this user"):
        linked.read(URL)


def test_a_fifo_in_place_of_the_file_does_not_hang(store: TokenStore) -> None:
    store.write(URL, Token("a"), None)
    store.path(URL).unlink()
    os.mkfifo(store.path(URL), 0o600)
    with pytest.raises(AuthenticationError, match="no plain file"):
        store.read(URL)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 20_000,
        b'{"auth_url": "https://auth.example.com"}',
        b'{"auth_url": "https://evil.example.com", "access_token": "a", "obtained_ns": 1, "generation": 1}',
        b'{"auth_url": "https://auth.example.com", "access_token": 7, "obtained_ns": 1, "generation": 1}',
        b'{"auth_url": "https://auth.example.com", "access_token": "a", "obtained_ns": "1", "generation": 1}',
    ],
)
def test_a_damaged_file_says_so(store: TokenStore, content: bytes) -> None:
    store.write(URL, Token("a"), None)
    store.path(URL).write_bytes(content)
    with pytest.raises(AuthenticationError, match=r"damaged.*seclea login"):
        TokenStore(store.directory).read(URL)


def test_a_writer_that_dies_before_the_rename_leaves_the_old_tokens_and_its_leftover_goes(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(URL, Token("old"), None)
    with monkeypatch.context() as patched:

        def die(source: Path, target: Path) -> None:
            raise KeyboardInterrupt

        patched.setattr(os, "rename", die)
        patched.setattr(os, "unlink", lambda path: None)
        with pytest.raises(KeyboardInterrupt):
            store.write(URL, Token(CANARY), None)
    assert any(CANARY in path.read_text() for path in store.directory.iterdir())
    found = store.read(URL)
    assert found is not None
    assert found.access == Token("old")
    store.write(URL, Token("new"), None)
    assert not any(CANARY in path.read_text() for path in store.directory.iterdir())


def test_the_lock_excludes_other_threads_is_reentrant_in_one_and_is_never_unlinked(store: TokenStore) -> None:
    order: list[str] = []
    with store.lock(URL):
        store.write(URL, Token("a"), None)  # takes it too

        def other() -> None:
            with store.lock(URL):
                order.append("other")

        thread = threading.Thread(target=other)
        thread.start()
        with pytest.raises(PortalUnavailable, match="Another process"):
            _in_thread(lambda: store.lock(URL, 0.05).__enter__())
        order.append("first")
    thread.join()
    assert order == ["first", "other"]
    assert store.path(URL).with_suffix(".lock").exists()


def _in_thread(act: object) -> None:
    caught: list[BaseException] = []

    def run() -> None:
        try:
            act()  # type: ignore[operator]
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if caught:
        raise caught[0]


# -- age ---------------------------------------------------------------------------------------------------------------


def test_a_jwt_lives_as_long_as_the_servers_own_clock_says() -> None:
    assert lifetime_of(jwt(iat=1000, exp=1300), now_ns=0) == 300
    assert lifetime_of(jwt(exp=1300), now_ns=1000 * 10**9) == pytest.approx(300)


@pytest.mark.parametrize(
    "token",
    [
        *(Token(text) for text in ("opaque", "a.b.c", "é.é.é", "..")),
        *(
            jwt(),
            jwt(exp="x"),
            jwt(exp=None),
            jwt(iat=2, exp=1),
            jwt(exp=1e300),
            jwt(exp=float("nan"), iat=0),
            jwt(iat=[]),
        ),
    ],
)
def test_a_token_that_does_not_say_its_age_has_none(token: Token) -> None:
    assert lifetime_of(token, now_ns=0) is None


def test_a_token_is_ageing_after_four_fifths_of_its_life_and_never_by_a_clock_set_back() -> None:
    tokens = Tokens(URL, Token("a"), obtained=Instant(1000 * 10**9), expires_in=100)
    assert not tokens.is_ageing(Instant(1079 * 10**9))
    assert tokens.is_ageing(Instant(1081 * 10**9))
    assert not tokens.is_ageing(Instant(10))
    assert not Tokens(URL, Token("a"), obtained=Instant(0)).is_ageing(Instant(10**18))
