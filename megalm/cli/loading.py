"""Loading torch and what computes, quickly."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Import modules here without the garbage collector, which would look through all that is loaded time and again.

    Nor does it look through what was loaded here afterwards, so that its work amid training is short.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
