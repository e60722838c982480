"""The processes behind the rank pool: a nursery that has imported torch, and the workers that it forks.

The import of torch costs seconds and 300 MB; the nursery pays it once and stays single-threaded, so that a fork is a
fresh rank within milliseconds. It obeys the pool over a socket, one message a request: a socket of a new worker and its
log file, or the number of a worker that has ended. When the pool is gone the nursery ends with all its workers.
"""

import contextlib
import faulthandler
import gc
import importlib
import os
import pickle
import random
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

AWAIT_S = 3.0
"""For the answers of other ranks, after one's own; the pool's patience with a call that failed is longer."""


@dataclass(frozen=True)
class RankContext:
    """What a function on a rank is told: it is ``rank`` of ``num_ranks``; the default process group has these ranks."""

    rank: int
    num_ranks: int


@dataclass(frozen=True)
class Call:
    """What a worker is asked: join the named world of ``num_ranks`` and call the pickled (function, arguments)."""

    world: str
    rank: int
    num_ranks: int
    timeout_s: float
    work: bytes


@dataclass(frozen=True)
class Answer:
    """A pickled result, or the traceback; a worker that is idle again sends one with neither."""

    result: bytes | None = None
    failure: str | None = None


def serve_nursery(control: socket.socket) -> None:
    """Fork workers, and tell the exit codes of those that ended, until the pool goes."""
    for name in ("torch._dynamo", "torch.distributed.checkpoint"):  # seconds to import: here they are paid once
        importlib.import_module(name)
    forget_what_is_left()
    while True:
        message, sockets, _, _ = socket.recv_fds(control, 4096, 1)
        if not message:
            os.killpg(0, signal.SIGKILL)
        if sockets:
            number = os.fork()
            if number == 0:
                control.close()
                serve_calls(Connection(sockets[0]), log=message.decode())
                os._exit(0)
            os.close(sockets[0])
        else:
            number = os.waitstatus_to_exitcode(os.waitpid(int(message), 0)[1])
        control.send(str(number).encode())


def serve_calls(pool: Connection, log: str) -> None:
    """Answer the calls of the pool until it goes; SIGUSR1 writes to the log where the worker is."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    host, port = pickle.loads(pool.recv_bytes())
    store = TCPStore(host, port, is_master=False)
    while True:
        try:
            call = pickle.loads(pool.recv_bytes())
        except EOFError:
            return
        world = PrefixStore(call.world, store)
        with clean_room():
            try:
                answer = Answer(result=perform(call, world))
            except BaseException:
                answer = Answer(failure=traceback.format_exc())
            pool.send_bytes(pickle.dumps(answer))
            with contextlib.suppress(dist.DistError):  # one hangs or is dead, which is the pool's business
                # A rank that has nothing to exchange would close, when it leaves, what others are still connecting to.
                # One that failed does not wait: that it leaves is what ends the waiting of the others.
                pass_together(call, world, "answered", AWAIT_S if answer.result else None)
            if dist.is_initialized():
                dist.destroy_process_group()
        forget_what_is_left()
        pool.send_bytes(pickle.dumps(Answer()))


def pass_together(call: Call, store: Store, place: str, wait_s: float | None) -> None:
    """Say that this rank has come to a place, and wait so long for the others, if at all."""
    store.set(f"{place} {call.rank}", "")
    if wait_s is not None:
        store.wait([f"{place} {rank}" for rank in range(call.num_ranks)], timedelta(seconds=wait_s))


def forget_what_is_left() -> None:
    """Free the circles of references that hold groups, and spare the next time a look at what stays.

    Each gloo group has three threads; those of its loop wake a hundred times a second until it is freed.
    """
    gc.collect()
    gc.freeze()


def perform(call: Call, world: Store) -> bytes:
    """Join the world of the call, which is new so that no group outlives it; return the pickled result."""
    dist.init_process_group(
        "gloo",
        store=world,
        rank=call.rank,
        world_size=call.num_ranks,
        timeout=timedelta(seconds=call.timeout_s),
    )
    pass_together(call, world, "joined", call.timeout_s)
    function, arguments = pickle.loads(call.work)
    return pickle.dumps(function(RankContext(call.rank, call.num_ranks), *arguments))


@contextlib.contextmanager
def clean_room() -> Iterator[None]:
    """Start from the same state whatever ran before, with warnings as errors, and put everything back."""
    environment: dict[str, Any] = dict(os.environ)
    folder, modules_path = os.getcwd(), list(sys.path)
    random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.use_deterministic_algorithms(False)
    torch.set_grad_enabled(True)
    sys.path[:] = modules_path
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)


if __name__ == "__main__":
    # Pickles name this module by its full name; it must not live twice, once as __main__.
    from tests import rank_worker

    rank_worker.serve_nursery(socket.socket(fileno=int(sys.argv[1])))
