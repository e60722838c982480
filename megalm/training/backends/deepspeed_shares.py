"""Where DeepSpeed keeps what a rank owns: flat partitions of groups of parameters, seen as shares of each parameter."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from megalm.mesh import Mesh
from megalm.parameters import spec_of
from megalm.training.backends.deepspeed_nvme import in_memory
from megalm.training.backends.foreign import MOMENTS, Share, flat_shares
from megalm.training.model import model_positions


def shares_of_stages_1_and_2(optimizer: Any) -> Iterator[Share]:
    """Yield what this rank owns: of each group of parameters, laid one after the other, one range.

    Args:
        optimizer: DeepSpeed's, for the stages 1 and 2.
    """
    for group, parameters in enumerate(optimizer.bit16_groups):
        flat = optimizer.single_partition_of_fp32_groups[group]
        reduced = {} if optimizer.cpu_offload else _reduced(optimizer, group)
        for parameter in parameters:
            found = parameter._hp_mapping
            if found is None:
                continue
            at = slice(
                found.hp_fragment_address.start, found.hp_fragment_address.start + found.hp_fragment_address.numel
            )
            gradient = reduced.get(id(parameter))
            if optimizer.cpu_offload and flat.grad is not None:
                gradient = flat.grad[at]
            yield from flat_shares(
                spec_of(parameter),
                parameter.shape,
                found.lp_fragment_address.start,
                flat.detach()[at],
                gradient,
                {name: optimizer.optimizer.state[flat][name][at] for name in MOMENTS},
            )


def _reduced(optimizer: Any, group: int) -> dict[int, Tensor]:
    """Return the flat reduced gradients of a group by the identity of their parameters; none before a step's last."""
    pieces = optimizer.averaged_gradients.get(group) or []
    gradients = [piece for piece in pieces if not getattr(piece, "_zero_padding", False)]
    owned = optimizer.params_in_partition[group]
    return {id(parameter): piece.view(-1) for parameter, piece in zip(owned, gradients, strict=False)}


def shares_of_stage_3(optimizer: Any, mesh: Mesh) -> Iterator[Share]:
    """Yield what this rank owns, the shares of each group while it is in memory.

    Args:
        optimizer: DeepSpeed's, for stage 3.
        mesh: this rank's axes.
    """
    for group in range(len(optimizer.fp16_groups)):
        with in_memory(optimizer, group):
            yield from shares_of_group(optimizer, group, mesh)


def shares_of_group(optimizer: Any, group: int, mesh: Mesh) -> Iterator[Share]:
    """Yield what this rank owns of a group: of each parameter one range, those of all ranks equal, the last one padded.

    Args:
        optimizer: DeepSpeed's, for stage 3.
        group: its position; it is in memory.
        mesh: this rank's axes.
    """
    flat = optimizer.fp32_partitioned_groups_flat[group]
    reduced = optimizer.averaged_gradients.get(group)
    for number, parameter in enumerate(optimizer.fp16_groups[group]):
        _, start, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
        at = slice(start, start + size)
        gradient = None if reduced is None else reduced[number].view(-1)
        if optimizer.offload_optimizer and flat.grad is not None:
            gradient = flat.grad[at]
        spec = spec_of(parameter)
        yield from flat_shares(
            spec,
            spec.local_shape(model_positions(mesh)),
            mesh.data.rank * size,
            flat.detach()[at],
            gradient,
            {name: optimizer.optimizer.state[flat][name][at] for name in MOMENTS},
        )
