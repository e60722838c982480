"""Executes a program over a stage."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from megalm.batch import MicroBatch
from megalm.parallel.pipeline.action import Kind
from megalm.parallel.pipeline.program import Program
from megalm.parallel.pipeline.stage import Stage


class Engine:
    """Runs one rank's list of actions.

    Args:
        stage: the rank's span of blocks.
        reduce: starts the sum of one block's gradients over the data ranks; how is the data engine's business.
        finish: returns when all started sums are in place.
    """

    def __init__(self, stage: Stage, reduce: Callable[[int], None], finish: Callable[[], None]) -> None:
        """See the class."""
        self.stage = stage
        self._reduce = reduce
        self._finish = finish

    def run(self, program: Program, microbatches: Sequence[MicroBatch]) -> Tensor:
        """Execute the program and return this rank's share of the global batch's loss, a float64 scalar."""
        loss = torch.zeros((), dtype=torch.float64)
        for action in program:
            match action.kind:
                case Kind.FORWARD:
                    assert action.microbatch is not None
                    loss = loss + self.stage.forward(action.microbatch, microbatches[action.microbatch]).double().cpu()
                case Kind.BACKWARD:
                    assert action.microbatch is not None
                    self.stage.backward(action.microbatch, action.block)
                case Kind.REDUCE:
                    assert action.block is not None
                    self._reduce(action.block)
        self._finish()
        return loss
