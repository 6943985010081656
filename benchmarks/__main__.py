"""``python -m benchmarks [NAME] [options]``: run one benchmark, or list them."""

from __future__ import annotations

import sys

from benchmarks import dataset_chain, log_call

BENCHMARKS = {"log_call": log_call.main, "dataset_chain": dataset_chain.main}


def main() -> int:
    """Run the benchmark that is named; the first one without a name."""
    names = sys.argv[1:]
    if names[:1] == ["--list"]:
        print("\n".join(BENCHMARKS))
        return 0
    name = names.pop(0) if names and names[0] in BENCHMARKS else "log_call"
    return BENCHMARKS[name](names)


if __name__ == "__main__":
    sys.exit(main())
