"""Stochastic gradient descent with momentum (Sutskever et al. 2013) on torch's fused kernel."""

from collections.abc import Mapping

import torch
from torch import Tensor

from megalm.optim.config import OptimizerConfig


class Sgd:
    """Steps along a running sum of gradients that forgets; the sum is torch's: momentum x sum + gradient.

    Weight decay is torch's too: it is added to the gradient, and so enters the sum. Without momentum nothing is kept.
    """

    def __init__(self, config: OptimizerConfig) -> None:
        """Read momentum and weight decay."""
        self.config = config
        self.state_names: tuple[str, ...] = ("momentum_buffer",) if config.momentum else ()

    def update(
        self, values: Tensor, gradients: Tensor, state: Mapping[str, Tensor], *, lr: float, decay: bool, step: int
    ) -> None:
        """Update a flat range in place; see ``ElementRule``."""
        torch._fused_sgd_(
            [values],
            [gradients],
            [state[name] for name in self.state_names],
            lr=lr,
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay if decay else 0.0,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,  # the sum begins at 0, so the first one is the gradient
        )
