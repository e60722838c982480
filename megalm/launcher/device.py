"""Which kind of device a run computes on."""

from typing import NamedTuple

import torch

from megalm.errors import UserError


class DeviceChoice(NamedTuple):
    """What ``choose`` decided.

    Args:
        type: ``cpu`` or ``cuda``.
        message: one line that says why.
    """

    type: str
    message: str


def choose(device: str, local_world_size: int) -> DeviceChoice:
    """Return the device type of every rank on this machine: CUDA only if there is a GPU for each.

    Args:
        device: ``run.device``: auto, cpu or cuda.
        local_world_size: ranks on this machine.

    Raises:
        UserError: cuda was asked for and there are not enough GPUs.
    """
    if device == "cpu":
        return DeviceChoice("cpu", "device: cpu, as run.device says")
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    have = f"GPUs: {num_gpus}, ranks: {local_world_size}"
    if num_gpus >= local_world_size:
        return DeviceChoice("cuda", f"device: cuda ({have})")
    if device == "cuda":
        raise UserError(f"run.device=cuda, but this machine has {have}; start fewer ranks or use run.device=cpu.")
    return DeviceChoice("cpu", f"device: cpu ({have})")
