"""The command line: ``python -m seclea.portal`` and ``seclea portal``."""

from __future__ import annotations

import argparse
import getpass
import http.client
import importlib.util
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seclea.contract import Home
from seclea.errors import MissingExtraError, SecleaError, UsageError
from seclea.logs import set_up_logging
from seclea.settings.home import home_directory

if TYPE_CHECKING:
    from seclea.portal.context import Portal

FAILED, ALREADY_SERVED = 1, 3  # exit codes
EXTRA = (
    "fastapi",
    "uvicorn",
    "sqlalchemy",
    "alembic",
    "pwdlib",
    "argon2",
    "jwt",
    "jinja2",
    "python_multipart",
    "msgpack",
)


def run(argv: Sequence[str]) -> int:
    """``python -m seclea.portal --data DIR ...``. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m seclea.portal", description="Serve the portal of one data folder.")
    _serving_arguments(parser)
    parser.add_argument("--socket", type=Path, help="the owner's unix socket (default: in the data folder)")
    parser.add_argument("--embedded", action="store_true", help="leave when nobody needs the portal")
    parser.add_argument(
        "--idle-timeout", type=float, default=60.0, metavar="SECONDS", help="embedded: how long to wait"
    )
    parser.add_argument("--logs", type=Path, metavar="DIR", help="log to a file there, not to standard error")
    parser.add_argument("--owner-lock", type=Path, metavar="PATH", help="embedded: stay while this file is locked")
    return _answer(_serve, parser.parse_args(list(argv)))


def main(argv: Sequence[str] | None = None) -> int:
    """``seclea portal ...``. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="seclea portal", description="The portal: serve it, or say who may use it.")
    _serving_arguments(parser)
    parser.set_defaults(socket=None, embedded=False, idle_timeout=60.0, owner_lock=None, logs=None)
    commands = parser.add_subparsers(dest="noun", metavar="COMMAND")
    for noun, what in (("user", "a user who logs in with a password"), ("org", "an organization")):
        of_noun = commands.add_parser(noun, help=f"add {what}").add_subparsers(dest="verb", required=True)
        add = of_noun.add_parser("add", help=f"add {what}")
        add.add_argument("name", metavar="NAME")
        add.add_argument("--data", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if noun == "user":
            add.add_argument("--organization", metavar="ORG", default="", help="make the user its member")
            add.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    arguments = parser.parse_args(argv)
    return _answer({None: _serve_and_tell, "user": _add_user, "org": _add_organization}[arguments.noun], arguments)


def _serving_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=None, help="the portal's folder (default: in seclea's home)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME", help="a name in whose stead requests may come"
    )


def _answer(command: Any, arguments: argparse.Namespace) -> int:
    try:
        command(arguments)
    except (SecleaError, OSError) as error:
        print(f"seclea portal: {error}", file=sys.stderr)
        return ALREADY_SERVED if type(error).__name__ == "AlreadyServed" else FAILED
    except KeyboardInterrupt:
        return 130
    return 0


def default_data() -> Path:
    """The folder of the home's own portal."""
    return home_directory().path / "portal"


def require_extra() -> None:
    """Say what to install where the portal's packages are missing.

    Raises:
        MissingExtraError: one of them is.
    """
    for name in EXTRA:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"The portal needs {name}, which is not installed.", 'pip install "seclea[portal]"')


def _serve_and_tell(arguments: argparse.Namespace) -> None:
    """In somebody's terminal: say where it is and how to get in."""

    def tell(portal: Portal) -> None:
        print(f"The portal of {portal.config.data} is at {portal.url}")
        print(f"This link lets a browser in once, within five minutes: {portal.browser_link()}")
        print("Ctrl-C stops it.", flush=True)

    _serve(arguments, tell)


def _serve(arguments: argparse.Namespace, announce: Callable[[Portal], None] | None = None) -> None:
    require_extra()
    from seclea.portal.config import PortalConfig
    from seclea.portal.serve import serve

    if arguments.logs is None:
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.getLogger("seclea").setLevel(logging.INFO)
    else:
        set_up_logging(arguments.logs, "portal")
    serve(
        PortalConfig(
            data=_data(arguments),
            socket=arguments.socket or _socket(arguments),
            host=arguments.host,
            port=arguments.port,
            embedded=arguments.embedded,
            idle_timeout_seconds=arguments.idle_timeout,
            owner_lock=arguments.owner_lock,
            allowed_hosts=tuple(name.lower() for name in arguments.allowed_host),
        ),
        announce,
    )


def _socket(arguments: argparse.Namespace) -> Path | None:
    """Where the home's pipeline looks for its own portal; a portal of another folder has its socket there."""
    if arguments.data is not None:
        return None
    path = Home(default_data().parent).portal_socket
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _data(arguments: argparse.Namespace) -> Path:
    return Path(arguments.data or default_data()).expanduser().absolute()


# --------------------------------------------------------------------------------------------------------- accounts


def _add_organization(arguments: argparse.Namespace) -> None:
    from seclea.portal import accounts

    made = _ask(arguments, "/internal/organizations", {"name": arguments.name})
    if made is None:
        made = {"uuid": _in_folder(arguments, lambda connection: accounts.add_organization(connection, arguments.name))}
    print(f"organization {arguments.name}: {made['uuid']}")


def _add_user(arguments: argparse.Namespace) -> None:
    password = _read_password(from_stdin=arguments.password_stdin)
    require_extra()
    from seclea.portal import accounts

    body = {"name": arguments.name, "password": password, "organization": arguments.organization}
    made = _ask(arguments, "/internal/users", body)
    if made is None:
        kept = accounts.Passwords().hash(password)
        wanted = arguments.organization or None
        made = {
            "uuid": _in_folder(
                arguments, lambda connection: accounts.add_member(connection, arguments.name, kept, wanted)
            )
        }
    print(f"user {arguments.name}: {made['uuid']}")


def _read_password(*, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise UsageError("The two passwords differ.")
    return password


def _in_folder(arguments: argparse.Namespace, work: Any) -> str:
    """Do it in the folder itself, which no portal serves."""
    require_extra()
    from seclea.portal.accounts import ensure_owner
    from seclea.portal.config import PortalConfig
    from seclea.portal.database import Database
    from seclea.portal.serve import hold_folder

    config = PortalConfig(_data(arguments))
    os.umask(0o077)
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with hold_folder(config):
        database = Database(config.database_path)
        try:
            database.submit(ensure_owner).result()
            return str(database.submit(work).result())
        finally:
            database.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("portal", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _ask(arguments: argparse.Namespace, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
    """Ask the portal that serves the folder; None where none does."""
    try:
        address = json.loads((_data(arguments) / "address.json").read_text())
        connection = _UnixConnection(address["socket"])
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        answer: dict[str, Any] = json.loads(reply.read())
        connection.close()
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return None
    if reply.status == 200:
        raise UsageError(f"{body['name']!r} already exists.")
    if reply.status != 201:
        raise UsageError(str(answer.get("detail", reply.status)))
    return answer
