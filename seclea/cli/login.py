"""``seclea login``."""

from __future__ import annotations

import getpass
import sys

from seclea.client.login import log_in
from seclea.contract import Destination, Home
from seclea.errors import UsageError
from seclea.settings import home_directory, load

_TIMEOUT_SECONDS = 15.0


def login(username: str | None, password_stdin: bool, platform_url: str | None, auth_url: str | None) -> int:
    """Ask for what is missing, log in, let what waited go on."""
    given = {"platform_url": platform_url, "auth_url": auth_url}
    settings = load(arguments={name: value for name, value in given.items() if value}).settings
    destination = Destination(settings.platform_url, settings.auth_url, settings.organization)
    if destination.is_local:
        raise UsageError("The home's own portal needs no login.", "Set platform_url (in .seclearc or --platform-url).")
    if username is None:
        if not sys.stdin.isatty():
            raise UsageError("No user name was given.", "Pass --username.")
        username = input(f"User name for {settings.auth_url}: ")
    if password_stdin:
        password = sys.stdin.readline().rstrip("\n")
    elif sys.stdin.isatty():
        password = getpass.getpass("Password: ")
    else:
        raise UsageError("There is no terminal to ask for the password.", "Pass --password-stdin.")
    home = Home(home_directory().path)
    log_in(home, destination, settings.ca_bundle, username, password, _TIMEOUT_SECONDS)
    print(f"Logged in to {settings.auth_url} as {username}.")
    return 0
