"""What all foreign engines have in common: the loss they are given, the norm they clip by, what is saved of them.

An engine keeps and exchanges values, gradients and moments in its own way; here they are seen as *shares*, boxes of
whole parameters, so that a gradient norm counts each element once and a checkpoint does not know the engine. Their
collectives are their own: the ledger does not see them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from megalm import collectives
from megalm.batch import MicroBatch
from megalm.boxes import Box, boxes
from megalm.mesh import Axis, Mesh
from megalm.optim.config import OptimizerConfig
from megalm.optim.loss_scale import LossScale
from megalm.optim.optimizer import CLIP_EPS
from megalm.parallel.data.stored import Stored
from megalm.param_spec import ParamSpec
from megalm.parameters import spec_of
from megalm.recompute import RecomputeConfig
from megalm.run_config import RunConfig
from megalm.training import stored
from megalm.training.backends.whole import Recomputed, Whole, check_fit
from megalm.training.model import Part, model_positions

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps for each parameter; torch's names are ours."""


@dataclass(frozen=True)
class Share:
    """What this rank owns of one parameter: a box of its slice.

    Args:
        spec: of the parameter.
        box: by offsets in this rank's slice.
        values: in the box's shape, views of live storage like all that follows.
        gradient: ``None`` where there is none, or where the engine does not show it.
        moments: by name.
    """

    spec: ParamSpec
    box: Box
    values: Tensor
    gradient: Tensor | None
    moments: Mapping[str, Tensor]


class Foreign(ABC):
    """One rank of a foreign engine; see ``Backend``.

    Args:
        config: the run.
        mesh: this rank's axes.
        part: the model, in memory of its own, pipeline of one rank.
        lr_schedule: learning rate of a 0-based step.
        averages: whether the engine divides sums of gradients by the data ranks: losses are multiplied by as many, so
            that what comes out is the sum that our losses, divided by the tokens of the global batch, ask for.
        owners: the axes whose ranks own other elements each.
    """

    averages: bool

    def __init__(
        self,
        config: RunConfig,
        mesh: Mesh,
        part: Part,
        lr_schedule: Callable[[int], float],
        owners: Sequence[Axis],
    ) -> None:
        """See the class."""
        self.mesh, self.model, self.lr_schedule, self.step = mesh, part.model, lr_schedule, 0
        self.loss_scale = LossScale.of(config.train.precision)
        self.parameters = part.held.parameters()
        check_fit(self.parameters, config.zero.backend)
        self.whole = Whole(
            [
                self.recomputed(block, config.recompute) if block in part.recomputed else block
                for block in part.held.blocks()
            ]
        )
        self.clip_grad_norm = config.optimizer.clip_grad_norm
        self._updates = 0
        self._buffers = list(stored.unlearned(part.model, part.held))
        self._owners = owners
        self._factor = mesh.data.size if self.averages else 1

    def recomputed(self, block: nn.Module, config: RecomputeConfig) -> nn.Module:
        """Return a block that keeps only its input between its forward and its backward."""
        return Recomputed(block)

    @abstractmethod
    def learn(self, microbatch: MicroBatch, *, is_last: bool) -> Tensor:
        """Run one micro-batch forward and backward and return its loss; after the last, gradients are complete."""

    @abstractmethod
    def infer(self, microbatch: MicroBatch) -> Tensor:
        """Return a micro-batch's loss; no gradients are wanted."""

    @abstractmethod
    def shares(self) -> Iterator[Share]:
        """Yield what this rank owns of every parameter; each is good until the next one is asked for."""

    def lasting_shares(self) -> Iterator[Share]:
        """Yield what this rank owns, to be read or filled by a checkpoint, at the latest when ``loaded`` is called."""
        return self.shares()

    @abstractmethod
    def forget(self) -> None:
        """Drop all gradients: of the step before, or of one that is not to be made."""

    @abstractmethod
    def change(self, lr: float) -> None:
        """Change all values by their gradients."""

    @abstractmethod
    def steps_done(self, count: int) -> None:
        """Tell the optimizer how many updates it has done."""

    @property
    def updates(self) -> int:
        """Updates done."""
        return self._updates

    @updates.setter
    def updates(self, count: int) -> None:
        self._updates = count
        self.steps_done(count)

    def run(self, microbatches: Sequence[MicroBatch]) -> Tensor:
        """Forward, backward and exchange."""
        self.forget()
        losses = torch.zeros(len(microbatches), dtype=torch.float64)
        for number, microbatch in enumerate(microbatches):
            scaled = microbatch.scaled(self._factor)
            losses[number] = self.learn(scaled, is_last=number == len(microbatches) - 1).detach()
        return losses / self._factor

    @torch.no_grad()
    def evaluate(self, microbatches: Sequence[MicroBatch]) -> Tensor:
        """Return this rank's share of the losses' sum."""
        total = torch.zeros((), dtype=torch.float64)
        for microbatch in microbatches:
            total += self.infer(microbatch).double().cpu()
        return total

    def clip(self) -> float:
        """Scale what this rank owns of the gradients, and return the global norm before."""
        norm = self._grad_norm()
        scale = self.clip_grad_norm / (norm + CLIP_EPS)
        if self.clip_grad_norm and math.isfinite(norm) and scale < 1:
            for share in self.shares():
                if share.gradient is not None:
                    share.gradient.mul_(scale)
        return norm

    def _grad_norm(self) -> float:
        total = torch.zeros((), dtype=torch.float64)
        for share in self.shares():
            counted = share.spec.owned_slices(model_positions(self.mesh))
            part = None if counted is None else share.box.within(counted)
            if part is not None and share.gradient is not None:
                total += torch.linalg.vector_norm(share.gradient[part.slices()]).double().square().cpu()
        for axis in self._owners:
            collectives.all_reduce(total, axis, scalar=True)
        return math.sqrt(total.item())

    def update(self, lr: float) -> None:
        """Change all values by their gradients."""
        self._updates += 1
        self.change(lr)

    def not_finite(self) -> list[str]:
        """Return the names of parameters whose gradient, as far as this rank owns and sees it, is not finite."""
        return [
            share.spec.name
            for share in self.shares()
            if share.gradient is not None and not share.gradient.isfinite().all()
        ]

    def stored(self, *, weights_only: bool = False) -> Iterator[Stored]:
        """Yield what a checkpoint holds of this rank, under the names that our own engine gives it."""
        yield from self._buffers
        found: dict[str, Stored] = {}
        for parameter in self.parameters:
            for prefix in ("",) if weights_only else ("", *(f"optimizer.{name}." for name in MOMENTS)):
                spec = spec_of(parameter)
                found[prefix + spec.name] = Stored(prefix + spec.name, spec, self.dtype, [])
        for share in self.lasting_shares():
            found[share.spec.name].boxes.append((share.box, share.values))
            for name, moment in {} if weights_only else share.moments.items():
                found[f"optimizer.{name}.{share.spec.name}"].boxes.append((share.box, moment))
        yield from found.values()

    @property
    def dtype(self) -> torch.dtype:
        """Of values and moments."""
        return self.parameters[0].dtype

    def loaded(self) -> None:
        """Give loaded values to the ranks that keep them; nothing is to be done where each keeps its own only."""
        return


def by_decay(parameters: Sequence[nn.Parameter]) -> list[dict[str, object]]:
    """Return the groups that torch's optimizers take: what decays, and what does not."""
    decaying = [parameter for parameter in parameters if spec_of(parameter).decay]
    others = [parameter for parameter in parameters if not spec_of(parameter).decay]
    groups: list[dict[str, object]] = [{"params": decaying}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw_options(config: OptimizerConfig) -> dict[str, Any]:
    """Return what torch's AdamW takes beside its parameters; the rate is set at each update."""
    betas = (config.betas[0], config.betas[1])
    return {"lr": 0.0, "betas": betas, "eps": config.eps, "weight_decay": config.weight_decay, "fused": True}


def make_moments(optimizer: torch.optim.Optimizer, values: Sequence[Tensor]) -> None:
    """Make the moments at once, where torch's AdamW would make them at its first update: a checkpoint fills them.

    Args:
        optimizer: an AdamW.
        values: what it changes on this rank.
    """
    for each in values:
        optimizer.state[each] = {
            "step": torch.zeros((), dtype=torch.float32, device=each.device),
            **{name: torch.zeros_like(each, requires_grad=False) for name in MOMENTS},
        }


def set_steps(optimizer: torch.optim.Optimizer, count: int) -> None:
    """Write the number of updates done into the state of torch's AdamW."""
    for kept in optimizer.state.values():
        kept["step"].fill_(count)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the next update."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def flat_shares(
    spec: ParamSpec,
    local_shape: Sequence[int],
    start: int,
    values: Tensor,
    gradient: Tensor | None,
    moments: Mapping[str, Tensor],
) -> Iterator[Share]:
    """Yield the shares that make up a flat range of a parameter.

    Args:
        spec: of the parameter.
        local_shape: of this rank's slice.
        start: where the range begins in the flat slice.
        values: flat, the range and perhaps padding after it; so are the others.
        gradient: or ``None``.
        moments: by name.
    """
    first = 0
    for box in boxes(local_shape, start, min(start + values.numel(), math.prod(local_shape))):
        part = slice(first, first + box.num_elements)
        yield Share(
            spec,
            box,
            values[part].view(box.sizes),
            None if gradient is None else gradient[part].view(box.sizes),
            {name: moment[part].view(box.sizes) for name, moment in moments.items()},
        )
        first = part.stop
