"""`python -m seclea` is the `seclea` command."""

import sys

from seclea.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
