"""``seclea login`` and ``seclea logout``."""

from __future__ import annotations

import sys

from seclea.api.tokens import Token
from seclea.client.credentials import Credentials, ask_for_login, given_login
from seclea.client.login import log_in, log_out
from seclea.contract import Destination, Home
from seclea.errors import UsageError
from seclea.settings import Settings, home_directory, load

_TIMEOUT_SECONDS = 15.0


def login(
    username: str | None,
    password_stdin: bool,
    token_file: str | None,
    platform_url: str | None,
    auth_url: str | None,
) -> int:
    """Take what is given, ask for what is missing, log in, let what waited go on."""
    settings = _settings(platform_url, auth_url)
    if token_file is not None and (username is not None or password_stdin):
        raise UsageError("A token file takes the place of user name and password.", "Pass one or the other.")
    if password_stdin:
        if username is None:
            raise UsageError("No user name was given.", "Pass --username.")
        credentials = Credentials(username, Token(sys.stdin.readline().rstrip("\n")))
    else:
        given = given_login(token_file=token_file) if username is None else None
        credentials = given or ask_for_login(settings.auth_url, username)
    destination = Destination(settings.platform_url, settings.auth_url, settings.organization)
    home = Home(home_directory().path)
    new = log_in(home, destination, settings.ca_bundle, credentials, _TIMEOUT_SECONDS)
    if credentials.token_file is None:
        print(f"Logged in to {settings.auth_url} as {credentials.username}.")
    elif new:
        print(f"Took the login to {settings.auth_url} from {credentials.token_file}.")
    else:
        print(f"The login in {credentials.token_file} was taken before, and is kept as it has been renewed since.")
    return 0


def logout(platform_url: str | None, auth_url: str | None) -> int:
    """Forget the login; what is recorded from now on waits for another."""
    settings = _settings(platform_url, auth_url)
    destination = Destination(settings.platform_url, settings.auth_url, settings.organization)
    was, told = log_out(Home(home_directory().path), destination, settings.ca_bundle, _TIMEOUT_SECONDS)
    if not was:
        print(f"There was no login to {settings.auth_url}.")
    elif told:
        print(f"Logged out of {settings.auth_url}.")
    else:
        print(f"Logged out here. {settings.auth_url} could not be told: it takes the old tokens until they expire.")
    return 0


def _settings(platform_url: str | None, auth_url: str | None) -> Settings:
    given = {"platform_url": platform_url, "auth_url": auth_url}
    settings = load(arguments={name: value for name, value in given.items() if value}).settings
    if Destination(settings.platform_url, settings.auth_url, settings.organization).is_local:
        raise UsageError("The home's own portal needs no login.", "Set platform_url (in .seclearc or --platform-url).")
    return settings
