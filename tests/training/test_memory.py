"""Oracle: a block of memory of known size, touched in a process of its own."""

import subprocess
import sys

import pytest

from megalm.training.memory import peak_memory_gib, peak_resident_bytes

PROGRAM = """
from megalm.training.memory import peak_resident_bytes
before = peak_resident_bytes()
block = bytearray(b"x") * 200_000_000
del block
print(peak_resident_bytes() - before)
"""


def test_the_peak_grows_by_what_was_touched_and_stays() -> None:
    printed = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    assert 195_000_000 < int(printed) < 215_000_000


def test_gib_of_this_process_or_of_the_device() -> None:
    assert peak_memory_gib() == pytest.approx(peak_resident_bytes() / 2**30, rel=0.1)
    assert peak_memory_gib(3 * 2**30) == 3.0
