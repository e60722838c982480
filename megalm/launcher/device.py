"""Which kind of device a run computes on, and which GPU is a rank's own.

A launcher gives GPUs in one of two styles: every rank sees all GPUs of its machine and takes the one of its number, or
each sees its own alone, as with Slurm's ``--gpus-per-task``, which is then its GPU 0.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch

from megalm.errors import UserError
from megalm.launcher.roll_call import Present


class DeviceChoice(NamedTuple):
    """What ``choose`` decided.

    Args:
        type: ``cpu`` or ``cuda``.
        message: one line that says why.
    """

    type: str
    message: str


def num_gpus() -> int:
    """Return how many GPUs this process sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def own_index(local_rank: int, local_world_size: int) -> int:
    """Return which of the GPUs that it sees is this rank's: with too few for all, they can only be its own."""
    return local_rank if num_gpus() >= local_world_size else 0


def own_gpu(device: str, local_rank: int, local_world_size: int) -> str:
    """Return what tells this rank's GPU from all others of the machine; empty without one.

    Args:
        device: ``run.device``; with ``cpu`` no GPU is looked at.
        local_rank: this rank's number on its machine.
        local_world_size: ranks on this machine.
    """
    if device == "cpu" or not num_gpus():
        return ""
    return str(torch.cuda.get_device_properties(own_index(local_rank, local_world_size)).uuid)


def choose(device: str, roll: Sequence[Present]) -> DeviceChoice:
    """Return the device type of all ranks: CUDA only if there is a GPU for each.

    Args:
        device: ``run.device``: auto, cpu or cuda.
        roll: what each rank sees.

    Raises:
        UserError: cuda was asked for and there are not enough GPUs, or only some of the machines have enough.
    """
    if device == "cpu":
        return DeviceChoice("cpu", "device: cpu, as run.device says")
    ranks = Counter(present.host for present in roll)
    gpus: dict[str, set[str]] = {host: set() for host in ranks}
    visible: Counter[str] = Counter()
    for present in roll:
        gpus[present.host] |= {present.gpu} - {""}
        visible[present.host] = max(visible[present.host], present.visible)
    have = {host: f"GPUs: {max(len(gpus[host]), visible[host])}, ranks: {ranks[host]}" for host in ranks}
    lacking = [host for host in ranks if len(gpus[host]) < ranks[host]]
    first = roll[0].host
    if not lacking:
        return DeviceChoice("cuda", f"device: cuda ({have[first]})")
    if device == "cuda":
        raise UserError(
            f"run.device=cuda, but {lacking[0]} has {have[lacking[0]]}; start fewer ranks there or use run.device=cpu."
        )
    if len(lacking) < len(ranks):
        raise UserError(
            f"{lacking[0]} has {have[lacking[0]]}, while {len(ranks) - len(lacking)} of the {len(ranks)} machines have "
            "a GPU for each rank; mend it, leave it out, or use run.device=cpu."
        )
    return DeviceChoice("cpu", f"device: cpu ({have[first]})")
