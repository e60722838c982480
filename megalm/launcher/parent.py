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

    On Linux the kernel does it at once (prctl), also while this process is deep in native code; everywhere a thread
    looks every second, which covers a launcher that was gone before this call too.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    threading.Thread(target=_watch, args=(parent,), daemon=True, name="launcher-watch").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os.kill(os.getpid(), signal.SIGKILL)
