"""torch's ZeroRedundancyOptimizer with DistributedDataParallel: stage 1 as torch has it."""

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from megalm.batch import MicroBatch
from megalm.boxes import Box
from megalm.mesh import Axis, Mesh
from megalm.optim.lr_schedule import lr_schedule
from megalm.parameters import spec_of
from megalm.run_config import RunConfig
from megalm.training.backends.foreign import Foreign, Share, adamw_options, by_decay, set_rate
from megalm.training.model import build_part


class ZeroRedundancy(Foreign):
    """All gradients on all ranks; each rank updates some parameters, and gives them to the others."""

    averages = True

    def __init__(self, config: RunConfig, mesh: Mesh) -> None:
        """See the class."""
        part = build_part(config, mesh, [0], None)
        schedule = lr_schedule(config.lr_schedule, config.optimizer.lr, config.train.steps)
        owners: list[Axis] = [mesh.model]  # every rank has, and clips, all gradients
        super().__init__(config, mesh, part, schedule, owners)
        self._replica = DistributedDataParallel(self.whole, process_group=mesh.data.group)
        self._optimizer = ZeroRedundancyOptimizer(
            by_decay(self.parameters), torch.optim.AdamW, mesh.data.group, **adamw_options(config.optimizer)
        )

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
        """Yield every parameter, whole; nothing is saved of a benchmark."""
        for parameter in self.parameters:
            box = Box((0,) * parameter.dim(), tuple(parameter.shape))
            yield Share(spec_of(parameter), box, parameter.detach(), parameter.grad, {})

    def forget(self) -> None:
        """Drop all gradients."""
        self._replica.zero_grad()

    def change(self, lr: float) -> None:
        """Change this rank's parameters, and give them to the others."""
        set_rate(self._optimizer, lr)
        self._optimizer.step()

    def steps_done(self, count: int) -> None:
        """Nothing is resumed in a benchmark."""
