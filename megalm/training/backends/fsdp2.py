"""torch's FSDP2 (``fully_shard``): each parameter cut by rows over the data axis, gathered block by block."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from megalm.batch import MicroBatch
from megalm.boxes import Box
from megalm.mesh import Mesh
from megalm.parameters import spec_of
from megalm.run_config import RunConfig
from megalm.training.backends.foreign import (
    Foreign,
    Share,
    adamw_options,
    by_decay,
    make_moments,
    set_rate,
    set_steps,
)
from megalm.training.model import Part


class Fsdp2(Foreign):
    """FSDP2 with torch's AdamW on its shards.

    A block's values are gathered before its forward; stage 3 gives them back after it and gathers them again before
    its backward, stage 2 keeps them. Blocks that share a parameter (a tied table) stay together, gathered throughout.
    """

    averages = False

    def __init__(self, config: RunConfig, mesh: Mesh, part: Part, lr_schedule: Callable[[int], float]) -> None:
        """See the class."""
        super().__init__(config, mesh, part, lr_schedule, owners=[mesh.model, mesh.data])
        assert mesh.data.group is not None
        over = DeviceMesh.from_group(mesh.data.group, mesh.device.type, mesh_dim_names=("data",))
        specs = {name: spec_of(parameter) for name, parameter in self.whole.named_parameters()}
        for module in (*self.whole.apart(), self.whole):
            sharded = fully_shard(module, mesh=over, reshard_after_forward=config.zero.stage == 3)
            sharded.set_force_sum_reduction_for_comms(True)  # gloo has no other
            sharded.set_gradient_divide_factor(1.0)
        for name, parameter in self.whole.named_parameters():
            parameter.spec = specs[name]  # type: ignore[attr-defined]
        self.parameters = list(self.whole.parameters())
        self._optimizer = torch.optim.AdamW(by_decay(self.parameters), **adamw_options(config.optimizer))
        make_moments(self._optimizer, self.parameters)

    def learn(self, microbatch: MicroBatch, *, is_last: bool) -> Tensor:
        """Run one micro-batch; each one's gradients are reduced at once, so that none is kept whole."""
        assert isinstance(self.whole, FSDPModule)
        self.whole.set_is_last_backward(is_last)
        loss: Tensor = self.whole(microbatch)
        loss.backward()
        return loss

    def infer(self, microbatch: MicroBatch) -> Tensor:
        """Return a micro-batch's loss."""
        loss: Tensor = self.whole(microbatch)
        return loss

    def shares(self) -> Iterator[Share]:
        """Yield this rank's rows of every parameter."""
        for parameter in self.parameters:
            values = _rows(parameter)
            chunk = -(-parameter.shape[0] // self.mesh.data.size)
            first = min(self.mesh.data.rank * chunk, parameter.shape[0])
            kept = self._optimizer.state[parameter]
            yield Share(
                spec_of(parameter),
                Box((first, *[0] * (parameter.dim() - 1)), tuple(values.shape)),
                values,
                None if parameter.grad is None else _rows(parameter.grad),
                {name: _rows(moment) for name, moment in kept.items() if name != "step"},
            )

    def forget(self) -> None:
        """Drop all gradients."""
        self._optimizer.zero_grad()

    def change(self, lr: float) -> None:
        """Change this rank's rows."""
        set_rate(self._optimizer, lr)
        self._optimizer.step()

    def steps_done(self, count: int) -> None:
        """Tell the optimizer how many updates it has done."""
        set_steps(self._optimizer, count)

    def loaded(self) -> None:
        """Give back what evaluation may have left gathered: it is older than what was loaded."""
        for module in self.whole.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def _rows(tensor: Tensor) -> Tensor:
    """Return the local part of a sharded tensor, as live storage without autograd."""
    assert isinstance(tensor, DTensor)
    local: Tensor = tensor.to_local().detach()
    return local
