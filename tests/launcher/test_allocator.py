"""Oracle: the kernel's count of page faults while a big block is taken, filled and freed again and again."""

import subprocess
import sys

PROGRAM = """
import ctypes, resource, sys
from megalm.launcher.allocator import keep_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def fill(size=int(sys.argv[2]) * 2**20):
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    libc.free(block)
if sys.argv[1] != "default":
    assert keep_memory(large=sys.argv[1] == "kept")
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str, mib: int = 64) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode, str(mib)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_freed_memory_is_not_faulted_in_again() -> None:
    assert faults("kept") < 1000
    assert faults("default") > 50_000


def test_large_blocks_alone_may_go_back_to_the_system() -> None:
    assert faults("only small", 64) > 50_000
    assert faults("only small", 8) < 1000
