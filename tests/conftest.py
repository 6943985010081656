"""For all tests: what pytest captured of a test that passed holds no secret (S3; `tests/canary.py`)."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator

import pytest

from tests import canary

CAREFUL = ("tests/contract/", "tests/system/", "tests/unit/api/", "tests/unit/sender/", "tests/crash/test_refresh")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.outcome == "passed" and (found := sorted(set(canary.in_text(report.sections)))):
        report.outcome = "failed"
        report.longrepr = f"a secret stands in: {', '.join(found)}"
    return report


@pytest.fixture(autouse=True)
def _everything_is_logged(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where secrets are at work, the logs that are searched are the whole ones, those of urllib3 too."""
    if not request.node.nodeid.startswith(CAREFUL):
        yield
        return
    loggers = [logging.getLogger(name) for name in ("seclea", "urllib3")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)
