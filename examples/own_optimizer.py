"""An update rule of your own: RMSprop with momentum (Hinton 2012), its weight decay apart from the gradient.

Name it in a run file, and run the command where this file can be imported::

    optimizer: {name: "examples.own_optimizer:RmsProp", lr: 1.0e-3, options: {momentum: 0.9}}

A rule sees flat ranges of whatever parameters it is given, so it must treat every element alike and by itself. Then the
layout cannot change its result, and clipping, the schedule, checkpoints and resuming need nothing from it.
A rule that needs the norms of whole matrices has ``turn`` and ``ratio`` instead of ``update``: see
``megalm/optim/lamb.py``.
"""

from collections.abc import Mapping

from torch import Tensor

from megalm.optim.config import OptimizerConfig


class RmsProp:
    """Gradients divided by the root of their running mean square, summed into a momentum.

    Args:
        config: the ``optimizer`` section: ``eps``, ``weight_decay`` and the second of ``betas``, which is how slowly
            the mean square forgets; ``options.momentum`` is this rule's own key.
    """

    state_names = ("square_avg", "momentum")
    """What is kept between updates, each of the parameters' shape and zero at first; checkpoints hold it by name."""

    def __init__(self, config: OptimizerConfig) -> None:
        self.keep = config.betas[1]
        self.momentum = config.options.get("momentum", 0.9)
        self.eps = config.eps
        self.weight_decay = config.weight_decay

    def update(
        self, values: Tensor, gradients: Tensor, state: Mapping[str, Tensor], *, lr: float, decay: bool, step: int
    ) -> None:
        """Change ``values`` and ``state`` in place.

        Args:
            values: flat, the parameters of one range.
            gradients: flat, summed over all ranks and clipped.
            state: the tensors of ``state_names``.
            lr: from the schedule.
            decay: whether the range's parameters decay: matrices do, norms and biases do not.
            step: number of this update, from 1; this rule does not need it.
        """
        square_avg, momentum = state["square_avg"], state["momentum"]
        square_avg.mul_(self.keep).addcmul_(gradients, gradients, value=1 - self.keep)
        momentum.mul_(self.momentum).addcdiv_(gradients, square_avg.sqrt().add_(self.eps))
        if decay:
            values.mul_(1 - lr * self.weight_decay)
        values.add_(momentum, alpha=-lr)
