"""Freed memory is kept for the next step instead of being given back to the system and zeroed again."""

import ctypes

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
NEVER = 2**31 - 1


LARGE = 2**24
"""Bytes: a bucket of a large layer, and few activations."""


def keep_memory(*, large: bool = True) -> bool:
    """Tell glibc to serve big blocks from its own heap and never to shrink it; return whether it agreed.

    By default each big tensor is mapped and unmapped anew, and every one of its pages faults again in every step.
    Other C libraries have no such setting and are left alone.

    Args:
        large: whether blocks of ``LARGE`` bytes and more are kept too. Where whole buckets come and go between small
            blocks that stay (ZeRO from stage 2 on), the heap would grow around the holes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, NEVER if large else LARGE)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
