"""``python -m benchmarks.zero``: ZeRO beside other engines; show and keep the numbers, exit 1 if a bound fails."""

import sys

from benchmarks.throughput.command import measure
from benchmarks.zero.claims import CLAIMS


def main() -> int:
    """Run the benchmark; return the exit code."""
    return measure("zero", __doc__, CLAIMS)


if __name__ == "__main__":
    sys.exit(main())
