"""``seclea verify`` and ``seclea export``: where a home's ledger and portals are, and the login to them."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from seclea import verify
from seclea.api.connect import open_auth
from seclea.cli.pipeline import portal_token, this_home
from seclea.contract import Destination, Home
from seclea.errors import AuthenticationError, LedgerError, PipelineError, UsageError
from seclea.export import CannotRead, LedgerFile, Live, Portal, write_export
from seclea.ledger.check import check as check_ledger
from seclea.settings import load

_TRIES = 3  # while records go on coming in


def verify_home(options: argparse.Namespace) -> int:
    """Check an export, or this home's ledger and its portal; the exit code is the verdict (`seclea.verify`)."""
    try:
        if options.export:
            given = [*options.run, "--export", options.export]
            given += [name for name in ("--content", "--json") if getattr(options, name[2:])]
            for name in ("heads", "write_heads"):
                given += [f"--{name.replace('_', '-')}", value] if (value := getattr(options, name)) else []
            return verify.main(given)
        check, report = check_home(this_home(), options)
        if altered := _altered_rows(this_home()):
            for said in altered:
                check.find(verify.ALTERED, said)
            report = check.report()
        return verify.conclude(check, report, options)
    except (CannotRead, verify.CannotCheck) as error:
        raise PipelineError(str(error)) from None


def _altered_rows(home: Home) -> list[str]:
    """What the ledger's own seals say of its rows: also of those that are no evidence, and that the portal never sees."""
    if not home.ledger.exists():
        return []
    try:
        return check_ledger(home.ledger).wrong
    except LedgerError as error:
        return [error.message]


def check_home(home: Home, options: argparse.Namespace) -> tuple[verify.Check, dict[str, Any]]:
    """Check a home as it stands; once more while records come in meanwhile."""
    left = _TRIES
    while True:
        source = _live(home, options.run)
        check, report = verify.verify(source, options)
        left -= 1
        if not source.moved():
            return check, report
        if not left:
            check.forgive()
            return check, check.report()


def export_home(path: str, *, content: bool) -> int:
    """Write down what ledger and portal hold."""
    try:
        written = write_export(_live(this_home(), []), path, content=content)
    except CannotRead as error:
        raise PipelineError(str(error)) from None
    with_content = f"{written['payloads']} contents" if content else "without contents (--content)"
    print(f"Exported to {path}: {written['files']} files, {with_content}. Check it anywhere: verify.py --export {path}")
    return 0


def _live(home: Home, runs: list[str]) -> Live:
    """The ledger's one destination, or the one that the settings name, and its portal."""
    if wrong := [run for run in runs if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", run)]:
        raise UsageError(
            f"{wrong[0]!r} is no uuid of a run.", "Without RUN all runs are checked, and named with their uuids."
        )
    settings = load().settings
    wanted = Destination(settings.platform_url, settings.auth_url, settings.organization)
    ledger, number = None, 0
    if home.ledger.exists():
        ledger = LedgerFile(str(home.ledger))
        known = {
            one["id"]: Destination(one["platform_url"], one["auth_url"], one["organization"])
            for one in ledger.destinations()
        }
        number = next((one for one, where in known.items() if where == wanted), 0)
        if not number and len(known) == 1:
            number, wanted = next(iter(known.items()))
        if not number and known:
            names = ", ".join(f"{one.platform_url} ({one.organization})" for one in known.values())
            raise UsageError(
                f"This home's records go to {names}, and the settings name {wanted.platform_url} ({wanted.organization}).",
                "Set platform_url and organization (in .seclearc or by SECLEA_PLATFORM_URL) to the one to be checked.",
            )
    elif wanted.is_local and not home.portal.exists():
        raise UsageError(f"Nothing was ever recorded in {home.path}.", "Set SECLEA_HOME, or pass --export PATH.")
    source = Live(_portal(home, wanted, settings.ca_bundle), ledger, number, runs, own=wanted.is_local)
    if runs:
        seen = {head["training_run"] for side in ("ledger", "portal") for head in source.lines(f"{side}/heads.jsonl")}
        if unknown := sorted(set(runs) - seen):
            raise UsageError(f"There is no run {unknown[0]}.", "Without RUN all that are there are checked and named.")
    return source


def _portal(home: Home, wanted: Destination, ca_bundle: str | None) -> Portal:
    if wanted.is_local:
        own = portal_token(home)
        url = json.loads((home.portal / "address.json").read_text("utf-8"))["url"]
        return Portal(url, own, wanted.organization)
    token = open_auth(home, wanted, ca_bundle).access_token()
    if token is None:
        raise AuthenticationError(f"There is no login to {wanted.auth_url}.", "seclea login; or pass --export PATH.")
    return Portal(wanted.platform_url, token.reveal(), wanted.organization, ca_bundle)
