"""A rank does not outlive the launcher that started it, not even one killed by ``kill -9``."""

import ctypes
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1
WATCH_S = 1.0


def die_with(parent: int) -> None:
    """End this process by SIGKILL as soon as ``parent``, the process that started it, is gone.

    On Linux the kernel does it at once (prctl); everywhere a thread looks every second, which also covers a launcher
    that was gone before this call.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _die_if_orphaned(parent)
    threading.Thread(target=_watch, args=(parent,), daemon=True, name="launcher-watch").start()


def _watch(parent: int) -> None:
    while True:
        time.sleep(WATCH_S)
        _die_if_orphaned(parent)


def _die_if_orphaned(parent: int) -> None:
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
