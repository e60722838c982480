"""LAMB (You et al. 2020): AdamW's direction, as long as the parameter's own norm says."""

from collections.abc import Mapping

import torch
from torch import Tensor

from megalm.optim.config import OptimizerConfig


class Lamb:
    """AdamW's move scaled, matrix by matrix, by the norm of the values over the norm of the move.

    The direction is u = m_hat / (sqrt(v_hat) + eps) + weight_decay * w, with bias correction as in the paper's
    algorithm 2 and without a bound on the norms. You et al., "Large Batch Optimization for Deep Learning: Training
    BERT in 76 minutes", 2020.
    """

    state_names: tuple[str, ...] = ("exp_avg", "exp_avg_sq")

    def __init__(self, config: OptimizerConfig) -> None:
        """Read betas, eps and weight decay."""
        self.config = config

    def turn(self, gradients: Tensor, values: Tensor, state: Mapping[str, Tensor], *, decay: bool, step: int) -> None:
        """Make the gradients -u; see ``LayerRule``.

        It is where a step of AdamW leads to with a learning rate of 1 and a decay of 1, which takes off what it began
        from. So it may begin from the gradients themselves: the kernel reads an element before it writes it.
        """
        torch._fused_adamw_(
            [gradients],
            [gradients],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [torch.full((), float(step), device=gradients.device)],
            lr=1.0,
            beta1=self.config.betas[0],
            beta2=self.config.betas[1],
            weight_decay=1.0,
            eps=self.config.eps,
            amsgrad=False,
            maximize=False,
        )
        if decay:
            gradients.add_(values, alpha=-self.config.weight_decay)

    def ratio(self, value_norm: float, move_norm: float) -> float:
        """Return the paper's trust ratio; 1 where either norm is 0."""
        return value_norm / move_norm if value_norm and move_norm else 1.0
