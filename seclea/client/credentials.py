"""What a login is made from, as it is given: arguments, the environment, a token file, or asked for at the terminal."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from seclea.api.tokens import Token
from seclea.errors import UsageError

_WAYS = (
    "Pass username and password, or token_file (`seclea login`: --username and --password-stdin, or --token-file), or set "
    "SECLEA_USERNAME and SECLEA_PASSWORD, or SECLEA_TOKEN_FILE."
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and password, or a token file in their place."""

    username: str | None = None
    password: Token | None = None
    token_file: str | None = None


def given_login(
    username: str | None = None,
    password: str | Token | None = None,
    token_file: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Credentials | None:
    """What was given to log in with, None for nothing. Arguments come before the environment; empty counts as not given.

    Raises:
        UsageError: a user name without a password or the other way round, or a token file beside them.
    """
    secret = _secret(password)
    del password  # a crash reporter may show the locals of this frame
    if token_file and (username or secret):
        raise UsageError("A token file takes the place of user name and password.", "Pass one or the other.")
    if not token_file:
        username = username or environ.get("SECLEA_USERNAME")
        secret = secret or _secret(environ.get("SECLEA_PASSWORD"))
        if not username and not secret:
            token_file = environ.get("SECLEA_TOKEN_FILE")
    if token_file:
        return Credentials(token_file=os.fspath(token_file))
    if not username and not secret:
        return None
    if not username or not secret:
        raise UsageError("A user name needs a password, and the other way round.", "Pass both, or neither.")
    return Credentials(username, secret)


def ask_for_login(auth_url: str, username: str | None = None) -> Credentials:
    """Ask at the terminal for what is missing.

    Raises:
        UsageError: there is no terminal to ask at, or its end was reached.
    """
    if not sys.stdin.isatty():
        raise UsageError("There is no terminal to ask for user name and password.", _WAYS)
    try:
        name = username or input(f"User name for {auth_url}: ")
        return Credentials(name, Token(getpass.getpass("Password: ")))
    except EOFError:
        raise UsageError("No user name and password were given.", _WAYS) from None


def _secret(value: str | Token | None) -> Token | None:
    return Token(value) if value and not isinstance(value, Token) else value or None
