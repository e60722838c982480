"""One rank joins the others: threads, allocator, and torch's process group."""

import os
from datetime import timedelta

import torch
import torch.distributed as dist

from megalm.errors import UserError
from megalm.launcher.allocator import keep_memory
from megalm.launcher.placement import Placement
from megalm.launcher.threads import threads_per_rank
from megalm.watch.marker import Marker


def start(
    placement: Placement,
    device_type: str,
    timeout_s: float,
    marker: Marker | None = None,
    *,
    keep_large: bool = True,
) -> None:
    """Make this process ready to compute and, in a run of several, join the default process group.

    Args:
        placement: which rank this is, and where the ranks meet.
        device_type: ``cpu`` (gloo) or ``cuda`` (nccl, and gloo for bookkeeping).
        timeout_s: how long the ranks wait for one another, here and in each collective.
        marker: where this rank marks that it waits for the others.
        keep_large: whether large blocks of memory are kept for the next step; see ``keep_memory``.

    Raises:
        UserError: the ranks do not meet.
    """
    keep_memory(large=keep_large)
    if placement.launcher == "slurm" and "SLURM_CPUS_PER_TASK" in os.environ:
        torch.set_num_threads(int(os.environ["SLURM_CPUS_PER_TASK"]))
    elif placement.launcher == "torchrun" or "OMP_NUM_THREADS" not in os.environ:  # torchrun sets 1 unasked
        torch.set_num_threads(threads_per_rank(placement.local_world_size))
    if device_type == "cuda":
        torch.cuda.set_device(placement.local_rank)
    if placement.world_size == 1:
        return
    timeout = timedelta(seconds=timeout_s)
    channel = (marker or Marker()).channel("world", tuple(range(placement.world_size)))
    begun = None if channel is None else channel.begin("rendezvous")
    if begun is not None:
        begun.wait()
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            placement.master_addr,
            placement.master_port,
            placement.world_size,
            is_master=placement.rank == 0 and not _agent_holds_store(),
            timeout=timeout,
            master_listen_fd=placement.listen_fd,
        )
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo",  # bookkeeping numbers stay on the CPU
            store=dist.PrefixStore("megalm", store),  # type: ignore[attr-defined]
            rank=placement.rank,
            world_size=placement.world_size,
            timeout=timeout,
        )
    except (dist.DistError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"rank {placement.rank} did not meet the other {placement.world_size - 1} at {placement.master_addr}:"
            f"{placement.master_port} ({reason}); look at MASTER_ADDR, MASTER_PORT and run.timeout."
        ) from error
    if begun is not None:
        begun.done()


def stop() -> None:
    """Leave the default process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _agent_holds_store() -> bool:
    """Whether torchrun's agent listens on the port already."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
