"""Oracle: by hand: what rank 0 says is what the spare ranks are told, and they never outlive it."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
import torch.distributed as dist

from megalm.errors import LostRank
from megalm.launcher.placement import Placement
from megalm.launcher.torchrun.spare import GOODBYE_S, End, Spares

HOST = """
import sys
from megalm.launcher.placement import Placement
from megalm.launcher.torchrun.spare import Spares

kept = Spares(Placement(0, 1, 0, 1, "127.0.0.1", int(sys.argv[1]), "torchrun"), 1, 30, hosts=True)
print("there", flush=True)
sys.stdin.read()
"""


def free_port() -> int:
    return int(dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False).port)  # type: ignore[attr-defined]


def spares(rank: int, port: int, num_spares: int = 2, *, hosts: bool = False) -> Spares:
    return Spares(Placement(rank, 3, rank, 3, "127.0.0.1", port, "torchrun"), num_spares, 30, hosts=hosts)


def waiting(rank: int, port: int, told: list[End], reason: Callable[[], str | None]) -> threading.Thread:
    thread = threading.Thread(target=lambda: told.append(spares(rank, port).wait(reason)), daemon=True)
    thread.start()
    return thread


def test_spare_ranks_end_as_the_run_does() -> None:
    port = free_port()
    first = spares(0, port, hosts=True)
    told: list[End] = []
    others = [waiting(rank, port, told, lambda: None) for rank in (1, 2)]
    assert first.asked() is None
    began = time.monotonic()
    first.release(End(75, "SIGUSR1"))
    assert time.monotonic() - began < GOODBYE_S, "rank 0 was not told that they are gone"
    for other in others:
        other.join(timeout=30)
    assert told == [End(75, "SIGUSR1")] * 2


def test_what_asks_a_spare_rank_to_end_reaches_rank_0() -> None:
    port = free_port()
    first = spares(0, port, 1, hosts=True)
    told: list[End] = []
    other = waiting(1, port, told, lambda: "SIGTERM")
    end = time.monotonic() + 30
    while first.asked() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert first.asked() == "SIGTERM"
    first.release(End(75, "SIGTERM"))
    other.join(timeout=30)
    assert told == [End(75, "SIGTERM")]


def test_a_spare_rank_does_not_wait_for_a_run_that_is_gone() -> None:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", HOST, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"there\n"
    other = spares(1, port)
    process.kill()
    process.communicate()
    with pytest.raises(LostRank, match="rank 0 is gone"):
        other.wait(lambda: None)
