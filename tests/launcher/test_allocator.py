"""Oracle: the kernel's count of page faults while a big block is taken, filled and freed again and again."""

import subprocess
import sys

PROGRAM = """
import ctypes, resource, sys
from megalm.launcher.allocator import keep_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def fill(size=64 * 2**20):
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    libc.free(block)
if sys.argv[1] == "kept":
    assert keep_memory()
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_freed_memory_is_not_faulted_in_again() -> None:
    assert faults("kept") < 1000
    assert faults("default") > 50_000
