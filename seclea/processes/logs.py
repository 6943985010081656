"""Where background processes write what people may want to read: rotated files in the home."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler

from seclea.contract import Home

_FILE_BYTES = 1 << 20
_FILES = 3  # older ones kept beside the current


def set_up_logging(home: Home, name: str) -> None:
    """Send what seclea logs in this process to ``logs/NAME.log``, 4 MB at most."""
    handler = RotatingFileHandler(
        home.logs / f"{name}.log", maxBytes=_FILE_BYTES, backupCount=_FILES, encoding="utf-8", errors="backslashreplace"
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"))
    logger = logging.getLogger("seclea")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
