"""One rank joins the others: threads, allocator, device, and torch's process group."""

import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from megalm.errors import UserError
from megalm.launcher import device as devices
from megalm.launcher.allocator import keep_memory
from megalm.launcher.device import DeviceChoice
from megalm.launcher.meeting import attempt, prepare
from megalm.launcher.nodes import check_hosts
from megalm.launcher.placement import Placement
from megalm.launcher.roll_call import Present, Store, roll_call
from megalm.launcher.threads import threads_per_rank
from megalm.launcher.torchrun.notes import FOLDER
from megalm.watch.marker import Marker


def start(
    placement: Placement,
    device: str,
    timeout_s: float,
    patience_s: float | None = None,
    marker: Marker | None = None,
    *,
    together: int = 1,
    keep_large: bool = True,
) -> DeviceChoice:
    """Make this process ready to compute and, in a run of several, join the default process group.

    Args:
        placement: which rank this is, and where the ranks meet.
        device: ``run.device``: ``cpu`` (gloo), ``cuda`` (nccl, and gloo for bookkeeping), or ``auto``.
        timeout_s: how long the ranks wait for one another here.
        patience_s: how long they do in each collective; as long if it is left out.
        marker: where this rank marks that it waits for the others.
        together: how many neighbouring ranks at a time must share a machine.
        keep_large: whether large blocks of memory are kept for the next step; see ``keep_memory``.

    Returns:
        The device that all ranks compute on.

    Raises:
        UserError: the ranks do not meet, or not on machines that suit the run.
    """
    keep_memory(large=keep_large)
    if placement.launcher == "slurm" and "SLURM_CPUS_PER_TASK" in os.environ:
        torch.set_num_threads(int(os.environ["SLURM_CPUS_PER_TASK"]))
    elif "OMP_NUM_THREADS" not in os.environ or (placement.launcher == "torchrun" and FOLDER not in os.environ):
        # a torchrun that megalm has not started sets 1 unasked
        torch.set_num_threads(threads_per_rank(placement.local_world_size))
    timeout = timedelta(seconds=timeout_s)
    channel = (marker or Marker()).channel("world", tuple(range(placement.world_size)))
    begun = None if channel is None else channel.begin("rendezvous")
    if begun is not None:
        begun.wait()
    try:
        store = _meet(placement, timeout) if placement.world_size > 1 else None
        choice = _choose(store, placement, device, together)
        if choice.type == "cuda":
            torch.cuda.set_device(devices.own_index(placement.local_rank, placement.local_world_size))
        if store is not None:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if choice.type == "cuda" else "gloo",  # bookkeeping numbers stay on the CPU
                store=store,
                rank=placement.rank,
                world_size=placement.world_size,
                timeout=timeout if patience_s is None else timedelta(seconds=patience_s),
            )
    except (dist.DistError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"rank {placement.rank} did not meet the other {placement.world_size - 1} at {placement.master_addr}:"
            f"{placement.master_port} ({reason}); look at MASTER_ADDR, MASTER_PORT and run.timeout."
        ) from error
    if begun is not None:
        begun.done()
    return choice


def stop() -> None:
    """Leave the default process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _meet(placement: Placement, timeout: timedelta) -> Any:  # a store, whose type torch does not name in public
    meeting = prepare(placement, os.environ)
    os.environ.update(meeting.variables)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        meeting.address,
        meeting.port,
        placement.world_size,
        is_master=meeting.listen_fd is not None,
        timeout=timeout,
        master_listen_fd=meeting.listen_fd,
    )
    return dist.PrefixStore(f"megalm/{attempt(os.environ)}", store)  # type: ignore[attr-defined]


def _choose(store: Store | None, placement: Placement, device: str, together: int) -> DeviceChoice:
    """Return the device of all ranks, which rank 0 chooses once it knows where they are and what they see."""

    def judge(roll: Sequence[Present]) -> DeviceChoice:
        check_hosts([present.host for present in roll], together)
        return devices.choose(device, roll)

    gpu = devices.own_gpu(device, placement.local_rank, placement.local_world_size)
    present = Present(socket.gethostname(), devices.num_gpus(), gpu)
    return DeviceChoice(*roll_call(store, placement, present, judge))
