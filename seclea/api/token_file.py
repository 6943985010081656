"""Tokens that a person or a scheduler hands over in a file: `SECLEA_TOKEN_FILE`, ``seclea login --token-file``.

Rule 1  The file is read, never written, and its tokens are copied into the store once: what the store has since made of
        them is newer, and putting them back would present a spent refresh token.
Rule 2  A file that others can read, that is not ours or that is for another auth server is refused: its tokens may be
        known to others, or must not be shown to this server.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from typing import Any

from seclea.api.age import Instant
from seclea.api.tokens import Token
from seclea.errors import AuthenticationError

_MAX_BYTES = 64 * 1024
_FORM = (
    'It holds JSON: {"access_token": "...", "refresh_token": "..."}; username, auth_url and expires_in may be added.'
)


@dataclass(frozen=True, slots=True)
class HandedTokens:
    """What a token file says.

    Attributes:
        written: when; ``expires_in`` counts from there.
        source: digest of the whole file, by which the store knows that it has had it.
    """

    access: Token
    refresh: Token | None
    username: str | None
    expires_in: float | None
    written: Instant
    source: str


def read_token_file(path: str | os.PathLike[str], auth_url: str) -> HandedTokens:
    """The tokens in ``path`` for ``auth_url``.

    Raises:
        AuthenticationError: it is missing, open to others, not ours, damaged, or for another auth server.
    """
    name = os.fspath(path)
    try:
        # Links are followed, schedulers lay them; what they lead to is checked. O_NONBLOCK: a FIFO must not hang us.
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _refused(name, f"cannot be opened ({error.strerror})", "Name a file that exists.") from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise _refused(name, "is no plain file", _FORM)
        if facts.st_uid != os.geteuid():
            raise _refused(
                name, f"belongs to another user (uid {facts.st_uid})", "Have it made by the user of the job."
            )
        if (mode := stat.S_IMODE(facts.st_mode)) & 0o077:
            raise _refused(
                name,
                f"is open to other users (mode {mode:04o}), who may know the tokens in it",
                f"Log in for new ones, and make the file 0600 from the start; if nobody else was here: chmod 600 {name}",
            )
        content = os.read(descriptor, _MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    try:
        fields: Any = json.loads(content)
    except (ValueError, RecursionError):
        fields = None
    access = fields.get("access_token") if isinstance(fields, dict) else None
    if not isinstance(access, str) or not access or len(content) > _MAX_BYTES:
        raise _refused(name, "is damaged", _FORM)
    meant = fields.get("auth_url")
    if isinstance(meant, str) and meant.rstrip("/") != auth_url:
        raise _refused(name, f"is for {meant}, not for {auth_url}", "Set auth_url, or name the right file.")
    refresh, username, expires_in = fields.get("refresh_token"), fields.get("username"), fields.get("expires_in")
    return HandedTokens(
        Token(access),
        Token(refresh) if isinstance(refresh, str) and refresh else None,
        username if isinstance(username, str) else None,
        float(expires_in) if type(expires_in) in (int, float) and expires_in > 0 else None,
        Instant(facts.st_mtime_ns),
        hashlib.sha256(content).hexdigest(),
    )


def _refused(name: str, why: str, hint: str) -> AuthenticationError:
    return AuthenticationError(f"The token file {name} {why}.", hint)
