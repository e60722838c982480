"""``python -m benchmarks.throughput``: measure every claim, show and keep the numbers, exit 1 if a bound fails."""

import sys

from benchmarks.throughput.claims import CLAIMS
from benchmarks.throughput.command import measure
from benchmarks.throughput.megatron_cpu import check_installed


def main() -> int:
    """Run the benchmark; return the exit code."""
    check_installed()
    return measure("throughput", __doc__, CLAIMS)


if __name__ == "__main__":
    sys.exit(main())
