"""``python -m seclea.portal``: the portal as a process of its own."""

from __future__ import annotations

import sys

from seclea.portal.cli import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
