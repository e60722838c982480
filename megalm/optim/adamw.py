"""AdamW (Loshchilov and Hutter 2019) on torch's fused kernel."""

from collections.abc import Mapping

import torch
from torch import Tensor

from megalm.optim.config import OptimizerConfig


class AdamW:
    """Adam with decoupled weight decay; the moments have the values' dtype."""

    state_names: tuple[str, ...] = ("exp_avg", "exp_avg_sq")

    def __init__(self, config: OptimizerConfig) -> None:
        """Read betas, eps and weight decay."""
        self.config = config

    def update(
        self, values: Tensor, gradients: Tensor, state: Mapping[str, Tensor], *, lr: float, decay: bool, step: int
    ) -> None:
        """Update a flat range in place; see ``ElementRule``."""
        torch._fused_adamw_(
            [values],
            [gradients],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [torch.full((), float(step), device=values.device)],
            lr=lr,
            beta1=self.config.betas[0],
            beta2=self.config.betas[1],
            weight_decay=self.config.weight_decay if decay else 0.0,
            eps=self.config.eps,
            amsgrad=False,
            maximize=False,
        )
