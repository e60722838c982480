"""Updates by an element-wise rule: the longest ranges that decay alike, whatever parameters lie in them."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from megalm.optim.rule import ElementRule
from megalm.parallel.data.bucket import Bucket


class ElementUpdate:
    """Updates what this rank owns.

    Args:
        rule: the update rule.
        buckets: values and complete gradients.
        state: of each bucket, tensors of the owned range by name.
        rates: of each bucket, the factor of its learning rate.
    """

    def __init__(
        self,
        rule: ElementRule,
        buckets: Sequence[Bucket],
        state: Sequence[Mapping[str, Tensor]],
        rates: Sequence[float],
    ) -> None:
        """See the class."""
        self._rule, self._buckets, self._state, self._rates = rule, buckets, state, rates

    def __call__(self, lr: float, step: int) -> None:
        """Make update number ``step``, from 1."""
        for bucket, state, rate in zip(self._buckets, self._state, self._rates, strict=True):
            for decay, span in bucket.segments():
                self._rule.update(
                    bucket.owned_values[span],
                    bucket.owned_gradients[span],
                    {name: tensor[span] for name, tensor in state.items()},
                    lr=lr * rate,
                    decay=decay,
                    step=step,
                )
