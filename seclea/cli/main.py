"""``seclea COMMAND``: look after the pipeline of a home, its portal and its settings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from seclea import __version__
from seclea.errors import SecleaError
from seclea.verify import add_options

Command = Callable[[argparse.Namespace], int]


def _demo(options: argparse.Namespace) -> int:
    from seclea.cli.demo import demo

    return demo(keep=options.keep, home=options.home)


def _status(options: argparse.Namespace) -> int:
    from seclea.cli.status import show_status

    return show_status(as_json=options.json)


def _ui(options: argparse.Namespace) -> int:
    from seclea.cli.pipeline import open_ui

    return open_ui(browser=not options.no_browser)


def _token(_options: argparse.Namespace) -> int:
    from seclea.cli.pipeline import print_token

    return print_token()


def _flush(options: argparse.Namespace) -> int:
    from seclea.cli.pipeline import flush_all

    return flush_all(options.timeout)


def _complete(options: argparse.Namespace) -> int:
    from seclea.cli.pipeline import complete_all

    return complete_all(options.timeout)


def _logs(options: argparse.Namespace) -> int:
    from seclea.cli.logs import show_logs

    return show_logs(options.process, options.lines, options.level, follow=options.follow)


def _stop(options: argparse.Namespace) -> int:
    from seclea.cli.pipeline import stop_all

    return stop_all(options.timeout)


def _retry(_options: argparse.Namespace) -> int:
    from seclea.cli.pipeline import resume

    return resume()


def _dismiss(options: argparse.Namespace) -> int:
    from seclea.cli.pipeline import dismiss

    return dismiss(None if options.all else options.record)


def _recover(options: argparse.Namespace) -> int:
    from seclea.cli.recover import recover

    return recover(options.timeout, only_check=options.check, home_path=options.home)


def _login(options: argparse.Namespace) -> int:
    from seclea.cli.login import login

    return login(options.username, options.password_stdin, options.token_file, options.platform_url, options.auth_url)


def _logout(options: argparse.Namespace) -> int:
    from seclea.cli.login import logout

    return logout(options.platform_url, options.auth_url)


def _verify(options: argparse.Namespace) -> int:
    from seclea.cli.verify import verify_home

    return verify_home(options)


def _export(options: argparse.Namespace) -> int:
    from seclea.cli.verify import export_home

    return export_home(options.path, content=options.content)


def _config(options: argparse.Namespace) -> int:
    from seclea.cli.config import show_config

    return show_config(origin=options.origin)


def parser() -> argparse.ArgumentParser:
    """The command line; also what the documentation test reads."""
    top = argparse.ArgumentParser(prog="seclea", description="A provable record of how a model came to be.")
    top.add_argument("--version", action="version", version=f"seclea {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    demo = add(
        "demo",
        _demo,
        "From a raw table to three models, and the evidence: all of it read back from the portal and checked.",
    )
    demo.add_argument("--keep", action="store_true", help="leave the portal up and its data in place")
    demo.add_argument("--home", help="use this directory instead of a temporary one (implies that it is kept)")
    # Parsed by the portal itself (`main` passes everything on); listed here for the help text.
    add("portal", _portal, "Run a portal, or manage its users and organizations (see `seclea portal --help`).")
    ui = add("ui", _ui, "Open the home's portal in a browser, by a link that works once.")
    ui.add_argument("--no-browser", action="store_true", help="only print the link")
    status = add("status", _status, "Show what is recorded, sent, pending, failed and held.")
    status.add_argument("--json", action="store_true", help="as JSON, in the form of docs/reference.md")
    logs = add("logs", _logs, "Show what the background processes have written down.")
    logs.add_argument("process", nargs="*", metavar="PROCESS", help="writer, sender, portal; all by default")
    logs.add_argument("--follow", "-f", action="store_true", help="go on with what comes, until Ctrl-C")
    logs.add_argument("--lines", type=int, default=50, metavar="NUMBER", help="how many of the latest (50)")
    logs.add_argument("--level", default="info", metavar="LEVEL", help="info, warning or error, and worse")
    login = add("login", _login, "Log in to a portal; what waited for it is sent.")
    login.add_argument("--username")
    login.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    login.add_argument("--token-file", metavar="PATH", help="take the tokens in this file (0600, JSON)")
    logout = add("logout", _logout, "Forget the login to a portal, and end it there.")
    for one in (login, logout):
        one.add_argument("--platform-url", help="default: as configured")
        one.add_argument("--auth-url", help="default: as configured")
    add("token", _token, "Print an access token of the home's portal, for scripts.")
    flush = add("flush", _flush, "Wait until everything handed over is durable.")
    flush.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS")
    complete = add("complete", _complete, "Wait until everything is delivered.")
    complete.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS")
    stop = add("stop", _stop, "Stop the home's background processes; what is not sent is sent after the next start.")
    stop.add_argument("--timeout", type=float, default=20.0, metavar="SECONDS")
    add("retry", _retry, "Try destinations again that are on hold.")
    dismiss = add("dismiss", _dismiss, "Let failed and held records be: they are kept, and no longer told as trouble.")
    dismiss.add_argument("record", nargs="*", type=int, metavar="RECORD", help="a number that `seclea status` shows")
    dismiss.add_argument("--all", action="store_true", help="all of them")
    check = add(
        "verify",
        _verify,
        "Check what ledger and portal hold against each other: complete (0), pending (3), gap (4) or altered (5).",
    )
    add_options(check)
    export = add("export", _export, "Write down what ledger and portal hold, to be checked anywhere.")
    export.add_argument("path", metavar="PATH", help="a directory that is made, or a file .zip")
    export.add_argument("--content", action="store_true", help="with the contents of datasets and states")
    recover = add("recover", _recover, "Look at the ledger, salvage it where it is damaged, and send what is left.")
    recover.add_argument("--check", action="store_true", help="only look: at every row, chain and payload")
    recover.add_argument("--home", metavar="DIR", help="default: the home of this environment")
    recover.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="for sending (60)")
    config = add("config", _config, "Show the settings in force.")
    config.add_argument("--origin", action="store_true", help="and where each value came from")
    return top


def _portal(_options: argparse.Namespace) -> int:
    raise AssertionError("handled in main")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code: 0 done, 1 not done, 2 wrong use."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["portal"]:
            from seclea.portal.cli import main as portal_main

            return portal_main(given[1:])
        options = parser().parse_args(given)
        command: Command = options.command
        return command(options)
    except SecleaError as error:
        print(f"seclea: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print("seclea: interrupted; the background goes on.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
