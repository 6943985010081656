"""How many rows make steps of the lengths that are wanted? Asked once, so that every contender does the same work."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from measuring import rows_for

if __name__ == "__main__":
    Path(sys.argv[3]).write_text(
        json.dumps({name: rows_for(seconds) for name, seconds in json.loads(sys.argv[1]).items()})
    )
