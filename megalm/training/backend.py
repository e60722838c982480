"""What a step, an evaluation and a checkpoint need of an engine, whichever it is."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from torch import Tensor, nn

from megalm.batch import MicroBatch
from megalm.mesh import Mesh
from megalm.optim.loss_scale import LossScale
from megalm.parallel.data.stored import Stored


class Backend(Protocol):
    """One rank of an engine with its model.

    Attributes:
        mesh: this rank's axes.
        model: the whole model; what other ranks hold may have no memory.
        loss_scale: what losses are multiplied by before the backward; what ``run`` and ``clip`` return is without it.
        step: steps done.
        updates: updates done; fewer than steps where some were skipped.
    """

    mesh: Mesh
    model: nn.Module
    loss_scale: LossScale
    step: int
    updates: int

    @property
    def lr_schedule(self) -> Callable[[int], float]:
        """The learning rate of a 0-based step."""

    def run(self, microbatches: Sequence[MicroBatch]) -> Tensor:
        """Forward, backward and exchange; return this rank's share of the global batch's loss, of each micro-batch.

        Returns:
            float64 [micro-batches].
        """

    def clip(self) -> float:
        """Scale all gradients so that their global norm is at most the configured one; return the norm before."""

    def update(self, lr: float) -> None:
        """Change all values by their gradients."""

    def evaluate(self, microbatches: Sequence[MicroBatch]) -> Tensor:
        """Return this rank's share of the losses' sum, without learning from it."""

    def not_finite(self) -> list[str]:
        """Return the names of parameters whose gradient, as far as this rank owns it, is not finite."""

    def stored(self, *, weights_only: bool = False) -> Iterator[Stored]:
        """Yield every parameter, and every tensor that the optimizer keeps for it, as this rank owns them."""

    def loaded(self) -> None:
        """Use what was written into the stored tensors: give it to all ranks that keep it."""
