"""The logs of a home: one line per event, bounded, shared, and never a reason to fail."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from seclea.logs import LineFormatter, LogFile, log_files, one_line
from tests.pipeline import ROOT


@pytest.fixture
def handlers() -> Iterator[list[LogFile]]:
    made: list[LogFile] = []
    yield made
    for one in made:
        one.close()


def log_to(path: Path, handlers: list[LogFile], **bounds: int) -> tuple[logging.Logger, LogFile]:
    handler = LogFile(path, **bounds)
    handler.setFormatter(LineFormatter("writer"))
    handlers.append(handler)
    logger = logging.Logger(f"of {path}")
    logger.addHandler(handler)
    return logger, handler


def test_an_event_is_one_line_whatever_is_in_it(tmp_path: Path, handlers: list[LogFile]) -> None:
    logger, _ = log_to(tmp_path / "writer.log", handlers)
    logger.warning("the portal says %s", "no\n2026-01-01T00:00:00.000Z error writer 1 a forged line\r\x1b[31m\u2028")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("unexpected")
    lines = (tmp_path / "writer.log").read_text("utf-8").split("\n")
    assert len(lines) == 3 and lines[2] == ""
    head = rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z (\w+) writer {os.getpid()} "
    assert re.match(head, lines[0])[1] == "warning"  # type: ignore[index]
    assert lines[0].endswith(
        r"the portal says no\n2026-01-01T00:00:00.000Z error writer 1 a forged line\r\x1b[31m\x2028"
    )
    assert re.match(head, lines[1])[1] == "error"  # type: ignore[index]
    assert r"unexpected\nTraceback" in lines[1] and r"ValueError: two\nlines" in lines[1]


def test_what_looks_like_a_token_is_cut_out() -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"
    assert one_line(f"sent Authorization: Bearer abc.def and cookie={token}; done") == (
        "sent Authorization: Bearer [cut out] and cookie=[cut out]; done"
    )


def test_files_are_put_aside_and_never_more_than_was_said(tmp_path: Path, handlers: list[LogFile]) -> None:
    logger, _ = log_to(tmp_path / "writer.log", handlers, file_bytes=2000, kept_files=2)
    for number in range(200):
        logger.info("event %03d %s", number, "x" * 50)
    files = log_files(tmp_path, "writer")
    assert [path.name for path in files] == ["writer.log.2", "writer.log.1", "writer.log"]
    assert all(path.stat().st_size <= 2000 for path in files)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)
    numbers = [int(found) for path in files for found in re.findall(r"event (\d+)", path.read_text())]
    assert numbers == list(range(numbers[0], 200)), "what is left is the latest, in order"
    assert len(numbers) > 30


def test_two_writers_of_one_file_follow_each_other(tmp_path: Path, handlers: list[LogFile]) -> None:
    ours, _ = log_to(tmp_path / "writer.log", handlers, file_bytes=3000, kept_files=9)
    theirs, _ = log_to(tmp_path / "writer.log", handlers, file_bytes=3000, kept_files=9)
    for number in range(100):
        (ours, theirs)[number % 2].info("event %03d", number)
    text = "".join(path.read_text() for path in log_files(tmp_path, "writer"))
    assert [int(found) for found in re.findall(r"event (\d+)", text)] == list(range(100))


def test_a_log_that_cannot_be_written_loses_lines_counts_them_and_fails_nothing(
    tmp_path: Path, handlers: list[LogFile], capfd: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "writer.log"
    full.symlink_to("/dev/full")
    logger, handler = log_to(full, handlers)
    for _ in range(3):
        logger.error("data at risk")
    assert handler.lost == 3, "neither the link is followed nor anything raised"
    full.unlink()
    logger.error("data at risk")
    logger.error("again")
    first, second = full.read_text().splitlines()
    assert first.endswith("data at risk [3 lines before this could not be written]")
    assert second.endswith("again")
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small file system")
def test_a_small_file_system_that_fills_up_is_the_same(tmp_path: Path, handlers: list[LogFile]) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        (tmp_path / "other").write_bytes(b"x" * 8192)
        logger, handler = log_to(tmp_path / "writer.log", handlers)
        for number in range(300):
            logger.info("event %03d %s", number, "x" * 100)
        assert handler.lost > 100
        (tmp_path / "other").unlink()
        logger.info("room again")
        *_, torn, last = (tmp_path / "writer.log").read_text().splitlines()
        assert len(torn) < len(last), "the disk was full within a line"
        assert re.fullmatch(r"\S+Z info writer \d+ room again \[\d+ lines before this could not be written\]", last)
    finally:
        for one in handlers:
            one.close()
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_standard_error_of_a_background_process_follows_the_file(tmp_path: Path) -> None:
    """Or what a crash says would go to a file that was put aside long ago."""
    log = tmp_path / "writer.log"
    with log.open("ab") as output:
        subprocess.run(
            [
                sys.executable, "-c",
                "import logging, pathlib, sys, seclea.logs as logs\n"
                "handler = logs.LogFile(pathlib.Path(sys.argv[1]), file_bytes=100)\n"
                "logging.basicConfig(level=20, handlers=[handler])\n"
                "for number in range(20): logging.info('event %d', number)\n"
                "handler.path.rename(handler.path.with_suffix('.gone'))\n"
                "logging.info('the last')\n"
                "raise SystemExit('a crash')\n",
                str(log),
            ],
            stdout=output, stderr=output, cwd=ROOT,
        )  # fmt: skip
    assert log.read_text() == "INFO:root:the last\na crash\n"
