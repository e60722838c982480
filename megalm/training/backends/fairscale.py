"""fairscale: stage 1 as OSS with DistributedDataParallel, stage 3 as its FullyShardedDataParallel.

OSS gives each rank whole parameters to update; FSDP cuts each one into flat parts of equal length. Its stage 2
(ShardedDataParallel) is not offered: with gradients dropped as torch does today it loses them without a word.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from megalm.batch import MicroBatch
from megalm.boxes import Box
from megalm.extras import import_extra
from megalm.mesh import Mesh
from megalm.parameters import spec_of
from megalm.recompute import RecomputeConfig
from megalm.run_config import RunConfig
from megalm.training.backends.fairscale_cpu import let_run_on_cpu
from megalm.training.backends.foreign import (
    Foreign,
    Share,
    adamw_options,
    by_decay,
    flat_shares,
    make_moments,
    set_rate,
    set_steps,
)
from megalm.training.model import Part, model_positions

ASKED_BY = "zero.backend: fairscale"
OLD_NAMES = (
    *("`torch.distributed._reduce_scatter_base`", "`torch.distributed._all_gather_base`"),
    *("`torch.distributed.distributed_c10d._get_global_rank`", "TypedStorage is deprecated"),
)
"""How torch's warnings begin about names that fairscale, which is frozen, still uses; the user cannot mend that."""


class Fairscale(Foreign):
    """What both stages have in common."""

    averages = True

    def recomputed(self, block: nn.Module, config: RecomputeConfig) -> nn.Module:
        """Return the block in fairscale's own wrapper, which may keep the input on the host."""
        wrap = _import("fairscale.nn.checkpoint").checkpoint_wrapper
        wrapped: nn.Module = wrap(block, offload_to_cpu=config.offload == "cpu")
        return wrapped


class Oss(Fairscale):
    """Stage 1: all gradients are summed on all ranks; each rank has the moments of some parameters."""

    def __init__(self, config: RunConfig, mesh: Mesh, part: Part, lr_schedule: Callable[[int], float]) -> None:
        """See the class."""
        super().__init__(config, mesh, part, lr_schedule, owners=[mesh.model, mesh.data])
        oss = _import("fairscale.optim.oss")
        self._replica = DistributedDataParallel(self.whole, process_group=mesh.data.group)
        options = adamw_options(config.optimizer)
        self._optimizer = oss.OSS(by_decay(self.parameters), torch.optim.AdamW, group=mesh.data.group, **options)
        groups = self._optimizer.partition_parameters()[mesh.data.rank]
        self._own = [parameter for group in groups for parameter in group["params"]]
        make_moments(self._optimizer.optim, self._own)

    def learn(self, microbatch: MicroBatch, *, is_last: bool) -> Tensor:
        """Run one micro-batch; gradients are summed over the ranks after the last."""
        with nullcontext() if is_last else self._replica.no_sync():
            loss: Tensor = self._replica(microbatch)
            loss.backward()
        return loss

    def infer(self, microbatch: MicroBatch) -> Tensor:
        """Return a micro-batch's loss."""
        loss: Tensor = self.whole(microbatch)
        return loss

    def shares(self) -> Iterator[Share]:
        """Yield the parameters that this rank updates, whole."""
        for parameter in self._own:
            kept = self._optimizer.optim.state[parameter]
            box = Box((0,) * parameter.dim(), tuple(parameter.shape))
            moments = {name: moment for name, moment in kept.items() if name != "step"}
            yield Share(spec_of(parameter), box, parameter.detach(), parameter.grad, moments)

    def forget(self) -> None:
        """Drop all gradients."""
        self._replica.zero_grad()

    def change(self, lr: float) -> None:
        """Change this rank's parameters, and give them to the others."""
        set_rate(self._optimizer, lr)
        self._optimizer.step()

    def steps_done(self, count: int) -> None:
        """Tell the optimizer how many updates it has done."""
        set_steps(self._optimizer.optim, count)

    def loaded(self) -> None:
        """Give loaded values to the others."""
        self._optimizer._broadcast_params()


class FullySharded(Fairscale):
    """Stage 3: a block's values are gathered before its forward and before its backward."""

    def __init__(self, config: RunConfig, mesh: Mesh, part: Part, lr_schedule: Callable[[int], float]) -> None:
        """See the class."""
        super().__init__(config, mesh, part, lr_schedule, owners=[mesh.model, mesh.data])
        module = _import("fairscale.nn.data_parallel.fully_sharded_data_parallel")
        if mesh.device.type == "cpu":
            let_run_on_cpu(module)
        options: dict[str, Any] = {
            "process_group": mesh.data.group,
            "process_group_reduce_scatter": mesh.data.group,
            "flatten_parameters": False,  # what decays and what does not must stay apart
            "compute_dtype": self.dtype,
            "compute_device": mesh.device,
        }
        apart = {id(block) for block in self.whole.apart()}
        for number, block in enumerate(self.whole.blocks):
            if id(block) in apart:
                self.whole.blocks[number] = module.FullyShardedDataParallel(block, **options)
        self._sharded = module.FullyShardedDataParallel(self.whole, **options)
        self._optimizer = torch.optim.AdamW(by_decay(self.parameters), **adamw_options(config.optimizer))
        make_moments(self._optimizer, self.parameters)

    def learn(self, microbatch: MicroBatch, *, is_last: bool) -> Tensor:
        """Run one micro-batch; each one's gradients are reduced at once."""
        loss: Tensor = self._sharded(microbatch)
        loss.backward()
        return loss

    def infer(self, microbatch: MicroBatch) -> Tensor:
        """Return a micro-batch's loss."""
        loss: Tensor = self._sharded(microbatch)
        return loss

    def shares(self) -> Iterator[Share]:
        """Yield this rank's flat part of every parameter."""
        for parameter in self.parameters:
            spec = spec_of(parameter)
            moments = {name: each for name, each in self._optimizer.state[parameter].items() if name != "step"}
            local = spec.local_shape(model_positions(self.mesh))
            start = self.mesh.data.rank * parameter.numel()
            yield from flat_shares(spec, local, start, parameter.detach(), parameter.grad, moments)

    def forget(self) -> None:
        """Drop all gradients."""
        self._optimizer.zero_grad()

    def change(self, lr: float) -> None:
        """Change this rank's parts."""
        set_rate(self._optimizer, lr)
        self._optimizer.step()

    def steps_done(self, count: int) -> None:
        """Tell the optimizer how many updates it has done."""
        set_steps(self._optimizer, count)


def _import(module: str) -> Any:
    for beginning in OLD_NAMES:
        warnings.filterwarnings("ignore", beginning)
    return import_extra("fairscale", ASKED_BY, module)
