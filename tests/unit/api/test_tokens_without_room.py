"""A token store that this process has no descriptor for is no reason to ask a person for a login."""

import errno
import os
from pathlib import Path

import pytest

from seclea.api.tokens import Token, TokenStore
from seclea.errors import PortalUnavailable


def test_a_login_that_cannot_be_read_just_now_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TokenStore(tmp_path / "tokens")
    store.write("https://auth", Token("access"), Token("refresh"), "ada")

    def none_left(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", none_left)
        with pytest.raises(PortalUnavailable, match="cannot be read just now: Too many open files"):
            TokenStore(tmp_path / "tokens").read("https://auth")
    assert store.read("https://auth") is not None


def test_a_login_whose_file_errs_while_it_is_read_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TokenStore(tmp_path / "tokens")
    store.write("https://auth", Token("access"), Token("refresh"), "ada")

    def errs(*_: object) -> os.stat_result:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", errs)
        with pytest.raises(PortalUnavailable, match="cannot be read just now: Input/output error"):
            TokenStore(tmp_path / "tokens").read("https://auth")
    assert store.read("https://auth") is not None
