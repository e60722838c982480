"""Oracle: which nodes take part, by hand: two that meet, of which one falls silent and one comes."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from megalm.launcher.torchrun import rendezvous
from megalm.launcher.torchrun.notes import FOLDER
from megalm.launcher.torchrun.rendezvous import WatchedHandler
from tests.launcher.torchrun.test_spare import free_port

PATIENCE_S = 60


@pytest.fixture(autouse=True, scope="module")
def registered() -> None:
    rendezvous.register()


@pytest.fixture
def rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that stands for a rank of this machine which waits for one of another."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (tmp_path / f"rank-{process.pid}").touch()
    yield process
    process.kill()
    process.wait()


def node(port: int, *, hosts: bool = False) -> WatchedHandler:
    settings = {"last_call_timeout": "1", "keep_alive_interval": "1", "keep_alive_max_attempt": "3"}
    parameters = RendezvousParameters(
        "megalm", f"127.0.0.1:{port}", "test", 1, 2, "127.0.0.1", is_host=str(int(hosts)), **settings
    )
    handler = get_rendezvous_handler(parameters)
    assert isinstance(handler, WatchedHandler)
    return handler


def meet(*nodes: WatchedHandler) -> None:
    threads = [threading.Thread(target=node.next_rendezvous) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE_S)


def test_a_node_that_falls_silent_is_noticed(rank: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "GRACE_S", 0.5)
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    port = free_port()
    stays = node(port, hosts=True)
    goes = node(port)
    meet(stays, goes)
    assert stays.num_nodes_waiting() == 0
    goes._stop_heartbeats()
    end = time.monotonic() + PATIENCE_S
    while (change := stays.num_nodes_waiting()) == 0 and time.monotonic() < end:
        assert rank.poll() is None
        time.sleep(0.05)
    assert change == 1
    assert rank.wait(timeout=10) == -9
    meet(stays)
    assert stays.num_nodes_waiting() == 0
    comes = node(port)
    thread = threading.Thread(target=comes.next_rendezvous)
    thread.start()
    while stays.num_nodes_waiting() == 0 and time.monotonic() < end:
        time.sleep(0.05)
    assert stays.num_nodes_waiting() == 1
    meet(stays)
    thread.join(timeout=PATIENCE_S)
    assert stays.num_nodes_waiting() == comes.num_nodes_waiting() == 0
    for each in (stays, comes):
        each._stop_heartbeats()


def test_the_thread_of_a_handler_is_not_the_last_to_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    handler = node(free_port(), hosts=True)
    handler.next_rendezvous()
    handler._stop_heartbeats()
    held = weakref.ref(handler)
    del handler
    gc.collect()
    assert held() is not None
